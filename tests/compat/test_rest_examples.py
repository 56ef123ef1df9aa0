"""Every example of the published API reference, and of its error table, as an exchange."""

import json
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from api_bed import ADMIN_TOKEN, ApiBed, api_bed
from leasing import Agent, identity

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NOBODY = "a1b2c3d4-e5f6-4890-abcd-ef1234567890"

SEED_ENDPOINTS = [
    ("GET", "/api/tunnels"),
    ("GET", f"/api/tunnels/{NOBODY}"),
    ("DELETE", f"/api/tunnels/{NOBODY}"),
    ("GET", f"/api/tunnels/{NOBODY}/requests"),
    ("POST", f"/api/tunnels/{NOBODY}/replay/{NOBODY}"),
    ("GET", "/api/tokens"),
    ("POST", "/api/tokens"),
    ("DELETE", f"/api/tokens/{NOBODY}"),
    ("GET", "/api/history"),
]


@pytest.fixture
async def bed(home: Path) -> AsyncIterator[ApiBed]:
    async with api_bed(home) as made:
        yield made


def fields(shown: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: shown[name] for name in names}


# --- authentication


@pytest.mark.parametrize(("method", "path"), SEED_ENDPOINTS)
async def test_without_a_token_every_endpoint_says_that_it_is_missing(bed: ApiBed, method: str, path: str) -> None:
    async with bed.anonymous() as nobody:
        answer = await nobody.request(method, path)
    assert answer.status_code == 401
    assert answer.content == b'{"error":"missing token"}'
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("method", "path"), SEED_ENDPOINTS)
async def test_with_an_unknown_token_every_endpoint_says_that_it_is_invalid(
    bed: ApiBed, method: str, path: str
) -> None:
    async with bed.anonymous() as nobody:
        answer = await nobody.request(method, path, headers={"Authorization": "Bearer nope"}, content=b"{")
    assert answer.status_code == 401
    assert answer.content == b'{"error":"invalid token"}'


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "nope"])
async def test_an_empty_header_or_another_scheme_is_a_missing_token(bed: ApiBed, header: str) -> None:
    async with bed.anonymous() as nobody:
        answer = await nobody.get("/api/tunnels", headers={"Authorization": header})
    assert (answer.status_code, answer.json()) == (401, {"error": "missing token"})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_may_be_written_in_any_case(bed: ApiBed, scheme: str) -> None:
    async with bed.anonymous() as client:
        answer = await client.get("/api/tunnels", headers={"Authorization": f"{scheme}  {ADMIN_TOKEN}"})
    assert answer.status_code == 200


async def test_an_api_token_may_do_what_the_admin_may(bed: ApiBed) -> None:
    raw = (await bed.client.post("/api/tokens", json={"label": "ci-deploy"})).json()["token"]
    async with bed.anonymous() as client:
        client.headers["Authorization"] = f"Bearer {raw}"
        assert (await client.get("/api/tunnels")).status_code == 200
        assert (await client.post("/api/tokens", json={"label": "another"})).status_code == 201


# --- status


async def test_status_needs_no_token_and_counts_sessions_and_tunnels(bed: ApiBed) -> None:
    agent = Agent(bed.parts.routes, identity())
    await bed.open_tunnel("abc123", agent=agent)
    await bed.open_tunnel(kind="tcp", agent=agent)
    await bed.open_tunnel("secure", kind="tls", agent=agent)
    async with bed.anonymous() as nobody:
        shown = (await nobody.get("/api/status")).json()
    assert fields(shown, "ok", "active_sessions", "active_tunnels") == {
        "ok": True,
        "active_sessions": 1,
        "active_tunnels": 2,
    }
    assert shown["active_tls_tunnels"] == 1


# --- tunnels


async def test_a_node_without_tunnels_lists_none(bed: ApiBed) -> None:
    answer = await bed.client.get("/api/tunnels")
    assert (answer.status_code, answer.content) == (200, b"[]")


