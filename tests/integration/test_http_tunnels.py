"""HTTP/1.1 through a node and an agent, byte by byte."""

import asyncio
import contextlib
import gc
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moongate.edge.ingress.http import HttpVisitor
from moongate.edge.ingress.requests import RequestReader
from moongate.edge.ingress.upstream import Upstream
from moongate.relay.channels import Channel
from testbed import until_async
from testbed.house import House, RunningAgent, http_route, open_house, serving

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    async with open_house(home) as house:
        yield house


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of a request with Content-Length, or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head, await reader.readexactly(length)


class Echo:
    """Answers each request with its own head, keeps connections, and counts them."""

    def __init__(self) -> None:
        self.connections = 0
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head, body = await read_request(reader)
            self.heads.append(head)
            answer = head + body
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Up: 1\r\n\r\n%b" % (len(answer), answer))


async def test_requests_on_one_connection_share_one_connection_to_the_upstream(house: House) -> None:
    echo = Echo()
    async with serving(echo) as port:
        await house.agent(http_route(port, "echo"))
        async with house.visitor() as visitor:
            for number in range(5):
                visitor.request("echo.localhost", f"/{number}?q=a%20b", headers="X-A: b\r\n")
                answer = await visitor.answer()
                assert answer.status == 200
                assert answer.body.startswith(b"GET /%d?q=a%%20b HTTP/1.1\r\n" % number)
        assert echo.connections == 1


async def test_forwarding_headers_are_ours_and_strangers_are_not_believed(house: House) -> None:
    echo = Echo()
    async with serving(echo) as port:
        await house.agent(http_route(port, "echo"))
        async with house.visitor() as visitor:
            lies = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=9.9.9.9\r\nTE: x\r\n"
            visitor.request("ECHO.localhost:80", headers=lies + "Connection: X-Secret\r\nX-Secret: 1\r\n")
            body = (await visitor.answer()).body
        assert b"9.9.9.9" not in body
        assert b"X-Secret" not in body
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in body
        assert b"X-Forwarded-Proto: http\r\n" in body
        assert b"X-Forwarded-Host: ECHO.localhost:80\r\n" in body
        assert b"Forwarded: for=127.0.0.1" in body


async def test_pipelined_requests_are_answered_in_order(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "echo"))
        async with house.visitor() as visitor:
            for number in range(2000):
                visitor.request("echo.localhost" if number % 3 else "nobody.localhost", f"/{number}")
            for number in range(2000):
                answer = await visitor.answer()
                assert (answer.status == 404) == (number % 3 == 0)
                if number % 3:
                    assert answer.body.startswith(b"GET /%d " % number)


async def test_visitors_of_one_turn_are_all_answered_also_those_who_said_goodbye(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "crowd"))
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(house.visitor()) for _ in range(60)]
            for turn in range(3):
                # Written without a pause, so that the node finds them all in one turn of its loop.
                for number, visitor in enumerate(crowd):
                    visitor.request("crowd.localhost", f"/{turn}/{number}")
                    if turn == 2:
                        visitor.writer.write_eof()
                for number, visitor in enumerate(crowd):
                    answer = await visitor.answer()
                    assert answer.body.startswith(b"GET /%d/%d " % (turn, number))


async def test_a_malformed_request_behind_good_ones_is_refused_in_its_turn(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "echo"))
        async with house.visitor() as visitor:
            visitor.request("echo.localhost", "/1")
            visitor.request("echo.localhost", "/2")
            visitor.send(b"GET /3 HTTP/1.1\r\nHost : echo.localhost\r\n\r\n")
            assert [(await visitor.answer()).status for _ in range(3)] == [200, 200, 400]
            assert await visitor.ended()


