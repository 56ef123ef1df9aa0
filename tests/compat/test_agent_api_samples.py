"""Every sample of the published reference of the agent's API, sent by curl as it is printed to processes as people start them."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli_bed import Program, environment
from testbed import require_peer, until

BASE = "http://127.0.0.1:4100/api/client/v1.0/"
PORTS = (22872, 22470, 22132)
TIMEOUT_S = 40

NOTHING = """{
"https": [],
"ports": [],
"portmaps": []
}"""
SITE = """{
"https": [{
"domain": "api-test-1.spokes.domain.com",
"secure": true,
"destination": "127.0.0.1",
"port": 8080,
"webRoot": "/tmp",
"useLetsEnc": true,
"firewall": [{
"sequence": 1,
"action": "allow",
"network": "71.1.2.3/32"
}],
"redirect": true,
"rewriteHost": "api-test-100.spokes.domain.com",
"upstreamURL": ""
}]
}"""
PORT = """{
"ports": [{
"port": 22872,
"destination": "127.0.0.1",
"dstPort": 2200
}]
}"""
PORTMAP = """{
"portmaps": [{
"port": 15001,
"dstPort": 22132,
"destination": "",
"transport": "tcp",
"label": "port-mapping-1"
}]
}"""
RELEASE = """{
"port": 22872
}"""

INFO = {
    "status": True,
    "error": "",
    "version": "v0.14.0",
    "runtimeVersion": "v0.15.0",
    "isUpdated": True,
    "isTunConnected": True,
}
CONFIG: dict[str, Any] = {
    "version": "v0.15.0",
    "os": "linux",
    "arch": "amd64",
    **json.loads(SITE),
    "ports": [
        {"port": 22872, "destination": "127.0.0.1", "dstPort": 2200},
        {
            "port": 22470,
            "destination": "127.0.0.1",
            "dstPort": 2200,
            "firewall": [{"sequence": 1, "action": "allow", "network": "71.1.2.3/32"}],
        },
    ],
    **json.loads(PORTMAP),
}
HEALTH = {
    "status": True,
    "error": "",
    "services": [
        {"flowID": 12948771731084390768, "available": False},
        {"flowID": 963154770239164234, "available": False},
    ],
}
ALLOCATED = {"status": True, "port": 22123, "message": "new port allocated", "error": ""}
LISTED = [
    {"port": 22872, "destination": "127.0.0.1", "dstPort": 2200},
    {"port": 22132, "destination": "", "dstPort": 0},
    {
        "port": 22470,
        "destination": "127.0.0.1",
        "dstPort": 2200,
        "firewall": [{"sequence": 1, "action": "allow", "network": "71.1.2.3/32"}],
    },
]
DONE = {"status": True, "error": ""}


@contextmanager
def own_network() -> Iterator[list[str]]:
    """A network namespace in which the printed ports are free; yields what to put before a command to run it there."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are root's to make")
    ip, name = require_peer("ip"), f"moongate-samples-{os.getpid()}"
    subprocess.run([ip, "netns", "add", name], check=True)
    try:
        subprocess.run([ip, "-n", name, "link", "set", "lo", "up"], check=True)
        yield [ip, "netns", "exec", name]
    finally:
        subprocess.run([ip, "netns", "delete", name], check=True)


