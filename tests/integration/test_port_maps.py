"""Port maps: a local port that leads to a tunnel of the node, or to any host, over TCP and UDP."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from moongate.agent.portmaps import PortMaps, Target
from moongate.agent.reports import Connected
from moongate.edge.control import AgentSession
from moongate.errors import PortInUse
from moongate.relay import channels, datagrams
from moongate.relay.channels import Mux
from testbed import free_port, until_async
from testbed.datagrams import udp_service, udp_visitor
from testbed.house import House, RunningAgent, open_house, serving, tcp_route, udp_route

# Their datagram transports differ.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
BULK = hashlib.shake_128(b"bulk").digest(12_000_000)


@dataclass
class Maps:
    """An agent's port maps, and what went wrong with them."""

    maps: PortMaps
    failures: list[tuple[int, str]] = field(default_factory=list)

    async def tcp(self, target: Target) -> int:
        port = free_port()
        await self.maps.open(port, "tcp", target)
        return port

    async def udp(self, target: Target) -> int:
        port = free_port()
        await self.maps.open(port, "udp", target)
        return port


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


async def linked(house: House) -> RunningAgent:
    """An agent that publishes nothing and has a link."""
    agent = await house.agent()
    await until_async(lambda: any(isinstance(event, Connected) for event in agent.events))
    return agent