async def test_chunks_and_trailers_pass_both_ways(house: House) -> None:
    seen: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"0\r\nX-Sum: 7\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Out\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"2\r\nde\r\n0\r\nX-Out: 9\r\n\r\n")
        await reader.read()

    async with serving(upstream) as port:
        await house.agent(http_route(port, "chunky"))
        async with house.visitor() as visitor:
            head = "POST / HTTP/1.1\r\nHost: chunky.localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            visitor.send(head.encode() + b"4;ext=1\r\nwxyz\r\n")
            await asyncio.sleep(0.02)
            visitor.send(b"3\r\n123\r\n0\r\nX-Sum: 7\r\n\r\n")
            async with asyncio.timeout(10):
                raw = await visitor.reader.readuntil(b"X-Out: 9\r\n\r\n")
        assert b"4\r\nwxyz\r\n" in seen[0]
        assert b"3\r\n123\r\n" in seen[0]
        assert b"ext" not in seen[0]
        assert raw.partition(b"\r\n\r\n")[2] == b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Out: 9\r\n\r\n"


async def test_expect_continue_is_the_upstreams_to_answer(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)
        await reader.read()

    async with serving(upstream) as port:
        await house.agent(http_route(port, "careful"))
        async with house.visitor() as visitor:
            visitor.send(
                b"PUT / HTTP/1.1\r\nHost: careful.localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            )
            assert (await visitor.answer()).status == 100
            visitor.send(b"body")
            assert (await visitor.answer()).status == 200


async def test_head_not_modified_and_no_content_have_no_body(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HEAD"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            elif b"/304" in head:
                writer.write(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n")
            elif b"/204" in head:
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            else:
                writer.write(OK)

    async with serving(upstream) as port:
        await house.agent(http_route(port, "bare"))
        async with house.visitor() as visitor:
            for method, path, status in [("HEAD", "/", 200), ("GET", "/304", 304), ("GET", "/204", 204)] * 2:
                visitor.request("bare.localhost", path, method)
                answer = await visitor.answer(method)
                assert answer.status == status
                visitor.request("bare.localhost")
                assert (await visitor.answer()).body == b"ok"


async def test_an_answer_that_ends_with_its_connection_becomes_chunks_and_the_visitor_stays(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nto the end")

    async with serving(upstream) as port:
        await house.agent(http_route(port, "old"))
        async with house.visitor() as visitor:
            for _ in range(3):
                visitor.request("old.localhost")
                answer = await visitor.answer()
                assert (answer.body, answer.header("transfer-encoding")) == (b"to the end", "chunked")


async def test_an_upstream_that_closes_idle_connections_costs_no_request(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)  # then it closes, without having said so

    async with serving(upstream) as port:
        await house.agent(http_route(port, "brief"))
        async with house.visitor() as visitor:
            for _ in range(30):
                visitor.request("brief.localhost")
                assert (await visitor.answer()).body == b"ok"


async def test_an_answer_that_is_cut_short_is_cut_short_for_the_visitor_too(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")

    async with serving(upstream) as port:
        await house.agent(http_route(port, "liar"))
        async with house.visitor() as visitor:
            visitor.request("liar.localhost")
            assert (await visitor.head())[0] == 200
            with pytest.raises((asyncio.IncompleteReadError, OSError)):
                await visitor.reader.readexactly(100)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"", 502),
        (b"SSH-2.0-OpenSSH\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 502),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502),
    ],
)
async def test_a_hostile_answer_is_not_passed_on(house: House, answer: bytes, status: int) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with serving(upstream) as port:
        await house.agent(http_route(port, "hostile"))
        async with house.visitor() as visitor:
            visitor.request("hostile.localhost", method="POST", body=b"x", headers="Accept: application/json\r\n")
            got = await visitor.answer()
            assert got.status == status, got.head
            assert b"request_id" in got.body


async def test_nobody_behind_a_name_is_404_and_a_refusing_upstream_502(house: House) -> None:
    await house.agent(http_route(1, "closed"))
    async with house.visitor() as visitor:
        visitor.request("nothing.localhost", headers="Accept: text/html\r\n")
        answer = await visitor.answer()
        assert (answer.status, answer.header("content-type")) == (404, "text/html; charset=utf-8")
        visitor.request("closed.localhost", headers="Accept: application/json\r\n")
        answer = await visitor.answer()
        assert answer.status == 502
        assert b"127.0.0.1" not in answer.body  # what lies behind is nobody's business


async def test_a_name_whose_agent_is_gone_answers_503_and_comes_back(house: House) -> None:
    async with serving(Echo()) as port:
        first = await house.agent(http_route(port, "moving"))
        await first.vanish()
        async with house.visitor() as visitor:
            visitor.request("moving.localhost")
            answer = await visitor.answer()
            assert answer.status == 503
            assert answer.header("retry-after") is not None
            again = await house.agent(http_route(port, "moving"))
            assert again.ready[0].tunnel_id == first.ready[0].tunnel_id
            visitor.request("moving.localhost")
            assert (await visitor.answer()).status == 200


async def test_a_silent_upstream_is_answered_504_in_time(home: Path) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with open_house(home, limits={"response_head_timeout_s": 1}) as house, serving(upstream) as port:
        await house.agent(http_route(port, "silent"))
        async with house.visitor() as visitor:
            visitor.request("silent.localhost")
            assert (await visitor.answer()).status == 504


async def test_a_visitor_that_trickles_its_head_is_cut_off_and_a_good_one_is_not(home: Path) -> None:
    async with open_house(home, limits={"header_timeout_s": 1}) as house, serving(Echo()) as port:
        await house.agent(http_route(port, "echo"))
        async with house.visitor() as slow, house.visitor() as good:
            for byte in b"GET / HTTP/1.1\r\nHost: echo.localhost\r\nX-Slow: ":
                slow.send(bytes([byte]))
                await asyncio.sleep(0.05)
                good.request("echo.localhost")
                assert (await good.answer()).status == 200
            assert (await slow.answer()).status == 408
            assert await slow.ended()


async def test_an_event_stream_is_not_held_back(house: House) -> None:
    gate = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b"data: 1\n\n")
        await gate.wait()
        writer.write(b"data: 2\n\n")

    async with serving(upstream) as port:
        await house.agent(http_route(port, "events"))
        async with house.visitor() as visitor:
            visitor.request("events.localhost")
            assert (await visitor.head())[0] == 200
            async with asyncio.timeout(5):
                assert b"data: 1" in await visitor.reader.readuntil(b"\n\n\r\n")
                gate.set()
                assert b"data: 2" in await visitor.reader.readuntil(b"\n\n\r\n")


async def test_an_upgrade_passes_bytes_untouched_both_ways(house: House) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Upgrade: websocket" in head
        assert b"Sec-WebSocket-Key: k\r\n" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Accept: a\r\n\r\nfirst")
        while data := await reader.read(65536):
            writer.write(data[::-1])

    async with serving(upstream) as port:
        agent = await house.agent(http_route(port, "sock"))
        async with house.visitor() as visitor:
            upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"
            visitor.request("sock.localhost", headers=upgrade)
            status, head = await visitor.head()
            assert status == 101
            assert b"Sec-WebSocket-Accept: a" in head
            assert await visitor.reader.readexactly(5) == b"first"
            visitor.send(b"\x00GET / HTTP/1.1")
            assert await visitor.reader.readexactly(15) == b"1.1/PTTH / TEG\x00"
        captured = await house.node._captures.requests(agent.ready[0].tunnel_id)
        assert [(row["method"], row["status"]) for row in captured] == [("GET", 101)]
        await until_async(lambda: not house.node._connections.live)
        _, records = await house.node._connections.list(tunnel_id=agent.ready[0].tunnel_id)
        assert [record["type"] for record in records] == ["WEBSOCKET"]


async def test_a_refused_upgrade_goes_on_as_http(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "plain"))
        async with house.visitor() as visitor:
            visitor.request("plain.localhost", headers="Connection: Upgrade\r\nUpgrade: websocket\r\n")
            visitor.request("plain.localhost", "/after")
            assert (await visitor.answer()).status == 200
            assert (await visitor.answer()).body.startswith(b"GET /after")
            visitor.request("plain.localhost", "/third")
            assert (await visitor.answer()).body.startswith(b"GET /third")


H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(("host", "status"), [("plain.localhost", 200), ("nobody.localhost", 404)])
@pytest.mark.parametrize("asked", [H2C, WEBSOCKET])
@pytest.mark.parametrize("pipelined", [False, True])
async def test_after_an_upgrade_that_is_not_to_be_every_request_is_answered(
    house: House, host: str, status: int, asked: str, pipelined: bool
) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "plain"))
        async with house.visitor() as visitor:
            for number in range(3000 if pipelined else 3):
                # Java's client asks for h2c with the first request of each connection.
                visitor.request(host, f"/{number}", headers=asked)
                if not pipelined:
                    assert (await visitor.answer()).status == status
            for number in range(3000 if pipelined else 0):
                answer = await visitor.answer()
                assert answer.status == status
                assert status == 404 or answer.body.startswith(b"GET /%d HTTP" % number)
            visitor.request("plain.localhost", "/last")
            assert (await visitor.answer()).body.startswith(b"GET /last")


