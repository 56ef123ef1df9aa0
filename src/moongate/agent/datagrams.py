"""The agent's side of UDP: one socket for each visitor, connected to the upstream."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from moongate.errors import ReachError
from moongate.net.addresses import host_port
from moongate.net.dialing import connect_udp

RESOLVE_TIMEOUT_S: Final = 10.0
EARLY_DATAGRAMS: Final = 32
"""How many datagrams wait while the upstream's name is looked up; what is more is lost, as in any network."""


class UpstreamSocket(asyncio.DatagramProtocol):
    """A UDP socket connected to one host; what is sent before it is ready waits for it."""

    def __init__(
        self, host: str, port: int, *, receive: Callable[[bytes], object], failed: Callable[[str], None]
    ) -> None:
        """`failed` is told why the host cannot be reached, as often as the system says so."""
        self._receive = receive
        self._failed = failed
        self._transport: asyncio.BaseTransport | None = None
        self._socket: socket.socket | None = None
        self._is_closed = False
        self._where = host_port(host, port)
        self._early: deque[bytes] = deque(maxlen=EARLY_DATAGRAMS)
        self._dialing = asyncio.get_running_loop().create_task(self._dial(host, port))

    async def _dial(self, host: str, port: int) -> None:
        try:
            self._socket = await connect_udp(host, port, timeout_s=RESOLVE_TIMEOUT_S)
        except ReachError as error:
            self._failed(error.message)
            return
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._socket)
        if self._is_closed:
            self._transport.close()
        while self._early:
            self.send(self._early.popleft())

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._is_closed:
            self._receive(data)

    def error_received(self, exc: Exception) -> None:
        if not self._is_closed:
            reason = "nothing listens there" if isinstance(exc, ConnectionRefusedError) else str(exc)
            self._failed(f"UDP {self._where} did not take a datagram: {reason}")

    def send(self, data: bytes) -> None:
        """Send one datagram, or drop it when the socket cannot take it now."""
        if self._transport is None or self._socket is None:
            self._early.append(data)
        elif not self._is_closed:
            try:
                # Past the loop's transport, which would keep what the socket cannot take, and sends nothing empty.
                self._socket.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self.error_received(error)

    def close(self) -> None:
        """Give the socket back."""
        self._is_closed = True
        self._early.clear()
        if self._transport is not None:
            self._transport.close()
        elif self._socket is None:
            self._dialing.cancel()
