"""What the panel shows: plain values, collected from an agent's events and snapshots."""

from collections import deque
from dataclasses import dataclass, field

REQUESTS_SHOWN = 200
NOTICES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Light:
    """One of the three lamps, with its last proof."""

    name: str
    ok: bool = False
    proven_at: float | None = None
    rtt_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TunnelView:
    """One published entry and what went through it."""

    kind: str
    public_url: str
    local: str
    connections: int = 0
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class RequestView:
    """One request that was answered."""

    at: float
    method: str
    path: str
    status: int
    duration_s: float
    tunnel: str = ""


@dataclass(slots=True)
class View:
    """Everything on the panel at one moment."""

    node: str = ""
    state: str = "connecting"
    facts: tuple[str, ...] = ()
    lights: tuple[Light, ...] = ()
    tunnels: tuple[TunnelView, ...] = ()
    requests: deque[RequestView] = field(default_factory=lambda: deque(maxlen=REQUESTS_SHOWN))
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=NOTICES_SHOWN))
