"""TLS for domains: the node's own leaf for a name that is leased, and the certificate that its agent brings."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from moongate.agent.routes import OwnCertificate, Route
from testbed import until_async
from testbed.house import House, RunningAgent, Visitor, http_route, open_house, serving
from testbed.pem import write_pair

NAME = "shop.example.test"


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def status_over_tls(house: House, trusted: str, name: str = NAME) -> int:
    """Visit a name over TLS; its certificate must be signed by the one that is trusted."""
    context = ssl.create_default_context(cadata=trusted)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=context, server_hostname=name)
    visitor = Visitor(reader, writer)
    visitor.request(name)
    answer = await visitor.answer()
    writer.close()
    return answer.status


def own(tmp_path: Path, *names: str) -> tuple[OwnCertificate, str]:
    chain, key = write_pair(tmp_path / "-".join(names), *names)
    return OwnCertificate(chain, key), chain.read_text(encoding="ascii")


async def change(agent: RunningAgent, route: Route) -> None:
    key = next(iter(agent.agent.leases.published))
    async with asyncio.timeout(5):
        await agent.agent.leases.set_route(key, route)


async def test_a_leased_domain_has_a_leaf_of_the_nodes_authority(house: House) -> None:
    authority = house.node._certificates.ca_pem.decode()
    async with serving(ok) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await status_over_tls(house, authority)
        agent = await house.agent(http_route(port, NAME))
        assert agent.url() == f"http://{NAME}:{house.port}"
        assert await status_over_tls(house, authority) == 200


async def test_an_agents_own_certificate_is_shown_for_its_name_and_goes_with_the_tunnel(
    house: House, tmp_path: Path
) -> None:
    authority = house.node._certificates.ca_pem.decode()
    certificate, trusted = own(tmp_path, NAME)
    async with serving(ok) as port:
        route = replace(http_route(port, NAME), certificate=certificate)
        agent = await house.agent(route, http_route(port, "app"))
        await until_async(lambda: house.node._certificates._pairs)
        assert await status_over_tls(house, trusted) == 200
        assert await status_over_tls(house, authority, "app.localhost") == 200
        await change(agent, replace(route, certificate=None))
        await until_async(lambda: not house.node._certificates._pairs)
        assert await status_over_tls(house, authority) == 200
        await change(agent, route)
        await until_async(lambda: house.node._certificates._pairs)
        await agent.stop()
        await until_async(lambda: not house.node._certificates._pairs)


async def test_connections_under_the_old_certificate_go_on(house: House, tmp_path: Path) -> None:
    certificate, trusted = own(tmp_path, NAME)
    authority = house.node._certificates.ca_pem.decode()
    async with serving(ok) as port:
        agent = await house.agent(http_route(port, NAME))
        context = ssl.create_default_context(cadata=authority)
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=context, server_hostname=NAME)
        early = Visitor(reader, writer)
        early.request(NAME)
        assert (await early.answer()).status == 200
        await change(agent, replace(http_route(port, NAME), certificate=certificate))
        await until_async(lambda: house.node._certificates._pairs)
        early.request(NAME)
        assert (await early.answer()).status == 200
        assert await status_over_tls(house, trusted) == 200
        writer.close()


async def test_a_certificate_for_another_name_is_refused_and_the_agent_is_told(house: House, tmp_path: Path) -> None:
    certificate, _ = own(tmp_path, "other.example.test")
    async with serving(ok) as port:
        agent = await house.agent(replace(http_route(port, NAME), certificate=certificate))
        (published,) = agent.agent.leases.published.values()
        await until_async(lambda: published.certificate.state == "failed")
        assert "is for other.example.test, not for shop.example.test" in published.certificate.message
        assert await status_over_tls(house, house.node._certificates.ca_pem.decode()) == 200


async def test_whoever_takes_a_name_over_does_not_get_the_losers_certificate(house: House, tmp_path: Path) -> None:
    certificate, _ = own(tmp_path, NAME)
    async with serving(ok) as port:
        await house.agent(replace(http_route(port, NAME), certificate=certificate))
        await until_async(lambda: house.node._certificates._pairs)
        await house.agent(http_route(port, NAME))
        assert not house.node._certificates._pairs
        assert await status_over_tls(house, house.node._certificates.ca_pem.decode()) == 200


async def test_it_is_there_again_after_the_node_restarted(home: Path, tmp_path: Path) -> None:
    certificate, trusted = own(tmp_path, NAME)
    async with serving(ok) as port:
        async with open_house(home) as first:
            listen = first.config.listen
            route = replace(http_route(port, NAME, keep=True), certificate=certificate)
            agent = await first.agent(route)
            first.agents.clear()
        async with open_house(home, listen=listen) as second:
            second.agents.append(agent)
            await until_async(lambda: second.node._certificates._pairs)
            assert await status_over_tls(second, trusted) == 200
