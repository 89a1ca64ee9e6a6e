"""How rows get into the tables: several by one statement.

With each statement the thread gives Python's lock away and waits for it again, for milliseconds where the event loop is
busy: row by row, a batch would take longer than the disk does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar

from attrs import frozen

from proxy.server.ledger.rows import ATTEMPT, DECISION, Row

T = TypeVar("T")

MOST = 16  # rows of one statement; fewer go by powers of two, so that a table has five statements, which stay prepared
BAD_ROW = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)


@frozen
class Into:
    table: str
    columns: tuple[str, ...]
    verb: str = "INSERT"
    conflict: str = ""


# Ids are ours and unique: the same one again is the same request, recorded twice or sent again after a commit whose
# answer was lost. It stands, and is charged, once.
DECISIONS = Into("decisions", tuple(DECISION), conflict=" ON CONFLICT (request_id) DO NOTHING")
ATTEMPTS = Into("attempts", ("decision", *ATTEMPT))
PLANS = Into("plans", ("decision", "plan"))
LEASES = Into("leases", ("request_id", "key_id", "project", "nanos", "until_ms"), "INSERT OR REPLACE")


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Row], refused: Callable[[Row, Exception], None]) -> None:
    """Within a transaction. A row that breaks the tables' rules is told, and holds up no other."""
    for part in _parts(rows):
        connection.execute("SAVEPOINT part")
        if not _all_new(connection, part):
            connection.execute("ROLLBACK TO part")
            for row in part:
                try:
                    _insert_one(connection, row)
                except BAD_ROW as exc:
                    refused(row, exc)
        connection.execute("RELEASE part")


def insert(connection: sqlite3.Connection, into: Into, rows: Iterable[Sequence[Any]]) -> None:
    for part in _parts(list(rows)):
        connection.execute(_statement(into, len(part)), tuple(chain.from_iterable(part)))


def _all_new(connection: sqlite3.Connection, rows: Sequence[Row]) -> bool:
    """False where a row was refused, or was there: then nobody knows the ids of the others."""
    values = tuple(chain.from_iterable(row.decision for row in rows))
    try:
        cursor = connection.execute(_statement(DECISIONS, len(rows)), values)
        if cursor.rowcount != len(rows) or cursor.lastrowid is None:
            return False
        numbered = list(enumerate(rows, cursor.lastrowid - len(rows) + 1))  # in turn, since nobody else writes
        insert(connection, ATTEMPTS, ((id, *attempt) for id, row in numbered for attempt in row.attempts))
        insert(connection, PLANS, ((id, row.plan) for id, row in numbered if row.plan is not None))
    except BAD_ROW:
        return False
    return True


def _insert_one(connection: sqlite3.Connection, row: Row) -> None:
    cursor = connection.execute(_statement(DECISIONS, 1), row.decision)
    if cursor.rowcount:
        insert(connection, ATTEMPTS, ((cursor.lastrowid, *attempt) for attempt in row.attempts))
        if row.plan is not None:
            insert(connection, PLANS, [(cursor.lastrowid, row.plan)])


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    at = 0
    while left := len(rows) - at:
        size = min(MOST, 1 << left.bit_length() - 1)
        yield rows[at : at + size]
        at += size


@cache
def _statement(into: Into, rows: int) -> str:
    places = ", ".join([f"({', '.join('?' * len(into.columns))})"] * rows)
    return f"{into.verb} INTO {into.table} ({', '.join(into.columns)}) VALUES {places}{into.conflict}"
