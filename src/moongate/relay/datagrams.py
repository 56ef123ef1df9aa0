"""Datagrams: a UDP socket with a session for each address that sends to it, and a channel's end that carries them whole.

Who may have a session, and for how long, is left to those who begin one.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import structlog

from moongate.relay.channels import Channel
from moongate.wire import tunnel

IDLE_S: Final = 60.0
"""How long a session lives without a datagram either way."""

MAX_SESSIONS: Final = 4096
"""How many sessions one UDP socket may have: a source address costs a sender nothing to invent."""

log = structlog.get_logger(__name__)

Source = tuple[Any, ...]
"""A sender's address as the socket gives it; the first two members are IP address and port."""


class Session(Protocol):
    """What somebody who sends datagrams is to us."""

    def received(self, data: bytes) -> None:
        """Take one datagram of the source."""

    def end(self, reason: str) -> None:
        """Forget the source."""


class DatagramPort(asyncio.DatagramProtocol):
    """A UDP socket that strangers send to: their datagrams go to sessions, and answers go back."""

    def __init__(
        self,
        begin: Callable[["DatagramPort", Source], Session | None],
        *,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        """`begin` makes the session of a new source, or None to drop what it sends; `dropped` is told of each datagram
        for which there was no room.
        """
        self._begin = begin
        self._dropped = dropped
        self._transport: asyncio.BaseTransport | None = None
        self._socket: socket.socket
        self.local = ("", 0)
        self.sessions: dict[Source, Session] = {}

    async def open(self, bound: socket.socket) -> None:
        """Take a bound socket and serve who sends to it."""
        self._socket = bound
        address = bound.getsockname()
        self.local = address[0], address[1]
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=bound)

    def datagram_received(self, data: bytes, addr: Source) -> None:
        session = self.sessions.get(addr)
        if session is None:
            if len(self.sessions) >= MAX_SESSIONS:
                self._dropped()
                return
            session = self._begin(self, addr)
            if session is None:
                return
            self.sessions[addr] = session
        session.received(data)

    def error_received(self, exc: Exception) -> None:
        # What the network says about one answer is no reason to stop serving the others.
        log.debug("datagram not delivered", reason=str(exc))

    def send(self, data: bytes, to: Source) -> None:
        """Send one datagram, or drop it when the socket cannot take it now."""
        if self._transport is None:
            return
        try:
            # Past the loop's transport, which would keep what the socket cannot take, and sends nothing that is empty.
            self._socket.sendto(data, to)
        except BlockingIOError:
            self._dropped()
        except OSError as error:
            self.error_received(error)

    def forget(self, source: Source) -> None:
        """A session is over; a later datagram of its source begins another."""
        self.sessions.pop(source, None)

    def close(self, reason: str) -> None:
        """End every session and give the port back."""
        for session in list(self.sessions.values()):
            session.end(reason)
        self.sessions.clear()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


class DatagramEnd(asyncio.Protocol):
    """The end of a channel that carries datagrams."""

    __slots__ = ("_channel", "_lost", "_receive")

    def __init__(self, receive: Callable[[bytes], object], lost: Callable[[Exception | None], None]) -> None:
        self._receive = receive
        self._lost = lost
        self._channel: Channel | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._channel = cast(Channel, transport)

    def datagram_received(self, data: bytes) -> None:
        self._receive(data)

    def data_received(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.fail(tunnel.PROTOCOL, "this channel carries datagrams")

    def eof_received(self) -> bool:
        return False  # nobody says half of goodbye in datagrams: the channel is closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        self._lost(exc)
