"""Port maps of agents that stay, made by the commands and tried by PostgreSQL's and DNS's own programs."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_bed import Program, environment
from peers_bed import Site, running
from testbed import free_port, require_peer, until
from testbed.dns import ADDRESS, dig, name_server
from testbed.postgresql import PostgreSQL

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.stop()


class Staying:
    """An agent that stays, and the commands that change what it publishes."""

    def __init__(self, site: Site, home: Path) -> None:
        self.api_port = free_port()
        self.env = environment(home / "nothing")
        join = f"@{site.home / 'join'}"
        arguments = ["agent", "start", "--server", join, "--home", str(home), "--api-port", str(self.api_port)]
        self.program = Program(arguments, self.env)

    def run(self, *arguments: str) -> str:
        program = Program([*arguments, "--api-port", str(self.api_port)], self.env)
        assert program.wait() == 0, program.out + program.err
        return program.out

    def allocate(self, *more: str) -> int:
        return int("".join(filter(str.isdigit, self.run("port", "allocate", *more))))


@contextmanager
def staying(site: Site, home: Path) -> Iterator[Staying]:
    agent = Staying(site, home)
    with running(agent.program):
        agent.program.wait_for("ready ")
        until(lambda: json.loads(agent.run("agent", "info", "--json"))["isTunConnected"])
        yield agent
        assert agent.program.end(signal.SIGTERM) == 0


@pytest.fixture
def agents(site: Site, tmp_path: Path) -> Iterator[tuple[Staying, Staying]]:
    """One that publishes, and one that maps."""
    with staying(site, tmp_path / "publisher") as publisher, staying(site, tmp_path / "mapper") as mapper:
        yield publisher, mapper


def psql(port: int, question: str) -> bytes:
    place = ["-h", "127.0.0.1", "-p", str(port), "-U", "moongate", "-d", "postgres"]
    command = [require_peer("psql"), "-X", "-q", "-A", "-t", *place, "-c", question]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_psql_reaches_another_agents_database_through_a_mapped_port(
    agents: tuple[Staying, Staying], postgresql: PostgreSQL
) -> None:
    publisher, mapper = agents
    port, local = publisher.allocate(), free_port()
    publisher.run("port", "forward", str(port), f"127.0.0.1:{postgresql.port}")
    mapper.run("portmap", "add", str(local), str(port))
    assert psql(local, "SELECT 6 * 7") == b"42\n"
    rows = psql(local, "SELECT repeat(md5(i::text), 32) FROM generate_series(1, 5000) AS i")
    assert len(rows) == 5000 * 1025


def test_psql_reaches_any_host_through_a_mapped_port(agents: tuple[Staying, Staying], postgresql: PostgreSQL) -> None:
    _, mapper = agents
    local = free_port()
    mapper.run("portmap", "add", str(local), f"localhost:{postgresql.port}")
    assert psql(local, "SELECT 6 * 7") == b"42\n"


def test_dig_reaches_another_agents_name_server_through_a_mapped_udp_port(
    agents: tuple[Staying, Staying], tmp_path: Path
) -> None:
    publisher, mapper = agents
    (tmp_path / "dns").mkdir()
    with name_server(tmp_path / "dns") as dns_port:
        port, over_node, direct = publisher.allocate("--udp"), free_port(), free_port()
        publisher.run("port", "forward", str(port), f"127.0.0.1:{dns_port}", "--udp")
        assert dig(port, "+notcp", "www.example.test") == [ADDRESS]
        mapper.run("portmap", "add", str(over_node), str(port), "--udp")
        mapper.run("portmap", "add", str(direct), f"127.0.0.1:{dns_port}", "--udp")
        assert dig(over_node, "+notcp", "www.example.test") == [ADDRESS]
        assert dig(direct, "+notcp", "www.example.test") == [ADDRESS]
