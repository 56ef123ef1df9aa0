"""An agent that stays, in front of the programs that people run, and with very many rules."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cli_bed import Program, environment
from peers_bed import Site, curl, running
from testbed import free_port, require_peer, until
from testbed.daemons import nginx, ssh_server
from testbed.origin import Origin
from testbed.postgresql import PostgreSQL

pytestmark = [pytest.mark.timeout(180)]

PREFIX = "/api/client/v1.0"
SERVER = "listen 127.0.0.1:{port}; location / { return 200 'nginx at $uri'; }"
RULES = 1000
IDLE_S = 10.0


class Staying:
    """An agent in a process of its own, and what it is asked."""

    def __init__(self, site: Site, home: Path) -> None:
        port = free_port()
        join = site.home / "join"
        arguments = ["agent", "start", "--server", f"@{join}", "--home", str(home), "--api-port", str(port)]
        self.program = Program([*arguments, "--log-level", "error"], environment(home / "nothing"))
        self.url = f"http://127.0.0.1:{port}{PREFIX}/"

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        answer = httpx.request(method, self.url + path, json=body, trust_env=False, timeout=30).json()
        assert not isinstance(answer, dict) or answer["status"], answer
        return answer


@pytest.fixture
def agent(site: Site, tmp_path: Path) -> Iterator[Staying]:
    agent = Staying(site, tmp_path / "state")
    with running(agent.program):
        agent.program.wait_for("ready ")
        until(lambda: agent.ask("info")["isTunConnected"])
        yield agent
        assert agent.program.end(signal.SIGTERM) == 0


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nginx_postgresql_and_openssh_stand_behind_rules(site: Site, agent: Staying, tmp_path: Path) -> None:
    postgresql = PostgreSQL()
    local = free_port()
    try:
        with nginx(tmp_path / "nginx", SERVER) as web, ssh_server(tmp_path / "ssh") as ssh:
            database, login = (agent.ask("ports/allocate")["port"] for _ in range(2))
            rules = {
                "https": [{"domain": "nginx.localhost", "upstreamURL": f"http://127.0.0.1:{web}"}],
                "ports": [
                    {"port": database, "destination": "127.0.0.1", "dstPort": postgresql.port},
                    {"port": login, "destination": "127.0.0.1", "dstPort": ssh.port},
                ],
                "portmaps": [{"port": local, "dstPort": database, "destination": "", "label": "db"}],
            }
            agent.ask("traffic/create", "POST", rules)
            assert all(one["available"] for one in agent.ask("health")["services"])
            page = curl(f"http://127.0.0.1:{site.port}/page", "-H", "Host: nginx.localhost")
            assert page.stdout == "nginx at /page"
            psql = [require_peer("psql"), "-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-U", "moongate", "-d", "postgres"]
            for port in (database, local):
                assert run(*psql, "-p", str(port), "-c", "SELECT 6 * 7") == "42\n"
            shell = [require_peer("ssh"), *ssh.options, "-p", str(login), ssh.place]
            assert run(*shell, "echo", "through the rule") == "through the rule\n"
    finally:
        postgresql.stop()


def test_a_thousand_rules_are_made_and_checked_quickly_and_cost_little(site: Site, agent: Staying) -> None:
    with Origin(lambda request: request.say(b"one of many")) as origin:
        dead = free_port()
        sites = [
            {"domain": f"many-{number}.localhost", "destination": "127.0.0.1", "port": origin.port}
            for number in range(RULES)
        ]
        for one in sites[::20]:
            one["port"] = dead
        began = time.monotonic()
        agent.ask("traffic/create", "POST", {"https": sites})
        created = time.monotonic()
        services = agent.ask("health")["services"]
        checked = time.monotonic()
        assert created - began < 2
        assert checked - created < 5
        assert [one["available"] for one in services].count(False) == RULES // 20
        assert site.get("many-999").text == "one of many"
    process = psutil.Process(agent.program.process.pid)
    before = process.cpu_times()
    time.sleep(IDLE_S)  # what it costs to do nothing for a while can only be seen by waiting
    after = process.cpu_times()
    assert process.memory_info().rss < 120e6
    assert (after.user + after.system) - (before.user + before.system) < IDLE_S / 100
    agent.ask("traffic/delete", "GET", {"https": [{"domain": one["domain"]} for one in sites]})
