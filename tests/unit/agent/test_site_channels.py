"""A folder's end of a channel, with a channel that only remembers."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from moongate.agent.sites import Site, Sites
from moongate.agent.sites.sending import PIECE_BYTES
from moongate.relay.pump import Half

GET = b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Remembering(asyncio.Transport):
    """A transport whose other side is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = ""
        self._reading = True
        self.protocol: Any = None
        self.full_at: int | None = None
        self.told = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data
        self.told.set()
        if self.full_at is not None and len(self.written) >= self.full_at:
            self.full_at = None
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        self.ended = self.ended or "eof"

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        if self.ended not in ("closed", "aborted"):
            self.ended = how
            protocol, self.protocol = self.protocol, None
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading

    def take(self) -> bytes:
        """Return what was written, and forget it."""
        written, self.written = bytes(self.written), bytearray()
        return written


class Bench:
    """A channel to a site, and the upstream's connections, in the order they were asked for."""

    def __init__(self, folder: Path, *, upstream: bool, base: bytes = b"") -> None:
        self.sites = Sites()
        self.channel = Remembering()
        self.upstreams: list[tuple[Remembering, Half]] = []
        self.lost = 0
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.connected = asyncio.Event()
        reach: Callable[[Any, Callable[[], Half]], Awaitable[Half | None]] | None = self.reach if upstream else None
        self.site = Site(self.sites, self.sites.folder(folder), reach, self._on_lost, base=base)
        self.channel.protocol = self.site
        self.site.connection_made(self.channel)

    def _on_lost(self, _: Site) -> None:
        self.lost += 1

    async def reach(self, channel: Any, make: Callable[[], Half]) -> Half | None:
        await self.may_connect.wait()
        transport, half = Remembering(), make()
        transport.protocol = half
        half.connection_made(transport)
        self.upstreams.append((transport, half))
        self.connected.set()
        return half

    async def said(self, done: Callable[[bytes], bool] = bool) -> bytes:
        """Wait for threads and turns of the loop until the channel has been told enough."""
        async with asyncio.timeout(10):
            while not done(bytes(self.channel.written)):
                self.channel.told.clear()
                await self.channel.told.wait()
        return self.channel.take()

    async def asked_upstream(self) -> tuple[Remembering, Half]:
        """Wait until the first upstream has got a request."""
        async with asyncio.timeout(10):
            await self.connected.wait()
            await self.upstreams[0][0].told.wait()
        return self.upstreams[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_bytes(b"front")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 8192)
    return tmp_path


async def test_a_head_that_comes_in_pieces_is_one_request(folder: Path) -> None:
    bench = Bench(folder, upstream=True)
    for byte in GET % b"/":
        bench.site.data_received(bytes([byte]))
    assert (await bench.said()).endswith(b"front")
    assert not bench.upstreams


async def test_reading_is_held_while_a_file_is_looked_for(folder: Path) -> None:
    bench = Bench(folder, upstream=False)
    bench.site.data_received(GET % b"/")
    assert not bench.channel.is_reading()
    await bench.said()
    assert bench.channel.is_reading()


