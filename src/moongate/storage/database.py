"""Connections, transactions and migrations, on SQLite or PostgreSQL."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Executable, Insert, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.exc import DBAPIError as DriverError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from moongate.errors import ConfigurationError, StorageError
from moongate.storage.migrating import migrate
from moongate.storage.multirow import MultiRowInsert

# One statement's worth: binding more would hold the loop for longer than a few milliseconds.
CHUNK_ROWS = 250
# Binding parameters holds the interpreter's lock: this many rows at a time, or visitors wait for it.
BIND_ROWS = 10
# The same for a writer who falls behind: each statement waits for the lock, so fewer of them are sooner done.
HURRIED_ROWS = 50
BUSY_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
POOL_CONNECTIONS = 4

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_Insert = sqlite.Insert | postgresql.Insert
Row = dict[str, Any]


class RowRefused(StorageError):
    """The database will never take this row; trying again is useless."""

    code = "storage.row_refused"


class Database:
    """One engine. Failures of the driver come out as `StorageError`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer at a time; waiting here wakes at once, waiting in SQLite polls.
        self._writer = asyncio.Lock() if self.is_sqlite else None
        self._inserts: WeakKeyDictionary[Insert, MultiRowInsert] = WeakKeyDictionary()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and bring the schema up to date.

        Raises:
            ConfigurationError: If the URL names no database this program knows.
            StorageError: If the database cannot be reached, or a newer version wrote it.
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            _make_private(parsed)
        database = cls(_engine(parsed))
        try:
            async with database.begin() as conn:
                await conn.run_sync(migrate)
        except BaseException:
            await database.aclose()
            raise
        return database

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection inside a transaction that may write; it commits when the block ends well.

        Raises:
            StorageError: If the database fails; nothing of the block is kept.
        """
        async with self._turn(), _translated(), self._engine.connect() as conn:
            await conn.execution_options(moongate_writes=True)
            async with conn.begin():
                yield conn

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection for reading.

        Raises:
            StorageError: If the database fails.
        """
        async with _translated(), self._engine.connect() as conn:
            yield conn

    def insert(self, table: Table) -> _Insert:
        """Begin an insert of this database's own kind, which can say what to do on conflict."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    async def write_rows(self, statement: Executable, rows: Sequence[Row], *, hurried: bool = False) -> int:
        """Write rows in one transaction; return how many the database will never take.

        `hurried` writes sooner, at the cost of everybody else's patience.

        Raises:
            StorageError: If the database fails; then no row is kept.
        """
        try:
            async with self.begin() as conn:
                if rows and self.is_sqlite and isinstance(statement, Insert):
                    await self._insert_rows(conn, statement, rows, HURRIED_ROWS if hurried else BIND_ROWS)
                else:
                    for start in range(0, len(rows), BIND_ROWS):
                        await conn.execute(statement, rows[start : start + BIND_ROWS])
        except RowRefused:
            return await self._write_singly(statement, rows)
        return 0

    async def _insert_rows(self, conn: AsyncConnection, statement: Insert, rows: Sequence[Row], at_once: int) -> None:
        insert = self._inserts.get(statement)
        if insert is None:
            insert = self._inserts[statement] = MultiRowInsert(statement, list(rows[0]), self._engine.dialect)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            await conn.exec_driver_sql(insert.text(len(some)), insert.parameters(some))

    async def _write_singly(self, statement: Executable, rows: Sequence[Row]) -> int:
        # One poisoned row must not keep its neighbours out for ever.
        refused = 0
        async with self.begin() as conn:
            for row in rows:
                try:
                    async with _translated(), conn.begin_nested():
                        await conn.execute(statement, row)
                except RowRefused:
                    refused += 1
        return refused

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._writer is None:
            yield
            return
        async with self._writer:
            yield

    async def aclose(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return URL.create("sqlite+aiosqlite", database=str(path)).render_as_string()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("the database's URL cannot be read") from error  # it may hold a password
    driver = _DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        raise ConfigurationError(f"no database of the kind {parsed.get_backend_name()!r}; use sqlite or postgresql")
    return parsed.set(drivername=driver)


def _make_private(url: URL) -> None:
    # The journal files inherit the mode of the database file, so it is made before SQLite would make it readable.
    path = url.database
    if not path or path == ":memory:":
        raise ConfigurationError("a SQLite database needs a file")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(f"the database {path} cannot be opened: {error.strerror}") from error


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, pool_size=POOL_CONNECTIONS, max_overflow=0, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    arguments = {"command_timeout": COMMAND_TIMEOUT_S, "timeout": COMMAND_TIMEOUT_S}
    return create_async_engine(
        url,
        pool_size=POOL_CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=arguments,
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions only before a write, which lets a reader's transaction fail to become a
    # writer's; here each begins when it is meant to.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # In WAL mode only FULL brings a commit to the disk before it returns.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    writes = conn.get_execution_options().get("moongate_writes", False)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (DriverError, StatementError, OverflowError) as error:
        family = RowRefused if _is_about_the_row(error) else StorageError
        raise family(f"the database failed: {_reason(error)}") from error
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise StorageError(f"the database failed: {_reason(error)}") from error


def _is_about_the_row(error: Exception) -> bool:
    """Tell a value that can never be written from a database that fails just now."""
    if not isinstance(error, DriverError):
        return True  # it could not even be bound
    # SQLSTATE classes 22 (data exception) and 23 (constraint violation); asyncpg raises ValueErrors of its own before.
    state = str(getattr(error.orig, "sqlstate", None) or "")
    caused = getattr(error.orig, "__cause__", None)
    return isinstance(error, IntegrityError | DataError) or state[:2] in {"22", "23"} or isinstance(caused, ValueError)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
