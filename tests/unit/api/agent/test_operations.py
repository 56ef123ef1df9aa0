import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agent_bed import PREFIX, MemoryAgent, client_of
from moongate.api.agent.app import agent_openapi_document
from moongate.api.agent.requests import BODY_MAX_BYTES
from testbed import until_async

SITE = {"domain": "shop.example.test", "upstreamURL": "http://127.0.0.1:9001"}
# The methods of each path, the published one first.
INDEX = {
    "info": ["GET"],
    "config": ["GET"],
    "tun/start": ["GET", "POST"],
    "tun/shutdown": ["GET", "POST"],
    "tun/restart": ["GET", "POST"],
    "health": ["GET"],
    "traffic/create": ["POST"],
    "traffic/update": ["POST", "PUT", "PATCH"],
    "traffic/delete": ["GET", "POST", "DELETE"],
    "traffic/list": ["GET"],
    "ports/allocate": ["GET", "POST"],
    "ports/release": ["POST"],
    "ports/list": ["GET"],
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@pytest.fixture
def agent() -> MemoryAgent:
    return MemoryAgent()


@pytest.fixture
async def client(agent: MemoryAgent) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(agent) as made:
        yield made


async def ask(client: httpx.AsyncClient, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
    content = None if body is None else json.dumps(body)
    return await client.request(method, f"{PREFIX}/{path}", content=content, **more)


# --- methods and paths


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, some in INDEX.items() for method in some])
async def test_every_method_of_every_path_is_answered(client: httpx.AsyncClient, path: str, method: str) -> None:
    answer = await ask(client, method, path, {"port": 1})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("path", "method"), [(path, method) for path in INDEX for method in METHODS])
