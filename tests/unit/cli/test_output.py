import io
import json

import pytest

from moongate.cli.output import JsonLines, Lines, Ready
from moongate.cli.tunnels import Wanted
from moongate.cli.upstreams import Local
from moongate.cli.view import RequestView

WEB = Ready(Wanted("http", Local("http", "localhost", 3000), label="web"), "id-1", "http://shop.localhost:7171")
TCP = Ready(Wanted("tcp", Local("tcp", "db", 5432)), "id-2", "tcp://localhost:20999", 20999)


def test_the_public_url_is_the_first_word_of_its_line() -> None:
    out = io.StringIO()
    Lines(out, io.StringIO()).tunnel_ready(WEB)
    assert out.getvalue() == "http://shop.localhost:7171  ->  http://localhost:3000  (web)\n"


def test_urls_and_requests_go_to_stdout_and_trouble_to_stderr() -> None:
    out, err = io.StringIO(), io.StringIO()
    lines = Lines(out, err)
    lines.request(RequestView(0.0, "GET", "/a", 200, 0.25))
    lines.reconnecting(3, "the node closed the link", 0.8)
    lines.connected_again("gate:443")
    lines.failed("name.taken", "'shop' is held", "wait")
    assert out.getvalue().endswith("GET /a  200  250 ms\n")
    assert err.getvalue().splitlines() == [
        "reconnecting in 800 ms (attempt 3): the node closed the link",
        "connected to gate:443 again",
        "error: 'shop' is held",
        "hint: wait",
    ]


def test_control_bytes_in_what_a_node_or_visitor_sent_stay_on_their_line() -> None:
    out, err = io.StringIO(), io.StringIO()
    lines = Lines(out, err)
    lines.request(RequestView(0.0, "GET", "/\x1b[2J\r\nfake", 200, 0.25))
    lines.tunnel_ready(Ready(WEB.wanted, "id", "http://\x1b]0;owned\x07"))
    lines.reconnecting(1, "\x1b[31m\n", 0.2)
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert len(out.getvalue().splitlines()) == 2
    assert len(err.getvalue().splitlines()) == 1


def test_every_event_for_programs_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonLines()
    lines.tunnel_ready(WEB)
    lines.tunnel_ready(TCP)
    lines.reconnecting(1, "gone\n", 0.2)
    lines.connected_again("gate:443")
    lines.request(RequestView(0.0, "GET", "/\x1b", 200, 0.0042, "http://shop.localhost:7171"))
    lines.failed("name.taken", "held", "wait")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events == [
        {
            "event": "tunnel_ready",
            "protocol": "http",
            "public_url": "http://shop.localhost:7171",
            "local": "http://localhost:3000",
            "tunnel_id": "id-1",
            "local_host": "localhost",
            "local_port": 3000,
            "name": "web",
        },
        {
            "event": "tunnel_ready",
            "protocol": "tcp",
            "public_url": "tcp://localhost:20999",
            "local": "db:5432",
            "tunnel_id": "id-2",
            "local_host": "db",
            "local_port": 5432,
            "public_port": 20999,
        },
        {"event": "reconnecting", "attempt": 1, "reason": "gone\n", "delay_secs": 0.2},
        {"event": "reconnected", "node": "gate:443"},
        {
            "event": "request",
            "method": "GET",
            "path": "/\x1b",
            "status": 200,
            "duration_ms": 4.2,
            "tunnel": "http://shop.localhost:7171",
        },
        {"event": "error", "code": "name.taken", "message": "held", "hint": "wait"},
    ]
