"""Whatever fails and whenever: what was recorded is stored, still waits, or is counted as dropped."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Executable, Table, func, select

import auditing
from auditing import TUNNEL, make_capture
from moongate.audit.captures import Captures
from moongate.audit.connections import ConnectionRecord, Connections
from moongate.audit.sealing import KEY_BYTES, Sealer
from moongate.errors import StorageError
from moongate.storage.database import Database, Row, sqlite_url
from moongate.storage.schema import captured_requests
from moongate.storage.schema import connections as records

RING = 5
SEALER = Sealer(bytes(KEY_BYTES))
tunnels = st.sampled_from([TUNNEL, "d1d2e3f4-0a1b-4c2d-8e3f-405162738495"])
steps = st.one_of(
    st.tuples(st.just("add"), tunnels),
    st.tuples(st.just("forget"), tunnels),
    st.tuples(st.just("flush"), st.booleans()),
    st.tuples(st.just("add while flushing"), st.booleans()),
)
visits = st.sampled_from(["open", "close", "flush", "fail"])


class Unreliable(Database):
    """A real database that fails when told, after letting others run as a slow one would."""

    fails = False

    async def write_rows(self, statement: Executable, rows: Sequence[Row], *, hurried: bool = False) -> int:
        await asyncio.sleep(0)
        if self.fails:
            raise StorageError("told to fail")
        return await super().write_rows(statement, rows, hurried=hurried)


async def count(db: Database, table: Table, **where: str) -> int:
    conditions = [table.c[name] == value for name, value in where.items()]
    async with db.connect() as conn:
        found: int = (await conn.execute(select(func.count()).select_from(table).where(*conditions))).scalar_one()
        return found


async def flush(part: Any) -> None:
    with suppress(StorageError):
        await part.flush()


@settings(max_examples=25)
@given(st.lists(steps, max_size=40))
def test_no_capture_is_lost_uncounted(plan: list[tuple[str, Any]]) -> None:
    async def check(db: Unreliable) -> None:
        captures = Captures(db, auditing.settings(ring=RING), SEALER)
        added = {TUNNEL: 0, "d1d2e3f4-0a1b-4c2d-8e3f-405162738495": 0}

        def add(tunnel_id: str) -> None:
            captures.add(make_capture(tunnel_id=tunnel_id))
            added[tunnel_id] += 1

        for step, argument in plan:
            if step == "add":
                add(argument)
            elif step == "forget":
                captures.forget(argument)
            else:
                db.fails = argument
                flushing = asyncio.create_task(flush(captures))
                await asyncio.sleep(0)
                for _ in range(7 if step == "add while flushing" else 0):
                    add(TUNNEL)
                await flushing
            assert all(len(ring.kept) <= RING for ring in captures._rings.values())
        db.fails = False
        await captures.flush()
        for tunnel_id, number in added.items():
            # Stored but older than a ring's worth is deleted; until then it was neither lost nor dropped.
            assert len(await captures.requests(tunnel_id, 1000)) == min(number, RING)
        assert captures.pending == 0
        assert captures._records == sum(len(ring.kept) for ring in captures._rings.values())
        bodies = [capture for ring in captures._rings.values() for capture in ring.kept]
        assert captures.body_bytes == sum(
            len(one.request_body or b"") + len(one.response_body or b"") for one in bodies
        )
        assert sum(added.values()) - captures.dropped_records >= await count(db, captured_requests)
        await captures.aclose()

    run(check)


@settings(max_examples=25)
@given(st.lists(visits, max_size=60))
def test_every_connection_is_stored_as_it_ended(plan: list[str]) -> None:
    async def check(db: Unreliable) -> None:
        connections = Connections(db, "node")
        opened: list[ConnectionRecord] = []
        for step in plan:
            if step == "open":
                opened.append(
                    connections.open(
                        "TCP", tunnel_id=TUNNEL, tunnel_name="1", identity="admin", remote_address="[::1]:1"
                    )
                )
            elif step == "close" and opened:
                connections.close(opened[len(opened) // 2], "visitor closed")
            elif step in {"flush", "fail"}:
                db.fails = step == "fail"
                await flush(connections)
        db.fails = False
        live = len(connections.live)
        await connections.flush()
        assert await count(db, records) == len(opened)
        assert await count(db, records, status="CONNECTED") == live
        assert (connections.pending, connections.dropped_records) == (0, 0)
        await connections.aclose()
        assert await count(db, records, status="CONNECTED") == 0

    run(check)


def run(check: Any) -> None:
    async def with_database() -> None:
        with TemporaryDirectory() as directory:
            db = await Unreliable.open(sqlite_url(Path(directory) / "moongate.db"))
            try:
                await check(db)
            finally:
                await db.aclose()

    with asyncio.Runner() as runner:
        runner.run(with_database())