async def test_another_method_is_405_and_the_right_ones_are_named(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    if method in INDEX[path]:
        return
    answer = await ask(client, method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == ", ".join(INDEX[path])
    if method != "HEAD":
        assert answer.json() == {"status": False, "error": "method not allowed"}


@pytest.mark.parametrize(
    "path", ["", "/", "/api", "/api/client/v1.0", "/api/client/v1.0/nothing", "/api/client/v2/info"]
)
async def test_an_unknown_path_is_404_in_the_envelope(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (404, {"status": False, "error": "not found"})


@pytest.mark.parametrize("path", INDEX)
async def test_a_trailing_slash_changes_nothing(client: httpx.AsyncClient, path: str) -> None:
    method = INDEX[path][0]
    answer = await ask(client, method, path + "/", {"port": 1})
    assert answer.status_code == 200


def test_the_document_names_every_method_and_nothing_else() -> None:
    paths = agent_openapi_document("1")["paths"]
    written = {path.removeprefix(f"{PREFIX}/"): {name.upper() for name in some} for path, some in paths.items()}
    assert written == {path: set(some) for path, some in INDEX.items()}
    names = [operation["operationId"] for some in paths.values() for operation in some.values()]
    assert len(names) == len(set(names))


async def test_the_application_describes_itself(client: httpx.AsyncClient) -> None:
    assert (await ask(client, "GET", "openapi.json")).json()["info"]["title"] == "Moongate agent API"


# --- bodies


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[1]", "request body must be a JSON object"),
        (b'"text"', "request body must be a JSON object"),
        (b"null", "request body must be a JSON object"),
        (b"", "request body must be a JSON object"),
        (b"  \r\n", "request body must be a JSON object"),
        (b"{", "request body is not valid JSON: expecting property name enclosed in double quotes (line 1, column 2)"),
        (b'{"https": [NaN]}', "request body is not valid JSON"),
        (b'{"https": ' + b"[" * 100_000, "request body is not valid JSON"),
        (b'{"ports": [{"port": ' + b"9" * 5000 + b"}]}", "request body is not valid JSON"),
        (b"\xff\xfe{}", "request body is not UTF-8"),
        (b'{"https": {}}', "https must be an array of objects"),
        (b'{"ports": [{"port": 1}, 2]}', "ports[1] must be an object"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "traffic/create"), ("POST", "traffic/update")])
async def test_a_body_that_cannot_be_read_is_400_and_applies_nothing(
    client: httpx.AsyncClient, agent: MemoryAgent, method: str, path: str, body: bytes, message: str
) -> None:
    answer = await client.request(method, f"{PREFIX}/{path}", content=body)
    assert (answer.status_code, answer.json()) == (400, {"status": False, "error": message})
    assert agent.book.rules() == []


@pytest.mark.parametrize("body", [{}, {"https": None, "ports": [], "portmaps": None}, {"unknown": 1}])
async def test_lists_that_are_missing_or_null_are_empty(client: httpx.AsyncClient, body: Any) -> None:
    for path in ("traffic/create", "traffic/update", "traffic/delete"):
        answer = await ask(client, "POST", path, body)
        assert answer.json() == {"status": True, "error": "", "results": []}


@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"])
@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html"])
async def test_a_body_is_read_whatever_its_headers_say(
    client: httpx.AsyncClient, content_type: str | None, accept: str | None
) -> None:
    headers = {"Content-Type": content_type, "Accept": accept}
    client.headers.pop("accept")
    given = {name: value for name, value in headers.items() if value is not None}
    answer = await ask(client, "POST", "traffic/create", {"https": [SITE]}, headers=given)
    assert answer.json()["status"] is True


async def test_a_byte_order_mark_is_ignored(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PREFIX}/traffic/create", content=b"\xef\xbb\xbf{}")
    assert answer.json()["status"] is True


async def test_a_body_over_one_mebibyte_is_413(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY_MAX_BYTES // 65536 + 1):
            yield b" " * 65536

    for content in (b" " * (BODY_MAX_BYTES + 1), pieces()):
        answer = await client.post(f"{PREFIX}/traffic/create", content=content)
        assert answer.status_code == 413
        assert answer.json() == {"status": False, "error": "the body is larger than 1048576 bytes"}


async def test_a_body_of_one_mebibyte_is_read(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PREFIX}/traffic/create", content=b"{}".ljust(BODY_MAX_BYTES))
    assert answer.status_code == 200


async def test_what_breaks_inside_is_500_in_the_envelope_without_its_details(
    client: httpx.AsyncClient, agent: MemoryAgent
) -> None:
    agent.broken = RuntimeError("hunter2")
    answer = await ask(client, "GET", "info")
    assert answer.status_code == 500
    assert answer.json()["status"] is False
    assert answer.json()["error"] == f"internal error (request {answer.headers['x-request-id']})"


# --- deleting


@pytest.mark.parametrize("method", INDEX["traffic/delete"])
async def test_rules_are_deleted_by_a_body_whatever_the_method(
    client: httpx.AsyncClient, agent: MemoryAgent, method: str
) -> None:
    await ask(client, "POST", "traffic/create", {"https": [SITE]})
    answer = await ask(
        client, method, "traffic/delete", {"https": [{"domain": "shop.example.test", "port": "ignored"}]}
    )
    assert answer.json()["status"] is True
    assert agent.book.rules() == []


@pytest.mark.parametrize("method", INDEX["traffic/delete"])
async def test_rules_are_deleted_by_the_query_where_there_is_no_body(
    client: httpx.AsyncClient, agent: MemoryAgent, method: str
) -> None:
    await ask(client, "GET", "ports/allocate?port=22431")
    rules = {
        "https": [SITE, {**SITE, "domain": "b.example.test"}],
        "ports": [{"port": 22431, "destination": "127.0.0.1", "dstPort": 22}],
        "portmaps": [{"port": 15001, "dstPort": 5432, "destination": "db.example.net"}],
    }
    assert (await ask(client, "POST", "traffic/create", rules)).json()["status"] is True
    query = "domain=shop.example.test&domain=b.example.test&port=22431&portmap=15001"
    answer = await ask(client, method, f"traffic/delete?{query}")
    assert [result["key"] for result in answer.json()["results"]] == [
        "shop.example.test",
        "b.example.test",
        "22431",
        "15001",
    ]
    assert [rule.members() for rule in agent.book.rules()] == [{"port": 22431, "destination": "", "dstPort": 0}]


async def test_a_deletion_without_body_and_query_does_nothing_and_succeeds(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "GET", "traffic/delete")
    assert (answer.status_code, answer.json()) == (200, {"status": True, "error": "", "results": []})


async def test_a_query_beside_a_body_is_ignored(client: httpx.AsyncClient, agent: MemoryAgent) -> None:
    await ask(client, "POST", "traffic/create", {"https": [SITE]})
    await ask(client, "GET", "traffic/delete?domain=shop.example.test", {})
    assert len(agent.book.rules()) == 1


@pytest.mark.parametrize(("parameter", "value"), [("port", "x"), ("port", "0"), ("portmap", "65536"), ("portmap", "")])
async def test_a_port_of_the_query_that_is_none_is_named(client: httpx.AsyncClient, parameter: str, value: str) -> None:
    answer = await ask(client, "GET", f"traffic/delete?{parameter}={value}")
    expected = {"status": False, "error": f"{parameter} must be a number from 1 to 65535"}
    assert (answer.status_code, answer.json()) == (200, expected)


# --- session, ports, config


@pytest.mark.parametrize(("query", "waited"), [("", 0.0), ("?wait=0", 0.0), ("?wait=2.5", 2.5), ("?wait=30", 30.0)])
@pytest.mark.parametrize("path", ["tun/start", "tun/restart"])
async def test_a_start_waits_as_long_as_is_asked(
    client: httpx.AsyncClient, agent: MemoryAgent, path: str, query: str, waited: float
) -> None:
    await ask(client, "GET", path + query)
    assert agent.waits == [waited]


@pytest.mark.parametrize("wait", ["31", "-1", "x", "", "1e3", "nan"])
async def test_a_wait_out_of_bounds_is_refused_and_starts_nothing(
    client: httpx.AsyncClient, agent: MemoryAgent, wait: str
) -> None:
    answer = await ask(client, "GET", f"tun/start?wait={wait}")
    expected = {"status": False, "error": "wait must be a number of seconds from 0 to 30", "isTunConnected": True}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert agent.waits == []


@pytest.mark.parametrize(
    ("query", "message"),
    [("port=0", "port must be a number from 1 to 65535"), ("transport=sctp", "transport must be tcp or udp")],
)
async def test_an_allocation_that_makes_no_sense_has_the_envelope_of_one(
    client: httpx.AsyncClient, query: str, message: str
) -> None:
    answer = await ask(client, "GET", f"ports/allocate?{query}")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": False, "port": 0, "message": "", "error": message},
    )


async def test_a_port_for_datagrams_is_allocated_and_released(client: httpx.AsyncClient, agent: MemoryAgent) -> None:
    await ask(client, "GET", "ports/allocate?port=22431&transport=UDP")
    assert list(agent.book.ports) == ["22431/udp"]
    answer = await ask(client, "POST", "ports/release", {"port": 22431, "transport": "udp"})
    assert answer.json() == {"status": True, "error": ""}
    assert agent.book.rules() == []


@pytest.mark.parametrize("port", [None, "x", 0, 65536, True, 1.5, [], {}])
async def test_releasing_what_is_no_port_is_refused(client: httpx.AsyncClient, port: Any) -> None:
    answer = await ask(client, "POST", "ports/release", {"port": port})
    expected = {"status": False, "error": "port must be a number from 1 to 65535"}
    assert (answer.status_code, answer.json()) == (200, expected)


async def test_ports_are_listed_as_a_bare_array(client: httpx.AsyncClient) -> None:
    assert (await ask(client, "GET", "ports/list")).content == b"[]"
    await ask(client, "GET", "ports/allocate?port=22431")
    assert (await ask(client, "GET", "ports/list")).content == b'[{"port":22431,"destination":"","dstPort":0}]'


async def test_secrets_are_masked_and_refused_where_nobody_can_tell_who_asks(
    client: httpx.AsyncClient, agent: MemoryAgent
) -> None:
    await ask(client, "POST", "traffic/create", {"https": [{**SITE, "password": "scrypt$1$1$1$a$b"}]})
    assert (await ask(client, "GET", "config")).json()["https"][0]["password"] == "***"
    assert (await ask(client, "GET", "config?secrets=false")).status_code == 200
    # Without a socket there is nobody at the other end of it.
    answer = await ask(client, "GET", "config?secrets=true")
    assert answer.status_code == 403
    assert answer.json() == {"status": False, "error": "secrets are shown only to the user that the agent runs as"}
    assert True not in agent.secrets_asked


async def test_the_rules_alone_can_be_listed(client: httpx.AsyncClient) -> None:
    await ask(client, "POST", "traffic/create", {"https": [SITE]})
    answer = await ask(client, "GET", "traffic/list")
    assert answer.json() == {"status": True, "error": "", "https": [SITE], "ports": [], "portmaps": []}


# --- events


async def test_events_come_as_they_happen_and_the_subscription_ends_with_them(
    client: httpx.AsyncClient, agent: MemoryAgent
) -> None:
    answering = asyncio.ensure_future(ask(client, "GET", "events"))
    await until_async(lambda: agent.feed.has_listeners)
    agent.feed.publish("rule_changed", {"kind": "https", "key": "a\nb"})
    agent.feed.publish("tunnel_down", {})
    agent.feed.close()
    answer = await answering
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text == (
        'retry: 2000\n\nevent: rule_changed\ndata: {"kind":"https","key":"a\\nb"}\n\nevent: tunnel_down\ndata: {}\n\n'
    )
    assert not agent.feed.has_listeners