class Pair:
    """A node and an agent that stays, in a network of their own."""

    def __init__(self, inside: list[str], home: Path) -> None:
        self.inside = inside
        self._node_env = environment(home / "node", MOONGATE_TCP_PORTS="22000-22999", MOONGATE_DRAIN_S="1")
        self._agent_env = environment(home / "agent")
        self.node = Program(["server", "--log-level", "warning"], self._node_env, inside=inside)
        self.node.wait_for("ready ")
        self.join = home / "node" / "join"
        self.agent = self.start_agent()

    def start_agent(self) -> Program:
        words = ["agent", "start", "--server", f"@{self.join}", "--api-port", "4100"]
        agent = Program(words, self._agent_env, inside=self.inside)
        agent.wait_for("ready ")
        return agent

    def curl(self, *arguments: str) -> Any:
        command = [*self.inside, require_peer("curl"), "-q", "-sS", "--noproxy", "*", "--max-time", str(TIMEOUT_S)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def get(self, path: str) -> Any:
        return self.curl(BASE + path)

    def send(self, method: str, path: str, body: str) -> Any:
        return self.curl("-X", method, BASE + path, "-d", body)

    def connected(self) -> None:
        until(lambda: self.get("info")["isTunConnected"], timeout_s=30, what="a session")

    def end(self) -> None:
        for program in (self.agent, self.node):
            if program.process.poll() is None:
                program.end(signal.SIGTERM)


@pytest.fixture
def pair() -> Iterator[Pair]:
    # The printed site has /tmp as its root, so that the agent's own state cannot be there.
    home = Path(tempfile.mkdtemp(prefix="moongate-samples-", dir="/var/tmp"))
    with own_network() as inside:
        made = Pair(inside, home)
        try:
            made.connected()
            yield made
        finally:
            made.end()
            shutil.rmtree(home)


def fits(shown: Any, sample: Any) -> bool:
    """Whether every member of a sample is there, with a value of its type, at every depth."""
    match sample:
        case dict():
            return isinstance(shown, dict) and all(name in shown and fits(shown[name], sample[name]) for name in sample)
        case list():
            return isinstance(shown, list) and all(fits(one, sample[0]) for one in shown)
        case _:
            return type(shown) is type(sample)


def brief(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule without what holds nothing: that may be left out."""
    return {name: value for name, value in rule.items() if value not in ("", 0, False, None, [])}


@pytest.mark.slow
def test_every_printed_sample_is_answered_as_printed(pair: Pair) -> None:
    # Info and the session.
    assert fits(pair.get("info"), INFO)
    assert pair.get("tun/start") == {"status": True, "isTunConnected": True, "error": ""}
    assert pair.get("tun/shutdown") == DONE
    assert pair.get("info")["isTunConnected"] is False
    assert pair.get("tun/start") == {"status": True, "isTunConnected": False, "error": ""}
    pair.connected()
    assert pair.get("tun/restart") == DONE
    pair.connected()

    # Requests without rules in them.
    for method, path in (("POST", "traffic/create"), ("POST", "traffic/update"), ("GET", "traffic/delete")):
        answer = pair.send(method, path, NOTHING)
        assert (answer["status"], answer["error"]) == (True, "")

    # The printed ports are the node's to give, so they are asked for by number first.
    for port in PORTS:
        answer = pair.get(f"ports/allocate?port={port}")
        assert fits(answer, ALLOCATED)
        assert answer == {**DONE, "port": port, "message": "new port allocated"}

    # The printed rules; the reference shows the second port in its answers only.
    second = json.dumps({"ports": CONFIG["ports"][1:]})
    for body in (SITE, PORT, second, PORTMAP):
        answer = pair.send("POST", "traffic/create", body)
        assert (answer["status"], answer["error"]) == (True, ""), answer
    assert sorted(pair.get("ports/list"), key=str) == sorted(LISTED, key=str)
    check_config(pair)
    health = pair.get("health")
    assert fits(health, HEALTH)
    assert len(health["services"]) == 3
    check_reach(pair)

    # Updating and deleting take the same bodies.
    for method, path in (("POST", "traffic/update"), ("GET", "traffic/delete")):
        for body in (SITE, PORT, PORTMAP):
            answer = pair.send(method, path, body)
            assert (answer["status"], answer["error"]) == (True, ""), answer
    assert {"port": 22872, "destination": "", "dstPort": 0} in pair.get("ports/list")
    assert pair.send("POST", "ports/release", RELEASE) == DONE
    assert [one["port"] for one in pair.get("ports/list")] == [22132, 22470]
    assert fits(pair.get("ports/allocate"), ALLOCATED)


def check_config(pair: Pair) -> None:
    config = pair.get("config")
    assert fits(config, {name: CONFIG[name] for name in ("version", "os", "arch", "portmaps")})
    assert [brief(site) for site in config["https"]] == [brief(site) for site in CONFIG["https"]]
    assert [brief(port) for port in config["ports"] if port["destination"]] == CONFIG["ports"]
    (portmap,) = config["portmaps"]
    assert {name: portmap[name] for name in CONFIG["portmaps"][0]} == CONFIG["portmaps"][0]


def check_reach(pair: Pair) -> None:
    """What the rules promise is so: a program behind a port is reached through the node, and by the local port."""
    server = (
        "import socket; s = socket.create_server(('127.0.0.1', 2200))\nwhile True: s.accept()[0].sendall(b'SSH-2.0-x')"
    )
    client = (
        "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10).recv(99).decode())"
    )
    python = shutil.which("python3") or "python3"
    upstream = subprocess.Popen([*pair.inside, python, "-c", server])

    def said(port: int) -> str:
        command = [*pair.inside, python, "-c", client, str(port)]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    try:
        until(lambda: said(2200) == "SSH-2.0-x", what="the upstream")
        assert said(22872) == "SSH-2.0-x"
        # Its firewall lets one address in, and that is not ours.
        assert said(22470) == ""
        # The printed map leads to a port that is allocated and leads nowhere.
        assert said(15001) == ""
        lead = json.dumps({"ports": [{"port": 22132, "destination": "127.0.0.1", "dstPort": 2200}]})
        assert pair.send("POST", "traffic/update", lead)["status"] is True
        assert said(15001) == "SSH-2.0-x"
        assert pair.send("GET", "traffic/delete", lead)["status"] is True
    finally:
        upstream.kill()
        upstream.wait()


@pytest.mark.slow
def test_the_printed_rules_outlive_the_agent(pair: Pair) -> None:
    for port in PORTS:
        pair.get(f"ports/allocate?port={port}")
    for body in (SITE, PORT, PORTMAP):
        assert pair.send("POST", "traffic/create", body)["status"] is True
    before = pair.get("config")
    pair.agent.end(signal.SIGKILL)
    pair.agent = pair.start_agent()
    assert pair.get("config") == before
    pair.connected()
