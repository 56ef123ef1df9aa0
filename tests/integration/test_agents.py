"""Agents at the node: who holds a name, who takes it over, who is refused, and what a bad link does."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moongate.agent import service
from moongate.agent.reports import AgentEvent, ClosedBy, Reconnecting, SupersededBy
from moongate.agent.service import ExitReason
from moongate.edge import control
from moongate.net.dialing import NodeAddress
from moongate.relay import channels
from moongate.wire import tunnel as wire
from testbed import until_async
from testbed.house import House, Visitor, http_route, open_house, serving, tcp_route


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def status(house: House, name: str) -> int:
    async with house.visitor() as visitor:
        visitor.request(f"{name}.localhost")
        return (await visitor.answer()).status


async def test_a_newer_agent_of_the_same_token_takes_the_name_and_the_older_ends_with_4(house: House) -> None:
    async with serving(ok) as port:
        older = await house.agent(http_route(port, "shared"))
        newer = await house.agent(http_route(port, "shared"))
        async with asyncio.timeout(1):
            assert await older.task == ExitReason.SUPERSEDED
        assert [event for event in older.events if isinstance(event, SupersededBy)]
        assert await status(house, "shared") == 200
        assert newer.ready[0].tunnel_id == older.ready[0].tunnel_id


async def test_takeover_is_per_name_and_the_loser_keeps_its_other_names(house: House) -> None:
    async with serving(ok) as port:
        older = await house.agent(http_route(port, "both"), http_route(port, "mine"))
        await house.agent(http_route(port, "both"))
        await until_async(lambda: any(isinstance(event, SupersededBy) for event in older.events))
        assert await status(house, "mine") == 200
        assert await status(house, "both") == 200
        assert not older.task.done()


async def test_the_loser_of_a_name_does_not_steal_it_back_when_it_reconnects(house: House) -> None:
    async with serving(ok) as port:
        older = await house.agent(http_route(port, "prize"), http_route(port, "other"))
        newer = await house.agent(http_route(port, "prize"))
        mux = older.agent._mux
        assert mux is not None
        mux.link.fail("cut by the test")
        await until_async(lambda: sum(ready.again for ready in older.ready) >= 1)
        assert not newer.task.done()
        assert not [event for event in newer.events if isinstance(event, SupersededBy)]


async def test_another_token_is_refused_with_who_holds_the_name_and_until_when(house: House) -> None:
    token = await house.token(label="somebody else")
    async with serving(ok) as port:
        holder = await house.agent(http_route(port, "taken"), tcp_route(port))
        stranger = await house.agent(http_route(port, "taken"), token=token)
        assert await stranger.task == ExitReason.REFUSED
        assert stranger.refused[0].code == "name.taken"
        assert "join" in stranger.refused[0].message
        await holder.vanish()
        late = await house.agent(http_route(port, "taken"), token=token)
        assert "60 s" in late.refused[0].message or "59 s" in late.refused[0].message
        port_taken = await house.agent(tcp_route(port, port=holder.port(1)), token=token)
        assert port_taken.refused[0].code in ("port.unavailable", "name.taken")


async def test_a_name_out_of_scope_is_refused_and_one_inside_is_given(house: House) -> None:
    token = await house.token("team-*,demo")
    async with serving(ok) as port:
        refused = await house.agent(http_route(port, "blue-lake"), token=token)
        assert (refused.refused[0].code, await refused.task) == ("scope.denied", ExitReason.REFUSED)
        given = await house.agent(http_route(port, "team-7"), token=token)
        assert given.ready[0].name == "team-7.localhost"
        drawn = await house.agent(http_route(port, None), token=token)  # type: ignore[arg-type]
        assert drawn.ready[0].name.startswith("team-")


async def test_a_wrong_token_ends_the_agent_and_a_deleted_one_its_session(house: House) -> None:
    wrong = await house.agent(http_route(1, "wrong"), token="3f0c2a9e-5d41-4b7c-9a10-6e2f8b7d1c55")
    assert await wrong.task == ExitReason.REFUSED
    assert wrong.refused[0].code == "token.invalid"
    row, raw = await house.node._tokens.create("short-lived")
    async with serving(ok) as port:
        agent = await house.agent(http_route(port, "short"), token=raw)
        assert await status(house, "short") == 200
        assert await house.node._tokens.delete(row.id)
        async with asyncio.timeout(5):
            assert await agent.task == ExitReason.REFUSED
        assert await status(house, "short") == 404


async def test_a_tunnel_closed_by_an_administrator_is_not_claimed_again(house: House) -> None:
    async with serving(ok) as port:
        agent = await house.agent(http_route(port, "gone"), http_route(port, "stays"))
        await house.node._control.close_tunnel(agent.ready[0].tunnel_id, "closed by an administrator")
        await until_async(lambda: any(isinstance(event, ClosedBy) for event in agent.events))
        assert await status(house, "gone") == 404
        assert await status(house, "stays") == 200


async def test_a_restarted_node_gives_name_port_and_tunnel_id_back(home: Path) -> None:
    async with serving(ok) as upstream:
        async with open_house(home) as first:
            listen, ports = first.config.listen, str(first.config.tcp_ports)
            agent = await first.agent(http_route(upstream, None), tcp_route(upstream))  # type: ignore[arg-type]
            before = [(ready.name, ready.port, ready.tunnel_id) for ready in agent.ready]
            first.agents.clear()
        async with open_house(home, listen=listen, tcp_ports=ports) as second:
            stranger = await second.token()
            thief = await second.agent(tcp_route(upstream, port=before[1][1]), token=stranger)
            assert thief.refused
            await until_async(lambda: len(agent.ready) == 4, timeout_s=5)
            assert [(ready.name, ready.port, ready.tunnel_id) for ready in agent.ready[2:]] == before
            second.agents.append(agent)


async def test_the_first_good_request_comes_soon_after_the_link_is_back(house: House) -> None:
    async with serving(ok) as port:
        agent = await house.agent(http_route(port, "quick"))
        mux = agent.agent._mux
        assert mux is not None
        mux.link.fail("cut by the test")
        began = time.monotonic()
        while await status(house, "quick") != 200:
            assert time.monotonic() - began < 10
        assert [event.delay_s for event in agent.events if isinstance(event, Reconnecting)] == [0.2]


async def test_a_changed_network_is_a_first_attempt_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(ok) as port:
        agent = await house.agent(http_route(port, "roaming"))
        addresses = iter(["192.0.2.1"])
        monkeypatch.setattr(service, "NETWORK_LOOK_S", 0.01)
        monkeypatch.setattr(service, "delay_s", lambda attempt, lost_for_s, random: 300.0)
        monkeypatch.setattr(agent.agent, "_own_address", lambda: next(addresses, "192.0.2.99"))
        mux = agent.agent._mux
        assert mux is not None
        mux.link.fail("cut by the test")
        await until_async(lambda: len(agent.ready) == 2, timeout_s=5)


async def test_a_half_open_link_is_noticed_by_both_sides(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with swallowing_relay(house.port) as (port, swallow):
        address = NodeAddress.parse(house.join.replace(f":{house.port}/", f":{port}/"))
        async with serving(ok) as upstream:
            events: list[AgentEvent] = []
            agent = service.Agent(address, [http_route(upstream, "halfopen")], on_event=events.append)
            task = asyncio.create_task(agent.run())
            await until_async(lambda: any("halfopen" in str(event) for event in events))
            monkeypatch.setattr(channels, "SILENCE_LIMIT_S", 0.5)
            monkeypatch.setattr(control, "PROBE_S", 0.2)
            swallow.set()
            await until_async(lambda: any(isinstance(event, Reconnecting) for event in events))
            await until_async(lambda: house.node._routes.session_count == 0)
            agent.stop()
            await task


@contextlib.asynccontextmanager
async def swallowing_relay(to: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A relay that, once told so, keeps connections open and passes nothing on."""
    swallow = asyncio.Event()
    running: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not swallow.is_set():
                    writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to)
        running.update((asyncio.create_task(carry(reader, back)), asyncio.create_task(carry(there, writer))))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], swallow
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.asynccontextmanager
async def raw_link(house: House) -> AsyncIterator[Visitor]:
    """A link on which nothing has been said yet."""
    async with house.visitor() as visitor:
        upgrade = "Connection: Upgrade\r\nUpgrade: moongate-tunnel\r\n"
        visitor.request("127.0.0.1", "/moongate/link", headers=upgrade)
        assert (await visitor.head())[0] == 101
        yield visitor


