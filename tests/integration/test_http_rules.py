"""Rules of http tunnels through a node and an agent: HTTPS, redirects, Basic authentication, the password page."""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from moongate.edge.ingress.gate import TRIES_AT_ONCE
from moongate.edge.ingress.http import HttpVisitor
from moongate.edge.ingress.password_page import FORM_PATH
from moongate.edge.ingress.resend import resend
from moongate.edge.ingress.rules import COOKIE
from moongate.identity.passwords import hash_password
from moongate.net.listening import Peer
from testbed.house import Answer, House, Visitor, http_route, open_house, serving

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


@cache
def hashed(text: str) -> str:
    return hash_password(text)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        answer = head + await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


@asynccontextmanager
async def publishing(house: House, **options: Any) -> AsyncIterator[Visitor]:
    """Publish an echo at `site` with these options, and open a visitor's connection."""
    async with serving(echo) as port:
        running = await house.agent(http_route(port, "site", **options))
        assert not running.refused
        async with house.visitor() as visitor:
            yield visitor
        await running.stop()


@asynccontextmanager
async def from_afar(house: House) -> AsyncIterator[Visitor]:
    """A plain connection that did not come over loopback, as far as the edge knows."""
    ours, theirs = socket.socketpair()
    peer = Peer("192.0.2.9", 50000, "192.0.2.1", 443)
    await asyncio.get_running_loop().create_connection(lambda: HttpVisitor(house.node._edge, peer), sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        yield Visitor(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def over_tls(house: House, name: str) -> AsyncIterator[Visitor]:
    context = ssl.create_default_context(cadata=house.node._certificates.ca_pem.decode())
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, ssl=context, server_hostname=name)
    try:
        yield Visitor(reader, writer)
    finally:
        writer.close()


async def ask(visitor: Visitor, path: str = "/", headers: str = "", **more: Any) -> Answer:
    visitor.request("site.localhost", path, headers=headers, **more)
    return await visitor.answer(more.get("method", "GET"))


def basic(text: str) -> str:
    return f"Authorization: Basic {b64encode(text.encode()).decode()}\r\n"


async def give(visitor: Visitor, password: str, then: str = "/", headers: str = "") -> Answer:
    body = urlencode({"password": password, "next": then}).encode()
    return await ask(visitor, FORM_PATH, FORM + headers, method="POST", body=body)


def cookie_of(answer: Answer) -> str:
    value = answer.header("set-cookie")
    assert value is not None
    return f"Cookie: {value.partition(';')[0]}\r\n"


# -- HTTPS and redirects


async def test_plain_requests_are_sent_to_https_if_the_publisher_says_so(house: House) -> None:
    async with publishing(house, secure=True, redirect=True) as visitor:
        answer = await ask(visitor, "/a?b=c")
        assert answer.status == 308
        assert answer.header("location") == f"https://site.localhost:{house.port}/a?b=c"
        async with over_tls(house, "site.localhost") as secure:
            assert (await ask(secure, "/a?b=c")).body.startswith(b"GET /a?b=c ")


async def test_a_name_that_is_not_secure_is_not_served_over_https(house: House) -> None:
    async with publishing(house, secure=False) as visitor:
        assert (await ask(visitor)).status == 200
        async with over_tls(house, "site.localhost") as secure:
            assert (await ask(secure)).status == 421


async def test_from_afar_plain_http_is_served_where_the_publisher_wants_nothing_else(house: House) -> None:
    async with publishing(house, secure=True), from_afar(house) as visitor:
        assert (await ask(visitor)).status == 308
    async with publishing(house, secure=False), from_afar(house) as visitor:
        assert (await ask(visitor)).status == 200
        assert (await ask(visitor, "/again")).status == 200


async def test_a_proxy_that_ends_tls_is_believed_and_a_stranger_is_not(home: Path) -> None:
    says_tls = "X-Forwarded-Proto: https\r\n"
    rules: dict[str, Any] = {"secure": True, "redirect": True, "password": hashed("sesame")}
    async with open_house(home, trusted_proxies="127.0.0.1/32") as house, publishing(house, **rules) as visitor:
        assert (await ask(visitor)).status == 308
        assert (await ask(visitor, headers=says_tls)).status == 401
        assert "; Secure" in ((await give(visitor, "sesame", headers=says_tls)).header("set-cookie") or "")
        async with from_afar(house) as stranger:
            assert (await ask(stranger, headers=says_tls)).status == 308


async def test_another_address_takes_the_path_along_if_it_ends_with_a_slash(house: House) -> None:
    async with publishing(house, redirect_url="https://new.example.test/x/") as visitor:
        answer = await ask(visitor, "/a?b=c")
        assert (answer.status, answer.header("location")) == (302, "https://new.example.test/x/a?b=c")
        # The connection lives on, and so do requests with bodies that nobody reads.
        assert (await ask(visitor, method="POST", body=b"x" * 10)).status == 302


# -- Basic authentication


async def test_basic_authentication_lets_in_who_knows_and_nobody_else(house: House) -> None:
    async with publishing(house, basic_auth=hashed("anna:open sesame")) as visitor:
        answer = await ask(visitor)
        assert answer.status == 401
        assert answer.header("www-authenticate") == 'Basic realm="site.localhost", charset="UTF-8"'
        assert (await ask(visitor, headers=basic("anna:open"))).status == 401
        answer = await ask(visitor, headers=basic("anna:open sesame"))
        assert answer.status == 200
        assert b"Authorization" not in answer.body
        assert (await ask(visitor, headers=basic("anna:open"))).status == 401


async def test_a_body_waits_for_the_password_to_be_looked_at(house: House) -> None:
    async with publishing(house, basic_auth=hashed("a:b")) as visitor:
        body = bytes(range(256)) * 4000
        answer = await ask(visitor, headers=basic("a:b"), method="PUT", body=body)
        assert answer.status == 200
        assert answer.body.endswith(body)
        answer = await ask(visitor, headers=basic("a:b"), method="PUT", body=body)
        assert answer.body.endswith(body)


async def test_pipelined_requests_keep_their_order_while_passwords_are_looked_at(house: House) -> None:
    async with publishing(house, basic_auth=hashed("a:b")) as visitor:
        for number, who in enumerate(["a:b", "a:c", "", "a:b", "a:d", "a:b"]):
            visitor.request("site.localhost", f"/{number}", headers=basic(who) if who else "")
        answers = [await visitor.answer() for _ in range(6)]
        assert [answer.status for answer in answers] == [200, 401, 401, 200, 401, 200]
        assert [answers[number].body.split()[1] for number in (0, 3, 5)] == [b"/0", b"/3", b"/5"]


async def test_an_upgrade_waits_for_the_password_too(house: House) -> None:
    async def switching(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)

    asks = "Connection: Upgrade\r\nUpgrade: echo\r\n"
    async with serving(switching) as port:
        await house.agent(http_route(port, "site", basic_auth=hashed("a:b")))
        async with house.visitor() as visitor:
            assert (await ask(visitor, headers=asks)).status == 401
            visitor.request("site.localhost", headers=asks + basic("a:b"))
            assert (await visitor.head())[0] == 101
            visitor.send(b"through")
            assert await visitor.reader.readexactly(7) == b"through"


async def test_a_visitor_who_leaves_while_his_password_is_looked_at_is_forgotten(house: House) -> None:
    async with publishing(house, basic_auth=hashed("a:b")) as visitor:
        async with house.visitor() as hasty:
            hasty.request("site.localhost", headers=basic("a:b"))
            await hasty.writer.drain()
            await asyncio.sleep(0.01)
            hasty.writer.transport.abort()
        assert (await ask(visitor, headers=basic("a:b"))).status == 200


async def test_an_agent_that_goes_while_a_password_is_looked_at_is_said_to_be_gone(house: House) -> None:
    async with serving(echo) as port:
        running = await house.agent(http_route(port, "site", basic_auth=hashed("a:b")))
        async with house.visitor() as visitor:
            visitor.request("site.localhost", headers=basic("a:b"))
            await visitor.writer.drain()
            await running.vanish()
            assert (await visitor.answer()).status == 503


async def test_one_address_cannot_guess_for_long(house: House) -> None:
    async with publishing(house, basic_auth=hashed("a:b")) as visitor:
        statuses = [(await ask(visitor, headers=basic(f"a:{number}"))).status for number in range(TRIES_AT_ONCE)]
        assert statuses == [401] * TRIES_AT_ONCE
        refused = await ask(visitor, headers=basic("a:x"))
        while refused.status == 401:  # so slow a machine that a try came back meanwhile
            refused = await ask(visitor, headers=basic("a:x"))
        assert refused.status == 429
        assert int(refused.header("retry-after") or 0) >= 1


# -- the password page


async def test_the_page_asks_and_the_cookie_opens(house: House) -> None:
    page = {"title": "Back room", "logo_url": "https://cdn.example.test/l.png", "site_url": ""}
    async with publishing(house, password=hashed("sesame"), page=page) as visitor:
        answer = await ask(visitor, "/a?b=c", headers="Accept: text/html\r\n")
        assert answer.status == 401
        assert b"<h1>Back room</h1>" in answer.body
        assert b'name="next" value="/a?b=c"' in answer.body
        assert "img-src https://cdn.example.test" in (answer.header("content-security-policy") or "")

        answer = await give(visitor, "open", "/a?b=c")
        assert answer.status == 401
        assert b"That is not the password." in answer.body
        assert answer.header("set-cookie") is None

        answer = await give(visitor, "sesame", "/a?b=c")
        assert (answer.status, answer.header("location")) == (303, "/a?b=c")
        assert (answer.header("set-cookie") or "").endswith("; Path=/; HttpOnly; SameSite=Lax")

        cookie = cookie_of(answer)
        answer = await ask(visitor, "/a?b=c", headers=cookie.replace("Cookie: ", "Cookie: theirs=1; "))
        assert answer.status == 200
        assert b"Cookie: theirs=1\r\n" in answer.body
        assert COOKIE.encode() not in answer.body
        assert (await ask(visitor)).status == 401


async def test_the_form_may_come_in_pieces(house: House) -> None:
    async with publishing(house, password=hashed("sesame")) as visitor:
        body = urlencode({"password": "sesame", "next": "/"}).encode()
        head = f"POST {FORM_PATH} HTTP/1.1\r\nHost: site.localhost\r\n{FORM}Content-Length: {len(body)}\r\n\r\n"
        for byte in head.encode() + body:
            visitor.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await visitor.answer()).status == 303
        # And the connection is as good as before.
        assert (await ask(visitor)).status == 401