async def test_http_and_tcp_tunnels_are_listed_as_published(bed: ApiBed) -> None:
    http, tcp = await bed.open_tunnel("abc123"), await bed.open_tunnel(kind="tcp")
    http.request_count, http.bytes_in, http.bytes_out = 42, 7, 9
    by_id = {shown["tunnel_id"]: shown for shown in (await bed.client.get("/api/tunnels")).json()}
    assert by_id.keys() == {http.id, tcp.id}
    assert by_id[http.id] == {
        "tunnel_id": http.id,
        "protocol": "http",
        "label": "abc123.localhost",
        "public_url": "http://abc123.localhost:7171",
        "connected_since": "2027-01-15T08:00:00Z",
        "request_count": 42,
        "client_addr": "127.0.0.1:40000",
        "subdomain": "abc123",
        "public_host": "abc123.localhost",
        "public_port": 7171,
        "session_id": http.session.id if http.session else None,
        "bytes_in": 7,
        "bytes_out": 9,
    }
    assert fields(by_id[tcp.id], "protocol", "label", "public_url", "subdomain", "public_port") == {
        "protocol": "tcp",
        "label": str(tcp.port),
        "public_url": f"tcp://:{tcp.port}",
        "subdomain": None,
        "public_port": tcp.port,
    }


async def test_tunnels_are_listed_oldest_first(bed: ApiBed) -> None:
    tunnels = [await bed.open_tunnel(f"name{number}") for number in range(4)]
    for age, tunnel in enumerate(tunnels):
        tunnel.opened_at = 1_000_000 - age
    listed = [shown["tunnel_id"] for shown in (await bed.client.get("/api/tunnels")).json()]
    assert listed == [tunnel.id for tunnel in reversed(tunnels)]


