"""One agent-to-node connection: frames in, frames out, written once per turn of the loop.

Which channel a frame belongs to is relay.channels' business; who may open a link is edge.control's.
"""

import asyncio
from typing import Protocol

from moongate.errors import ProtocolError
from moongate.relay.turns import TURN_BYTES, FairReading
from moongate.wire import tunnel
from moongate.wire.tunnel import FrameReader, Payload

# More than this waiting in the transport, and channels stop feeding it.
WRITE_HIGH_WATER = 512 * 1024
# What TLS may hold of what was received and not yet decrypted.
READ_HIGH_WATER = 1024 * 1024
SILENCE_LIMIT_S = 15.0


class Receiver(Protocol):
    """Who gets a link's frames."""

    def frame(self, link: "Link", kind: int, channel: int, payload: Payload) -> None: ...
    def link_writable(self, link: "Link", writable: bool) -> None: ...
    def makes_way(self) -> bool: ...
    def link_lost(self, link: "Link", reason: str) -> None: ...


class Link(asyncio.Protocol):
    """Frames over one transport; what is sent within one turn of the loop leaves in one write."""

    __slots__ = (
        "_flushing",
        "_loop",
        "_out",
        "_reader",
        "_reading",
        "_transport",
        "failure",
        "heard_at",
        "receiver",
        "writable",
    )

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.writable = True
        self.failure = ""
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._reader = FrameReader()
        self._reading = FairReading()
        self._out: list[bytes] = []
        self._flushing = False
        self._transport: asyncio.Transport | None = None

    @property
    def is_closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by how we dial and listen
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)  # type: ignore[union-attr]
        if transport.get_extra_info("sslcontext") is not None:
            # Else each read of bulk fills it, and reading is stopped and started for every one.
            self._transport.set_read_buffer_limits(high=READ_HIGH_WATER)  # type: ignore[union-attr]
        self._reading.begin(transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            for kind, channel, payload in self._reader.receive_data(data):
                self.receiver.frame(self, kind, channel, payload)
        except ProtocolError as error:
            self.fail(f"protocol error: {error}")
        if len(data) >= TURN_BYTES and self.receiver.makes_way():
            self._reading.make_way()

    def pause_writing(self) -> None:
        self.writable = False
        self.receiver.link_writable(self, False)

    def resume_writing(self) -> None:
        self.writable = True
        self.receiver.link_writable(self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reading.end()
        self._out.clear()
        self.receiver.link_lost(self, self.failure or (str(exc) if exc else "the other side closed the link"))

    def send(self, frame: bytes) -> None:
        """Send a whole frame, together with all others of this turn of the loop."""
        self._out.append(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def send_data(self, channel: int, data: Payload) -> None:
        """Send DATA together with the other frames of this turn: header and payload are joined when they leave."""
        self._out.append(tunnel.HEADER.pack(tunnel.DATA, channel, len(data)))
        self._out.append(data)  # type: ignore[arg-type]  # join takes any buffer
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def send_bulk(self, channel: int, data: Payload) -> None:
        """Send DATA now, without joining: a large chunk is worth a TLS record of its own for its header."""
        self._flush()
        if self._transport is None:
            return
        for start in range(0, len(data), tunnel.MAX_DATA):
            piece = data[start : start + tunnel.MAX_DATA]
            self._transport.writelines((tunnel.HEADER.pack(tunnel.DATA, channel, len(piece)), piece))

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    def pause_reading(self) -> None:
        if not self.is_closed:
            self._reading.hold()

    def resume_reading(self) -> None:
        if not self.is_closed:
            self._reading.release()

    def close(self) -> None:
        """Send what is waiting, then close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def fail(self, reason: str) -> None:
        """Drop the link at once; the receiver is told why."""
        self.failure = self.failure or reason
        if self._transport is not None:
            self._transport.abort()
