"""Local ports that lead elsewhere: to a tunnel's port on the node, or to any host that this machine can reach.

Which ones there are is agent.rules' business; here they are opened, served and closed.
"""

import asyncio
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol

from moongate.agent.datagrams import UpstreamSocket
from moongate.errors import MoongateError, PortInUse
from moongate.net.addresses import host_port
from moongate.net.dialing import dial_tcp
from moongate.net.listening import bind_udp
from moongate.relay.channels import Channel, ChannelReset
from moongate.relay.datagrams import IDLE_S, DatagramEnd, DatagramPort, Session, Source
from moongate.relay.pump import Half, join
from moongate.relay.turns import collect_writes
from moongate.wire.tunnel import CANCELLED

BIND: Final = "127.0.0.1"
DIAL_TIMEOUT_S: Final = 10.0
SWEEP_S: Final = 5.0
BACKLOG: Final = 1024

Transport = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a mapped port leads; without a host, to the tunnel that has this port on the node."""

    port: int
    host: str = ""

    def __str__(self) -> str:
        return host_port(self.host, self.port) if self.host else f"port {self.port} of the node"


class Dial(Protocol):
    """Opens a channel to a port of the node; the protocol has been told of it when this returns."""

    def __call__(self, port: int, transport: str, protocol: asyncio.BaseProtocol) -> Channel:
        """Raises MoongateError if there is no link to the node, or no room on it."""
        ...


class PortMaps:
    """The local ports that this agent maps, each by its number."""

    def __init__(self, dial: Dial, *, on_failure: Callable[[int, str], None]) -> None:
        """`on_failure` is told of each visitor of a mapped port that could not be served, and why."""
        self._dial = dial
        self._on_failure = on_failure
        self._maps: dict[int, _Map] = {}
        self.visitors: set[_LocalVisitor] = set()

    async def open(self, port: int, transport: Transport, target: Target) -> None:
        """Map a local port; one that is mapped already leads elsewhere from now on.

        Raises:
            PortInUse: If another program has it.
        """
        known = self._maps.get(port)
        if known is not None and known.transport == transport:
            known.target = target
            return
        made = _TcpMap(self, port, target) if transport == "tcp" else _UdpMap(self, port, target)
        try:
            await made.open()
        except OSError as error:
            reason = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise PortInUse(
                f"cannot listen on {transport} port {port} of {BIND}: {reason}", hint="choose another local port"
            ) from None
        self.close(port)
        self._maps[port] = made

    def close(self, port: int) -> None:
        """Give a local port back; TCP connections through it go on until their ends close them."""
        known = self._maps.pop(port, None)
        if known is not None:
            known.close()

    def close_all(self) -> None:
        """Give every port back and end what goes through them."""
        for known in self._maps.values():
            known.close()
        self._maps.clear()
        for visitor in list(self.visitors):
            visitor.transport.abort()

    def connections(self, port: int) -> int:
        """How many visitors a mapped port has now."""
        known = self._maps.get(port)
        return known.open_now if known is not None else 0

    def end_idle(self, now: float) -> None:
        """End the UDP sessions that have had no datagram for IDLE_S; `now` is on the monotonic clock."""
        for known in self._maps.values():
            if isinstance(known, _UdpMap):
                known.end_idle(now)

    # -- what the maps ask for

    def dial(self, port: int, transport: Transport, protocol: asyncio.BaseProtocol) -> Channel:
        return self._dial(port, transport, protocol)

    def failed(self, port: int, reason: str) -> None:
        self._on_failure(port, reason)


class _TcpMap:
    """A listening socket; each connection is joined to one of its own to the target."""

    transport: Final = "tcp"

    def __init__(self, maps: PortMaps, port: int, target: Target) -> None:
        self.maps = maps
        self.port = port
        self.target = target
        self.open_now = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _LocalVisitor(self), BIND, self.port, backlog=BACKLOG)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class _LocalVisitor(Half):
    """A program on this machine that has connected to a mapped port."""

    __slots__ = ("_dialing", "_early", "_map")

    def __init__(self, mapped: _TcpMap) -> None:
        super().__init__()
        self._map = mapped
        self._dialing: asyncio.Task[None] | None = None
        self._early: list[bytes] | None = None  # what was said before the host had answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        collect_writes(transport)
        self._map.maps.visitors.add(self)
        self._map.open_now += 1
        target = self._map.target
        if target.host:
            self._early = []
            self._dialing = asyncio.get_running_loop().create_task(self._dial(target))
        else:
            self._dial_node(target.port)

    def _dial_node(self, port: int) -> None:
        upstream = _Upstream(self.failed)
        try:
            self._map.maps.dial(port, "tcp", upstream)
        except MoongateError as error:
            self.failed(error.message)
            self.transport.abort()
        else:
            join(self, upstream)

    async def _dial(self, target: Target) -> None:
        upstream = _Upstream(self.failed)
        # It may speak as soon as it is connected.
        upstream.other = self
        try:
            transport, _ = await dial_tcp(target.host, target.port, lambda: upstream, timeout_s=DIAL_TIMEOUT_S)
        except MoongateError as error:
            self.failed(error.message)
            self.transport.abort()
            return
        self._dialing = None
        if self.lost:
            transport.abort()
            return
        collect_writes(transport)
        early, self._early = self._early or [], None
        self.other = upstream
        if early:
            transport.write(b"".join(early))
        if self._eof_received:
            upstream.end_writing()
        self.release()

    def data_received(self, data: bytes) -> None:
        if self._early is None:
            super().data_received(data)
            return
        self.bytes_received += len(data)
        self._early.append(data)
        self.hold()  # one piece is enough until there is somebody to read for

    def failed(self, reason: str) -> None:
        self._map.maps.failed(self._map.port, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self in self._map.maps.visitors:
            self._map.maps.visitors.discard(self)
            self._map.open_now -= 1
        if self._dialing is not None:
            self._dialing.cancel()
        self.other = None  # a pair that knew each other for ever would wait for the collector


class _Upstream(Half):
    """The far end of a mapped connection; says why it was refused."""

    __slots__ = ("_failed",)

    def __init__(self, failed: Callable[[str], None]) -> None:
        super().__init__()
        self._failed = failed

    def connection_lost(self, exc: Exception | None) -> None:
        if _is_failure(exc) and not self.bytes_received:
            self._failed(str(exc))
        super().connection_lost(exc)
        self.other = None


def _is_failure(exc: Exception | None) -> bool:
    """Whether a channel ended by anything else than the other side's leaving."""
    return isinstance(exc, ChannelReset) and exc.code != CANCELLED


