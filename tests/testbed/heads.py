"""Carries bytes through httptools and wire.http1 as the edge does, without sockets or an upstream."""

from dataclasses import dataclass, field

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from moongate.errors import ProtocolError
from moongate.wire.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_EOF,
    Headers,
    RequestFacts,
    body_head,
    check_request,
    chunk,
    last_chunk,
    response_framing,
    upstream_head,
    visitor_framing,
    visitor_head,
)


@dataclass
class Request:
    method: bytes
    facts: RequestFacts
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    whole: bool = False

    def serialize(self) -> bytes:
        """Return what the upstream would get."""
        head = upstream_head(self.method, self.facts, self.headers, peer_ip="192.0.2.7", proto="https", upgrade=True)
        if not self.facts.chunked:
            return head + self.body
        return head + (chunk(self.body) if self.body else b"") + last_chunk(self.trailers)


class RequestCutter:
    """Cuts a visitor's bytes into judged requests; `refused` once they cannot be trusted."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refused: Exception | None = None
        self.switched = b""
        self._current: Request | None = None
        self._start()

    def _start(self) -> None:
        self._parser = HttpRequestParser(self)
        self._in_head = True
        self._resuming = False

    def feed(self, data: bytes) -> None:
        if self.refused is not None:
            return
        rest = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, ProtocolError):
                raise
            self.refused = error.__context__
        except HttpParserError as error:
            self.refused = error
        # Not inside `except`: there Python would replace the context of the next callback's error.
        if rest is not None:
            self._go_on(rest)

    def _go_on(self, rest: bytes) -> None:
        last = self.requests[-1]
        if last.facts.has_body:
            self._parser = HttpRequestParser(self)
            self._resuming = True
            self._parser.feed_data(body_head(last.facts))
            self._resuming = False
            self._current = last
            self.feed(rest)
        elif last.facts.upgrade is None:
            last.whole = True
            self._start()
            self.feed(rest)
        else:
            last.whole = True
            self.switched = rest

    def on_message_begin(self) -> None:
        if not self._resuming:
            self._url = b""
            self._headers: Headers = []
            self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._headers.append((name, value))
        elif self._current is not None:
            self._current.trailers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        self._in_head = False
        method = self._parser.get_method()
        facts = check_request(method, self._url, self._parser.get_http_version(), self._headers)
        self._current = Request(method, facts, self._headers)
        self.requests.append(self._current)

    def on_body(self, data: bytes) -> None:
        assert self._current is not None
        self._current.body += data

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        assert self._current is not None
        self._current.whole = True
        self._current = None


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
