"""Joining two transports: what one receives, the other writes, with half-close and backpressure both ways."""

import asyncio
from typing import Any

from moongate.relay.channels import Channel, ChannelReset
from moongate.relay.turns import TURN_BYTES, FairReading
from moongate.wire.tunnel import LINK_LOST


class Half(asyncio.Protocol):
    """One end of a joined pair: carries what its own transport receives to the other end's transport.

    One side saying goodbye does not silence the other: its end of file is passed on,
    and the opposite direction keeps flowing.
    """

    __slots__ = ("_eof_received", "_eof_written", "_reading", "bytes_received", "lost", "other", "reset", "transport")

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: Half | None = None
        self.bytes_received = 0
        self._reading = FairReading()
        self._eof_received = False
        self._eof_written = False
        self.lost = False
        self.reset: str | None = None  # why the connection ended, if not in order

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._reading.begin(transport)

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        other = self.other
        if other is not None:
            other.transport.write(data)
            if len(data) >= TURN_BYTES and makes_way(other.transport):
                self._reading.make_way()

    def eof_received(self) -> bool:
        self._eof_received = True
        if self.other is not None:
            self.other.end_writing()
        self._close_if_done()
        return True

    def end_writing(self) -> None:
        """The other end has no more for us to write."""
        if self._eof_written or self.lost:
            return
        self._eof_written = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._close_if_done()
        else:
            # TLS cannot half-close here: what is written is flushed, and that is all there is.
            self.transport.close()

    def _close_if_done(self) -> None:
        if self._eof_received and self._eof_written:
            self.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.hold()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.release()

    def hold(self) -> None:
        """Read no more: the other end has enough to write."""
        self._reading.hold()

    def release(self) -> None:
        """Go on reading."""
        self._reading.release()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        self._reading.end()
        if exc is not None:
            self.reset = str(exc) or type(exc).__name__
        other = self.other
        if other is not None and not other.lost and other.transport is not None:
            if exc is not None:
                _abort(other.transport, exc)
            else:
                other.transport.close()


def _abort(transport: Any, exc: Exception) -> None:
    """End a transport; a channel can be told what another channel said."""
    if isinstance(transport, Channel) and isinstance(exc, ChannelReset) and exc.code != LINK_LOST:
        transport.reset(exc.code, exc.detail)
    else:
        transport.abort()


def makes_way(transport: Any) -> bool:
    """Whether bulk for this transport should go slower; only a channel knows of others that hurry."""
    return isinstance(transport, Channel) and transport.makes_way()


def join(a: Half, b: Half) -> None:
    """Make each the other's end; both must have their transport, or get it before their first byte."""
    a.other = b
    b.other = a