async def test_a_head_cut_short_behind_many_requests_is_not_taken_for_a_large_one(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "plain"))
        async with house.visitor() as visitor:
            whole = b"GET / HTTP/1.1\r\nHost: plain.localhost\r\n\r\n"
            count = 4 * 65536 // len(whole)
            visitor.send(whole * count + whole[:20])
            for _ in range(count):
                assert (await visitor.answer()).status == 200
            visitor.send(whole[20:])
            assert (await visitor.answer()).status == 200


async def test_visitors_who_have_left_do_not_wait_for_the_collector(house: House) -> None:
    def remembered() -> int:
        return sum(isinstance(thing, HttpVisitor | RequestReader | Upstream | Channel) for thing in gc.get_objects())

    async with serving(Echo()) as port:
        await house.agent(http_route(port, "echo"))
        gc.collect()
        gc.disable()
        try:
            for number in range(5):
                async with house.visitor() as visitor:
                    visitor.request("echo.localhost", f"/{number}", method="POST", body=b"body")
                    assert (await visitor.answer()).status == 200
            await until_async(lambda: not remembered())
        finally:
            gc.enable()


@pytest.mark.parametrize("size", [1, 65536, 262_144, 262_145, 30_000_000])
async def test_bodies_of_any_size_arrive_whole(house: House, size: int) -> None:
    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request_slowly(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
        await reader.read()

    async def read_request_slowly(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        if size > 1_000_000:
            await asyncio.sleep(0.3)  # so that credit runs out
        body = await reader.readexactly(size)
        return head, body

    sent = hashlib.shake_128(str(size).encode()).digest(size)
    async with serving(upstream) as port:
        await house.agent(http_route(port, "big"))
        async with house.visitor() as visitor:
            visitor.request("big.localhost", method="POST", body=sent)
            if size > 1_000_000:
                await asyncio.sleep(0.3)
            answer = await visitor.answer()
            assert (answer.status, len(answer.body)) == (200, size)
            assert answer.body == sent


async def test_limits_of_a_tunnel_answer_429_and_413(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(
            http_route(port, "rated", rate_limit_rps=2), http_route(port, "small", request_body_max_bytes=10)
        )
        async with house.visitor() as visitor:
            statuses = []
            for _ in range(4):
                visitor.request("rated.localhost")
                answer = await visitor.answer()
                statuses.append(answer.status)
            assert statuses == [200, 200, 429, 429]
            assert answer.header("retry-after") == "1"
            visitor.request("small.localhost", method="POST", body=b"0123456789")
            assert (await visitor.answer()).status == 200
            visitor.request("small.localhost", method="POST", body=b"0123456789a")
            assert (await visitor.answer()).status == 413
        async with house.visitor() as visitor:
            visitor.send(b"POST / HTTP/1.1\r\nHost: small.localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            visitor.send(b"b\r\n0123456789a\r\n0\r\n\r\n")
            assert (await visitor.answer()).status == 413


async def test_connections_of_a_tunnel_are_limited(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "few", max_connections=2))
        async with house.visitor() as one, house.visitor() as two, house.visitor() as three:
            for visitor, status in ((one, 200), (two, 200), (three, 429)):
                visitor.request("few.localhost")
                assert (await visitor.answer()).status == status
        await until_async(lambda: not house.node._edge.visitors)
        async with house.visitor() as visitor:
            visitor.request("few.localhost")
            assert (await visitor.answer()).status == 200


async def test_a_connection_of_a_public_name_does_not_reach_the_application(house: House) -> None:
    async with serving(Echo()) as port:
        await house.agent(http_route(port, "echo"))
        async with house.visitor() as visitor:
            visitor.request("echo.localhost")
            assert (await visitor.answer()).status == 200
            visitor.request("localhost", "/api/status")
            assert (await visitor.answer()).status == 421
        async with house.visitor() as visitor:
            visitor.request("127.0.0.1", "/api/status")
            assert (await visitor.answer()).status == 200
            visitor.request("echo.localhost")
            assert (await visitor.answer()).status == 421


async def test_closing_a_tunnel_ends_its_connections_and_tells_its_agent(house: House) -> None:
    async with serving(Echo()) as port:
        agent = await house.agent(http_route(port, "first"), http_route(port, "second"))
        async with house.visitor() as visitor:
            visitor.request("first.localhost")
            assert (await visitor.answer()).status == 200
            assert await house.node._control.close_tunnel(agent.ready[0].tunnel_id, "closed by a test")
            assert await visitor.ended()
        async with house.visitor() as visitor:
            visitor.request("first.localhost")
            assert (await visitor.answer()).status == 404
            visitor.request("second.localhost")
            assert (await visitor.answer()).status == 200


async def test_answers_that_begin_alike_are_told_apart_by_what_differs(house: House) -> None:
    heads = {
        b"/plain": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"/other": b"HTTP/1.1 201 OK\r\nContent-Length: 2\r\n\r\n",
        b"/reason": b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\n",
        b"/field": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\n",
        b"/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n",
    }

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(reader)
            path = head.split(b" ")[1]
            length_only = head.startswith(b"HEAD")
            end = b"\r\n0\r\n\r\n" if path == b"/chunks" else b""
            writer.write(heads[path].removesuffix(b"2\r\n") if length_only else heads[path] + b"ok" + end)

    async with serving(upstream) as port:
        await house.agent(http_route(port, "alike"))
        async with house.visitor() as visitor:
            for path in [b"/plain", b"/plain", b"/other", b"/plain", b"/reason", b"/field", b"/chunks", b"/chunks"] * 2:
                for method in ("GET", "HEAD", "GET"):
                    visitor.request("alike.localhost", path.decode(), method)
                    answer = await visitor.answer(method)
                    assert answer.head.split(b"\r\n")[0] == heads[path].split(b"\r\n")[0]
                    assert answer.body == (b"" if method == "HEAD" else b"ok")
                    assert (answer.header("x-a") is not None) == (path == b"/field")


async def test_one_connection_of_two_names_makes_two_records(house: House) -> None:
    async with serving(Echo()) as port:
        agent: RunningAgent = await house.agent(http_route(port, "one"), http_route(port, "two"))
        async with house.visitor() as visitor:
            for name in ("one", "two"):
                visitor.request(f"{name}.localhost", headers="User-Agent: probe/1\r\n")
                assert (await visitor.answer()).status == 200
        await until_async(lambda: not house.node._connections.live)
        total, records = await house.node._connections.list()
        assert total == 2
        by_tunnel = {record["tunnel_id"]: record for record in records}
        assert by_tunnel.keys() == {ready.tunnel_id for ready in agent.ready}
        for record in records:
            assert record["requests"] == 1
            assert record["bytes_in"] > 0
            assert record["bytes_out"] > 0
            assert record["user_agent"] == "probe/1"
            assert record["status"] == "DISCONNECTED"
