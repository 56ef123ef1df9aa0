"""`moongate demo`, which is what `make run` runs."""

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from cli_bed import Program
from testbed import free_port, until

pytestmark = pytest.mark.timeout(120)


def demo(folder: Path, more: Mapping[str, str], *arguments: str, terminal: tuple[int, int] | None = None) -> Program:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOONGATE_")}
    env = {**kept, "TMPDIR": str(folder), "TERM": "xterm-256color", **more}
    return Program(["demo", *arguments], env, terminal=terminal)


def own_ports() -> dict[str, str]:
    return {"MOONGATE_LISTEN": f"127.0.0.1:{free_port()}", "MOONGATE_DASHBOARD_PORT": str(free_port())}


def test_the_demonstration_prints_urls_that_work_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ports = own_ports()
    program = demo(tmp_path, ports, "--json")
    tunnel = program.wait_for_event("tunnel_ready")
    ready = program.wait_for_event("ready")
    assert tunnel["public_url"] == f"http://demo.localhost:{ports['MOONGATE_LISTEN'].rpartition(':')[2]}"
    address = ports["MOONGATE_LISTEN"]
    page = httpx.get(f"http://{address}/", headers={"Host": "demo.localhost"}, trust_env=False)
    assert "It works" in page.text
    assert httpx.get(ready["api"], trust_env=False).json()["active_tunnels"] == 1
    assert Path(ready["admin_token_file"]).read_text(encoding="utf-8").strip()
    children = psutil.Process(program.process.pid).children(recursive=True)
    assert program.end(signal.SIGINT) == 0
    assert not [child for child in children if child.is_running()]
    assert list(tmp_path.iterdir()) == [], "the temporary state was not removed"


def test_ctrl_c_on_the_terminal_ends_the_demonstration(tmp_path: Path) -> None:
    program = demo(tmp_path, own_ports(), terminal=(100, 30))
    program.wait_for("REST API")
    program.wait_for("● upstream")
    program.type(b"\x03")
    assert program.wait() == 0
    assert "Traceback" not in program.text
    assert list(tmp_path.iterdir()) == []


def test_the_clock_of_the_sample_arrives_as_it_ticks(tmp_path: Path) -> None:
    ports = own_ports()
    program = demo(tmp_path, ports, "--json")
    program.wait_for("tunnel_ready")
    url = f"http://{ports['MOONGATE_LISTEN']}/clock"
    with httpx.stream("GET", url, headers={"Host": "demo.localhost"}, trust_env=False, timeout=10) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
        # Stopping does not wait for a visitor who stays for ever.
        assert program.end(signal.SIGTERM) == 0


def test_the_state_stays_where_somebody_asked_for_it(tmp_path: Path) -> None:
    program = demo(tmp_path, {**own_ports(), "MOONGATE_HOME": str(tmp_path / "kept")}, "--json")
    program.wait_for("tunnel_ready")
    assert program.end(signal.SIGINT) == 0
    assert (tmp_path / "kept" / "admin-token").is_file()


def test_ports_that_are_taken_are_replaced_and_named(tmp_path: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for usual, holder in ((7171, first), (4041, second)):
            with suppress(OSError):  # somebody else holds it, which is as good
                holder.bind(("127.0.0.1", usual))
                holder.listen()
        program = demo(tmp_path, {})
        program.wait_for("->")
    until(lambda: "port 7171 is taken; using " in program.err)
    assert "port 4041 is taken; using " in program.err
    assert program.end(signal.SIGINT) == 0
