"""The history of tunnels: who registered what, from when to when."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import ColumnElement, bindparam, func, or_, select, update

from moongate.errors import StorageError
from moongate.storage.database import Database, Row, RowRefused
from moongate.storage.schema import tokens, tunnel_log
from moongate.storage.times import micros_text, to_datetime, to_micros
from moongate.storage.writing import WriteBehind

__all__ = ["History", "Leftover"]

PENDING_MAX = 100_000
RETRY_INTERVAL_S = 0.5
# How long opening a tunnel waits for its entry; a locked database must not keep agents out.
PATIENCE_S = 1.0

SortBy = Literal["started", "duration", "protocol"]
SortDirection = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A tunnel that was open, or not long closed, when the node last ended; its name may still be held for its owner.

    `unregistered_at` is None when the node ended without closing it.
    """

    tunnel_id: str
    protocol: str
    label: str
    identity: str
    token_id: str | None
    registered_at: datetime
    unregistered_at: datetime | None


class History:
    """Writes a row when a tunnel opens and completes it when the tunnel closes.

    An entry is written at once, with those that came meanwhile in one transaction; when the database fails it is kept
    and tried again, because a full disk must not close a tunnel.
    """

    def __init__(self, db: Database, node_id: str = "", clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._node_id = node_id
        self._clock = clock
        self._pending: deque[Row] = deque()
        self._writer = WriteBehind("tunnel history", self._flush, interval_s=RETRY_INTERVAL_S)
        self._in_flight = 0
        self.dropped_entries = 0

    async def start(self) -> None:
        """Begin to write again what a failing database did not take."""
        self._writer.start()

    async def aclose(self) -> None:
        """Write everything and stop."""
        await self._writer.aclose()

    async def flush(self) -> None:
        """Write everything that waits.

        Raises:
            StorageError: If the database fails; what waits is kept.
        """
        await self._writer.flush()

    @property
    def pending(self) -> int:
        """How many entries wait to be written."""
        return len(self._pending) + self._in_flight

    async def opened(self, tunnel_id: str, protocol: str, label: str, session_id: str, token_id: str | None) -> None:
        """Note that a tunnel is open; an earlier registration of the same tunnel ends here."""
        now = to_micros(self._clock())
        self._append({"closes": tunnel_id, "at": now})
        self._append(
            {
                "id": str(uuid4()),
                "tunnel_id": tunnel_id,
                "node_id": self._node_id,
                "protocol": "http" if protocol == "https" else protocol,
                "label": label,
                "session_id": session_id,
                "identity": token_id or "admin",
                "wanted_token": token_id,
                "registered_at": now,
            }
        )
        await self._writer.write_now(PATIENCE_S)

    async def closed(self, *tunnel_ids: str) -> None:
        """Note that tunnels are closed."""
        now = to_micros(self._clock())
        for tunnel_id in tunnel_ids:
            self._append({"closes": tunnel_id, "at": now})
        await self._writer.write_now(PATIENCE_S)

    def _append(self, entry: Row) -> None:
        if len(self._pending) >= PENDING_MAX:
            self._pending.popleft()
            self.dropped_entries += 1
        self._pending.append(entry)

    async def _flush(self) -> None:
        entries, self._pending = self._pending, deque()
        if not entries:
            return
        self._in_flight = len(entries)
        try:
            await self._write(entries)
        except RowRefused:
            await self._write_singly(entries)
        except BaseException:
            self._keep(entries)
            raise
        finally:
            self._in_flight = 0

    async def _write(self, entries: Iterable[Row]) -> None:
        async with self._db.begin() as conn:
            for closings, openings in _rounds(entries):
                if closings:
                    await conn.execute(_CLOSE, closings)
                if openings:
                    await conn.execute(_OPEN, openings)

    async def _write_singly(self, entries: deque[Row]) -> None:
        # One entry that the database will never take must not keep the others out.
        while entries:
            try:
                await self._write([entries[0]])
            except RowRefused:
                self.dropped_entries += 1
            except BaseException:
                self._keep(entries)
                raise
            entries.popleft()

    def _keep(self, entries: deque[Row]) -> None:
        while len(entries) + len(self._pending) > PENDING_MAX and entries:
            entries.popleft()
            self.dropped_entries += 1
        self._pending.extendleft(reversed(entries))

    async def close_leftovers(self, within_s: float = 60) -> list[Leftover]:
        """Close what this node left open, and return what its owners may still claim, newest first.

        Raises:
            StorageError: If the database fails.
        """
        now = to_micros(self._clock())
        columns = tunnel_log.c
        recent = or_(columns.unregistered_at.is_(None), columns.unregistered_at >= now - to_micros(within_s))
        # A deleted token's rows lost their token_id; nobody can claim those.
        claimable = or_(columns.token_id.is_not(None), columns.identity == "admin")
        mine = columns.node_id == self._node_id
        found = select(tunnel_log).where(mine, recent, claimable).order_by(columns.registered_at.desc())
        close = update(tunnel_log).where(mine, columns.unregistered_at.is_(None)).values(unregistered_at=now)
        async with self._db.begin() as conn:
            rows = (await conn.execute(found)).all()
            await conn.execute(close)
        newest: dict[str, Leftover] = {}
        for row in rows:
            newest.setdefault(row.tunnel_id, _leftover(row))
        return list(newest.values())

    async def list(
        self,
        limit: int = 50,
        offset: int = 0,
        *,
        protocol: str | None = None,
        token_id: str | None = None,
        active: bool | None = None,
        sort_by: SortBy = "started",
        sort_dir: SortDirection = "desc",
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return how many entries match, and one page of them as the API shows them.

        Raises:
            StorageError: If the database fails.
        """
        with suppress(StorageError):  # a full disk can still be read
            await self.flush()
        where = _conditions(protocol, token_id, active)
        page = (
            select(tunnel_log, tokens.c.label.label("token_label"))
            .outerjoin_from(tunnel_log, tokens, tunnel_log.c.token_id == tokens.c.id)
            .where(*where)
            .order_by(*self._order(sort_by, sort_dir))
            .limit(limit)
            .offset(offset)
        )
        async with self._db.connect() as conn:
            total = (await conn.execute(select(func.count()).select_from(tunnel_log).where(*where))).scalar_one()
            rows = (await conn.execute(page)).all()
        return total, [_public(row) for row in rows]

    def _order(self, sort_by: SortBy, sort_dir: SortDirection) -> Sequence[ColumnElement[Any]]:
        columns = tunnel_log.c
        lasted = func.coalesce(columns.unregistered_at, to_micros(self._clock())) - columns.registered_at
        keys: dict[str, ColumnElement[Any]] = {"duration": lasted, "protocol": columns.protocol}
        wanted = [keys[sort_by]] if sort_by in keys else []
        order = [*wanted, columns.registered_at, columns.id]
        return [key.asc() if sort_dir == "asc" else key.desc() for key in order]

    async def tunnel_counts(self) -> dict[str, int]:
        """Return how many tunnels each token has ever registered.

        Raises:
            StorageError: If the database fails.
        """
        by_token = tunnel_log.c.token_id
        counts = select(by_token, func.count()).where(by_token.is_not(None)).group_by(by_token)
        async with self._db.connect() as conn:
            return {row[0]: row[1] for row in await conn.execute(counts)}


_CLOSE = (
    update(tunnel_log)
    .where(tunnel_log.c.tunnel_id == bindparam("closes"), tunnel_log.c.unregistered_at.is_(None))
    .values(unregistered_at=bindparam("at"))
)
# The token may be deleted while its tunnel waits to be written; then the row stands without it.
_OPEN = tunnel_log.insert().values(
    token_id=select(tokens.c.id).where(tokens.c.id == bindparam("wanted_token")).scalar_subquery()
)


def _rounds(entries: Iterable[Row]) -> list[tuple[list[Row], list[Row]]]:
    """Group entries into closings followed by openings, keeping the order that matters: that of each tunnel's own."""
    rounds: list[tuple[list[Row], list[Row]]] = []
    opened: set[str] = set()
    for entry in entries:
        closing = entry.get("closes")
        if not rounds or closing in opened:
            rounds.append(([], []))
            opened.clear()
        closings, openings = rounds[-1]
        if closing is None:
            openings.append(entry)
            opened.add(entry["tunnel_id"])
        else:
            closings.append(entry)
    return rounds


def _conditions(protocol: str | None, token_id: str | None, active: bool | None) -> Sequence[ColumnElement[bool]]:
    conditions = []
    if protocol is not None:
        conditions.append(tunnel_log.c.protocol == protocol)
    if token_id is not None:
        conditions.append(tunnel_log.c.token_id == token_id)
    if active is not None:
        ended = tunnel_log.c.unregistered_at
        conditions.append(ended.is_(None) if active else ended.is_not(None))
    return conditions


def _leftover(row: Any) -> Leftover:
    return Leftover(
        tunnel_id=row.tunnel_id,
        protocol=row.protocol,
        label=row.label,
        identity=row.identity,
        token_id=row.token_id,
        registered_at=to_datetime(row.registered_at),
        unregistered_at=None if row.unregistered_at is None else to_datetime(row.unregistered_at),
    )


def _public(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "tunnel_id": row.tunnel_id,
        "protocol": row.protocol,
        "label": row.label,
        "session_id": row.session_id,
        "token_id": row.token_id,
        "token_label": row.token_label,
        "registered_at": micros_text(row.registered_at),
        "unregistered_at": None if row.unregistered_at is None else micros_text(row.unregistered_at),
    }
