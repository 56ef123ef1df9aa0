"""One recorded HTTP exchange: what people may see of it, what a resend needs, and how it is stored."""

import json
from base64 import b64encode
from codecs import getincrementaldecoder
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moongate.audit.ids import id_text
from moongate.audit.sealing import Sealer
from moongate.storage.times import micros_text, to_micros

Headers = list[tuple[bytes, bytes]]

MASK = "***"
_MASK = MASK.encode()
_SECRET_NAMES = frozenset(
    {b"authentication-info", b"cookie", b"proxy-authentication-info", b"set-cookie", b"x-functions-key"}
)
_SECRET_PARTS = (b"authorization", b"token", b"secret", b"password", b"api-key", b"apikey", b"cookie", b"jwt")


@lru_cache(maxsize=1024)
def is_secret(name: bytes) -> bool:
    """Tell whether a header's value must never be shown."""
    name = name.lower()
    return name in _SECRET_NAMES or any(part in name for part in _SECRET_PARTS)


class Capture:
    """One finished exchange; bodies are copies cut at the capture limit, or None when none was taken."""

    __slots__ = (
        "_response_head",
        "conn_id",
        "duration_s",
        "id",
        "method",
        "path",
        "request_body",
        "request_bytes",
        "request_headers",
        "request_truncated",
        "response_body",
        "response_bytes",
        "response_truncated",
        "started_at",
        "status",
        "ttfb_s",
        "tunnel_id",
    )

    def __init__(
        self,
        id: bytes,  # noqa: A002 -- the field's name in the API
        tunnel_id: str,
        conn_id: bytes,
        method: str,
        path: str,
        status: int,
        request_headers: Headers,
        response_headers: Headers | bytes,
        request_body: bytes | None,
        response_body: bytes | None,
        request_truncated: bool,
        response_truncated: bool,
        request_bytes: int,
        response_bytes: int,
        started_at: float,
        ttfb_s: float,
        duration_s: float,
    ) -> None:
        self.id = id
        self.tunnel_id = tunnel_id
        self.conn_id = conn_id
        self.method = method
        self.path = path
        self.status = status
        self.request_headers = request_headers
        # The data path hands over the head as it was written: one object that is kept, instead of one for each field.
        self._response_head = response_headers
        self.request_body = request_body
        self.response_body = response_body
        self.request_truncated = request_truncated
        self.response_truncated = response_truncated
        self.request_bytes = request_bytes
        self.response_bytes = response_bytes
        self.started_at = started_at
        self.ttfb_s = ttfb_s
        self.duration_s = duration_s

    @property
    def response_headers(self) -> Headers:
        """The fields of the answer, in their order."""
        head = self._response_head
        return _fields(head) if isinstance(head, bytes) else head

    def drop_bodies(self) -> None:
        """Let the bodies go and say that they are cut."""
        self.request_truncated = self.request_truncated or bool(self.request_body)
        self.response_truncated = self.response_truncated or bool(self.response_body)
        self.request_body = self.response_body = None

    def public(self) -> dict[str, Any]:
        """Return the recorded object of the API, with secrets masked."""
        return {
            "id": id_text(self.id),
            "tunnel_id": self.tunnel_id,
            "conn_id": id_text(self.conn_id),
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "duration_ms": round(self.duration_s * 1000),
            "ttfb_ms": round(self.ttfb_s * 1000),
            "captured_at": micros_text(to_micros(self.started_at)),
            "request_body": _envelope(self.request_headers, self.request_body, self.request_truncated),
            "response_body": _envelope(self.response_headers, self.response_body, self.response_truncated),
        }

    def resendable(self) -> "Resendable":
        """Return what sending it again needs, secrets included."""
        body, truncated = self.request_body, self.request_truncated
        return Resendable(self.method, self.path, list(self.request_headers), body, truncated)


def _fields(head: bytes) -> Headers:
    """Return the fields of a head that the edge wrote: a start line, then `name: value`, each with CRLF."""
    lines = head.split(b"\r\n")[1:]
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines) if name]
    # What the edge says of its own hop is not the answer's.
    return [(name, value) for name, value in fields if name != b"Connection"]


@dataclass(frozen=True, slots=True)
class Resendable:
    """A request as it once came, unmasked; a truncated body is not the whole one. Its repr hides what is secret."""

    method: str
    path: str
    headers: Headers
    body: bytes | None
    truncated: bool

    def __repr__(self) -> str:
        return f"Resendable({self.method} {self.path}, {len(self.headers)} headers, truncated={self.truncated})"


