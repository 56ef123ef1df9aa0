"""A firewall's rules, seen from other addresses: a network namespace visits what an agent's rules publish."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_bed import Program
from peers_bed import Site, curl, running
from testbed import free_port, require_peer, until
from testbed.network import Neighbour, neighbour
from testbed.origin import Origin, Request
from testbed.pem import write_pair

pytestmark = [pytest.mark.timeout(120)]

NAME = "shop.example.test"
LET_IN, SHUT_OUT = 2, 3  # the last numbers of the neighbour's two addresses
# curl's exit codes: nothing was answered, or the connection was reset (curl's manual page, EXIT CODES).
HANDSHAKE_FAILED, EMPTY_REPLY, RECEIVE_FAILED = 35, 52, 56
ASK_BY_UDP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(2)
    asking.bind((sys.argv[3], 0))
    asking.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
    try:
        print(asking.recv(100).decode())
    except TimeoutError:
        print("nothing")
"""


@dataclass
class Street:
    """A node for everybody, an agent beside it, and a neighbour with several addresses."""

    there: Neighbour
    site: Site
    origin: Origin
    asked: list[str]
    api_port: int

    def api(self, path: str, **body: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.api_port}/api/client/v1.0/{path}"
        response = httpx.post(url, json=body, trust_env=False, timeout=30)
        answered: dict[str, Any] = response.json()
        assert answered["status"] is True, answered
        return answered

    def curl(self, source: str, url: str, *more: str) -> "subprocess.CompletedProcess[str]":
        """Visit from one of the neighbour's addresses."""
        command = [*self.there.inside, require_peer("curl"), "-q", "-sS", "-k", "--noproxy", "*", "--max-time", "20"]
        return subprocess.run([*command, "--interface", source, *more, url], capture_output=True, text=True)

    def source(self, last: int) -> str:
        return f"{self.there.network}.{last}"

    def source6(self, last: int) -> str:
        return f"fd00:213::{last}"

    def at_site(self, scheme: str = "http", to: str | None = None) -> tuple[str, ...]:
        where = f"{NAME}:{self.site.port}:{to or self.there.our_address}"
        return (f"{scheme}://{NAME}:{self.site.port}/", "--resolve", where)

    def dropped(self) -> float:
        metrics = httpx.get(f"http://127.0.0.1:{self.site.api_port}/metrics", trust_env=False, timeout=10).text
        (line,) = [line for line in metrics.splitlines() if line.startswith("moongate_firewall_drops_total ")]
        return float(line.split()[1])


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    asked: list[str] = []

    def answer(request: Request) -> None:
        asked.append(request.path)
        request.say(b"welcome")

    api_port, port = free_port(), free_port()
    with neighbour() as there:
        _give_more_addresses(there)
        settings = {"MOONGATE_LISTEN": f"[::]:{port}", "MOONGATE_PLAIN_HTTP": "true"}
        with Site(tmp_path / "home", **settings) as site, Origin(answer) as origin:
            site.port = port
            join = f"@{site.home / 'join'}"
            agent = ["agent", "start", "--server", join, "--api-port", str(api_port), "--home", str(tmp_path / "agent")]
            with running(Program(agent, site.env)) as program:
                street = Street(there, site, origin, asked, api_port)
                until(lambda: _is_connected(street), timeout_s=30, what=f"the agent is connected: {program.err}")
                yield street


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A UDP service that says what it was told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    data, source = sock.recvfrom(2048)
                    sock.sendto(data, source)

        serving = threading.Thread(target=serve)
        serving.start()
        yield sock.getsockname()[1]
        over.set()
        serving.join()


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """A web service that ends TLS itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_pair(tmp_path / "own", NAME))
    with Origin(lambda request: request.say(b"welcome"), tls=context) as origin:
        yield origin.port


def _give_more_addresses(there: Neighbour) -> None:
    """Add an IPv4 address to the neighbour's, and IPv6 on both sides."""
    ip = require_peer("ip")

    def run(*arguments: str) -> str:
        return subprocess.run([ip, *arguments], check=True, capture_output=True, text=True).stdout

    ours = run("-o", "address", "show", "to", there.our_address).split()[1]
    run("-n", there.name, "address", "add", f"{there.network}.{SHUT_OUT}/24", "dev", "uplink")
    run("address", "add", "fd00:213::1/64", "dev", ours, "nodad")
    for last in (LET_IN, SHUT_OUT):
        run("-n", there.name, "address", "add", f"fd00:213::{last}/64", "dev", "uplink", "nodad")


