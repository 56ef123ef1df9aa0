"""Channels: one visitor's bytes on a link, or on a lane of its own once they are bulk (docs/protocol/tunnel.md §5, §6).

A Channel has the interface of an asyncio transport, so any asyncio.Protocol can sit at its end.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import structlog

from moongate.errors import LimitExceeded, ProtocolError
from moongate.relay.links import SILENCE_LIMIT_S, Link
from moongate.relay.turns import Mice
from moongate.wire import tunnel
from moongate.wire.tunnel import INITIAL_CREDIT, MAX_DATAGRAM, MAX_LANES, OPENED_BY_AGENT, Message, Payload

LANE_IDLE_S = 30.0
# What one agent may have dialled at a time, so that it cannot fill the node with channels.
MAX_DIALED = 4096
_GRANT_AT = INITIAL_CREDIT // 2

log = structlog.get_logger(__name__)


class ChannelReset(ConnectionError):
    """The other side, or the loss of the link, ended the channel; `code` is a RESET code."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(detail or f"channel reset with code {code}")
        self.code = code
        self.detail = detail


class Owner(Protocol):
    """Who a Mux works for: an agent's session on the node, or the agent."""

    def control(self, message: Message) -> None: ...
    def opened(self, channel: "Channel", number: int, connection_id: bytes, visitor: str) -> None: ...
    def dialed(self, channel: "Channel", port: int, transport: str) -> None: ...
    def request_lane(self, number: int) -> None: ...
    def mux_lost(self, reason: str) -> None: ...


