"""Connection records, live and finished: one for each visitor's connection to a tunnel."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from sqlalchemy import ColumnElement, RowMapping, case, func, select, update

from moongate.audit.ids import Ids, id_text, parse_id
from moongate.errors import StorageError
from moongate.storage.database import CHUNK_ROWS, Database, Row
from moongate.storage.schema import connections
from moongate.storage.times import micros_text, to_micros
from moongate.storage.writing import WriteBehind

FLUSH_INTERVAL_S = 0.5
SWEEP_INTERVAL_S = 10.0
PENDING_MAX = 100_000
# With more than this to write at a time, a busy loop would let us fall behind.
BEHIND_ROWS = 1000
USER_AGENT_MAX = 512
_SWEEP_SLICE = 2_000

CONNECTED = "CONNECTED"
DISCONNECTED = "DISCONNECTED"
TERMINATED = "TERMINATED"
CLIENT_LOST = "CONNMGR_CLIENT_LOST"

ConnectionType = Literal["HTTP", "WEBSOCKET", "TLS", "TCP", "UDP"]
# What a record may still change after it is first written.
_CHANGING = (
    "type",
    "status",
    "target_address",
    "user_agent",
    "disconnected",
    "last_activity",
    "duration_us",
    "bytes_in",
    "bytes_out",
    "requests",
    "end_reason",
    "updated",
)
_SHOWN = (
    "id",
    "node_id",
    "type",
    "status",
    "tunnel_id",
    "tunnel_name",
    "identity",
    "remote_address",
    "target_address",
    "user_agent",
    "connected",
    "disconnected",
    "last_activity",
    "bytes_in",
    "bytes_out",
    "requests",
    "end_reason",
)


class ConnectionRecord:
    """One visitor's connection; the data path adds to its counters, `bytes_in` being visitor to upstream."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "connected",
        "disconnected",
        "duration_s",
        "end_reason",
        "id",
        "identity",
        "last_activity",
        "moved",
        "node_id",
        "opened",
        "remote_address",
        "requests",
        "status",
        "target_address",
        "tunnel_id",
        "tunnel_name",
        "type",
        "user_agent",
    )

    def __init__(
        self,
        id: bytes,  # noqa: A002 -- the field's name in the API
        type: ConnectionType,  # noqa: A002 -- the field's name in the API
        node_id: str,
        tunnel_id: str,
        tunnel_name: str,
        identity: str,
        remote_address: str,
        target_address: str,
        connected: float,
        opened: float,
    ) -> None:
        self.id = id
        self.type: ConnectionType = type
        self.node_id = node_id
        self.tunnel_id = tunnel_id
        self.tunnel_name = tunnel_name
        self.identity = identity
        self.remote_address = remote_address
        self.target_address = target_address
        self.user_agent = ""
        self.connected = self.last_activity = connected
        self.opened = opened  # on the steady clock
        self.disconnected: float | None = None
        self.duration_s = 0.0
        self.bytes_in = self.bytes_out = self.requests = 0
        self.moved = 0  # the sum of the counters when they were last looked at
        self.status = CONNECTED
        self.end_reason = ""

    @property
    def uuid(self) -> str:
        """The id as text."""
        return id_text(self.id)

    def row(self, now: float, steady: float) -> Row:
        """Return the database row as of the wall time `now`, which is `steady` on the steady clock."""
        lasted = steady - self.opened if self.disconnected is None else self.duration_s
        return {
            "id": id_text(self.id),
            "node_id": self.node_id,
            "type": self.type,
            "status": self.status,
            "tunnel_id": self.tunnel_id,
            "tunnel_name": self.tunnel_name,
            "identity": self.identity,
            "remote_address": self.remote_address,
            "target_address": self.target_address,
            "user_agent": self.user_agent[:USER_AGENT_MAX].replace("\0", ""),  # PostgreSQL's text holds no NUL
            "connected": to_micros(self.connected),
            "disconnected": None if self.disconnected is None else to_micros(self.disconnected),
            "last_activity": to_micros(self.last_activity),
            "duration_us": to_micros(lasted),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "requests": self.requests,
            "end_reason": self.end_reason,
            "updated": to_micros(now),
        }


