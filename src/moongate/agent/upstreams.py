"""Answering a visitor: dial the upstream, then join it to the channel."""

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from typing import Final, TypeVar

from moongate.agent.datagrams import UpstreamSocket
from moongate.agent.routes import NOTHING, Route
from moongate.agent.sites import Folder, Site, Sites
from moongate.errors import ReachError, UpstreamRefused, UpstreamTimeout, UpstreamUnresolved
from moongate.net.dialing import connect_udp, dial_tcp
from moongate.relay.channels import Channel
from moongate.relay.datagrams import DatagramEnd
from moongate.relay.pump import Half, join
from moongate.relay.turns import collect_writes
from moongate.wire import tunnel as wire
from moongate.wire.hello import serialize_proxy_v1, serialize_proxy_v2

DIAL_TIMEOUT_S: Final = 10.0
DEAF_S: Final = 1.0
_UNPUBLISHED: Final = "nothing is published here yet"

_CODES: Final[tuple[tuple[type[ReachError], int], ...]] = (
    (UpstreamTimeout, wire.UPSTREAM_TIMEOUT),
    (UpstreamUnresolved, wire.UPSTREAM_UNRESOLVED),
    (UpstreamRefused, wire.UPSTREAM_REFUSED),
)

P = TypeVar("P", bound=Half)


def _drop(_: object) -> None:
    """What a visitor sends where nothing is published."""


def _nothing() -> None:
    """What an ended pair has to tell."""


