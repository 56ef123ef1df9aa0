"""One port, and everything that may come in through it."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from moongate.errors import ConfigurationError, PortInUse
from moongate.net import listening
from moongate.net.listening import Peer
from moongate.wire.hello import serialize_proxy_v1, serialize_proxy_v2
from testbed import until_async
from testbed.doors import Answering, Door, TlsClient, open_door, read_answer, trusting

REQUEST = b"GET / HTTP/1.1\r\nHost: a.localhost\r\n\r\n"
SOURCE = ("203.0.113.5", 4711)
DESTINATION = ("198.51.100.1", 443)


# Every door works on both loops.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@contextlib.asynccontextmanager
async def dialed(door: Door) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(door.host, door.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has ended the connection, in whatever way."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass
    return True


async def test_plain_http_is_handed_over_with_its_first_bytes(home: Path) -> None:
    async with open_door(home) as door:
        seen = await door.ask()
    assert (seen["address"], seen["tls"], seen["server_name"], seen["via"]) == ("127.0.0.1", False, None, None)
    assert seen["local_port"] == door.port
    assert bytes(door.connections[0].received) == REQUEST


async def test_tls_ends_here_and_its_inside_is_handed_over(home: Path) -> None:
    async with open_door(home) as door:
        context = trusting(door, strict=True)
        context.set_alpn_protocols(["h2", "http/1.1"])
        seen = await door.ask(tls=context)
    assert (seen["tls"], seen["server_name"], seen["alpn"]) == (True, "a.localhost", "http/1.1")


async def test_a_client_hello_may_come_in_any_pieces(home: Path) -> None:
    async with open_door(home) as door, dialed(door) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = TlsClient(trusting(door))
        hello = client.hello()
        for cut in (hello[:1], hello[1:4], hello[4:6], hello[6:200], hello[200:]):
            writer.write(cut)
            await asyncio.sleep(0.01)
        writer.write(await client.finish(reader) + client.encrypt(REQUEST))
        assert (await client.read(reader)).startswith(b"HTTP/1.1 200")


async def test_what_follows_the_handshake_in_one_packet_is_not_lost(home: Path) -> None:
    async with open_door(home) as door, dialed(door) as (reader, writer):
        client = TlsClient(trusting(door))
        writer.write(client.hello())
        finished = await client.finish(reader)
        writer.write(finished + client.encrypt(REQUEST) + client.encrypt(b"and more"))
        assert (await client.read(reader)).startswith(b"HTTP/1.1 200")
        await until_async(lambda: bytes(door.connections[0].received) == REQUEST + b"and more")


async def test_a_large_first_flight_arrives_whole_and_in_order(home: Path) -> None:
    async with open_door(home) as door, dialed(door) as (reader, writer):
        client = TlsClient(trusting(door))
        writer.write(client.hello())
        body = bytes(range(256)) * 4096
        writer.write(await client.finish(reader))
        for start in range(0, len(body), 16384):
            writer.write(client.encrypt(body[start : start + 16384]))
        await until_async(lambda: door.connections and len(door.connections[0].received) == len(body))
        assert bytes(door.connections[0].received) == body


async def test_a_passed_through_name_gets_every_byte_and_nothing_is_decrypted(home: Path) -> None:
    made: list[Answering] = []

    def raw(peer: Peer, first: bytes) -> asyncio.Protocol:
        made.append(Answering(peer, first))
        return made[-1]

    async with (
        open_door(home, pass_through=lambda name: raw if name == "raw.localhost" else None) as door,
        dialed(door) as (_, writer),
    ):
        hello = TlsClient(trusting(door), "raw.localhost").hello()
        writer.write(hello[:50])
        await asyncio.sleep(0.01)
        writer.write(hello[50:] + b"more")
        await until_async(lambda: made and bytes(made[0].received) == hello + b"more")
        assert (made[0].peer.server_name, made[0].peer.tls) == ("raw.localhost", True)
        made[0].transport.abort()
        assert (await door.ask(tls=trusting(door)))["server_name"] == "a.localhost"


async def test_silence_is_dropped_at_the_deadline(home: Path) -> None:
    async with open_door(home, first_byte_timeout_s=0.15) as door, dialed(door) as (reader, _):
        started = time.monotonic()
        assert await ended(reader)
        assert 0.1 < time.monotonic() - started < 5
        assert door.listener.counts.timed_out == 1


async def test_a_dripping_hello_is_dropped_while_good_clients_go_on(home: Path) -> None:
    async with open_door(home, handshake_timeout_s=1.5) as door:
        hello = TlsClient(trusting(door)).hello()

        async def drip() -> float:
            async with dialed(door) as (reader, writer):
                started = time.monotonic()
                over = asyncio.create_task(ended(reader))
                # Each byte is progress, but only the whole hello counts.
                for byte in hello:
                    if over.done():
                        break
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(0.02)
                await over
                return time.monotonic() - started

        drips = [asyncio.create_task(drip()) for _ in range(20)]
        await until_async(lambda: door.listener.counts.accepted == 20)
        await door.ask(tls=trusting(door))
        assert not any(drip.done() for drip in drips)
        assert min(await asyncio.gather(*drips)) > 1.2
        assert door.listener.counts.timed_out == 20


async def test_a_client_that_stops_in_the_middle_of_the_handshake_is_dropped(home: Path) -> None:
    async with open_door(home, handshake_timeout_s=0.3) as door, dialed(door) as (reader, writer):
        writer.write(TlsClient(trusting(door)).hello())
        assert await ended(reader)
        await until_async(lambda: door.listener.counts.handshakes_failed == 1)
        assert door.listener.counts.timed_out == 1


async def test_clients_that_leave_at_any_moment_of_the_handshake_harm_nobody(home: Path) -> None:
    async with open_door(home) as door:
        context = trusting(door)
        for size in (0, 1, 5, 100, 1000):
            for linger in (b"\x01\x00\x00\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\x00\x00\x00"):
                reader, writer = await asyncio.open_connection(door.host, door.port)
                # A zero linger time makes closing send a reset instead of a goodbye.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client = TlsClient(context)
                writer.write(client.hello()[:size])
                if size == 1000:
                    await client.finish(reader)
                writer.transport.abort()
        await until_async(lambda: not door.listener._undecided and not len(door.listener._handshakes))
        assert (await door.ask(tls=context))["tls"] is True


async def test_bytes_that_only_look_like_tls_are_answered_with_an_alert(home: Path) -> None:
    async with open_door(home) as door, dialed(door) as (reader, writer):
        writer.write(b"\x16\x03\x01\x00\x05\x02\x00\x00\x00\x00")
        assert await reader.read(100) == listening.DECODE_ERROR
        assert await ended(reader)
        assert door.listener.counts.refused == 1
        assert (await door.ask())["tls"] is False


async def test_a_client_that_offers_nothing_modern_is_refused_and_others_go_on(home: Path) -> None:
    async with open_door(home) as door:
        context = trusting(door)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA")
        with pytest.raises(OSError):  # noqa: PT011 (an alert or a reset, whichever comes first)
            await door.ask(tls=context)
        await until_async(lambda: door.listener.counts.handshakes_failed == 1)
        context.set_ciphers("ECDHE+AESGCM")
        assert (await door.ask(tls=context))["tls"] is True


@pytest.mark.parametrize("tls", [False, True])
async def test_a_failing_factory_ends_one_connection_and_is_logged(
    home: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tls: bool
) -> None:
    made: list[Answering] = []

    def fail_once(peer: Peer) -> asyncio.Protocol:
        if not made:
            made.append(Answering(peer))
            raise OSError("the factory is broken")
        made.append(Answering(peer))
        return made[-1]

    async with open_door(home, http=fail_once) as door:
        context = trusting(door) if tls else None
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await door.ask(tls=context)
        assert (await door.ask(tls=context))["tls"] is tls
        made[1].transport.abort()
        assert door.listener.counts.handshakes_failed == 0
    assert "the factory is broken" in capsys.readouterr().out + caplog.text


@pytest.mark.parametrize("serialize", [serialize_proxy_v1, serialize_proxy_v2])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_trusted_proxy_names_the_peer(
    home: Path, serialize: Callable[..., bytes], tls: bool, pieces: int
) -> None:
    async with (
        open_door(home, trusted_proxies=["10.0.0.0/8", "127.0.0.0/8"]) as door,
        dialed(door) as (reader, writer),
    ):
        client = TlsClient(trusting(door))
        sent = serialize(SOURCE, DESTINATION) + (client.hello() if tls else REQUEST)
        step = len(sent) // pieces + 1
        for start in range(0, len(sent), step):
            writer.write(sent[start : start + step])
            await asyncio.sleep(0.01)
        if tls:
            writer.write(await client.finish(reader) + client.encrypt(REQUEST))
            await client.read(reader)
        else:
            await read_answer(reader)
        peer = door.connections[0].peer
        assert (peer.text, peer.tls) == ("203.0.113.5:4711", tls)
        assert peer.via == host_port_of(writer)
        assert not peer.is_loopback
        assert bytes(door.connections[0].received) == REQUEST


def host_port_of(writer: asyncio.StreamWriter) -> str:
    host, port = writer.get_extra_info("sockname")[:2]
    return f"{host}:{port}"


async def test_a_trusted_proxy_may_also_say_nothing(home: Path) -> None:
    async with open_door(home, trusted_proxies=["127.0.0.1"]) as door:
        assert (await door.ask())["via"] is None
        assert (await door.ask(tls=trusting(door)))["via"] is None


async def test_a_trusted_proxy_that_speaks_for_itself_is_the_peer(home: Path) -> None:
    async with open_door(home, trusted_proxies=["127.0.0.1"]) as door, dialed(door) as (reader, writer):
        writer.write(serialize_proxy_v2(None, None) + REQUEST)
        seen = await read_answer(reader)
        assert (seen["address"], seen["via"]) == ("127.0.0.1", None)


@pytest.mark.parametrize("serialize", [serialize_proxy_v1, serialize_proxy_v2])
async def test_a_strangers_proxy_header_changes_nothing(home: Path, serialize: Callable[..., bytes]) -> None:
    async with open_door(home, trusted_proxies=["10.0.0.0/8"]) as door, dialed(door) as (_, writer):
        sent = serialize(SOURCE, DESTINATION) + REQUEST
        writer.write(sent)
        await until_async(lambda: door.connections and bytes(door.connections[0].received) == sent)
        assert door.connections[0].peer.address == "127.0.0.1"
        assert door.connections[0].peer.via is None


async def test_a_trusted_proxys_malformed_header_ends_the_connection(home: Path) -> None:
    async with open_door(home, trusted_proxies=["127.0.0.1"]) as door, dialed(door) as (reader, writer):
        writer.write(b"PROXY TCP4 nonsense\r\n" + REQUEST)
        assert await ended(reader)
        assert door.listener.counts.refused == 1
        assert not door.connections


async def test_a_trusted_proxy_that_never_finishes_its_header_is_dropped(home: Path) -> None:
    async with (
        open_door(home, trusted_proxies=["127.0.0.1"], handshake_timeout_s=0.2) as door,
        dialed(door) as (reader, writer),
    ):
        writer.write(b"PROXY TCP4 ")
        assert await ended(reader)
        assert door.listener.counts.timed_out == 1


async def test_ipv6_peers_are_named_with_brackets(home: Path) -> None:
    async with open_door(home, "::1") as door:
        assert (await door.ask())["address"] == "::1"
        assert door.connections[0].peer.text.startswith("[::1]:")


async def test_every_address_means_both_families_and_ipv4_stays_ipv4(home: Path) -> None:
    async with open_door(home, "::") as door:
        for host in ("127.0.0.1", "::1"):
            door.host = host
            seen = await door.ask()
            assert (seen["address"], seen["local_address"]) == (host, host)


async def test_a_name_with_several_addresses_listens_on_all_of_them_with_one_port(home: Path) -> None:
    async with open_door(home, "localhost") as door:
        found = await asyncio.get_running_loop().getaddrinfo("localhost", door.port, type=socket.SOCK_STREAM)
        assert found
        for *_, address in found:
            door.host = str(address[0])
            await door.ask()


async def test_a_port_in_use_is_named_with_the_way_out(home: Path) -> None:
    async with open_door(home) as door:
        with pytest.raises(PortInUse, match=f"127.0.0.1:{door.port} is in use") as failure:
            await door.listener.start("127.0.0.1", door.port)
        assert "another port" in failure.value.hint
        assert (await door.ask())["tls"] is False


async def test_an_address_that_is_not_ours_is_a_configuration_error(home: Path) -> None:
    async with open_door(home) as door:
        with pytest.raises(ConfigurationError, match="no interface of this machine"):
            await door.listener.start("192.0.2.1", 0)
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            await door.listener.start("no-such-host.invalid", 0)


async def test_several_processes_may_share_a_port_when_asked_to(home: Path) -> None:
    async with open_door(home, reuse_port=True) as one, open_door(home, reuse_port=True) as other:
        await other.listener.start("127.0.0.1", one.port)
        for _ in range(20):
            await one.ask()
        assert len(one.connections) + len(other.connections) == 20


@pytest.mark.parametrize("tls", [False, True])
async def test_live_connections_go_on_when_accepting_stops(home: Path, tls: bool) -> None:
    async with open_door(home) as door:
        reader, writer = await asyncio.open_connection(
            door.host, door.port, ssl=trusting(door) if tls else None, server_hostname="a.localhost" if tls else None
        )
        writer.write(REQUEST)
        await read_answer(reader)
        door.listener.stop_accepting()
        with pytest.raises(OSError, match="refused|Connect call failed"):
            await asyncio.open_connection(door.host, door.port)
        writer.write(REQUEST)
        assert await read_answer(reader)
        writer.transport.abort()


async def test_a_handshake_that_has_begun_is_finished_after_accepting_stopped(home: Path) -> None:
    async with open_door(home) as door, dialed(door) as (reader, writer):
        client = TlsClient(trusting(door))
        writer.write(client.hello())
        finished = await client.finish(reader)
        door.listener.stop_accepting()
        writer.write(finished + client.encrypt(REQUEST))
        assert (await client.read(reader)).startswith(b"HTTP/1.1 200")


async def test_closing_aborts_what_nobody_owns_yet(home: Path) -> None:
    async with (
        open_door(home) as door,
        dialed(door) as (silent, _),
        dialed(door) as (halfway, writer),
        dialed(door) as (shaking, hello_writer),
    ):
        writer.write(b"\x16\x03\x01")
        client = TlsClient(trusting(door))
        hello_writer.write(client.hello())
        await client.finish(shaking)
        await until_async(lambda: len(door.listener._undecided) == 2 and len(door.listener._handshakes) == 1)
        started = time.monotonic()
        await door.listener.aclose()
        assert await ended(silent)
        assert await ended(halfway)
        assert await ended(shaking)
        assert time.monotonic() - started < 1


async def test_undecided_connections_are_bounded_and_the_oldest_goes_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MAX_UNDECIDED", 3)
    async with open_door(home) as door:
        silent = []
        for _ in range(4):
            silent.append(await asyncio.open_connection(door.host, door.port))
            await until_async(lambda: door.listener.counts.accepted == len(silent))
        assert await ended(silent[0][0])
        assert door.listener.counts.evicted == 1
        # A good client is decided at once, so that the flood costs it nothing.
        assert (await door.ask(tls=trusting(door)))["tls"] is True
        for _, writer in silent:
            writer.transport.abort()


async def test_closing_a_tls_connection_does_not_wait_for_a_silent_peer(home: Path) -> None:
    async with open_door(home) as door, dialed(door) as (reader, writer):
        client = TlsClient(trusting(door))
        writer.write(client.hello())
        writer.write(await client.finish(reader) + client.encrypt(REQUEST))
        await client.read(reader)
        started = time.monotonic()
        door.connections[0].transport.close()
        await door.connections[0].lost
        assert time.monotonic() - started < listening.SHUTDOWN_TIMEOUT_S + 1


async def test_the_kernel_does_not_hold_small_writes_back(home: Path) -> None:
    async with open_door(home) as door:
        await door.ask()
        reader, writer = await asyncio.open_connection(door.host, door.port)
        writer.write(REQUEST)
        await read_answer(reader)
        sock = door.connections[-1].transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        writer.transport.abort()
