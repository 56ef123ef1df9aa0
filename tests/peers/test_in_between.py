"""What stands between visitors, node and agent: other proxies, dead connections, visitors that do not read."""

import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from moongate.net.dialing import NodeAddress, make_join
from peers_bed import Site, events, publishing
from testbed import free_port, require_peer, until
from testbed.cutting import Relay
from testbed.daemons import daemon, nginx
from testbed.origin import Origin, Request

pytestmark = [pytest.mark.timeout(120)]

MIB = 1 << 20
IN_FRONT = """
listen 127.0.0.1:{port};
location / {
  proxy_pass http://127.0.0.1:NODE;
  proxy_http_version 1.1;
  proxy_buffering off;
  proxy_set_header Host $http_host;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $http_connection;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_read_timeout 1h;
}
"""
PASSING_ADDRESSES_ON = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen node
  bind 127.0.0.1:{port}
  server node 127.0.0.1:{node} send-proxy-v2
"""


def tell_forwarding(request: Request) -> None:
    request.say(f"{request.headers['X-Forwarded-For']} {request.headers['X-Forwarded-Host']}".encode())


def ask(port: int, name: str, source: str = "127.0.0.1") -> str:
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(transport=transport, trust_env=False, timeout=20) as client:
        return client.get(f"http://127.0.0.1:{port}/", headers={"Host": f"{name}.localhost"}).text


def test_agents_and_visitors_reach_a_node_behind_nginx(tmp_path: Path) -> None:
    with (
        Site(tmp_path / "home", MOONGATE_TRUSTED_PROXIES="127.0.0.1") as site,
        nginx(tmp_path / "nginx", IN_FRONT.replace("NODE", str(site.port))) as front,
        Origin(tell_forwarding) as origin,
    ):
        token = site.token(tmp_path, "behind")
        server = ("--server", f"http://127.0.0.1:{front}", "--token-file", str(token))
        with publishing(site, "http", str(origin.port), "-d", "behind", *server):
            assert ask(front, "behind", "127.0.0.7") == "127.0.0.7, 127.0.0.1 behind.localhost"


def test_a_node_behind_haproxy_learns_the_visitors_address_and_believes_nobody_else(tmp_path: Path) -> None:
    haproxy, front = require_peer("haproxy"), free_port()
    with (
        Site(tmp_path / "home", MOONGATE_TRUSTED_PROXIES="127.0.0.1") as site,
        Origin(tell_forwarding) as origin,
        publishing(site, "http", str(origin.port), "-d", "front"),
    ):
        (tmp_path / "haproxy.cfg").write_text(PASSING_ADDRESSES_ON.format(port=front, node=site.port), encoding="utf-8")
        with daemon([haproxy, "-db", "-f", str(tmp_path / "haproxy.cfg")], tmp_path, front):
            assert ask(front, "front", "127.0.0.9") == "127.0.0.9 front.localhost"
        # The same header from an address that is not a proxy's.
        with socket.create_connection(("127.0.0.1", site.port), 10, source_address=("127.0.0.9", 0)) as stranger:
            stranger.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: front.localhost\r\n\r\n")
            answer = stranger.makefile("rb").read()
        assert b" 200 " not in answer.partition(b"\r\n")[0]
        assert ask(site.port, "front", "127.0.0.9") == "127.0.0.9 front.localhost"


@pytest.mark.slow
def test_a_link_that_swallows_everything_is_noticed_and_made_again_and_disturbs_nobody_else(site: Site) -> None:
    address = NodeAddress.parse((site.home / "join").read_text(encoding="utf-8").strip())
    with (
        Relay(site.port) as relay,
        Origin(lambda request: request.say(b"ok")) as origin,
        publishing(site, "http", str(origin.port), "-d", "beside"),
        publishing(
            site,
            *("http", str(origin.port), "-d", "swallowed"),
            MOONGATE_SERVER=make_join("127.0.0.1", relay.port, address.token or "", address.fingerprint),
        ) as tunnel,
    ):
        assert site.answers("swallowed")
        relay.swallow()
        assert site.answers("beside")
        began = time.monotonic()
        until(lambda: events(tunnel.agent, "reconnected"), timeout_s=45)
        until(lambda: site.answers("swallowed"), timeout_s=20)
        assert time.monotonic() - began < 40
        assert site.answers("beside")


@pytest.mark.slow
def test_an_agent_that_was_stopped_is_offline_and_comes_back_when_it_goes_on(site: Site) -> None:
    with (
        Origin(lambda request: request.say(b"ok")) as origin,
        publishing(site, "http", str(origin.port), "-d", "stopped") as tunnel,
    ):
        tunnel.agent.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: site.answers("stopped", 503), timeout_s=60)
        finally:
            tunnel.agent.process.send_signal(signal.SIGCONT)
        until(lambda: site.answers("stopped"), timeout_s=30)
        assert len(events(tunnel.agent, "tunnel_ready")) == 1


def test_visitors_that_do_not_read_hold_up_nobody_and_cost_little(site: Site) -> None:
    def answer(request: Request) -> None:
        if request.path != "/large":
            request.say(b"ok")
            return
        request.begin(length=1 << 40)
        piece = b"x" * MIB
        while True:  # until the visitor has left
            request.wfile.write(piece)

    with (
        Origin(answer) as origin,
        publishing(site, "http", str(origin.port), "-d", "unread") as tunnel,
        ExitStack() as lazy,
    ):
        processes = [psutil.Process(pid) for pid in (site.program.process.pid, tunnel.agent.process.pid)]
        assert site.answers("unread")
        before = [process.memory_info().rss for process in processes]
        for _ in range(20):
            visitor = lazy.enter_context(socket.create_connection(("127.0.0.1", site.port), 10))
            visitor.sendall(b"GET /large HTTP/1.1\r\nHost: unread.localhost\r\n\r\n")
            assert visitor.recv(100)
        # As long as it takes: a visitor that reads gets every one of its answers meanwhile.
        for _ in range(50):
            assert site.get("unread", "/small").text == "ok"
        grown = [process.memory_info().rss - old for process, old in zip(processes, before, strict=True)]
        assert max(grown) < 64 * MIB, grown


def test_a_visitor_that_sends_a_byte_now_and_then_is_told_and_closed(tmp_path: Path) -> None:
    with (
        Site(tmp_path / "home", MOONGATE_LIMITS_HEADER_TIMEOUT_S="2") as site,
        Origin(lambda request: request.say(b"ok")) as origin,
        publishing(site, "http", str(origin.port), "-d", "patient"),
        socket.create_connection(("127.0.0.1", site.port), 20) as slow,
    ):
        began = time.monotonic()
        slow.settimeout(0.3)
        received = b""
        for byte in b"GET / HTTP/1.1\r\nHost: patient.localhost\r\nX-Long: " + b"x" * 100:
            try:
                slow.sendall(bytes([byte]))
                received = slow.recv(1000)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - began < 15
        assert received == b"" or b" 408 " in received
        assert site.answers("patient")
