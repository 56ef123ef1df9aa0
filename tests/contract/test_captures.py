"""Captured requests on each kind of database."""

import json
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

import moongate.audit.captures
from auditing import TUNNEL, make_capture, settings
from moongate.audit.captures import Captures
from moongate.audit.ids import id_text
from moongate.audit.sealing import KEY_BYTES, Sealer
from moongate.storage.database import Database
from moongate.storage.schema import captured_requests

SEALER = Sealer(bytes(KEY_BYTES))
SECRET = "Bearer hunter2"
OTHER = "d1d2e3f4-0a1b-4c2d-8e3f-405162738495"


@pytest.fixture
async def captures(db: Database) -> AsyncIterator[Captures]:
    made = Captures(db, settings(ring=10), SEALER)
    yield made
    await made.aclose()


async def count(db: Database) -> int:
    async with db.connect() as conn:
        found: int = (await conn.execute(select(func.count()).select_from(captured_requests))).scalar_one()
        return found


async def test_a_recorded_object_is_the_same_from_memory_and_from_the_database(captures: Captures) -> None:
    capture = make_capture()
    captures.add(capture)
    from_memory = await captures.requests(TUNNEL)
    captures.forget(TUNNEL)
    await captures.flush()
    assert captures._rings == {}
    assert await captures.requests(TUNNEL) == from_memory
    assert from_memory == [
        {
            "id": id_text(capture.id),
            "tunnel_id": TUNNEL,
            "conn_id": id_text(capture.conn_id),
            "method": "POST",
            "path": "/hook?x=1",
            "status": 202,
            "request_bytes": 16,
            "response_bytes": 2,
            "duration_ms": 12,
            "ttfb_ms": 10,
            "captured_at": "2026-02-03T04:06:00Z",
            "request_body": '{"headers":{"content-type":["application/json"]},"body":"{\\"event\\":\\"push\\"}"}',
            "response_body": '{"headers":{"content-type":["text/plain"]},"body":"ok"}',
        }
    ]


async def test_secrets_are_masked_everywhere_but_come_back_for_a_resend(captures: Captures, db: Database) -> None:
    headers = [(b"Host", b"a"), (b"Authorization", SECRET.encode()), (b"Accept", b"*/*"), (b"Cookie", b"id=hunter2")]
    capture = make_capture(request_headers=headers, response_headers=[(b"Set-Cookie", b"id=hunter2")])
    captures.add(capture)
    assert "hunter2" not in json.dumps(await captures.requests(TUNNEL))
    captures.forget(TUNNEL)
    await captures.flush()
    async with db.connect() as conn:
        row = (await conn.execute(select(captured_requests))).one()
    assert not any(b"hunter2" in (value if isinstance(value, bytes) else str(value).encode()) for value in row)
    assert "hunter2" not in json.dumps(await captures.requests(TUNNEL))
    found = await captures.get(id_text(capture.id))
    assert found is not None
    assert found.resendable().headers == headers
    assert found.response_headers == [(b"Set-Cookie", b"id=hunter2")]
    assert "hunter2" not in repr(found.resendable())


async def test_secrets_sealed_under_a_lost_key_are_left_out_of_a_resend(captures: Captures, db: Database) -> None:
    capture = make_capture(request_headers=[(b"Authorization", SECRET.encode()), (b"Accept", b"*/*")])
    captures.add(capture)
    await captures.flush()
    found = await Captures(db, settings(), Sealer(b"x" * KEY_BYTES)).get(id_text(capture.id))
    assert found is not None
    assert found.resendable().headers == [(b"Accept", b"*/*")]


async def test_the_newest_of_memory_and_database_are_merged(captures: Captures, db: Database) -> None:
    for number in range(6):
        captures.add(make_capture(path=f"/{number}"))
    await captures.flush()
    restarted = Captures(db, settings(ring=10), SEALER)
    for number in range(6, 8):
        restarted.add(make_capture(path=f"/{number}"))
    assert [shown["path"] for shown in await restarted.requests(TUNNEL, 5)] == ["/7", "/6", "/5", "/4", "/3"]
    await restarted.flush()
    assert [shown["path"] for shown in await restarted.requests(TUNNEL, 1000)] == [f"/{n}" for n in range(7, -1, -1)]
    assert await restarted.requests(OTHER) == []


