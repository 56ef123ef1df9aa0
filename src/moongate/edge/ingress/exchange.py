"""One request and its answer on their way through the edge."""

from typing import Any, Final

from httptools import HttpResponseParser

from moongate.audit.captures import Capture
from moongate.wire import http1
from moongate.wire.http1 import NO_BODY as NO_FRAMING
from moongate.wire.http1 import Headers, RequestFacts

# One text for each, however many captures hold it.
_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
# Safe to send a second time when an idle connection turned out to be dead (RFC 9110 §9.2.2).
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class Body:
    """A copy of the beginning of a body, for the capture, and the count of all of it."""

    __slots__ = ("_pieces", "_room", "size", "truncated")

    def __init__(self, room: int) -> None:
        self._room = room
        self._pieces: list[bytes] | None = None
        self.size = 0
        self.truncated = False

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if self._room >= len(data):
            self._room -= len(data)
            self._keep(data)
        elif not self.truncated:
            self.truncated = True
            self._keep(data[: self._room])
            self._room = 0

    def _keep(self, data: bytes) -> None:
        if self._pieces is None:
            self._pieces = [data]
        else:
            self._pieces.append(data)

    def kept(self) -> bytes:
        if self._pieces is None:
            return b""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


NO_BODY: Final = Body(0)


class Exchange:
    """What the edge remembers of one request until its answer has been passed on."""

    __slots__ = (
        "answer",
        "answer_head",
        "closes",
        "complete",
        "facts",
        "framing",
        "headers",
        "id",
        "method",
        "request",
        "retried",
        "started",
        "started_at",
        "status",
        "trailers",
        "ttfb_s",
        "until_eof",
        "version",
        "waiting",
    )

    def __init__(
        self,
        identifier: bytes,
        method: bytes,
        version: str,
        facts: RequestFacts,
        headers: Headers,
        now: float,
        at: float,
    ) -> None:
        self.id = identifier
        self.method = method
        self.version = version
        self.facts = facts
        self.headers = headers
        self.started = now
        self.started_at = at
        self.request: Body | None = None  # until the first byte of it has come
        self.answer: Body | None = None
        self.answer_head = b""  # as it was written to the visitor
        self.trailers: Headers | None = None
        self.complete = False  # the whole request has come
        self.waiting: list[bytes] | None = None  # body pieces of a pipelined request
        self.status = 0  # 0 until the head of the answer is passed on
        self.framing = NO_FRAMING
        self.until_eof = False  # the upstream delimits its answer by closing
        self.ttfb_s = 0.0
        self.retried = False
        self.closes = False  # the visitor's connection ends with this answer

    @property
    def body_is_through(self) -> bool:
        """Whether nothing of the request is still to come."""
        return self.complete or not self.facts.has_body

    @property
    def is_head_only(self) -> bool:
        """Whether the answer's head is all of it, whatever length it names."""
        return self.method == b"HEAD" and self.framing == NO_FRAMING

    def begin_answer_as(self, last: "Exchange") -> bytes:
        """Take over the judged head of an answer that was the same to the letter, to a request of the same kind."""
        self.until_eof = last.until_eof
        self.framing = last.framing
        self.closes = last.closes
        self.answer_head = last.answer_head
        self.status = last.status
        return self.answer_head

    def begin_answer(self, parser: HttpResponseParser, reason: bytes, headers: Headers, *, close: bool) -> bytes:
        """Judge the head of the final answer and return it as the visitor gets it.

        Raises:
            ProtocolError: If it cannot be passed on.
        """
        status = parser.get_status_code()
        upgrade = status == 101 and self.facts.upgrade is not None
        fields = http1.gather(headers)
        framing = http1.response_framing(self.method, status, headers, parser.get_http_version(), fields)
        self.until_eof = framing == http1.UNTIL_EOF
        self.framing = http1.visitor_framing(framing, self.version)
        self.closes = not upgrade and (
            close or self.facts.close or self.framing == http1.UNTIL_EOF or not self.body_is_through
        )
        self.answer_head = http1.visitor_head(
            status,
            reason,
            headers,
            version=self.version,
            framing=self.framing,
            close=self.closes,
            upgrade=upgrade,
            found=fields,
        )
        self.status = status
        return self.answer_head

    def capture(self, tunnel_id: str, connection: bytes, duration_s: float) -> Capture:
        """Return what is recorded of it."""
        request, answer = self.request or NO_BODY, self.answer or NO_BODY
        return Capture(
            self.id,
            tunnel_id,
            connection,
            _METHODS.get(self.method) or self.method.decode("latin-1"),
            self.facts.target.decode("latin-1"),
            self.status,
            self.headers,
            self.answer_head,
            request.kept(),
            answer.kept(),
            request.truncated,
            answer.truncated,
            request.size,
            answer.size,
            self.started_at,
            self.ttfb_s,
            duration_s,
        )

    def summary(self, duration_s: float) -> dict[str, Any]:
        """Return it in a few members, for the log and for who looks on."""
        return {
            "method": self.method.decode("latin-1"),
            "path": self.facts.target.decode("latin-1"),
            "status": self.status,
            "duration_ms": round(duration_s * 1000, 3),
            "request_bytes": (self.request or NO_BODY).size,
            "response_bytes": (self.answer or NO_BODY).size,
        }

    @property
    def may_retry(self) -> bool:
        return not self.retried and not self.status and not self.facts.has_body and self.method in IDEMPOTENT
