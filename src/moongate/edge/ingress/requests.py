"""The visitor's bytes at the edge: cut into requests, each judged before anybody acts on it."""

from typing import TYPE_CHECKING, Protocol

import structlog
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from moongate.edge.ingress.exchange import Body, Exchange
from moongate.errors import BadRequest, ProtocolError
from moongate.wire import http1

if TYPE_CHECKING:
    from moongate.edge.ingress.edge import Edge
    from moongate.net.listening import Peer

log = structlog.get_logger(__name__)


class Asked(Protocol):
    """Who is told of the requests: the visitor's connection."""

    peer: "Peer"
    quiet_since: float

    def request_head(self, exchange: Exchange) -> None: ...
    def request_data(self, exchange: Exchange, framed: bytes) -> None: ...
    def upgrade_asked(self, rest: bytes) -> bool: ...
    def refuse(self, status: int, code: str, message: str) -> None: ...


class RequestReader:
    """Reads one connection's requests with httptools, and tells of what passed the rules of wire.http1."""

    __slots__ = (
        "_edge",
        "_fed",
        "_fields_size",
        "_head_size",
        "_in_body_of_upgrade",
        "_last",
        "_parser",
        "_visitor",
        "headers",
        "in_head",
        "incoming",
        "stopped",
        "url",
    )

    def __init__(self, edge: "Edge", visitor: Asked) -> None:
        self._edge = edge
        self._visitor = visitor
        self._parser: HttpRequestParser = HttpRequestParser(self)
        self.url = b""
        self.headers: http1.Headers = []
        self.in_head = False
        self.incoming: Exchange | None = None  # the one whose request is being received
        self._fed = 0  # bytes of the read that is being parsed
        self._head_size = 0
        self._fields_size = 0
        self._last: Exchange | None = None  # the latest one judged
        self._in_body_of_upgrade = False
        self.stopped = False  # nothing is told any more

    def feed(self, data: bytes) -> None:
        """Take the visitor's next bytes."""
        rest = self._cut(data)
        while rest and not self.stopped:
            rest = self._cut(rest)
        if self.in_head and not self.stopped and self._head_size > self._edge.limits.header_bytes:
            self._visitor.refuse(431, "http.head_too_large", "the head of the request is too large")

    def _cut(self, data: bytes) -> bytes:
        """Feed the parser, and return what it left because an upgrade was asked for and will not be."""
        self._fed = len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            return b"" if self.stopped else self._after_upgrade(data[upgrade.args[0] :])
        except HttpParserCallbackError as error:
            log.error("visitor failed", peer=self._visitor.peer.text, exc_info=error.__cause__ or error)
            self._visitor.refuse(500, "internal", "something went wrong here")
        except HttpParserError as error:
            if not self.stopped:
                self._visitor.refuse(400, "http.bad_request", f"the request is malformed: {str(error).lower()}")
        self._head_size += self._fed
        return b""

    def begin_anew(self) -> None:
        """What follows is HTTP, whatever was agreed or asked before."""
        self._parser = HttpRequestParser(self)

    def stop(self) -> None:
        """Tell of no more requests: what still comes is not for us, or cannot be trusted."""
        self.stopped = True
        self.incoming = None

    def end(self) -> None:
        """Let go of visitor and parser, which know us too: else they would all wait for the collector."""
        self.stop()
        self._last = None
        self._parser = None  # type: ignore[assignment]
        self._visitor = None  # type: ignore[assignment]

    # -- httptools

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.in_head = True
        # Counted from the next read on: how much of this one belongs to requests before it is not told.
        self._head_size = -self._fed

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            self.headers.append((name, value))
        elif self.incoming is not None:
            if self.incoming.trailers is None:
                self.incoming.trailers = []
            self.incoming.trailers.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self._in_body_of_upgrade or self.stopped:
            return
        try:
            exchange = self._judge()
        except BadRequest as error:
            self._visitor.refuse(error.status, error.code, error.message)
            return
        self._last = self.incoming = exchange
        self._visitor.request_head(exchange)

    def _judge(self) -> Exchange:
        edge = self._edge
        headers = self.headers
        method = self._parser.get_method()
        version = self._parser.get_http_version()
        last = self._last
        facts = None
        if last is not None and last.headers == headers and last.method == method and version == last.version == "1.1":
            # Programs say the same fields again and again on one connection; only the target is new.
            facts = http1.judged_again(last.facts, self.url)
            headers = last.headers
        if facts is None:
            facts = http1.check_request(method, self.url, version, headers)
            self._fields_size = sum([len(name) + len(value) for name, value in headers])
        if self._fields_size + len(self.url) > edge.limits.header_bytes:
            raise BadRequest(431, "the head of the request is too large")
        return Exchange(edge.ids.next(), method, version, facts, headers, self._visitor.quiet_since, edge.wall())

    def on_body(self, data: bytes) -> None:
        exchange = self.incoming
        if exchange is None:
            return
        body = exchange.request
        if body is None:
            body = exchange.request = Body(self._edge.capture_room)
        body.add(data)
        self._visitor.request_data(exchange, http1.chunk(data) if exchange.facts.chunked else data)

    def on_message_complete(self) -> None:
        exchange = self.incoming
        if exchange is None:
            return
        if exchange.facts.has_body and self._parser.should_upgrade():
            return  # the parser thinks so; the body is still to come
        self.incoming = None
        exchange.complete = True
        if not exchange.facts.chunked:
            return
        try:
            end = http1.last_chunk(exchange.trailers or [])
        except ProtocolError as error:
            self._visitor.refuse(400, "http.bad_request", error.message)
            return
        self._visitor.request_data(exchange, end)

    # -- a request that asks for an upgrade (RFC 9110 §7.8)

    def _after_upgrade(self, rest: bytes) -> bytes:
        """Return what is to be read as HTTP now; httptools takes all that follows for the new protocol's."""
        exchange = self.incoming
        if exchange is None:
            last = self._last
            if last is not None and last.facts.upgrade is not None and self._visitor.upgrade_asked(rest):
                return b""
            self.begin_anew()
            return rest
        # It stops even before the body of such a request (see http1.body_head).
        self.begin_anew()
        self._in_body_of_upgrade = True
        self._parser.feed_data(http1.body_head(exchange.facts))
        self._in_body_of_upgrade = False
        return rest
