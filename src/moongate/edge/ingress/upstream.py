"""The channel's end at the edge: cuts the upstream's bytes into answers and tells the visitor."""

import asyncio
from typing import Protocol

import structlog
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from moongate.errors import ProtocolError
from moongate.relay.channels import ChannelReset
from moongate.wire import http1

log = structlog.get_logger(__name__)


class Listening(Protocol):
    """Who is told of the upstream's answers: the visitor."""

    def answer_head(self, parser: HttpResponseParser, reason: bytes, headers: http1.Headers) -> bool: ...
    def answer_body(self, data: bytes) -> None: ...
    def answer_end(self, trailers: http1.Headers, *, reusable: bool) -> None: ...
    def answer_broken(self, reason: str) -> None: ...
    def flush(self) -> None: ...
    def switch(self) -> None: ...
    def pass_raw(self, data: bytes) -> None: ...
    def raw_ended(self) -> None: ...
    def upstream_eof(self) -> None: ...
    def upstream_ended(self, code: int | None) -> None: ...
    def hold_for_upstream(self) -> None: ...
    def release_for_upstream(self) -> None: ...


class Upstream(asyncio.Protocol):
    """The channel's end at the edge: cuts the upstream's bytes into answers and tells the visitor."""

    __slots__ = ("_headers", "_in_head", "_over", "_parser", "_raw", "_reason", "_skip", "_trailers", "_visitor")

    def __init__(self, visitor: Listening) -> None:
        self._visitor: Listening | None = visitor
        self._parser: HttpResponseParser = HttpResponseParser(self)
        self._reason = b""
        self._headers: http1.Headers = []
        self._trailers: http1.Headers = []
        self._in_head = False
        self._skip = False
        self._raw = False
        self._over = False

    def detach(self) -> None:
        self._visitor = None

    def data_received(self, data: bytes) -> None:
        visitor = self._visitor
        if visitor is None:
            return
        if self._raw:
            visitor.pass_raw(data)
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._switched(visitor, data[upgrade.args[0] :])
            return
        except HttpParserCallbackError as error:
            cause = error.__context__ or error.__cause__
            if not isinstance(cause, ProtocolError):
                log.error("answer failed", exc_info=cause or error)
            visitor.answer_broken(str(cause or error))
            return
        except HttpParserError as error:
            visitor.answer_broken(str(error))
            return
        visitor.flush()
        if self._skip:
            # httptools cannot be told that this was the answer to HEAD; a fresh parser knows nothing of a body.
            self._skip = False
            self._parser = HttpResponseParser(self)

    def _switched(self, visitor: Listening, rest: bytes) -> None:
        self._raw = True
        visitor.switch()
        if rest:
            visitor.pass_raw(rest)

    # -- httptools

    def on_message_begin(self) -> None:
        self._in_head = True
        self._reason = b""
        self._headers = []
        self._trailers = []

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        (self._headers if self._in_head else self._trailers).append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        visitor = self._visitor
        if visitor is None or self._skip:
            return
        if not visitor.answer_head(self._parser, self._reason, self._headers):
            self._skip = True
            visitor.answer_end([], reusable=self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        if self._visitor is not None and not self._skip:
            self._visitor.answer_body(data)

    def on_message_complete(self) -> None:
        visitor = self._visitor
        if visitor is None or self._skip or self._parser.get_status_code() < 200:  # 1xx: the answer is still to come
            return
        visitor.answer_end(self._trailers, reusable=self._parser.should_keep_alive())

    # -- the channel's other news

    def eof_received(self) -> bool:
        visitor = self._visitor
        if visitor is None:
            return False
        if self._raw:
            visitor.raw_ended()
            return True
        visitor.upstream_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        visitor, self._visitor = self._visitor, None
        self._parser = None  # type: ignore[assignment]  # it knows us too; nothing is received any more
        if visitor is not None:
            visitor.upstream_ended(exc.code if isinstance(exc, ChannelReset) else None)

    def pause_writing(self) -> None:
        if self._visitor is not None:
            self._visitor.hold_for_upstream()

    def resume_writing(self) -> None:
        if self._visitor is not None:
            self._visitor.release_for_upstream()