async def said(visitor: Visitor) -> dict[str, object]:
    async with asyncio.timeout(10):
        kind, _, length = wire.HEADER.unpack(await visitor.reader.readexactly(9))
        payload = await visitor.reader.readexactly(length)
    assert kind == wire.CONTROL
    message: dict[str, object] = json.loads(payload)
    return message


def hello(house: House, **more: object) -> bytes:
    token = house.join.rpartition("#")[2].partition(".")[0]
    return wire.serialize_control({"type": "hello", "protocol": 1, "instance": "i", "token": token} | more)


async def test_an_agent_of_another_protocol_is_told_what_to_do(house: House) -> None:
    for version, advice in ((0, "install moongate"), (99, "newer than this node"), ("1", "this node")):
        async with raw_link(house) as link:
            link.send(hello(house, protocol=version))
            refused = await said(link)
            assert (refused["type"], refused["code"]) == ("refused", "protocol.version")
            assert advice in f"{refused['message']} {refused['hint']}"
            assert await link.ended()


@pytest.mark.parametrize(
    "first",
    [
        b"\xff" * 9,
        wire.serialize(wire.DATA, 1, b"early"),
        wire.serialize(wire.CONTROL, 0, b"[]"),
        wire.serialize(wire.CONTROL, 0, b'{"type":"claim"}'),
        wire.HEADER.pack(wire.CONTROL, 0, 2**32 - 1),
        wire.serialize_control({"type": "hello", "protocol": 1, "lane": 1, "key": "guessed"}),
        wire.serialize_control({"type": "hello", "protocol": 1, "token": 7, "instance": []}),
    ],
)
async def test_a_link_that_begins_badly_ends_and_nothing_else_does(house: House, first: bytes) -> None:
    async with serving(ok) as port:
        await house.agent(http_route(port, "bystander"))
        async with raw_link(house) as link:
            link.send(first)
            async with asyncio.timeout(10):
                with contextlib.suppress(OSError):
                    await link.reader.read()
        assert await status(house, "bystander") == 200


