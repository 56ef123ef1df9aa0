"""The edge's reader of requests, and one of answers that works like the edge's, without sockets or an upstream."""

import sys
import time
from dataclasses import dataclass, field

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from moongate.audit.ids import Ids
from moongate.config import Limits
from moongate.edge.ingress.exchange import Exchange
from moongate.edge.ingress.requests import RequestReader
from moongate.errors import ProtocolError
from moongate.net.listening import Peer
from moongate.wire.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_EOF,
    Headers,
    RequestFacts,
    chunk,
    last_chunk,
    response_framing,
    upstream_head,
    visitor_framing,
    visitor_head,
)


@dataclass(frozen=True)
class Request:
    """A request as the edge's own reader told of it."""

    exchange: Exchange
    framed: list[bytes] = field(default_factory=list)

    @property
    def method(self) -> bytes:
        return self.exchange.method

    @property
    def facts(self) -> RequestFacts:
        return self.exchange.facts

    @property
    def headers(self) -> Headers:
        return self.exchange.headers

    @property
    def trailers(self) -> Headers:
        return self.exchange.trailers or []

    @property
    def body(self) -> bytes:
        return self.exchange.request.kept() if self.exchange.request is not None else b""

    @property
    def whole(self) -> bool:
        return self.exchange.complete

    def serialize(self) -> bytes:
        """Return what the upstream would get."""
        head = upstream_head(self.method, self.facts, self.headers, peer_ip="192.0.2.7", proto="https", upgrade=True)
        return head + b"".join(self.framed)


class RequestCutter:
    """The edge's reader of requests with nobody behind it; `refused` once the visitor cannot be trusted."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refused: tuple[int, str, str] | None = None
        self.switched = b""
        self.peer = Peer("192.0.2.7", 4711, "127.0.0.1", 7171)
        self.quiet_since = 0.0
        self._reader = RequestReader(_Edge(), self)  # type: ignore[arg-type]  # what it asks of an edge, without one

    def feed(self, data: bytes) -> None:
        if self.refused is None:
            self._reader.feed(data)

    def request_head(self, exchange: Exchange) -> None:
        self.requests.append(Request(exchange))

    def request_data(self, exchange: Exchange, framed: bytes) -> None:
        assert exchange is self.requests[-1].exchange
        self.requests[-1].framed.append(framed)

    def upgrade_asked(self, rest: bytes) -> bool:
        self.switched = rest
        return True

    def refuse(self, status: int, code: str, message: str) -> None:
        assert status < 500 or status in (501, 505), message  # a fault of the reader's own
        self.refused = self.refused or (status, code, message)
        self._reader.stop()


class _Edge:
    limits = Limits()
    ids = Ids()
    wall = staticmethod(time.time)
    capture_room = sys.maxsize


def cut_requests(raw: bytes) -> RequestCutter:
    """Return what a visitor who sends exactly these bytes has asked for."""
    cutter = RequestCutter()
    cutter.feed(raw)
    return cutter


class AnswerCutter:
    """Cuts an upstream's bytes into answers to `method`, and rewrites them for a visitor."""

    def __init__(self, method: bytes = b"GET", version: str = "1.1") -> None:
        self._method = method
        self._version = version
        self._parser = HttpResponseParser(self)
        self._framing = NO_BODY
        self._in_head = True
        self.out = b""
        self.bodies: list[bytes] = []
        self.complete = 0
        self.delimited = True
        self.refused: Exception | None = None

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, ProtocolError):
                raise
            self.refused = error.__context__
        except (HttpParserError, HttpParserUpgrade) as error:
            self.refused = error

    def on_message_begin(self) -> None:
        self._reason = b""
        self._headers: Headers = []
        self._trailers: Headers = []
        self._in_head = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        (self._headers if self._in_head else self._trailers).append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        status = self._parser.get_status_code()
        framing = response_framing(self._method, status, self._headers, self._parser.get_http_version())
        self._framing = visitor_framing(framing, self._version)
        self.delimited = self._framing != UNTIL_EOF
        self.out += visitor_head(
            status, self._reason, self._headers, version=self._version, framing=self._framing, close=False
        )
        self.bodies.append(b"")

    def on_body(self, data: bytes) -> None:
        self.bodies[-1] += data
        self.out += chunk(data) if self._framing == CHUNKED else data

    def on_message_complete(self) -> None:
        self.complete += 1
        if self._framing == CHUNKED:
            self.out += last_chunk(self._trailers)
