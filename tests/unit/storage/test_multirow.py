import sqlite3

import pytest
from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects import sqlite

from moongate.storage.multirow import MultiRowInsert

TABLE = Table(
    "things",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("name", Text),
    Column("done", Boolean),
    Column("raw", LargeBinary),
)
COLUMNS = ["id", "name", "done", "raw"]
STATEMENT = sqlite.insert(TABLE)
UPSERT = STATEMENT.on_conflict_do_update(index_elements=["id"], set_={"name": STATEMENT.excluded["name"]})


def row(number: int, name: str | None = "a?b") -> dict[str, object]:
    return {"id": number, "name": name, "done": number % 2 == 0, "raw": bytes((number,))}


@pytest.mark.parametrize("count", [1, 2, 50])
def test_as_many_rows_are_stored_as_were_given_each_with_its_own_values(count: int) -> None:
    rows = [row(number) for number in range(count)]
    insert = MultiRowInsert(UPSERT, COLUMNS, sqlite.dialect(paramstyle="qmark"))
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, done BOOLEAN, raw BLOB)")
        database.execute(insert.text(count), insert.parameters(rows))
        stored = database.execute("SELECT id, name, done, raw FROM things ORDER BY id").fetchall()
    database.close()
    assert stored == [(each["id"], each["name"], each["done"], each["raw"]) for each in rows]


def test_a_row_that_is_there_already_is_changed_and_its_neighbours_are_inserted() -> None:
    insert = MultiRowInsert(UPSERT, COLUMNS, sqlite.dialect(paramstyle="qmark"))
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, done BOOLEAN, raw BLOB)")
        database.execute(insert.text(1), insert.parameters([row(1, "old")]))
        database.execute(insert.text(3), insert.parameters([row(0), row(1, "new"), row(2, None)]))
        stored = database.execute("SELECT name FROM things ORDER BY id").fetchall()
    database.close()
    assert stored == [("a?b",), ("new",), (None,)]


def test_a_statement_with_other_parameters_than_its_row_is_not_taken() -> None:
    statement = STATEMENT.on_conflict_do_update(index_elements=["id"], set_={"name": "always"})
    with pytest.raises(ValueError, match="not an INSERT of one row"):
        MultiRowInsert(statement, COLUMNS, sqlite.dialect(paramstyle="qmark"))
