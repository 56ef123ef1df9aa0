"""API tokens: minted once, kept as hashes, verified on every use, revoked at once.

A token is a random UUID; the database holds only the SHA-256 of its text. What an identity may take is left to its
scope, and ending the sessions of a revoked one to whoever registers in `on_deleted`.
"""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

from sqlalchemy import Select, bindparam, delete, func, or_, select, update

from moongate.errors import LabelInvalid, ScopeInvalid, StorageError, TokenInvalid
from moongate.identity.scopes import Scope
from moongate.storage.database import Database
from moongate.storage.schema import tokens, tunnel_log
from moongate.storage.times import from_datetime, rfc3339, to_datetime, to_micros
from moongate.storage.writing import WriteBehind

__all__ = ["Identity", "Scope", "TokenRow", "Tokens", "token_hash"]

LABEL_MAX = 128
# How long a verified token is believed before the database is asked again: another process may have deleted it.
BELIEVED_S = 10.0
CACHED_MAX = 100_000
WRITE_INTERVAL_S = 0.5

ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking: the admin, or an API token."""

    id: str
    label: str
    scope: Scope
    token_id: str | None

    @property
    def is_admin(self) -> bool:
        """Whether this is the admin token's holder."""
        return self.token_id is None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One API token as it may be listed."""

    id: str
    token_hash: str
    label: str
    scope: str | None
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    tunnel_count: int

    def public(self) -> dict[str, Any]:
        """Return the object of the API."""
        return {
            "id": self.id,
            "token_hash": self.token_hash,
            "label": self.label,
            "created_at": rfc3339(self.created_at),
            "last_used_at": self.last_used_at and rfc3339(self.last_used_at),
            "scope": self.scope,
            "tunnel_count": self.tunnel_count,
            "expires_at": self.expires_at and rfc3339(self.expires_at),
        }


@dataclass(slots=True)
class _Known:
    identity: Identity
    expires_at: float | None
    believed_until: float


class Tokens:
    """Verifies tokens, most of the time without the database."""

    def __init__(
        self,
        db: Database,
        admin_token: str,
        domain: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._admin_hash = token_hash(admin_token)
        self._admin = Identity(ADMIN, ADMIN, Scope(), None)
        self._domain = domain
        self._clock = clock
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}
        self._used: dict[str, int] = {}
        self._deletions = 0
        self._checked = monotonic()
        self._writer = WriteBehind("token use", self._flush, interval_s=WRITE_INTERVAL_S)
        self.on_deleted: list[Callable[[str], None]] = []

    async def verify(self, raw: str) -> Identity:
        """Return whose token this is, and note that it was used.

        Raises:
            TokenInvalid: If the token is unknown or expired.
            StorageError: If the token is not known yet and the database fails.
        """
        digest = token_hash(raw)
        if hmac.compare_digest(digest, self._admin_hash):
            return self._admin
        known = self._known.get(digest)
        if known is None or self._monotonic() >= known.believed_until:
            known = await self._ask(digest, known)
        if known.expires_at is not None and self._clock() >= known.expires_at:
            raise TokenInvalid("invalid token")
        self._used[known.identity.id] = to_micros(self._clock())
        return known.identity

    async def _ask(self, digest: str, believed: _Known | None) -> _Known:
        deletions = -1
        row = None
        while deletions != self._deletions:  # one that happened meanwhile must not be overlooked
            deletions = self._deletions
            try:
                row = await self._look_up(digest)
            except StorageError:
                if believed is None or deletions != self._deletions:
                    raise
                return believed  # an outage of the database is no reason to turn known agents away
        if row is None:
            self._known.pop(digest, None)
            raise TokenInvalid("invalid token")
        if len(self._known) >= CACHED_MAX:
            self._known.clear()
        known = self._known[digest] = self._believe(row)
        return known

    async def _look_up(self, digest: str) -> Any:
        async with self._db.connect() as conn:
            return (await conn.execute(select(tokens).where(tokens.c.token_hash == digest))).first()

    def _believe(self, row: Any) -> _Known:
        try:
            scope = Scope.parse(row.scope, self._domain)
        except ScopeInvalid as error:
            # Written for another domain; nobody can tell what it would allow here.
            raise TokenInvalid(f"invalid token: its scope does not fit this node: {error.message}") from error
        expires_at = None if row.expires_at is None else row.expires_at / 1_000_000
        return _Known(Identity(row.id, row.label, scope, row.id), expires_at, self._monotonic() + BELIEVED_S)

    async def list(self) -> list[TokenRow]:
        """Return every token, newest first.

        Raises:
            StorageError: If the database fails.
        """
        async with self._db.connect() as conn:
            rows = (await conn.execute(_listing().order_by(tokens.c.created_at.desc(), tokens.c.id))).all()
        return [self._row(row) for row in rows]

    async def create(
        self, label: str, scope: str | None = None, expires_at: datetime | None = None
    ) -> tuple[TokenRow, str]:
        """Mint a token; its raw text is returned here and never again.

        Raises:
            LabelInvalid: If the label is empty or too long.
            ScopeInvalid: If the scope cannot be read.
            StorageError: If the database fails.
        """
        label = label.strip()
        if not 1 <= len(label) <= LABEL_MAX or "\0" in label:
            raise LabelInvalid(f"a token's label has 1 to {LABEL_MAX} characters")
        raw = str(uuid4())
        values = {
            "id": str(uuid4()),
            "token_hash": token_hash(raw),
            "label": label,
            "scope": Scope.parse(scope, self._domain).text,
            "created_at": to_micros(self._clock()),
            "expires_at": None if expires_at is None else from_datetime(expires_at),
        }
        async with self._db.begin() as conn:
            await conn.execute(tokens.insert().values(values))
            row = (await conn.execute(_listing().where(tokens.c.id == values["id"]))).one()
        return self._row(row), raw

    async def delete(self, token_id: str) -> bool:
        """Delete a token and tell whoever must end its sessions; False when there is none.

        Raises:
            StorageError: If the database fails; the token is still valid then.
        """
        async with self._db.begin() as conn:
            gone = await conn.execute(delete(tokens).where(tokens.c.id == token_id))
        if not gone.rowcount:
            return False
        self._forget(token_id)
        return True

    def _forget(self, token_id: str) -> None:
        self._deletions += 1
        self._used.pop(token_id, None)
        self._known = {digest: known for digest, known in self._known.items() if known.identity.id != token_id}
        for tell in list(self.on_deleted):
            tell(token_id)

    async def start(self) -> None:
        """Begin to write when tokens were used, and to look for those that expired or that another process deleted."""
        self._writer.start()

    async def flush(self) -> None:
        """Write when tokens were last used.

        Raises:
            StorageError: If the database fails; the times are kept.
        """
        await self._writer.flush()

    async def aclose(self) -> None:
        """Write the last times and stop."""
        await self._writer.aclose()

    async def _flush(self) -> None:
        if self._used:
            await self._write_used()
        if self._known and self._monotonic() - self._checked >= BELIEVED_S:
            await self._look_for_deleted()

    async def _write_used(self) -> None:
        used, self._used = self._used, {}
        statement = update(tokens).where(tokens.c.id == bindparam("token")).values(last_used_at=bindparam("at"))
        try:
            await self._db.write_rows(statement, [{"token": token_id, "at": at} for token_id, at in used.items()])
        except BaseException:
            self._used = used | self._used
            raise

    async def _look_for_deleted(self) -> None:
        expires_at = tokens.c.expires_at
        valid = select(tokens.c.id).where(or_(expires_at.is_(None), expires_at > to_micros(self._clock())))
        async with self._db.connect() as conn:
            alive = set((await conn.execute(valid)).scalars())
        self._checked = self._monotonic()
        for known in list(self._known.values()):
            if known.identity.id not in alive:
                self._forget(known.identity.id)

    def _row(self, row: Any) -> TokenRow:
        # A use of half a second ago is not written yet, but it is known.
        used_at = self._used.get(row.id, row.last_used_at)
        return TokenRow(
            id=row.id,
            token_hash=row.token_hash,
            label=row.label,
            scope=row.scope,
            created_at=to_datetime(row.created_at),
            last_used_at=None if used_at is None else to_datetime(used_at),
            expires_at=None if row.expires_at is None else to_datetime(row.expires_at),
            tunnel_count=row.tunnel_count,
        )


def token_hash(raw: str) -> str:
    """Return the hash a token is kept as: SHA-256 of its text, in lower-case hexadecimal."""
    return sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()


def _listing() -> Select[Any]:
    count = select(func.count()).where(tunnel_log.c.token_id == tokens.c.id).scalar_subquery()
    return select(tokens, count.label("tunnel_count"))
