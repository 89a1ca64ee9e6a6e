"""How rows get into the tables: many by one statement.

With each statement the thread gives Python's lock away a few times and waits for it again, for milliseconds where the
event loop is busy: row by row, a batch would take longer than the disk does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

from proxy.server.ledger.building import Into, Kind, Row
from proxy.server.ledger.rows import Value
from proxy.server.ledger.sheaf import Sheaf

T = TypeVar("T")
File = sqlite3.Connection | sqlite3.Cursor

# Rows of one statement. Whatever their number, a few statements take them, and these stay prepared.
SIZES = (128, 64, 32, 16, 8)
MANY = 8  # rows of one kind that are worth a statement of their own; fewer are one statement, whatever their number
BAD_ROW = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, OverflowError)
PLANS = Into("plans", ("decision", "plan"))


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Row], last: int) -> None:
    """Within a transaction, which is void after any exception: one of `BAD_ROW` where a row breaks the tables' rules,
    or is there. Ids go on behind `last` in the order of the rows, whatever statements take them: pages show rows of one
    millisecond by it."""
    numbered = list(enumerate(rows, last + 1))
    _put(connection, [(row.kind, id, row.values) for id, row in numbered])
    _insert_rest(connection, numbered)


def insert_sheaf(cursor: sqlite3.Cursor, sheaf: Sheaf) -> int:
    """The same for those that are alike, by their values. The file numbers them, behind those that it has: the last
    one's id."""
    kind, values, count = sheaf.alike.ordinary, sheaf.values, len(sheaf.requests)
    into, shared = kind.into, len(kind.shared)
    if count <= MANY:
        cursor.execute(sheaf_statement(into, shared, count), values)
    else:
        first, own = values[:shared], len(into.columns) - shared - 1
        for part in _cut(range(count)):
            rest = values[shared + part[0] * own : shared + (part[-1] + 1) * own]
            cursor.execute(sheaf_statement(into, shared, len(part)), first + rest)
    return cursor.lastrowid or 0


def insert_each(
    connection: sqlite3.Connection, rows: Sequence[Row], refused: Callable[[Row, Exception], None]
) -> list[Row]:
    """Those that are new. A row that breaks the rules is told, and holds up no other. Ids are ours and unique: the same
    one again is the same request, recorded twice or sent again after a commit whose answer was lost."""
    new, last = [], last_id(connection)
    for row in rows:
        connection.execute("SAVEPOINT one")
        try:
            id = last + 1
            once = f"{statement(row.kind.into, 1)} ON CONFLICT (request_id) DO NOTHING"
            if connection.execute(once, (*row.kind.shared, id, *row.values)).rowcount:
                _insert_rest(connection, [(id, row)])
                new.append(row)
                last = id
        except BAD_ROW as exc:
            connection.execute("ROLLBACK TO one")
            refused(row, exc)
        connection.execute("RELEASE one")
    return new


def insert(file: File, into: Into, rows: Iterable[Sequence[Any]]) -> None:
    for part in parts(list(rows)):
        file.execute(statement(into, len(part)), list(chain.from_iterable(part)))


def last_id(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM decision_rows").fetchone()
    return int(last)


def _insert_rest(connection: sqlite3.Connection, numbered: Sequence[tuple[int, Row]]) -> None:
    """Their attempts and plans, which ordinary rows do not have."""
    if attempts := [(kind, id, values) for id, row in numbered for kind, values in row.attempts]:
        _put(connection, attempts)
    if plans := [(id, row.plan) for id, row in numbered if row.plan is not None]:
        insert(connection, PLANS, plans)


def _put(connection: sqlite3.Connection, pieces: Iterable[tuple[Kind, int, tuple[Value, ...]]]) -> None:
    """Where many are of one kind, what they share is bound once; the others go together with all that have the same
    columns."""
    kinds: dict[Kind, list[tuple[int, tuple[Value, ...]]]] = {}
    for kind, id, values in pieces:
        if (some := kinds.get(kind)) is None:
            kinds[kind] = some = []
        some.append((id, values))
    others: dict[Into, list[tuple[Value, ...]]] = {}
    for kind, some in kinds.items():
        if len(some) < MANY:
            others.setdefault(kind.into, []).extend([(*kind.shared, id, *values) for id, values in some])
            continue
        for part in parts(some):
            bound: list[Value] = list(kind.shared)
            for id, values in part:
                bound.append(id)
                bound += values
            connection.execute(_sharing_statement(kind.into, len(kind.shared), len(part)), bound)
    for into, rows in others.items():
        insert(connection, into, rows)


def parts(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    return (rows,) if 0 < len(rows) <= MANY else _cut(rows)


def _cut(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size
    if at < len(rows):
        yield rows[at:]


@lru_cache(maxsize=512)
def statement(into: Into, rows: int) -> str:
    places = ", ".join([f"({', '.join('?' * len(into.columns))})"] * rows)
    return f"{into.verb} INTO {into.table} ({', '.join(into.columns)}) VALUES {places}{into.conflict}"


@lru_cache(maxsize=256)
def sheaf_statement(into: Into, shared: int, rows: int) -> str:
    """The same for rows of one kind, which takes longer to prepare and is quicker where it is prepared. A row that
    breaks the tables' rules ends the transaction: to undo the statement alone SQLite would copy each page before it
    writes there."""
    columns = [name for name in into.columns if name != "id"]
    row = f"({', '.join([*(f'?{n}' for n in range(1, shared + 1)), *'?' * (len(columns) - shared)])})"
    return f"{into.verb} OR ROLLBACK INTO {into.table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"


@lru_cache(maxsize=256)
def _sharing_statement(into: Into, shared: int, rows: int) -> str:
    """Its first values are those that all rows share. SQLite takes a parameter's number for a name, and looks for it
    among all before it: so the others have none."""
    first = ", ".join(f"?{n}" for n in range(1, shared + 1))
    places = ", ".join([f"({', '.join('?' * (len(into.columns) - shared))})"] * rows)
    return f"{into.verb} INTO {into.table} ({', '.join(into.columns)}) SELECT {first}, * FROM (VALUES {places})"  # noqa: S608
