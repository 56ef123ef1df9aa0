import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from leasing import ADMIN, WALL, Agent, Session, identity, make_routes
from moongate.config import PortRange
from moongate.edge.firewall import RULES_MAX
from moongate.edge.routes import RESERVED, Page, Routes, TunnelOptions
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
    TunnelUnknown,
)


@dataclass(frozen=True)
class Row:
    label: str
    protocol: str
    token_id: str | None
    unregistered_at: float | None
    tunnel_id: str = "2f0b6a52-7c5e-4a64-9d0c-6a7d3a4f1b10"


class TestNames:
    @pytest.mark.parametrize(
        ("wanted", "name"),
        [
            ("app", "app.localhost"),
            ("App", "app.localhost"),
            ("app.localhost", "app.localhost"),
            ("APP.LocalHost.", "app.localhost"),
            ("a-b", "a-b.localhost"),
            ("123", "123.localhost"),
            ("x" * 63, "x" * 63 + ".localhost"),
        ],
    )
    def test_a_wanted_name_is_one_label_under_the_domain(self, wanted: str, name: str) -> None:
        claimed = Agent(make_routes(), ADMIN).claim(0.0, wanted)
        assert claimed.tunnel.name == name
        assert claimed.tunnel.subdomain == name.removesuffix(".localhost")
        assert claimed.tunnel.public_url == f"http://{name}:7171"

    @pytest.mark.parametrize(
        ("wanted", "why"),
        [
            ("ab", "must be 3–63 characters long"),
            ("x" * 64, "must be 3–63 characters long"),
            ("-app", "must not start or end with a hyphen"),
            ("app-", "must not start or end with a hyphen"),
            ("my_app", "may only contain letters, digits, and hyphens"),
            ("büro", "may only contain letters, digits, and hyphens"),
            ("app\n", "may only contain letters, digits, and hyphens"),
            ("app\x1b[2J", "may only contain letters, digits, and hyphens"),
            ("a.b.localhost", "is not one label under 'localhost'"),
            (".localhost", "may only contain letters, digits, and hyphens"),
            ("www", "is reserved"),
            ("WWW.localhost", "is reserved"),
        ],
    )
    def test_a_name_that_no_tunnel_can_have_is_refused_with_the_reason(self, wanted: str, why: str) -> None:
        with pytest.raises(NameInvalid, match=why) as refusal:
            Agent(make_routes(), ADMIN).claim(0.0, wanted)
        assert refusal.value.message.isprintable()

    def test_a_name_of_the_node_itself_is_reserved(self) -> None:
        agent = Agent(make_routes(node_names=("Gate.localhost",)), ADMIN)
        with pytest.raises(NameInvalid, match="reserved"):
            agent.claim(0.0, "gate")

    def test_every_reserved_name_is_refused(self) -> None:
        agent = Agent(make_routes(), ADMIN)
        assert RESERVED
        for label in RESERVED:
            with pytest.raises(NameInvalid):
                agent.claim(0.0, label)

    def test_without_a_wish_a_name_is_drawn(self) -> None:
        agent = Agent(make_routes(), ADMIN)
        names = {agent.claim(0.0, None).tunnel.subdomain for _ in range(20)}
        assert len(names) == 20
        assert all(name is not None and len(name) == 8 and int(name, 16) >= 0 for name in names)

    def test_http_and_tls_share_the_names(self) -> None:
        routes = make_routes()
        Agent(routes, identity("one")).claim(0.0, "app", kind="http")
        with pytest.raises(NameTaken):
            Agent(routes, identity("two")).claim(0.0, "app", kind="tls")

    def test_an_unknown_kind_is_refused_by_its_name(self) -> None:
        with pytest.raises(RoutingError, match="kind 'sctp'"):
            Agent(make_routes(), ADMIN).claim(0.0, "app", kind="sctp")

    def test_a_refusal_leaves_nothing_behind(self) -> None:
        routes = make_routes()
        with pytest.raises(NameInvalid):
            Agent(routes, ADMIN).claim(0.0, "www")
        assert routes.tunnels() == []
        assert routes.session_count == 1
        assert routes.by_host("www.localhost") is None


class TestScope:
    def test_a_name_out_of_scope_is_denied_even_when_it_is_held_by_another(self) -> None:
        routes = make_routes()
        Agent(routes, ADMIN).claim(0.0, "app")
        with pytest.raises(ScopeDenied, match="subdomain 'app' is not allowed by this token"):
            Agent(routes, identity("ci", "ci-*")).claim(0.0, "app")

    def test_a_drawn_name_is_within_the_scope(self) -> None:
        tunnel = Agent(make_routes(), identity("ci", "ci-*")).claim(0.0, None).tunnel
        assert tunnel.subdomain is not None
        assert tunnel.subdomain.startswith("ci-")

    def test_plain_names_are_given_in_turn_and_then_taken_over_by_a_newer_agent(self) -> None:
        routes, who = make_routes(), identity("ci", "one,two")
        first, second, third = (Agent(routes, who) for _ in range(3))
        assert first.claim(0.0, None).tunnel.subdomain == "one"
        assert second.claim(0.0, None).tunnel.subdomain == "two"
        claimed = third.claim(0.0, None)
        assert claimed.tunnel.subdomain == "one"
        assert claimed.displaced is not None
        assert claimed.displaced[1] is first.session

    def test_one_agent_never_takes_its_own_name_from_itself(self) -> None:
        agent = Agent(make_routes(), identity("ci", "one"))
        agent.claim(0.0, None)
        with pytest.raises(NameTaken, match="no name that this token may have is free"):
            agent.claim(0.0, None)

    def test_a_name_kept_for_the_same_identity_is_drawn_again(self) -> None:
        routes, who = make_routes(), identity("ci", "one,two")
        agent = Agent(routes, who)
        agent.claim(0.0, None)
        routes.lost(1.0, agent.session)
        assert Agent(routes, who).claim(2.0, None).tunnel.subdomain == "one"

    def test_a_drawn_name_is_never_a_reserved_one(self) -> None:
        with pytest.raises(NameTaken):
            Agent(make_routes(), identity("odd", "www")).claim(0.0, None)

    def test_ports_follow_the_scope(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("db", "tcp:20001-20002"))
        with pytest.raises(ScopeDenied, match="port 20003 is not allowed by this token"):
            agent.claim(0.0, "20003", kind="tcp")
        assert agent.claim(0.0, None, kind="tcp").tunnel.port == 20002
        assert agent.claim(0.0, None, kind="tcp").tunnel.port == 20001
        with pytest.raises(NoPortFree):
            agent.claim(0.0, None, kind="tcp")


