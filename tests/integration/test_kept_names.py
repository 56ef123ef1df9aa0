"""Names and ports that are kept: over the loss of their agent, and over restarts of the node."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from moongate.agent.routes import Route
from testbed import until_async
from testbed.house import House, http_route, open_house, serving, tcp_route


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home, lease_hold_s=0.2) as house:
        yield house


async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def status(house: House, name: str) -> int:
    async with house.visitor() as visitor:
        visitor.request(name)
        return (await visitor.answer()).status


def kept_port(upstream: int, **more: Any) -> Route:
    return tcp_route(upstream, options={"keep": True}, **more)


def known(house: House) -> list[tuple[str, str]]:
    return [(kept.protocol, kept.label) for kept in house.node._kept.list()]


async def test_a_kept_name_answers_503_long_after_its_agent_has_gone(house: House) -> None:
    async with serving(ok) as port:
        keeping = await house.agent(http_route(port, "app", keep=True))
        other = await house.agent(http_route(port, "plain"))
        await keeping.vanish()
        await other.vanish()
        await until_async(lambda: house.node._routes.held("plain.localhost") is None)
        assert await status(house, "plain.localhost") == 404
        assert await status(house, "app.localhost") == 503
        stranger = await house.agent(http_route(port, "app"), token=await house.token())
        assert "until it is released" in stranger.refused[0].message
        await house.agent(http_route(port, "app", keep=True))
        assert await status(house, "app.localhost") == 200


async def test_a_node_that_restarts_keeps_names_ports_and_tunnel_ids_for_their_token(home: Path) -> None:
    async with serving(ok) as upstream:
        async with open_house(home, lease_hold_s=0) as first:
            listen, ports = first.config.listen, str(first.config.tcp_ports)
            token, stranger = await first.token(label="owner"), await first.token(label="stranger")
            routes = [http_route(upstream, "shop.example.test", keep=True), kept_port(upstream)]
            agent = await first.agent(*routes, token=token)
            before = {(ready.name, ready.port, ready.tunnel_id) for ready in agent.ready}
            own_port = next(ready.port for ready in agent.ready if ready.port)
            await agent.vanish()
        async with open_house(home, listen=listen, tcp_ports=ports, lease_hold_s=0) as second:
            assert await status(second, "shop.example.test") == 503
            thief = await second.agent(
                http_route(upstream, "shop.example.test"), tcp_route(upstream, port=own_port), token=stranger
            )
            assert [refused.code for refused in thief.refused] == ["name.taken", "port.unavailable"]
            assert all("'owner' until it is released" in refused.message for refused in thief.refused)
            routes = [http_route(upstream, "shop.example.test", keep=True), kept_port(upstream, port=own_port)]
            again = await second.agent(*routes, token=token)
            assert {(ready.name, ready.port, ready.tunnel_id) for ready in again.ready} == before
            assert await status(second, "shop.example.test") == 200
            assert (await second.node._history.list(active=True))[0] == 2


async def test_what_is_released_is_forgotten_for_good(home: Path) -> None:
    async with open_house(home, lease_hold_s=0) as first, serving(ok) as upstream:
        agent = await first.agent(http_route(upstream, "app", keep=True), kept_port(upstream))
        assert sorted(kind for kind, _ in known(first)) == ["http", "tcp"]
        await agent.stop()
        await until_async(lambda: not known(first))
    async with open_house(home, lease_hold_s=0) as second:
        assert known(second) == []
        assert await status(second, "app.localhost") == 404


async def test_what_is_dropped_while_there_is_no_link_is_given_back_with_the_next(home: Path) -> None:
    async with serving(ok) as upstream:
        async with open_house(home) as first:
            listen = first.config.listen
            routes = [http_route(upstream, name, keep=True) for name in ("shop.example.test", "stays.example.test")]
            agent = await first.agent(*routes, standing=True)
            first.agents.clear()
        await until_async(lambda: not agent.agent.is_connected)
        await agent.agent.leases.drop_route("0")
        async with open_house(home, listen=listen) as second:
            second.agents.append(agent)
            await until_async(lambda: len(agent.ready) == 3)
            assert known(second) == [("http", "stays.example.test")]
            assert await status(second, "shop.example.test") == 404
            assert await status(second, "stays.example.test") == 200


async def test_revoking_the_token_gives_back_what_it_keeps(home: Path) -> None:
    async with open_house(home) as first, serving(ok) as upstream:
        row, raw = await first.node._tokens.create("owner")
        agent = await first.agent(http_route(upstream, "app", keep=True), token=raw)
        await agent.vanish()
    async with open_house(home) as second:
        assert await status(second, "app.localhost") == 503
        await second.node._tokens.delete(row.id)
        assert await status(second, "app.localhost") == 404
    async with open_house(home) as third:
        assert known(third) == []


async def test_an_administrator_closes_what_nobody_comes_back_for(home: Path) -> None:
    async with open_house(home) as first, serving(ok) as upstream:
        agent = await first.agent(http_route(upstream, "app", keep=True))
        tunnel_id = agent.ready[0].tunnel_id
        await agent.vanish()
    async with open_house(home) as second:
        (kept,) = second.node._kept.list()
        assert (kept.tunnel_id, kept.label) == (tunnel_id, "app.localhost")
        assert await second.node._control.close_tunnel(tunnel_id, "closed by an administrator")
        assert await status(second, "app.localhost") == 404
        assert known(second) == []


async def test_keeping_can_be_changed_while_the_tunnel_is_live(house: House) -> None:
    async with serving(ok) as port:
        agent = await house.agent(http_route(port, "app"))
        key = next(iter(agent.agent.leases.published))
        async with asyncio.timeout(5):
            await agent.agent.leases.set_route(key, http_route(port, "app", keep=True))
            assert known(house) == [("http", "app.localhost")]
            await agent.agent.leases.set_route(key, http_route(port, "app"))
            assert known(house) == []


async def test_a_kept_port_that_another_program_sits_on_stays_its_owners(home: Path) -> None:
    async with serving(ok) as upstream:
        async with open_house(home) as first:
            listen, ports = first.config.listen, str(first.config.tcp_ports)
            agent = await first.agent(kept_port(upstream))
            port = agent.port()
            await agent.vanish()
        async with open_house(home, listen=listen, tcp_ports=ports) as second:
            with socket.socket() as squatter:
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                squatter.bind(("127.0.0.1", port))
                squatter.listen()
                refused = await second.agent(kept_port(upstream, port=port))
                assert "another program listens there" in refused.refused[0].message
                assert known(second) == [("tcp", str(port))]
            again = await second.agent(kept_port(upstream, port=port))
            assert again.port() == port


async def test_a_thousand_names_are_kept_in_a_moment(house: House) -> None:
    routes = [http_route(1, f"site-{number}.example.test", keep=True) for number in range(1000)]
    async with asyncio.timeout(10):
        agent = await house.agent(*routes)
    assert len(agent.ready) == 1000
    assert len(known(house)) == 1000
