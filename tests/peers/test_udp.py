"""UDP tunnels, tried by a name server and `dig`."""

from collections.abc import Callable, Iterator

import pytest

from peers_bed import Site, Tunnel, publishing
from testbed.dns import ADDRESS, LONG, TEXTS, dig, name_server

pytestmark = [pytest.mark.timeout(120)]

Publish = Callable[..., Tunnel]


@pytest.fixture(scope="module")
def dns_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with name_server(tmp_path_factory.mktemp("dns")) as port:
        yield port


def test_dig_asks_a_name_server_through_a_tunnel(publish: Publish, dns_port: int) -> None:
    tunnel = publish("udp", f"127.0.0.1:{dns_port}")
    assert tunnel.url == f"udp://localhost:{tunnel.port}"
    assert dig(tunnel.port, "+notcp", "www.example.test") == [ADDRESS]


def test_an_answer_of_several_packets_arrives_whole(publish: Publish, dns_port: int) -> None:
    tunnel = publish("udp", f"127.0.0.1:{dns_port}")
    answer = dig(tunnel.port, "+notcp", "+ignore", "+bufsize=4096", "long.example.test", "TXT")
    assert sorted(answer) == sorted(f'"{number}{LONG}"' for number in range(TEXTS))


def test_a_name_server_has_one_number_for_both_transports(site: Site, publish: Publish, dns_port: int) -> None:
    tunnel = publish("udp", f"127.0.0.1:{dns_port}")
    with publishing(site, "tcp", str(dns_port), "--port", str(tunnel.port)) as other:
        assert other.port == tunnel.port
        # A small buffer has the answer cut off, and dig asks again over TCP.
        answer = dig(tunnel.port, "+bufsize=512", "long.example.test", "TXT")
        assert len([line for line in answer if line.startswith('"')]) == TEXTS
