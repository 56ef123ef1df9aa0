"""The edge's own answers: HTML for people, JSON for programs, always with a request id."""

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from moongate.wire import tunnel as wire

if TYPE_CHECKING:
    from moongate.edge.ingress.password_page import PasswordForm

_REASONS: Final = {
    302: "Found",
    303: "See Other",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

# RESET code -> status, code, message.
_FAILURES: Final[dict[int, tuple[int, str, str]]] = {
    wire.UPSTREAM_REFUSED: (502, "upstream.refused", "the service behind this name refused the connection"),
    wire.UPSTREAM_UNRESOLVED: (502, "upstream.unresolved", "the address of the service behind this name is unknown"),
    wire.UPSTREAM_TIMEOUT: (504, "upstream.timeout", "the service behind this name did not answer in time"),
    wire.LINK_LOST: (503, "agent.offline", "the agent that publishes this name is not connected"),
    wire.NO_TUNNEL: (503, "agent.offline", "the agent no longer publishes this name"),
    wire.LIMIT: (429, "limit.exceeded", "too many connections to this name"),
}
_CLOSED_EARLY: Final = (502, "upstream.closed", "the service behind this name closed the connection without an answer")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
BROKEN_ANSWER: Final = (502, "upstream.invalid", "the service behind this name did not answer in HTTP/1.1")

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} {reason}</title><style>
body{{font:16px/1.5 system-ui,sans-serif;color:#222;background:#f6f6f4;margin:0;display:grid;place-items:center;min-height:100vh}}
main{{max-width:34rem;padding:2rem}}h1{{font-size:1.4rem;margin:.2rem 0 1rem}}p{{margin:.5rem 0}}small{{color:#666}}
.gate{{width:3.5rem;height:3.5rem;border-radius:50%;border:.7rem solid #9aa58f}}
@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#1c1d1b}}small{{color:#999}}}}
</style></head><body><main><div class="gate"></div><h1>{status} {reason}</h1><p>{message}</p><p>{hint}</p>
<small>Request {request_id} · Moongate</small></main></body></html>
"""


def reason_of(status: int) -> str:
    """Return the reason phrase of a status (RFC 9110 §15)."""
    return _REASONS.get(status, "Error")


def failure_of(code: int | None) -> tuple[int, str, str]:
    """Return status, code and message for an upstream that ended before it answered: by a RESET code, or orderly."""
    return _CLOSED_EARLY if code is None else _FAILURES.get(code, _CLOSED_EARLY)


def wants_json(accept: bytes) -> bool:
    """Whether a program is asking: it names JSON, and not HTML before it."""
    text = accept.lower()
    return b"json" in text and (b"text/html" not in text or text.index(b"json") < text.index(b"text/html"))


def error_answer(
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    accept: bytes = b"",
    hint: str = "",
    head_only: bool = False,
    close: bool = False,
    retry_after_s: int | None = None,
    location: str | None = None,
    fields: Sequence[str] = (),
    form: "PasswordForm | None" = None,
) -> bytes:
    """Return a whole HTTP/1.1 answer; a form stands in for the page that people get."""
    if wants_json(accept):
        kind = "application/json"
        body = json.dumps(
            {"error": message, "code": code, "status": status, "hint": hint, "request_id": request_id}
        ).encode()
    elif form is not None:
        kind = "text/html; charset=utf-8"
        body = form.html(request_id).encode()
    else:
        kind = "text/html; charset=utf-8"
        body = _PAGE.format(
            status=status,
            reason=reason_of(status),
            message=escape(message[:1].upper() + message[1:] + "."),
            hint=escape(hint),
            request_id=request_id,
        ).encode()
    lines = [
        f"HTTP/1.1 {status} {reason_of(status)}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        f"Content-Security-Policy: {_POLICY if form is None else form.policy}",
        f"X-Request-Id: {request_id}",
    ]
    if retry_after_s is not None:
        lines.append(f"Retry-After: {retry_after_s}")
    if location is not None:
        lines.append(f"Location: {location}")
    lines += fields
    lines.append("Connection: close" if close else "Connection: keep-alive")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head if head_only else head + body


def proof_answer(proof: bytes, *, head_only: bool = False, close: bool = False) -> bytes:
    """Return the answer to a certificate authority that looks whether a name is ours (RFC 8555 §8.3)."""
    lines = (
        b"HTTP/1.1 200 OK",
        b"Content-Type: application/octet-stream",
        b"Content-Length: %d" % len(proof),
        b"Cache-Control: no-store",
        b"Connection: close" if close else b"Connection: keep-alive",
    )
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    return head if head_only else head + proof