async def test_a_form_that_promises_too_much_is_refused_by_its_head(house: House) -> None:
    async with publishing(house, password=hashed("sesame")) as visitor:
        visitor.send(
            f"POST {FORM_PATH} HTTP/1.1\r\nHost: site.localhost\r\n{FORM}Content-Length: 100000000\r\n\r\n".encode()
        )
        assert (await visitor.answer()).status == 413
        assert await visitor.ended()


async def test_programs_are_told_in_json(house: House) -> None:
    async with publishing(house, password=hashed("sesame")) as visitor:
        answer = await ask(visitor, headers="Accept: application/json\r\n")
        assert answer.status == 401
        assert b'"code": "password.required"' in answer.body
        answer = await ask(visitor, method="HEAD")
        assert (answer.status, answer.body) == (401, b"")


async def test_a_cookie_is_good_after_a_restart_and_worthless_for_another_password(home: Path) -> None:
    async with open_house(home) as house, publishing(house, password=hashed("sesame")) as visitor:
        cookie = cookie_of(await give(visitor, "sesame"))
    async with open_house(home) as house:
        async with publishing(house, password=hashed("sesame")) as visitor:
            assert (await ask(visitor, headers=cookie)).status == 200
        async with publishing(house, password=hashed("another")) as visitor:
            assert (await ask(visitor, headers=cookie)).status == 401
        assert (home / "visitor-key").stat().st_mode & 0o777 == 0o600


