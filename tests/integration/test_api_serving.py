"""The application on sockets: what holds for every request, hostile heads and bodies, and the end."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

from api_bed import ADMIN_TOKEN, BEARER, METRICS_TOKEN, ApiBed, api_bed
from moongate.api import middleware
from moongate.net.listening import Peer
from testbed import until_async

LOCAL_ORIGIN = "http://localhost:3000"


@pytest.fixture
async def bed(home: Path) -> AsyncIterator[ApiBed]:
    async with api_bed(home, settings={"domain": "tunnel.test", "node_names": ["gate.example"]}) as made:
        yield made


@asynccontextmanager
async def connected(bed: ApiBed) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", bed.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def raw(bed: ApiBed, *pieces: bytes) -> bytes:
    """Send bytes as they are and return everything that comes until the end."""
    async with connected(bed) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
        return await asyncio.wait_for(reader.read(), 10)


def shape(answer: bytes) -> tuple[int, str]:
    """Return the status and the error text of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


# --- fixed headers, names, origins


async def test_every_answer_has_the_fixed_headers_and_an_id_of_its_own(bed: ApiBed) -> None:
    answers = [await bed.client.get(path) for path in ("/", "/api/status", "/api/nothing", "/api/tunnels?x=1")]
    assert {answer.headers["x-content-type-options"] for answer in answers} == {"nosniff"}
    assert {answer.headers["x-frame-options"] for answer in answers} == {"DENY"}
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert all("date" in answer.headers for answer in answers)


async def test_the_log_has_the_id_of_the_answer_and_never_the_token(bed: ApiBed) -> None:
    with capture_logs(processors=[_with_context]) as lines:
        answer = await bed.client.delete(f"/api/tokens/{ADMIN_TOKEN}?token={ADMIN_TOKEN}x")
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["status"], line["identity"]) == (404, "admin")
    assert ADMIN_TOKEN not in str(line)


