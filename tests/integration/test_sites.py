"""Folders through a node and an agent, alone and in front of an upstream, byte by byte."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moongate.agent.routes import Route, Upstream
from moongate.agent.sites import Sites
from testbed import until_async
from testbed.house import House, Visitor, open_house, serving

LARGE = 3 * 2**20 + 17


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    public = tmp_path / "public"
    (public / "sub").mkdir(parents=True)
    (public / "empty").mkdir()
    (public / "index.html").write_text("front", encoding="utf-8")
    (public / "sub" / "index.html").write_text("sub", encoding="utf-8")
    (public / "large").write_bytes(os.urandom(LARGE))
    return public


def site(folder: Path, name: str = "files", port: int = 0) -> Route:
    host = "127.0.0.1" if port else ""
    return Route("http", Upstream("http" if port else "static", host, port, folder), subdomain=name)


class Service:
    """An upstream that says what it was asked, keeps connections, and speaks after an upgrade."""

    def __init__(self) -> None:
        self.connections = 0
        self.asked: list[bytes] = []
        self.bodies: list[bytes] = []
        self.agrees = True

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b"\r\n")[0])
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            if b"upgrade" in fields and self.agrees:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
                while line := await reader.readline():
                    writer.write(line.upper())
                return
            if fields.get(b"expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            if fields.get(b"transfer-encoding") == b"chunked":
                while size := int(await reader.readline(), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            self.bodies.append(body)
            if b"/last" in head:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
                return
            writer.write(b"HTTP/1.1 200 OK\r\nX-Service: yes\r\nContent-Length: 7\r\n\r\nservice")


async def ask(visitor: Visitor, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> bytes:
    visitor.request("files.localhost", path, method, headers, body)
    answer = await visitor.answer(method)
    assert answer.status == 200, answer
    return answer.body


async def test_a_folder_answers_many_requests_on_one_connection(house: House, folder: Path) -> None:
    await house.agent(site(folder))
    async with house.visitor() as visitor:
        for _ in range(3):
            assert await ask(visitor, "/") == b"front"
            assert await ask(visitor, "/large") == (folder / "large").read_bytes()
            assert await ask(visitor, "/large", "HEAD") == b""
            assert await ask(visitor, "/sub/?with=query") == b"sub"


async def test_requests_that_come_at_once_are_answered_in_order(house: House, folder: Path) -> None:
    await house.agent(site(folder))
    async with house.visitor() as visitor:
        for path in ("/", "/large", "/sub/", "/nothing"):
            visitor.request("files.localhost", path)
        assert [(await visitor.answer()).body[:5] for _ in range(4)] == [
            b"front",
            (folder / "large").read_bytes()[:5],
            b"sub",
            b"Not f",
        ]


async def test_parts_of_a_large_file_are_exactly_those_bytes(house: House, folder: Path) -> None:
    await house.agent(site(folder))
    whole = (folder / "large").read_bytes()
    async with house.visitor() as visitor:
        for first, last in ((0, 0), (1, 262_144), (262_143, 900_000), (LARGE - 1, LARGE + 5)):
            visitor.request("files.localhost", "/large", headers=f"Range: bytes={first}-{last}\r\n")
            answer = await visitor.answer()
            assert answer.status == 206
            assert answer.header("content-range") == f"bytes {first}-{min(last, LARGE - 1)}/{LARGE}"
            assert answer.body == whole[first : last + 1]
        visitor.request("files.localhost", "/large", headers=f"Range: bytes={LARGE}-\r\n")
        answer = await visitor.answer()
        assert (answer.status, answer.header("content-range")) == (416, f"bytes */{LARGE}")


async def test_a_visitor_that_has_the_file_is_told_that_it_is_unchanged(house: House, folder: Path) -> None:
    await house.agent(site(folder))
    async with house.visitor() as visitor:
        visitor.request("files.localhost", "/")
        first = await visitor.answer()
        for condition in (
            f"If-None-Match: {first.header('etag')}\r\n",
            f"If-Modified-Since: {first.header('last-modified')}\r\n",
        ):
            visitor.request("files.localhost", "/", headers=condition)
            answer = await visitor.answer()
            assert (answer.status, answer.header("etag")) == (304, first.header("etag"))
        (folder / "index.html").write_text("anew!", encoding="utf-8")
        visitor.request("files.localhost", "/", headers=f"If-None-Match: {first.header('etag')}\r\n")
        assert (await visitor.answer()).body == b"anew!"


async def test_the_state_of_the_agent_is_never_served_though_it_lies_in_the_folder(house: House, folder: Path) -> None:
    state = folder / "state"
    state.mkdir()
    (state / "join").write_text("secret", encoding="utf-8")
    (folder / "link").symlink_to(state / "join")
    await house.agent(site(folder), sites=Sites(state))
    async with house.visitor() as visitor:
        for path in ("/state/join", "/link"):
            visitor.request("files.localhost", path)
            answer = await visitor.answer()
            assert answer.status == 404
            assert b"secret" not in answer.body


async def test_a_file_that_becomes_shorter_while_it_is_sent_ends_the_connection(house: House, folder: Path) -> None:
    (folder / "huge").write_bytes(bytes(64 * 2**20))
    await house.agent(site(folder))
    async with house.visitor() as visitor:
        visitor.request("files.localhost", "/huge")
        await visitor.head()
        os.truncate(folder / "huge", 2**20)
        async with asyncio.timeout(15):
            try:
                received = len(await visitor.reader.read(-1))
            except OSError:
                received = 0
        assert received < 64 * 2**20


async def test_a_visitor_that_leaves_during_a_large_file_leaves_no_open_file(house: House, folder: Path) -> None:
    (folder / "huge").write_bytes(bytes(64 * 2**20))
    await house.agent(site(folder))

    def is_open() -> bool:
        # Of a descriptor that was closed meanwhile there is no link any more, and realpath leaves its own name.
        return any(link.resolve().name == "huge" for link in Path("/proc/self/fd").iterdir())

    async with house.visitor() as visitor:
        visitor.request("files.localhost", "/huge")
        await visitor.head()
        assert is_open()
    await until_async(lambda: not is_open(), what="the file is closed")


async def test_a_folder_stands_in_front_of_an_upstream_request_by_request(house: House, folder: Path) -> None:
    service = Service()
    async with serving(service) as port:
        await house.agent(site(folder, port=port))
        async with house.visitor() as visitor:
            for _ in range(3):
                assert await ask(visitor, "/") == b"front"
                assert await ask(visitor, "/api/users?all") == b"service"
                assert await ask(visitor, "/large") == (folder / "large").read_bytes()
                assert await ask(visitor, "/", "POST", body=b"x" * 100_000) == b"service"
                assert await ask(visitor, "/empty/") == b"service"
            visitor.request("files.localhost", "/sub")
            assert (await visitor.answer()).header("location") == "/sub/"
        assert service.connections == 1
        assert service.asked[0] == b"GET /api/users?all HTTP/1.1"
        assert service.bodies[1] == b"x" * 100_000


async def test_bodies_in_chunks_and_expectations_reach_the_upstream_behind_a_folder(house: House, folder: Path) -> None:
    service = Service()
    async with serving(service) as port:
        await house.agent(site(folder, port=port))
        async with house.visitor() as visitor:
            visitor.request("files.localhost", "/up", "PUT", "Transfer-Encoding: chunked\r\n")
            visitor.send(b"3\r\nabc\r\n")
            visitor.send(b"40000\r\n" + bytes(0x40000) + b"\r\n0\r\n\r\n")
            assert (await visitor.answer()).body == b"service"
            visitor.request("files.localhost", "/up", "PUT", "Content-Length: 4\r\nExpect: 100-continue\r\n")
            assert (await visitor.head())[0] == 100
            visitor.send(b"body")
            assert (await visitor.answer()).body == b"service"
            assert await ask(visitor, "/") == b"front"
        assert service.bodies == [b"abc" + bytes(0x40000), b"body"]


async def test_an_answer_that_ends_with_its_connection_is_whole(house: House, folder: Path) -> None:
    async with serving(Service()) as port:
        await house.agent(site(folder, port=port))
        async with house.visitor() as visitor:
            assert await ask(visitor, "/last") == b"until the end"
            assert await ask(visitor, "/") == b"front"
            assert await ask(visitor, "/api") == b"service"


async def test_an_upgrade_is_the_upstreams_even_where_a_file_has_that_name(house: House, folder: Path) -> None:
    async with serving(Service()) as port:
        await house.agent(site(folder, port=port))
        async with house.visitor() as visitor:
            assert await ask(visitor, "/") == b"front"
            visitor.request("files.localhost", "/", headers="Connection: Upgrade\r\nUpgrade: shout\r\n")
            assert (await visitor.head())[0] == 101
            for line in (b"hello\n", b"world\n"):
                visitor.send(line)
                assert await visitor.reader.readline() == line.upper()


async def test_after_an_upgrade_that_was_declined_files_are_found_again(house: House, folder: Path) -> None:
    service = Service()
    service.agrees = False
    async with serving(service) as port:
        await house.agent(site(folder, port=port))
        async with house.visitor() as visitor:
            upgrade = "Connection: Upgrade\r\nUpgrade: shout\r\n"
            assert await ask(visitor, "/", headers=upgrade) == b"service"
            assert await ask(visitor, "/") == b"front"
            assert await ask(visitor, "/", "POST", upgrade, b"body") == b"service"
            assert await ask(visitor, "/api") == b"service"


async def test_an_upgrade_asked_of_a_folder_alone_is_ignored(house: House, folder: Path) -> None:
    await house.agent(site(folder))
    async with house.visitor() as visitor:
        upgrade = "Connection: Upgrade\r\nUpgrade: shout\r\n"
        assert await ask(visitor, "/", headers=upgrade) == b"front"
        assert await ask(visitor, "/", headers=upgrade, body=b"GET /x HTTP/1.1\r\n\r\n") == b"front"
        assert await ask(visitor, "/sub/") == b"sub"


async def test_an_upstream_that_is_away_fails_its_own_requests_only(house: House, folder: Path) -> None:
    async with serving(Service()) as port:
        pass
    await house.agent(site(folder, port=port))
    async with house.visitor() as visitor:
        for _ in range(2):
            visitor.request("files.localhost", "/api")
            assert (await visitor.answer()).status == 502
            assert await ask(visitor, "/") == b"front"


async def test_an_upstream_that_closes_while_idle_disturbs_no_file(house: House, folder: Path) -> None:
    closed = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce")
        await closed.wait()

    async with serving(once) as port:
        await house.agent(site(folder, port=port))
        async with house.visitor() as visitor:
            assert await ask(visitor, "/api") == b"once"
            visitor.request("files.localhost", "/large")
            closed.set()
            assert (await visitor.answer()).body == (folder / "large").read_bytes()
            assert await ask(visitor, "/api") == b"once"
            assert await ask(visitor, "/") == b"front"


async def test_a_base_path_stands_in_front_of_what_the_upstream_is_asked(house: House, folder: Path) -> None:
    service = Service()
    async with serving(service) as port:
        alone = Route("http", Upstream("http", "127.0.0.1", port, base="/app"), subdomain="files")
        both = Route("http", Upstream("http", "127.0.0.1", port, folder, base="/app"), subdomain="both")
        await house.agent(alone, both)
        async with house.visitor() as visitor:
            assert await ask(visitor, "/x?y") == b"service"
            visitor.request("both.localhost", "/z")
            assert (await visitor.answer()).body == b"service"
            visitor.request("both.localhost", "/")
            assert (await visitor.answer()).body == b"front"
        assert service.asked == [b"GET /app/x?y HTTP/1.1", b"GET /app/z HTTP/1.1"]


async def test_nothing_is_published_where_there_is_no_upstream(house: House) -> None:
    await house.agent(Route("http", Upstream("none"), subdomain="files"))
    async with house.visitor() as visitor:
        visitor.request("files.localhost", "/")
        assert (await visitor.answer()).status == 502


async def _moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was asked and how much was sent; in chunks, slowly, or for the last time, as the path says."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1]
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        body = await reader.readexactly(length)
        said = b"%b %d " % (path, len(body)) + bytes(int(path.rpartition(b"-")[2]))
        if b"chunks" in path:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(said), 50_000):
                piece = said[at : at + 50_000]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        else:
            last = b"Connection: close\r\n" if b"last" in path else b""
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (last, len(said)))
            for at in range(0, len(said), 70_000):
                writer.write(said[at : at + 70_000])
                await writer.drain()
            if last:
                return


async def _wander(house: House, folder: Path, chance: random.Random) -> None:
    """Ask for files and of the service by turns, on one connection, and compare each answer."""
    large = (folder / "large").read_bytes()
    async with house.visitor() as visitor:
        for number in range(40):
            what = chance.choice(("index", "large", "part", "head", "missing", "chunks", "plain", "last", "post"))
            size = chance.choice((0, 10, 3_000, 300_000, 900_000))
            if what == "index":
                assert await ask(visitor, "/") == b"front"
            elif what == "large":
                assert await ask(visitor, "/large") == large
            elif what == "head":
                assert await ask(visitor, "/large", "HEAD") == b""
            elif what == "part":
                first = chance.randrange(LARGE)
                visitor.request("files.localhost", "/large", headers=f"Range: bytes={first}-{first + size}\r\n")
                assert (await visitor.answer()).body == large[first : first + size + 1]
            else:
                body = bytes(size) if what == "post" else b""
                path = f"/{what}-{number}-{size}"
                answer = await ask(visitor, path, "POST" if what == "post" else "GET", body=body)
                assert answer == f"{path} {len(body)} ".encode() + bytes(size)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_asked_in_whatever_order_each_request_gets_its_own_answer(
    house: House, folder: Path, seed: int
) -> None:
    async with serving(_moody) as port:
        await house.agent(site(folder, port=port))
        await asyncio.gather(*(_wander(house, folder, random.Random(seed * 10 + one)) for one in range(4)))