async def test_only_the_newest_of_a_flood_are_written(captures: Captures, db: Database) -> None:
    for number in range(1000):
        captures.add(make_capture(path=f"/{number}"))
    captures.add(make_capture(tunnel_id=OTHER))
    await captures.flush()
    assert (captures.dropped_records, captures.pending, await count(db)) == (990, 0, 11)
    assert (await captures.requests(TUNNEL))[0]["path"] == "/999"


async def test_the_database_keeps_the_last_of_each_tunnel(captures: Captures, db: Database) -> None:
    captures.add(make_capture(tunnel_id=OTHER, path="/other"))
    for number in range(100):
        captures.add(make_capture(path=f"/{number}"))
        if number % 7 == 0:
            await captures.flush()
    captures.forget(TUNNEL)
    await captures.flush()
    assert [shown["path"] for shown in await captures.requests(TUNNEL, 1000)] == [f"/{n}" for n in range(99, 89, -1)]
    assert await count(db) == 11
    assert captures.dropped_records == 0


async def test_the_oldest_bodies_are_dropped_first_and_marked_cut(db: Database) -> None:
    captures = Captures(db, settings(total_bytes=100), SEALER)
    recorded = [make_capture(request_body=b"x" * 40, response_body=None, path=f"/{number}") for number in range(4)]
    for capture in recorded:
        captures.add(capture)
    assert (captures.dropped_bodies, captures.body_bytes) == (2, 80)
    assert [capture.request_body is None for capture in recorded] == [True, True, False, False]
    assert recorded[0].resendable().truncated
    assert not recorded[3].resendable().truncated
    await captures.flush()
    stored = await Captures(db, settings(), SEALER).get(id_text(recorded[0].id))
    assert stored is not None
    assert (stored.resendable().truncated, stored.request_headers) == (True, recorded[0].request_headers)


async def test_bodies_that_leave_a_ring_leave_the_budget(captures: Captures) -> None:
    for _ in range(1000):
        captures.add(make_capture(request_body=b"x" * 10, response_body=b"y" * 10))
    assert captures.body_bytes == 200
    captures.forget(TUNNEL)
    await captures.flush()
    assert (captures.body_bytes, captures._with_bodies, captures._records) == (0, {}, 0)


async def test_a_late_capture_of_a_forgotten_tunnel_is_written_too(captures: Captures, db: Database) -> None:
    captures.add(make_capture())
    captures.forget(TUNNEL)
    captures.add(make_capture())
    await captures.flush()
    assert (captures._rings, await count(db)) == ({}, 2)
    captures.forget(TUNNEL)
    await captures.flush()


async def test_binary_and_empty_exchanges_survive_storing(captures: Captures, db: Database) -> None:
    binary = make_capture(request_body=bytes(range(256)), response_body=b"", response_headers=[(b"X", b"\xff: \xfe")])
    bare = make_capture(request_headers=[], response_headers=[], request_body=None, response_body=None, path="/\0ü")
    captures.add(binary)
    captures.add(bare)
    await captures.flush()
    assert captures.dropped_records == 0
    fresh = Captures(db, settings(), SEALER)
    found = [await fresh.get(id_text(capture.id)) for capture in (binary, bare)]
    assert found[0] is not None
    assert found[0].public() == binary.public()
    assert found[1] is not None
    assert (found[1].path, found[1].public()["request_body"]) == ("/ü", None)


async def test_an_unknown_request_is_none(captures: Captures) -> None:
    assert await captures.get(OTHER) is None
    assert await captures.get("not-a-uuid") is None


async def test_nothing_is_kept_when_capturing_is_off(db: Database) -> None:
    captures = Captures(db, settings(enabled=False), SEALER)
    captures.add(make_capture())
    await captures.flush()
    assert (await captures.requests(TUNNEL), await count(db)) == ([], 0)


async def test_quiet_tunnels_leave_memory_when_there_are_too_many(
    captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moongate.audit.captures, "RECORDS_MAX", 5)
    captures.add(make_capture(tunnel_id=OTHER))
    await captures.flush()
    for _ in range(5):
        captures.add(make_capture())
    await captures.flush()
    assert list(captures._rings) == [TUNNEL]
    assert len(await captures.requests(OTHER)) == 1, "the database answers"


async def test_what_is_stored_of_all_tunnels_together_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moongate.audit.captures, "STORED_MAX", 3)
    captures = Captures(db, settings(), SEALER)
    for number in range(5):
        captures.add(make_capture(tunnel_id=TUNNEL if number % 2 else OTHER))
    await captures.flush()
    assert await count(db) == 3
