"""What the edge knows of a tunnel, of a lease, and of the agent behind them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from moongate.edge.firewall import Rule, parse_rules
from moongate.edge.routes.names import lease_key
from moongate.errors import ConfigurationError
from moongate.identity.passwords import is_password_hash

if TYPE_CHECKING:
    from moongate.identity.tokens import Identity

CARRIERS: Final = ("tcp", "udp")  # the kinds that lease a port
KINDS: Final = ("http", "tls", *CARRIERS)
URL_MAX: Final = 2048
PAGE_TITLE_MAX: Final = 200
OPTION_SHOWN: Final = 100  # characters of a wrong value that are repeated to whoever gave it


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
class Page:
    """How the page looks that asks a visitor for a password; empty texts leave the node's own look."""

    title: str = ""
    logo_url: str = ""
    site_url: str = ""


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """What an agent asks for beside the name; 0 leaves the node's own limit."""

    proxy_protocol: str = ""
    host_header: str = ""
    rate_limit_rps: int = 0
    max_connections: int = 0
    request_body_max_bytes: int = 0
    capture: bool = True
    keep: bool = False  # the name stays the identity's until it is released
    firewall: tuple[Rule, ...] = ()
    secure: bool | None = None  # None: over HTTP and HTTPS, as the node's settings say
    redirect: bool = False
    redirect_url: str = ""
    basic_auth: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    page: Page | None = None
    acme: bool = False

    @classmethod
    def parse(cls, members: Mapping[str, object]) -> "TunnelOptions":
        """Read the `options` of a claim; members that are not known are ignored.

        Raises:
            ConfigurationError: If a known one has a value that it cannot have.
        """
        read = {name: _read_option(name, members[name]) for name in cls.__slots__ if name in members}
        options = cls(**read)
        # One object for all that ask for nothing: the data path tells by identity.
        return DEFAULT_OPTIONS if options == DEFAULT_OPTIONS else options


def _read_option(name: str, value: object) -> Any:
    try:
        return _READERS[name](value)
    except ValueError as error:
        reason = f": {error}" if str(error) else ""
    shown = "what it is" if name in _SECRET_OPTIONS else f"{value!r}"[:OPTION_SHOWN]
    raise ConfigurationError(f"option {name} cannot be {shown}{reason}")


def _matching(is_right: Callable[[Any], bool]) -> Callable[[object], Any]:
    def read(value: object) -> object:
        if not is_right(value):
            raise ValueError
        return value

    return read


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= 2**53


def _is_host(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 255 and re.fullmatch(r"[!-~]*", value) is not None


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_link(value: object) -> bool:
    if not isinstance(value, str) or len(value) > URL_MAX:
        return False
    return not value or re.fullmatch(r"https?://[!-~]+", value, re.IGNORECASE) is not None


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and (not value or is_password_hash(value))


def _read_page(value: object) -> Page | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("a page is an object with title, logo_url and site_url")
    known = {name: value[name] for name in Page.__slots__ if name in value}
    title = known.get("title", "")
    if not isinstance(title, str) or len(title) > PAGE_TITLE_MAX:
        raise ValueError(f"a title is a text of at most {PAGE_TITLE_MAX} characters")
    for name in ("logo_url", "site_url"):
        if not _is_link(known.get(name, "")):
            raise ValueError(f"{name} is not an address that begins with http:// or https://")
    page = Page(**known)
    return page if page != Page() else None


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "proxy_protocol": _matching(lambda value: value in ("", "v1", "v2")),
    "host_header": _matching(_is_host),
    "rate_limit_rps": _matching(_is_count),
    "max_connections": _matching(_is_count),
    "request_body_max_bytes": _matching(_is_count),
    "capture": _matching(_is_switch),
    "keep": _matching(_is_switch),
    "firewall": parse_rules,
    "secure": _matching(lambda value: value is None or _is_switch(value)),
    "redirect": _matching(_is_switch),
    "redirect_url": _matching(_is_link),
    "basic_auth": _matching(_is_hash),
    "password": _matching(_is_hash),
    "page": _read_page,
    "acme": _matching(_is_switch),
}
_SECRET_OPTIONS: Final = frozenset({"basic_auth", "password"})
DEFAULT_OPTIONS: Final = TunnelOptions()


@dataclass(slots=True, eq=False)
class Tunnel:
    """One public entry; `session` is None while its name is only held.

    `subdomain` is None where the name is not a label under the node's domain.
    """

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
    # Kept until it is released, however long its agent is away.
    keep: bool = False

    @property
    def key(self) -> str:
        """What the lease is kept under."""
        return lease_key(self.kind, self.name)

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