def _is_connected(street: Street) -> bool:
    try:
        url = f"http://127.0.0.1:{street.api_port}/api/client/v1.0/info"
        return bool(httpx.get(url, trust_env=False, timeout=5).json()["isTunConnected"])
    except httpx.HTTPError:
        return False


def _allow(*networks: str) -> list[dict[str, Any]]:
    return [{"sequence": at, "action": "allow", "network": network} for at, network in enumerate(networks)]


def test_a_site_answers_one_address_and_is_silent_to_another(street: Street) -> None:
    rule = {"domain": NAME, "secure": True, "destination": "127.0.0.1", "port": street.origin.port}
    rules = _allow(street.source(LET_IN), street.source6(LET_IN))
    street.api("traffic/create", https=[{**rule, "firewall": rules}])
    before = street.dropped()
    for scheme in ("http", "https"):
        for source, to in ((street.source, None), (street.source6, "[fd00:213::1]")):
            let_in = street.curl(source(LET_IN), *street.at_site(scheme, to))
            assert let_in.stdout == "welcome", let_in.stderr
            shut_out = street.curl(source(SHUT_OUT), *street.at_site(scheme, to))
            assert (shut_out.returncode, shut_out.stdout) in [(EMPTY_REPLY, ""), (RECEIVE_FAILED, "")], shut_out.stderr
    assert len(street.asked) == 4
    assert street.dropped() == before + 4
    # The rule is taken away while everything runs: the next visit is answered.
    street.api("traffic/update", https=[rule])
    assert street.curl(street.source(SHUT_OUT), *street.at_site()).stdout == "welcome"


def test_tls_that_is_passed_through_is_judged_by_the_same_rules(street: Street, tls_port: int) -> None:
    rules = _allow(street.source(LET_IN))
    street.api("traffic/create", https=[{"domain": NAME, "tls": tls_port, "firewall": rules}])
    shut_out = street.curl(street.source(SHUT_OUT), *street.at_site("https"))
    assert (shut_out.returncode, shut_out.stdout) == (HANDSHAKE_FAILED, "")
    assert street.dropped() == 1
    let_in = street.curl(street.source(LET_IN), *street.at_site("https"))
    assert let_in.stdout == "welcome", let_in.stderr
    assert street.dropped() == 1


def test_a_port_answers_one_address_and_cuts_another_off(street: Street) -> None:
    allocated = street.api("ports/allocate")["port"]
    drop = {"sequence": 1, "action": "drop", "network": f"{street.source(SHUT_OUT)}/32"}
    forward = {"port": allocated, "destination": "127.0.0.1", "dstPort": street.origin.port, "firewall": [drop]}
    street.api("traffic/create", ports=[forward])
    url = f"http://{street.there.our_address}:{allocated}/"
    let_in = street.curl(street.source(LET_IN), url)
    assert let_in.stdout == "welcome", let_in.stderr
    shut_out = street.curl(street.source(SHUT_OUT), url)
    assert (shut_out.returncode, shut_out.stdout) in [(EMPTY_REPLY, ""), (RECEIVE_FAILED, "")], shut_out.stderr
    assert len(street.asked) == 1
    assert curl(f"http://127.0.0.1:{allocated}/").stdout == "welcome"


def test_datagrams_from_another_address_are_not_answered(street: Street, echo_port: int) -> None:
    allocated = street.api("ports/allocate?transport=udp")["port"]
    forward = {
        "port": allocated,
        "transport": "udp",
        "destination": "127.0.0.1",
        "dstPort": echo_port,
        "firewall": _allow(f"{street.source(LET_IN)}/32"),
    }
    street.api("traffic/create", ports=[forward])

    def ask(last: int) -> str:
        command = [sys.executable, "-c", ASK_BY_UDP, street.there.our_address, str(allocated), street.source(last)]
        return subprocess.run([*street.there.inside, *command], check=True, capture_output=True, text=True).stdout

    assert ask(LET_IN) == "hello\n"
    assert ask(SHUT_OUT) == "nothing\n"
    assert street.dropped() == 1
