"""Reaching upstreams and nodes, and what is said when that fails."""

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from moongate.errors import ReachError, UpstreamRefused, UpstreamTimeout, UpstreamUnresolved, WrongAuthority
from moongate.net import dialing
from moongate.net.addresses import NodeAddress, Peer, make_join
from moongate.net.certificates import Certificates
from moongate.net.dialing import connect_udp, dial_tcp, node_context, resolve
from moongate.net.listening import bind_udp
from testbed import free_port
from testbed.doors import Answering, Door, open_door
from testbed.pem import write_pair

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


class Silent(asyncio.Protocol):
    """Says nothing, and counts how often it was made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1


class Node(Answering):
    """Answers the question for the authority as a node does."""

    pem = b""

    def data_received(self, data: bytes) -> None:
        assert b"GET /moongate/ca.pem HTTP/1.1\r\nHost: " in data
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.pem), self.pem))


@contextlib.asynccontextmanager
async def open_node(home: Path, given: tuple[Path, Path] | None = None) -> AsyncIterator[Door]:
    made: list[Node] = []

    def answer(peer: Peer) -> asyncio.Protocol:
        made.append(Node(peer))
        return made[-1]

    Node.pem = Certificates(home, "localhost").ca_pem
    async with open_door(home, http=answer, given=given) as door:
        yield door
        for node in made:
            node.transport.abort()


@pytest.fixture
def silent_port() -> int:
    return free_port()


async def test_a_listening_port_is_reached_and_small_writes_are_not_held_back(home: Path) -> None:
    async with open_door(home) as door:
        for host in ("127.0.0.1", "localhost"):
            transport, protocol = await dial_tcp(host, door.port, Silent, timeout_s=5)
            assert isinstance(protocol, Silent)
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            transport.abort()


async def test_localhost_is_tried_in_both_families(home: Path) -> None:
    Silent.made = 0
    async with open_door(home, "::1") as door:
        transport, _ = await dial_tcp("localhost", door.port, Silent, timeout_s=5)
        assert Silent.made == 1
        assert transport.get_extra_info("peername")[0] == "::1"
        transport.abort()


async def test_ipv6_is_reached_by_its_address(home: Path) -> None:
    async with open_door(home, "::1") as door:
        transport, _ = await dial_tcp("::1", door.port, Silent, timeout_s=5)
        transport.abort()


async def test_a_closed_port_is_a_refusal_that_names_it(silent_port: int) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        with pytest.raises(UpstreamRefused, match=f":{silent_port} refused the connection"):
            await dial_tcp(host, silent_port, Silent, timeout_s=5)


async def test_a_name_without_address_is_named() -> None:
    for name in ("no-such-name.invalid", "a" * 64 + ".example", "bad..name"):
        with pytest.raises(UpstreamUnresolved, match=name):
            await dial_tcp(name, 80, Silent, timeout_s=10)


async def test_an_upstream_that_never_answers_is_a_timeout_and_nothing_is_left_open() -> None:
    """A listener whose backlog is full lets the kernel drop further connection attempts."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
            fillers.append(filler)
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout, match=rf"127\.0\.0\.1:{port} within 0\.3 s"):
            await dial_tcp("127.0.0.1", port, Silent, timeout_s=0.3)
        assert time.monotonic() - started < 2
        for filler in fillers:
            filler.close()