class TestPorts:
    def test_the_highest_free_port_comes_first_and_the_last_freed_before_it(self) -> None:
        routes = make_routes()
        agent = Agent(routes, ADMIN)
        first = agent.claim(0.0, None, kind="tcp").tunnel
        second = agent.claim(0.0, None, kind="tcp").tunnel
        assert (first.port, second.port) == (20003, 20002)
        assert (first.name, first.subdomain) == ("20003", None)
        routes.close(first.id)
        assert agent.claim(0.0, None, kind="tcp").tunnel.port == 20003

    def test_a_wanted_port_is_given(self) -> None:
        assert Agent(make_routes(), ADMIN).claim(0.0, "20001", kind="tcp").tunnel.port == 20001

    @pytest.mark.parametrize("wanted", ["19999", "20004", "0", "99999"])
    def test_a_port_out_of_range_is_refused_with_the_range(self, wanted: str) -> None:
        with pytest.raises(PortUnavailable, match=f"port {wanted} is not in 20000-20003"):
            Agent(make_routes(), ADMIN).claim(0.0, wanted, kind="tcp")

    @pytest.mark.parametrize("wanted", ["app", "-1", "20000.0", "٢٠٠٠٠", "1" * 5000, "20 000"])
    def test_what_is_no_number_is_no_port(self, wanted: str) -> None:
        with pytest.raises(PortUnavailable, match="is not a number"):
            Agent(make_routes(), ADMIN).claim(0.0, wanted, kind="tcp")

    def test_anothers_port_is_refused_with_its_holder(self) -> None:
        routes = make_routes()
        Agent(routes, identity("one")).claim(0.0, "20001", kind="tcp")
        with pytest.raises(PortUnavailable, match="port 20001 is held by 'one' while its agent is connected"):
            Agent(routes, identity("two")).claim(0.0, "20001", kind="tcp")

    def test_held_ports_are_not_given_away_but_expired_ones_are(self) -> None:
        routes = make_routes(ports=PortRange(20000, 20000))
        agent = Agent(routes, identity("one"))
        agent.claim(0.0, None, kind="tcp")
        routes.lost(0.0, agent.session)
        other = Agent(routes, identity("two"))
        with pytest.raises(NoPortFree, match="no TCP ports available"):
            other.claim(59.9, None, kind="tcp")
        routes.expire(60.0)
        assert other.claim(60.0, None, kind="tcp").tunnel.port == 20000

    def test_a_port_that_cannot_be_bound_is_offered_last(self) -> None:
        routes = make_routes()
        agent = Agent(routes, ADMIN)
        tunnel = agent.claim(0.0, None, kind="tcp").tunnel
        assert routes.unbindable(tunnel.id) is not None
        ports = [agent.claim(0.0, None, kind="tcp").tunnel.port for _ in range(4)]
        assert ports == [20002, 20001, 20000, 20003]

    def test_a_changed_range_keeps_the_tunnels_outside_it_until_they_end(self) -> None:
        routes = make_routes()
        agent = Agent(routes, ADMIN)
        tunnel = agent.claim(0.0, "20001", kind="tcp").tunnel
        routes.set_ports(PortRange(30000, 30000))
        assert routes.tunnel(tunnel.id) is tunnel
        assert agent.claim(0.0, None, kind="tcp").tunnel.port == 30000
        agent.connect()
        assert agent.reclaim(1.0, "20001", kind="tcp").tunnel is tunnel
        routes.close(tunnel.id)
        with pytest.raises(PortUnavailable):
            agent.claim(2.0, "20001", kind="tcp")
        with pytest.raises(NoPortFree):
            agent.claim(2.0, None, kind="tcp")

    def test_a_widened_range_does_not_offer_ports_in_use(self) -> None:
        routes = make_routes()
        agent = Agent(routes, ADMIN)
        agent.claim(0.0, "20001", kind="tcp")
        routes.set_ports(PortRange(20000, 20002))
        assert [agent.claim(0.0, None, kind="tcp").tunnel.port for _ in range(2)] == [20002, 20000]