class Connections:
    """Opens and closes records in memory; a task of its own writes them within a second."""

    def __init__(
        self,
        db: Database,
        node_id: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._node_id = node_id
        self._clock = clock
        self._monotonic = monotonic
        self._ids = Ids()
        self._pending: OrderedDict[bytes, ConnectionRecord] = OrderedDict()
        self._in_flight: OrderedDict[bytes, ConnectionRecord] = OrderedDict()
        self._swept = monotonic()
        self._writer = WriteBehind("connection records", self._flush, interval_s=FLUSH_INTERVAL_S)
        statement = db.insert(connections)
        self._upsert = statement.on_conflict_do_update(
            index_elements=["id"], set_={name: statement.excluded[name] for name in _CHANGING}
        )
        self.live: dict[bytes, ConnectionRecord] = {}
        self.dropped_records = 0

    def open(
        self,
        type: ConnectionType,  # noqa: A002 -- the field's name in the API
        *,
        tunnel_id: str,
        tunnel_name: str,
        identity: str,
        remote_address: str,
        target_address: str = "",
    ) -> ConnectionRecord:
        """Open the record of a connection that has just been accepted."""
        connection_id = self._ids.next()
        record = ConnectionRecord(
            connection_id,
            type,
            self._node_id,
            tunnel_id,
            tunnel_name,
            identity,
            remote_address,
            target_address,
            self._clock(),
            self._monotonic(),
        )
        self.live[connection_id] = record
        self._pending[connection_id] = record
        if len(self._pending) > PENDING_MAX:
            self._drop_oldest()
        return record

    def close(self, record: ConnectionRecord, reason: str, *, status: str = DISCONNECTED) -> None:
        """Close a record; closing it twice changes nothing."""
        if self.live.pop(record.id, None) is None:
            return
        record.disconnected = now = self._clock()
        record.duration_s = self._monotonic() - record.opened
        record.status = status
        record.end_reason = reason
        if record.moved != record.bytes_in + record.bytes_out + record.requests:
            record.last_activity = now
        self._pending[record.id] = record
        if len(self._pending) > PENDING_MAX:
            self._drop_oldest()

    @property
    def pending(self) -> int:
        """How many records wait to be written."""
        return len(self._pending) + len(self._in_flight)

    async def start(self) -> None:
        """Close what a crash of this node left open, then begin to write.

        Raises:
            StorageError: If the database fails.
        """
        await self._close_leftovers()
        self._writer.start()

    async def flush(self) -> None:
        """Write everything that waits.

        Raises:
            StorageError: If the database fails; what waits is kept.
        """
        await self._writer.flush()

    async def aclose(self) -> None:
        """Close what is still live and write everything."""
        for record in list(self.live.values()):
            self.close(record, "node stopped")
        await self._writer.aclose()

    async def get(self, connection_id: str) -> dict[str, Any] | None:
        """Return one record as the API shows it, or None.

        Raises:
            StorageError: If the database fails.
        """
        octets = parse_id(connection_id)
        if octets is None:
            return None
        recent = self.live.get(octets) or self._pending.get(octets) or self._in_flight.get(octets)
        if recent is not None:
            return self._public_record(recent)
        async with self._db.connect() as conn:
            found = await conn.execute(select(connections).where(connections.c.id == id_text(octets)))
            row = found.mappings().first()
        return None if row is None else _public(row)

    async def list(
        self, limit: int = 50, offset: int = 0, *, tunnel_id: str | None = None, live: bool | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return how many records match, and one page of them, newest first.

        Raises:
            StorageError: If the database fails.
        """
        with suppress(StorageError):  # a full disk can still be read
            await self.flush()
        where = _conditions(tunnel_id, live)
        page = select(connections).where(*where).order_by(connections.c.connected.desc(), connections.c.id.desc())
        async with self._db.connect() as conn:
            total = (await conn.execute(select(func.count()).select_from(connections).where(*where))).scalar_one()
            rows = (await conn.execute(page.limit(limit).offset(offset))).mappings().all()
        return total, [self._freshest(row) for row in rows]

    def _freshest(self, row: RowMapping) -> dict[str, Any]:
        # The counters of a live row are up to ten seconds old; those in memory are now.
        record = self.live.get(bytes.fromhex(row["id"].replace("-", "")))
        return _public(row) if record is None else self._public_record(record)

    def _public_record(self, record: ConnectionRecord) -> dict[str, Any]:
        return _public(record.row(self._clock(), self._monotonic()))

    def _drop_oldest(self) -> None:
        self._pending.popitem(last=False)
        self.dropped_records += 1

    async def _flush(self) -> None:
        await self._sweep()
        self._in_flight, self._pending = self._pending, OrderedDict()
        records = list(self._in_flight.values())
        hurried, written = len(records) > BEHIND_ROWS, 0
        try:
            while written < len(records):
                chunk = records[written : written + CHUNK_ROWS]
                now, steady = self._clock(), self._monotonic()
                rows = [record.row(now, steady) for record in chunk]
                self.dropped_records += await self._db.write_rows(self._upsert, rows, hurried=hurried)
                written += len(chunk)
        except BaseException:
            self._keep(records[written:])
            raise
        finally:
            self._in_flight = OrderedDict()

    def _keep(self, unwritten: Sequence[ConnectionRecord]) -> None:
        newer, self._pending = self._pending, OrderedDict((record.id, record) for record in unwritten)
        self._pending.update(newer)
        while len(self._pending) > PENDING_MAX:
            self._drop_oldest()

    async def _sweep(self) -> None:
        """Mark the live records whose counters have moved, in slices so that the loop is never held for long."""
        steady = self._monotonic()
        if steady - self._swept < SWEEP_INTERVAL_S:
            return
        self._swept = steady
        records = list(self.live.values())
        for start in range(0, len(records), _SWEEP_SLICE):
            self._mark_moved(records[start : start + _SWEEP_SLICE])
            await asyncio.sleep(0)

    def _mark_moved(self, records: Sequence[ConnectionRecord]) -> None:
        now = self._clock()
        for record in records:
            sum_now = record.bytes_in + record.bytes_out + record.requests
            if sum_now != record.moved and record.disconnected is None:
                record.moved = sum_now
                record.last_activity = now
                self._pending[record.id] = record

    async def _close_leftovers(self) -> None:
        # The last write is the last that is known of them.
        lasted = case(
            (connections.c.updated > connections.c.connected, connections.c.updated - connections.c.connected)
        )
        lost = (
            update(connections)
            .where(connections.c.node_id == self._node_id, connections.c.disconnected.is_(None))
            .values(
                status=CLIENT_LOST,
                end_reason="node lost",
                disconnected=connections.c.updated,
                duration_us=func.coalesce(lasted, 0),
            )
        )
        async with self._db.begin() as conn:
            await conn.execute(lost)


def _conditions(tunnel_id: str | None, live: bool | None) -> Sequence[ColumnElement[bool]]:
    conditions = []
    if tunnel_id is not None:
        conditions.append(connections.c.tunnel_id == tunnel_id)
    if live is not None:
        ended = connections.c.disconnected
        conditions.append(ended.is_(None) if live else ended.is_not(None))
    return conditions


def _public(row: Mapping[Any, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in _SHOWN}
    for name in ("connected", "disconnected", "last_activity"):
        shown[name] = None if row[name] is None else micros_text(row[name], timespec="milliseconds")
    shown["duration_ms"] = row["duration_us"] // 1000
    return shown