@asynccontextmanager
async def maps_of(agent: RunningAgent) -> AsyncIterator[Maps]:
    failures: list[tuple[int, str]] = []
    maps = PortMaps(agent.agent.dial, on_failure=lambda port, reason: failures.append((port, reason)))
    try:
        yield Maps(maps, failures)
    finally:
        maps.close_all()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def ask(port: int, question: bytes) -> bytes:
    """Send a question and an end of file, and read the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(question)
        writer.write_eof()
        async with asyncio.timeout(15):
            return await reader.read()


async def was_reset(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        try:
            async with asyncio.timeout(15):
                return await reader.read() == b""
        except ConnectionResetError:
            return True


def muxes_of(house: House) -> list[Mux]:
    return [session.mux for session in house.node._routes.sessions() if isinstance(session, AgentSession)]


async def test_a_local_port_leads_to_another_agents_tunnel(house: House) -> None:
    async with serving(echo) as port:
        publisher, mapper = await house.agent(tcp_route(port)), await linked(house)
        async with maps_of(mapper) as bed:
            local = await bed.tcp(Target(publisher.port()))
            assert await ask(local, b"hello") == b"hello"
            assert bed.failures == []


async def test_a_local_port_leads_to_another_agents_udp_tunnel(house: House) -> None:
    async with udp_service() as service:
        publisher, mapper = await house.agent(udp_route(service.port)), await linked(house)
        async with maps_of(mapper) as bed:
            local = await bed.udp(Target(publisher.port()))
            with udp_visitor(local) as first, udp_visitor(local) as second:
                assert await first.ask(b"one") == b"one"
                assert await second.ask(b"") == b""
                assert await first.ask(b"three") == b"three"
            assert len(service.sources) == 2


async def test_ports_of_ones_own_tunnel_may_be_mapped(house: House) -> None:
    async with serving(echo) as port, udp_service() as service:
        agent = await house.agent(tcp_route(port), udp_route(service.port))
        ports = {ready.route.kind: ready.port or 0 for ready in agent.ready}
        async with maps_of(agent) as bed:
            assert await ask(await bed.tcp(Target(ports["tcp"])), b"hello") == b"hello"
            with udp_visitor(await bed.udp(Target(ports["udp"]))) as visitor:
                assert await visitor.ask(b"hello") == b"hello"


async def test_a_local_port_leads_to_any_host(house: House) -> None:
    mapper = await linked(house)
    async with serving(echo) as port, udp_service() as service, maps_of(mapper) as bed:
        assert await ask(await bed.tcp(Target(port, "localhost")), b"hello") == b"hello"
        with udp_visitor(await bed.udp(Target(service.port, "localhost"))) as visitor:
            assert await visitor.ask(b"hello") == b"hello"
        assert bed.failures == []


@pytest.mark.parametrize("over_node", [True, False])
async def test_a_host_that_speaks_first_is_heard(house: House, over_node: bool) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")

    async with serving(greet) as port:
        agent = await house.agent(tcp_route(port))
        async with maps_of(agent) as bed:
            local = await bed.tcp(Target(agent.port()) if over_node else Target(port, "127.0.0.1"))
            assert await ask(local, b"") == b"220 ready\r\n"


async def test_bulk_through_a_mapped_port_arrives_whole_both_ways_and_takes_lanes(house: House) -> None:
    async with serving(echo) as port:
        publisher, mapper = await house.agent(tcp_route(port)), await linked(house)
        async with maps_of(mapper) as bed:
            local = await bed.tcp(Target(publisher.port()))
            reader, writer = await asyncio.open_connection("127.0.0.1", local)

            async def send() -> None:
                writer.write(BULK)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            await asyncio.sleep(0.1)  # nobody reads yet: credit runs out
            with closing(writer):
                got = await reader.read()
                await sending
            assert hashlib.sha256(got).digest() == hashlib.sha256(BULK).digest()
            assert any(mux.lanes for mux in muxes_of(house))
            await until_async(lambda: all(not mux.channels and not mux.dialed for mux in muxes_of(house)))


async def test_the_publisher_sees_the_mapping_agent_as_its_visitor(house: House) -> None:
    async with serving(echo) as port:
        publisher, mapper = await house.agent(tcp_route(port)), await linked(house)
        async with maps_of(mapper) as bed:
            local = await bed.tcp(Target(publisher.port()))
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            with closing(writer):
                writer.write(b"x")
                assert await reader.read(1) == b"x"
                session = next(s for s in house.node._routes.sessions() if not house.node._routes.tunnels_of(s))
                (visitor,) = house.node._edge.visitors
                record = visitor._record  # type: ignore[union-attr]
                assert record is not None
                assert (record.type, record.remote_address) == ("TCP", session.peer_text)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_port_that_no_agent_has_is_told_where_it_was_mapped(house: House, transport: str) -> None:
    mapper = await linked(house)
    async with maps_of(mapper) as bed:
        await _knock(bed, transport, Target(house.config.tcp_ports.low))
        assert f"no connected agent has {transport} port {house.config.tcp_ports.low}" in bed.failures[0][1]
        assert not muxes_of(house)[0].channels


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_firewall_judges_the_mapping_agents_address(house: House, transport: str) -> None:
    shut = {"firewall": [["drop", "127.0.0.1/32"]]}
    make = tcp_route if transport == "tcp" else udp_route
    publisher, mapper = await house.agent(make(free_port(), options=shut)), await linked(house)
    async with maps_of(mapper) as bed:
        await _knock(bed, transport, Target(publisher.port()))
        assert "not from this address" in bed.failures[0][1]


async def _knock(bed: Maps, transport: str, target: Target) -> None:
    """Come to a mapped port until something has gone wrong."""
    if transport == "tcp":
        assert await was_reset(await bed.tcp(target))
        await until_async(lambda: bed.failures)
        return
    with udp_visitor(await bed.udp(target)) as visitor:

        def said() -> bool:
            visitor.send(b"anybody")
            return bool(bed.failures)

        await until_async(said)


async def test_what_refused_the_connection_is_told_at_the_mapping_agent(house: House) -> None:
    publisher, mapper = await house.agent(tcp_route(free_port())), await linked(house)
    async with maps_of(mapper) as bed:
        assert await was_reset(await bed.tcp(Target(publisher.port())))
        await until_async(lambda: bed.failures)
        assert "nothing listens there" in bed.failures[0][1]


async def test_a_host_that_refuses_is_told_and_the_local_program_is_cut_off(house: House) -> None:
    mapper = await linked(house)
    async with maps_of(mapper) as bed:
        assert await was_reset(await bed.tcp(Target(free_port(), "127.0.0.1")))
        assert "nothing listens there" in bed.failures[0][1]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_mapped_port_without_a_link_to_the_node_says_so(house: House, transport: str) -> None:
    agent = await linked(house)
    await agent.stop()
    async with maps_of(agent) as bed:
        await _knock(bed, transport, Target(9))
        assert bed.failures[0][1] == "the node is not connected"


async def test_a_link_carries_only_so_many_channels_of_its_agents_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "MAX_DIALED", 1)
    async with serving(echo) as port:
        publisher, mapper = await house.agent(tcp_route(port)), await linked(house)
        async with maps_of(mapper) as bed:
            local = await bed.tcp(Target(publisher.port()))
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            with closing(writer):
                writer.write(b"x")
                assert await reader.read(1) == b"x"
                assert await was_reset(local)
                assert "open already" in bed.failures[0][1]
            await until_async(lambda: bed.maps.connections(local) == 0)
            await until_async(lambda: not any(mux.dialed for mux in muxes_of(house)))
            assert await ask(local, b"again") == b"again"


async def test_a_local_port_that_another_program_has_is_refused_and_named(house: House) -> None:
    mapper = await linked(house)
    async with maps_of(mapper) as bed, serving(echo) as taken:
        with pytest.raises(PortInUse, match=f"cannot listen on tcp port {taken} of 127.0.0.1: another program uses it"):
            await bed.maps.open(taken, "tcp", Target(1))
    async with maps_of(mapper) as bed, udp_service() as service:
        with pytest.raises(PortInUse, match="udp port"):
            await bed.maps.open(service.port, "udp", Target(1))


async def test_a_map_that_changes_serves_new_visitors_and_keeps_the_old_ones(house: House) -> None:
    def says(word: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(100):
                writer.write(word)

        return run

    mapper = await linked(house)
    async with serving(says(b"old")) as old, serving(says(b"new")) as new, maps_of(mapper) as bed:  # type: ignore[arg-type]
        local = await bed.tcp(Target(old, "127.0.0.1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        with closing(writer):
            writer.write(b"?")
            assert await reader.read(3) == b"old"
            await bed.maps.open(local, "tcp", Target(new, "127.0.0.1"))
            writer.write(b"?")
            assert await reader.read(3) == b"old"
            assert await ask(local, b"?") == b"new"


async def test_a_closed_map_refuses_new_visitors_and_its_port_may_change_its_transport(house: House) -> None:
    mapper = await linked(house)
    async with serving(echo) as port, udp_service() as service, maps_of(mapper) as bed:
        local = await bed.tcp(Target(port, "127.0.0.1"))
        await bed.maps.open(local, "udp", Target(service.port, "127.0.0.1"))
        with pytest.raises(ConnectionRefusedError):
            await ask(local, b"")
        with udp_visitor(local) as visitor:
            assert await visitor.ask(b"hello") == b"hello"
        bed.maps.close(local)
        bed.maps.close(local)
        assert bed.maps.connections(local) == 0
        await bed.maps.open(local, "tcp", Target(port, "127.0.0.1"))
        assert await ask(local, b"hello") == b"hello"


async def test_closing_all_maps_ends_what_goes_through_them(house: House) -> None:
    mapper = await linked(house)
    async with serving(echo) as port, maps_of(mapper) as bed:
        local = await bed.tcp(Target(port, "127.0.0.1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        with closing(writer):
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            bed.maps.close_all()
            async with asyncio.timeout(15):
                assert await reader.read() == b""


@pytest.mark.parametrize("over_node", [True, False])
async def test_an_idle_source_of_a_mapped_port_is_forgotten_and_may_come_again(house: House, over_node: bool) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        async with maps_of(agent) as bed:
            local = await bed.udp(Target(agent.port()) if over_node else Target(service.port, "127.0.0.1"))
            with udp_visitor(local) as visitor:
                await visitor.ask(b"one")
                assert bed.maps.connections(local) == 1
                bed.maps.end_idle(time.monotonic() + datagrams.IDLE_S + 1)
                assert bed.maps.connections(local) == 0
                assert await visitor.ask(b"two") == b"two"
                assert bed.maps.connections(local) == 1
            assert len(service.sources) == 2


async def test_a_local_program_that_leaves_while_the_host_is_dialled_leaves_nothing_behind(house: House) -> None:
    mapper = await linked(house)
    async with maps_of(mapper) as bed:
        local = await bed.tcp(Target(9, "192.0.2.1"))  # TEST-NET-1 (RFC 5737): nobody answers
        _, writer = await asyncio.open_connection("127.0.0.1", local)
        await until_async(lambda: bed.maps.connections(local) == 1)
        writer.transport.abort()
        bed.maps.close_all()
        await until_async(lambda: not bed.maps.visitors)


async def test_a_source_that_the_node_has_forgotten_is_no_failure(house: House) -> None:
    async with udp_service() as service:
        agent = await house.agent(udp_route(service.port))
        async with maps_of(agent) as bed:
            local = await bed.udp(Target(agent.port()))
            with udp_visitor(local) as visitor:
                await visitor.ask(b"one")
                (session,) = house.node._edge.visitors
                session.check(time.monotonic() + datagrams.IDLE_S + 1)
                await until_async(lambda: bed.maps.connections(local) == 0)
                assert await visitor.ask(b"two") == b"two"
            assert bed.failures == []
