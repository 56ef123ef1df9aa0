"""Brings a database's schema up to date with the migrations packaged beside this module."""

from pathlib import Path

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.sql import column, table

from moongate.errors import StorageError

# The newest migration; a test holds it against the scripts. Knowing it spares every start the import of Alembic.
HEAD = "0002"
_SCRIPTS = Path(__file__).parent / "migrations"
# Several processes may start on one PostgreSQL together; the number is arbitrary but ours.
_LOCK = 0x4D6F6F6E


def migrate(conn: Connection) -> None:
    """Run the migrations that are missing, inside the caller's transaction.

    Raises:
        StorageError: If the database was written by a newer version.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if current(conn) != HEAD:
        _upgrade(conn)


def current(conn: Connection) -> str | None:
    """Return the migration a database has reached, or None for an empty one."""
    if not inspect(conn).has_table("alembic_version"):
        return None
    return conn.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar()


def _upgrade(conn: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = conn
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise StorageError(
            f"the database is at revision {current(conn)}, which this version does not know",
            hint="start the version that wrote it, or a newer one",
        ) from error
