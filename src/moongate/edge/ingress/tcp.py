"""Visitors whose bytes pass untouched: those of TCP tunnels, and TLS passed through by server name."""

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import structlog

from moongate.audit.connections import ConnectionType
from moongate.errors import ConfigurationError, PortInUse, PortUnavailable
from moongate.net.addresses import plain
from moongate.net.listening import Peer, bind
from moongate.relay.pump import Half, join
from moongate.relay.turns import collect_writes

if TYPE_CHECKING:
    from moongate.audit.connections import ConnectionRecord
    from moongate.edge.ingress.edge import Edge
    from moongate.edge.routes import Tunnel

log = structlog.get_logger(__name__)

BACKLOG = 1024


class RawVisitor(Half):
    """A visitor's socket, joined to a channel."""

    __slots__ = ("_edge", "_first", "_kind", "_peer", "_record", "_tunnel")

    def __init__(
        self, edge: "Edge", tunnel: "Tunnel", kind: ConnectionType, peer: Peer | None = None, first: bytes = b""
    ) -> None:
        super().__init__()
        self._first = first  # what was read to find out where this visitor wants to go
        self._edge = edge
        self._tunnel: Tunnel | None = tunnel
        self._kind: ConnectionType = kind
        self._peer = peer
        self._record: ConnectionRecord | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        collect_writes(transport)
        tunnel, edge = self._tunnel, self._edge
        if self._peer is None:
            self._peer = _peer_of(self.transport)
        session = edge.session_of(tunnel) if tunnel is not None else None
        if self._peer is None or tunnel is None or session is None or edge.draining:
            self._turn_away()
            return
        if edge.shuts_out(tunnel, self._peer.address):
            self._turn_away()
            return
        if edge.address_exceeded(self._peer) or not edge.admit_connection(tunnel, self._peer):
            self._turn_away()
            return
        edge.visitors.add(self)
        tunnel.request_count += 1
        self._record = edge.open_record(self._kind, tunnel, self._peer)
        upstream = Half()
        session.open_channel(tunnel, upstream, self._record.id, self._peer.text)
        join(self, upstream)
        if self._first:
            first, self._first = self._first, b""
            self.data_received(first)

    def _turn_away(self) -> None:
        self._tunnel = None
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._leave("visitor closed" if exc is None else "visitor reset")
        self.other = None  # a pair that knew each other for ever would wait for the collector

    def _leave(self, reason: str) -> None:
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is None or self._record is None or self._peer is None:
            return
        edge = self._edge
        edge.visitors.discard(self)
        edge.release_connection(tunnel, self._peer)
        record = self._record
        self.count()
        tunnel.bytes_in += record.bytes_in
        tunnel.bytes_out += record.bytes_out
        upstream = self.other
        if upstream is not None and upstream.reset is not None:
            reason = upstream.reset
        edge.close_record(record, reason)

    def count(self) -> None:
        """Bring the record's counters up to now; the data path counts on its own objects."""
        if self._record is not None:
            self._record.bytes_in = self.bytes_received
            self._record.bytes_out = self.other.bytes_received if self.other is not None else 0

    # -- what the edge asks of every visitor

    @property
    def tunnel(self) -> "Tunnel | None":
        return self._tunnel

    @property
    def is_idle(self) -> bool:
        return False

    def check(self, now: float) -> None:
        self.count()

    def end(self, reason: str) -> None:
        self._leave(reason)
        self.transport.abort()


def _peer_of(transport: Any) -> Peer | None:
    peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not peer or not local:
        return None
    return Peer(plain(peer[0]), peer[1], plain(local[0]), local[1])


class TcpPorts:
    """The listening sockets of TCP tunnels, one per leased port."""

    def __init__(self, edge: "Edge", host: str) -> None:
        self._edge = edge
        self._host = host
        self._servers: dict[int, list[asyncio.Server]] = {}
        # An agent that comes back while its port is being opened must find it, and not its other opening.
        self._opening = asyncio.Lock()

    async def open(self, tunnel: "Tunnel") -> None:
        """Listen on the tunnel's port; a tunnel that came back finds it open.

        Raises:
            PortUnavailable: If another program listens there.
        """
        async with self._opening:
            if tunnel.port is not None and tunnel.port not in self._servers:
                await self._open(tunnel, tunnel.port)

    async def _open(self, tunnel: "Tunnel", port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            sockets = await bind(self._host, port)
        except PortInUse:
            raise PortUnavailable(f"port {port} cannot be opened: another program listens there") from None
        except ConfigurationError as error:
            raise PortUnavailable(f"port {port} cannot be opened: {error.message}", hint=error.hint) from None
        self._servers[port] = [
            await loop.create_server(lambda: RawVisitor(self._edge, tunnel, "TCP"), sock=sock, backlog=BACKLOG)
            for sock in sockets
        ]

    def close(self, tunnel: "Tunnel") -> None:
        for server in self._servers.pop(tunnel.port or 0, ()):
            server.close()

    def close_all(self) -> None:
        for server in itertools.chain.from_iterable(self._servers.values()):
            server.close()
        self._servers.clear()
