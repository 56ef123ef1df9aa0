"""Visitors that come from an agent: its DIAL, joined to the tunnel that has the port."""

from typing import TYPE_CHECKING

from moongate.edge.ingress.tcp import RawVisitor
from moongate.edge.ingress.udp import UdpVisitor
from moongate.relay.datagrams import DatagramEnd
from moongate.wire import tunnel as wire

if TYPE_CHECKING:
    from moongate.edge.ingress.edge import Edge
    from moongate.net.listening import Peer
    from moongate.relay.channels import Channel

TURNED_AWAY = "the tunnel takes no more visitors, or not from this address"


def answer_dial(edge: "Edge", channel: "Channel", port: int, transport: str, peer: "Peer") -> None:
    """Join an agent's channel to the tunnel on this port; the agent's address is the visitor's."""
    tunnel = edge.routes.by_port(transport, port)
    if tunnel is None or edge.draining:
        channel.reset(wire.NO_TUNNEL, f"no connected agent has {transport} port {port} of this node")
    elif transport == "udp":
        _join_datagrams(channel, UdpVisitor.admit(edge, tunnel, peer, channel.send_datagram, channel.abort))
    else:
        visitor = _DialedVisitor(edge, tunnel, "TCP", peer)
        channel.set_protocol(visitor)
        visitor.connection_made(channel)


def _join_datagrams(channel: "Channel", visitor: UdpVisitor | None) -> None:
    if visitor is None:
        channel.reset(wire.LIMIT, TURNED_AWAY)
        return
    end = DatagramEnd(visitor.received, lambda _exc: visitor.end("visitor closed"))
    channel.set_protocol(end)
    end.connection_made(channel)


class _DialedVisitor(RawVisitor):
    """A visitor whose socket is a channel: it can be told why it is turned away."""

    __slots__ = ()

    def _turn_away(self) -> None:
        self._tunnel = None
        self.transport.reset(wire.LIMIT, TURNED_AWAY)
