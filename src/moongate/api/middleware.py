"""What holds for each request of every family: a request id, our name, fixed headers, a bounded body, one log line."""

import asyncio
import time
import uuid
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moongate.api.answers import error
from moongate.api.cors import Cors
from moongate.api.hosts import ApplicationHosts
from moongate.telemetry import get_logger

BODY_MAX_BYTES = 8 * 1024 * 1024
# For each piece of a body.
BODY_TIMEOUT_S = 30.0
# What was not read of a body stays unread: the connection cannot go on.
CLOSE = {"Connection": "close"}
PRIVATE_PATH = "/api/tokens/"
# A HEAD request for a stream would never end.
ENDLESS_PATHS = frozenset({"/api/events"})
FIXED_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))

log = get_logger("api")


class Frame:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, hosts: ApplicationHosts, cors: Cors) -> None:
        self._app = app
        self._hosts = hosts
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._cors.headers(scope))
        with structlog.contextvars.bound_contextvars(request_id=exchange.id):
            await self._answer(exchange)
            exchange.write_log()

    async def _answer(self, exchange: "Exchange") -> None:
        try:
            refusal = self._refusal(exchange.scope)
            await (refusal or self._app)(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("request failed", path=shown_path(exchange.scope["path"]))
            if exchange.status:
                # Half an answer cannot be taken back; the server closes the connection.
                raise
            await error(500, f"internal error (request {exchange.id})")(exchange.scope, exchange.receive, exchange.send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if not hosts and scope["http_version"] == "1.0":
            return self._cors.preflight(scope)
        if len(hosts) != 1:
            return error(400, "exactly one Host header is needed")
        if hosts[0] not in self._hosts:
            return error(421, "this host name is not served here")
        return self._cors.preflight(scope)


class Exchange:
    """One request and its answer, on their way through the frame."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        extra: Iterable[tuple[bytes, bytes]] = (),
        *,
        body_max_bytes: int = BODY_MAX_BYTES,
        head_is_get: bool = True,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.scope = {**scope, "state": {**scope.get("state", {}), "request_id": self.id}}
        self._body_max_bytes = body_max_bytes
        if head_is_get and scope["method"] == "HEAD" and scope["path"] not in ENDLESS_PATHS:
            # Answered as GET is; the server, which keeps its own scope, leaves the body out (RFC 9110 §9.3.2).
            self.scope["method"] = "GET"
        self.status = 0
        self._receive = receive
        self._send = send
        self._extra = extra
        self._began = time.monotonic()
        self._body_bytes = 0
        self._has_body = False

    async def receive(self) -> Message:
        """Pass on what the client sends, within the limits; after the body only its leaving can come."""
        if self._has_body:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_TIMEOUT_S)
        except TimeoutError:
            raise HTTPException(408, "the body took too long", CLOSE) from None
        self._has_body = not message.get("more_body", False)
        self._body_bytes += len(message.get("body", b""))
        if self._body_bytes > self._body_max_bytes:
            raise HTTPException(413, f"the body is larger than {self._body_max_bytes} bytes", CLOSE)
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application answers, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", []))}
        await self._send(message)

    def _headers(self, headers: Any) -> list[tuple[bytes, bytes]]:
        given = list(headers)
        names = {name.lower() for name, _ in given}
        ours = [
            (b"date", formatdate(usegmt=True).encode()),
            (b"x-request-id", self.id.encode()),
            *FIXED_HEADERS,
            *self._extra,
        ]
        return given + [header for header in ours if header[0] not in names]

    def write_log(self) -> None:
        """Write the one line; reading is routine, changing and failing are not."""
        write = log.warning if self.status >= 500 else log.debug if self.scope["method"] == "GET" else log.info
        identity = self.scope["state"].get("identity")
        client = self.scope.get("client")
        write(
            "request",
            method=self.scope["method"],
            path=shown_path(self.scope["path"]),
            status=self.status,
            duration_ms=round((time.monotonic() - self._began) * 1000, 1),
            peer=f"{client[0]}:{client[1]}" if client else "",
            identity=identity.id if identity else None,
        )


def shown_path(path: str) -> str:
    """Return a path for the log; who mistakes a token's value for its id must not find it there."""
    return PRIVATE_PATH + "…" if path.startswith(PRIVATE_PATH) else path
