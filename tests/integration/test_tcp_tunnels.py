"""TCP through a node and an agent: half-close, backpressure, lanes, and what happens when something dies."""

import asyncio
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moongate.agent.reports import AgentEvent, TunnelReady
from moongate.agent.service import Agent
from moongate.edge.control import AgentSession
from moongate.net.dialing import NodeAddress
from moongate.relay.channels import Mux
from testbed import until_async
from testbed.house import House, open_house, serving, tcp_route

BULK = 24_000_000


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


def bulk(seed: int) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(BULK)


def mux_of(house: House) -> Mux:
    (session,) = house.node._routes.sessions()
    assert isinstance(session, AgentSession)
    return session.mux


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def test_one_side_saying_goodbye_does_not_silence_the_other(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()  # until the visitor's end of file
        writer.write(b"you said " + question)
        writer.write_eof()

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as visitor:
            visitor.send(b"hello")
            visitor.writer.write_eof()
            assert await visitor.reader.read() == b"you said hello"


async def test_an_upstream_that_speaks_first_and_closes_is_heard_to_the_end(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as visitor:
            assert await visitor.reader.read() == b"220 ready\r\n"


@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_bulk_moves_to_a_lane_and_arrives_in_order(house: House, direction: str) -> None:
    up, down = bulk(1), bulk(2)
    received: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send() -> None:
            if direction != "up":
                writer.write(down)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        received.append(await reader.read())
        await sending

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as visitor:

            async def send() -> None:
                if direction != "down":
                    visitor.send(up)
                    await visitor.writer.drain()
                visitor.writer.write_eof()

            sending = asyncio.create_task(send())
            await asyncio.sleep(0.1)  # nobody reads yet: credit runs out
            got = await visitor.reader.read()
            await sending
        assert got == (b"" if direction == "up" else down)
        await until_async(lambda: received)
        assert received[0] == (b"" if direction == "down" else up)
        mux = mux_of(house)
        assert len(mux.lanes) == 1
        await until_async(lambda: not mux.channels)
        (lane,) = mux.lanes.values()
        assert lane.channel is None  # idle: it may serve the next one


async def test_a_lane_that_is_faster_than_the_shared_link_loses_nothing(house: House) -> None:
    received: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    async with slow_first_connection(house.port) as port, serving(upstream) as upstream_port:
        address = NodeAddress.parse(house.join.replace(f":{house.port}/", f":{port}/"))
        events: list[AgentEvent] = []
        agent = Agent(address, [tcp_route(upstream_port)], on_event=events.append)
        task = asyncio.create_task(agent.run())
        await until_async(lambda: any(isinstance(event, TunnelReady) for event in events))
        ready = next(event for event in events if isinstance(event, TunnelReady))
        for number in range(3):  # the second and third find a lane that is there already
            async with house.visitor(ready.port) as visitor:
                visitor.send(bulk(number))
                visitor.writer.write_eof()
                await until_async(lambda number=number: len(received) == number + 1, timeout_s=20)  # type: ignore[misc]
            assert hashlib.sha256(received[number]).digest() == hashlib.sha256(bulk(number)).digest()
        assert len(mux_of(house).lanes) == 1
        agent.stop()
        await task


@contextlib.asynccontextmanager
async def slow_first_connection(to: int) -> AsyncIterator[int]:
    """A relay that holds what comes for the connection of an agent's shared link back for a while; lanes are quick."""
    running: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []
    made = 0

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(delay_s)
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        # The first one only fetches the node's certificate authority.
        delay_s = 0.05 if made == 2 else 0.0
        there, back = await asyncio.open_connection("127.0.0.1", to)
        writers.extend((back, writer))
        running.add(asyncio.create_task(carry(reader, back, 0.0)))
        running.add(asyncio.create_task(carry(there, writer, delay_s)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()


async def test_a_lane_serves_one_bulk_channel_after_the_other(house: House) -> None:
    data = bulk(3)

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        for _ in range(3):
            async with house.visitor(agent.port()) as visitor:
                await asyncio.sleep(0.05)
                assert await visitor.reader.read() == data
        assert len(mux_of(house).lanes) == 1


async def test_a_visitor_that_does_not_read_blocks_only_itself(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"b":
            writer.write(bulk(4))
            await writer.drain()
        else:
            writer.write(b"quick")

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as stuck:
            stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
            stuck.send(b"b")
            await until_async(lambda: mux_of(house).lanes)
            for _ in range(20):
                async with house.visitor(agent.port()) as visitor:
                    visitor.send(b"q")
                    async with asyncio.timeout(5):
                        assert await visitor.reader.read() == b"quick"


async def test_a_refusing_upstream_resets_the_visitor_and_is_told(house: House) -> None:
    agent = await house.agent(tcp_route(1))
    async with house.visitor(agent.port()) as visitor:
        assert await visitor.ended()
    await until_async(lambda: any("refused" in str(event) for event in agent.events))
    await until_async(lambda: not house.node._connections.live)
    _, records = await house.node._connections.list()
    assert "refused" in records[0]["end_reason"]


async def test_a_visitor_that_resets_ends_the_upstreams_connection(house: House) -> None:
    ended = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"hi")
            await reader.read()
        finally:
            ended.set()

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as visitor:
            assert await visitor.reader.readexactly(2) == b"hi"
            sock = visitor.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            visitor.writer.transport.abort()
            async with asyncio.timeout(10):
                await ended.wait()
        await until_async(lambda: not mux_of(house).channels)


async def test_the_loss_of_a_lane_resets_its_channel_and_nothing_else(house: House) -> None:
    gate = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"b":
            while not gate.is_set():
                writer.write(bytes(65536))
                await writer.drain()
        else:
            await echo(reader, writer)

    async with serving(upstream) as port:
        agent = await house.agent(tcp_route(port))
        async with house.visitor(agent.port()) as quiet, house.visitor(agent.port()) as busy:
            quiet.send(b"e")
            busy.send(b"b")
            mux = mux_of(house)
            reading = asyncio.create_task(drain_reader(busy.reader))
            await until_async(lambda: any(lane.channel for lane in mux.lanes.values()))
            next(iter(mux.lanes.values())).link.fail("cut by the test")
            async with asyncio.timeout(10):
                await reading
            gate.set()
            quiet.send(b"still here")
            assert await quiet.reader.readexactly(10) == b"still here"


async def drain_reader(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1_000_000):
            pass
    except OSError:
        pass


async def test_visitors_come_and_go_and_nothing_of_them_stays(house: House) -> None:
    async with serving(echo) as port:
        agent = await house.agent(tcp_route(port))

        async def visit(number: int) -> None:
            async with house.visitor(agent.port()) as visitor:
                word = b"%d" % number * 100
                visitor.send(word)
                assert await visitor.reader.readexactly(len(word)) == word

        for batch in range(10):
            await asyncio.gather(*(visit(batch * 30 + number) for number in range(30)))
        mux = mux_of(house)
        await until_async(lambda: not mux.channels)
        await until_async(lambda: not house.node._edge.visitors)
        assert not mux.blocked
        tunnel = house.node._routes.tunnel(agent.ready[0].tunnel_id)
        assert tunnel is not None
        assert tunnel.request_count == 300
        total, _ = await house.node._connections.list(limit=1, tunnel_id=tunnel.id)
        assert total == 300


async def test_a_wanted_port_is_given_and_a_free_one_otherwise(house: House) -> None:
    low, high = house.config.tcp_ports.low, house.config.tcp_ports.high
    wanted = await house.agent(tcp_route(1, port=low + 3))
    assert wanted.port() == low + 3
    other = await house.agent(tcp_route(1))
    assert low <= other.port() <= high
    assert other.port() != low + 3
    outside = await house.agent(tcp_route(1, port=low - 1))
    assert outside.refused[0].code == "port.unavailable"
    assert await outside.task == 3


async def test_a_port_that_another_program_has_is_passed_over(house: House) -> None:
    high = house.config.tcp_ports.high
    with socket.create_server(("127.0.0.1", high)):
        agent = await house.agent(tcp_route(1))
        assert agent.port() != high
        refused = await house.agent(tcp_route(1, port=high))
        assert refused.refused[0].code == "port.unavailable"
        assert "another program" in refused.refused[0].message