async def test_a_slow_address_does_not_hold_up_the_next_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    closed: list[str] = []
    real = dialing._connect

    async def connect(family: int, address: str, port: int) -> socket.socket:
        started.append(address)
        if address == "127.0.0.2":
            try:
                await asyncio.sleep(60)
            finally:
                closed.append(address)
        return await real(family, address, port)

    async def both(_host: str, _port: int) -> list[tuple[int, str]]:
        return [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.3")]

    monkeypatch.setattr(dialing, "_connect", connect)
    monkeypatch.setattr(dialing, "resolve", both)
    Silent.made = 0
    async with open_door(home) as door:
        begun = time.monotonic()
        transport, _ = await dial_tcp("two.example", door.port, Silent, timeout_s=10)
        assert 0.2 < time.monotonic() - begun < 2
        assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        transport.abort()
        await asyncio.sleep(0)
    assert started == ["127.0.0.2", "127.0.0.1"]
    assert closed == ["127.0.0.2"]
    assert Silent.made == 1


async def test_a_refused_address_makes_way_for_the_next_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(_host: str, _port: int) -> list[tuple[int, str]]:
        return [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]

    monkeypatch.setattr(dialing, "resolve", both)
    async with open_door(home) as door:
        begun = time.monotonic()
        transport, _ = await dial_tcp("two.example", door.port, Silent, timeout_s=10)
        assert time.monotonic() - begun < dialing.ALTERNATE_AFTER_S
        transport.abort()


async def test_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    six, four = socket.AF_INET6, socket.AF_INET
    answer = [(six, "2001:db8::1"), (six, "2001:db8::2"), (six, "2001:db8::3"), (four, "192.0.2.1")]

    class Resolver:
        async def getaddrinfo(self, *_: object, **__: object) -> list[tuple[object, ...]]:
            return [(family, 1, 6, "", (address, 80)) for family, address in answer]

    monkeypatch.setattr(asyncio, "get_running_loop", Resolver)
    found = await resolve("four.example", 80)
    monkeypatch.undo()
    assert loop is asyncio.get_running_loop()
    assert found == [answer[0], answer[3], answer[1], answer[2]]


async def test_no_descriptors_left_is_said_so(monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    async def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def both(_host: str, _port: int) -> list[tuple[int, str]]:
        return [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]

    monkeypatch.setattr(dialing, "_connect", none_left)
    monkeypatch.setattr(dialing, "resolve", both)
    with pytest.raises(ReachError, match="Too many open files") as failure:
        await dial_tcp("two.example", silent_port, Silent, timeout_s=5)
    assert not isinstance(failure.value, UpstreamRefused)


async def test_a_node_is_believed_by_its_join_string_alone(home: Path) -> None:
    async with open_node(home) as door:
        for host in ("127.0.0.1", "localhost"):
            join = make_join(host, door.port, "token", door.certificates.fingerprint)
            address = NodeAddress.parse(join)
            context = await node_context(address)
            transport, _ = await dial_tcp(address.host, address.port, Silent, timeout_s=5, tls=context)
            tls = transport.get_extra_info("ssl_object")
            assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
            transport.abort()


async def test_a_node_with_given_files_is_believed_by_the_same_join_string(home: Path, tmp_path: Path) -> None:
    async with open_node(home, write_pair(tmp_path / "given", "localhost")) as door:
        address = NodeAddress("localhost", door.port, fingerprint=door.certificates.fingerprint)
        transport, _ = await dial_tcp("localhost", door.port, Silent, timeout_s=5, tls=await node_context(address))
        transport.abort()


async def test_another_authority_is_refused_and_both_are_named(home: Path, tmp_path: Path) -> None:
    other = Certificates(tmp_path / "other", "localhost").fingerprint
    async with open_node(home) as door:
        address = NodeAddress("127.0.0.1", door.port, token="secret-token", fingerprint=other)
        with pytest.raises(WrongAuthority) as failure:
            await node_context(address)
        assert other in failure.value.message
        assert door.certificates.fingerprint in failure.value.message
        assert "secret-token" not in failure.value.message


async def test_an_impostor_that_shows_the_right_authority_cannot_finish_the_handshake(
    home: Path, tmp_path: Path
) -> None:
    """The authority's certificate is public; only its leaf proves anything."""
    genuine = Certificates(tmp_path / "genuine", "localhost")
    async with open_node(home) as door:
        Node.pem = genuine.ca_pem
        address = NodeAddress("127.0.0.1", door.port, fingerprint=genuine.fingerprint)
        context = await node_context(address)
        with pytest.raises(WrongAuthority, match="certificate of 127"):
            await dial_tcp("127.0.0.1", door.port, Silent, timeout_s=5, tls=context)


async def test_a_server_that_is_no_node_is_told_apart(home: Path) -> None:
    async with open_door(home) as door:
        address = NodeAddress("127.0.0.1", door.port, fingerprint="0" * 64)
        with pytest.raises(ReachError, match="is not a Moongate node"):
            await node_context(address)


async def test_a_node_that_says_nothing_is_a_timeout(home: Path) -> None:
    async with open_door(home, http=lambda _peer: asyncio.Protocol()) as door:
        address = NodeAddress("127.0.0.1", door.port, fingerprint="0" * 64)
        with pytest.raises(UpstreamTimeout, match=r"within 0\.3 s"):
            await node_context(address, timeout_s=0.3)


async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-x\r\n")
    writer.close()


async def test_a_port_without_tls_is_a_refusal(home: Path) -> None:
    async with open_door(home) as door:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamRefused, match="did not complete the TLS handshake"):
            await node_context(NodeAddress("127.0.0.1", port, fingerprint=door.certificates.fingerprint))
        server.close()


async def test_without_a_fingerprint_only_the_systems_authorities_are_believed(home: Path) -> None:
    async with open_door(home) as door:
        address = NodeAddress("localhost", door.port)
        context = await node_context(address)
        assert context is not None
        assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        with pytest.raises(WrongAuthority, match="not accepted"):
            await dial_tcp("localhost", door.port, Silent, timeout_s=5, tls=context)


async def test_plain_loopback_needs_no_tls(home: Path) -> None:
    assert await node_context(replace(NodeAddress("127.0.0.1", 1), tls=False)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_udp_socket_is_connected_and_sends_whole_datagrams(host: str) -> None:
    (service,) = await bind_udp("127.0.0.1", 0)
    with service, await connect_udp(host, service.getsockname()[1], timeout_s=5) as sock:
        sock.send(b"")
        sock.send(b"hello")
        assert [service.recv(100), service.recv(100)] == [b"", b"hello"]


async def test_a_name_without_an_address_has_no_udp_either() -> None:
    with pytest.raises(UpstreamUnresolved, match=r"nowhere\.invalid has no address"):
        await connect_udp("nowhere.invalid", 53, timeout_s=10)


async def test_a_name_that_is_not_found_out_in_time_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(host: str, port: int) -> list[dialing.Address]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(dialing, "resolve", slow)
    with pytest.raises(UpstreamTimeout, match="the address of db was not found within"):
        await connect_udp("db", 53, timeout_s=0.01)


async def test_the_next_address_is_taken_when_there_is_no_way_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(host: str, port: int) -> list[dialing.Address]:
        # Nobody may send to everybody without asking for it (SO_BROADCAST): a refusal that needs no network.
        return [(socket.AF_INET, "255.255.255.255"), (socket.AF_INET, "127.0.0.1")]

    monkeypatch.setattr(dialing, "resolve", two)
    with await connect_udp("db", 53, timeout_s=5) as sock:
        assert sock.getpeername() == ("127.0.0.1", 53)


async def test_a_host_to_which_there_is_no_way_is_told() -> None:
    with pytest.raises(UpstreamRefused, match=r"255\.255\.255\.255:53 cannot be reached"):
        await connect_udp("255.255.255.255", 53, timeout_s=5)
