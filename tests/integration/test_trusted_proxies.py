"""Whose word about a visitor's address counts, in records, limits and forwarding headers."""

import asyncio
from pathlib import Path

from testbed import until_async
from testbed.house import House, http_route, open_house, serving


async def echo_heads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def ask(house: House, named: str, prefix: bytes = b"") -> tuple[int, bytes]:
    async with house.visitor() as visitor:
        visitor.send(prefix)
        visitor.request("seen.localhost", headers=f"X-Forwarded-For: {named}\r\n")
        answer = await visitor.answer()
    await until_async(lambda: not house.node._connections.live)
    return answer.status, answer.body


async def addresses(house: House) -> list[str]:
    _, records = await house.node._connections.list()
    return [record["remote_address"] for record in records]


async def test_a_strangers_word_changes_neither_record_nor_limit_nor_header(home: Path) -> None:
    async with open_house(home, limits={"ip_rate_limit_rps": 2}) as house, serving(echo_heads) as port:
        await house.agent(http_route(port, "seen"))
        statuses = [(await ask(house, f"203.0.113.{number}"))[0] for number in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert {address.rpartition(":")[0] for address in await addresses(house)} == {"127.0.0.1"}


async def test_a_trusted_proxys_word_is_the_visitors_address(home: Path) -> None:
    settings = {"trusted_proxies": ["127.0.0.1/32"], "limits": {"ip_rate_limit_rps": 2}}
    async with open_house(home, **settings) as house, serving(echo_heads) as port:
        await house.agent(http_route(port, "seen"))
        for number in range(4):
            status, head = await ask(house, f"203.0.113.{number}")
            assert status == 200
            assert b"X-Forwarded-For: 203.0.113.%d, 127.0.0.1\r\n" % number in head
        assert sorted(await addresses(house)) == [f"203.0.113.{number}:0" for number in range(4)]
        assert [(await ask(house, "203.0.113.9"))[0] for _ in range(3)] == [200, 200, 429]


async def test_behind_a_proxy_header_the_visitors_own_fields_are_a_strangers(home: Path) -> None:
    async with open_house(home, trusted_proxies=["127.0.0.1/32"]) as house, serving(echo_heads) as port:
        await house.agent(http_route(port, "seen"))
        _, head = await ask(house, "9.9.9.9", b"PROXY TCP4 198.51.100.4 127.0.0.1 4711 80\r\n")
        assert b"X-Forwarded-For: 198.51.100.4\r\n" in head
        assert b"9.9.9.9" not in head
        assert await addresses(house) == ["198.51.100.4:4711"]