class _UdpMap:
    """A bound UDP socket; each local source has a session with the target."""

    transport: Final = "udp"

    def __init__(self, maps: PortMaps, port: int, target: Target) -> None:
        self.maps = maps
        self.port = port
        self.target = target
        self._port = DatagramPort(self._begin)
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def open_now(self) -> int:
        return len(self._port.sessions)

    async def open(self) -> None:
        (bound,) = await bind_udp(BIND, self.port)
        await self._port.open(bound)

    def _begin(self, port: DatagramPort, source: Source) -> Session | None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        try:
            return _MapSession(self, partial(port.send, to=source), partial(port.forget, source))
        except MoongateError as error:
            self.failed(error.message)
            return None

    def _sweep(self) -> None:
        self._sweeping = None
        self.end_idle(time.monotonic())
        if self._port.sessions:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def end_idle(self, now: float) -> None:
        for session in list(self._port.sessions.values()):
            if isinstance(session, _MapSession) and now - session.heard_at >= IDLE_S:
                session.end("idle")

    def failed(self, reason: str) -> None:
        self.maps.failed(self.port, reason)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._port.close("the port map was closed")


_Map = _TcpMap | _UdpMap


class _MapSession:
    """One local source of datagrams, and its way to the target."""

    def __init__(self, mapped: _UdpMap, send: Callable[[bytes], None], over: Callable[[], None]) -> None:
        """Raises MoongateError if the target is the node's and there is no way to it."""
        self.heard_at = time.monotonic()
        self._send = send
        self._over: Callable[[], None] | None = over
        self._failed = mapped.failed
        self._pass_on: Callable[[bytes], object]
        self._close: Callable[[], None]
        target = mapped.target
        if target.host:
            upstream = UpstreamSocket(target.host, target.port, receive=self._answered, failed=mapped.failed)
            self._pass_on, self._close = upstream.send, upstream.close
        else:
            channel = mapped.maps.dial(target.port, "udp", DatagramEnd(self._answered, self._lost))
            self._pass_on, self._close = channel.send_datagram, channel.abort

    def received(self, data: bytes) -> None:
        """Pass a datagram of the local program on."""
        self.heard_at = time.monotonic()
        self._pass_on(data)

    def _answered(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        self._send(data)

    def _lost(self, exc: Exception | None) -> None:
        if _is_failure(exc):
            self._failed(str(exc))
        self.end("the node ended it")

    def end(self, reason: str) -> None:
        """Forget the source."""
        over, self._over = self._over, None
        if over is not None:
            over()
            self._close()
