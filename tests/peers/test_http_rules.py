"""The password page and Basic authentication, as a browser and curl meet them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moongate.identity.passwords import hash_password
from peers_bed import curl
from testbed.chromium import tab_of
from testbed.house import House, http_route, open_house, serving

pytestmark = [pytest.mark.timeout(120)]

PASSWORD = "öffne dich, Sesam & Co."
PAGE = b"<!doctype html><title>inside</title><p id=path>%b</p>"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        page = PAGE % head.split()[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house, serving(answer) as port:
        page = {"title": "Back room", "logo_url": "", "site_url": "https://example.test/about"}
        await house.agent(http_route(port, "page", password=hash_password(PASSWORD), page=page))
        await house.agent(http_route(port, "basic", basic_auth=hash_password(f"anna:{PASSWORD}")))
        await house.agent(http_route(port, "moved", secure=True, redirect=True))
        yield house


async def test_a_person_types_the_password_once_and_is_where_he_wanted_to_be(house: House, tmp_path: Path) -> None:
    def browse() -> None:
        with tab_of(f"http://page.localhost:{house.port}/a/b?c=d", tmp_path) as tab:
            tab.wait("document.querySelector('h1')?.textContent === 'Back room'")
            tab.wait("document.activeElement.name === 'password'")
            tab.type("wrong")
            tab.wait("document.querySelector('[role=alert]')?.textContent === 'That is not the password.'")
            tab.wait("document.activeElement.name === 'password'")
            tab.type(PASSWORD)
            tab.wait("document.title === 'inside'")
            assert tab.look("document.querySelector('#path').textContent") == "/a/b?c=d"
            assert tab.look("document.cookie") == "", "scripts of the site can read the cookie"
            tab.look("location = '/elsewhere'")
            tab.wait("document.querySelector('#path')?.textContent === '/elsewhere'")

    await asyncio.to_thread(browse)


async def test_curl_gives_the_password_and_keeps_the_cookie(house: House, tmp_path: Path) -> None:
    def fetch() -> None:
        url, jar = f"http://page.localhost:{house.port}", str(tmp_path / "jar")
        assert curl("-o", "/dev/null", "-w", "%{http_code}", url).stdout == "401"
        form = ("--data-urlencode", f"password={PASSWORD}", "--data-urlencode", "next=/x?y=z")
        assert "<p id=path>/x?y=z</p>" in curl("-L", "-c", jar, *form, f"{url}/.moongate/password").stdout
        assert "<p id=path>/again</p>" in curl("-b", jar, f"{url}/again").stdout

    await asyncio.to_thread(fetch)


async def test_curl_speaks_basic_authentication(house: House) -> None:
    def fetch() -> None:
        url = f"http://basic.localhost:{house.port}/"
        assert "<title>inside</title>" in curl("-u", f"anna:{PASSWORD}", url).stdout
        assert curl("-u", "anna:wrong", "-o", "/dev/null", "-w", "%{http_code}", url).stdout == "401"
        assert curl("--anyauth", "-u", f"anna:{PASSWORD}", "-o", "/dev/null", "-w", "%{http_code}", url).stdout == "200"

    await asyncio.to_thread(fetch)


async def test_curl_follows_to_https(house: House, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(house.node._certificates.ca_pem)

    def fetch() -> None:
        url = f"http://moved.localhost:{house.port}/a?b=c"
        done = curl("-L", "--cacert", str(authority), "-w", "%{stderr}%{url_effective} %{num_redirects}", url)
        assert "<p id=path>/a?b=c</p>" in done.stdout
        assert done.stderr == f"https://moved.localhost:{house.port}/a?b=c 1"

    await asyncio.to_thread(fetch)
