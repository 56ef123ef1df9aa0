"""Connection records on each kind of database."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select

import moongate.audit.connections
from auditing import STARTED_AT, TUNNEL, Clock
from moongate.audit.connections import SWEEP_INTERVAL_S, ConnectionRecord, Connections
from moongate.storage.database import Database
from moongate.storage.schema import connections as table

NODE = "6a0f7c52-3a1e-4d0b-8a55-0d9e2b1c7f10"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def steady() -> Clock:
    return Clock(1000.0)


@pytest.fixture
async def connections(db: Database, clock: Clock, steady: Clock) -> AsyncIterator[Connections]:
    made = Connections(db, NODE, clock, steady)
    await made.start()
    yield made
    await made.aclose()


def accept(connections: Connections, **members: Any) -> ConnectionRecord:
    values = {
        "tunnel_id": TUNNEL,
        "tunnel_name": "a.tunnel.test",
        "identity": "admin",
        "remote_address": "198.51.100.7:40122",
    }
    return connections.open("HTTP", **values | members)


async def stored(db: Database) -> list[Any]:
    async with db.connect() as conn:
        return list((await conn.execute(select(table).order_by(table.c.connected))).all())


async def test_a_connection_is_recorded_from_open_to_close(
    connections: Connections, db: Database, clock: Clock, steady: Clock
) -> None:
    record = accept(connections, target_address="127.0.0.1:3000")
    await connections.flush()
    [row] = await stored(db)
    assert (row.id, row.status, row.disconnected) == (record.uuid, "CONNECTED", None)
    record.bytes_in, record.bytes_out, record.requests, record.user_agent = 10, 2000, 3, "curl/8"
    record.type = "WEBSOCKET"
    clock.now += 5
    steady.now += 5
    connections.close(record, "visitor closed")
    await connections.flush()
    [row] = await stored(db)
    assert (row.status, row.end_reason, row.type) == ("DISCONNECTED", "visitor closed", "WEBSOCKET")
    assert (row.bytes_in, row.bytes_out, row.requests) == (10, 2000, 3)
    assert (row.user_agent, row.remote_address, row.target_address) == (
        "curl/8",
        "198.51.100.7:40122",
        "127.0.0.1:3000",
    )
    assert row.disconnected - row.connected == row.duration_us == 5_000_000
    assert (row.node_id, row.tunnel_id, row.identity) == (NODE, TUNNEL, "admin")
    assert connections.live == {}


async def test_a_wall_clock_that_jumps_does_not_change_how_long_a_connection_lasted(
    connections: Connections, db: Database, clock: Clock, steady: Clock
) -> None:
    record = accept(connections)
    clock.now -= 3600
    steady.now += 2.5
    connections.close(record, "visitor closed")
    await connections.flush()
    [row] = await stored(db)
    assert row.duration_us == 2_500_000


async def test_closing_twice_keeps_the_first_reason(connections: Connections, db: Database) -> None:
    record = accept(connections)
    connections.close(record, "visitor closed")
    connections.close(record, "node stopped")
    await connections.flush()
    assert [row.end_reason for row in await stored(db)] == ["visitor closed"]


async def test_a_terminated_connection_says_so(connections: Connections, db: Database) -> None:
    connections.close(accept(connections), "token revoked", status="TERMINATED")
    await connections.flush()
    assert [row.status for row in await stored(db)] == ["TERMINATED"]


async def test_counters_of_a_live_connection_are_stored_every_ten_seconds(
    connections: Connections, db: Database, clock: Clock, steady: Clock
) -> None:
    moving, idle = accept(connections), accept(connections)
    await connections.flush()
    moving.bytes_out = 5
    clock.now += SWEEP_INTERVAL_S
    steady.now += SWEEP_INTERVAL_S
    await connections.flush()
    rows = {row.id: row for row in await stored(db)}
    assert rows[moving.uuid].bytes_out == 5
    assert rows[moving.uuid].last_activity == int((STARTED_AT + SWEEP_INTERVAL_S) * 1e6)
    assert rows[moving.uuid].duration_us == SWEEP_INTERVAL_S * 1e6
    assert rows[idle.uuid].updated == int(STARTED_AT * 1e6), "nothing moved there, so nothing is written"


async def test_what_a_crash_left_open_is_closed_as_lost(db: Database, connections: Connections, clock: Clock) -> None:
    crashed, other = Connections(db, NODE, clock), Connections(db, "another node", clock)
    for node in (crashed, other):
        accept(node)
        await node.flush()
    clock.now += 3600
    await Connections(db, NODE, clock)._close_leftovers()
    rows = {row.node_id: row for row in await stored(db)}
    assert (rows[NODE].status, rows[NODE].end_reason) == ("CONNMGR_CLIENT_LOST", "node lost")
    assert rows[NODE].disconnected == int(STARTED_AT * 1e6), "the last that is known of it"
    assert rows["another node"].status == "CONNECTED"


async def test_stopping_closes_and_writes_what_is_live(db: Database) -> None:
    connections = Connections(db, NODE)
    await connections.start()
    accept(connections)
    await connections.aclose()
    [row] = await stored(db)
    assert (row.status, row.end_reason) == ("DISCONNECTED", "node stopped")


async def test_the_list_shows_live_connections_as_they_are_now(
    connections: Connections, clock: Clock, steady: Clock
) -> None:
    connections.close(accept(connections), "visitor closed")
    clock.now += 1
    live = accept(connections)
    live.bytes_in = 7
    steady.now += 3
    total, [first, second] = await connections.list()
    assert total == 2
    assert (first["id"], first["bytes_in"], first["duration_ms"]) == (live.uuid, 7, 3000)
    assert (first["connected"], first["disconnected"]) == ("2026-02-03T04:06:01.000Z", None)
    assert second["disconnected"] == "2026-02-03T04:06:00.000Z"
    assert (await connections.list(live=True))[0] == 1
    assert (await connections.list(live=False, limit=1, offset=1)) == (1, [])
    assert (await connections.list(tunnel_id="another"))[0] == 0
    assert await connections.get(live.uuid) == first
    assert await connections.get(second["id"]) == second
    assert await connections.get("not-a-uuid") is None
    assert await connections.get(TUNNEL) is None


async def test_thousands_of_visitors_are_written_once_each(connections: Connections, db: Database) -> None:
    for _ in range(3_000):
        connections.close(accept(connections), "visitor closed")
    await connections.flush()
    assert (len(await stored(db)), connections.pending, connections.dropped_records) == (3_000, 0, 0)


async def test_what_a_stranger_sends_does_not_keep_a_record_out(connections: Connections, db: Database) -> None:
    hostile = accept(connections)
    hostile.user_agent = "\0" + "x" * 5000
    connections.close(hostile, "visitor closed")
    hopeless = accept(connections, remote_address=None)
    connections.close(hopeless, "visitor closed")
    await connections.flush()
    assert [row.user_agent for row in await stored(db)] == ["x" * 511]
    assert connections.dropped_records == 1


async def test_records_beyond_the_bound_are_dropped_oldest_first(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moongate.audit.connections, "PENDING_MAX", 10)
    first, *others = [accept(connections) for _ in range(13)]
    assert (connections.pending, connections.dropped_records) == (10, 3)
    assert first.id not in connections._pending
    assert others[-1].id in connections._pending