async def test_a_link_that_says_nothing_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "HELLO_TIMEOUT_S", 0.2)
    async with raw_link(house) as link:
        assert await link.ended()
    assert not house.node._control.greetings


@pytest.mark.parametrize(
    "frame",
    [
        wire.serialize_open(7, 1, bytes(16), "127.0.0.1:1"),
        wire.serialize(wire.CONTROL, 0, b"nonsense"),
        wire.serialize_control({"type": "claim", "kind": 5}),
        b"\x63" * 100,
    ],
)
async def test_nonsense_on_a_live_link_ends_it_or_is_refused_and_the_node_lives(house: House, frame: bytes) -> None:
    async with raw_link(house) as link:
        link.send(hello(house))
        assert (await said(link))["type"] == "welcome"
        link.send(frame)
        await asyncio.sleep(0.05)
    await until_async(lambda: house.node._routes.session_count == 0)
    async with house.visitor() as visitor:
        visitor.request("127.0.0.1", "/api/status")
        assert (await visitor.answer()).status == 200


async def test_sending_more_than_the_credit_ends_the_link(house: House) -> None:
    async with raw_link(house) as link:
        link.send(hello(house))
        assert (await said(link))["type"] == "welcome"
        link.send(wire.serialize_control({"type": "claim", "request": 0, "kind": "http", "wanted": "greedy"}))
        async with house.visitor() as visitor:
            visitor.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while True:
                kind, channel, length = wire.HEADER.unpack(await link.reader.readexactly(9))
                payload = await link.reader.readexactly(length)
                if kind == wire.CONTROL and json.loads(payload)["type"] == "claimed":
                    visitor.request("greedy.localhost")
                if kind == wire.OPEN:
                    break
            link.send(wire.HEADER.pack(wire.DATA, channel, 19) + b"HTTP/1.1 200 OK\r\n\r\n")
            # More than the sockets' buffers hold, so that credit is no longer returned.
            for _ in range(32):
                link.send(wire.HEADER.pack(wire.DATA, channel, wire.MAX_DATA) + bytes(wire.MAX_DATA))
            async with asyncio.timeout(10):
                with contextlib.suppress(OSError):
                    await link.reader.read()
    await until_async(lambda: house.node._routes.session_count == 0)