class TestAnotherIdentity:
    def test_is_refused_with_the_holder_while_its_agent_is_connected(self) -> None:
        routes = make_routes()
        Agent(routes, identity("laptop of Ann")).claim(0.0)
        with pytest.raises(
            NameTaken, match="name 'app.localhost' is held by 'laptop of Ann' while its agent is connected"
        ):
            Agent(routes, identity("two")).claim(1.0)

    def test_is_told_how_long_a_name_is_kept(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        agent.claim(0.0)
        routes.lost(10.0, agent.session)
        with pytest.raises(NameTaken, match="held by 'one' for another 42 s"):
            Agent(routes, identity("two")).claim(28.0)

    def test_gets_the_name_the_moment_its_hold_is_over(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        old = agent.claim(0.0).tunnel
        routes.lost(10.0, agent.session)
        other = Agent(routes, identity("two"))
        with pytest.raises(NameTaken, match="for another 1 s"):
            other.claim(69.999)
        assert routes.expire(70.0) == [old]
        claimed = other.claim(70.0)
        assert claimed.fresh
        assert claimed.tunnel.id != old.id
        assert claimed.displaced is None

    def test_waits_until_what_belongs_to_the_old_tunnel_has_been_closed(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        agent.claim(0.0, "20001", kind="tcp")
        routes.lost(0.0, agent.session)
        with pytest.raises(PortUnavailable, match="for another 1 s"):
            Agent(routes, identity("two")).claim(61.0, "20001", kind="tcp")

    def test_a_label_of_control_bytes_is_shown_harmless(self) -> None:
        routes = make_routes()
        Agent(routes, identity("evil\x1b[2J")).claim(0.0)
        with pytest.raises(NameTaken) as refusal:
            Agent(routes, identity("two")).claim(0.0)
        assert refusal.value.message.isprintable()

    def test_a_generation_however_large_is_no_help(self) -> None:
        routes = make_routes()
        Agent(routes, identity("one")).claim(0.0)
        with pytest.raises(NameTaken):
            Agent(routes, identity("two")).claim(0.0, generation=2**63)


class TestTakeover:
    def test_a_newer_instance_takes_the_name_at_once(self) -> None:
        routes, who = make_routes(), identity()
        old, new = Agent(routes, who), Agent(routes, who)
        first = old.claim(0.0).tunnel
        number, generation = first.number, first.generation
        claimed = new.claim(1.0)
        assert claimed.tunnel.session is new.session
        assert claimed.tunnel.generation > generation
        assert claimed.tunnel.id == first.id
        assert not claimed.fresh
        assert claimed.displaced is not None
        was, loser = claimed.displaced
        assert loser is old.session
        assert (was.number, was.generation, was.session) == (number, generation, old.session)
        assert not claimed.own_ghost
        assert routes.tunnels_of(old.session) == []
        assert routes.by_host("app.localhost") is claimed.tunnel

    def test_the_loser_keeps_its_other_names(self) -> None:
        routes, who = make_routes(), identity()
        old, new = Agent(routes, who), Agent(routes, who)
        old.claim(0.0, "app")
        other = old.claim(0.0, "other").tunnel
        new.claim(1.0, "app")
        assert routes.tunnels_of(old.session) == [other]
        assert routes.by_host("other.localhost") is other

    def test_the_loser_cannot_take_it_back_when_it_reconnects(self) -> None:
        routes, who = make_routes(), identity()
        old, new = Agent(routes, who), Agent(routes, who)
        old.claim(0.0)
        new.claim(1.0)
        old.connect()
        with pytest.raises(Superseded, match="a newer agent with the same token holds name 'app.localhost'"):
            old.reclaim(2.0, "app.localhost")
        assert routes.by_host("app.localhost") is not None
        assert routes.tunnels_of(new.session)

    def test_the_loser_cannot_use_a_moment_in_which_the_newer_one_is_away(self) -> None:
        routes, who = make_routes(), identity()
        old, new = Agent(routes, who), Agent(routes, who)
        old.claim(0.0)
        new.claim(1.0)
        routes.lost(2.0, new.session)
        with pytest.raises(Superseded):
            old.reclaim(3.0, "app.localhost")
        new.connect()
        assert new.reclaim(4.0, "app.localhost").tunnel.session is new.session

    def test_the_loser_may_have_it_when_the_newer_one_has_stayed_away(self) -> None:
        routes, who = make_routes(), identity()
        old, new = Agent(routes, who), Agent(routes, who)
        old.claim(0.0)
        new.claim(1.0)
        routes.lost(2.0, new.session)
        routes.expire(62.0)
        assert old.reclaim(62.0, "app.localhost").fresh

    def test_agents_with_one_token_and_different_names_live_side_by_side(self) -> None:
        routes, who = make_routes(), identity()
        claims = [Agent(routes, who).claim(0.0, f"app{number}") for number in range(5)]
        assert all(claimed.displaced is None for claimed in claims)
        assert len(routes.tunnels()) == 5

    def test_counters_and_age_go_on(self) -> None:
        routes, who = make_routes(), identity()
        tunnel = Agent(routes, who).claim(0.0).tunnel
        tunnel.request_count, tunnel.bytes_in = 5, 700
        after = Agent(routes, who).claim(1.0).tunnel
        assert (after.request_count, after.bytes_in, after.opened_at) == (5, 700, WALL)

    def test_options_are_the_newer_ones(self) -> None:
        routes, who = make_routes(), identity()
        Agent(routes, who).claim(0.0, options=TunnelOptions(host_header="old"))
        after = Agent(routes, who).claim(1.0, options=TunnelOptions(host_header="new"))
        assert after.tunnel.options.host_header == "new"


class TestOwnGhost:
    def test_an_agent_that_reconnects_replaces_its_half_open_session(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        first = agent.claim(0.0).tunnel
        ghost = agent.session
        agent.connect()
        claimed = agent.reclaim(1.0, "app.localhost")
        assert claimed.own_ghost
        assert claimed.displaced is not None
        assert claimed.displaced[1] is ghost
        assert claimed.tunnel is first
        assert routes.lost(2.0, ghost) == []
        assert routes.by_host("app.localhost") is first

    def test_an_answer_that_was_lost_does_not_lock_an_agent_out(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        generation = agent.claim(0.0).tunnel.generation
        agent.connect()
        agent.reclaim(1.0, "app.localhost")
        agent.connect()
        assert agent.claim(2.0, generation=generation).own_ghost

    def test_a_late_claim_on_the_ghost_itself_is_refused(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        ghost = agent.session
        new = agent.connect()
        agent.claim(0.0)
        agent.session = ghost
        with pytest.raises(Superseded):
            agent.claim(1.0)
        assert routes.tunnels_of(new)

    def test_one_session_cannot_have_one_name_twice(self) -> None:
        agent = Agent(make_routes(), identity())
        agent.claim(0.0)
        with pytest.raises(NameTaken, match="already published by this agent"):
            agent.claim(0.0)


class TestHolds:
    def test_a_lost_agents_name_is_offline_then_gone(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        tunnel = agent.claim(0.0).tunnel
        assert routes.held("app.localhost") is None
        assert routes.lost(5.0, agent.session) == [tunnel]
        assert tunnel.session is None
        assert routes.by_host("app.localhost") is None
        lease = routes.held("app.localhost")
        assert lease is not None
        assert (lease.until, lease.live, lease.tunnel) == (65.0, False, tunnel)
        assert routes.next_deadline() == 65.0
        assert (routes.tunnel(tunnel.id), routes.tunnel(tunnel.id, held=True)) == (None, tunnel)
        assert routes.expire(64.999) == []
        assert routes.expire(65.0) == [tunnel]
        assert routes.expire(65.0) == []
        assert routes.held("app.localhost") is None
        assert routes.tunnel(tunnel.id, held=True) is None
        assert routes.next_deadline() is None

    def test_a_reclaim_within_the_hold_keeps_the_tunnel(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        tunnel = agent.claim(0.0).tunnel
        routes.lost(5.0, agent.session)
        agent.connect()
        claimed = agent.reclaim(64.0, "app.localhost")
        assert claimed.tunnel is tunnel
        assert (claimed.fresh, claimed.displaced) == (False, None)
        assert routes.held("app.localhost") is None
        assert routes.expire(1000.0) == []

    def test_a_restarted_agent_needs_no_generation(self) -> None:
        routes, who = make_routes(), identity()
        agent = Agent(routes, who)
        tunnel = agent.claim(0.0).tunnel
        routes.lost(5.0, agent.session)
        assert Agent(routes, who).claim(6.0).tunnel is tunnel

    def test_another_kind_under_the_same_name_is_a_tunnel_beside_it(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        old = agent.claim(0.0).tunnel
        new = agent.claim(1.0, "app", kind="tls")
        assert new.fresh
        assert new.displaced is None
        assert routes.by_host("app.localhost") is old
        assert routes.by_server_name("app.localhost") is new.tunnel
        routes.release(old.id, old.generation, agent.session)
        assert routes.by_host("app.localhost") is None
        assert routes.by_server_name("app.localhost") is new.tunnel

    def test_no_hold_at_all_frees_the_name_at_once(self) -> None:
        routes = make_routes(hold_s=0)
        agent = Agent(routes, identity("one"))
        agent.claim(0.0)
        routes.lost(5.0, agent.session)
        routes.expire(5.0)
        assert Agent(routes, identity("two")).claim(5.0).fresh

    def test_losing_a_session_twice_or_an_unknown_one_does_nothing(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        agent.claim(0.0)
        assert len(routes.lost(1.0, agent.session)) == 1
        assert routes.lost(2.0, agent.session) == []
        assert routes.lost(2.0, Session(identity())) == []
        assert routes.next_deadline() == 61.0


class TestRelease:
    def test_gives_the_name_back_at_once(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        tunnel = agent.claim(0.0).tunnel
        ended = routes.release(tunnel.id, tunnel.generation, agent.session)
        assert ended is not None
        assert ended.id == tunnel.id
        assert Agent(routes, identity("two")).claim(0.0).fresh

    @pytest.mark.parametrize("shift", [-1, 1])
    def test_with_another_generation_is_ignored(self, shift: int) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        tunnel = agent.claim(0.0).tunnel
        assert routes.release(tunnel.id, tunnel.generation + shift, agent.session) is None
        assert routes.by_host("app.localhost") is tunnel

    def test_from_another_session_is_ignored(self) -> None:
        routes = make_routes()
        tunnel = Agent(routes, identity()).claim(0.0).tunnel
        stranger = Agent(routes, identity("two"))
        assert routes.release(tunnel.id, tunnel.generation, stranger.session) is None
        assert routes.release("no such id", 1, stranger.session) is None
        assert routes.by_host("app.localhost") is tunnel


class TestClosing:
    def test_a_closed_tunnel_is_gone_and_its_agent_is_named(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        tunnel = agent.claim(0.0).tunnel
        assert routes.close(tunnel.id) is tunnel
        assert tunnel.session is agent.session
        assert routes.tunnels() == []
        assert routes.by_host("app.localhost") is None
        assert routes.by_number(tunnel.number) is None
        assert routes.session_count == 1
        assert routes.close(tunnel.id) is None

    def test_a_held_tunnel_can_be_closed(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        tunnel = agent.claim(0.0).tunnel
        routes.lost(0.0, agent.session)
        assert routes.close(tunnel.id) is tunnel
        assert Agent(routes, identity("two")).claim(0.0).fresh
        assert routes.expire(1000.0) == []

    def test_with_its_token_everything_of_an_identity_ends(self) -> None:
        routes, who = make_routes(), identity("one")
        live, gone, other = Agent(routes, who), Agent(routes, who), Agent(routes, identity("two"))
        live.claim(0.0, "live")
        gone.claim(0.0, "gone")
        gone.claim(0.0, "20001", kind="tcp")
        routes.lost(0.0, gone.session)
        kept = other.claim(0.0, "kept").tunnel
        revoked = routes.revoke(who.id)
        assert revoked.sessions == [live.session]
        assert {tunnel.name for tunnel in revoked.tunnels} == {"live.localhost", "gone.localhost", "20001"}
        assert routes.tunnels() == [kept]
        assert (routes.session_count, routes.held_count) == (1, 0)
        assert other.claim(0.0, "20001", kind="tcp").fresh


class TestQuota:
    def test_one_session_has_no_more_tunnels_than_it_may(self) -> None:
        routes = make_routes(quota=2)
        agent = Agent(routes, ADMIN)
        agent.claim(0.0, None)
        tunnel = agent.claim(0.0, None).tunnel
        with pytest.raises(LimitExceeded, match=r"session \S+ already has 2 tunnels \(max 2\)"):
            agent.claim(0.0, None)
        routes.release(tunnel.id, tunnel.generation, agent.session)
        assert agent.claim(0.0, None)

    def test_names_left_with_a_ghost_do_not_count(self) -> None:
        routes = make_routes(quota=1)
        agent = Agent(routes, ADMIN)
        agent.claim(0.0)
        agent.connect()
        assert agent.reclaim(1.0, "app.localhost")


class TestRestart:
    def test_generations_grow_across_restarts(self) -> None:
        before = Agent(make_routes(wall=WALL), ADMIN).claim(0.0).tunnel.generation
        after = Agent(make_routes(wall=WALL + 0.01), ADMIN).claim(0.0).tunnel.generation
        assert after > before

    def test_a_clock_set_back_between_two_runs_does_not_make_generations_fall(self) -> None:
        agent = Agent(make_routes(wall=WALL), identity())
        before = agent.claim(0.0).tunnel.generation
        agent.routes = make_routes(wall=WALL - 86_400)
        agent.connect()
        assert agent.reclaim(0.0, "app.localhost").tunnel.generation > before

    def test_a_made_up_generation_does_not_use_up_the_numbers(self) -> None:
        agent = Agent(make_routes(), identity())
        assert agent.claim(0.0, generation=2**80).tunnel.generation < 2**53

    def test_names_in_use_before_are_kept_for_those_who_had_them(self) -> None:
        routes = make_routes()
        rows = [Row("app.localhost", "http", "one", None), Row("20003", "tcp", None, WALL - 20)]
        assert routes.restore(0.0, rows) == 2
        assert routes.held("app.localhost") is not None
        with pytest.raises(NameTaken, match="held by 'token one' for another 60 s"):
            Agent(routes, identity("two")).claim(0.0)
        with pytest.raises(PortUnavailable, match="held by 'admin' for another 40 s"):
            Agent(routes, identity("one")).claim(0.0, "20003", kind="tcp")
        assert Agent(routes, identity("one")).claim(0.0, None, kind="tcp").tunnel.port == 20002
        assert Agent(routes, ADMIN).claim(0.0, "20003", kind="tcp").fresh
        assert Agent(routes, identity("one")).claim(0.0).fresh

    def test_an_agent_comes_back_with_the_generation_of_the_last_run(self) -> None:
        agent = Agent(make_routes(wall=WALL), identity("one"))
        agent.claim(0.0)
        agent.routes = make_routes(wall=WALL + 5)
        agent.routes.restore(0.0, [Row("app.localhost", "http", "one", WALL + 4)])
        agent.connect()
        claimed = agent.reclaim(0.0, "app.localhost")
        assert claimed.fresh
        assert claimed.tunnel.id == Row("", "", None, None).tunnel_id
        assert agent.routes.tunnel(claimed.tunnel.id) is claimed.tunnel

    def test_another_kind_is_not_the_tunnel_of_before(self) -> None:
        routes = make_routes()
        routes.restore(0.0, [Row("app.localhost", "http", "one", None)])
        claimed = Agent(routes, identity("one")).claim(0.0, "app", kind="tls")
        assert claimed.tunnel.id != Row("", "", None, None).tunnel_id

    def test_a_restored_hold_names_its_holder_as_people_know_it(self) -> None:
        routes, other = make_routes(wall=WALL), identity("two")
        routes.restore(0.0, [Row("app.localhost", "http", "one", None)], {"one": "laptop"})
        with pytest.raises(NameTaken, match="'laptop'"):
            Agent(routes, other).claim(0.0)

    def test_of_two_agents_from_before_the_newer_one_wins_in_whatever_order_they_come(self) -> None:
        for newer_first in (True, False):
            routes, who = make_routes(wall=WALL), identity("one")
            old, new = Agent(routes, who), Agent(routes, who)
            old.claim(0.0)
            new.claim(1.0)  # and the word of it never reached the old one
            routes = make_routes(wall=WALL + 5)
            routes.restore(0.0, [Row("app.localhost", "http", "one", None)])
            for agent in (old, new):
                agent.routes = routes
                agent.connect()
            if newer_first:
                new.reclaim(0.0, "app.localhost")
            else:
                old.reclaim(0.0, "app.localhost")
                assert new.reclaim(0.1, "app.localhost").displaced is not None
                old.connect()
            with pytest.raises(Superseded):
                old.reclaim(0.2, "app.localhost")

    @pytest.mark.parametrize(
        "row",
        [
            Row("app.localhost", "http", "one", WALL - 60),
            Row("a.b.localhost", "http", "one", None),
            Row("localhost", "http", "one", None),
            Row("*.example.org", "http", "one", None),
            Row("30000", "tcp", "one", None),
            Row("abc", "tcp", "one", None),
            Row("app.localhost", "udp", "one", None),
        ],
    )
    def test_what_is_over_or_not_ours_is_not_restored(self, row: Row) -> None:
        assert make_routes().restore(0.0, [row]) == 0

    def test_a_clock_set_back_does_not_make_a_hold_longer(self) -> None:
        routes = make_routes()
        routes.restore(0.0, [Row("app.localhost", "http", "one", WALL + 86_400)])
        assert routes.next_deadline() == 60.0

    def test_a_restored_hold_that_nobody_comes_for_ends_without_a_tunnel(self) -> None:
        routes = make_routes()
        routes.restore(0.0, [Row("app.localhost", "http", "one", None)])
        assert routes.expire(60.0) == []
        assert routes.held("app.localhost") is None


class TestOptions:
    def test_known_members_are_read_and_others_ignored(self) -> None:
        options = TunnelOptions.parse({"proxy_protocol": "v2", "max_connections": 5, "later": {"x": 1}})
        assert options == TunnelOptions(proxy_protocol="v2", max_connections=5)

    def test_without_any_nothing_is_made(self) -> None:
        assert TunnelOptions.parse({}) is TunnelOptions.parse({"unknown": 1})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("proxy_protocol", "v3"),
            ("proxy_protocol", 2),
            ("proxy_protocol", ["v1"]),
            ("host_header", "a\r\nX: y"),
            ("host_header", "a b"),
            ("host_header", None),
            ("host_header", "x" * 256),
            ("rate_limit_rps", -1),
            ("rate_limit_rps", True),
            ("rate_limit_rps", 1.5),
            ("max_connections", "5"),
            ("request_body_max_bytes", 2**60),
            ("capture", 1),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_by_name(self, name: str, value: object) -> None:
        with pytest.raises(ConfigurationError, match=f"option {name} cannot be"):
            TunnelOptions.parse({name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("keep", 1),
            ("firewall", "allow 10.0.0.0/8"),
            ("firewall", [["allow"]]),
            ("firewall", [["reject", "10.0.0.0/8"]]),
            ("firewall", [["allow", "300.1.1.1/32"]]),
            ("firewall", [["allow", "::/0"]] * (RULES_MAX + 1)),
            ("secure", "yes"),
            ("redirect", None),
            ("redirect_url", "javascript:alert(1)"),
            ("redirect_url", "https://a\r\nSet-Cookie: x"),
            ("redirect_url", "https://" + "x" * 2048),
            ("page", "Hello"),
            ("page", {"title": 7}),
            ("page", {"title": "x" * 201}),
            ("page", {"logo_url": "file:///etc/passwd"}),
            ("acme", "yes"),
        ],
    )
    def test_a_rule_that_cannot_be_is_refused_by_name(self, name: str, value: object) -> None:
        with pytest.raises(ConfigurationError, match=f"option {name} cannot be"):
            TunnelOptions.parse({name: value})

    def test_what_is_wrong_with_a_network_is_said(self) -> None:
        with pytest.raises(ConfigurationError, match="invalid network: 300.1.1.1/32"):
            TunnelOptions.parse({"firewall": [["allow", "300.1.1.1/32"]]})

    @pytest.mark.parametrize("name", ["basic_auth", "password"])
    def test_a_password_is_a_hash_and_never_repeated(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=f"option {name} cannot be") as refusal:
            TunnelOptions.parse({name: "correct horse"})
        assert "horse" not in refusal.value.message
        assert "scrypt" not in repr(TunnelOptions(**{name: "scrypt$1$2$3$4$5"}))  # type: ignore[arg-type]

    def test_a_page_without_anything_is_none(self) -> None:
        assert TunnelOptions.parse({"page": {"title": ""}}).page is None
        assert TunnelOptions.parse({"page": {"title": "Shop", "later": 1}}).page == Page(title="Shop")


class TestOwnDomains:
    @pytest.mark.parametrize(
        ("wanted", "name"),
        [
            ("shop.example.test", "shop.example.test"),
            ("Shop.Example.TEST.", "shop.example.test"),
            ("a.b.c.example.test", "a.b.c.example.test"),
            ("xn--bro-hoa.example", "xn--bro-hoa.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("www.example.test", "www.example.test"),
        ],
    )
    def test_a_name_outside_the_nodes_domain_is_a_whole_domain(self, wanted: str, name: str) -> None:
        routes = make_routes()
        tunnel = Agent(routes, ADMIN).claim(0.0, wanted).tunnel
        assert (tunnel.name, tunnel.subdomain) == (name, None)
        assert tunnel.public_url == f"http://{name}:7171"
        assert routes.by_host(name) is tunnel

    @pytest.mark.parametrize(
        ("wanted", "why"),
        [
            ("*.example.test", "is a wildcard"),
            ("192.0.2.7", "is an address"),
            ("shop..test", "is not labels"),
            ("-shop.example.test", "is not labels"),
            ("shop_1.example.test", "is not labels"),
            ("büro.example.test", "is not labels"),
            ("a b.example.test", "is not labels"),
            (".example.test", "is not labels"),
            ("x" * 64 + ".test", "is not labels"),
            (".".join(["x" * 60] * 5), "at most 253 characters"),
            ("gate.example.org", "is a name of the node"),
            ("GATE.example.org.", "is a name of the node"),
        ],
    )
    def test_a_domain_that_no_tunnel_can_have_is_refused_with_the_reason(self, wanted: str, why: str) -> None:
        with pytest.raises(NameInvalid, match=why):
            Agent(make_routes(node_names=("gate.example.org",)), ADMIN).claim(0.0, wanted)

    @pytest.mark.parametrize(
        ("scope", "wanted", "allowed"),
        [
            (None, "shop.example.test", True),
            ("shop.example.test", "shop.example.test", True),
            ("shop.example.test", "shop.example.test.evil.test", False),
            ("*.example.test", "shop.example.test", True),
            ("*.example.test", "example.test", False),
            ("*.*", "shop.example.test", True),
            ("*", "shop.example.test", False),
            ("http", "shop.example.test", False),
            ("shop*", "shop.example.test", False),
            ("*.example.test", "shop", False),
            ("shop.example.test,app", "app", True),
        ],
    )
    def test_a_scopes_pattern_must_match_the_whole_domain(self, scope: str | None, wanted: str, allowed: bool) -> None:
        agent = Agent(make_routes(), identity("one", scope))
        if allowed:
            assert agent.claim(0.0, wanted).fresh
        else:
            with pytest.raises(ScopeDenied, match="is not allowed by this token"):
                agent.claim(0.0, wanted)

    def test_anothers_domain_is_taken_whatever_the_kind(self) -> None:
        routes = make_routes()
        Agent(routes, identity("one")).claim(0.0, "shop.example.test")
        for kind in ("http", "tls"):
            with pytest.raises(NameTaken, match="name 'shop.example.test' is held by 'one'"):
                Agent(routes, identity("two")).claim(0.0, "shop.example.test", kind=kind)

    def test_a_certificate_is_made_for_names_that_are_leased_and_for_labels_under_the_domain(self) -> None:
        routes = make_routes()
        agent = Agent(routes, ADMIN)
        assert not routes.is_public("shop.example.test")
        tunnel = agent.claim(0.0, "shop.example.test").tunnel
        assert routes.is_public("shop.example.test")
        assert routes.is_public("anything.localhost")
        assert not routes.is_public("a.b.localhost")
        assert not routes.is_public(".localhost")
        assert not routes.is_public("localhost")
        routes.release(tunnel.id, tunnel.generation, agent.session)
        assert not routes.is_public("shop.example.test")

    def test_a_domain_survives_a_restart(self) -> None:
        routes = make_routes()
        assert routes.restore(0.0, [Row("shop.example.test", "http", "one", None)]) == 1
        with pytest.raises(NameTaken):
            Agent(routes, identity("two")).claim(0.0, "shop.example.test")
        assert Agent(routes, identity("one")).claim(0.0, "shop.example.test").tunnel.id == Row("", "", "", 0).tunnel_id


KEEP = TunnelOptions(keep=True)


class TestKept:
    def test_a_kept_name_outlives_every_hold(self) -> None:
        routes = make_routes(hold_s=60)
        agent = Agent(routes, identity("one"))
        tunnel = agent.claim(0.0, "app", options=KEEP).tunnel
        routes.lost(5.0, agent.session)
        assert routes.next_deadline() is None
        assert routes.expire(1e9) == []
        assert routes.held("app.localhost") is not None
        with pytest.raises(NameTaken, match="'one' until it is released"):
            Agent(routes, identity("two")).claim(1e9, "app")
        agent.connect()
        assert agent.claim(1e9, "app", options=KEEP).tunnel is tunnel

    def test_a_kept_port_is_nobody_elses(self) -> None:
        routes = make_routes(ports=PortRange(20000, 20000))
        agent = Agent(routes, identity("one"))
        agent.claim(0.0, None, kind="tcp", options=KEEP)
        routes.lost(5.0, agent.session)
        with pytest.raises(NoPortFree):
            Agent(routes, identity("two")).claim(1e9, None, kind="tcp")

    def test_released_it_is_free_at_once(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        tunnel = agent.claim(0.0, "app", options=KEEP).tunnel
        assert routes.release(tunnel.id, tunnel.generation, agent.session) is tunnel
        assert Agent(routes, identity("two")).claim(1.0, "app").fresh

    @pytest.mark.parametrize(
        ("kind", "wanted", "given"),
        [
            ("http", "app", "app"),
            ("http", "app.localhost", "app"),
            ("tcp", "20001", "20001"),
            ("tls", "a.test", "a.test"),
        ],
    )
    def test_its_owner_gives_back_what_nobody_answers_for(self, kind: str, wanted: str, given: str) -> None:
        routes = make_routes()
        one, two = Agent(routes, identity("one")), identity("two")
        tunnel = one.claim(0.0, given, kind=kind, options=KEEP).tunnel
        assert routes.release_held(kind, wanted, one.identity) is None  # somebody answers
        routes.lost(1.0, one.session)
        assert routes.release_held(kind, wanted, two) is None
        assert routes.release_held(kind, wanted, one.identity) is tunnel
        assert Agent(routes, two).claim(2.0, given, kind=kind).fresh

    def test_a_claim_that_keeps_nothing_makes_it_an_ordinary_one(self) -> None:
        routes = make_routes(hold_s=60)
        agent = Agent(routes, identity("one"))
        agent.claim(0.0, "app", options=KEEP)
        routes.lost(1.0, agent.session)
        agent.connect()
        tunnel = agent.claim(2.0, "app").tunnel
        routes.lost(3.0, agent.session)
        assert routes.expire(63.0) == [tunnel]

    def test_another_agent_of_the_token_draws_no_name_that_is_kept(self) -> None:
        routes = make_routes()
        who = identity("one", "app-?")
        agent = Agent(routes, who)
        kept = {agent.claim(0.0, f"app-{digit:x}", options=KEEP).tunnel.name for digit in range(15)}
        routes.lost(1.0, agent.session)
        drawn = Agent(routes, who).claim(2.0, None).tunnel.name
        assert drawn not in kept

    def test_after_a_restart_it_is_held_without_end_and_can_be_closed(self) -> None:
        routes = make_routes()
        assert routes.restore_kept([Row("app.localhost", "http", "one", None), Row("20001", "tcp", "one", None)]) == 2
        assert routes.held_count == 2
        tunnel_id = Row("", "", "", 0).tunnel_id
        with pytest.raises(NameTaken):
            Agent(routes, identity("two")).claim(1e9, "app")
        assert routes.expire(1e9) == []
        assert routes.close(tunnel_id) is not None

    def test_its_agent_continues_the_tunnel_of_before(self) -> None:
        routes = make_routes()
        routes.restore_kept([Row("app.localhost", "http", "one", None)])
        claimed = Agent(routes, identity("one")).claim(0.0, "app", options=KEEP)
        assert claimed.fresh  # to the history of this run
        assert claimed.tunnel.id == Row("", "", "", 0).tunnel_id
        assert routes.by_host("app.localhost") is claimed.tunnel

    def test_what_is_kept_is_not_restored_a_second_time(self) -> None:
        routes = make_routes()
        rows = [Row("app.localhost", "http", "one", None)]
        assert routes.restore_kept(rows) == 1
        assert routes.restore(0.0, rows) == 0
        assert routes.expire(1e9) == []

    def test_with_its_token_it_ends(self) -> None:
        routes = make_routes()
        routes.restore_kept([Row("app.localhost", "http", "one", None)])
        assert len(routes.revoke("one").tunnels) == 1
        assert routes.held_count == 0

    def test_set_aside_it_waits_for_its_agent(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        tunnel = agent.claim(0.0, None, kind="tcp", options=KEEP).tunnel
        routes.set_aside(1.0, tunnel)
        assert routes.tunnels_of(agent.session) == []
        assert routes.by_number(tunnel.number) is None
        assert agent.claim(2.0, str(tunnel.port), kind="tcp", options=KEEP).tunnel is tunnel

    def test_an_identity_keeps_no_more_than_it_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("moongate.edge.routes.table.KEPT_MAX", 2)
        routes = make_routes()
        agent = Agent(routes, identity("one"))
        first = agent.claim(0.0, "app-1", options=KEEP).tunnel
        agent.claim(0.0, "app-2", options=KEEP)
        with pytest.raises(LimitExceeded, match="already keeps 2 names"):
            agent.claim(0.0, "app-3", options=KEEP)
        plain = agent.claim(0.0, "app-4").tunnel
        with pytest.raises(LimitExceeded, match="already keeps 2 names"):
            routes.update(plain.number, plain.generation, agent.session, options=KEEP, upstream="")
        routes.update(first.number, first.generation, agent.session, options=TunnelOptions(), upstream="")
        agent.claim(0.0, "app-3", options=KEEP)


class TestUpdates:
    def test_a_live_tunnel_gets_other_options_and_another_upstream(self) -> None:
        routes = make_routes()
        agent = Agent(routes, identity())
        tunnel = agent.claim(0.0, "app").tunnel
        number, generation = tunnel.number, tunnel.generation
        options = TunnelOptions(redirect=True)
        assert routes.update(number, generation, agent.session, options=options, upstream="x:1") is tunnel
        assert (tunnel.options, tunnel.upstream, tunnel.number) == (options, "x:1", number)

    def test_what_was_lost_or_is_anothers_cannot_be_changed(self) -> None:
        routes = make_routes()
        agent, other = Agent(routes, identity("one")), Agent(routes, identity("two"))
        tunnel = agent.claim(0.0, "app").tunnel
        for number, generation, session in [
            (tunnel.number + 1, tunnel.generation, agent.session),
            (tunnel.number, tunnel.generation - 1, agent.session),
            (tunnel.number, tunnel.generation, other.session),
        ]:
            with pytest.raises(TunnelUnknown):
                routes.update(number, generation, session, options=KEEP, upstream="")
        assert tunnel.options == TunnelOptions()


class TestNumbers:
    def test_every_grant_has_a_number_of_its_own(self) -> None:
        routes, who = make_routes(), identity()
        old = Agent(routes, who).claim(0.0).tunnel
        number = old.number
        tunnel = Agent(routes, who).claim(1.0).tunnel
        assert tunnel.number != number
        assert routes.by_number(number) is None
        assert routes.by_number(tunnel.number) is tunnel

    def test_numbers_begin_again_and_pass_over_those_in_use(self) -> None:
        routes = make_routes()
        agent = Agent(routes, ADMIN)
        first = agent.claim(0.0, None).tunnel
        routes._number = 0xFFFF_FFFF
        assert (first.number, agent.claim(0.0, None).tunnel.number) == (1, 2)


def test_a_session_counts_from_its_connection_to_its_end() -> None:
    routes = make_routes()
    agents = [Agent(routes, ADMIN) for _ in range(3)]
    routes.joined(agents[0].session)
    assert routes.session_count == 3
    assert routes.sessions() == [agent.session for agent in agents]
    routes.lost(0.0, agents[0].session)
    assert routes.session_count == 2


def _ten_thousand(routes: Routes, claim: Callable[[Session, int], object]) -> float:
    sessions = [Session(ADMIN) for _ in range(10_000)]
    tracemalloc.start()
    try:
        for number, session in enumerate(sessions):
            claim(session, number)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(routes.tunnels()) == 10_000
    return size / 10_000


def test_an_idle_tunnel_takes_less_than_two_kibibytes_here() -> None:
    routes = make_routes()

    def claim(session: Session, number: int) -> None:
        routes.claim(
            0.0,
            kind="http",
            wanted=None,
            identity=ADMIN,
            instance=f"instance-{number}",
            generation=None,
            session=session,
        )

    assert _ten_thousand(routes, claim) < 2048
