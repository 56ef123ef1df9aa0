"""UDP through a node and an agent: whole datagrams, a session for each source, silence where nobody answers."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from moongate.agent.reports import UpstreamFailed
from moongate.agent.routes import Route
from moongate.edge.control import AgentSession
from moongate.edge.ingress.udp import UdpVisitor as Session
from moongate.relay import datagrams
from moongate.relay.channels import Mux
from moongate.wire import tunnel as wire
from testbed import free_port, until_async
from testbed.datagrams import UdpService, udp_service, udp_visitor
from testbed.house import House, open_house, serving, tcp_route, udp_route
from testbed.rules import published

# Their datagram transports differ.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


def sessions_of(house: House) -> list[Session]:
    return [visitor for visitor in house.node._edge.visitors if isinstance(visitor, Session)]


def mux_of(house: House) -> Mux:
    (session,) = house.node._routes.sessions()
    assert isinstance(session, AgentSession)
    return session.mux


@pytest.mark.parametrize("size", [0, 1, 1472, 9000, wire.MAX_DATAGRAM])
async def test_a_datagram_arrives_whole_and_so_does_its_answer(house: House, size: int) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            assert await visitor.ask(bytes(size)) == bytes(size)
        assert service.received == [bytes(size)]


async def test_a_udp_tunnel_says_where_it_is(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        assert agent.url() == f"udp://localhost:{agent.port()}"


async def test_each_source_has_an_upstream_socket_of_its_own(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as first, udp_visitor(agent.port()) as second:
            assert await first.ask(b"one") == b"one"
            assert await second.ask(b"two") == b"two"
            assert await first.ask(b"three") == b"three"
            assert len(service.sources) == 2
            assert len(sessions_of(house)) == 2


async def test_a_service_may_speak_unasked_once_it_knows_a_visitor(house: House) -> None:
    async with udp_service(lambda data: None) as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            visitor.send(b"subscribe")
            await until_async(lambda: service.received)
            for number in range(3):
                service.send(b"news %d" % number)
                assert await visitor.receive() == b"news %d" % number


async def test_a_session_without_a_datagram_for_a_minute_ends_and_the_next_datagram_begins_another(
    house: House,
) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            await visitor.ask(b"one")
            (session,) = sessions_of(house)
            session.check(time.monotonic() + datagrams.IDLE_S - 1)
            assert sessions_of(house) == [session]
            session.check(time.monotonic() + datagrams.IDLE_S + 1)
            assert sessions_of(house) == []
            await until_async(lambda: agent.agent.snapshot().tunnels[0].connections == 0)
            await visitor.ask(b"two")
            assert len(service.sources) == 2
            assert sessions_of(house) != [session]


async def test_a_record_tells_of_each_session(house: House) -> None:
    async with udp_service(lambda data: data * 2) as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            await visitor.ask(b"12345")
            record = sessions_of(house)[0]._record
            assert (record.type, record.remote_address) == ("UDP", visitor.address)
            assert (record.bytes_in, record.bytes_out) == (5, 10)
        assert agent.agent.snapshot().tunnels[0].bytes_out == 10


async def test_a_tcp_and_a_udp_tunnel_may_have_one_number(house: House) -> None:
    async def greet(reader: object, writer: object) -> None:
        writer.write(b"tcp")  # type: ignore[attr-defined]

    async with udp_service(lambda data: b"udp") as service, serving(greet) as port:
        first = await house.agent(tcp_route(port))
        second = await house.agent(udp_route(service.port, port=first.port()))
        assert second.port() == first.port()
        with udp_visitor(first.port()) as visitor:
            assert await visitor.ask(b"who") == b"udp"
        async with house.visitor(first.port()) as tcp_visitor:
            assert await tcp_visitor.reader.read() == b"tcp"


async def test_a_udp_port_that_another_program_has_is_refused_with_the_reason(house: House) -> None:
    async with (
        udp_service() as service,
        open_house(Path(house.config.home) / "b", tcp_ports=f"{service.port}") as other,
    ):
        agent = await other.agent(udp_route(1, port=service.port))
        (refused,) = agent.refused
        assert refused.code == "port.unavailable"
        assert "another program has it" in refused.message


async def test_a_port_that_is_asked_for_again_while_it_is_opened_is_found_open(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port), tcp_route(service.port))
        for tunnel in house.node._routes.tunnels():
            ports = house.node._ports[tunnel.kind]
            ports.close(tunnel)
            await asyncio.gather(ports.open(tunnel), ports.open(tunnel))
        port = next(ready.port or 0 for ready in agent.ready if ready.route.kind == "udp")
        with udp_visitor(port) as visitor:
            assert await visitor.ask(b"one") == b"one"


async def test_a_port_given_back_is_nobodys_at_once(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        port = agent.port()
        with udp_visitor(port) as visitor:
            await visitor.ask(b"one")
            await agent.stop()
            await until_async(lambda: not sessions_of(house))
        again = await house.agent(udp_route(service.port, port=port))
        with udp_visitor(port) as visitor:
            assert await visitor.ask(b"two") == b"two"
        assert again.port() == port


async def test_visitors_find_silence_while_the_agent_is_away_and_answers_when_it_is_back(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            await visitor.ask(b"one")
            mux_of(house).link.fail("cut by the test")
            await until_async(lambda: not sessions_of(house))
            visitor.send(b"lost")
            await until_async(lambda: len(agent.ready) == 2)
            assert await visitor.ask(b"two") == b"two"
        assert service.received == [b"one", b"two"]


async def test_the_agent_says_once_for_each_visitor_that_nobody_listens(house: House) -> None:
    agent = await house.agent(udp_route(free_port()))
    with udp_visitor(agent.port()) as visitor:

        def failures() -> list[UpstreamFailed]:
            visitor.send(b"anybody")
            return [event for event in agent.events if isinstance(event, UpstreamFailed)]

        await until_async(failures)
        assert "nothing listens there" in failures()[0].message
        assert len(failures()) == 1
        assert len(sessions_of(house)) == 1  # it may be there in a moment


async def test_an_upstream_whose_name_has_no_address_is_told(house: House) -> None:
    agent = await house.agent(udp_route(9, host="nowhere.invalid"))
    with udp_visitor(agent.port()) as visitor:
        visitor.send(b"anybody")
        await until_async(lambda: [event for event in agent.events if isinstance(event, UpstreamFailed)])


async def test_a_firewall_drops_without_a_word(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port, options={"firewall": [["drop", "127.0.0.2/32"]]}))
        with udp_visitor(agent.port(), "127.0.0.2") as shut_out, udp_visitor(agent.port()) as let_in:
            shut_out.send(b"let me in")
            await shut_out.hears_nothing_but(let_in)
        assert service.received == [b"are you there"]


async def test_a_tunnels_own_limit_of_connections_counts_sources(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port, options={"max_connections": 1}))
        with udp_visitor(agent.port()) as first, udp_visitor(agent.port()) as second:
            await first.ask(b"one")
            second.send(b"two")
            await second.hears_nothing_but(first)


async def test_a_port_holds_no_more_sources_than_it_may(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "MAX_SESSIONS", 1)
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as first, udp_visitor(agent.port()) as second:
            await first.ask(b"one")
            second.send(b"two")
            await second.hears_nothing_but(first)
        assert house.node._metrics.datagrams_dropped == 1


async def test_datagrams_are_dropped_and_not_kept_when_the_link_is_full(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            await visitor.ask(b"one")
            link = mux_of(house).link
            link.pause_writing()
            visitor.send(b"two")
            await until_async(lambda: sessions_of(house)[0]._heard_at > 0)
            with udp_visitor(agent.port()) as other:
                other.send(b"three")
                await until_async(lambda: len(sessions_of(house)) == 2)
            link.resume_writing()
            assert house.node._metrics.datagrams_dropped == 2
            assert await visitor.ask(b"four") == b"four"
        assert service.received == [b"one", b"four"]


async def test_bytes_on_a_channel_of_datagrams_end_it_and_nothing_else(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        with udp_visitor(agent.port()) as visitor:
            await visitor.ask(b"one")
            mux = mux_of(house)
            (number,) = mux.channels
            mux.link.send(wire.serialize(wire.DATA, number, b"not a datagram"))
            await until_async(lambda: not sessions_of(house))
            assert await visitor.ask(b"two") == b"two"
        assert len(agent.ready) == 1


async def test_a_datagram_on_a_channel_of_bytes_ends_it_and_nothing_else(house: House) -> None:
    async def silent(reader: object, writer: object) -> None:
        await reader.read()  # type: ignore[attr-defined]

    async with serving(silent) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as visitor:
            mux = mux_of(house)
            await until_async(lambda: mux.channels)
            (number,) = mux.channels
            mux.link.send(wire.serialize(wire.DATAGRAM, number, b"not a byte"))
            assert await visitor.ended()
        assert not mux.link.is_closed


async def test_a_udp_port_is_kept_over_a_restart_of_the_node(home: Path) -> None:
    port = 0
    async with udp_service() as service:
        async with open_house(home) as house:
            agent = await house.agent(udp_route(service.port))
            port = agent.port()
            await agent.vanish()
            ports = str(house.config.tcp_ports)
        async with open_house(home, tcp_ports=ports) as house:
            again: Route = udp_route(service.port, port=port)
            assert (await house.agent(again)).port() == port
            (tunnel,) = house.node._routes.tunnels()
            assert tunnel.name == f"udp:{port}"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_port_on_every_address_serves_both_families(home: Path, address: str) -> None:
    async with open_house(home, listen=f"[::]:{free_port()}", plain_http=True) as house, udp_service() as service:
        only = [["allow", f"{address}/{32 if address == '127.0.0.1' else 128}"]]
        agent = await house.agent(udp_route(service.port, options={"firewall": only}))
        for family, source in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
                sock.setblocking(False)
                sock.connect((source, agent.port()))
                sock.send(source.encode())
                if source == address:
                    async with asyncio.timeout(10):
                        assert await asyncio.get_running_loop().sock_recv(sock, 100) == source.encode()
                    (session,) = sessions_of(house)
                    assert session._peer.address == address
        assert service.received == [address.encode()]


async def test_a_source_that_keeps_sending_follows_a_changed_rule(home: Path) -> None:
    async with (
        published(home) as (house, agent),
        udp_service(lambda data: b"old") as old,
        udp_service(lambda data: b"new") as new,
    ):
        port = (await agent.ask("GET", "ports/allocate?transport=udp"))["port"]

        async def forward(service: UdpService, *firewall: dict[str, object]) -> None:
            rule = {"port": port, "transport": "udp", "destination": "127.0.0.1", "dstPort": service.port}
            answer = await agent.ask("POST", "traffic/update", {"ports": [rule | {"firewall": firewall}]})
            assert answer["status"], answer

        await forward(old)
        with udp_visitor(port) as visitor:
            assert await visitor.ask(b"?") == b"old"
            before = sessions_of(house)
            await forward(old, {"sequence": 1, "action": "drop", "network": "192.0.2.1"})
            before[0].check(time.monotonic())
            assert await visitor.ask(b"?") == b"old"
            assert sessions_of(house) == before  # the change does not concern it
            await forward(new)
            before[0].check(time.monotonic())
            assert await visitor.ask(b"?") == b"new"
            await forward(new, {"sequence": 1, "action": "drop", "network": "127.0.0.1"})
            sessions_of(house)[0].check(time.monotonic())
            assert sessions_of(house) == []
            visitor.send(b"?")
            await until_async(lambda: house.node._metrics.shut_out >= 2)
        assert len(new.received) == 1


async def test_a_port_without_a_service_makes_one_session_of_many_datagrams(home: Path) -> None:
    async with published(home) as (house, agent):
        port = (await agent.ask("GET", "ports/allocate?transport=udp"))["port"]
        with udp_visitor(port) as visitor:
            (tunnel,) = house.node._routes.tunnels()
            for _ in range(20):
                visitor.send(b"anybody")
            await until_async(lambda: tunnel.bytes_in == 20 * len(b"anybody") and not sessions_of(house))
            assert tunnel.request_count == 1
