"""Recorded HTTP exchanges: the newest of each tunnel in memory, written behind to the database."""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import bindparam, delete, select

from moongate.audit.exchanges import Capture, Resendable, from_row, to_row
from moongate.audit.ids import Ids, id_text, parse_id
from moongate.audit.sealing import Sealer
from moongate.config import Capture as CaptureSettings
from moongate.storage.database import CHUNK_ROWS, Database, Row
from moongate.storage.schema import captured_requests
from moongate.storage.writing import WriteBehind

__all__ = ["Capture", "Captures", "Resendable", "StoredCapture"]

FLUSH_INTERVAL_S = 1.0
FLOOD_INTERVAL_S = 5.0
# Over all tunnels; the rings of the quietest give way first, and the database answers for them.
RECORDS_MAX = 20_000
# In the database, over all tunnels that ever were; each one's own rows end with its ring's length.
STORED_MAX = 100_000
_RETENTION_INTERVAL_S = 3600.0
_ROWS_A_TURN = 10
_SHOWN_A_TURN = 10

# What `get` returns: a capture, from the ring or from the database alike.
StoredCapture = Capture


class _Ring:
    """The newest captures of one tunnel; the last `unwritten` of them wait for the database."""

    __slots__ = ("dirty", "gone", "in_flight", "kept", "since_trim", "tunnel_id", "unwritten", "written_at")

    def __init__(self, tunnel_id: str) -> None:
        self.tunnel_id = tunnel_id
        self.kept: deque[Capture] = deque()
        self.unwritten = 0
        self.in_flight = 0
        self.since_trim = 0
        self.dirty = False
        self.gone = False
        self.written_at = -math.inf


