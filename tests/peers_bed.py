"""A node and agents as people start them, for the programs that people use."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from cli_bed import Gateway, Program
from testbed import free_port, require_peer, until

CURL_S = 60


class Site(Gateway):
    """A node in a process of its own, with its state in a folder of its own."""

    def __init__(self, home: Path, **settings: str) -> None:
        low = min(free_port(), 65000)
        self._settings = {"MOONGATE_TCP_PORTS": f"{low}-{low + 40}", **settings}
        super().__init__(home)

    def start(self) -> Program:
        self.env = {**self.env, **self._settings}
        return super().start()

    def get(self, name: str, path: str = "/", **more: Any) -> httpx.Response:
        """Visit a public name."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(url, headers={"Host": f"{name}.localhost"}, trust_env=False, timeout=20, **more)

    def answers(self, name: str, status: int = 200) -> bool:
        try:
            return self.get(name).status_code == status
        except httpx.HTTPError:
            return False

    def api(self, path: str, *, token: str | None = None, method: str = "GET", **more: Any) -> httpx.Response:
        token = token or (self.home / "admin-token").read_text(encoding="utf-8").strip()
        url = f"http://127.0.0.1:{self.api_port}{path}"
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=20, **more)

    def token(self, folder: Path, label: str, *more: str) -> Path:
        """Make a token and return the file that holds it."""
        code, out, err = self.command("token", "create", label, *more)
        assert code == 0, err
        path = folder / f"{label}.token"
        path.write_text(out, encoding="utf-8")
        return path

    def end(self) -> None:
        if self.program.process.poll() is None:
            assert self.program.end(signal.SIGTERM) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.end()
        else:
            self.program.end(signal.SIGKILL)


@contextmanager
def running(program: Program) -> Iterator[Program]:
    """Leave no process behind when a test fails."""
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.end(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel that is open, and its agent."""

    agent: Program
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["public_url"])

    @property
    def port(self) -> int:
        return int(self.ready["public_port"])

    @property
    def id(self) -> str:
        return str(self.ready["tunnel_id"])


@contextmanager
def publishing(site: Site, *arguments: str, **env: str) -> Iterator[Tunnel]:
    """Run an agent as a program would, from `tunnel_ready` to Ctrl-C."""
    with running(Program([*arguments, "--json"], {**site.env, **env})) as agent:
        yield Tunnel(agent, agent.wait_for_event("tunnel_ready"))
        if agent.process.poll() is None:
            assert agent.end(signal.SIGINT) == 0, agent.err


def curl(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run curl with nothing of this user's settings."""
    command = [require_peer("curl"), "-q", "-sS", "--noproxy", "*", "--max-time", str(CURL_S), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert not check or done.returncode == 0, done.stderr
    return done


def events(program: Program, kind: str) -> list[dict[str, Any]]:
    return [event for event in program.events if event["event"] == kind]


def wait_for_request(program: Program, path: str) -> None:
    until(lambda: any(event["path"] == path for event in events(program, "request")), what=f"a request of {path}")
