"""What the edge knows of a tunnel, of a lease, and of the agent behind them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from moongate.errors import ConfigurationError

if TYPE_CHECKING:
    from moongate.identity.tokens import Identity

KINDS: Final = ("http", "tls", "tcp")


class AgentSession(Protocol):
    """What the edge keeps of a connected agent; compared by identity."""

    @property
    def id(self) -> str:
        """A UUID."""
        ...

    @property
    def peer_text(self) -> str:
        """The agent's address, `ip:port`."""
        ...

    @property
    def identity(self) -> "Identity":
        """Whose token the agent showed."""
        ...

    def __hash__(self) -> int: ...


class ClosedRow(Protocol):
    """What history remembers of a tunnel from before a restart."""

    @property
    def tunnel_id(self) -> str:
        """A UUID, as it was shown to people."""
        ...

    @property
    def label(self) -> str:
        """The host name, or the port in decimal."""
        ...

    @property
    def protocol(self) -> str:
        """The tunnel's kind."""
        ...

    @property
    def token_id(self) -> str | None:
        """Who had it; None is the administrator."""
        ...

    @property
    def unregistered_at(self) -> float | None:
        """When it ended, in seconds since 1970; None if it was open when the node died."""
        ...


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """What an agent asks for beside the name; 0 leaves the node's own limit."""

    proxy_protocol: str = ""
    host_header: str = ""
    rate_limit_rps: int = 0
    max_connections: int = 0
    request_body_max_bytes: int = 0
    capture: bool = True

    @classmethod
    def parse(cls, members: Mapping[str, object]) -> "TunnelOptions":
        """Read the `options` of a claim; members that are not known are ignored.

        Raises:
            ConfigurationError: If a known one has a value that it cannot have.
        """
        known = {name: members[name] for name in cls.__slots__ if name in members}
        for name, value in known.items():
            if not _OPTION_RULES[name](value):
                raise ConfigurationError(f"option {name} cannot be {value!r}")
        options = cls(**known)  # type: ignore[arg-type]
        # One object for all that ask for nothing: the data path tells by identity.
        return DEFAULT_OPTIONS if options == DEFAULT_OPTIONS else options


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= 2**53


def _is_host(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 255 and re.fullmatch(r"[!-~]*", value) is not None


_OPTION_RULES: Final[dict[str, Callable[[object], bool]]] = {
    "proxy_protocol": lambda value: value in ("", "v1", "v2"),
    "host_header": _is_host,
    "rate_limit_rps": _is_count,
    "max_connections": _is_count,
    "request_body_max_bytes": _is_count,
    "capture": lambda value: isinstance(value, bool),
}
DEFAULT_OPTIONS: Final = TunnelOptions()


@dataclass(slots=True, eq=False)
class Tunnel:
    """One public entry; `session` is None while its name is only held."""

    id: str
    number: int
    kind: str
    name: str
    subdomain: str | None
    port: int | None
    public_url: str
    opened_at: float
    generation: int
    session: AgentSession | None
    options: TunnelOptions
    upstream: str = ""
    request_count: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """An identity's hold on a name or port; `until` is a monotonic deadline, None while an agent is connected."""

    name: str
    kind: str
    identity_id: str
    holder: str
    instance: str
    generation: int
    tunnel: Tunnel | None
    until: float | None = None
    # The generation from before our restart that this lease was given for: it ranks two agents that both show one.
    basis: int | None = None
    # The tunnel of before our restart, which goes on if its agent comes back.
    former_id: str = ""

    @property
    def live(self) -> bool:
        """Whether an agent is connected that answers for the name."""
        return self.until is None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A lease given. `displaced` is the tunnel as it was, and the session that has lost it."""

    tunnel: Tunnel
    fresh: bool  # this run of the node had no such tunnel before
    displaced: tuple[Tunnel, AgentSession] | None
    own_ghost: bool  # the displaced session is an earlier one of this very agent: close it, tell it nothing


@dataclass(frozen=True, slots=True)
class Revoked:
    """What ends with a token: its sessions, and its tunnels, held ones too."""

    sessions: list[AgentSession]
    tunnels: list[Tunnel]
