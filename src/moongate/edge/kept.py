"""Names and ports that are kept for their owners until they are released, over any restart of the node.

edge.routes decides who has what; here it is only written down.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, select

from moongate.storage.database import Database, Row
from moongate.storage.schema import kept_names
from moongate.storage.times import to_micros
from moongate.storage.writing import WriteBehind

if TYPE_CHECKING:
    from moongate.edge.routes import Tunnel

RETRY_INTERVAL_S: Final = 0.5
# How long giving a name waits for its row; a locked database must not keep agents out.
PATIENCE_S: Final = 1.0

_Key = tuple[str, str]  # kind and name


@dataclass(frozen=True, slots=True)
class KeptName:
    """One name or port, as routes want it told after a restart; `token_id` is None for the administrator's."""

    tunnel_id: str
    protocol: str
    label: str
    token_id: str | None
    unregistered_at: float | None = None


class KeptNames:
    """The kept names of one node, in its database.

    A change is written at once, together with those that came meanwhile; when the database fails it is tried again.
    """

    def __init__(self, db: Database, node_id: str, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._node_id = node_id
        self._clock = clock
        self._known: dict[_Key, KeptName] = {}
        self._pending: dict[_Key, KeptName | None] = {}
        self._writer = WriteBehind("kept names", self._flush, interval_s=RETRY_INTERVAL_S)
        insert = db.insert(kept_names)
        latest = {name: insert.excluded[name] for name in ("tunnel_id", "token_id")}
        self._upsert = insert.on_conflict_do_update(index_elements=["node_id", "kind", "name"], set_=latest)

    async def start(self) -> None:
        """Read what is kept, and begin to write again what a failing database did not take.

        Raises:
            StorageError: If the database fails.
        """
        columns = kept_names.c
        found = select(kept_names).where(columns.node_id == self._node_id).order_by(columns.kept_at)
        async with self._db.connect() as conn:
            rows = (await conn.execute(found)).all()
        for row in rows:
            self._known[row.kind, row.name] = KeptName(row.tunnel_id, row.kind, row.name, row.token_id)
        self._writer.start()

    async def aclose(self) -> None:
        """Write everything and stop."""
        await self._writer.aclose()

    def list(self) -> list[KeptName]:
        """Return what is kept, the oldest first."""
        return [*self._known.values()]

    def has(self, tunnel: "Tunnel") -> bool:
        """Whether a tunnel's name is kept."""
        return (tunnel.kind, tunnel.name) in self._known

    def note(self, tunnel: "Tunnel", token_id: str | None) -> bool:
        """Note that a tunnel's name is to be kept, or no longer, as its options say; False if nothing changed."""
        if not tunnel.options.keep:
            return self.forget(tunnel)
        key, kept = (tunnel.kind, tunnel.name), KeptName(tunnel.id, tunnel.kind, tunnel.name, token_id)
        if self._known.get(key) == kept:
            return False
        self._known[key] = self._pending[key] = kept
        return True

    def forget(self, tunnel: "Tunnel") -> bool:
        """Note that a name is kept no longer; False if it was not."""
        key = (tunnel.kind, tunnel.name)
        if self._known.pop(key, None) is None:
            return False
        self._pending[key] = None
        return True

    async def write(self) -> None:
        """Write what was noted; wait a moment at most, and not at all during an outage."""
        await self._writer.write_now(PATIENCE_S)

    async def _flush(self) -> None:
        changes, self._pending = self._pending, {}
        gone = [self._place(key) for key, kept in changes.items() if kept is None]
        kept = [self._row(kept) for kept in changes.values() if kept is not None]
        try:
            if gone:
                await self._db.write_rows(_FORGET, gone)
            if kept:
                # A row of a token that was deleted meanwhile is refused, and is nobody's to claim.
                await self._db.write_rows(self._upsert, kept)
        except BaseException:
            self._pending = changes | self._pending  # what was noted meanwhile is newer
            raise

    def _place(self, key: _Key) -> Row:
        return {"of_node": self._node_id, "of_kind": key[0], "of_name": key[1]}

    def _row(self, kept: KeptName) -> Row:
        return {
            "node_id": self._node_id,
            "kind": kept.protocol,
            "name": kept.label,
            "tunnel_id": kept.tunnel_id,
            "token_id": kept.token_id,
            "kept_at": to_micros(self._clock()),
        }


_FORGET = delete(kept_names).where(
    kept_names.c.node_id == bindparam("of_node"),
    kept_names.c.kind == bindparam("of_kind"),
    kept_names.c.name == bindparam("of_name"),
)
