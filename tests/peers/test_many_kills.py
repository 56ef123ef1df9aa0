"""Node, link and agent are killed at random, again and again; every rule survives, and works again each time."""

import itertools
import json
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_bed import Program, environment
from moongate.net.dialing import NodeAddress, make_join
from peers_bed import Site
from testbed import free_port, until
from testbed.cutting import Relay
from testbed.origin import Origin

pytestmark = [pytest.mark.timeout(600)]

KILLS = 50
# A machine that also does other things may take its time; the goal is a few seconds.
BACK_S = 40.0
SITES = 5
WRITTEN_KILLS = 10
PREFIX = "/api/client/v1.0"


class Machine:
    """The machine with the agent: it comes to the node by a relay, which is the link that can be cut."""

    def __init__(self, site: Site, relay: Relay, home: Path) -> None:
        self._env = environment(home / "nothing")
        self._api = free_port()
        address = NodeAddress.parse((site.home / "join").read_text(encoding="utf-8").strip())
        join = home / "join"
        join.write_text(make_join("127.0.0.1", relay.port, address.token or "", address.fingerprint), encoding="utf-8")
        state = home / "state"
        self.rules = state / "rules.json"
        self._arguments = ("agent", "start", "--server", f"@{join}", "--home", str(state), "--api-port", str(self._api))
        self.start()

    def start(self) -> None:
        self.program = Program([*self._arguments, "--log-level", "error"], self._env)
        self.program.wait_for("ready ")

    def kill(self) -> None:
        self.program.end(signal.SIGKILL)
        self.start()

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self._api}{PREFIX}/{path}"
        return httpx.request(method, url, json=body, trust_env=False, timeout=30).json()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "node") as site:
        yield site


@pytest.fixture
def machine(site: Site, tmp_path: Path) -> Iterator[tuple[Machine, Relay]]:
    home = tmp_path / "machine"
    home.mkdir()
    with Relay(site.port) as relay:
        machine = Machine(site, relay, home)
        try:
            yield machine, relay
        finally:
            machine.program.end(signal.SIGTERM)


def reads(port: int, wanted: bytes) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as visitor:
        visitor.settimeout(5)
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return wanted in visitor.recv(65536)
    return False


def test_fifty_random_kills_leave_every_rule_intact(site: Site, machine: tuple[Machine, Relay], tmp_path: Path) -> None:
    agent, relay = machine
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "index.html").write_text("from the folder", encoding="utf-8")
    with Origin(lambda request: request.say(b"from the origin")) as origin:
        until(lambda: agent.ask("info")["isTunConnected"], timeout_s=BACK_S)
        ports = [agent.ask("ports/allocate")["port"] for _ in range(2)]
        local = free_port()
        rules = {
            "https": [
                {"domain": f"site-{number}.localhost", "destination": "127.0.0.1", "port": origin.port}
                for number in range(SITES)
            ]
            + [{"domain": "folder.localhost", "webRoot": str(folder)}],
            "ports": [{"port": ports[0], "destination": "127.0.0.1", "dstPort": origin.port}],
            "portmaps": [{"port": local, "dstPort": ports[0], "destination": "", "transport": "tcp", "label": "back"}],
        }
        told = agent.ask("traffic/create", "POST", rules)
        assert told["status"], told
        kept = json.loads(agent.rules.read_text(encoding="utf-8"))

        def all_work() -> bool:
            with suppress(httpx.HTTPError):
                return (
                    all(site.get(f"site-{number}").text == "from the origin" for number in range(SITES))
                    and site.get("folder").text == "from the folder"
                    and reads(ports[0], b"from the origin")
                    and reads(local, b"from the origin")
                )
            return False

        until(all_work, timeout_s=BACK_S)
        kills: dict[str, Callable[[], None]] = {
            "node": lambda: site.restart(signal.SIGKILL),
            "link": relay.cut,
            "agent": agent.kill,
        }
        chance = random.Random(4100)
        history = [chance.choice(sorted(kills)) for _ in range(KILLS)]
        assert {*history} == {*kills}
        for number, victim in enumerate(history):
            kills[victim]()
            # Some come upon one that has not got up yet.
            if chance.random() < 0.6 or number == KILLS - 1:
                until(
                    all_work,
                    timeout_s=BACK_S,
                    what=f"everything after kill {number + 1} ({victim}); {agent.ask('info')}",
                )
            assert json.loads(agent.rules.read_text(encoding="utf-8")) == kept
        listed = agent.ask("config")
        assert {kind: listed[kind] for kind in ("https", "ports", "portmaps")} == {
            kind: kept[kind] for kind in ("https", "ports", "portmaps")
        }
        assert [port["port"] for port in agent.ask("ports/list")] == sorted(ports)


def test_an_agent_that_is_killed_while_it_writes_has_every_rule_that_it_said_it_had(
    machine: tuple[Machine, Relay],
) -> None:
    agent, _ = machine
    chance = random.Random(22000)
    told: set[str] = set()
    for kill in range(WRITTEN_KILLS):
        over = threading.Timer(chance.uniform(0.05, 0.5), agent.program.process.kill)
        over.start()
        with suppress(httpx.HTTPError):
            for number in itertools.count():
                domain = f"site-{kill}-{number}.localhost"
                if agent.ask("traffic/create", "POST", {"https": [{"domain": domain, "webRoot": "/srv"}]})["status"]:
                    told.add(domain)
        over.join()
        agent.kill()
        assert told <= {site["domain"] for site in agent.ask("config")["https"]}
    assert told
    assert list(agent.rules.parent.glob("*.corrupt-*")) == []