def _with_context(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**get_contextvars(), **event}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:7171",
        "127.0.0.1",
        "10.1.2.3:80",
        "[::1]:4041",
        "gate.example",
        "Gate.Example.",
        "tunnel.test:8443",
    ],
)
async def test_the_application_answers_to_addresses_and_to_its_own_names(bed: ApiBed, host: str) -> None:
    assert (await bed.client.get("/api/status", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["app.tunnel.test", "evil.example", "app.localhost", "1.2.3", "gate.example.evil", "[::1"]
)
async def test_any_other_host_name_is_misdirected(bed: ApiBed, host: str) -> None:
    answer = await bed.client.get("/api/status", headers={"Host": host})
    assert (answer.status_code, list(answer.json())) == (421, ["error"])


async def test_a_request_needs_one_host_header_except_from_http_1_0(bed: ApiBed) -> None:
    assert shape(await raw(bed, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"))[0] == 400
    assert shape(await raw(bed, b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\nConnection: close\r\n\r\n"))[0] == 400
    assert (await raw(bed, b"GET /api/status HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_preflight_from_the_dashboard_is_allowed_without_a_token(bed: ApiBed) -> None:
    async with bed.anonymous() as browser:
        asked = {"Origin": LOCAL_ORIGIN, "Access-Control-Request-Method": "DELETE"}
        answer = await browser.options("/api/tunnels/x", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == LOCAL_ORIGIN
    assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert answer.headers["access-control-allow-headers"] == "Authorization, Content-Type"


async def test_another_origin_gets_no_permission(bed: ApiBed) -> None:
    answer = await bed.client.get("/api/tunnels", headers={"Origin": "https://evil.example"})
    preflight = await bed.client.options(
        "/api/tunnels", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    )
    assert answer.headers["vary"] == "Origin"
    assert not [name for name in [*answer.headers, *preflight.headers] if name.startswith("access-control")]


async def test_a_refusal_can_be_read_by_the_dashboard_too(bed: ApiBed) -> None:
    async with bed.anonymous() as browser:
        answer = await browser.get("/api/tunnels", headers={"Origin": LOCAL_ORIGIN})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == LOCAL_ORIGIN


async def test_head_is_answered_as_get_without_the_body(bed: ApiBed) -> None:
    whole, head = await bed.client.get("/api/tunnels"), await bed.client.head("/api/tunnels")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert (await bed.client.head("/api/events")).status_code == 405


# --- operations


async def test_the_index_health_and_authority_are_public(bed: ApiBed) -> None:
    async with bed.anonymous() as nobody:
        assert (await nobody.get("/")).json()["name"] == "moongate"
        assert (await nobody.get("/healthz")).json() == {"ok": True}
        assert (await nobody.get("/moongate/ca.pem")).content == bed.parts.ca_pem
        assert (await nobody.get("/api/openapi.json")).json()["openapi"].startswith("3.")


async def test_refused_tokens_are_counted(bed: ApiBed) -> None:
    async with bed.anonymous() as nobody:
        for token in ("nope", "x" * 10_000):
            answer = await nobody.get("/api/tunnels", headers={"Authorization": f"Bearer {token}"})
            assert answer.json() == {"error": "invalid token"}
    assert bed.parts.metrics.auth_failures == 2


async def test_metrics_are_for_this_machine_or_a_token(bed: ApiBed, tmp_path: Path) -> None:
    async with bed.anonymous() as nobody:
        local = await nobody.get("/metrics")
        assert local.status_code == 200
        assert b"moongate_visitor_connections_total" in local.content
        for header in ("Forwarded", "X-Forwarded-For", "Via", "X-Real-IP"):
            assert (await nobody.get("/metrics", headers={header: "10.0.0.1"})).status_code == 401
    far = tmp_path / "far"
    far.mkdir()
    async with api_bed(far, peer=Peer("192.0.2.9", 51000, "192.0.2.1", 443)) as remote, remote.anonymous() as nobody:
        assert (await nobody.get("/metrics")).json() == {"error": "missing token"}
        for token, status in ((METRICS_TOKEN, 200), (ADMIN_TOKEN, 200), ("nope", 401)):
            answer = await nobody.get("/metrics", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status
        made = (await remote.client.post("/api/tokens", json={"label": "ci"})).json()
        answer = await nobody.get("/metrics", headers={"Authorization": f"Bearer {made['token']}"})
        assert (answer.status_code, answer.json()) == (401, {"error": "admin token required"})


async def test_a_failing_database_is_told_as_such_and_not_as_an_internal_error(bed: ApiBed) -> None:
    await bed.parts.tokens.flush()
    await bed.parts.history._db.aclose()
    (Path(bed.parts.config.home) / "moongate.db").write_bytes(b"this is no database" * 1000)
    answer = await bed.client.get("/api/tokens")
    assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert (await bed.client.get("/api/status")).status_code == 200


# --- hostile input


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_in_the_common_shape(bed: ApiBed, garbage: bytes) -> None:
    answer = await raw(bed, garbage)
    assert b"x-request-id: " in answer
    status, text = shape(answer)
    assert 400 <= status < 500
    assert text


@pytest.mark.parametrize(
    "piece", [b"a" * 1000, b"X: y\r\n" * 200], ids=["one endless header", "endlessly many headers"]
)
async def test_a_head_that_does_not_end_is_cut_off(bed: ApiBed, piece: bytes) -> None:
    begin = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
    assert shape(await raw(bed, begin + piece * 200 if piece[0] == 97 else begin + b"\r\n" + piece * 100))[0] == 431


async def test_trailers_that_do_not_end_are_cut_off(bed: ApiBed) -> None:
    head = b"POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with suppress(ConnectionError):
        assert shape(await raw(bed, head + b"X: y\r\n" * 100_000))[0] in (401, 431)
    await until_async(lambda: bed.server.connections == 0)


async def test_a_head_that_comes_too_slowly_is_given_up(home: Path) -> None:
    async with api_bed(home, settings={"limits.header_timeout_s": 0.2}) as bed:
        assert shape(await raw(bed, b"GET / HTTP/1.1\r\nHo"))[0] == 408
        assert shape(await raw(bed))[0] == 408


async def test_a_body_that_is_too_large_is_refused_and_not_collected(bed: ApiBed) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65536

    try:
        answer = await bed.client.post("/api/tokens", content=endless())
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # the connection was closed while we were still writing
    assert (await bed.client.get("/api/status")).status_code == 200


async def test_a_body_that_does_not_come_is_given_up(bed: ApiBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.2)
    head = f"POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 9\r\n\r\n"
    assert shape(await raw(bed, head.encode()))[0] == 408


async def test_a_stranger_is_refused_before_his_body_is_read(bed: ApiBed) -> None:
    answer = await raw(
        bed, b"POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9000000\r\n\r\n"
    )
    assert shape(answer) == (401, "missing token")


async def test_pipelined_requests_are_answered_in_their_order(bed: ApiBed) -> None:
    paths = ["/api/status", "/api/nothing", "/healthz"]
    requests = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths]
    requests.append(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await raw(bed, b"".join(requests))
    places = [answer.index(text) for text in (b"active_sessions", b"not found", b'{"ok":true}', b"links")]
    assert places == sorted(places)


async def test_an_upgrade_is_not_taken_up(bed: ApiBed) -> None:
    asked = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer = await raw(bed, asked)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_octets_that_are_no_text_do_not_break_an_answer(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    bed.capture(tunnel.id, path="/\xff\x00", request_headers=[(b"x-odd", b"\xff\x01")], request_body=b"\xff\x00")
    answer = await bed.client.get(f"/api/tunnels/{tunnel.id}/requests")
    assert answer.status_code == 200
    assert answer.json()[0]["path"] == "/\xff\x00"


async def test_a_long_list_is_sent_whole(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    for _ in range(300):
        bed.capture(tunnel.id, response_body=b"x" * 10_000)
    shown = (await bed.client.get(f"/api/tunnels/{tunnel.id}/requests?limit=1000")).json()
    assert len(shown) == 300


# --- the end


async def test_draining_closes_idle_connections_and_ends_event_streams_at_once(bed: ApiBed) -> None:
    async with connected(bed) as (idle, _), bed.client.stream("GET", "/api/events") as stream:
        await until_async(lambda: bed.server.connections == 2)
        started = asyncio.get_running_loop().time()
        drain = asyncio.create_task(bed.server.drain(20))
        async for _ in stream.aiter_raw():
            pass
        assert await idle.read() == b""
        await drain
        assert asyncio.get_running_loop().time() - started < 2
    assert bed.server.connections == 0


async def test_draining_lets_a_request_under_way_be_answered(bed: ApiBed) -> None:
    body = b'{"label": "late"}'
    head = f"POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BEARER['Authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with connected(bed) as (reader, writer):
        writer.write(head.encode() + body[:5])
        await until_async(lambda: bed.server._state.tasks)
        drain = asyncio.create_task(bed.server.drain(20))
        await until_async(bed.parts.stopping.is_set)
        writer.write(body[5:])
        answer = await reader.read()
        await drain
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" in answer


async def test_draining_does_not_wait_longer_than_it_may(bed: ApiBed) -> None:
    head = f"POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BEARER['Authorization']}\r\n"
    async with connected(bed) as (reader, writer):
        writer.write(f"{head}Content-Length: 5\r\n\r\n".encode())
        await until_async(lambda: bed.server._state.tasks)
        await asyncio.wait_for(bed.server.drain(0.2), 3)
        await reader.read()
    assert bed.server.connections == 0


async def test_health_says_that_the_node_drains(bed: ApiBed) -> None:
    bed.parts.stopping.set()
    answer = await bed.client.get("/healthz")
    assert (answer.status_code, answer.json()["draining"]) == (503, True)
