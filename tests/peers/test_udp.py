"""UDP tunnels and port maps, tried by a name server and `dig`."""

import subprocess
from collections.abc import Callable, Iterator

import pytest

from peers_bed import Site, Tunnel, publishing
from testbed import free_port, require_peer
from testbed.daemons import daemon

pytestmark = [pytest.mark.timeout(120)]

Publish = Callable[..., Tunnel]
LONG = "x" * 200
TEXTS = 12  # together more than a datagram of 1472 bytes holds


@pytest.fixture(scope="module")
def name_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    command = [require_peer("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv"]
    command += ["--no-hosts", "--user=root", "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}"]
    command += ["--edns-packet-max=4096", "--address=/www.example.test/192.0.2.7"]
    command += [f"--txt-record=long.example.test,{number}{LONG}" for number in range(TEXTS)]
    with daemon(command, tmp_path_factory.mktemp("dns"), port):
        yield port


def dig(port: int, *question: str) -> list[str]:
    command = [require_peer("dig"), "-p", str(port), "@127.0.0.1", "+short", "+tries=2", "+time=5", *question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_dig_asks_a_name_server_through_a_tunnel(publish: Publish, name_server: int) -> None:
    tunnel = publish("udp", f"127.0.0.1:{name_server}")
    assert tunnel.url == f"udp://localhost:{tunnel.port}"
    assert dig(tunnel.port, "+notcp", "www.example.test") == ["192.0.2.7"]


def test_an_answer_of_several_packets_arrives_whole(publish: Publish, name_server: int) -> None:
    tunnel = publish("udp", f"127.0.0.1:{name_server}")
    answer = dig(tunnel.port, "+notcp", "+ignore", "+bufsize=4096", "long.example.test", "TXT")
    assert sorted(answer) == sorted(f'"{number}{LONG}"' for number in range(TEXTS))


def test_a_name_server_has_one_number_for_both_transports(site: Site, publish: Publish, name_server: int) -> None:
    tunnel = publish("udp", f"127.0.0.1:{name_server}")
    with publishing(site, "tcp", str(name_server), "--port", str(tunnel.port)) as other:
        assert other.port == tunnel.port
        # A small buffer has the answer cut off, and dig asks again over TCP.
        answer = dig(tunnel.port, "+bufsize=512", "long.example.test", "TXT")
        assert len([line for line in answer if line.startswith('"')]) == TEXTS
