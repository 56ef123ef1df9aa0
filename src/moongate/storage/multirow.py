"""An INSERT of many rows in one statement, for SQLite.

The driver gives the interpreter's lock away for every row of `executemany`, and a loop that is busy hands it back only
5 ms later: a node at its limit could write no more than a few hundred rows a second. One statement for many rows
waits once.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Dialect, Insert

_VALUES: Final = re.compile(r"VALUES (\(\?(?:, \?)*\))")


class MultiRowInsert:
    """The text of one INSERT for any number of rows, and the parameters in its order."""

    def __init__(self, statement: Insert, columns: Sequence[str], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=list(columns))
        names: Sequence[str] = compiled.positiontup or ()
        found = _VALUES.search(compiled.string)
        if found is None or found[1].count("?") != len(names):
            raise ValueError("not an INSERT of one row of parameters")
        self._head, self._row, self._tail = compiled.string[: found.start(1)], found[1], compiled.string[found.end(1) :]
        types = [compiled.binds[name].type for name in names]
        self._columns = [
            (name, kind.dialect_impl(dialect).bind_processor(dialect)) for name, kind in zip(names, types, strict=True)
        ]

    def text(self, count: int) -> str:
        """Return the statement for that many rows."""
        return self._head + ", ".join([self._row] * count) + self._tail

    def parameters(self, rows: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
        """Return the rows' values in the statement's order."""
        return tuple(
            [row[name] if process is None else process(row[name]) for row in rows for name, process in self._columns]
        )
