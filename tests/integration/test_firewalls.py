"""Firewalls of tunnels: whom they drop is dropped by the node, and the agent never hears of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moongate.agent.routes import Route, Upstream
from testbed.hellos import openssl_hello
from testbed.house import House, Visitor, http_route, open_house, serving, tcp_route

NOT_FROM_HERE = [["drop", "127.0.0.0/8"]]
ONLY_FROM_AFAR = [["allow", "203.0.113.0/24"], ["allow", "2001:db8::/32"]]
AFAR = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n"
AFAR_6 = b"PROXY TCP6 2001:db8::5 ::1 4711 80\r\n"


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home, trusted_proxies=["127.0.0.1/32"]) as house:
        yield house


class Upstairs:
    """An upstream that counts who reaches it."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def is_answered(visitor: Visitor, name: str = "app.localhost", headers: str = "", prefix: bytes = b"") -> bool:
    """Ask once; a dropped visitor sees the connection end, and not a byte before."""
    visitor.send(prefix)
    visitor.request(name, headers=headers)
    try:
        async with asyncio.timeout(10):
            first = await visitor.reader.read(65536)
    except ConnectionResetError:
        return False
    assert not first or first.startswith(b"HTTP/1.1 200 ")
    return bool(first)


def channels(house: House) -> int:
    return house.node._metrics.connections


@pytest.mark.parametrize("rules", [NOT_FROM_HERE, ONLY_FROM_AFAR])
async def test_a_dropped_visitor_of_http_gets_no_answer_and_the_agent_no_channel(
    house: House, rules: list[list[str]]
) -> None:
    upstairs = Upstairs()
    async with serving(upstairs) as port:
        await house.agent(http_route(port, "app", firewall=rules))
        async with house.visitor() as visitor:
            assert not await is_answered(visitor)
        assert (upstairs.reached, channels(house)) == (0, 0)
        assert house.node._metrics.shut_out == 1
        assert b"moongate_firewall_drops_total 1.0" in house.node._metrics.render()
        for prefix in (AFAR, AFAR_6):
            async with house.visitor() as visitor:
                assert await is_answered(visitor, prefix=prefix)


async def test_behind_a_proxy_the_named_client_is_judged_request_by_request(house: House) -> None:
    upstairs = Upstairs()
    async with serving(upstairs) as port:
        await house.agent(http_route(port, "app", firewall=[["drop", "203.0.113.66"]]))
        async with house.visitor() as visitor:
            assert await is_answered(visitor, headers="X-Forwarded-For: 203.0.113.9\r\n")
            assert await is_answered(visitor, headers="X-Forwarded-For: 203.0.113.10\r\n")
            assert not await is_answered(visitor, headers="X-Forwarded-For: 203.0.113.66\r\n")


async def test_a_dropped_visitor_is_not_even_told_to_use_https(house: House) -> None:
    async with serving(Upstairs()) as port:
        await house.agent(http_route(port, "app", firewall=NOT_FROM_HERE, secure=True, redirect=True))
        async with house.visitor() as visitor:
            assert not await is_answered(visitor)


async def test_inside_tls_the_connection_ends_without_an_answer(house: House) -> None:
    upstairs = Upstairs()
    async with serving(upstairs) as port:
        await house.agent(http_route(port, "app", firewall=NOT_FROM_HERE))
        context = ssl.create_default_context(cadata=house.node._certificates.ca_pem.decode())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", house.port, ssl=context, server_hostname="app.localhost"
        )
        assert not await is_answered(Visitor(reader, writer))
        writer.close()
        assert upstairs.reached == 0


async def test_tls_that_is_passed_through_is_judged_too(house: House) -> None:
    upstairs = Upstairs()
    async with serving(upstairs) as port:
        route = Route("tls", Upstream("tcp", "127.0.0.1", port), subdomain="raw", options={"firewall": NOT_FROM_HERE})
        await house.agent(route)
        async with house.visitor() as visitor:
            visitor.send(openssl_hello("raw.localhost", []))
            assert await visitor.ended()
        assert (upstairs.reached, channels(house)) == (0, 0)


async def test_a_dropped_visitor_of_a_port_is_cut_off_at_accept(house: House) -> None:
    upstairs = Upstairs()
    async with serving(upstairs) as port:
        agent = await house.agent(tcp_route(port, options={"firewall": NOT_FROM_HERE}))
        async with house.visitor(agent.port()) as visitor:
            assert await visitor.ended()
        assert (upstairs.reached, channels(house)) == (0, 0)


async def test_a_new_rule_is_for_new_visitors_and_live_ones_finish_on_the_old(house: House) -> None:
    async with serving(Upstairs()) as port:
        agent = await house.agent(http_route(port, "app"))
        async with house.visitor() as early, house.visitor() as late:
            assert await is_answered(early, prefix=AFAR)
            await _set_options(agent.agent, http_route(port, "app", firewall=[["drop", "203.0.113.0/24"]]))
            assert await is_answered(early)
            assert not await is_answered(late, prefix=AFAR)
            await _set_options(agent.agent, http_route(port, "app"))
        async with house.visitor() as again:
            assert await is_answered(again, prefix=AFAR)


async def _set_options(agent: object, route: Route) -> None:
    key = next(iter(agent.leases.published))  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        await agent.leases.set_route(key, route)  # type: ignore[attr-defined]
