"""The database itself: migrations, transactions, rows that cannot be taken."""

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select, text

from moongate.errors import ConfigurationError, StorageError
from moongate.storage import migrating
from moongate.storage.database import Database
from moongate.storage.migrating import HEAD, current
from moongate.storage.schema import kept_names, metadata, tokens


def token(number: int, **members: Any) -> dict[str, Any]:
    values = {"id": f"id-{number}", "token_hash": f"hash-{number}", "label": "ci", "created_at": 1}
    return values | members


async def count(db: Database) -> int:
    async with db.connect() as conn:
        found: int = (await conn.execute(select(func.count()).select_from(tokens))).scalar_one()
        return found


async def test_migrations_make_exactly_the_tables_of_the_schema(db: Database) -> None:
    def differences(conn: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(conn), metadata))

    async with db.begin() as conn:
        assert await conn.run_sync(differences) == []
        assert await conn.run_sync(current) == HEAD


async def test_opening_twice_changes_nothing(database_url: str) -> None:
    for _ in range(2):
        db = await Database.open(database_url)
        await db.write_rows(db.insert(tokens).on_conflict_do_nothing(), [token(1)])
        assert await count(db) == 1
        await db.aclose()


async def test_a_database_of_the_first_version_gets_what_it_lacks_and_keeps_what_it_has(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "HEAD", "0001")
        db = await Database.open(database_url)
    await db.write_rows(db.insert(tokens), [token(1)])
    await db.aclose()
    db = await Database.open(database_url)
    async with db.connect() as conn:
        assert await conn.run_sync(current) == HEAD
        assert (await conn.execute(select(kept_names))).all() == []
    assert await count(db) == 1
    await db.aclose()


async def test_processes_that_start_together_migrate_once(database_url: str) -> None:
    databases = await asyncio.gather(*(Database.open(database_url) for _ in range(3)))
    assert [await count(db) for db in databases] == [0, 0, 0]
    for db in databases:
        await db.aclose()


async def test_a_database_of_a_newer_version_is_refused(db: Database, database_url: str) -> None:
    async with db.begin() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="revision 9999"):
        await Database.open(database_url)


async def test_a_transaction_that_fails_leaves_nothing(db: Database) -> None:
    async def fail() -> None:
        async with db.begin() as conn:
            await conn.execute(tokens.insert(), token(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await count(db) == 0


async def test_writers_wait_for_one_another(db: Database) -> None:
    async def add(number: int) -> None:
        async with db.begin() as conn:
            seen = (await conn.execute(select(func.count()).select_from(tokens))).scalar_one()
            await asyncio.sleep(0)
            await conn.execute(tokens.insert(), token(number, label=f"{seen}"))

    await asyncio.gather(*(add(number) for number in range(20)))
    assert await count(db) == 20


async def test_one_poisoned_row_does_not_keep_its_neighbours_out(db: Database) -> None:
    rows = [token(1), token(2, label=None), token(3)]
    assert await db.write_rows(tokens.insert(), rows) == 1
    assert await count(db) == 2


async def test_a_number_too_large_for_the_database_is_refused_alone(db: Database) -> None:
    rows = [token(1), token(2, created_at=1 << 70), token(3)]
    assert await db.write_rows(tokens.insert(), rows) == 1
    assert await count(db) == 2


async def test_a_failing_statement_is_a_storage_error_without_its_values(db: Database) -> None:
    with pytest.raises(StorageError) as failure:
        async with db.begin() as conn:
            await conn.execute(text("SELECT :secret FROM no_such_table"), {"secret": "hunter2"})
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("url", ["mysql://root:hunter2@db/x", "no url", "sqlite://", "sqlite:///:memory:", ""])
async def test_a_url_of_no_known_database_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        await Database.open(url)
    assert "hunter2" not in str(failure.value)


async def test_a_server_that_is_not_there_is_a_storage_error(free_port: Any) -> None:
    with pytest.raises(StorageError) as failure:
        await Database.open(f"postgresql://moongate:hunter2@127.0.0.1:{free_port()}/x")
    assert "hunter2" not in str(failure.value)
