"""Serves the application on connections that the node accepted, with uvicorn's HTTP protocol and no uvicorn server."""

import asyncio
import logging

from fastapi import FastAPI
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from moongate.api.answers import to_json
from moongate.api.parts import Parts
from moongate.net.listening import Peer

KEEP_ALIVE_S = 75
# After the answers are due, how long connections get to write what is in their buffers.
LAST_BYTES_S = 1.0

# The framework's own lines repeat what ours say.
logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
logging.getLogger("uvicorn.access").disabled = True


class AppServer:
    """Makes a protocol for each accepted connection, and ends them all in the end."""

    def __init__(self, app: FastAPI, *, header_bytes: int = 65536, header_timeout_s: float = 30.0) -> None:
        self._parts: Parts = app.state.parts
        self._state = ServerState()
        self._config = UvicornConfig(
            app,
            http=HttpToolsProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self._header_bytes = header_bytes
        self._header_timeout_s = header_timeout_s

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def protocol(self, peer: Peer) -> asyncio.Protocol:
        """Make the protocol for a connection from this peer."""
        return AppProtocol(
            self._config, self._state, peer, header_bytes=self._header_bytes, header_timeout_s=self._header_timeout_s
        )

    async def drain(self, timeout_s: float) -> None:
        """Let requests under way be answered, for so long; idle connections close, event streams end at once."""
        self._parts.stopping.set()
        self._parts.events.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=timeout_s)
        await self._end_rest()

    async def _end_rest(self) -> None:
        for connection in list(self._state.connections):
            connection.transport.close()
        tasks = set(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_BYTES_S)
        deadline = asyncio.get_running_loop().time() + LAST_BYTES_S
        while self._state.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self._state.connections):
            connection.transport.abort()


class HeadTooLarge(Exception):
    """Somebody sends a head, trailer or chunk extension that does not end."""


class AppProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the peer that the listener knows, and with bounds on heads it does not have."""

    def __init__(
        self, config: UvicornConfig, state: ServerState, peer: Peer, *, header_bytes: int, header_timeout_s: float
    ) -> None:
        super().__init__(config, state, {"peer": peer})
        self._peer = peer
        self._header_bytes = header_bytes
        self._header_timeout_s = header_timeout_s
        self._head_bytes = 0
        self._unseen_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Behind a trusted proxy the socket's own address is the proxy's.
        self.client = (self._peer.address, self._peer.port)
        self.server = (self._peer.local_address, self._peer.local_port)
        self.scheme = "https" if self._peer.tls else "http"
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        self._unseen_bytes += len(data)
        super().data_received(data)
        # The parser calls nobody while one endless name, value or chunk extension arrives.
        if self._unseen_bytes > self._header_bytes and not self.transport.is_closing():
            self._refuse(431, "request head too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unseen_bytes = self._head_bytes = 0
        self._arm()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unseen_bytes = 0
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._header_bytes:
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unseen_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > self._header_bytes:
            self._refuse(431, "request head too large")
        else:
            self._refuse(400, "malformed HTTP request")

    def _unsupported_upgrade_warning(self) -> None:
        # What follows an upgrade request is not HTTP; the request itself is answered as if it had not asked.
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _arm(self) -> None:
        self._disarm()
        self._head_timer = self.loop.call_later(self._header_timeout_s, self._head_overdue)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_overdue(self) -> None:
        if not self.transport.is_closing():
            self._refuse(408, "the request head took too long")

    def _refuse(self, status: int, message: str) -> None:
        self._disarm()
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(refusal(status, message))
        self.transport.close()


REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def refusal(status: int, message: str) -> bytes:
    """Write the answer to something that never became a request."""
    body = to_json({"error": message})
    return (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
        b"x-frame-options: DENY\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (status, REASONS[status], len(body))
    ) + body
