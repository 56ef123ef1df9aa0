"""Serves the application on connections that the node accepted, with uvicorn's HTTP protocol and no uvicorn server."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from moongate.api.answers import to_json
from moongate.net.listening import Peer

KEEP_ALIVE_S = 75
# Once the answers are given, how long their last bytes may take to leave.
LAST_BYTES_S = 1.0
REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}

# uvicorn would write a line for each scanner that speaks no HTTP; the application writes its own lines.
SILENT = logging.Logger("silent", logging.CRITICAL + 1)  # noqa: LOG001 -- nobody else may find and wake it


def protocol_settings(app: ASGIApp) -> UvicornConfig:
    """Return what uvicorn's protocol objects want to know, for an application that no uvicorn server runs."""
    settings = UvicornConfig(
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
    settings.load()
    return settings


class Served(Protocol):
    """What an application's parts say to the one that serves it."""

    @property
    def header_bytes(self) -> int:
        """How large a head may be."""

    @property
    def header_timeout_s(self) -> float:
        """How long a head may take."""

    def end_streams(self) -> None:
        """End every answer that would go on for ever."""

    def failure(self, message: str, /) -> dict[str, Any]:
        """Write a failure in the shape of this application."""


class AppServer:
    """Makes a protocol for each accepted connection, and ends them all in the end."""

    def __init__(self, app: FastAPI) -> None:
        self._parts: Served = app.state.parts
        self._state = ServerState()
        self._config = protocol_settings(app)
        self._gone = asyncio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def protocol(self, peer: Peer | None) -> asyncio.Protocol:
        """Make the protocol for a connection from this peer; from whom the socket says, when there is none."""
        return AppProtocol(self._config, self._state, peer, self._gone.set, self._parts)

    async def drain(self, timeout_s: float) -> None:
        """Let requests under way be answered, for so long; idle connections and event streams end at once."""
        self._parts.end_streams()
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._finish(timeout_s)
        for connection in list(self._state.connections):
            connection.transport.close()
        for task in list(self._state.tasks):
            task.cancel()
        await self._finish(LAST_BYTES_S)
        for connection in list(self._state.connections):
            connection.transport.abort()

    async def _finish(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while self._state.connections or self._state.tasks:
                    self._gone.clear()
                    if self._state.tasks:
                        await asyncio.wait(set(self._state.tasks))
                    else:
                        await self._gone.wait()
        except TimeoutError:
            pass


class HeadTooLarge(Exception):
    """Somebody sends a head, or trailers, that do not end."""


class AppProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the peer that the listener knows, and with the bounds on heads that it lacks."""

    def __init__(
        self,
        config: UvicornConfig,
        state: ServerState,
        peer: Peer | None,
        lost: Callable[[], None],
        served: Served,
    ) -> None:
        super().__init__(config, state, {"peer": peer})
        self.logger = SILENT
        self._peer = peer
        self._lost = lost
        self._failure = served.failure
        self._header_bytes = served.header_bytes
        self._header_timeout_s = served.header_timeout_s
        self._head_bytes = 0
        self._unseen_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a connection that sends nothing does not last."""
        super().connection_made(transport)
        if self._peer is not None:
            # Behind a trusted proxy the socket's own address is the proxy's.
            self.client = (self._peer.address, self._peer.port)
            self.server = (self._peer.local_address, self._peer.local_port)
            self.scheme = "https" if self._peer.tls else "http"
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._disarm()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless the connection has been given up."""
        if self.transport.is_closing():
            return
        self._unseen_bytes += len(data)
        super().data_received(data)
        # The parser calls nobody while one endless target, value or chunk extension arrives.
        if self._unseen_bytes > self._header_bytes and not self.transport.is_closing():
            self._refuse(431, "request head too large")

    def on_message_begin(self) -> None:
        """Begin to count and to wait for a head."""
        super().on_message_begin()
        self._unseen_bytes = self._head_bytes = 0
        self._arm()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer: the parser bounds neither."""
        self._unseen_bytes = 0
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._header_bytes:
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        self._unseen_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unseen_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        if self._head_bytes > self._header_bytes:
            self._refuse(431, "request head too large")
        else:
            self._refuse(400, "malformed HTTP request")

    def _unsupported_upgrade_warning(self) -> None:
        # The request is answered as if it had not asked; what follows it may not be HTTP (RFC 9110 §7.8).
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
        # While an answer is being written, another one would only garble it.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(refusal(status, self._failure(message)))
        self.transport.close()


def refusal(status: int, failure: dict[str, Any]) -> bytes:
    """Write the answer to something that never became a request."""
    body = to_json(failure)
    head = (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
        b"x-request-id: %b\r\nx-content-type-options: nosniff\r\nx-frame-options: DENY\r\n\r\n"
    )
    return head % (status, REASONS[status], len(body), uuid.uuid4().hex.encode()) + body
