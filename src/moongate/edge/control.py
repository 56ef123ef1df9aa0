"""Agents at the node: accepts their links, authenticates them, gives them leases, and probes that they are there.

docs/protocol/tunnel.md is what is spoken here; which name goes to whom is edge.routes' business.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from moongate.audit.events import Events
from moongate.audit.history import History
from moongate.audit.ids import Ids, id_text
from moongate.edge.routes import Claimed, Routes, Tunnel, TunnelOptions
from moongate.errors import (
    ConfigurationError,
    MoongateError,
    PortUnavailable,
    ProtocolError,
    RoutingError,
    Superseded,
    TokenInvalid,
    VersionUnsupported,
)
from moongate.identity.tokens import Identity, Tokens
from moongate.net.acme.keeping import CertificateStatus
from moongate.net.listening import Peer
from moongate.relay.channels import Channel, Mux
from moongate.relay.links import Link
from moongate.relay.turns import Mice
from moongate.tasks import TaskSet
from moongate.telemetry import Metrics
from moongate.wire import tunnel as wire
from moongate.wire.tunnel import Message, Payload

if TYPE_CHECKING:
    from moongate.audit.captures import Captures
    from moongate.edge.ingress.edge import Edge
    from moongate.edge.ingress.exchange import Exchange
    from moongate.edge.ingress.tcp import TcpPorts
    from moongate.edge.ingress.udp import UdpPorts
    from moongate.edge.kept import KeptNames
    from moongate.net.acme.keeping import CertificateKeeper, NoAuthority
    from moongate.net.certificates import Certificates

log = structlog.get_logger(__name__)

HELLO_TIMEOUT_S: Final = 5.0
PROBE_S: Final = 5.0
SWEEP_S: Final = 0.25
LANE_TIMEOUT_S: Final = 10.0
ACTIVITY_S: Final = 0.5
ACTIVITY_REQUESTS: Final = 20
GREETINGS_AT_A_TIME: Final = 4096
UPSTREAM_MAX: Final = 255  # characters of what is shown to people

_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + wire.UPGRADE_TOKEN + b"\r\n\r\n"
)


class AgentSession:
    """One connected agent: its link, who it is, and what it asks for."""

    __slots__ = (
        "__weakref__",
        "_control",
        "_lane_keys",
        "_seen",
        "id",
        "identity",
        "instance",
        "mux",
        "over",
        "peer",
        "peer_text",
        "release",
        "watched",
    )

    def __init__(
        self, control: "Control", link: Link, identity: Identity, instance: str, release: str, peer: Peer
    ) -> None:
        self._control = control
        self.id = id_text(control.ids.next())
        self.identity = identity
        self.instance = instance
        self.release = release
        self.peer = peer
        self.peer_text = peer.text
        self.watched = False
        self.over = False
        self._seen: deque[tuple[int, Exchange, float]] | None = None
        self._lane_keys: dict[int, str] | None = None
        self.mux = Mux(link, self, is_node=True, mice=control.mice)
        link.receiver = self.mux

    def open_channel(self, tunnel: Tunnel, protocol: asyncio.Protocol, record_id: bytes, visitor: str) -> Channel:
        """Open a channel to a tunnel of this agent for a visitor."""
        channel = self.mux.open(protocol, tunnel.number, record_id, visitor)
        protocol.connection_made(channel)
        return channel

    def send(self, message: Message) -> None:
        if not self.over:
            self.mux.send_control(message)

    # -- what the agent says

    def control(self, message: Message) -> None:
        match message["type"]:
            case "claim":
                self._control.claim(self, message)
            case "release":
                self._control.release(self, message)
            case "update":
                self._control.update(self, message)
            case "certificate":
                self._control.certificate(self, message)
            case "watch":
                self._watch(bool(message.get("on")))

    def opened(self, channel: Channel, number: int, connection_id: bytes, visitor: str) -> None:
        """Only a node does this."""

    def dialed(self, channel: Channel, port: int, transport: str) -> None:
        self._control.answer_dial(channel, port, transport, self.peer)

    def request_lane(self, number: int) -> None:
        key = secrets.token_urlsafe(24)
        if self._lane_keys is None:
            self._lane_keys = {}
        self._lane_keys[number] = key
        self._control.expect_lane(self, number, key)
        self.send({"type": "lane", "lane": number, "key": key})

    def take_lane(self, number: int, key: str) -> bool:
        """Whether a lane with this key was asked for; each key works once."""
        expected = (self._lane_keys or {}).get(number)
        if expected is None or not secrets.compare_digest(expected.encode(), key.encode()):
            return False
        del self._lane_keys[number]  # type: ignore[union-attr]  # it was just looked up
        return True

    def mux_lost(self, reason: str) -> None:
        self._control.lost(self, reason)

    # -- what somebody at the agent looks at

    def _watch(self, on: bool) -> None:
        self.watched = on
        self._seen = deque(maxlen=ACTIVITY_REQUESTS) if on else None
        if on:
            self._control.watched.add(self)
        else:
            self._control.watched.discard(self)

    def saw(self, tunnel: Tunnel, exchange: "Exchange", duration_s: float) -> None:
        if self._seen is not None:
            self._seen.append((tunnel.number, exchange, duration_s))

    def tell_activity(self) -> None:
        tunnels = {
            str(tunnel.number): [tunnel.request_count, tunnel.bytes_in, tunnel.bytes_out]
            for tunnel in self._control.routes.tunnels_of(self)
        }
        requests = [_seen_line(*seen) for seen in self._seen or ()]
        if self._seen is not None:
            self._seen.clear()
        self.send({"type": "activity", "tunnels": tunnels, "requests": requests})


def _seen_line(number: int, exchange: "Exchange", duration_s: float) -> list[Any]:
    path = exchange.facts.target[:200].decode("latin-1")
    return [number, exchange.method.decode("latin-1"), path, exchange.status, round(duration_s * 1000, 2)]


class _Greeting:
    """A link that has not yet said who it is."""

    __slots__ = ("_control", "_deadline", "_peer", "_said")

    def __init__(self, control: "Control", peer: Peer) -> None:
        self._control = control
        self._peer = peer
        self._said = False
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HELLO_TIMEOUT_S, link.fail, "no hello in time")

    def frame(self, link: Link, kind: int, channel: int, payload: Payload) -> None:
        if self._said or kind != wire.CONTROL:
            raise ProtocolError("a link begins with hello and waits for welcome")
        message = wire.parse_control(payload)
        if message["type"] != "hello":
            raise ProtocolError("a link begins with hello")
        self._said = True
        self._settle()
        self._control.greet(link, self._peer, message)

    def link_writable(self, link: Link, writable: bool) -> None:
        """Nothing is sent yet that could wait."""

    def makes_way(self) -> bool:
        return False

    def link_lost(self, link: Link, reason: str) -> None:
        self._settle()

    def _settle(self) -> None:
        self._control.greetings.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Control:
    """All agents of one node."""

    def __init__(
        self,
        *,
        routes: Routes,
        tokens: Tokens,
        history: History,
        captures: "Captures",
        events: Events,
        node_id: str,
        release: str,
        metrics: Metrics,
        tasks: TaskSet,
    ) -> None:
        self.routes = routes
        self.ids = Ids()
        self.mice = Mice()
        self.greetings: set[_Greeting] = set()
        self.watched: set[AgentSession] = set()
        self.edge: Edge
        self.ports: dict[str, TcpPorts | UdpPorts]  # by the kind of tunnel that has one
        self.answer_dial: Callable[[Channel, int, str, Peer], None]
        self.certificates: Certificates
        self.kept: KeptNames
        self.keeper: CertificateKeeper | NoAuthority
        self._tokens = tokens
        self._history = history
        self._captures = captures
        self._events = events
        self._node_id = node_id
        self._release = release
        self._metrics = metrics
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._probes: deque[tuple[float, AgentSession]] = deque()
        self._lanes: dict[str, tuple[AgentSession, int]] = {}
        self._stopping = False

    # -- accepting

    def accept(self, transport: asyncio.Transport, peer: Peer, received: bytes) -> None:
        """Take over a connection on which an agent asked for the tunnel protocol."""
        if self._stopping or len(self.greetings) >= GREETINGS_AT_A_TIME:
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\r\n")
            transport.close()
            return
        greeting = _Greeting(self, peer)
        link = Link(greeting)
        transport.set_protocol(link)
        link.connection_made(transport)
        transport.write(_SWITCHING)
        self.greetings.add(greeting)
        greeting.begin(link)
        if received:
            link.data_received(received)

    def greet(self, link: Link, peer: Peer, hello: Message) -> None:
        try:
            if hello.get("protocol") != wire.PROTOCOL_VERSION:
                raise _version_refusal(hello, self._release)
            if "lane" in hello:
                self._accept_lane(link, hello)
                return
            token, instance = hello.get("token"), hello.get("instance")
            if not isinstance(token, str) or not isinstance(instance, str) or not 1 <= len(instance) <= 128:
                raise ProtocolError("hello without token or instance")
        except MoongateError as error:
            self._refuse_link(link, error)
            return
        self._tasks.start(
            "greet agent", self._authenticate(link, peer, token, instance, str(hello.get("release"))[:40])
        )

    async def _authenticate(self, link: Link, peer: Peer, token: str, instance: str, release: str) -> None:
        try:
            identity = await self._tokens.verify(token)
        except MoongateError as error:
            self._metrics.auth_failures += 1
            log.warning("agent refused", peer=peer.text, code=error.code)
            self._refuse_link(link, error)
            return
        if link.is_closed or self._stopping:
            link.fail("the node is stopping")
            return
        session = AgentSession(self, link, identity, instance, release, peer)
        self.routes.joined(session)
        welcome = {"protocol": wire.PROTOCOL_VERSION, "release": self._release, "session": session.id}
        session.send({"type": "welcome", **welcome, "node": self._node_id, "probe_s": PROBE_S})
        session.mux.ping()
        self._probes.append((self._loop.time() + PROBE_S, session))
        log.info("agent connected", session=session.id, peer=peer.text, identity=identity.label, release=release)

    def _refuse_link(self, link: Link, error: MoongateError) -> None:
        refusal = {"type": "refused", "code": error.code, "message": error.message, "hint": error.hint}
        link.send(wire.serialize_control(refusal))
        link.close()

    # -- lanes

    def expect_lane(self, session: AgentSession, number: int, key: str) -> None:
        self._lanes[key] = (session, number)
        self._loop.call_later(LANE_TIMEOUT_S, self._give_up_lane, key)

    def _give_up_lane(self, key: str) -> None:
        session, number = self._lanes.pop(key, (None, 0))
        if session is not None and session.take_lane(number, key):
            session.mux.lane_failed(number)

    def _accept_lane(self, link: Link, hello: Message) -> None:
        key = hello.get("key")
        session, number = self._lanes.pop(key, (None, 0)) if isinstance(key, str) else (None, 0)
        if session is None or session.over or not session.take_lane(number, str(key)):
            raise TokenInvalid("no lane was asked for with this key")
        link.send(wire.serialize_control({"type": "welcome", "protocol": wire.PROTOCOL_VERSION}))
        session.mux.add_lane(number, link)

    # -- leases

    def claim(self, session: AgentSession, message: Message) -> None:
        request = message.get("request")
        try:
            claimed = self._claimed(session, message)
        except MoongateError as error:
            self._refuse(session, request, error)
            return
        if claimed.displaced is not None:
            self._displace(claimed)
        if claimed.tunnel.kind in self.ports:
            self._tasks.start("open port", self._open_port(session, claimed, request, message))
        else:
            self._grant(session, claimed, request)

    def _claimed(self, session: AgentSession, message: Message) -> Claimed:
        kind, wanted = message.get("kind"), message.get("wanted")
        generation, options = message.get("generation"), message.get("options", {})
        if (
            not isinstance(kind, str)
            or not isinstance(wanted, str | None)
            or not isinstance(generation, int | None)
            or not isinstance(options, dict)
        ):
            raise ProtocolError("a claim with members of the wrong type")
        return self.routes.claim(
            self._loop.time(),
            kind=kind,
            wanted=wanted,
            identity=session.identity,
            instance=session.instance,
            generation=generation,
            session=session,
            options=TunnelOptions.parse(options),
            upstream=str(message.get("upstream", ""))[:UPSTREAM_MAX],
        )

    def _displace(self, claimed: Claimed) -> None:
        was, loser = claimed.displaced  # type: ignore[misc]  # the caller looked
        if not isinstance(loser, AgentSession):
            return
        if claimed.own_ghost:
            if not self.routes.tunnels_of(loser):
                loser.mux.link.fail("the agent is back on another link")
            return
        self._metrics.superseded += 1
        self.certificates.drop_pair(was.name)  # it was the loser's own
        error = Superseded("a newer agent with the same token holds this name now")
        loser.send({"type": "superseded", "tunnel": was.number, "generation": was.generation, "message": error.message})
        log.info("tunnel taken over", tunnel=was.id, name=was.name, loser=loser.id)

    async def _open_port(self, session: AgentSession, claimed: Claimed, request: object, message: Message) -> None:
        tunnel = claimed.tunnel
        try:
            await self.ports[tunnel.kind].open(tunnel)
        except PortUnavailable as error:
            if self.kept.has(tunnel):
                self.routes.set_aside(self._loop.time(), tunnel)  # the port stays its owner's, whoever sits on it now
                self._refuse(session, request, error)
                return
            self.routes.unbindable(tunnel.id)
            if message.get("wanted") or session.over:
                self._refuse(session, request, error)
            else:
                self.claim(session, message)  # the port is offered last from now on
            return
        if self.routes.tunnel(tunnel.id, held=True) is not tunnel:
            self._close_port(tunnel)  # it was taken away while its port was being opened
            return
        if tunnel.session is session:
            self._grant(session, claimed, request)

    def _grant(self, session: AgentSession, claimed: Claimed, request: object) -> None:
        tunnel = claimed.tunnel
        if claimed.fresh:
            protocol, token_id = tunnel.kind, session.identity.token_id
            self._tasks.start("history", self._history.opened(tunnel.id, protocol, tunnel.name, session.id, token_id))
        self._when_kept(session, tunnel, lambda: self._announce(session, tunnel, request))

    def _when_kept(self, session: AgentSession, tunnel: Tunnel, tell: Callable[[], None]) -> None:
        """Tell the agent once what it wants kept is written, if the tunnel is still its own then."""
        if self.kept.note(tunnel, session.identity.token_id):
            self._tasks.start("keep a name", self._write_kept(session, tunnel, tell))
        else:
            tell()

    async def _write_kept(self, session: AgentSession, tunnel: Tunnel, tell: Callable[[], None]) -> None:
        generation = tunnel.generation
        await self.kept.write()
        if tunnel.session is session and tunnel.generation == generation:
            tell()

    def _announce(self, session: AgentSession, tunnel: Tunnel, request: object) -> None:
        session.send(
            {
                "type": "claimed",
                "request": request,
                "tunnel": tunnel.number,
                "id": tunnel.id,
                "generation": tunnel.generation,
                "kind": tunnel.kind,
                "name": tunnel.name,
                "port": tunnel.port,
                "public_url": tunnel.public_url,
            }
        )
        self._care_for_certificate(tunnel)
        self._events.publish("tunnel.opened", lambda: _tunnel_event(tunnel))
        log.info("tunnel opened", tunnel=tunnel.id, name=tunnel.name, kind=tunnel.kind, session=session.id)

    def _refuse(self, session: AgentSession, request: object, error: MoongateError) -> None:
        log.info("request refused", session=session.id, code=error.code, reason=error.message)
        session.send(
            {"type": "refused", "request": request, "code": error.code, "message": error.message, "hint": error.hint}
        )

    def release(self, session: AgentSession, message: Message) -> None:
        if "tunnel" not in message:
            self._release_held(session, message)
            return
        number, generation = message.get("tunnel"), message.get("generation")
        tunnel = self.routes.by_number(number) if isinstance(number, int) else None
        if tunnel is None or not isinstance(generation, int):
            return
        released = self.routes.release(tunnel.id, generation, session)
        if released is not None:
            self._ended(released, "released by its agent")

    def _release_held(self, session: AgentSession, message: Message) -> None:
        """An agent gives back what it stopped to publish while it was away."""
        kind, wanted = message.get("kind"), message.get("wanted")
        if not isinstance(kind, str) or not isinstance(wanted, str):
            return
        try:
            released = self.routes.release_held(kind, wanted, session.identity)
        except RoutingError as error:
            log.info("nothing to release", session=session.id, reason=error.message)
            return
        if released is not None:
            self._ended(released, "released by its agent")

    def update(self, session: AgentSession, message: Message) -> None:
        """Give a live tunnel other options and another upstream; when that fails it stays as it was."""
        request, options = message.get("request"), message.get("options", {})
        try:
            number, generation = _named_tunnel(message)
            if not isinstance(options, dict):
                raise ProtocolError("an update with members of the wrong type")
            tunnel = self.routes.update(
                number,
                generation,
                session,
                options=TunnelOptions.parse(options),
                upstream=str(message.get("upstream", ""))[:UPSTREAM_MAX],
            )
        except MoongateError as error:
            self._refuse(session, request, error)
            return
        updated = {"type": "updated", "request": request, "tunnel": tunnel.number}
        self._when_kept(session, tunnel, lambda: session.send(updated))
        self._care_for_certificate(tunnel)
        log.info("tunnel updated", tunnel=tunnel.id, name=tunnel.name, session=session.id)

    def certificate(self, session: AgentSession, message: Message) -> None:
        """Serve a tunnel's name with the certificate that its agent brings, or, given empty texts, no longer."""
        request, chain, key = message.get("request"), message.get("chain"), message.get("key")
        try:
            number, generation = _named_tunnel(message)
            if not isinstance(chain, str) or not isinstance(key, str):
                raise ProtocolError("a certificate with members of the wrong type")
            tunnel = self.routes.own(number, generation, session)
            if tunnel.kind != "http":
                raise ConfigurationError(f"TLS does not end here for {tunnel.kind} tunnels")
            not_after = self._take_certificate(tunnel, chain, key)
        except MoongateError as error:
            self._refuse(session, request, error)
            return
        session.send({"type": "updated", "request": request, "tunnel": tunnel.number})
        if not_after is not None:
            self.tell_certificate_state(tunnel, CertificateStatus("ready", not_after=not_after))
        elif not self._care_for_certificate(tunnel):
            self.tell_certificate_state(tunnel, CertificateStatus("none"))

    def _take_certificate(self, tunnel: Tunnel, chain: str, key: str) -> float | None:
        if not chain and not key:
            self.certificates.drop_pair(tunnel.name)
            return None
        return self.certificates.set_pair(tunnel.name, chain.encode(), key.encode())

    def _care_for_certificate(self, tunnel: Tunnel) -> bool:
        """Get a certificate for a tunnel that wants one, or care for its name no more; whether its agent was told."""
        if tunnel.kind != "http":
            return False
        if tunnel.options.acme:
            self.tell_certificate_state(tunnel, self.keeper.want(tunnel.name))
            return True
        was_wanted = self.keeper.unwant(tunnel.name)
        if was_wanted:
            self.tell_certificate_state(tunnel, CertificateStatus("none"))
        return was_wanted

    def certificate_changed(self, name: str, status: CertificateStatus) -> None:
        """Tell the agent of a name that wants a certificate how it is with that now."""
        tunnel = self.routes.by_host(name)
        if tunnel is not None and tunnel.options.acme:
            self.tell_certificate_state(tunnel, status)

    def tell_certificate_state(self, tunnel: Tunnel, status: CertificateStatus) -> None:
        """Tell a tunnel's agent how it is with the certificate of its name."""
        session = tunnel.session
        if isinstance(session, AgentSession):
            facts = {"state": status.state, "message": status.message, "not_after": status.not_after}
            session.send({"type": "certificate_state", "tunnel": tunnel.number, **facts})

    async def close_tunnel(self, tunnel_id: str, reason: str) -> bool:
        """Take a tunnel from its agent; the agent is told and keeps its other tunnels."""
        tunnel = self.routes.close(tunnel_id)
        if tunnel is None:
            return False
        session = tunnel.session
        if isinstance(session, AgentSession):
            session.send(
                {"type": "closed", "tunnel": tunnel.number, "generation": tunnel.generation, "message": reason}
            )
        self._ended(tunnel, reason)
        return True

    def revoke(self, identity_id: str) -> None:
        """End all that a deleted token has: its sessions and its tunnels."""
        revoked = self.routes.revoke(identity_id)
        for tunnel in revoked.tunnels:
            self._ended(tunnel, "token revoked")
        for session in revoked.sessions:
            if isinstance(session, AgentSession):
                session.send({"type": "refused", "code": TokenInvalid.code, "message": "token revoked", "hint": ""})
                session.mux.close()
        self._events.publish("token.revoked", lambda: {"token_id": identity_id})

    def _ended(self, tunnel: Tunnel, reason: str) -> None:
        self.edge.end_tunnel(tunnel, reason)
        self._close_port(tunnel)
        if tunnel.kind == "http":
            self.certificates.drop_pair(tunnel.name)
            self.keeper.unwant(tunnel.name)
        if self.kept.forget(tunnel):
            self._tasks.start("forget a kept name", self.kept.write())
        self._tasks.start("history", self._history.closed(tunnel.id))
        self._captures.forget(tunnel.id)
        self._events.publish("tunnel.closed", lambda: {**_tunnel_event(tunnel), "reason": reason})
        log.info("tunnel closed", tunnel=tunnel.id, name=tunnel.name, reason=reason)

    def _close_port(self, tunnel: Tunnel) -> None:
        ports = self.ports.get(tunnel.kind)
        if ports is not None:
            ports.close(tunnel)

    # -- life

    def lost(self, session: AgentSession, reason: str) -> None:
        if session.over:
            return
        session.over = True
        self.watched.discard(session)
        tunnels = self.routes.lost(self._loop.time(), session)
        for tunnel in tunnels:
            self._events.publish("tunnel.offline", lambda tunnel=tunnel: _tunnel_event(tunnel))  # type: ignore[misc]
        log.info("agent disconnected", session=session.id, reason=reason, tunnels=len(tunnels))

    async def watch(self) -> None:
        """Probe each link every PROBE_S, drop the silent ones, and end holds that are over."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._loop.time()
            self._probe_due(now)
            for tunnel in self.routes.expire(now):
                self._ended(tunnel, "its agent did not come back")

    def _probe_due(self, now: float) -> None:
        probes = self._probes
        while probes and probes[0][0] <= now:
            _, session = probes.popleft()
            if session.over:
                continue
            if session.mux.is_silent(now):
                session.mux.link.fail("nothing was heard for 15 s")
                continue
            session.mux.ping()
            session.mux.close_idle_lanes(now)
            probes.append((now + PROBE_S, session))

    async def tell_activity(self) -> None:
        """Tell those who look what happens, twice a second."""
        while True:
            await asyncio.sleep(ACTIVITY_S)
            for session in list(self.watched):
                session.tell_activity()

    def say_goodbye(self) -> None:
        """The node stops: no new agents, and those that are here shall look for it again."""
        self._stopping = True
        for session in self.routes.sessions():
            if isinstance(session, AgentSession):
                session.send({"type": "goodbye", "message": "the node is stopping"})

    def close_links(self) -> None:
        for session in self.routes.sessions():
            if isinstance(session, AgentSession):
                session.mux.close()


def _version_refusal(hello: Message, release: str) -> VersionUnsupported:
    spoken = hello.get("protocol")
    if isinstance(spoken, int) and spoken < wire.PROTOCOL_VERSION:
        advice = f"install moongate {release} on the agent's machine"
    else:
        advice = f"the agent is newer than this node; install moongate {release} there, or update the node"
    return VersionUnsupported(
        f"this node speaks tunnel protocol {wire.PROTOCOL_VERSION}, the agent {spoken!r}", hint=advice
    )


def _named_tunnel(message: Message) -> tuple[int, int]:
    number, generation = message.get("tunnel"), message.get("generation")
    if not isinstance(number, int) or not isinstance(generation, int):
        raise ProtocolError("a request that names no tunnel and generation")
    return number, generation


def _tunnel_event(tunnel: Tunnel) -> dict[str, Any]:
    return {
        "tunnel_id": tunnel.id,
        "protocol": tunnel.kind,
        "label": tunnel.name,
        "public_url": tunnel.public_url,
    }
