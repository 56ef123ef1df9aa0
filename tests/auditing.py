"""What tests of the audit package share: clocks that are told the time, and captures of any shape."""

from dataclasses import dataclass
from typing import Any

from moongate.audit.captures import Capture
from moongate.audit.ids import Ids
from moongate.config import Capture as CaptureSettings

NEW_IDS = Ids()
TUNNEL = "c1d2e3f4-0a1b-4c2d-8e3f-405162738495"
STARTED_AT = 1_770_091_560.0  # 2026-02-03T04:06:00Z


@dataclass
class Clock:
    """A clock that goes only when told."""

    now: float = STARTED_AT

    def __call__(self) -> float:
        return self.now


def settings(*, ring: int = 500, total_bytes: int = 33_554_432, enabled: bool = True) -> CaptureSettings:
    return CaptureSettings(enabled=enabled, body_max_bytes=65536, total_bytes=total_bytes, ring=ring)


def make_capture(**members: Any) -> Capture:
    """Return a capture like that of the compatibility document, with some members changed."""
    values: dict[str, Any] = {
        "id": NEW_IDS.next(),
        "tunnel_id": TUNNEL,
        "conn_id": NEW_IDS.next(),
        "method": "POST",
        "path": "/hook?x=1",
        "status": 202,
        "request_headers": [(b"Content-Type", b"application/json")],
        "response_headers": [(b"Content-Type", b"text/plain")],
        "request_body": b'{"event":"push"}',
        "response_body": b"ok",
        "request_truncated": False,
        "response_truncated": False,
        "request_bytes": 16,
        "response_bytes": 2,
        "started_at": STARTED_AT,
        "ttfb_s": 0.01,
        "duration_s": 0.012,
    }
    return Capture(**values | members)
