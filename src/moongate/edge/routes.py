"""Which agent answers for a public name or port: names, leases, and the rules on them.

Pure: time is an argument, what must be told or closed is returned. Binding ports, speaking to agents
and writing history are left to edge.control and the node. docs/explanation/names-and-leases.md is this
module in words.
"""

import copy
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from moongate.errors import (
    ConfigurationError,
    LimitExceeded,
    NameInvalid,
    NameTaken,
    NoPortFree,
    PortUnavailable,
    RoutingError,
    ScopeDenied,
    Superseded,
)

if TYPE_CHECKING:
    from moongate.config import PortRange
    from moongate.identity.tokens import Identity

KINDS: Final = ("http", "tls", "tcp")
MIN_LABEL: Final = 3
MAX_LABEL: Final = 63  # RFC 1035 §2.3.4
MAX_NUMBER: Final = 0xFFFF_FFFF
# Names that a browser, a mail program or an operating system asks for by itself and then trusts, and our own.
RESERVED: Final = frozenset(
    {"admin", "api", "autoconfig", "autodiscover", "console", "dashboard", "ftp", "imap", "localhost", "mail"}
    | {"metrics", "moongate", "ns1", "ns2", "pop", "postmaster", "smtp", "webmail", "wpad", "www"}
)
# A claim may show a generation that a node with a faster clock gave; beyond this it is made up.
MAX_CLOCK_LEAD_MS: Final = 366 * 86_400_000

