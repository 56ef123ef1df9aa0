"""Moongate itself, used as a user would: `moongate server`, and agents with the join string it wrote."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Processes, Running, free_port, free_range, wait_until

TCP_PORTS = 20


@dataclass(slots=True)
class Tunnel:
    """What an agent said about one tunnel when it was ready."""

    agent: Running
    public_url: str
    tunnel_id: str

    @property
    def port(self) -> int:
        return int(self.public_url.rpartition(":")[2].strip("/"))

    @property
    def host(self) -> str:
        return self.public_url.partition("://")[2].rpartition(":")[0]


class Node:
    """A node with a state directory of its own, on free loopback ports; everything else as it starts."""

    def __init__(self, processes: Processes, name: str = "node") -> None:
        self.processes = processes
        self.name = name
        self.home = processes.folder / f"{name}-home"
        self.home.mkdir(exist_ok=True)
        self.port = free_port()
        low, high = free_range(TCP_PORTS)
        self.env = {
            "MOONGATE_HOME": str(self.home),
            "MOONGATE_LISTEN": f"127.0.0.1:{self.port}",
            "MOONGATE_DASHBOARD_PORT": "0",
            "MOONGATE_TCP_LISTEN": f"127.0.0.1:{free_port()}",
            "MOONGATE_SSH_LISTEN": f"127.0.0.1:{free_port()}",
            "MOONGATE_TCP_PORTS": f"{low}-{high}",
            "NO_COLOR": "1",
        }
        self.running = self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait for the `ready` line, which a node prints when it accepts."""

        def is_ready() -> bool:
            return re.search(r"^\W*ready\b", self.running.said(), re.MULTILINE) is not None

        wait_until(is_ready, "the node is ready", self.running)

    def launch(self) -> Running:
        """Start the process, again after it was killed, and do not wait."""
        self.running = self.processes.start(self.name, [moongate(), "server"], env=self.env)
        return self.running

    @property
    def join(self) -> str:
        return (self.home / "join").read_text().strip()

    def publish(
        self, kind: str, upstream: int | Path, *, name: str | None = None, through: int | None = None
    ) -> Tunnel:
        """Start a foreground agent for one upstream, a port or a folder, and wait until it names the public URL.

        `through` is the port of a relay that stands between the agent and the node.
        """
        join = self.join
        if through is not None:
            join = re.sub(r"^(moongate://)[^/#]+", rf"\g<1>127.0.0.1:{through}", join)
        path = self.home / f"join-{through or self.port}"
        path.write_text(join)
        path.chmod(0o600)
        argv = [moongate(), kind, str(upstream), "--server", f"@{path}", "--json"]
        if name is not None:
            argv += ["--subdomain", name]
        env = {"MOONGATE_HOME": str(self.home / "agent"), "NO_COLOR": "1"}
        agent = self.processes.start(f"agent-{kind}", argv, env=env)
        ready = wait_until(lambda: said_event(agent, "tunnel_ready"), "the agent has its tunnel", agent)
        return Tunnel(agent, str(ready["public_url"]), str(ready.get("tunnel_id", "")))

    def admin_token(self) -> str:
        return (self.home / "admin-token").read_text().strip()


def said_event(agent: Running, kind: str) -> dict[str, Any] | None:
    """The newest event of a kind among an agent's lines of JSON."""
    for line in reversed(agent.said().splitlines()):
        if line.startswith("{"):
            event: dict[str, Any] = json.loads(line)
            if kind in (event.get("event"), event.get("kind"), event.get("type")):
                return event
    return None


def moongate() -> str:
    """The command of the environment that runs the benchmarks."""
    beside = Path(sys.executable).parent / "moongate"
    return str(beside) if beside.exists() else "moongate"
