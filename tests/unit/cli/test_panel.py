import io
from collections import deque

import pytest
from rich.console import Console

from moongate.cli.panel import render
from moongate.cli.view import Light, RequestView, TunnelView, View

NOW = 1000.0
WEB = TunnelView("http", "http://shop.localhost:7171", "http://localhost:3000", 2, 1234, 2048, 5 * 1024 * 1024)


def shown(view: View, *, width: int = 100, height: int = 30) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=False, highlight=False)
    console.print(render(view, now=NOW, width=width, height=height))
    return out.getvalue()


def with_requests(*requests: RequestView) -> View:
    return View(node="127.0.0.1:7171", state="online", tunnels=(WEB,), requests=deque(requests))


def test_the_panel_names_the_node_the_state_and_each_public_url() -> None:
    text = shown(View(node="gate.example.org:443", state="online", tunnels=(WEB,)))
    assert "online" in text
    assert "gate.example.org:443" in text
    assert "http://shop.localhost:7171  →  http://localhost:3000" in text
    assert "1234 requests · 2 open · in 2.0 KiB · out 5.0 MiB" in text


def test_a_lamp_shows_its_round_trip_while_its_proof_is_fresh() -> None:
    text = shown(View(lights=(Light("link", ok=True, proven_at=NOW - 2, rtt_s=0.012),)))
    assert "● link 12 ms" in text
    assert "ago" not in text


def test_a_lamp_with_an_old_proof_shows_the_age_of_it() -> None:
    text = shown(View(lights=(Light("upstream", ok=True, proven_at=NOW - 45, rtt_s=0.001),)))
    assert "45 s ago" in text


def test_a_lamp_that_was_never_proven_does_not_claim_anything() -> None:
    text = shown(View(lights=(Light("upstream"),)))
    assert "○ upstream not tried yet" in text


def test_a_failed_lamp_says_why() -> None:
    lights = (Light("upstream", ok=False, proven_at=NOW - 1, detail="localhost:3000 refused the connection"),)
    text = shown(View(lights=lights))
    assert "● upstream failing" in text
    assert "upstream: localhost:3000 refused the connection" in text


def test_the_latest_requests_are_listed_with_status_and_duration() -> None:
    text = shown(
        with_requests(RequestView(0.0, "GET", "/cart?id=7", 200, 0.0042), RequestView(1.0, "POST", "/pay", 502, 1.5))
    )
    assert "/cart?id=7" in text
    assert "4.2 ms" in text
    assert text.index("/cart") < text.index("/pay")
    assert "502" in text
    assert "1.50 s" in text


def test_control_bytes_of_visitors_and_nodes_do_not_reach_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e"
    view = with_requests(RequestView(0.0, f"GE{hostile}", f"/{hostile}", 200, 0.001))
    view.tunnels = (TunnelView("http", f"http://{hostile}", hostile, note=hostile),)
    view.node, view.state = hostile, hostile
    view.notices.append(hostile)
    view.facts = (hostile,)
    view.lights = (Light("link", ok=True, proven_at=NOW, detail=hostile), Light("agent", detail=hostile))
    text = shown(view)
    assert not set(text) & set("\x1b\x07\u202e")
    assert "\\x1b]0;owned" in text


def test_square_brackets_of_visitors_are_not_markup() -> None:
    assert "/[bold]x[/bold]" in shown(with_requests(RequestView(0.0, "GET", "/[bold]x[/bold]", 200, 0.001)))


@pytest.mark.parametrize("width", [30, 40, 80, 200])
@pytest.mark.parametrize("height", [8, 24, 60])
def test_the_panel_fits_the_terminal_whatever_its_size(width: int, height: int) -> None:
    requests = [RequestView(float(n), "OPTIONS", f"/{'x' * 300}/{n}", 200, 12.5) for n in range(100)]
    lines = shown(with_requests(*requests), width=width, height=height).splitlines()
    assert max(map(len, lines)) <= width
    if height >= 24:
        assert len(lines) <= height


def test_a_long_public_url_is_wrapped_and_never_cut() -> None:
    url = f"https://{'a' * 63}.gate.example.org:7171"
    view = View(tunnels=(TunnelView("http", url, "http://localhost:3000"),))
    assert url in shown(view, width=40).replace(" \n", "").replace("\n", "").replace(" ", "")


def test_a_panel_of_tcp_tunnels_has_no_list_of_requests() -> None:
    text = shown(View(tunnels=(TunnelView("tcp", "tcp://localhost:20999", "localhost:5432", connections=3),)))
    assert "3 connections" in text
    assert "request" not in text