_LABEL: Final = re.compile(r"[a-z0-9-]+")


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
        return cls(**known) if known else DEFAULT_OPTIONS  # type: ignore[arg-type]


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

    @property
    def live(self) -> bool:
        """Whether an agent is connected that answers for the name."""
        return self.until is None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A lease given. `displaced` is the tunnel as it was, and the session that has lost it."""

    tunnel: Tunnel
    fresh: bool  # a tunnel id that was not there before
    displaced: tuple[Tunnel, AgentSession] | None
    own_ghost: bool  # the displaced session is an earlier one of this very agent: close it, tell it nothing


@dataclass(frozen=True, slots=True)
class Revoked:
    """What ends with a token: its sessions, and its tunnels, held ones too."""

    sessions: list[AgentSession]
    tunnels: list[Tunnel]


@dataclass(slots=True)
class _Roster:
    order: int
    tunnels: list[Tunnel]


@dataclass(frozen=True, slots=True)
class _Claim:
    kind: str
    identity: "Identity"
    instance: str
    generation: int | None
    session: AgentSession
    options: TunnelOptions
    upstream: str


class Routes:
    """Every tunnel of this node, and who may have which name."""

    def __init__(
        self,
        *,
        domain: str,
        tcp_ports: "PortRange",
        hold_s: float,
        random_hex: Callable[[int], str],
        node_names: Iterable[str],
        public_url: Callable[[str, str, int | None], str],
        max_tunnels_per_session: int = 0,
        reserved: Iterable[str] = RESERVED,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.hold_s = hold_s
        self.max_tunnels_per_session = max_tunnels_per_session
        self._suffix = "." + domain.lower().strip(".")
        self._node_names = frozenset(name.lower().rstrip(".") for name in node_names)
        self._reserved = frozenset(reserved)
        self._random_hex = random_hex
        self._public_url = public_url
        self._wall_clock = wall_clock
        # Seeded from the clock, so that generations grow across restarts without being stored.
        self._first_generation = self._generation = int(wall_clock() * 1000)
        self._number = 0
        self._order = 0
        self._ports = range(0)
        # An ordered set: the last one in is the first one out.
        self._free_ports: dict[int, None] = {}
        self._leases: dict[str, Lease] = {}
        self._held: dict[str, Lease] = {}
        self._hosts: dict[str, Tunnel] = {}
        self._numbers: dict[int, Tunnel] = {}
        self._ids: dict[str, Lease] = {}
        self._sessions: dict[AgentSession, _Roster] = {}
        self._ended: list[Tunnel] = []
        self.set_ports(tcp_ports)

    # Looking up: by_host runs once for every request.

    def by_host(self, host: str) -> Tunnel | None:
        """Return the live tunnel of a host name (lower case, no port, no trailing dot)."""
        return self._hosts.get(host)

    def held(self, host: str) -> Lease | None:
        """Return the lease on a name whose agent is gone, while it is still kept."""
        return self._held.get(host)

    def by_number(self, number: int) -> Tunnel | None:
        """Return the live tunnel that the wire calls by this number."""
        return self._numbers.get(number)

    def tunnel(self, tunnel_id: str, *, held: bool = False) -> Tunnel | None:
        """Return a live tunnel; with `held` also one whose agent is gone."""
        lease = self._ids.get(tunnel_id)
        return lease.tunnel if lease is not None and (held or lease.live) else None

    def tunnels(self) -> list[Tunnel]:
        """Return the live tunnels, the latest claimed last."""
        return list(self._numbers.values())

    def sessions(self) -> list[AgentSession]:
        """Return the agents that are connected."""
        return list(self._sessions)

    def tunnels_of(self, session: AgentSession) -> list[Tunnel]:
        """Return the live tunnels of one agent."""
        roster = self._sessions.get(session)
        return list(roster.tunnels) if roster is not None else []

    @property
    def session_count(self) -> int:
        """How many agents are connected."""
        return len(self._sessions)

    @property
    def held_count(self) -> int:
        """How many names and ports are kept for agents that are gone."""
        return len(self._held)

    # Changing: each returns what must now be told, opened or closed.

    def joined(self, session: AgentSession) -> None:
        """Count an agent that is connected, also before it has claimed anything."""
        if session not in self._sessions:
            self._order += 1
            self._sessions[session] = _Roster(self._order, [])

    def claim(
        self,
        now: float,
        *,
        kind: str,
        wanted: str | None,
        identity: "Identity",
        instance: str,
        generation: int | None,
        session: AgentSession,
        options: TunnelOptions = DEFAULT_OPTIONS,
        upstream: str = "",
    ) -> Claimed:
        """Give a name or port to an agent.

        Raises:
            NameInvalid: If no tunnel can have the name.
            ScopeDenied: If the token may not have it.
            NameTaken: If another identity holds it, or this agent has it already.
            PortUnavailable: The same for a port, or it is out of range.
            NoPortFree: If every port this identity may have is held.
            Superseded: If a newer instance of the identity has it.
            LimitExceeded: If the session has as many tunnels as it may.
        """
        self.joined(session)
        self._check_quota(session)
        claim = _Claim(kind, identity, instance, generation, session, options, upstream)
        name = self._choose(now, claim, wanted)
        lease = self._current(now, name)
        if lease is not None:
            self._check_rank(now, lease, claim)
        return self._grant(name, lease, claim)

    def release(self, tunnel_id: str, generation: int, session: AgentSession) -> Tunnel | None:
        """Give a name back at once; None if this is a late word of an earlier holder."""
        lease = self._ids.get(tunnel_id)
        if lease is None or lease.tunnel is None:
            return None
        if lease.generation != generation or lease.tunnel.session is not session:
            return None
        return self._drop(lease)

    def lost(self, now: float, session: AgentSession) -> list[Tunnel]:
        """Keep the names of a session that has ended; returns its tunnels, which visitors now find offline."""
        roster = self._sessions.pop(session, None)
        if roster is None:
            return []
        for tunnel in roster.tunnels:
            lease = self._leases[tunnel.name]
            lease.until = now + self.hold_s
            tunnel.session = None
            self._numbers.pop(tunnel.number)
            self._hosts.pop(tunnel.name, None)
            self._held[tunnel.name] = lease
        return roster.tunnels

    def expire(self, now: float) -> list[Tunnel]:
        """End the holds that are over; returns every tunnel that has ended by itself since the last call."""
        self._end_overdue(now)
        ended, self._ended = self._ended, []
        return ended

    def next_deadline(self) -> float | None:
        """Return when the next hold is over."""
        return min((lease.until for lease in self._held.values() if lease.until is not None), default=None)

    def close(self, tunnel_id: str) -> Tunnel | None:
        """Take a tunnel away, live or held; returns it as it was, with the session that must be told."""
        lease = self._ids.get(tunnel_id)
        return self._drop(lease) if lease is not None else None

    def revoke(self, identity_id: str) -> Revoked:
        """End all that an identity has: its token was deleted."""
        leases = [lease for lease in self._leases.values() if lease.identity_id == identity_id]
        tunnels = [tunnel for lease in leases if (tunnel := self._drop(lease)) is not None]
        sessions = [session for session in self._sessions if session.identity.id == identity_id]
        for session in sessions:
            del self._sessions[session]
        return Revoked(sessions, tunnels)

    def unbindable(self, tunnel_id: str) -> Tunnel | None:
        """Take a tunnel's port away because another program listens there; it is offered last from now on."""
        ended = self.close(tunnel_id)
        if ended is not None and ended.port in self._free_ports:
            del self._free_ports[ended.port]
            self._free_ports = {ended.port: None, **self._free_ports}
        return ended

    def restore(self, now: float, rows: Iterable[ClosedRow]) -> int:
        """Hold the names that were in use before a restart for those who had them; returns how many."""
        restored = 0
        for row in rows:
            since = self._wall_clock() - row.unregistered_at if row.unregistered_at is not None else 0.0
            # A clock that was set back must not make a hold longer than it may be.
            left = self.hold_s - max(0.0, since)
            if left <= 0 or row.label in self._leases or not self._is_ours(row):
                continue
            holder = "admin" if row.token_id is None else f"token {row.token_id[:8]}"
            lease = Lease(row.label, row.protocol, row.token_id or "admin", holder, "", 0, None, now + left)
            self._leases[row.label] = self._held[row.label] = lease
            if row.protocol == "tcp":
                self._free_ports.pop(int(row.label), None)
            restored += 1
        return restored

    def set_ports(self, ports: "PortRange") -> None:
        """Change the range of TCP ports; tunnels outside it stay until they end."""
        self._ports = range(ports.low, ports.high + 1)
        self._free_ports = {port: None for port in self._ports if str(port) not in self._leases}

    # Choosing a name.

    def _choose(self, now: float, claim: _Claim, wanted: str | None) -> str:
        if claim.kind not in KINDS:
            raise RoutingError(f"this node has no tunnels of kind {claim.kind!r}")
        if not claim.identity.scope.allows_protocol(claim.kind):
            raise ScopeDenied(f"{claim.kind} tunnels are not allowed by this token")
        if claim.kind == "tcp":
            return str(self._choose_port(now, claim, wanted))
        if not wanted:
            return self._draw(now, claim) + self._suffix
        label = self._check_label(wanted)
        if not claim.identity.scope.allows(label):
            raise ScopeDenied(f"subdomain '{label}' is not allowed by this token")
        return label + self._suffix

    def _check_label(self, wanted: str) -> str:
        label = wanted.lower().removesuffix(".").removesuffix(self._suffix)
        shown = label[:80]
        if not _LABEL.fullmatch(label):
            if "." in label:
                raise NameInvalid(f"name {shown!r} is not one label under '{self._suffix[1:]}'")
            raise NameInvalid(f"subdomain {shown!r} may only contain letters, digits, and hyphens")
        if not MIN_LABEL <= len(label) <= MAX_LABEL:
            raise NameInvalid(f"subdomain '{shown}' must be {MIN_LABEL}–{MAX_LABEL} characters long")
        if label[0] == "-" or label[-1] == "-":
            raise NameInvalid(f"subdomain '{label}' must not start or end with a hyphen")
        if label in self._reserved or label + self._suffix in self._node_names:
            raise NameInvalid(f"subdomain '{label}' is reserved", hint="choose another name")
        return label

    def _draw(self, now: float, claim: _Claim) -> str:
        def free(label: str) -> bool:
            lease = self._usable(now, label)
            return lease is None or (
                lease is not _INVALID and not lease.live and lease.identity_id == claim.identity.id
            )

        def ours(label: str) -> bool:
            # A token whose scope is a plain name has nothing else to offer: the newer agent takes it over.
            lease = self._usable(now, label)
            if lease is None or lease is _INVALID:
                return lease is None
            return lease.identity_id == claim.identity.id and not self._has(claim.session, lease)

        scope = claim.identity.scope
        label = scope.draw(self._random_hex, free) or scope.draw(self._random_hex, ours)
        if label is None:
            raise NameTaken("no name that this token may have is free")
        return label

    def _usable(self, now: float, label: str) -> "Lease | None":
        try:
            self._check_label(label)
        except NameInvalid:
            return _INVALID
        return self._current(now, label + self._suffix)

    def _choose_port(self, now: float, claim: _Claim, wanted: str | None) -> int:
        allows = claim.identity.scope.allows_port
        if not wanted:
            self._end_overdue(now)
            port = next((port for port in reversed(self._free_ports) if allows(port)), None)
            if port is None:
                raise NoPortFree("no TCP ports available", hint="wait for one to be given back, or widen tcp_ports")
            return port
        if not (wanted.isascii() and wanted.isdecimal() and len(wanted) <= 5):
            raise PortUnavailable(f"port {wanted[:80]!r} is not a number")
        port = int(wanted)
        if port not in self._ports and str(port) not in self._leases:
            raise PortUnavailable(f"port {port} is not in {self._ports.start}-{self._ports.stop - 1}")
        if not allows(port):
            raise ScopeDenied(f"port {port} is not allowed by this token")
        return port

    def _is_ours(self, row: ClosedRow) -> bool:
        if row.protocol == "tcp":
            return row.label.isascii() and row.label.isdecimal() and int(row.label) in self._ports
        return row.protocol in KINDS and row.label.endswith(self._suffix)

    # Judging a claim.

    def _check_quota(self, session: AgentSession) -> None:
        count, most = len(self._sessions[session].tunnels), self.max_tunnels_per_session
        if most and count >= most:
            raise LimitExceeded(f"session {session.id} already has {count} tunnels (max {most})")

    def _check_rank(self, now: float, lease: Lease, claim: _Claim) -> None:
        if lease.identity_id != claim.identity.id:
            raise _taken(now, lease)
        if self._has(claim.session, lease):
            raise _refusal(lease)(f"{_what(lease)} is already published by this agent")
        if not self._is_outranked(lease, claim):
            return
        raise Superseded(
            f"a newer agent with the same token holds {_what(lease)}",
            hint="stop one of the two, or give them different names",
        )

    def _is_outranked(self, lease: Lease, claim: _Claim) -> bool:
        if lease.instance == claim.instance:
            return self._is_late(lease, claim.session)
        if claim.generation is None or claim.generation >= lease.generation:
            return False
        # Else the later grant wins, unless both agents show a generation from before our restart: then we have
        # forgotten who was the newer one, and their generations tell.
        if lease.basis is None or claim.generation >= self._first_generation:
            return True
        return claim.generation <= lease.basis

    def _is_late(self, lease: Lease, session: AgentSession) -> bool:
        holder = lease.tunnel.session if lease.tunnel is not None else None
        return holder is not None and self._sessions[session].order < self._sessions[holder].order

    def _has(self, session: AgentSession, lease: Lease) -> bool:
        return lease.tunnel is not None and lease.tunnel.session is session

    def _current(self, now: float, name: str) -> Lease | None:
        lease = self._leases.get(name)
        if lease is not None and lease.until is not None and lease.until <= now:
            self._end(lease)
            return None
        return lease

    # Giving and taking.

    def _grant(self, name: str, lease: Lease | None, claim: _Claim) -> Claimed:
        displaced = self._detach(lease) if lease is not None else None
        own_ghost = displaced is not None and lease is not None and lease.instance == claim.instance
        old = lease.tunnel if lease is not None else None
        if old is not None and old.kind != claim.kind:
            self._ids.pop(old.id)
            self._ended.append(old)
            old = None
        generation = self._next_generation(claim.generation)
        tunnel = old if old is not None else self._new_tunnel(name, claim, generation)
        self._leases[name] = self._ids[tunnel.id] = self._lease(name, claim, generation, tunnel)
        self._attach(tunnel, claim, generation)
        return Claimed(tunnel, old is None, displaced, own_ghost)

    def _lease(self, name: str, claim: _Claim, generation: int, tunnel: Tunnel) -> Lease:
        shown = claim.generation
        basis = shown if shown is not None and shown < self._first_generation else None
        identity = claim.identity
        return Lease(name, claim.kind, identity.id, identity.label, claim.instance, generation, tunnel, basis=basis)

    def _new_tunnel(self, name: str, claim: _Claim, generation: int) -> Tunnel:
        is_port = claim.kind == "tcp"
        return Tunnel(
            id=str(uuid.UUID(hex=self._random_hex(32), version=4)),
            number=0,
            kind=claim.kind,
            name=name,
            subdomain=None if is_port else name.removesuffix(self._suffix),
            port=int(name) if is_port else None,
            public_url="",
            opened_at=self._wall_clock(),
            generation=generation,
            session=None,
            options=claim.options,
        )

    def _attach(self, tunnel: Tunnel, claim: _Claim, generation: int) -> None:
        # A new number for every grant: what is still on its way to the last holder cannot be taken for ours.
        tunnel.number = self._next_number()
        tunnel.session = claim.session
        tunnel.generation = generation
        tunnel.options = claim.options
        tunnel.upstream = claim.upstream
        tunnel.public_url = self._public_url(tunnel.kind, tunnel.name, tunnel.port)
        self._sessions[claim.session].tunnels.append(tunnel)
        self._numbers[tunnel.number] = tunnel
        self._held.pop(tunnel.name, None)
        if tunnel.port is None:
            self._hosts[tunnel.name] = tunnel
        else:
            self._free_ports.pop(tunnel.port, None)

    def _detach(self, lease: Lease) -> tuple[Tunnel, AgentSession] | None:
        """Take a live tunnel from its session; returns a copy as it was."""
        tunnel = lease.tunnel
        if tunnel is None or tunnel.session is None:
            return None
        was = copy.copy(tunnel)
        self._sessions[tunnel.session].tunnels.remove(tunnel)
        self._numbers.pop(tunnel.number)
        self._hosts.pop(tunnel.name, None)
        session, tunnel.session = tunnel.session, None
        return was, session

    def _drop(self, lease: Lease) -> Tunnel | None:
        displaced = self._detach(lease)
        del self._leases[lease.name]
        self._held.pop(lease.name, None)
        if lease.kind == "tcp" and int(lease.name) in self._ports:
            self._free_ports[int(lease.name)] = None
        if lease.tunnel is not None:
            del self._ids[lease.tunnel.id]
        return displaced[0] if displaced is not None else lease.tunnel

    def _end(self, lease: Lease) -> None:
        ended = self._drop(lease)
        if ended is not None:
            self._ended.append(ended)

    def _end_overdue(self, now: float) -> None:
        for lease in [lease for lease in self._held.values() if lease.until is not None and lease.until <= now]:
            self._end(lease)

    def _next_generation(self, shown: int | None) -> int:
        # Clocks jump: an agent may show a generation that an earlier run of this node gave in our future.
        if shown is not None and self._generation < shown <= self._first_generation + MAX_CLOCK_LEAD_MS:
            self._generation = shown
        self._generation += 1
        return self._generation

    def _next_number(self) -> int:
        while True:
            self._number = self._number % MAX_NUMBER + 1
            if self._number not in self._numbers:
                return self._number


# What _usable answers for a label that no tunnel can have.
_INVALID: Final = Lease("", "", "", "", "", 0, None)


def _what(lease: Lease) -> str:
    return f"port {lease.name}" if lease.kind == "tcp" else f"name '{lease.name}'"


def _refusal(lease: Lease) -> type[RoutingError]:
    return PortUnavailable if lease.kind == "tcp" else NameTaken


def _taken(now: float, lease: Lease) -> RoutingError:
    until = (
        "while its agent is connected" if lease.until is None else f"for another {max(1, round(lease.until - now))} s"
    )
    return _refusal(lease)(f"{_what(lease)} is held by {lease.holder!r} {until}", hint="choose another, or wait")
