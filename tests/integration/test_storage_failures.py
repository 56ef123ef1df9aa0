"""What is kept when the database cannot be written, or the process is killed."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import moongate.storage.database
from auditing import TUNNEL, make_capture, settings
from moongate.audit.captures import Captures
from moongate.audit.connections import Connections
from moongate.audit.history import History
from moongate.audit.sealing import KEY_BYTES, Sealer
from moongate.errors import StorageError
from moongate.identity.tokens import Tokens
from moongate.storage.database import Database, sqlite_url
from testbed import until_async
from testbed.postgresql import PostgreSQL

DISK_BYTES = 2 * 1024 * 1024
VICTIM = Path(__file__).with_name("recording_victim.py")


def visit(connections: Connections, **members: Any) -> None:
    values = {"tunnel_id": TUNNEL, "tunnel_name": "a.tunnel.test", "identity": "admin", "remote_address": "[::1]:1"}
    connections.close(connections.open("TCP", **values | members), "visitor closed")


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this system does not let us mount: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


async def test_a_full_disk_loses_nothing_and_ends_no_visit(small_disk: Path) -> None:
    path = small_disk / "moongate.db"
    db = await Database.open(sqlite_url(path))
    connections = Connections(db, "node")
    captures = Captures(db, settings(), Sealer(bytes(KEY_BYTES)))
    history = History(db, "node")
    tokens = Tokens(db, "admin", "tunnel.test")
    _, raw = await tokens.create("ci")
    parts = (connections, captures, history, tokens)
    for part in parts:
        await part.start()
    filler = fill(small_disk)

    await history.opened(TUNNEL, "http", "a.tunnel.test", "session", None)
    for _ in range(300):
        visit(connections)
        captures.add(make_capture(request_body=b"x" * 500))
    await until_async(lambda: connections._writer.failures and captures._writer.failures)
    assert (await tokens.verify(raw)).label == "ci", "known agents are still let in"
    with pytest.raises(StorageError):
        await tokens.create("another")
    assert len(await captures.requests(TUNNEL, 300)) == 300, "the ring answers"
    assert (connections.dropped_records, captures.dropped_records, history.dropped_entries) == (0, 0, 0)

    filler.unlink()
    await until_async(lambda: not (connections.pending or captures.pending or history.pending), timeout_s=30)
    for part in parts:
        await part.aclose()
    await db.aclose()
    assert {table: count(path, table) for table in ("connections", "captured_requests", "tunnel_log")} == {
        "connections": 300,
        "captured_requests": 300,
        "tunnel_log": 1,
    }


async def test_a_locked_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moongate.storage.database, "BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "moongate.db"
    db = await Database.open(sqlite_url(path))
    connections, history = Connections(db, "node"), History(db, "node")
    await connections.start()
    await history.start()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        visit(connections)
        await history.opened(TUNNEL, "http", "a.tunnel.test", "session", None)
        await until_async(lambda: connections._writer.failures)
        assert (connections.pending, history.pending) == (1, 2)
        assert (await connections.list())[0] == 0, "reading goes on"
        other.execute("ROLLBACK")
    await until_async(lambda: not (connections.pending or history.pending))
    await connections.aclose()
    await history.aclose()
    await db.aclose()
    assert (count(path, "connections"), count(path, "tunnel_log")) == (1, 1)


async def test_a_postgresql_that_restarts_is_waited_for() -> None:
    server = PostgreSQL()
    try:
        db = await Database.open(server.empty())
        connections = Connections(db, "node")
        await connections.start()
        visit(connections)
        await connections.flush()
        server.halt()
        visit(connections)
        await until_async(lambda: connections._writer.failures)
        assert connections.pending == 1
        server.restart()
        await until_async(lambda: not connections.pending, timeout_s=30)
        assert (await connections.list())[0] == 2
        await connections.aclose()
        await db.aclose()
    finally:
        server.stop()


async def test_a_killed_node_has_written_all_but_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "moongate.db"
    victim = await asyncio.create_subprocess_exec(sys.executable, VICTIM, path, stdout=asyncio.subprocess.PIPE)
    assert victim.stdout is not None
    recorded = 0
    for _ in range(15):  # a line each 0.1 s: how many records were closed a second ago
        recorded = int(await asyncio.wait_for(victim.stdout.readline(), 30))
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    assert recorded > 0
    assert count(path, "connections") >= recorded + 1

    db = await Database.open(sqlite_url(path))
    connections, history = Connections(db, "node"), History(db, "node")
    await connections.start()
    _, [lost] = await connections.list(limit=1, tunnel_id="live")
    assert (lost["status"], lost["end_reason"]) == ("CONNMGR_CLIENT_LOST", "node lost")
    assert [left.label for left in await history.close_leftovers()] == ["a.tunnel.test"]
    await connections.aclose()
    await db.aclose()


async def test_a_node_that_stops_writes_everything(tmp_path: Path) -> None:
    path = tmp_path / "moongate.db"
    db = await Database.open(sqlite_url(path))
    connections = Connections(db, "node")
    captures = Captures(db, settings(ring=2000), Sealer(bytes(KEY_BYTES)))
    await connections.start()
    await captures.start()
    for _ in range(1_200):
        visit(connections)
        captures.add(make_capture())
    await connections.aclose()
    await captures.aclose()
    await db.aclose()
    assert (count(path, "connections"), count(path, "captured_requests")) == (1_200, 1_200)
