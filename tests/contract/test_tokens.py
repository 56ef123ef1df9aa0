"""API tokens on each kind of database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from auditing import Clock
from moongate.audit.history import History
from moongate.errors import LabelInvalid, ScopeInvalid, TokenInvalid
from moongate.identity.tokens import BELIEVED_S, Tokens, token_hash
from moongate.storage.database import Database
from moongate.storage.schema import tokens as table

ADMIN = "the admin's own"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tokens(db: Database, clock: Clock) -> AsyncIterator[Tokens]:
    made = Tokens(db, ADMIN, "tunnel.test", clock, clock)
    yield made
    await made.aclose()


async def test_a_minted_token_is_its_owners_identity(tokens: Tokens) -> None:
    row, raw = await tokens.create("  ci  ", "team-*,demo")
    identity = await tokens.verify(raw)
    assert (identity.id, identity.token_id, identity.label) == (row.id, row.id, "ci")
    assert identity.scope.allows("team-7")
    assert not identity.is_admin


async def test_the_admin_token_is_the_admin(tokens: Tokens) -> None:
    identity = await tokens.verify(ADMIN)
    assert identity.is_admin
    assert (identity.id, identity.token_id) == ("admin", None)
    assert identity.scope.is_unrestricted


@pytest.mark.parametrize("raw", ["", "nope", "3f0c2a9e-5d41-4b7c-9a10-6e2f8b7d1c55", "\0", "ü" * 5000, "\ud800"])
async def test_any_other_text_is_no_token(tokens: Tokens, raw: str) -> None:
    with pytest.raises(TokenInvalid):
        await tokens.verify(raw)


async def test_only_the_hash_of_a_token_is_stored(tokens: Tokens, db: Database) -> None:
    row, raw = await tokens.create("ci")
    async with db.connect() as conn:
        stored = (await conn.execute(select(table))).one()
    assert raw not in [str(value) for value in stored]
    assert row.token_hash == token_hash(raw) == stored.token_hash


async def test_a_deleted_token_is_refused_and_its_sessions_are_told(tokens: Tokens) -> None:
    row, raw = await tokens.create("ci")
    await tokens.verify(raw)
    told: list[str] = []
    tokens.on_deleted.append(told.append)
    assert await tokens.delete(row.id) is True
    assert told == [row.id]
    with pytest.raises(TokenInvalid):
        await tokens.verify(raw)
    assert await tokens.delete(row.id) is False
    assert await tokens.delete("not-a-uuid") is False
    assert told == [row.id]


async def test_a_token_deleted_by_another_process_is_refused_soon(tokens: Tokens, db: Database, clock: Clock) -> None:
    row, raw = await tokens.create("ci")
    await tokens.verify(raw)
    told: list[str] = []
    tokens.on_deleted.append(told.append)
    other = Tokens(db, ADMIN, "tunnel.test")
    await other.delete(row.id)
    clock.now += BELIEVED_S
    await tokens.flush()
    assert told == [row.id]
    with pytest.raises(TokenInvalid):
        await tokens.verify(raw)


async def test_a_token_of_another_process_is_known_at_once(tokens: Tokens, db: Database) -> None:
    _, raw = await Tokens(db, ADMIN, "tunnel.test").create("ci")
    assert (await tokens.verify(raw)).label == "ci"


async def test_an_expired_token_is_refused_and_its_sessions_are_told(tokens: Tokens, clock: Clock) -> None:
    expires_at = datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=5)
    row, raw = await tokens.create("ci", expires_at=expires_at)
    told: list[str] = []
    tokens.on_deleted.append(told.append)
    assert (await tokens.verify(raw)).id == row.id
    clock.now += BELIEVED_S
    await tokens.flush()
    assert told == [row.id]
    with pytest.raises(TokenInvalid):
        await tokens.verify(raw)


async def test_the_last_use_is_listed_at_once_and_stored_behind(tokens: Tokens, db: Database, clock: Clock) -> None:
    _, raw = await tokens.create("ci")
    assert (await tokens.list())[0].last_used_at is None
    clock.now += 1
    await tokens.verify(raw)
    used_at = datetime.fromtimestamp(clock.now, UTC)
    assert (await tokens.list())[0].last_used_at == used_at
    await tokens.flush()
    assert (await Tokens(db, ADMIN, "tunnel.test").list())[0].last_used_at == used_at


async def test_the_list_is_newest_first_and_counts_tunnels_ever_registered(
    tokens: Tokens, db: Database, clock: Clock
) -> None:
    first, _ = await tokens.create("first")
    clock.now += 1
    await tokens.create("second")
    history = History(db)
    for number in range(3):
        await history.opened(f"tunnel-{number}", "http", "a.tunnel.test", "session", first.id)
        await history.closed(f"tunnel-{number}")
    assert [(row.label, row.tunnel_count) for row in await tokens.list()] == [("second", 0), ("first", 3)]


async def test_a_row_has_the_members_of_the_api(tokens: Tokens) -> None:
    row, _ = await tokens.create("ci", "team-*,demo")
    assert row.public() == {
        "id": row.id,
        "token_hash": row.token_hash,
        "label": "ci",
        "created_at": "2026-02-03T04:06:00Z",
        "last_used_at": None,
        "expires_at": None,
        "scope": "team-*,demo",
        "tunnel_count": 0,
    }


@pytest.mark.parametrize("label", ["", "   ", "x" * 129, "a\0b"])
async def test_a_label_is_1_to_128_characters(tokens: Tokens, label: str) -> None:
    with pytest.raises(LabelInvalid):
        await tokens.create(label)
    assert await tokens.list() == []


async def test_a_scope_that_cannot_be_read_makes_no_token(tokens: Tokens) -> None:
    with pytest.raises(ScopeInvalid):
        await tokens.create("ci", "team_7")
    assert await tokens.list() == []


async def test_a_scope_that_fits_no_more_refuses_its_token(tokens: Tokens, db: Database) -> None:
    row, raw = await tokens.create("ci", "a.tunnel.test")
    assert (await tokens.verify(raw)).scope.allows("a")
    async with db.begin() as conn:
        await conn.execute(update(table).where(table.c.id == row.id).values(scope="a.b.tunnel.test"))
    with pytest.raises(TokenInvalid, match="does not fit"):
        await Tokens(db, ADMIN, "tunnel.test").verify(raw)