class Channel(asyncio.Transport):
    """One visitor's two directions, as a transport."""

    __slots__ = (
        "_early",
        "_eof_queued",
        "_eof_received",
        "_eof_sent",
        "_mux",
        "_over",
        "_paused_writing",
        "_pending",
        "_pending_size",
        "_protocol",
        "_reading_done",
        "_reading_paused",
        "_returned",
        "_window",
        "credit",
        "heard",
        "inbound",
        "lane_wanted",
        "number",
        "outbound",
        "visitor",
    )

    def __init__(self, mux: "Mux", number: int, protocol: asyncio.Protocol | None, visitor: str) -> None:
        self._mux = mux
        self.number = number
        self.visitor = visitor
        self._protocol: asyncio.Protocol | None = protocol
        self.credit = INITIAL_CREDIT  # what we may still send
        self._window = INITIAL_CREDIT  # what the peer may still send
        self._returned = 0  # consumed since the last CREDIT
        self._pending: deque[Payload] | None = None
        self._pending_size = 0
        self._early: list[tuple[int, Payload]] | None = None
        self.outbound: Lane | None = None
        self.inbound: Lane | None = None
        self.lane_wanted = False
        self.heard = False  # the other side knows this channel: it has said something about it
        self._paused_writing = False
        self._reading_paused = False
        self._eof_queued = False
        self._eof_sent = False
        self._eof_received = False
        self._reading_done = False  # CANCEL sent: what still comes is dropped
        self._over = False

    # -- the transport's side: what the local protocol asks for

    def write(self, data: Payload) -> None:  # type: ignore[override]
        if self._over or self._eof_queued:
            return
        size = len(data)
        if self.outbound is not None:
            self.outbound.link.send_bulk(self.number, data)
        elif self._pending is None and size <= self.credit and self._mux.link.writable:
            if size:
                self.credit -= size
                self._mux.link.send_data(self.number, data)
        else:
            self._queue(data, size)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if self._over or self._eof_queued:
            return
        self._eof_queued = True
        if self._pending is None:
            self._send_eof()

    def can_write_eof(self) -> bool:
        return True

    def send_datagram(self, data: bytes) -> bool:
        """Send one whole datagram, or drop it when the link cannot take it now; whether it was sent."""
        if self._over or self._eof_queued or not self._mux.link.writable or len(data) > MAX_DATAGRAM:
            return False
        self._mux.link.send(tunnel.serialize(tunnel.DATAGRAM, self.number, data))
        return True

    def close(self) -> None:
        """Send what is waiting, then end both directions."""
        if self._over:
            return
        if not self._eof_received and not self._reading_done:
            self._reading_done = True
            self._mux.link.send(tunnel.serialize(tunnel.CANCEL, self.number))
            self._let_lane_read()
        self.write_eof()
        self._end_if_done()

    def abort(self) -> None:
        self.reset(tunnel.CANCELLED)

    def reset(self, code: int, detail: str = "") -> None:
        """End both directions at once and tell the other side why."""
        if self._over:
            return
        self._mux.link.send(tunnel.serialize_reset(self.number, code, detail))
        self._finish(None)

    def is_closing(self) -> bool:
        return self._over or self._eof_queued

    def pause_reading(self) -> None:
        self._reading_paused = True
        if self.inbound is not None:
            self.inbound.link.pause_reading()

    def resume_reading(self) -> None:
        self._reading_paused = False
        if self._over:
            return
        self._let_lane_read()
        self._return_credit()

    def is_reading(self) -> bool:
        return not self._reading_paused

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol  # type: ignore[assignment]

    def get_protocol(self) -> asyncio.BaseProtocol:
        if self._protocol is None:
            raise RuntimeError("the channel is over")
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            host, _, port = self.visitor.rpartition(":")
            return (host.strip("[]"), int(port)) if port.isdigit() else default
        return default

    def makes_way(self) -> bool:
        """Whether bulk for this channel should go slower now."""
        return self._mux.makes_way()

    def get_write_buffer_size(self) -> int:
        return self._pending_size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The credit is the limit."""

    # -- the link's side: what frames mean

    def receive(self, data: Payload) -> None:
        """DATA on the shared link."""
        self.heard = True
        size = len(data)
        self._window -= size
        if self._window < 0:
            raise ProtocolError(f"channel {self.number} sent more than its credit")
        if self._reading_done or self._protocol is None:
            return
        self._protocol.data_received(data)  # type: ignore[arg-type]
        self._returned += size
        if self._returned >= _GRANT_AT and not self._reading_paused:
            self._return_credit()

    def receive_datagram(self, data: Payload) -> None:
        """DATAGRAM on the shared link; the protocol is one of datagrams, or the channel ends here."""
        self.heard = True
        if self._reading_done or self._protocol is None:
            return
        receive = getattr(self._protocol, "datagram_received", None)
        if receive is None:
            self.fail(tunnel.PROTOCOL, "datagrams do not belong on this channel")
        else:
            receive(data)

    def receive_from_lane(self, data: Payload) -> None:
        if not self._reading_done and self._protocol is not None:
            self._protocol.data_received(data)  # type: ignore[arg-type]

    def receive_eof(self) -> None:
        if self._eof_received or self._over:
            return
        self._eof_received = True
        if not self._reading_done and self._protocol is not None and not self._protocol.eof_received():
            self.close()
        self._end_if_done()

    def receive_cancel(self) -> None:
        """The other side reads no more: what waits for it is dropped."""
        self._pending = None
        self._pending_size = 0
        self._eof_queued = self._eof_sent = True
        self._resume_protocol()
        self._end_if_done()

    def receive_credit(self, amount: int) -> None:
        self.heard = True
        self.credit += amount
        if self._pending is not None:
            self.flush()

    def fail(self, code: int, detail: str) -> None:
        """End both directions for a fault: the other side and our own protocol are told why."""
        if not self._over:
            self._mux.link.send(tunnel.serialize_reset(self.number, code, detail))
            self.lost(code, detail)

    def lost(self, code: int, detail: str) -> None:
        """The channel is over by the other side's word, or with its link."""
        self._finish(ChannelReset(code, detail))

    def hold(self, kind: int, payload: Payload) -> None:
        """Keep what came on a lane ahead of its MOVE."""
        if self._early is None:
            self._early = []
        self._early.append((kind, payload))

    def move_inbound(self, lane: "Lane") -> None:
        if self.inbound is not None:
            raise ProtocolError(f"channel {self.number} moved twice")
        self.inbound = lane
        early, self._early = self._early, None
        for kind, payload in early or ():
            lane.deliver(self, kind, payload)
        if not self._reading_paused:
            lane.link.resume_reading()

    def move_outbound(self, lane: "Lane") -> None:
        """The MOVE is our last word on the shared link for this direction."""
        self.outbound = lane
        self._mux.link.send(tunnel.serialize_number(tunnel.MOVE, self.number, lane.number))
        for data in self._pending or ():
            lane.link.send_bulk(self.number, data)
        self._drained()

    def flush(self) -> None:
        """Send what waits, as far as credit and link allow."""
        while self._pending and self.credit and self._mux.link.writable:
            data = self._pending.popleft()
            if len(data) > self.credit:
                self._pending.appendleft(data[self.credit :])
                data = data[: self.credit]
            self.credit -= len(data)
            self._pending_size -= len(data)
            self._mux.link.send_data(self.number, data)
        if self._pending is not None and not self._pending:
            self._drained()
        elif self._pending and not self.credit:
            self._mux.want_lane(self)

    def lane_writable(self, writable: bool) -> None:
        if writable:
            self._resume_protocol()
        else:
            self._pause_protocol()

    # -- inside

    def _queue(self, data: Payload, size: int) -> None:
        if self._pending is None:
            self._pending = deque()
        self._pending.append(data)
        self._pending_size += size
        self._mux.blocked[self.number] = self
        self.flush()
        if self._pending is not None:
            self._pause_protocol()

    def _drained(self) -> None:
        self._pending = None
        self._pending_size = 0
        self._mux.blocked.pop(self.number, None)
        if self._eof_queued and not self._eof_sent:
            self._send_eof()
            self._end_if_done()
        if self.outbound is None or self.outbound.link.writable:
            self._resume_protocol()

    def _pause_protocol(self) -> None:
        if not self._paused_writing and self._protocol is not None:
            self._paused_writing = True
            self._protocol.pause_writing()

    def _resume_protocol(self) -> None:
        if self._paused_writing and self._protocol is not None:
            self._paused_writing = False
            self._protocol.resume_writing()

    def _return_credit(self) -> None:
        # A moved direction needs no credit: TCP's window is its flow control.
        if self._returned >= _GRANT_AT and not self._over and self.inbound is None:
            self._window += self._returned
            self._mux.link.send(tunnel.serialize_number(tunnel.CREDIT, self.number, self._returned))
            self._returned = 0

    def _let_lane_read(self) -> None:
        if self.inbound is not None:
            self.inbound.link.resume_reading()

    def _send_eof(self) -> None:
        if self._eof_sent:
            return
        self._eof_sent = True
        link = self.outbound.link if self.outbound is not None else self._mux.link
        link.send(tunnel.serialize(tunnel.EOF, self.number))
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._eof_sent and (self._eof_received or self._reading_done):
            self._finish(None)

    def _finish(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._pending = None
        self._early = None
        self._let_lane_read()
        self._mux.forget(self)
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            # As with any transport: not from inside the caller's own write or close.
            asyncio.get_running_loop().call_soon(protocol.connection_lost, exc)


class Lane:
    """A link that serves one bulk channel at a time."""

    __slots__ = ("_mux", "channel", "idle_since", "link", "number")

    def __init__(self, mux: "Mux", number: int, link: Link) -> None:
        self._mux = mux
        self.number = number
        self.link = link
        self.channel: Channel | None = None
        self.idle_since = 0.0

    def frame(self, link: Link, kind: int, number: int, payload: Payload) -> None:
        if kind == tunnel.CONTROL and not self._mux.is_node:
            # The node's answer to our hello; a MOVE on the shared link may have overtaken it.
            if tunnel.parse_control(payload)["type"] != "welcome":
                link.fail("the node refused the lane")
            return
        if kind not in (tunnel.DATA, tunnel.EOF):
            raise ProtocolError(f"frame of kind {kind} on a lane")
        channel = self._mux.channels.get(number)
        if channel is None:
            return  # late: the channel was reset
        if channel.inbound is self:
            self.deliver(channel, kind, payload)
        else:
            channel.hold(kind, payload)
            link.pause_reading()

    def deliver(self, channel: Channel, kind: int, payload: Payload) -> None:
        with self._mux.guarding(channel):
            if kind == tunnel.DATA:
                channel.receive_from_lane(payload)
            else:
                channel.receive_eof()

    def link_writable(self, link: Link, writable: bool) -> None:
        if self.channel is not None:
            self.channel.lane_writable(writable)

    def makes_way(self) -> bool:
        return self._mux.makes_way()

    def link_lost(self, link: Link, reason: str) -> None:
        self._mux.lane_lost(self, reason)


class _Guard:
    """A fault in one channel's protocol ends that channel, never the link."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> bool:
        if exc is None or isinstance(exc, ProtocolError) or not isinstance(exc, Exception):
            return False
        log.error("channel failed", channel=self._channel.number, exc_info=exc)
        self._channel.fail(tunnel.INTERNAL, "internal error")
        return True


class Mux:
    """The channels of one shared link and its lanes; the same for agent and node, but for who opens what."""

    __slots__ = (
        "_loop",
        "_mice",
        "_next_channel",
        "_next_lane",
        "_ping_opaque",
        "_ping_sent_at",
        "_waiting",
        "blocked",
        "channels",
        "dialed",
        "is_node",
        "lanes",
        "lanes_requested",
        "link",
        "owner",
        "peer_round_trip_s",
        "probed_at",
        "proven_at",
        "round_trip_s",
    )

    def __init__(self, link: Link, owner: Owner, *, is_node: bool, mice: Mice) -> None:
        """`mice` is one for the whole process."""
        self._mice = mice
        self.link = link
        self.owner = owner
        self.is_node = is_node
        self.channels: dict[int, Channel] = {}
        self.dialed = 0  # how many of them the agent opened
        self.blocked: dict[int, Channel] = {}
        self.lanes: dict[int, Lane] = {}
        self.lanes_requested: set[int] = set()
        self._waiting: list[Channel] = []
        self._next_channel = 0
        self._next_lane = 0
        self._loop = asyncio.get_running_loop()
        self._ping_opaque = 0
        self._ping_sent_at = 0.0
        self.proven_at: float | None = None  # when the last PONG came, on the loop's clock
        self.round_trip_s: float | None = None
        self.probed_at: float | None = None  # when the peer's last PING came, and
        self.peer_round_trip_s: float | None = None  # the round trip that it had measured by then

    # -- channels

    def open(self, protocol: asyncio.Protocol, number: int, connection_id: bytes, visitor: str) -> Channel:
        """Open a channel to tunnel `number` for a visitor (node only)."""
        self._next_channel = self._free_number()
        channel = Channel(self, self._next_channel, protocol, visitor)
        self.channels[self._next_channel] = channel
        self.link.send(tunnel.serialize_open(self._next_channel, number, connection_id, visitor))
        return channel

    def dial(self, protocol: asyncio.BaseProtocol, port: int, transport: str) -> Channel:
        """Open a channel to the tunnel that has this port on the node (agent only).

        Raises:
            LimitExceeded: If as many are open as one link may have.
        """
        if self.dialed >= MAX_DIALED:
            raise LimitExceeded(f"{MAX_DIALED} channels to ports of the node are open already")
        self._next_channel = self._free_number()
        number = OPENED_BY_AGENT | self._next_channel
        channel = self.channels[number] = Channel(self, number, protocol, "")  # type: ignore[arg-type]
        self.dialed += 1
        self.link.send(tunnel.serialize_dial(number, port, transport))
        return channel

    def _free_number(self) -> int:
        opener = 0 if self.is_node else OPENED_BY_AGENT
        number = self._next_channel
        while True:
            number = number + 1 if number < tunnel.MAX_CHANNEL else 1
            if opener | number not in self.channels:
                return number

    def forget(self, channel: Channel) -> None:
        if self.channels.pop(channel.number, None) is not None and channel.number & OPENED_BY_AGENT:
            self.dialed -= 1
        self.blocked.pop(channel.number, None)
        if channel in self._waiting:
            self._waiting.remove(channel)
        lane = channel.outbound
        if lane is not None and lane.channel is channel:
            lane.channel = None
            lane.idle_since = self._loop.time()
            self._serve_waiting()

    def guarding(self, channel: Channel) -> _Guard:
        return _Guard(channel)

    # -- frames

    def frame(self, link: Link, kind: int, number: int, payload: Payload) -> None:
        if kind == tunnel.DATA:
            channel = self.channels.get(number)
            if channel is not None:
                self._mice.saw(len(payload), link.heard_at)
                try:
                    channel.receive(payload)
                except ProtocolError:
                    raise
                except Exception as error:  # noqa: BLE001  # one channel's fault must not end the others
                    self._fault(channel, error)
        elif number:
            self._channel_frame(kind, number, payload)
        else:
            self._link_frame(kind, payload)

    def _fault(self, channel: Channel, error: Exception) -> None:
        with _Guard(channel):
            raise error

    def _channel_frame(self, kind: int, number: int, payload: Payload) -> None:
        if kind == tunnel.OPEN:
            self._opened(number, payload)
            return
        if kind == tunnel.DIAL:
            self._dialed(number, payload)
            return
        channel = self.channels.get(number)
        if channel is None:
            return  # late, not wrong
        with _Guard(channel):
            if kind == tunnel.DATAGRAM:
                self._mice.saw(len(payload), self.link.heard_at)
                channel.receive_datagram(payload)
            elif kind == tunnel.CREDIT:
                channel.receive_credit(tunnel.parse_number(payload))
            elif kind == tunnel.EOF:
                channel.receive_eof()
            elif kind == tunnel.CANCEL:
                channel.receive_cancel()
            elif kind == tunnel.RESET:
                channel.lost(*tunnel.parse_reset(payload))
            elif kind == tunnel.WANT_LANE:
                self._lane_wanted(channel)
            elif kind == tunnel.MOVE:
                self._moved(channel, tunnel.parse_number(payload))

    def _opened(self, number: int, payload: Payload) -> None:
        if self.is_node:
            raise ProtocolError("an agent opens channels by dialing")
        if number & OPENED_BY_AGENT:
            raise ProtocolError(f"channel {number} is not the node's to open")
        if number in self.channels:
            raise ProtocolError(f"channel {number} is open already")
        tunnel_number, connection_id, visitor = tunnel.parse_open(payload)
        channel = Channel(self, number, None, visitor)
        self.channels[number] = channel
        with _Guard(channel):
            self.owner.opened(channel, tunnel_number, connection_id, visitor)

    def _dialed(self, number: int, payload: Payload) -> None:
        if not self.is_node:
            raise ProtocolError("a node opens channels without dialing")
        if not number & OPENED_BY_AGENT:
            raise ProtocolError(f"channel {number} is not an agent's to open")
        if number in self.channels:
            raise ProtocolError(f"channel {number} is open already")
        port, transport = tunnel.parse_dial(payload)
        channel = Channel(self, number, None, "")
        channel.heard = True
        self.channels[number] = channel
        self.dialed += 1
        if self.dialed > MAX_DIALED:
            channel.reset(tunnel.LIMIT, f"an agent may have {MAX_DIALED} channels to ports of the node")
            return
        with _Guard(channel):
            self.owner.dialed(channel, port, transport)

    def _link_frame(self, kind: int, payload: Payload) -> None:
        if kind == tunnel.CONTROL:
            self.owner.control(tunnel.parse_control(payload))
        elif kind == tunnel.PING:
            opaque, round_trip_us = tunnel.parse_ping(payload)
            self.probed_at = self._loop.time()
            self.peer_round_trip_s = round_trip_us / 1e6 if round_trip_us else self.peer_round_trip_s
            self.link.send(tunnel.serialize(tunnel.PONG, 0, opaque.to_bytes(8, "big")))
        elif kind == tunnel.PONG:
            self._ponged(int.from_bytes(payload, "big"))

    # -- probes

    def ping(self) -> None:
        self._ping_opaque += 1
        # Not the loop's clock: uvloop reads it once per turn, in whole milliseconds.
        self._ping_sent_at = time.monotonic()
        self.link.send(tunnel.serialize_ping(self._ping_opaque, round((self.round_trip_s or 0.0) * 1e6)))

    def _ponged(self, opaque: int) -> None:
        if opaque == self._ping_opaque:
            first = self.proven_at is None
            self.proven_at = time.monotonic()
            # At least a microsecond: zero means "none yet" on the wire.
            self.round_trip_s = max(self.proven_at - self._ping_sent_at, 1e-6)
            if first and self.is_node:
                self.ping()  # carries the round trip to the agent at once: its proof that we reach it

    def is_silent(self, now: float) -> bool:
        return now - self.link.heard_at > SILENCE_LIMIT_S

    def send_control(self, message: Message) -> None:
        self.link.send(tunnel.serialize_control(message))

    # -- lanes

    def want_lane(self, channel: Channel) -> None:
        # Nothing orders a lane's bytes after the shared link's: an agent that had not yet got OPEN would take them for
        # a channel that is over. Credit that comes back tells that it has.
        if channel.lane_wanted or (self.is_node and not channel.heard):
            return
        channel.lane_wanted = True
        if self.is_node:
            self._waiting.append(channel)
            self._serve_waiting()
        else:
            self.link.send(tunnel.serialize(tunnel.WANT_LANE, channel.number))

    def _lane_wanted(self, channel: Channel) -> None:
        if not self.is_node:
            raise ProtocolError("only an agent asks for a lane")
        channel.heard = True
        if channel.outbound is None:
            self.want_lane(channel)

    def _serve_waiting(self) -> None:
        while self._waiting:
            lane = next((lane for lane in self.lanes.values() if lane.channel is None), None)
            if lane is None:
                break
            self._give(lane, self._waiting.pop(0))
        unserved = len(self._waiting) - len(self.lanes_requested)
        room = MAX_LANES - len(self.lanes) - len(self.lanes_requested)
        for _ in range(min(unserved, room)):
            self._next_lane += 1
            self.lanes_requested.add(self._next_lane)
            self.owner.request_lane(self._next_lane)

    def _give(self, lane: Lane, channel: Channel) -> None:
        lane.channel = channel
        channel.move_outbound(lane)

    def add_lane(self, number: int, link: Link) -> Lane:
        """A lane's hello was accepted (node), or is about to be sent (agent)."""
        self.lanes_requested.discard(number)
        lane = self.lanes[number] = Lane(self, number, link)
        link.receiver = lane
        lane.idle_since = self._loop.time()
        if self.is_node:
            self._serve_waiting()
        return lane

    def lane_failed(self, number: int) -> None:
        """The agent could not bring a lane: its channel stays on credit."""
        self.lanes_requested.discard(number)

    def _moved(self, channel: Channel, number: int) -> None:
        lane = self.lanes.get(number)
        if lane is None:
            channel.fail(tunnel.LINK_LOST, "the lane is gone")
            return
        if not self.is_node:
            lane.channel = channel
            channel.move_outbound(lane)
        channel.move_inbound(lane)

    def lane_lost(self, lane: Lane, reason: str) -> None:
        self.lanes.pop(lane.number, None)
        for channel in list(self.channels.values()):
            if lane in (channel.outbound, channel.inbound):
                self.link.send(tunnel.serialize_reset(channel.number, tunnel.LINK_LOST, "the lane is gone"))
                channel.lost(tunnel.LINK_LOST, f"the lane is gone: {reason}")

    def close_idle_lanes(self, now: float) -> None:
        for lane in list(self.lanes.values()):
            if lane.channel is None and now - lane.idle_since > LANE_IDLE_S:
                # At once, for the goodbyes of TLS take a while, and nobody must be given a lane that is closing.
                del self.lanes[lane.number]
                lane.link.close()

    # -- the link's state

    def makes_way(self) -> bool:
        """Whether bulk should go slower, because somebody small is about."""
        return self._mice.are_about(self._loop.time())

    def link_writable(self, link: Link, writable: bool) -> None:
        if writable:
            for channel in list(self.blocked.values()):
                channel.flush()

    def link_lost(self, link: Link, reason: str) -> None:
        for channel in list(self.channels.values()):
            channel.lost(tunnel.LINK_LOST, reason)
        for lane in list(self.lanes.values()):
            lane.link.fail("the shared link is gone")
        self.owner.mux_lost(reason)

    def close(self) -> None:
        self.link.close()