async def test_a_file_stops_where_the_channel_is_full_and_goes_on(folder: Path) -> None:
    bench = Bench(folder, upstream=False)
    bench.channel.full_at = 1
    bench.site.data_received(GET % b"/large")
    head = await bench.said()
    assert head.endswith(b"\r\n\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not bench.channel.written
    bench.channel.full_at = PIECE_BYTES
    bench.site.resume_writing()
    first = await bench.said(lambda written: len(written) >= PIECE_BYTES)
    assert len(first) == PIECE_BYTES
    bench.site.resume_writing()
    rest = await bench.said(lambda written: len(written) == 256 * 8192 - PIECE_BYTES)
    assert first + rest == (folder / "large").read_bytes()


async def test_a_second_request_before_the_answer_ends_the_channel(folder: Path) -> None:
    for second in (GET % b"/", b"G"):
        bench = Bench(folder, upstream=False)
        bench.site.data_received(GET % b"/large")
        bench.site.data_received(second)
        await asyncio.sleep(0)
        assert (bench.channel.ended, bench.lost) == ("aborted", 1)


async def test_two_requests_in_one_piece_end_the_channel(folder: Path) -> None:
    bench = Bench(folder, upstream=True)
    bench.site.data_received(GET % b"/" + GET % b"/x")
    assert bench.channel.ended == "aborted"


async def test_what_is_no_http_ends_the_channel(folder: Path) -> None:
    bench = Bench(folder, upstream=False)
    bench.site.data_received(b"\x16\x03\x01 hello\r\n\r\n")
    await asyncio.sleep(0)
    assert (bench.channel.ended, bench.lost) == ("aborted", 1)


async def test_a_channel_that_ends_while_idle_is_closed_and_one_with_an_answer_under_way_after_it(
    folder: Path,
) -> None:
    bench = Bench(folder, upstream=False)
    assert not bench.site.eof_received()  # the transport closes itself then
    bench = Bench(folder, upstream=False)
    bench.site.data_received(GET % b"/")
    assert bench.site.eof_received()
    assert (await bench.said()).endswith(b"front")
    assert bench.channel.ended == "closed"


async def test_a_folder_that_has_its_own_page_for_what_is_missing_shows_it(folder: Path) -> None:
    (folder / "404.html").write_bytes(b"<p>gone fishing")
    bench = Bench(folder, upstream=False)
    for _ in range(2):
        bench.site.data_received(GET % b"/nothing")
        answer = await bench.said()
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html")
        assert answer.endswith(b"<p>gone fishing")
    bench.site.data_received(b"HEAD /nothing HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert (await bench.said()).endswith(b"\r\n\r\n")


async def test_a_redirect_names_no_other_host(folder: Path) -> None:
    (folder / "evil.test").mkdir()
    (folder / "evil.test" / "index.html").write_bytes(b"")
    bench = Bench(folder, upstream=False)
    bench.site.data_received(GET % b"//evil.test?a=//b")
    assert b"\r\nLocation: /evil.test/?a=//b\r\n" in await bench.said()


async def test_what_comes_while_the_upstream_is_dialed_reaches_it_in_order(folder: Path) -> None:
    bench = Bench(folder, upstream=True, base=b"/app")
    bench.may_connect.clear()
    bench.site.data_received(b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-")
    bench.site.data_received(b"Length: 6\r\n\r\nabc")
    bench.site.data_received(b"def")
    bench.may_connect.set()
    upstream, _ = await bench.asked_upstream()
    sent = upstream.take()
    assert sent == b"POST /app/a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\nabcdef"


async def test_an_upstream_is_read_no_faster_than_the_channel_takes_it(folder: Path) -> None:
    bench = Bench(folder, upstream=True)
    bench.site.data_received(GET % b"/api")
    upstream, half = await bench.asked_upstream()
    bench.site.pause_writing()
    assert not upstream.is_reading()
    bench.site.resume_writing()
    assert upstream.is_reading()
    half.pause_writing()
    assert not bench.channel.is_reading()
    half.resume_writing()
    assert bench.channel.is_reading()


async def test_a_visitor_that_leaves_takes_its_upstream_along(folder: Path) -> None:
    bench = Bench(folder, upstream=True)
    bench.site.data_received(GET % b"/api")
    upstream, _ = await bench.asked_upstream()
    bench.channel.abort()
    await asyncio.sleep(0)
    assert upstream.ended
    bench = Bench(folder, upstream=True)
    bench.may_connect.clear()
    bench.site.data_received(GET % b"/api")
    bench.channel.abort()
    bench.may_connect.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert all(upstream.ended for upstream, _ in bench.upstreams)


async def test_an_upstream_that_speaks_unasked_during_a_file_is_dropped(folder: Path) -> None:
    bench = Bench(folder, upstream=True)
    bench.site.data_received(GET % b"/api")
    upstream, half = await bench.asked_upstream()
    half.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    bench.channel.take()
    bench.site.data_received(GET % b"/")
    half.data_received(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    assert upstream.ended == "aborted"
    assert (await bench.said()).count(b"HTTP/1.1") == 1
    assert not bench.channel.ended


async def test_an_answer_of_100_does_not_decide_about_an_upgrade(folder: Path) -> None:
    bench = Bench(folder, upstream=True)
    bench.site.data_received(b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
    _, half = await bench.asked_upstream()
    half.data_received(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    half.data_received(b"HTTP/1.1 200 OK\r\nContent-Le")
    half.data_received(b"ngth: 2\r\n\r\nok")
    bench.channel.take()
    bench.site.data_received(GET % b"/")
    assert (await bench.said()).endswith(b"front")


@pytest.mark.parametrize("path", [b"/", b"/large", b"/api", b"/nothing"])
async def test_a_channel_that_is_over_leaves_nothing_for_the_collector(folder: Path, path: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        bench = Bench(folder, upstream=path == b"/api")
        bench.site.data_received(GET % path)
        if path == b"/api":
            await bench.asked_upstream()
        else:
            await bench.said()
        for transport in [bench.channel, *(upstream for upstream, _ in bench.upstreams)]:
            transport.abort()
        for _ in range(10):
            await asyncio.sleep(0)
        bench.upstreams.clear()
        del bench.site, transport
        assert not [one for one in gc.get_objects() if isinstance(one, Half)]
    finally:
        gc.enable()