async def test_over_tls_the_cookie_is_for_tls_alone(house: House) -> None:
    async with publishing(house, password=hashed("sesame"), secure=True), over_tls(house, "site.localhost") as visitor:
        answer = await give(visitor, "sesame")
        assert answer.status == 303
        assert "; Secure" in (answer.header("set-cookie") or "")


# -- together


async def test_what_the_rules_refuse_never_reaches_the_agent_nor_the_captures(house: House) -> None:
    seen = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await echo(reader, writer)

    async with serving(counting) as port:
        running = await house.agent(http_route(port, "site", password=hashed("sesame")))
        async with house.visitor() as visitor:
            await ask(visitor)
            cookie = cookie_of(await give(visitor, "sesame"))
            assert seen == 0
            await ask(visitor, headers=cookie)
            assert seen == 1
        captures = await house.node._captures.requests(running.ready[0].tunnel_id)
        assert [capture["status"] for capture in captures] == [200]
        assert "sesame" not in str(captures)


async def test_the_administrator_sends_a_request_again_without_the_password(house: House) -> None:
    async with publishing(house, password=hashed("sesame"), basic_auth=hashed("a:b"), secure=True, redirect=True):
        tunnel = house.node._routes.by_host("site.localhost")
        assert tunnel is not None
        capture = await resend(house.node._edge, tunnel, "GET", "/again", [], b"", "192.0.2.1:1")
        assert capture.status == 200


async def test_options_that_cannot_be_are_refused_without_repeating_a_secret(house: House) -> None:
    async with serving(echo) as port:
        running = await house.agent(http_route(port, "site", password="in plain text"))
        assert [refused.code for refused in running.refused] == ["configuration.invalid"]
        assert "plain text" not in running.refused[0].message
