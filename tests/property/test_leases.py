"""A node, agents of three identities, and whatever may happen between them, against a simple model."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from leasing import ADMIN, DOMAIN, Agent, Session, identity, make_routes
from moongate.config import PortRange
from moongate.edge.routes import Claimed, Tunnel, TunnelOptions
from moongate.edge.routes.entries import CARRIERS
from moongate.edge.routes.names import lease_key, port_name, port_number
from moongate.errors import LimitExceeded, NameTaken, NoPortFree, PortUnavailable, RoutingError, Superseded

HOLD_S = 60.0
PORTS = PortRange(20000, 20001)
NAMES = ("app", "web", "tls:app", "shop.example.test", "20000", "udp:20000")
QUOTA = 2
# Few of everything, so that they meet.
AGENTS = st.integers(0, 3)


def kind_of(name: str) -> str:
    kind, colon, _ = name.partition(":")
    if colon:
        return kind
    return "tcp" if name.isdecimal() else "http"


def full(name: str) -> str:
    return f"{name}.{DOMAIN}" if kind_of(name) in ("http", "tls") and "." not in name else name


def wanted(name: str) -> str:
    """What an agent asks for: a port is a number, whichever transport it is of, and a host name a name."""
    return name.rpartition(":")[2]


def key_of(tunnel: Tunnel) -> str:
    """A name of the model; HTTP and TLS of one host name are two."""
    return lease_key(tunnel.kind, tunnel.name)


@dataclass
class Hold:
    """What the model believes of one name."""

    owner: str
    agent: Agent
    session: Session
    generation: int
    tunnel_id: str
    lost_at: float | None = None
    keep: bool = False


class Leases(RuleBasedStateMachine):
    """The model knows who was given what, and when it was lost; it knows nothing of how Routes keeps it."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.routes = make_routes(hold_s=HOLD_S, ports=PORTS, quota=QUOTA)
        one, two = identity("one"), identity("two")
        self.agents = [Agent(self.routes, who) for who in (one, one, two, ADMIN)]
        self.sessions = {agent.session for agent in self.agents}
        self.holds: dict[str, Hold] = {}
        self.opened: set[str] = set()  # the ids of all tunnels whose end was not reported
        self.highest = 0

    # What the model expects.

    def hold(self, name: str) -> Hold | None:
        return self.holds.get(name)

    def sibling(self, name: str) -> Hold | None:
        return self.holds.get(name.removeprefix("tls:") if name.startswith("tls:") else f"tls:{name}")

    def may_take(self, agent: Agent, name: str, generation: int | None) -> bool:
        sibling = self.sibling(name)
        if sibling is not None and sibling.owner != agent.identity.id:
            return False
        hold = self.hold(name)
        if hold is None:
            return True
        if hold.owner != agent.identity.id or (hold.lost_at is None and hold.session is agent.session):
            return False
        return hold.agent is agent or generation is None or generation >= hold.generation

    def given(self, agent: Agent, claimed: Claimed) -> None:
        tunnel = claimed.tunnel
        before = self.hold(key_of(tunnel))
        assert tunnel.generation > self.highest
        self.highest = tunnel.generation
        assert tunnel.session is agent.session
        self.check_loser(agent, before, claimed)
        if before is None:
            assert claimed.fresh
            assert tunnel.id not in self.opened
        else:
            assert before.owner == agent.identity.id
            assert (tunnel.id, claimed.fresh) == (before.tunnel_id, False)
        self.opened.add(tunnel.id)
        keep = tunnel.options.keep
        hold = Hold(agent.identity.id, agent, agent.session, tunnel.generation, tunnel.id, keep=keep)
        self.holds[key_of(tunnel)] = hold

    def check_loser(self, agent: Agent, before: Hold | None, claimed: Claimed) -> None:
        if before is None or before.lost_at is not None:
            assert claimed.displaced is None
            return
        assert claimed.displaced is not None
        was, loser = claimed.displaced
        assert (was.generation, loser) == (before.generation, before.session)
        assert claimed.own_ghost == (before.agent is agent)

    def room(self, agent: Agent) -> bool:
        mine = [hold for hold in self.holds.values() if hold.session is agent.session and hold.lost_at is None]
        return len(mine) < QUOTA

    # What may happen.

    @rule(
        which=AGENTS,
        wish=st.sampled_from(NAMES),
        known=st.sampled_from(["none", "own", "stale"]),
        keep=st.booleans(),
    )
    def claim_a_name(self, which: int, wish: str, known: str, keep: bool) -> None:
        agent, name = self.agents[which], full(wish)
        generation = agent.generations.get(name) if known != "none" else None
        if known == "stale" and generation is not None:
            generation -= 1
        expected = self.may_take(agent, name, generation) and self.room(agent)
        options, kind = TunnelOptions(keep=keep), kind_of(wish)
        if expected:
            self.given(agent, agent.claim(self.now, wanted(wish), kind=kind, generation=generation, options=options))
            return
        with pytest.raises(RoutingError) as refusal:
            agent.claim(self.now, wanted(wish), kind=kind, generation=generation, options=options)
        self.check_refusal(agent, name, refusal.value)

    def check_refusal(self, agent: Agent, name: str, refusal: RoutingError) -> None:
        if not self.room(agent):
            assert isinstance(refusal, LimitExceeded)
            return
        hold = self.hold(name) or self.sibling(name)
        assert hold is not None
        if hold.owner == agent.identity.id:
            assert isinstance(refusal, Superseded | NameTaken | PortUnavailable)
        else:
            assert isinstance(refusal, NameTaken | PortUnavailable)
            assert repr(hold.owner) in refusal.message

    @rule(which=AGENTS, carrier=st.sampled_from(CARRIERS))
    def claim_any_port(self, which: int, carrier: str) -> None:
        agent = self.agents[which]
        free = [port for port in range(PORTS.low, PORTS.high + 1) if self.hold(port_name(carrier, port)) is None]
        if not self.room(agent):
            return
        if not free:
            with pytest.raises(NoPortFree):
                agent.claim(self.now, None, kind=carrier)
            return
        claimed = agent.claim(self.now, None, kind=carrier)
        assert claimed.tunnel.port in free
        self.given(agent, claimed)

    @rule(which=AGENTS, asks_again=st.booleans())
    def lose_the_link(self, which: int, asks_again: bool) -> None:
        agent = self.agents[which]
        lost = {key_of(tunnel) for tunnel in self.routes.lost(self.now, agent.session)}
        assert lost == {
            name for name, hold in self.holds.items() if hold.session is agent.session and hold.lost_at is None
        }
        for name in lost:
            self.holds[name].lost_at = self.now
        self.sessions.discard(agent.session)
        self.sessions.add(agent.connect())
        if asks_again:
            self.ask_again(which)

    @rule(which=AGENTS)
    def reconnect_while_the_node_still_believes_in_the_old_link(self, which: int) -> None:
        self.sessions.add(self.agents[which].connect())
        self.ask_again(which)

    def ask_again(self, which: int) -> None:
        for name in sorted(self.agents[which].generations):
            hold = self.hold(name)
            self.claim_a_name(which, name.removesuffix("." + DOMAIN), "own", hold is not None and hold.keep)

    @rule(pick=st.integers(0, 100))
    def a_ghost_ends_at_last(self, pick: int) -> None:
        current = {agent.session for agent in self.agents}
        ghosts = sorted((session for session in self.sessions if session not in current), key=lambda ghost: ghost.id)
        if not ghosts:
            return
        ghost = ghosts[pick % len(ghosts)]
        for tunnel in self.routes.lost(self.now, ghost):
            assert self.holds[key_of(tunnel)].session is ghost
            self.holds[key_of(tunnel)].lost_at = self.now
        self.sessions.discard(ghost)

    @rule(which=AGENTS, wish=st.sampled_from(NAMES), late=st.booleans())
    def release(self, which: int, wish: str, late: bool) -> None:
        agent, name = self.agents[which], full(wish)
        hold = self.holds.get(name)
        if hold is None:
            return
        generation = hold.generation - late
        ended = self.routes.release(hold.tunnel_id, generation, agent.session)
        assert (ended is not None) == (hold.session is agent.session and hold.lost_at is None and not late)
        if ended is not None:
            self.end(ended)

    @rule(which=AGENTS, wish=st.sampled_from(NAMES))
    def give_back_what_nobody_answers_for(self, which: int, wish: str) -> None:
        agent, hold = self.agents[which], self.hold(full(wish))
        ended = self.routes.release_held(kind_of(wish), wanted(wish), agent.identity)
        is_his = hold is not None and hold.lost_at is not None and hold.owner == agent.identity.id
        assert (ended is not None) == is_his
        if ended is not None:
            self.end(ended)

    @rule(which=AGENTS, wish=st.sampled_from(NAMES), keep=st.booleans())
    def update(self, which: int, wish: str, keep: bool) -> None:
        agent, hold = self.agents[which], self.hold(full(wish))
        if hold is None or hold.lost_at is not None or hold.session is not agent.session:
            return
        tunnel = self.routes.tunnel(hold.tunnel_id)
        assert tunnel is not None
        options = TunnelOptions(keep=keep)
        self.routes.update(tunnel.number, hold.generation, agent.session, options=options, upstream="")
        hold.keep = keep

    @invariant()
    def what_is_kept_is_counted(self) -> None:
        kept: dict[str, set[str]] = {}
        for name, hold in self.holds.items():
            if hold.keep:
                kept.setdefault(hold.owner, set()).add(name)
        assert self.routes._kept == kept

    @rule(wish=st.sampled_from(NAMES))
    def an_administrator_closes(self, wish: str) -> None:
        hold = self.holds.get(full(wish))
        if hold is None:
            return
        ended = self.routes.close(hold.tunnel_id)
        assert ended is not None
        assert ended.session is (hold.session if hold.lost_at is None else None)
        self.end(ended)

    @rule(who=st.sampled_from(["one", "two"]))
    def a_token_is_deleted_and_made_again(self, who: str) -> None:
        revoked = self.routes.revoke(who)
        assert {session.identity.id for session in revoked.sessions} <= {who}
        for tunnel in revoked.tunnels:
            assert self.holds[key_of(tunnel)].owner == who
            self.end(tunnel)
        assert not [name for name, hold in self.holds.items() if hold.owner == who]
        self.sessions -= {session for session in self.sessions if session.identity.id == who}
        for agent in self.agents:
            if agent.identity.id == who:
                self.sessions.add(agent.connect())

    @rule(seconds=st.sampled_from([0.0, 1.0, 29.0, 59.0, 60.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def holds_expire(self) -> None:
        overdue = {
            name
            for name, hold in self.holds.items()
            if hold.lost_at is not None and not hold.keep and hold.lost_at + HOLD_S <= self.now
        }
        ended = self.routes.expire(self.now)
        assert {key_of(tunnel) for tunnel in ended} == overdue
        for tunnel in ended:
            self.end(tunnel)
        deadline = self.routes.next_deadline()
        assert deadline is None or self.now < deadline <= self.now + HOLD_S

    def end(self, tunnel: Tunnel) -> None:
        self.opened.remove(tunnel.id)
        del self.holds[key_of(tunnel)]

    # What is always so.

    @invariant()
    def every_live_name_answers_through_the_session_it_was_given_to(self) -> None:
        live = {name: hold for name, hold in self.holds.items() if hold.lost_at is None}
        assert {key_of(tunnel): tunnel.session for tunnel in self.routes.tunnels()} == {
            name: hold.session for name, hold in live.items()
        }
        for name, hold in live.items():
            tunnel = self.routes.tunnel(hold.tunnel_id)
            assert tunnel is not None
            assert (key_of(tunnel), tunnel.generation) == (name, hold.generation)
            assert self.routes.by_number(tunnel.number) is tunnel
            assert tunnel in self.routes.tunnels_of(hold.session)
            if tunnel.kind == "tls":
                assert self.routes.by_server_name(tunnel.name) is tunnel
            elif tunnel.port is None:
                assert self.routes.by_host(name) is tunnel
                assert self.routes.held(name) is None

    @invariant()
    def names_whose_agent_is_gone_answer_nobody(self) -> None:
        for name, hold in self.holds.items():
            if hold.lost_at is not None:
                assert self.routes.by_host(name) is None
                assert kind_of(name) != "tls" or self.routes.by_server_name(wanted(name)) is None
                assert self.routes.tunnel(hold.tunnel_id) is None
                if kind_of(name) == "http":
                    assert self.routes.held(name) is not None

    @invariant()
    def no_port_and_no_number_is_given_twice(self) -> None:
        tunnels = self.routes.tunnels()
        ports = [(tunnel.kind, tunnel.port) for tunnel in tunnels if tunnel.port is not None]
        assert len(ports) == len(set(ports))
        assert len({tunnel.number for tunnel in tunnels}) == len(tunnels)

    @invariant()
    def no_tunnel_ends_unreported(self) -> None:
        assert self.opened == {hold.tunnel_id for hold in self.holds.values()}

    @invariant()
    def the_counts_match(self) -> None:
        assert self.routes.session_count == len(self.sessions)
        assert len(self.routes.tunnels()) == sum(len(self.routes.tunnels_of(session)) for session in self.sessions)
        assert all(len(self.routes.tunnels_of(session)) <= QUOTA for session in self.sessions)

    @invariant()
    def every_port_is_either_free_or_held(self) -> None:
        for carrier in CARRIERS:
            free = self.routes._ports[carrier].free
            leased = {port_number(name) for name in self.routes._leases if kind_of(name) == carrier}
            assert free | leased == set(range(PORTS.low, PORTS.high + 1))
            assert not free & leased

    @invariant()
    def a_port_answers_through_whoever_holds_it_for_its_transport(self) -> None:
        for carrier in CARRIERS:
            for port in range(PORTS.low, PORTS.high + 1):
                hold = self.hold(port_name(carrier, port))
                tunnel = self.routes.by_port(carrier, port)
                live = hold is not None and hold.lost_at is None
                assert (tunnel.session if tunnel is not None else None) is (hold.session if live and hold else None)


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
