"""What an agent tells whoever runs it: events as they happen, and a snapshot for a panel."""

from collections import deque
from dataclasses import dataclass, field

from moongate.agent.routes import Route

REQUESTS_KEPT = 200


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up."""

    node: str
    release: str
    again: bool


@dataclass(frozen=True, slots=True)
class TunnelReady:
    """A name or port is ours; also after a reconnection."""

    route: Route
    tunnel_id: str
    name: str
    port: int | None
    public_url: str
    again: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The node said no; with `fatal` the agent gives up."""

    code: str
    message: str
    hint: str
    route: Route | None
    fatal: bool


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The link is gone, or could not be made; attempt 1 is the first."""

    attempt: int
    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class SupersededBy:
    """A newer agent with the same token has the name now."""

    route: Route
    message: str


@dataclass(frozen=True, slots=True)
class ClosedBy:
    """An administrator closed the tunnel."""

    route: Route
    message: str


@dataclass(frozen=True, slots=True)
class RequestSeen:
    """A request that the edge answered through us."""

    route: Route
    method: str
    path: str
    status: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class UpstreamFailed:
    """A visitor came, and the upstream could not be reached."""

    route: Route
    message: str


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """How it is with the certificate of a name; `not_after` in seconds since 1970."""

    state: str = "none"  # "none", "pending", "ready" or "failed"
    message: str = ""
    not_after: float | None = None


@dataclass(frozen=True, slots=True)
class CertificateTold:
    """The node said how it is with the certificate of a route's name, or its files cannot be read."""

    route: Route
    status: CertificateStatus


AgentEvent = (
    Connected
    | TunnelReady
    | Refused
    | Reconnecting
    | SupersededBy
    | ClosedBy
    | RequestSeen
    | UpstreamFailed
    | CertificateTold
)


@dataclass(slots=True)
class Lamp:
    """One of the three proofs; `at` is the time of the last one on the monotonic clock."""

    name: str
    ok: bool = False
    at: float | None = None
    rtt_s: float | None = None
    detail: str = ""


@dataclass(slots=True)
class TunnelSnapshot:
    """One tunnel and what went through it."""

    route: Route
    state: str  # "waiting", "ready", "refused", "superseded" or "closed"
    public_url: str = ""
    tunnel_id: str = ""
    connections: int = 0  # open now
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    note: str = ""
    certificate: CertificateStatus = CertificateStatus()


@dataclass(slots=True)
class AgentSnapshot:
    """The whole agent at one moment."""

    state: str  # "connecting", "online", "reconnecting" or "stopped"
    node: str = ""
    link: Lamp = field(default_factory=lambda: Lamp("link"))
    agent: Lamp = field(default_factory=lambda: Lamp("agent"))
    upstream: Lamp = field(default_factory=lambda: Lamp("upstream"))
    tunnels: list[TunnelSnapshot] = field(default_factory=list)
    requests: deque[RequestSeen] = field(default_factory=lambda: deque(maxlen=REQUESTS_KEPT))