async def test_one_tunnel_is_shown_as_in_the_list(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    answer = await bed.client.get(f"/api/tunnels/{tunnel.id}")
    assert answer.status_code == 200
    assert [answer.json()] == (await bed.client.get("/api/tunnels")).json()


@pytest.mark.parametrize("wrong", [NOBODY, "not-a-uuid", "%00", "%ff", "..%2f..", "a" * 5000, "%F0%9F%8C%9D"])
async def test_an_id_that_is_no_open_tunnel_is_not_found(bed: ApiBed, wrong: str) -> None:
    shown = await bed.client.get(f"/api/tunnels/{wrong}")
    closed = await bed.client.delete(f"/api/tunnels/{wrong}")
    assert shown.status_code == closed.status_code == 404
    if "%2f" not in wrong:
        assert shown.content == b'{"error":"tunnel not found"}'
        assert closed.content == b'{"error":"invalid tunnel id"}'


async def test_a_closed_tunnel_is_gone_from_the_list_and_ended_in_the_history(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    answer = await bed.client.delete(f"/api/tunnels/{tunnel.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await bed.client.get("/api/tunnels")).json() == []
    assert (await bed.client.delete(f"/api/tunnels/{tunnel.id}")).json() == {"error": "invalid tunnel id"}
    (entry,) = (await bed.client.get("/api/history")).json()["entries"]
    assert TIME.fullmatch(entry["unregistered_at"])


# --- captured requests


async def test_a_captured_request_is_shown_as_published(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    capture = bed.capture(
        tunnel.id,
        method="POST",
        path="/hook?x=1",
        status=202,
        request_headers=[(b"Content-Type", b"application/json")],
        request_body=b'{"event":"push"}',
        response_body=b"ok",
        started_at=1_770_091_560.25,
    )
    (shown,) = (await bed.client.get(f"/api/tunnels/{tunnel.id}/requests")).json()
    assert UUID.fullmatch(shown["id"])
    assert UUID.fullmatch(shown["conn_id"])
    assert shown["id"].replace("-", "") == capture.id.hex()
    assert fields(
        shown, "tunnel_id", "method", "path", "status", "request_bytes", "response_bytes", "duration_ms", "captured_at"
    ) == {
        "tunnel_id": tunnel.id,
        "method": "POST",
        "path": "/hook?x=1",
        "status": 202,
        "request_bytes": 16,
        "response_bytes": 2,
        "duration_ms": 12,
        "captured_at": "2026-02-03T04:06:00Z",
    }
    assert json.loads(shown["request_body"]) == {
        "headers": {"content-type": ["application/json"]},
        "body": '{"event":"push"}',
    }
    assert json.loads(shown["response_body"]) == {"headers": {}, "body": "ok"}


async def test_requests_come_newest_first_and_fifty_unless_a_limit_is_given(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    for number in range(60):
        bed.capture(tunnel.id, path=f"/{number}")
    path = f"/api/tunnels/{tunnel.id}/requests"
    assert [shown["path"] for shown in (await bed.client.get(path)).json()] == [f"/{n}" for n in range(59, 9, -1)]
    assert len((await bed.client.get(path, params={"limit": 20})).json()) == 20
    assert len((await bed.client.get(path, params={"limit": 10_000})).json()) == 60


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "99999999999999999999999", "many", "1.5", "", "1_0", "%00"])
async def test_a_limit_that_is_none_is_refused(bed: ApiBed, limit: str) -> None:
    answer = await bed.client.get(f"/api/tunnels/{NOBODY}/requests?limit={limit}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("limit: ")


@pytest.mark.parametrize("unknown", [NOBODY, "not-a-uuid", "%00"])
async def test_a_tunnel_that_never_was_has_no_requests(bed: ApiBed, unknown: str) -> None:
    answer = await bed.client.get(f"/api/tunnels/{unknown}/requests")
    assert (answer.status_code, answer.content) == (200, b"[]")


async def test_requests_outlive_their_tunnel(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    bed.capture(tunnel.id, path="/kept")
    await bed.client.delete(f"/api/tunnels/{tunnel.id}")
    bed.parts.captures.forget(tunnel.id)
    await bed.parts.captures.flush()
    (shown,) = (await bed.client.get(f"/api/tunnels/{tunnel.id}/requests")).json()
    assert shown["path"] == "/kept"


# --- replay


async def test_replay_returns_the_full_record_and_sends_nothing(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    bed.capture(tunnel.id, method="POST", request_body=b"hello")
    (listed,) = (await bed.client.get(f"/api/tunnels/{tunnel.id}/requests")).json()
    answer = await bed.client.post(f"/api/tunnels/{tunnel.id}/replay/{listed['id']}")
    assert answer.status_code == 200
    assert answer.json() == listed
    assert bed.sent == []


@pytest.mark.parametrize("unknown", [NOBODY, "req-uuid-...", "%00"])
async def test_replaying_a_request_that_is_not_recorded_is_not_found(bed: ApiBed, unknown: str) -> None:
    answer = await bed.client.post(f"/api/tunnels/{NOBODY}/replay/{unknown}")
    assert (answer.status_code, answer.content) == (404, b'{"error":"request not found"}')


async def test_replaying_another_tunnels_request_is_not_found(bed: ApiBed) -> None:
    tunnel = await bed.open_tunnel()
    bed.capture(tunnel.id)
    (listed,) = (await bed.client.get(f"/api/tunnels/{tunnel.id}/requests")).json()
    answer = await bed.client.post(f"/api/tunnels/{NOBODY}/replay/{listed['id']}")
    assert (answer.status_code, answer.content) == (404, b'{"error":"request does not belong to this tunnel"}')


# --- tokens


async def test_a_created_token_is_shown_once_and_listed_by_its_hash(bed: ApiBed) -> None:
    answer = await bed.client.post("/api/tokens", json={"label": "ci-deploy", "scope": None})
    assert answer.status_code == 201
    made = answer.json()
    assert UUID.fullmatch(made["id"])
    assert UUID.fullmatch(made["token"])
    assert fields(made, "label", "scope") == {"label": "ci-deploy", "scope": None}
    assert TIME.fullmatch(made["created_at"])
    listed = await bed.client.get("/api/tokens")
    assert listed.json() == [
        {
            "id": made["id"],
            "token_hash": sha256(made["token"].encode()).hexdigest(),
            "label": "ci-deploy",
            "created_at": made["created_at"],
            "last_used_at": None,
            "scope": None,
            "tunnel_count": 0,
            "expires_at": None,
        }
    ]
    assert made["token"] not in listed.text


async def test_a_token_may_be_scoped(bed: ApiBed) -> None:
    answer = await bed.client.post("/api/tokens", json={"label": "ci", "scope": "team-*,demo"})
    assert answer.status_code == 201
    assert answer.json()["scope"] == "team-*,demo"


async def test_a_token_shows_when_it_was_used_and_how_many_tunnels_it_opened(bed: ApiBed) -> None:
    made = (await bed.client.post("/api/tokens", json={"label": "ci-deploy"})).json()
    owner = await bed.parts.tokens.verify(made["token"])
    agent = Agent(bed.parts.routes, owner)
    for name in ("one", "two"):
        await bed.open_tunnel(name, agent=agent)
    (listed,) = (await bed.client.get("/api/tokens")).json()
    assert TIME.fullmatch(listed["last_used_at"])
    assert listed["tunnel_count"] == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"ci"',
        b"{}",
        b'{"label": 5}',
        b'{"label": null}',
        b'{"label": ""}',
        b'{"label": " \\t "}',
        b'{"label": "a\\u0000b"}',
        b'{"label": "\\ud800"}',
        b'{"label": "' + b"x" * 129 + b'"}',
        b'{"label": "ci", "scope": 5}',
        b'{"label": "ci", "scope": "a b"}',
        b'{"label": "ci", "scope": "a\\u0000"}',
        b'{"label": "ci", "scope": "tcp:9-1"}',
        b'{"label": "ci", "ttl_seconds": 0}',
        b'{"label": "ci", "ttl_seconds": "60"}',
        b'{"label": "ci", "ttl_seconds": 1e400}',
        b'{"label": "ci", "ttl_seconds": ' + b"9" * 5000 + b"}",
        b'{"label": "ci", "expires_at": "2020-01-01T00:00:00Z"}',
        b'{"label": "ci", "expires_at": "9999-12-31T23:59:59-14:00"}',
        b'{"label": "ci", "expires_at": "2099-01-01T00:00:00"}',
        b'{"label": "ci", "expires_at": "tomorrow"}',
        b'{"label": "ci", "expires_at": 4102444800}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_a_token_that_cannot_be_made_is_refused_in_the_common_shape(bed: ApiBed, body: bytes) -> None:
    answer = await bed.client.post("/api/tokens", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert (await bed.client.get("/api/tokens")).json() == []


async def test_a_body_that_is_not_said_to_be_json_is_refused(bed: ApiBed) -> None:
    answer = await bed.client.post("/api/tokens", data={"label": "ci"})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


async def test_unknown_members_of_a_request_are_ignored(bed: ApiBed) -> None:
    answer = await bed.client.post("/api/tokens", json={"label": " ci ", "colour": "blue"})
    assert (answer.status_code, answer.json()["label"]) == (201, "ci")


async def test_a_label_of_128_characters_is_taken_even_with_space_around(bed: ApiBed) -> None:
    answer = await bed.client.post("/api/tokens", json={"label": f"  {'é' * 128}\n"})
    assert (answer.status_code, answer.json()["label"]) == (201, "é" * 128)


async def test_a_token_can_be_told_when_to_end(bed: ApiBed) -> None:
    answer = await bed.client.post("/api/tokens", json={"label": "ci", "ttl_seconds": 3600})
    assert TIME.fullmatch(answer.json()["expires_at"])
    both = {"label": "ci", "ttl_seconds": 3600 * 24 * 365, "expires_at": "2027-01-01T02:00:00+02:00"}
    answer = await bed.client.post("/api/tokens", json=both)
    assert answer.json()["expires_at"] == "2027-01-01T00:00:00Z"


async def test_a_deleted_token_is_not_found_a_second_time_and_opens_nothing_any_more(bed: ApiBed) -> None:
    made = (await bed.client.post("/api/tokens", json={"label": "ci"})).json()
    deleted: list[str] = []
    bed.parts.tokens.on_deleted.append(deleted.append)
    answer = await bed.client.delete(f"/api/tokens/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert deleted == [made["id"]]
    again = await bed.client.delete(f"/api/tokens/{made['id']}")
    assert (again.status_code, again.content) == (404, b'{"error":"token not found"}')
    async with bed.anonymous() as client:
        refused = await client.get("/api/tunnels", headers={"Authorization": f"Bearer {made['token']}"})
    assert refused.json() == {"error": "invalid token"}


@pytest.mark.parametrize("unknown", [NOBODY, "tok-uuid-...", "%00"])
async def test_deleting_a_token_that_never_was_is_not_found(bed: ApiBed, unknown: str) -> None:
    answer = await bed.client.delete(f"/api/tokens/{unknown}")
    assert (answer.status_code, answer.content) == (404, b'{"error":"token not found"}')


# --- history


async def test_history_shows_who_opened_what_and_when(bed: ApiBed) -> None:
    made = (await bed.client.post("/api/tokens", json={"label": "ci-deploy"})).json()
    agent = Agent(bed.parts.routes, await bed.parts.tokens.verify(made["token"]))
    tunnel = await bed.open_tunnel("abc123", agent=agent)
    shown = (await bed.client.get("/api/history")).json()
    assert shown["total"] == 1
    (entry,) = shown["entries"]
    assert UUID.fullmatch(entry.pop("id"))
    assert TIME.fullmatch(entry.pop("registered_at"))
    assert entry == {
        "tunnel_id": tunnel.id,
        "protocol": "http",
        "label": "abc123.localhost",
        "session_id": agent.session.id,
        "token_id": made["id"],
        "token_label": "ci-deploy",
        "unregistered_at": None,
    }


async def test_history_names_no_token_for_the_admin_nor_for_a_deleted_one(bed: ApiBed) -> None:
    made = (await bed.client.post("/api/tokens", json={"label": "ci"})).json()
    await bed.open_tunnel("one", agent=Agent(bed.parts.routes, await bed.parts.tokens.verify(made["token"])))
    await bed.open_tunnel("two")
    await bed.client.delete(f"/api/tokens/{made['id']}")
    entries = (await bed.client.get("/api/history")).json()["entries"]
    assert len(entries) == 2
    assert {(entry["token_id"], entry["token_label"]) for entry in entries} == {(None, None)}


async def test_history_is_paged_newest_first_with_the_total_of_the_filter(bed: ApiBed) -> None:
    for number in range(60):
        kind = "tcp" if number % 20 == 19 else "http"
        await bed.parts.history.opened(f"00000000-0000-4000-8000-{number:012d}", kind, f"n{number}", NOBODY, None)
    page = (await bed.client.get("/api/history", params={"protocol": "http", "limit": 25, "offset": 50})).json()
    assert page["total"] == 57
    assert [entry["label"] for entry in page["entries"]] == [f"n{n}" for n in (6, 5, 4, 3, 2, 1, 0)]
    assert len((await bed.client.get("/api/history")).json()["entries"]) == 50
    tcp = (await bed.client.get("/api/history?protocol=tcp&sort_dir=asc")).json()
    assert [entry["label"] for entry in tcp["entries"]] == ["n19", "n39", "n59"]


async def test_history_can_be_narrowed_and_sorted(bed: ApiBed) -> None:
    made = (await bed.client.post("/api/tokens", json={"label": "ci"})).json()
    mine = Agent(bed.parts.routes, await bed.parts.tokens.verify(made["token"]))
    closed = await bed.open_tunnel("closed", agent=mine)
    await bed.open_tunnel("open", agent=mine)
    await bed.open_tunnel(kind="tcp")
    await bed.client.delete(f"/api/tunnels/{closed.id}")

    async def labels(query: str) -> list[str]:
        answer = await bed.client.get(f"/api/history?{query}")
        assert answer.status_code == 200, answer.text
        return [entry["label"].partition(".")[0] for entry in answer.json()["entries"]]

    assert await labels("active=true&protocol=http") == ["open"]
    assert await labels("active=false") == ["closed"]
    assert await labels(f"token_id={made['id']}") == ["open", "closed"]
    assert await labels("token_id=nobody") == []
    assert (await labels("sort_by=protocol&sort_dir=desc"))[0].isdecimal()
    assert await labels("sort_by=colour&sort_dir=sideways") == await labels("")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "offset=-1",
        "offset=99999999999999999999",
        "protocol=sctp",
        "protocol=",
        "active=perhaps",
        "token_id=%00",
        f"token_id={'a' * 1000}",
    ],
)
async def test_a_malformed_history_query_is_refused(bed: ApiBed, query: str) -> None:
    answer = await bed.client.get(f"/api/history?{query}")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


# --- what holds everywhere


async def test_an_unknown_path_and_a_wrong_method_are_answered_in_the_common_shape(bed: ApiBed) -> None:
    unknown = await bed.client.get("/api/nothing")
    assert (unknown.status_code, unknown.content) == (404, b'{"error":"not found"}')
    wrong = await bed.client.put(f"/api/tunnels/{NOBODY}")
    assert (wrong.status_code, list(wrong.json())) == (405, ["error"])
    assert {method.strip() for method in wrong.headers["allow"].split(",")} == {"DELETE", "GET", "HEAD"}
