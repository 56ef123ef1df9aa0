"""Every tunnel of a node, and who may have which name.

Pure: time is an argument, what must be told or closed is returned. Binding ports, speaking to agents
and writing history are left to edge.control and the node. docs/explanation/names-and-leases.md is this
module in words.
"""

import copy
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moongate.edge.routes.entries import (
    CARRIERS,
    DEFAULT_OPTIONS,
    KINDS,
    AgentSession,
    Claimed,
    ClosedRow,
    Lease,
    Revoked,
    Tunnel,
    TunnelOptions,
)
from moongate.edge.routes.names import RESERVED, Names, Ports, lease_key, port_name, port_number, port_of
from moongate.errors import (
    LimitExceeded,
    NameInvalid,
    NameTaken,
    NoPortFree,
    PortUnavailable,
    RoutingError,
    ScopeDenied,
    Superseded,
    TunnelUnknown,
)

if TYPE_CHECKING:
    from moongate.config import PortRange
    from moongate.identity.scopes import Carrier
    from moongate.identity.tokens import Identity

MAX_NUMBER: Final = 0xFFFF_FFFF
KEPT_MAX: Final = 10_000  # names and ports that an identity may keep without an agent
# A claim may show a generation that a node with a faster clock gave; beyond this it is made up.
MAX_CLOCK_LEAD_MS: Final = 366 * 86_400_000


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
        self._names = Names(domain, node_names, reserved)
        self._ports = {carrier: Ports(tcp_ports) for carrier in CARRIERS}
        self._random_hex = random_hex
        self._public_url = public_url
        self._wall_clock = wall_clock
        # Seeded from the clock, so that generations grow across restarts without being stored.
        self._first_generation = self._generation = int(wall_clock() * 1000)
        self._number = 0
        self._order = 0
        self._leases: dict[str, Lease] = {}
        self._held: dict[str, Lease] = {}
        self._kept: dict[str, set[str]] = {}  # the keys of what each identity keeps
        self._hosts: dict[str, Tunnel] = {}
        self._server_names: dict[str, Tunnel] = {}
        self._numbers: dict[int, Tunnel] = {}
        self._ids: dict[str, Lease] = {}
        self._sessions: dict[AgentSession, _Roster] = {}

    # Looking up: by_host runs once for every request.

    def by_host(self, host: str) -> Tunnel | None:
        """Return the live HTTP tunnel of a host name (lower case, no port, no trailing dot)."""
        return self._hosts.get(host)

    def by_server_name(self, name: str) -> Tunnel | None:
        """Return the live tunnel to which TLS for this name is passed through."""
        return self._server_names.get(name)

    def is_public(self, name: str) -> bool:
        """Whether visitors have reason to ask for a name: it is under our domain, or somebody's own that is leased."""
        return self._names.is_label(name) or name in self._leases

    def held(self, host: str) -> Lease | None:
        """Return the lease on a name whose agent is gone, while it is still kept."""
        return self._held.get(host)

    def by_number(self, number: int) -> Tunnel | None:
        """Return the live tunnel that the wire calls by this number."""
        return self._numbers.get(number)

    def by_port(self, carrier: str, port: int) -> Tunnel | None:
        """Return the live tunnel that has a port."""
        lease = self._leases.get(port_name(carrier, port))
        return lease.tunnel if lease is not None and lease.live else None

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
        name = self._choose(claim, wanted)
        lease = self._leases.get(lease_key(kind, name))
        self._check_sibling(now, name, claim)
        if lease is not None:
            self._check_rank(now, lease, claim)
        self._check_kept(lease, claim)
        return self._grant(name, lease, claim)

    def release(self, tunnel_id: str, generation: int, session: AgentSession) -> Tunnel | None:
        """Give a name back at once; None if this is a late word of an earlier holder."""
        lease = self._ids.get(tunnel_id)
        if lease is None or lease.tunnel is None:
            return None
        if lease.generation != generation or lease.tunnel.session is not session:
            return None
        return self._drop(lease)

    def release_held(self, kind: str, wanted: str, identity: "Identity") -> Tunnel | None:
        """Give back what an identity holds while nobody answers for it; None if there is no such name.

        Raises:
            RoutingError: If no tunnel can have the name.
        """
        lease = self._leases.get(lease_key(kind, self._resolve(kind, wanted)))
        if lease is None or lease.live or lease.identity_id != identity.id:
            return None
        return self._drop(lease)

    def _resolve(self, kind: str, wanted: str) -> str:
        if kind in CARRIERS:
            return port_name(kind, port_of(wanted))
        if self._names.is_custom(wanted):
            return self._names.check_domain(wanted)
        return self._names.full(self._names.check(wanted))

    def update(
        self, number: int, generation: int, session: AgentSession, *, options: TunnelOptions, upstream: str
    ) -> Tunnel:
        """Give a live tunnel other options and another upstream; its visitors stay.

        Raises:
            TunnelUnknown: If the session has no such tunnel, or has lost it meanwhile.
            LimitExceeded: If the identity keeps as many names as it may.
        """
        tunnel = self.own(number, generation, session)
        lease = self._ids[tunnel.id]
        if options.keep and not lease.keep:
            self._check_kept_count(session.identity)
        self._note_keep(lease, options.keep)
        tunnel.options = options
        tunnel.upstream = upstream
        return tunnel

    def own(self, number: int, generation: int, session: AgentSession) -> Tunnel:
        """Return the live tunnel that this session has under a number.

        Raises:
            TunnelUnknown: If the session has no such tunnel, or has lost it meanwhile.
        """
        tunnel = self._numbers.get(number)
        if tunnel is None or tunnel.session is not session or tunnel.generation != generation:
            raise TunnelUnknown(f"this agent has no tunnel {number} of generation {generation}")
        return tunnel

    def lost(self, now: float, session: AgentSession) -> list[Tunnel]:
        """Keep the names of a session that has ended; returns its tunnels, which visitors now find offline."""
        roster = self._sessions.pop(session, None)
        if roster is None:
            return []
        for tunnel in roster.tunnels:
            self._hold(now, self._leases[lease_key(tunnel.kind, tunnel.name)], tunnel)
        return roster.tunnels

    def set_aside(self, now: float, tunnel: Tunnel) -> None:
        """Take a live tunnel from its session but keep its name or port, as if the agent had gone."""
        if tunnel.session is not None:
            self._sessions[tunnel.session].tunnels.remove(tunnel)
            self._hold(now, self._leases[lease_key(tunnel.kind, tunnel.name)], tunnel)

    def _hold(self, now: float, lease: Lease, tunnel: Tunnel) -> None:
        lease.until = math.inf if lease.keep else now + self.hold_s
        tunnel.session = None
        self._unlist(tunnel)
        self._held[lease.key] = lease

    def expire(self, now: float) -> list[Tunnel]:
        """End the holds that are over; returns the tunnels that have ended with them.

        Until then an overdue name is still its holder's, so that what belongs to a tunnel (its listening port, its
        visitors) is closed before the next one begins.
        """
        ended = []
        for lease in [lease for lease in self._held.values() if lease.until is not None and lease.until <= now]:
            tunnel = self._drop(lease)
            if tunnel is not None:
                ended.append(tunnel)
        return ended

    def next_deadline(self) -> float | None:
        """Return when the next hold is over; kept names have none."""
        return min((lease.until for lease in self._held.values() if lease.until and not lease.keep), default=None)

    def close(self, tunnel_id: str) -> Tunnel | None:
        """Take a tunnel away, live or held; its `session` is who must be told."""
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
        if ended is not None and ended.port is not None:
            self._ports[ended.kind].put_last(ended.port)
        return ended

    def restore(self, now: float, rows: Iterable[ClosedRow], labels: Mapping[str, str] | None = None) -> int:
        """Hold the names that were in use before a restart for those who had them; returns how many.

        `labels` are what people call the tokens, by their ids. What is kept is restored first (`restore_kept`).
        """
        restored = 0
        for row in rows:
            since = self._wall_clock() - row.unregistered_at if row.unregistered_at is not None else 0.0
            # A clock that was set back must not make a hold longer than it may be.
            left = self.hold_s - max(0.0, since)
            if left > 0 and self._restore(row, now + left, labels or {}) is not None:
                restored += 1
        return restored

    def restore_kept(self, rows: Iterable[ClosedRow], labels: Mapping[str, str] | None = None) -> int:
        """Hold the names that are kept until they are released, with their tunnels; returns how many."""
        restored = 0
        for row in rows:
            lease = self._restore(row, math.inf, labels or {})
            if lease is None:
                continue
            lease.keep = True
            self._kept.setdefault(lease.identity_id, set()).add(lease.key)
            # With a tunnel, so that whoever looks after the node can close it.
            lease.tunnel = self._make_tunnel(lease, TunnelOptions(keep=True))
            self._ids[lease.tunnel.id] = lease
            restored += 1
        return restored

    def _restore(self, row: ClosedRow, until: float, labels: Mapping[str, str]) -> Lease | None:
        key = lease_key(row.protocol, row.label)
        if key in self._leases or not self._is_ours(row):
            return None
        lease = _restored(row, until, labels)
        sibling = self._sibling(lease.kind, lease.name)
        if sibling is not None and sibling.identity_id != lease.identity_id:
            return None
        self._leases[key] = self._held[key] = lease
        if row.protocol in CARRIERS:
            self._ports[row.protocol].take(port_number(row.label))
        return lease

    def set_ports(self, ports: "PortRange") -> None:
        """Change the range of ports; tunnels outside it stay until they end."""
        self._ports = {carrier: Ports(ports) for carrier in CARRIERS}
        for lease in self._leases.values():
            if lease.kind in CARRIERS:
                self._ports[lease.kind].take(port_number(lease.name))

    # Choosing a name.

    def _choose(self, claim: _Claim, wanted: str | None) -> str:
        if claim.kind not in KINDS:
            raise RoutingError(f"this node has no tunnels of kind {claim.kind!r}")
        if not claim.identity.scope.allows_protocol(claim.kind):
            raise ScopeDenied(f"{claim.kind} tunnels are not allowed by this token")
        if claim.kind in CARRIERS:
            return port_name(claim.kind, self._choose_port(claim, wanted))
        if not wanted:
            return self._names.full(self._draw(claim))
        if self._names.is_custom(wanted):
            domain = self._names.check_domain(wanted)
            if not claim.identity.scope.allows_domain(domain):
                raise ScopeDenied(f"domain '{domain}' is not allowed by this token")
            return domain
        label = self._names.check(wanted)
        if not claim.identity.scope.allows(label):
            raise ScopeDenied(f"subdomain '{label}' is not allowed by this token")
        return self._names.full(label)

    def _draw(self, claim: _Claim) -> str:
        def found(label: str) -> tuple[Lease | None, Lease | None]:
            name = self._names.full(label)
            return self._leases.get(lease_key(claim.kind, name)), self._sibling(claim.kind, name)

        def free(label: str) -> bool:
            lease, sibling = found(label)
            is_free = lease is None or (not lease.live and not lease.keep and lease.identity_id == claim.identity.id)
            is_ours = sibling is None or sibling.identity_id == claim.identity.id
            return is_free and is_ours and self._names.allows(label)

        def ours(label: str) -> bool:
            # A token whose scope is a plain name has nothing else to offer: the newer agent takes it over.
            lease, _ = found(label)
            return lease is not None and lease.identity_id == claim.identity.id and not _has(claim.session, lease)

        scope = claim.identity.scope
        label = scope.draw(self._random_hex, free) or scope.draw(self._random_hex, ours)
        if label is None:
            raise NameTaken("no name that this token may have is free")
        return label

    def _choose_port(self, claim: _Claim, wanted: str | None) -> int:
        carrier: Carrier = "tcp" if claim.kind == "tcp" else "udp"
        ports = self._ports[carrier]

        def allows(port: int) -> bool:
            return claim.identity.scope.allows_port(port, carrier)

        if not wanted:
            best = ports.best(allows)
            if best is None:
                hint = "wait for one to be given back, or widen tcp_ports"
                raise NoPortFree(f"no {carrier.upper()} ports available", hint=hint)
            return best
        port = port_of(wanted)
        if port not in ports and port_name(carrier, port) not in self._leases:
            raise PortUnavailable(f"port {port} is not in {ports}")
        if not allows(port):
            raise ScopeDenied(f"port {port} is not allowed by this token")
        return port

    def _is_ours(self, row: ClosedRow) -> bool:
        if row.protocol in CARRIERS:
            digits = row.label.rpartition(":")[2]
            if not (digits.isascii() and digits.isdecimal()):
                return False
            port = int(digits)
            return port_name(row.protocol, port) == row.label and port in self._ports[row.protocol]
        if row.protocol not in KINDS:
            return False
        try:
            if self._names.is_custom(row.label):
                return self._names.check_domain(row.label) == row.label
            return self._names.is_label(row.label) and row.label == row.label.lower()
        except NameInvalid:
            return False

    # Judging a claim.

    def _check_quota(self, session: AgentSession) -> None:
        count, most = len(self._sessions[session].tunnels), self.max_tunnels_per_session
        if most and count >= most:
            raise LimitExceeded(f"session {session.id} already has {count} tunnels (max {most})")

    def _check_kept(self, lease: Lease | None, claim: _Claim) -> None:
        if claim.options.keep and not (lease is not None and lease.keep):
            self._check_kept_count(claim.identity)

    def _check_kept_count(self, identity: "Identity") -> None:
        if len(self._kept.get(identity.id, ())) >= KEPT_MAX:
            raise LimitExceeded(f"{identity.label!r} already keeps {KEPT_MAX} names and ports")

    def _sibling(self, kind: str, name: str) -> Lease | None:
        """Return the lease of the same host name for the other of HTTP and TLS."""
        other = {"http": "tls", "tls": "http"}.get(kind)
        return self._leases.get(lease_key(other, name)) if other is not None else None

    def _check_sibling(self, now: float, name: str, claim: _Claim) -> None:
        sibling = self._sibling(claim.kind, name)
        if sibling is not None and sibling.identity_id != claim.identity.id:
            raise _taken(now, sibling)

    def _check_rank(self, now: float, lease: Lease, claim: _Claim) -> None:
        if lease.identity_id != claim.identity.id:
            raise _taken(now, lease)
        if _has(claim.session, lease):
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

    # Giving and taking.

    def _grant(self, name: str, lease: Lease | None, claim: _Claim) -> Claimed:
        displaced = self._detach(lease) if lease is not None else None
        own_ghost = displaced is not None and lease is not None and lease.instance == claim.instance
        old = lease.tunnel if lease is not None else None
        generation = self._next_generation(claim.generation)
        fresh = old is None or (lease is not None and bool(lease.former_id))
        new = self._lease(name, claim, generation)
        former = lease if lease is not None and old is None else new
        tunnel = new.tunnel = old if old is not None else self._make_tunnel(former, claim.options)
        self._leases[new.key] = self._ids[tunnel.id] = new
        self._held.pop(new.key, None)
        self._note_keep(new, claim.options.keep)
        self._attach(tunnel, claim, generation)
        return Claimed(tunnel, fresh, displaced, own_ghost)

    def _note_keep(self, lease: Lease, keep: bool) -> None:
        lease.keep = keep
        kept = self._kept.setdefault(lease.identity_id, set())
        if keep:
            kept.add(lease.key)
        else:
            kept.discard(lease.key)
        if not kept:
            del self._kept[lease.identity_id]

    def _lease(self, name: str, claim: _Claim, generation: int) -> Lease:
        shown = claim.generation
        basis = shown if shown is not None and shown < self._first_generation else None
        identity = claim.identity
        return Lease(name, claim.kind, identity.id, identity.label, claim.instance, generation, None, basis=basis)

    def _make_tunnel(self, lease: Lease, options: TunnelOptions) -> Tunnel:
        is_port = lease.kind in CARRIERS
        port = port_number(lease.name) if is_port else None
        return Tunnel(
            id=lease.former_id or str(uuid.UUID(hex=self._random_hex(32), version=4)),
            number=0,
            kind=lease.kind,
            name=lease.name,
            subdomain=None if is_port else self._names.subdomain(lease.name),
            port=port,
            public_url=self._public_url(lease.kind, lease.name, port),
            opened_at=self._wall_clock(),
            generation=lease.generation,
            session=None,
            options=options,
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
        if tunnel.kind == "http":
            self._hosts[tunnel.name] = tunnel
        elif tunnel.kind == "tls":
            self._server_names[tunnel.name] = tunnel
        elif tunnel.port is not None:
            self._ports[tunnel.kind].take(tunnel.port)

    def _detach(self, lease: Lease) -> tuple[Tunnel, AgentSession] | None:
        """Take a live tunnel from its session; returns a copy of it as it was, for the one who has lost it."""
        tunnel = lease.tunnel
        if tunnel is None or tunnel.session is None:
            return None
        was = copy.copy(tunnel)
        self._sessions[tunnel.session].tunnels.remove(tunnel)
        self._unlist(tunnel)
        return was, tunnel.session

    def _drop(self, lease: Lease) -> Tunnel | None:
        tunnel = lease.tunnel
        del self._leases[lease.key]
        self._held.pop(lease.key, None)
        self._note_keep(lease, False)
        if lease.kind in CARRIERS:
            self._ports[lease.kind].give(port_number(lease.name))
        if tunnel is not None:
            del self._ids[tunnel.id]
            if tunnel.session is not None:
                self._sessions[tunnel.session].tunnels.remove(tunnel)
                self._unlist(tunnel)
        return tunnel

    def _unlist(self, tunnel: Tunnel) -> None:
        self._numbers.pop(tunnel.number)
        if tunnel.kind == "http":
            self._hosts.pop(tunnel.name, None)
        elif tunnel.kind == "tls":
            self._server_names.pop(tunnel.name, None)

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


def _restored(row: ClosedRow, until: float, labels: Mapping[str, str]) -> Lease:
    holder = "admin" if row.token_id is None else labels.get(row.token_id, f"token {row.token_id[:8]}")
    return Lease(
        name=row.label,
        kind=row.protocol,
        identity_id=row.token_id or "admin",
        holder=holder,
        instance="",
        generation=0,
        tunnel=None,
        until=until,
        former_id=row.tunnel_id,
    )


def _has(session: AgentSession, lease: Lease) -> bool:
    return lease.tunnel is not None and lease.tunnel.session is session


def _what(lease: Lease) -> str:
    if lease.kind not in CARRIERS:
        return f"name '{lease.name}'"
    return f"{'' if lease.kind == 'tcp' else 'UDP '}port {port_number(lease.name)}"


def _refusal(lease: Lease) -> type[RoutingError]:
    return PortUnavailable if lease.kind in CARRIERS else NameTaken


def _taken(now: float, lease: Lease) -> RoutingError:
    if lease.until is None:
        until = "while its agent is connected"
    elif lease.keep:
        until = "until it is released"
    else:
        until = f"for another {max(1, round(lease.until - now))} s"
    return _refusal(lease)(f"{_what(lease)} is held by {lease.holder!r} {until}", hint="choose another, or wait")
