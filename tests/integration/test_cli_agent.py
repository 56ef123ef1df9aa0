"""`moongate agent start` as a user runs it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_bed import Gateway, Program, environment
from testbed import free_port, until

PREFIX = "/api/client/v1.0"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("node"))
    yield gateway
    assert gateway.program.end(signal.SIGTERM) == 0


class Staying:
    """An agent that stays, in a process of its own."""

    def __init__(self, gateway: Gateway, home: Path, *more: str, command: tuple[str, ...] = ("agent", "start")) -> None:
        self.port = free_port()
        join = gateway.home / "join"
        self.arguments = (*command, "--server", f"@{join}", "--home", str(home), "--api-port", str(self.port), *more)
        self.program = Program(self.arguments, environment(home / "nothing"))

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.port}{PREFIX}/{path}"
        return httpx.request(method, url, json=body, trust_env=False, timeout=20).json()

    def is_connected(self) -> bool:
        return bool(self.ask("info")["isTunConnected"])


@contextmanager
def staying(gateway: Gateway, home: Path, *more: str, **how: Any) -> Iterator[Staying]:
    agent = Staying(gateway, home, *more, **how)
    try:
        agent.program.wait_for(f"ready 127.0.0.1:{agent.port}\n")
        yield agent
    finally:
        if agent.program.process.poll() is None:
            agent.program.end(signal.SIGKILL)


@pytest.mark.parametrize("command", [("agent", "start"), ("start",)])
def test_it_says_where_it_is_ready_and_ends_in_order(
    gateway: Gateway, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with staying(gateway, tmp_path, command=command) as agent:
        until(agent.is_connected)
        assert agent.program.out == f"ready 127.0.0.1:{agent.port}\n"
        assert agent.program.end(signal.SIGTERM) == 0


def test_a_second_agent_with_the_same_rules_is_told_which_the_first_is(gateway: Gateway, tmp_path: Path) -> None:
    with staying(gateway, tmp_path) as agent:
        second = Program(agent.arguments, environment(tmp_path / "nothing"))
        assert second.wait() == 1
        assert f"another agent uses {tmp_path} (process {agent.program.process.pid})" in second.err


def test_foreground_agents_do_not_need_the_lock(gateway: Gateway, tmp_path: Path) -> None:
    with staying(gateway, tmp_path):
        join = gateway.home / "join"
        web = Program(("http", "9", "--server", f"@{join}", "--json"), environment(tmp_path))
        web.wait_for_event("tunnel_ready")
        assert web.end(signal.SIGINT) == 0


def test_a_port_of_the_api_that_is_in_use_is_named(gateway: Gateway, tmp_path: Path) -> None:
    with staying(gateway, tmp_path / "one") as first:
        arguments = [str(tmp_path / "two") if one == str(tmp_path / "one") else one for one in first.arguments]
        second = Program(arguments, environment(tmp_path / "nothing"))
        assert second.wait() == 1
        assert f"127.0.0.1:{first.port}" in second.err


def test_damaged_rules_are_kept_aside_and_said(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text("{oops")
    with staying(gateway, tmp_path) as agent:
        (aside,) = tmp_path.glob("rules.json.corrupt-*")
        assert aside.read_text() == "{oops"
        assert agent.ask("info")["rulesKeptAside"] == str(aside)
        assert str(aside) in agent.program.err


def test_the_api_asks_for_its_token_when_it_has_one(gateway: Gateway, tmp_path: Path) -> None:
    secret = tmp_path / "api-token"
    secret.write_text("geheim\n")
    with staying(gateway, tmp_path / "home", "--api-token-file", str(secret)) as agent:
        url = f"http://127.0.0.1:{agent.port}{PREFIX}/info"
        assert httpx.get(url, trust_env=False).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer geheim"}, trust_env=False).status_code == 200
        assert "geheim" not in agent.program.err


def test_settings_of_the_environment_are_taken(gateway: Gateway, tmp_path: Path) -> None:
    port = free_port()
    env = environment(tmp_path, MOONGATE_RECONNECT_MAX_ATTEMPTS="1", MOONGATE_AGENT_API_PORT=str(port))
    nobody = f"http://127.0.0.1:{free_port()}"
    agent = Program(("agent", "start", "--server", nobody), env | {"MOONGATE_TOKEN": "x"})
    try:
        agent.wait_for(f"ready 127.0.0.1:{port}\n")
        until(lambda: httpx.get(f"http://127.0.0.1:{port}{PREFIX}/info", trust_env=False).json()["state"] == "failed")
    finally:
        assert agent.end(signal.SIGTERM) == 0


def test_an_agent_whose_words_nobody_can_take_goes_on(gateway: Gateway, tmp_path: Path) -> None:
    port, join = free_port(), gateway.home / "join"
    arguments = ["agent", "start", "--server", f"@{join}", "--home", str(tmp_path), "--api-port", str(port)]
    with Path("/dev/full").open("w") as full:
        agent = subprocess.Popen(
            [sys.executable, "-m", "moongate.cli", *arguments], env=environment(tmp_path), stdout=full, stderr=full
        )
    url = f"http://127.0.0.1:{port}{PREFIX}/"

    def is_connected() -> bool:
        with suppress(httpx.HTTPError):
            return bool(httpx.get(url + "info", trust_env=False).json()["isTunConnected"])
        return False

    try:
        until(is_connected, timeout_s=30)
        rule = {"https": [{"domain": "full.localhost", "destination": "127.0.0.1", "port": 9}]}
        assert httpx.post(url + "traffic/create", json=rule, trust_env=False).json()["status"]
    finally:
        agent.terminate()
        agent.wait(20)
    assert agent.returncode == 0


def test_a_closed_terminal_ends_it_in_order(gateway: Gateway, tmp_path: Path) -> None:
    agent = Staying(gateway, tmp_path)
    agent.program.wait_for("ready ")
    assert agent.program.end(signal.SIGHUP) == 0