def _envelope(headers: Headers, body: bytes | None, truncated: bool) -> str | None:
    # A string that holds JSON, because that API's field is one; null when nothing was recorded.
    if not headers and body is None and not truncated:
        return None
    shown: dict[str, list[str]] = {}
    for name, value in headers:
        text = MASK if is_secret(name) else value.decode("latin-1")
        shown.setdefault(name.decode("latin-1").lower(), []).append(text)
    envelope: dict[str, Any] = {"headers": shown, **_body_members(body or b"", truncated)}
    if truncated:
        envelope["truncated"] = True
    return json.dumps(envelope, separators=(",", ":"))


def _body_members(body: bytes, truncated: bool) -> dict[str, str]:
    try:
        # A cut body may end inside a character; that alone does not make it binary.
        return {"body": getincrementaldecoder("utf-8")().decode(body, final=not truncated)}
    except UnicodeDecodeError:
        return {"body": b64encode(body).decode("ascii"), "encoding": "base64"}


def to_row(capture: Capture, sealer: Sealer) -> dict[str, Any]:
    """Return the database row of a capture; secret header values go into its sealed column alone."""
    request_head, request_secrets = _split(capture.request_headers)
    response_head, response_secrets = _split(capture.response_headers)
    sealed = None
    if request_secrets or response_secrets:
        secrets = json.dumps([request_secrets, response_secrets], separators=(",", ":"))
        sealed = sealer.seal(secrets.encode(), capture.id)
    return {
        "id": id_text(capture.id),
        "tunnel_id": capture.tunnel_id,
        "conn_id": id_text(capture.conn_id),
        "method": capture.method.replace("\0", ""),  # PostgreSQL's text holds no NUL
        "path": capture.path.replace("\0", ""),
        "status": capture.status,
        "request_bytes": capture.request_bytes,
        "response_bytes": capture.response_bytes,
        "started_at": to_micros(capture.started_at),
        "ttfb_us": to_micros(capture.ttfb_s),
        "duration_us": to_micros(capture.duration_s),
        "request_head": request_head,
        "response_head": response_head,
        "request_body": capture.request_body,
        "response_body": capture.response_body,
        "request_truncated": capture.request_truncated,
        "response_truncated": capture.response_truncated,
        "sealed": sealed,
    }


def from_row(row: Any, sealer: Sealer) -> Capture:
    """Return the capture of a database row; a secret that cannot be unsealed any more is left out."""
    octets = bytes.fromhex(row.id.replace("-", ""))
    request_secrets, response_secrets = _unsealed(row.sealed, octets, sealer)
    return Capture(
        id=octets,
        tunnel_id=row.tunnel_id,
        conn_id=bytes.fromhex(row.conn_id.replace("-", "")),
        method=row.method,
        path=row.path,
        status=row.status,
        request_headers=_join(row.request_head, request_secrets),
        response_headers=_join(row.response_head, response_secrets),
        request_body=row.request_body,
        response_body=row.response_body,
        request_truncated=row.request_truncated,
        response_truncated=row.response_truncated,
        request_bytes=row.request_bytes,
        response_bytes=row.response_bytes,
        started_at=row.started_at / 1_000_000,
        ttfb_s=row.ttfb_us / 1_000_000,
        duration_s=row.duration_us / 1_000_000,
    )


def _split(headers: Headers) -> tuple[bytes, list[str]]:
    # Neither a name nor a value can hold a line end: the edge refuses such a message (RFC 9112 §2.2).
    lines, secrets = [], []
    for name, value in headers:
        if is_secret(name):
            secrets.append(value.decode("latin-1"))
            lines.append(name + b": " + _MASK)
        else:
            lines.append(name + b": " + value)
    return b"\r\n".join(lines), secrets


def _join(head: bytes | None, secrets: list[str] | None) -> Headers:
    headers: Headers = []
    values = iter(secrets or ())
    for line in (head or b"").split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name and not is_secret(name):
            headers.append((name, value))
        elif name and (secret := next(values, None)) is not None:
            headers.append((name, secret.encode("latin-1")))
    return headers


def _unsealed(sealed: bytes | None, record: bytes, sealer: Sealer) -> tuple[list[str] | None, list[str] | None]:
    opened = sealer.unseal(sealed, record) if sealed else None
    if opened is None:
        return None, None
    request_secrets, response_secrets = json.loads(opened)
    return request_secrets, response_secrets