class ChannelEnd(Half):
    """The channel's side of a pair; keeps what the visitor says until the upstream is there (bounded by the credit)."""

    __slots__ = ("_waiting", "on_lost")

    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self._waiting: list[bytes] | None = []
        self.on_lost = on_lost

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            super().data_received(data)
        else:
            self.bytes_received += len(data)
            self._waiting.append(data)

    def attach(self, upstream: "UpstreamEnd", greeting: bytes) -> None:
        """The upstream is connected: greet it and hand over what waited, on either side."""
        waiting, self._waiting = self._waiting or [], None
        join(self, upstream)
        if greeting:
            waiting.insert(0, greeting)
        if waiting and not upstream.lost:
            upstream.transport.write(b"".join(waiting))
        if self._eof_received:
            upstream.end_writing()
        upstream.hand_over(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._waiting = None
        on_lost, self.on_lost = self.on_lost, _nothing
        on_lost()
        self.other = None  # a pair that knew each other for ever would wait for the collector


class UpstreamEnd(Half):
    """The upstream's side of a pair. It may speak, and even leave, before whoever dials it hears of the connection."""

    __slots__ = ("_early", "_left")

    def __init__(self) -> None:
        super().__init__()
        self._early: list[bytes] = []
        self._left: Exception | None = None

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self.bytes_received += len(data)
        self._early.append(data)
        self.hold()  # one piece is enough until there is somebody to read for

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = exc
        super().connection_lost(exc)

    def hand_over(self, visitor: Half) -> None:
        """Say to the visitor what was said before the pair was made."""
        early, self._early = self._early, []
        # Before anything is written: a visitor that cannot take it has us hold again.
        self.release()
        if early:
            visitor.transport.write(b"".join(early))
        if self._left is not None:
            visitor.transport.abort()
        elif self.lost:
            visitor.transport.close()
        elif self._eof_received:
            visitor.end_writing()


class UpstreamDialer:
    """Reaches one route's upstream, again and again, and remembers how that went."""

    def __init__(self, route: Route, sites: Sites | None) -> None:
        self.route = route
        self.open = 0  # channels now
        self.bytes_in = 0
        self.bytes_out = 0
        self.proven_at: float | None = None
        self.round_trip_s: float | None = None
        self.failure = ""
        self._sites = sites
        self._folder: Folder | None = None
        if route.upstream.directory is not None:
            self._folder = self._shared.folder(route.upstream.directory)
        self._tls = _tls_of(route)
        # The address that answered last; the name is resolved again when it does not.
        self._known: str | None = None
        self._dials: dict[Channel, asyncio.Task[None]] = {}

    def answer(self, channel: Channel, on_failure: Callable[[str], None]) -> None:
        """Serve the visitor at the other end of a channel."""
        if self.route.upstream.scheme == NOTHING:
            self.refuse(channel)
            return
        self.open += 1
        if self.route.upstream.scheme == "udp":
            _DatagramVisit(self, channel, on_failure)
            return
        if self._folder is not None or self.route.upstream.base:
            self._serve_site(channel, self._folder, on_failure)
            return
        end = ChannelEnd(lambda: self._ended(channel, end))
        channel.set_protocol(end)
        end.connection_made(channel)
        self._dials[channel] = asyncio.get_running_loop().create_task(self._connect(channel, end, on_failure))

    @property
    def _shared(self) -> Sites:
        """What sites need, made here where nobody has given it."""
        if self._sites is None:
            self._sites = Sites()
        return self._sites

    def refuse(self, channel: Channel) -> None:
        """Turn a visitor away: nothing is published here."""
        if self.route.kind == "udp":
            # At once, it would be told for every datagram; so for a while they are only dropped.
            channel.set_protocol(DatagramEnd(_drop, _drop))
            asyncio.get_running_loop().call_later(DEAF_S, channel.reset, wire.UPSTREAM_REFUSED, _UNPUBLISHED)
        else:
            channel.reset(wire.UPSTREAM_REFUSED, _UNPUBLISHED)

    def _serve_site(self, channel: Channel, folder: Folder | None, on_failure: Callable[[str], None]) -> None:
        async def reach(channel: Channel, make: Callable[[], Half]) -> Half | None:
            return await self._reach(channel, make, on_failure)

        behind = reach if self._has_service else None
        site = Site(self._shared, folder, behind, self._site_ended, base=self.route.upstream.base.encode("utf-8"))
        channel.set_protocol(site)
        site.connection_made(channel)
        if behind is None:
            self.prove(0.0)

    @property
    def _has_service(self) -> bool:
        """Whether there is anything to dial."""
        return bool(self.route.upstream.port)

    def _site_ended(self, site: Site) -> None:
        self.open -= 1
        self.bytes_in += site.bytes_received
        self.bytes_out += site.bytes_sent

    async def _connect(self, channel: Channel, end: ChannelEnd, on_failure: Callable[[str], None]) -> None:
        try:
            upstream = await self._reach(channel, UpstreamEnd, on_failure, greet=False)
        finally:
            self._dials.pop(channel, None)
        if upstream is None:
            return
        if end.lost:
            upstream.transport.abort()
            return
        end.attach(upstream, self._greeting(channel, upstream.transport))

    async def _reach(
        self, channel: Channel, make: Callable[[], P], on_failure: Callable[[str], None], *, greet: bool = True
    ) -> P | None:
        """Connect a channel's upstream; None, and the channel is reset, if that fails."""
        try:
            transport, upstream = await self._dial(make)
        except ReachError as error:
            self.failure = error.message
            code = next((code for kind, code in _CODES if isinstance(error, kind)), wire.UPSTREAM_REFUSED)
            channel.reset(code, error.message)
            on_failure(error.message)
            return None
        collect_writes(transport)
        if greet and (greeting := self._greeting(channel, transport)):
            transport.write(greeting)
        return upstream

    async def _dial(self, make: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        began = time.monotonic()
        upstream = self.route.upstream
        if self._known is not None:
            try:
                made = await dial_tcp(
                    self._known,
                    upstream.port,
                    make,
                    timeout_s=DIAL_TIMEOUT_S,
                    tls=self._tls,
                    server_hostname=upstream.host,
                )
            except UpstreamRefused:
                self._known = None
            else:
                self.prove(time.monotonic() - began)
                return made
        made = await dial_tcp(upstream.host, upstream.port, make, timeout_s=DIAL_TIMEOUT_S, tls=self._tls)
        peer = made[0].get_extra_info("peername")
        self._known = peer[0] if peer else None
        self.prove(time.monotonic() - began)
        return made

    def _greeting(self, channel: Channel, transport: asyncio.Transport) -> bytes:
        version = self.route.proxy_protocol
        visitor = channel.get_extra_info("peername")
        local = transport.get_extra_info("peername")
        if not version or not visitor or not local:
            return b""
        serialize = serialize_proxy_v1 if version == "v1" else serialize_proxy_v2
        return serialize((visitor[0], visitor[1]), (local[0], local[1]))

    def wants_proof(self, age_s: float) -> bool:
        """Whether no visit has proven the upstream lately; an open visitor is proof enough."""
        return not self.open and (self.proven_at is None or time.monotonic() - self.proven_at >= age_s)

    async def probe(self) -> None:
        """Find out whether the upstream takes connections, without a visitor."""
        if self.route.upstream.scheme == "udp":
            await self._probe_udp()
            return
        if not self._has_service:
            self.prove(0.0)
            return
        try:
            transport, _ = await self._dial(Half)
        except ReachError as error:
            self.failure = error.message
        else:
            transport.close()

    async def _probe_udp(self) -> None:
        # A datagram of ours would mean something to the service, so all that is shown is that there is a way to it;
        # where it once refused one, only an answer shows that it is there again.
        upstream = self.route.upstream
        try:
            sock = await connect_udp(upstream.host, upstream.port, timeout_s=DIAL_TIMEOUT_S)
        except ReachError as error:
            self.failure = error.message
            return
        sock.close()
        if not self.failure:
            self.prove(0.0)

    def prove(self, round_trip_s: float) -> None:
        """Note that the upstream is there."""
        self.proven_at = time.monotonic()
        self.round_trip_s = round_trip_s
        self.failure = ""

    def _ended(self, channel: Channel, end: Half) -> None:
        self.open -= 1
        self.bytes_in += end.bytes_received
        if end.other is not None:
            self.bytes_out += end.other.bytes_received
        dial = self._dials.pop(channel, None)
        if dial is not None:
            dial.cancel()


class _DatagramVisit:
    """One visitor of a UDP tunnel and the socket through which the upstream sees it."""

    __slots__ = ("_channel", "_dialer", "_on_failure", "_told", "_upstream")

    def __init__(self, dialer: UpstreamDialer, channel: Channel, on_failure: Callable[[str], None]) -> None:
        self._dialer = dialer
        self._channel = channel
        self._on_failure = on_failure
        self._told = False
        upstream = dialer.route.upstream
        self._upstream = UpstreamSocket(upstream.host, upstream.port, receive=self._answered, failed=self._failed)
        end = DatagramEnd(self._asked, self._lost)
        channel.set_protocol(end)
        end.connection_made(channel)

    def _asked(self, data: bytes) -> None:
        self._dialer.bytes_in += len(data)
        self._upstream.send(data)

    def _answered(self, data: bytes) -> None:
        self._dialer.bytes_out += len(data)
        self._dialer.prove(0.0)
        self._channel.send_datagram(data)

    def _failed(self, reason: str) -> None:
        # The visitor learns nothing of it, as UDP has it; whoever runs the agent does, once for each visitor.
        self._dialer.failure = reason
        if not self._told:
            self._told = True
            self._on_failure(reason)

    def _lost(self, _exc: Exception | None) -> None:
        self._dialer.open -= 1
        self._upstream.close()


def _tls_of(route: Route) -> ssl.SSLContext | None:
    upstream = route.upstream
    if upstream.scheme != "https":
        return None
    # On this very machine a certificate proves nothing that the kernel does not.
    return _context(verified=not (upstream.insecure or _is_loopback(upstream.host)))


@cache
def _context(*, verified: bool) -> ssl.SSLContext:
    """One for all upstreams: each would hold the certificates of every authority of the system."""
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
