"""Visitors of UDP tunnels: a session for each source address, carried as datagrams to the tunnel's agent."""

import asyncio
import errno
import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from moongate.errors import PortUnavailable
from moongate.net.addresses import plain
from moongate.net.listening import Peer, bind_udp
from moongate.relay.datagrams import IDLE_S, DatagramEnd, DatagramPort, Source

if TYPE_CHECKING:
    from moongate.audit.connections import ConnectionRecord
    from moongate.edge.ingress.edge import Edge
    from moongate.edge.routes import Tunnel
    from moongate.relay.channels import Channel


class UdpVisitor:
    """One source of datagrams, joined to a channel; its answers go where `send` sends them."""

    __slots__ = ("_channel", "_edge", "_heard_at", "_options", "_over", "_peer", "_record", "_send", "_tunnel")

    def __init__(
        self, edge: "Edge", tunnel: "Tunnel", peer: Peer, send: Callable[[bytes], object], over: Callable[[], None]
    ) -> None:
        """`over` is called once, when the session has ended."""
        self._edge = edge
        self._tunnel: Tunnel | None = tunnel
        self._peer = peer
        self._send = send
        self._over = over
        self._heard_at = edge.now()
        self._options = tunnel.options  # as they were when this source was let in
        self._record: ConnectionRecord
        self._channel: Channel

    @classmethod
    def admit(
        cls, edge: "Edge", tunnel: "Tunnel", peer: Peer, send: Callable[[bytes], object], over: Callable[[], None]
    ) -> "UdpVisitor | None":
        """Begin a session if the tunnel is there and limits allow it; None is silence, as UDP has it."""
        session = edge.session_of(tunnel)
        if session is None or edge.draining:
            return None
        if edge.shuts_out(tunnel, peer.address):
            return None
        if edge.address_exceeded(peer) or not edge.admit_connection(tunnel, peer):
            edge.metrics.datagrams_dropped += 1
            return None
        visitor = cls(edge, tunnel, peer, send, over)
        edge.visitors.add(visitor)
        tunnel.request_count += 1
        visitor._record = edge.open_record("UDP", tunnel, peer)
        end = DatagramEnd(visitor._answered, visitor._lost)
        visitor._channel = session.open_channel(tunnel, end, visitor._record.id, peer.text)
        return visitor

    def received(self, data: bytes) -> None:
        """Pass a datagram of the visitor on to the agent."""
        if self._tunnel is not None:
            self._heard_at = self._edge.now()
            if self._channel.send_datagram(data):
                self._record.bytes_in += len(data)
            else:
                self._edge.metrics.datagrams_dropped += 1

    def _answered(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._heard_at = self._edge.now()
            self._record.bytes_out += len(data)
            self._send(data)

    def _lost(self, exc: Exception | None) -> None:
        self._leave("upstream closed" if exc is None else str(exc))

    def _leave(self, reason: str) -> None:
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is None:
            return
        self._edge.visitors.discard(self)
        self._edge.release_connection(tunnel, self._peer)
        tunnel.bytes_in += self._record.bytes_in
        tunnel.bytes_out += self._record.bytes_out
        self._edge.close_record(self._record, reason)
        self._over()

    # -- what the edge asks of every visitor

    @property
    def tunnel(self) -> "Tunnel | None":
        return self._tunnel

    @property
    def is_idle(self) -> bool:
        return True  # nothing in UDP tells that something is under way

    def check(self, now: float) -> None:
        tunnel = self._tunnel
        if now - self._heard_at >= IDLE_S:
            self.end("idle")
        elif tunnel is not None:
            self._judge_again(tunnel)

    def _judge_again(self, tunnel: "Tunnel") -> None:
        # A connection under a changed rule finishes on the old one; a source that keeps sending would never finish.
        if tunnel.options is not self._options:
            self._options = tunnel.options
            if self._edge.shuts_out(tunnel, self._peer.address):
                self.end("firewall changed")
                return
        if tunnel.upstream != self._record.target_address:
            self.end("upstream changed")

    def end(self, reason: str) -> None:
        self._leave(reason)
        self._channel.abort()


class UdpPorts:
    """The sockets of UDP tunnels, one per leased port."""

    def __init__(self, edge: "Edge", host: str) -> None:
        self._edge = edge
        self._host = host
        self._ports: dict[int, list[DatagramPort]] = {}
        # An agent that comes back while its port is being opened must find it, and not its other opening.
        self._opening = asyncio.Lock()

    async def open(self, tunnel: "Tunnel") -> None:
        """Receive on the tunnel's port; a tunnel that came back finds it open.

        Raises:
            PortUnavailable: If another program has it.
        """
        number = tunnel.port
        async with self._opening:
            if number is None or number in self._ports:
                return
            try:
                sockets = await bind_udp(self._host, number)
            except OSError as error:
                reason = "another program has it" if error.errno == errno.EADDRINUSE else str(error.strerror)
                raise PortUnavailable(f"UDP port {number} cannot be opened: {reason}") from None
            self._ports[number] = [DatagramPort(partial(self._begin, tunnel), dropped=self._dropped) for _ in sockets]
            for port, bound in zip(self._ports[number], sockets, strict=True):
                await port.open(bound)

    def _begin(self, tunnel: "Tunnel", port: DatagramPort, source: Source) -> UdpVisitor | None:
        local = port.local
        peer = Peer(plain(source[0]), source[1], local[0], local[1])
        return UdpVisitor.admit(self._edge, tunnel, peer, partial(port.send, to=source), partial(port.forget, source))

    def _dropped(self) -> None:
        self._edge.metrics.datagrams_dropped += 1

    def close(self, tunnel: "Tunnel") -> None:
        for port in self._ports.pop(tunnel.port or 0, ()):
            port.close("tunnel closed")

    def close_all(self) -> None:
        for port in itertools.chain.from_iterable(self._ports.values()):
            port.close("node stopped")
        self._ports.clear()
