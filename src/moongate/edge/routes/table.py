"""Every tunnel of a node, and who may have which name.

Pure: time is an argument, what must be told or closed is returned. Binding ports, speaking to agents
and writing history are left to edge.control and the node. docs/explanation/names-and-leases.md is this
module in words.
"""

import copy
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moongate.edge.routes.entries import (
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
from moongate.edge.routes.names import RESERVED, Names, Ports, port_of
from moongate.errors import (
    LimitExceeded,
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
    from moongate.identity.tokens import Identity

MAX_NUMBER: Final = 0xFFFF_FFFF
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
        self._ports = Ports(tcp_ports)
        self._random_hex = random_hex
        self._public_url = public_url
        self._wall_clock = wall_clock
        # Seeded from the clock, so that generations grow across restarts without being stored.
        self._first_generation = self._generation = int(wall_clock() * 1000)
        self._number = 0
        self._order = 0
        self._leases: dict[str, Lease] = {}
        self._held: dict[str, Lease] = {}
        self._hosts: dict[str, Tunnel] = {}
        self._numbers: dict[int, Tunnel] = {}
        self._ids: dict[str, Lease] = {}
        self._sessions: dict[AgentSession, _Roster] = {}
        self._ended: list[Tunnel] = []

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
        name = self._choose(claim, wanted)
        lease = self._leases.get(name)
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

    def update(
        self, number: int, generation: int, session: AgentSession, *, options: TunnelOptions, upstream: str
    ) -> Tunnel:
        """Give a live tunnel other options and another upstream; its visitors stay.

        Raises:
            TunnelUnknown: If the session has no such tunnel, or has lost it meanwhile.
        """
        tunnel = self.own(number, generation, session)
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
            lease = self._leases[tunnel.name]
            lease.until = now + self.hold_s
            tunnel.session = None
            self._numbers.pop(tunnel.number)
            self._hosts.pop(tunnel.name, None)
            self._held[tunnel.name] = lease
        return roster.tunnels

    def expire(self, now: float) -> list[Tunnel]:
        """End the holds that are over; returns every tunnel that has ended by itself since the last call.

        Until then an overdue name is still its holder's, so that what belongs to a tunnel (its listening port, its
        visitors) is closed before the next one begins.
        """
        ended, self._ended = self._ended, []
        for lease in [lease for lease in self._held.values() if lease.until is not None and lease.until <= now]:
            tunnel = self._drop(lease)
            if tunnel is not None:
                ended.append(tunnel)
        return ended

    def next_deadline(self) -> float | None:
        """Return when the next hold is over."""
        return min((lease.until for lease in self._held.values() if lease.until is not None), default=None)

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
            self._ports.put_last(ended.port)
        return ended

    def restore(self, now: float, rows: Iterable[ClosedRow], labels: Mapping[str, str] | None = None) -> int:
        """Hold the names that were in use before a restart for those who had them; returns how many.

        `labels` are what people call the tokens, by their ids.
        """
        restored = 0
        for row in rows:
            since = self._wall_clock() - row.unregistered_at if row.unregistered_at is not None else 0.0
            # A clock that was set back must not make a hold longer than it may be.
            left = self.hold_s - max(0.0, since)
            if left <= 0 or row.label in self._leases or not self._is_ours(row):
                continue
            self._leases[row.label] = self._held[row.label] = _restored(row, now + left, labels or {})
            if row.protocol == "tcp":
                self._ports.take(int(row.label))
            restored += 1
        return restored

    def set_ports(self, ports: "PortRange") -> None:
        """Change the range of TCP ports; tunnels outside it stay until they end."""
        self._ports = Ports(ports)
        for lease in self._leases.values():
            if lease.kind == "tcp":
                self._ports.take(int(lease.name))

    # Choosing a name.

    def _choose(self, claim: _Claim, wanted: str | None) -> str:
        if claim.kind not in KINDS:
            raise RoutingError(f"this node has no tunnels of kind {claim.kind!r}")
        if not claim.identity.scope.allows_protocol(claim.kind):
            raise ScopeDenied(f"{claim.kind} tunnels are not allowed by this token")
        if claim.kind == "tcp":
            return str(self._choose_port(claim, wanted))
        if not wanted:
            return self._names.full(self._draw(claim))
        label = self._names.check(wanted)
        if not claim.identity.scope.allows(label):
            raise ScopeDenied(f"subdomain '{label}' is not allowed by this token")
        return self._names.full(label)

    def _draw(self, claim: _Claim) -> str:
        def free(label: str) -> bool:
            lease = self._leases.get(self._names.full(label))
            is_free = lease is None or (not lease.live and lease.identity_id == claim.identity.id)
            return is_free and self._names.allows(label)

        def ours(label: str) -> bool:
            # A token whose scope is a plain name has nothing else to offer: the newer agent takes it over.
            lease = self._leases.get(self._names.full(label))
            return lease is not None and lease.identity_id == claim.identity.id and not _has(claim.session, lease)

        scope = claim.identity.scope
        label = scope.draw(self._random_hex, free) or scope.draw(self._random_hex, ours)
        if label is None:
            raise NameTaken("no name that this token may have is free")
        return label

    def _choose_port(self, claim: _Claim, wanted: str | None) -> int:
        allows = claim.identity.scope.allows_port
        if not wanted:
            best = self._ports.best(allows)
            if best is None:
                raise NoPortFree("no TCP ports available", hint="wait for one to be given back, or widen tcp_ports")
            return best
        port = port_of(wanted)
        if port not in self._ports and str(port) not in self._leases:
            raise PortUnavailable(f"port {port} is not in {self._ports}")
        if not allows(port):
            raise ScopeDenied(f"port {port} is not allowed by this token")
        return port

    def _is_ours(self, row: ClosedRow) -> bool:
        if row.protocol == "tcp":
            return row.label.isascii() and row.label.isdecimal() and int(row.label) in self._ports
        return row.protocol in KINDS and self._names.full(self._names.label(row.label)) == row.label

    # Judging a claim.

    def _check_quota(self, session: AgentSession) -> None:
        count, most = len(self._sessions[session].tunnels), self.max_tunnels_per_session
        if most and count >= most:
            raise LimitExceeded(f"session {session.id} already has {count} tunnels (max {most})")

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
        if old is not None and old.kind != claim.kind:
            self._ids.pop(old.id)
            self._ended.append(old)
            old = None
        generation = self._next_generation(claim.generation)
        tunnel = old if old is not None else self._new_tunnel(name, lease, claim, generation)
        self._leases[name] = self._ids[tunnel.id] = self._lease(name, claim, generation, tunnel)
        self._attach(tunnel, claim, generation)
        return Claimed(tunnel, old is None, displaced, own_ghost)

    def _lease(self, name: str, claim: _Claim, generation: int, tunnel: Tunnel) -> Lease:
        shown = claim.generation
        basis = shown if shown is not None and shown < self._first_generation else None
        identity = claim.identity
        return Lease(name, claim.kind, identity.id, identity.label, claim.instance, generation, tunnel, basis=basis)

    def _new_tunnel(self, name: str, lease: Lease | None, claim: _Claim, generation: int) -> Tunnel:
        is_port = claim.kind == "tcp"
        former_id = lease.former_id if lease is not None and lease.kind == claim.kind else ""
        return Tunnel(
            id=former_id or str(uuid.UUID(hex=self._random_hex(32), version=4)),
            number=0,
            kind=claim.kind,
            name=name,
            subdomain=None if is_port else self._names.label(name),
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
            self._ports.take(tunnel.port)

    def _detach(self, lease: Lease) -> tuple[Tunnel, AgentSession] | None:
        """Take a live tunnel from its session; returns a copy of it as it was, for the one who has lost it."""
        tunnel = lease.tunnel
        if tunnel is None or tunnel.session is None:
            return None
        was = copy.copy(tunnel)
        self._unlist(tunnel, tunnel.session)
        return was, tunnel.session

    def _drop(self, lease: Lease) -> Tunnel | None:
        tunnel = lease.tunnel
        del self._leases[lease.name]
        self._held.pop(lease.name, None)
        if lease.kind == "tcp":
            self._ports.give(int(lease.name))
        if tunnel is not None:
            del self._ids[tunnel.id]
            if tunnel.session is not None:
                self._unlist(tunnel, tunnel.session)
        return tunnel

    def _unlist(self, tunnel: Tunnel, session: AgentSession) -> None:
        self._sessions[session].tunnels.remove(tunnel)
        self._numbers.pop(tunnel.number)
        self._hosts.pop(tunnel.name, None)

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
    return f"port {lease.name}" if lease.kind == "tcp" else f"name '{lease.name}'"


def _refusal(lease: Lease) -> type[RoutingError]:
    return PortUnavailable if lease.kind == "tcp" else NameTaken


def _taken(now: float, lease: Lease) -> RoutingError:
    until = (
        "while its agent is connected" if lease.until is None else f"for another {max(1, round(lease.until - now))} s"
    )
    return _refusal(lease)(f"{_what(lease)} is held by {lease.holder!r} {until}", hint="choose another, or wait")
