"""What every visitor's connection shares: routes, limits, records, and the way to the application."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import structlog

from moongate.audit.captures import Captures
from moongate.audit.connections import ConnectionRecord, Connections, ConnectionType
from moongate.audit.events import Events
from moongate.audit.ids import Ids
from moongate.config import Config
from moongate.edge.firewall import verdict
from moongate.edge.ingress import rules
from moongate.edge.ingress.gate import Gate
from moongate.edge.limits import ConnectionLimits, RateLimits, address_key, stricter
from moongate.edge.routes import Routes, Tunnel
from moongate.net.listening import Peer
from moongate.telemetry import Metrics
from moongate.wire.http1 import Headers, client_ip, said_proto

if TYPE_CHECKING:
    from moongate.edge.control import AgentSession
    from moongate.edge.ingress.exchange import Exchange
    from moongate.edge.ingress.http import HttpVisitor
    from moongate.edge.ingress.tcp import RawVisitor
    from moongate.edge.ingress.udp import UdpVisitor

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S = 1.0
# Where a certificate authority looks whether a name is ours (RFC 8555 §8.3).
PROOF_PATH = b"/.well-known/acme-challenge/"
# Requests taken in one turn of the loop. What they became is written at its end: with many more, the agent would idle
# while we take them, and we while it answers them.
TURN_REQUESTS = 16


class Edge:
    """The public side of one node."""

    def __init__(
        self,
        *,
        config: Config,
        routes: Routes,
        captures: Captures,
        connections: Connections,
        events: Events,
        metrics: Metrics,
        application_hosts: Container[str],
        application: Callable[[Peer], asyncio.Protocol],
        accept_link: Callable[[asyncio.Transport, Peer, bytes], None],
        trusts: Callable[[str], bool],
        gate: Gate,
    ) -> None:
        self.routes = routes
        self.captures = captures
        self.connections = connections
        self.events = events
        self.metrics = metrics
        self.application_hosts = application_hosts
        self.application = application
        self.accept_link = accept_link
        self.gate = gate
        self.loop = asyncio.get_running_loop()
        # The loop's own clock stands still during a turn and counts whole milliseconds.
        self.now = time.monotonic
        self.wall = time.time
        self.ids = Ids()
        self.visitors: set[HttpVisitor | RawVisitor | UdpVisitor] = set()
        self.draining = False
        self.proofs: dict[str, bytes] = {}  # what a certificate authority finds under PROOF_PATH, by token
        self.postponed: deque[tuple[HttpVisitor, bytes]] = deque()
        self._taken = 0
        self._trusts = trusts
        self._tunnel_connections = ConnectionLimits(0)
        self._address_connections = ConnectionLimits(0)
        self._tunnel_rates = RateLimits(0)
        self._address_rates = RateLimits(0)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take new settings; connections go on under them."""
        self.limits = config.limits
        self.capturing = config.capture.enabled
        self.capture_room = config.capture.body_max_bytes if config.capture.enabled else 0
        self.plain_http = config.plain_http
        self.logs_requests = config.log_level == "debug"
        port = config.listen_address[1]
        self.https_port = "" if port == 443 else f":{port}"
        self._tunnel_connections.max = config.limits.max_connections_per_tunnel
        self._address_connections.max = config.limits.max_connections_per_address
        self._tunnel_rates.rps = config.limits.rate_limit_rps
        self._address_rates.rps = config.limits.ip_rate_limit_rps
        limits = config.limits
        self.limits_requests = any((limits.rate_limit_rps, limits.ip_rate_limit_rps, limits.request_body_max_bytes))

    # -- turns

    def is_full_turn(self) -> bool:
        """Count one more read of a visitor; whether this turn of the loop has had its share of them."""
        if not self._taken:
            self.loop.call_soon(self._next_turn)
        self._taken += 1
        return self._taken > TURN_REQUESTS

    def _next_turn(self) -> None:
        self._taken = 0
        for _ in range(min(TURN_REQUESTS, len(self.postponed))):
            visitor, data = self.postponed.popleft()
            self._taken += 1
            visitor.take_postponed(data)
        if self._taken:
            self.loop.call_soon(self._next_turn)

    # -- admission

    def must_redirect(self, peer: Peer) -> bool:
        """Plain HTTP is for loopback, unless the settings say otherwise."""
        return not peer.tls and not self.plain_http and not peer.came_to_loopback

    def is_misdirected(self, peer: Peer, host: str) -> bool:
        """Whether TLS was made for one public name and the request is for another (RFC 9110 §7.4)."""
        name = peer.server_name
        return name is not None and name.rstrip(".") != host and name not in self.application_hosts

    def proof_at(self, target: bytes) -> bytes | None:
        """Return what a certificate authority shall find here, if it was told to look."""
        if not target.startswith(PROOF_PATH):
            return None
        return self.proofs.get(target.removeprefix(PROOF_PATH).decode("latin-1"))

    def is_plain_only(self, host: str) -> bool:
        """Whether the publisher of this name serves it over HTTP and nothing else."""
        tunnel = self.routes.by_host(host)
        return tunnel is not None and tunnel.options.secure is False

    def judge(self, tunnel: Tunnel, exchange: "Exchange", peer: Peer) -> rules.Verdict:
        """Return what the rules of a tunnel make of a request."""
        return rules.judge(
            tunnel.options,
            self._ruled(exchange, peer),
            https_port=self.https_port,
            now=self.wall(),
            key=self.gate.key,
            is_known=self.gate.knows,
        )

    def judge_form(self, tunnel: Tunnel, exchange: "Exchange", peer: Peer, body: bytes) -> rules.Verdict:
        """Return what comes of a password form that is here as a whole."""
        request = self._ruled(exchange, peer)
        return rules.judge_form(tunnel.options, request, body, now=self.wall(), key=self.gate.key)

    def _ruled(self, exchange: "Exchange", peer: Peer) -> rules.Request:
        by_tls = peer.tls or (self.is_trusted(peer) and said_proto(exchange.headers) == b"https")
        return rules.Request(exchange.method, exchange.facts, exchange.headers, peer.tls, by_tls)

    def is_trusted(self, peer: Peer) -> bool:
        # Whom a PROXY header named is a visitor like any other, however trusted the proxy.
        return self._trusts(peer.address)

    def client_of(self, peer: Peer, headers: Headers) -> Peer:
        """Return who asked: the peer, or the client that a trusted proxy names."""
        if not self.is_trusted(peer):
            return peer
        address = client_ip(headers, peer.address, self._trusts)
        return peer if address == peer.address else replace(peer, address=address, port=0, via=peer.address)

    def session_of(self, tunnel: Tunnel) -> "AgentSession | None":
        """Return the agent that answers for a tunnel; routes know only that it is one."""
        return cast("AgentSession | None", tunnel.session)

    def shuts_out(self, tunnel: Tunnel, address: str) -> bool:
        """Whether the tunnel's firewall drops a visitor from this address; it is counted."""
        rules = tunnel.options.firewall
        if not rules or verdict(rules, address) == "allow":
            return False
        self.metrics.shut_out += 1
        log.debug("a firewall dropped a visitor", tunnel=tunnel.id, name=tunnel.name, address=address)
        return True

    def admit_connection(self, tunnel: Tunnel, peer: Peer) -> bool:
        """Count one more connection of this tunnel and this address, if the limits allow it."""
        most = stricter(self._tunnel_connections.max, tunnel.options.max_connections)
        if not self._tunnel_connections.take(tunnel.id, most):
            return False
        if not self._address_connections.take(address_key(peer.address)):
            self._tunnel_connections.give(tunnel.id)
            return False
        return True

    def release_connection(self, tunnel: Tunnel, peer: Peer) -> None:
        self._tunnel_connections.give(tunnel.id)
        self._address_connections.give(address_key(peer.address))

    def open_connections(self, tunnel: Tunnel) -> int:
        return self._tunnel_connections.count(tunnel.id)

    def rate_exceeded(self, tunnel: Tunnel, peer: Peer) -> float:
        """Return after how many seconds to come again; 0.0 is now."""
        if self._address_rates.rps:
            wait = self._address_rates.allow(address_key(peer.address), self.now())
            if wait:
                return wait
        rate = stricter(self._tunnel_rates.rps, tunnel.options.rate_limit_rps)  # type: ignore[arg-type]
        return self._tunnel_rates.allow(tunnel.id, self.now(), rate) if rate else 0.0

    def address_exceeded(self, peer: Peer) -> bool:
        rates = self._address_rates
        return bool(rates.rps) and rates.allow(address_key(peer.address), self.now()) > 0

    def body_limit(self, tunnel: Tunnel) -> int:
        return stricter(self.limits.request_body_max_bytes, tunnel.options.request_body_max_bytes)

    def open_record(
        self, kind: ConnectionType, tunnel: Tunnel, peer: Peer, headers: Headers | None = None
    ) -> ConnectionRecord:
        self.metrics.connections += 1
        record = self.connections.open(
            kind,
            tunnel_id=tunnel.id,
            tunnel_name=tunnel.name,
            identity=tunnel.session.identity.id if tunnel.session is not None else "",
            remote_address=peer.text,
            target_address=tunnel.upstream,
        )
        for name, value in headers or ():
            if name.lower() == b"user-agent":
                record.user_agent = value[:512].decode("latin-1")
                break
        return record

    def close_record(self, record: ConnectionRecord, reason: str) -> None:
        self.metrics.bytes_in += record.bytes_in
        self.metrics.bytes_out += record.bytes_out
        self.connections.close(record, reason)

    # -- life

    async def watch(self) -> None:
        """End what has been waiting too long, about once a second."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = self.now()
            for visitor in list(self.visitors):
                visitor.check(now)

    def end_tunnel(self, tunnel: Tunnel, reason: str) -> None:
        """End every connection of a tunnel that was taken away."""
        for visitor in [visitor for visitor in self.visitors if visitor.tunnel is tunnel]:
            visitor.end(reason)

    async def drain(self, timeout_s: float) -> None:
        """Let what is under way finish, idle connections end at once; then end the rest."""
        self.draining = True
        deadline = self.now() + timeout_s
        while self.visitors and self.now() < deadline:
            for visitor in list(self.visitors):
                if visitor.is_idle:
                    visitor.end("node stopped")
            await asyncio.sleep(0.05)
        for visitor in list(self.visitors):
            visitor.end("node stopped")