class Captures:
    """Takes captures from the data path without waiting, and answers for them afterwards."""

    def __init__(
        self,
        db: Database,
        settings: CaptureSettings,
        sealer: Sealer,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._monotonic = monotonic
        self._next_retention = monotonic()
        self._sealer = sealer
        self._ids = Ids()
        self.new_id = self._ids.next
        self.enabled = settings.enabled
        self._ring_max = settings.ring
        self._bytes_max = settings.total_bytes
        self._everything = False  # also what a flood is about to overtake
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        self._dirty: list[_Ring] = []
        self._with_bodies: OrderedDict[bytes, Capture] = OrderedDict()
        self._records = 0
        self._writer = WriteBehind("captured requests", self._flush, interval_s=FLUSH_INTERVAL_S)
        self._insert = db.insert(captured_requests).on_conflict_do_nothing(index_elements=["id"])
        self.body_bytes = 0
        self.dropped_bodies = 0
        self.dropped_records = 0

    def add(self, capture: Capture) -> None:
        """Keep a finished exchange; the oldest ones and their bodies give way."""
        if not self.enabled:
            return
        ring = self._rings.get(capture.tunnel_id)
        if ring is None:
            ring = self._rings[capture.tunnel_id] = _Ring(capture.tunnel_id)
        kept = ring.kept
        if len(kept) >= self._ring_max:
            self._release_bodies(kept.popleft())
            if ring.unwritten >= self._ring_max:
                ring.unwritten -= 1
                self.dropped_records += 1
        else:
            self._records += 1
        kept.append(capture)
        ring.unwritten += 1
        if not ring.dirty:
            ring.dirty = True
            self._dirty.append(ring)
        if capture.request_body or capture.response_body:
            self._count_bodies(capture)

    def _count_bodies(self, capture: Capture) -> None:
        self._with_bodies[capture.id] = capture
        self.body_bytes += _body_bytes(capture)
        while self.body_bytes > self._bytes_max:
            _, oldest = self._with_bodies.popitem(last=False)
            self.body_bytes -= _body_bytes(oldest)
            oldest.drop_bodies()
            self.dropped_bodies += 1

    def _release_bodies(self, capture: Capture) -> None:
        if self._with_bodies.pop(capture.id, None) is not None:
            self.body_bytes -= _body_bytes(capture)

    @property
    def pending(self) -> int:
        """How many captures wait to be written."""
        return sum(ring.unwritten + ring.in_flight for ring in self._rings.values())

    def forget(self, tunnel_id: str) -> None:
        """Let a tunnel's ring go after its last write; the database answers from then on."""
        ring = self._rings.get(tunnel_id)
        if ring is not None:
            ring.gone = True
            self._mark_dirty(ring)

    def _mark_dirty(self, ring: _Ring) -> None:
        if not ring.dirty:
            ring.dirty = True
            self._dirty.append(ring)

    async def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    async def flush(self) -> None:
        """Write everything that waits.

        Raises:
            StorageError: If the database fails; what waits is kept.
        """
        self._everything = True
        try:
            await self._writer.flush()
        finally:
            self._everything = False

    async def aclose(self) -> None:
        """Write everything and stop."""
        self._everything = True
        await self._writer.aclose()

    async def requests(self, tunnel_id: str, limit: int = 50) -> list[dict[str, Any]]:
        """Return a tunnel's newest recorded objects, masked; the ring's first, then the database's.

        Raises:
            StorageError: If the database fails.
        """
        ring = self._rings.get(tunnel_id)
        newest = list(islice(reversed(ring.kept), limit)) if ring else []
        shown = await _shown(newest)
        if len(shown) < limit:
            known = {id_text(capture.id) for capture in newest}
            stored = await self._stored(tunnel_id, min(limit, self._ring_max))
            shown += await _shown([capture for capture in stored if id_text(capture.id) not in known])
        return shown[:limit]

    async def get(self, request_id: str) -> Capture | None:
        """Return one capture, looked for in the rings and then in the database.

        Raises:
            StorageError: If the database fails.
        """
        octets = parse_id(request_id)
        if octets is None:
            return None
        for ring in self._rings.values():
            for capture in ring.kept:
                if capture.id == octets:
                    return capture
        async with self._db.connect() as conn:
            found = await conn.execute(select(captured_requests).where(captured_requests.c.id == id_text(octets)))
            row = found.first()
        return None if row is None else from_row(row, self._sealer)

    async def _stored(self, tunnel_id: str, limit: int) -> list[Capture]:
        columns = captured_requests.c
        newest = (
            select(captured_requests)
            .where(columns.tunnel_id == tunnel_id)
            .order_by(columns.sequence.desc())
            .limit(limit)
        )
        async with self._db.connect() as conn:
            rows = (await conn.execute(newest)).all()
        return [from_row(row, self._sealer) for row in rows]

    async def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        waiting: list[tuple[_Ring, Capture]] = []
        dirty = [ring for ring in dirty if self._rings.get(ring.tunnel_id) is ring]
        dirty = [ring for ring in dirty if self._is_due(ring)]
        for ring in dirty:
            ring.dirty = False
            ring.written_at = self._monotonic()
            self._rings.move_to_end(ring.tunnel_id)
            waiting += [(ring, capture) for capture in islice(ring.kept, len(ring.kept) - ring.unwritten, None)]
            ring.in_flight, ring.unwritten = ring.unwritten, 0
        try:
            for start in range(0, len(waiting), CHUNK_ROWS):
                await self._write(waiting[start : start + CHUNK_ROWS])
            await self._trim(dirty)
        except BaseException:
            self._keep(dirty)
            raise
        self._shrink(dirty)
        if self._monotonic() >= self._next_retention:
            await self._retain()
            self._next_retention = self._monotonic() + _RETENTION_INTERVAL_S

    def _is_due(self, ring: _Ring) -> bool:
        """Tell whether to write a ring now; one in a flood, which will have turned over again, is written seldom."""
        if (
            self._everything
            or ring.gone
            or ring.unwritten < self._ring_max
            or self._monotonic() - ring.written_at >= FLOOD_INTERVAL_S
        ):
            return True
        self._dirty.append(ring)
        return False

    async def _write(self, chunk: Sequence[tuple[_Ring, Capture]]) -> None:
        rows: list[Row] = []
        for start in range(0, len(chunk), _ROWS_A_TURN):
            rows += [to_row(capture, self._sealer) for _, capture in chunk[start : start + _ROWS_A_TURN]]
            await asyncio.sleep(0)  # the data path goes first
        self.dropped_records += await self._db.write_rows(self._insert, rows)
        for ring, _ in chunk:
            ring.in_flight -= 1
            ring.since_trim += 1

    def _keep(self, rings: Sequence[_Ring]) -> None:
        # While the write was tried, newer captures may have pushed out some that were not written.
        for ring in rings:
            waiting = ring.in_flight + ring.unwritten
            ring.in_flight, ring.unwritten = 0, min(waiting, len(ring.kept))
            self.dropped_records += waiting - ring.unwritten
            self._mark_dirty(ring)

    async def _trim(self, rings: Sequence[_Ring]) -> None:
        """Delete what is older than a ring's worth; a tenth of slack saves most of these statements."""
        overgrown = [ring for ring in rings if ring.since_trim > self._ring_max // 10 or ring.gone]
        if not overgrown:
            return
        columns = captured_requests.c
        oldest_kept = (
            select(columns.sequence)
            .where(columns.tunnel_id == bindparam("tunnel"))
            .order_by(columns.sequence.desc())
            .offset(self._ring_max)
            .limit(1)
            .scalar_subquery()
        )
        older = delete(captured_requests).where(
            columns.tunnel_id == bindparam("tunnel"), columns.sequence <= oldest_kept
        )
        await self._db.write_rows(older, [{"tunnel": ring.tunnel_id} for ring in overgrown])
        for ring in overgrown:
            ring.since_trim = 0

    async def _retain(self) -> None:
        # By number and not by age: a clock that jumps must not delete anything.
        sequence = captured_requests.c.sequence
        newest = select(sequence).order_by(sequence.desc()).offset(STORED_MAX).limit(1).scalar_subquery()
        async with self._db.begin() as conn:
            await conn.execute(delete(captured_requests).where(sequence <= newest))

    def _shrink(self, rings: Sequence[_Ring]) -> None:
        for ring in rings:
            if ring.gone and not ring.unwritten:
                self._drop(ring)
        for ring in list(self._rings.values()):
            if self._records <= RECORDS_MAX:
                return
            if not ring.unwritten and not ring.dirty:
                self._drop(ring)

    def _drop(self, ring: _Ring) -> None:
        del self._rings[ring.tunnel_id]
        self._records -= len(ring.kept)
        for capture in ring.kept:
            self._release_bodies(capture)


async def _shown(captures: Sequence[Capture]) -> list[dict[str, Any]]:
    shown = []
    for capture in captures:
        shown.append(capture.public())
        if len(shown) % _SHOWN_A_TURN == 0:
            await asyncio.sleep(0)  # the data path goes first
    return shown


def _body_bytes(capture: Capture) -> int:
    return len(capture.request_body or b"") + len(capture.response_body or b"")
