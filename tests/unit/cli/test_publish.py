"""What an agent's events add up to; no agent runs here."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from moongate.agent import reports
from moongate.agent.routes import Route, Upstream
from moongate.cli.outcome import Exit
from moongate.cli.output import JsonLines
from moongate.cli.publish import Foreground, route_of
from moongate.cli.tunnels import Wanted
from moongate.cli.upstreams import Local
from moongate.net.dialing import NodeAddress
from moongate.telemetry import setup_logging

NODE = NodeAddress("gate.example.org", 443, token="t")
WEB = Wanted("http", Local("http", "localhost", 3000), subdomain="shop", host_header="app", rate_limit_rps=5)
TCP = Wanted("tcp", Local("tcp", "db", 5432), label="db", port=20010, proxy_protocol="v2")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    setup_logging("error")


@pytest.fixture
async def foreground() -> Foreground:
    return Foreground(NODE, [WEB, TCP], JsonLines())


def routes(foreground: Foreground) -> list[Route]:
    return [tunnel.route for tunnel in foreground._agent.snapshot().tunnels]


def ready(route: Route, url: str) -> reports.TunnelReady:
    return reports.TunnelReady(route, "id", "shop", route.port, url, False)


def events(capsys: pytest.CaptureFixture[str]) -> Iterator[dict[str, object]]:
    yield from (json.loads(line) for line in capsys.readouterr().out.splitlines())


def test_a_wish_becomes_a_route_with_its_options(tmp_path: Path) -> None:
    assert route_of(WEB) == Route(
        "http",
        Upstream("http", "localhost", 3000),
        subdomain="shop",
        options={
            "host_header": "app",
            "capture": True,
            "rate_limit_rps": 5,
            "max_connections": 0,
            "request_body_max_bytes": 0,
        },
    )
    assert (route_of(TCP).port, route_of(TCP).proxy_protocol, route_of(TCP).label) == (20010, "v2", "db")
    folder = route_of(Wanted("static", tmp_path))
    assert (folder.kind, folder.upstream) == ("http", Upstream("static", directory=tmp_path))


async def test_a_url_is_told_once_and_again_only_if_it_changes(
    foreground: Foreground, capsys: pytest.CaptureFixture[str]
) -> None:
    web = routes(foreground)[0]
    for url in ("http://shop.test", "http://shop.test", "http://other.test"):
        foreground._on_event(ready(web, url))
    assert [event["public_url"] for event in events(capsys)] == ["http://shop.test", "http://other.test"]


async def test_two_tunnels_to_one_service_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    foreground = Foreground(NODE, [Wanted("http", WEB.local, label=name) for name in ("a", "b")], JsonLines())
    for number, route in enumerate(routes(foreground)):
        foreground._on_event(ready(route, f"http://{number}.test"))
    assert [(event["name"], event["public_url"]) for event in events(capsys)] == [
        ("a", "http://0.test"),
        ("b", "http://1.test"),
    ]


async def test_a_request_names_the_tunnel_that_it_came_through(
    foreground: Foreground, capsys: pytest.CaptureFixture[str]
) -> None:
    web = routes(foreground)[0]
    foreground._on_event(ready(web, "http://shop.test"))
    foreground._on_event(reports.RequestSeen(web, "GET", "/", 200, 0.01))
    assert [event["tunnel"] for event in events(capsys) if event["event"] == "request"] == ["http://shop.test"]
    assert [request.path for request in foreground.look().requests] == ["/"]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("token.invalid", Exit.REFUSED),
        ("name.taken", Exit.REFUSED),
        ("lease.superseded", Exit.SUPERSEDED),
        ("reach.failed", Exit.UNREACHABLE),
        ("internal", Exit.FAILED),
    ],
)
async def test_a_fatal_refusal_decides_the_exit_code(foreground: Foreground, code: str, exit_code: Exit) -> None:
    foreground._on_event(reports.Refused(code, "no", "", None, fatal=True))
    assert foreground._exit == exit_code


async def test_a_refusal_of_one_tunnel_among_several_does_not_end_the_others(
    foreground: Foreground, capsys: pytest.CaptureFixture[str]
) -> None:
    foreground._on_event(reports.Refused("name.taken", "held", "", routes(foreground)[0], fatal=False))
    assert foreground._exit is None
    assert [event["code"] for event in events(capsys)] == ["name.taken"]


async def test_losing_the_link_with_once_ends_with_exit_code_5(capsys: pytest.CaptureFixture[str]) -> None:
    foreground = Foreground(NODE, [WEB], JsonLines(), once=True)
    foreground._on_event(reports.Reconnecting(1, "gone", 0.2))
    assert foreground._exit == Exit.UNREACHABLE
    assert [event["event"] for event in events(capsys)] == ["error"]


async def test_the_same_trouble_is_one_notice_however_often_it_comes(foreground: Foreground) -> None:
    web = routes(foreground)[0]
    for _ in range(5):
        foreground._on_event(reports.UpstreamFailed(web, "refused"))
    foreground._on_event(reports.UpstreamFailed(web, "too slow"))
    assert list(foreground.look().notices) == ["refused", "too slow"]


async def test_being_asked_to_stop_before_anything_else_is_no_failure(unused_tcp_port: int) -> None:
    stop = asyncio.Event()
    stop.set()
    foreground = Foreground(NodeAddress("127.0.0.1", unused_tcp_port, tls=False, token="t"), [WEB], JsonLines())
    assert await foreground.run(stop) == Exit.OK
