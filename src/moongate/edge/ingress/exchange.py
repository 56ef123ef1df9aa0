"""One request and its answer on their way through the edge."""

from typing import Final

from moongate.wire.http1 import NO_BODY as NO_FRAMING
from moongate.wire.http1 import Headers, RequestFacts

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

    @property
    def may_retry(self) -> bool:
        return not self.retried and not self.status and not self.facts.has_body and self.method in IDEMPOTENT
