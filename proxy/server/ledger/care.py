"""What an operator does with the ledger's file: is it whole and do its sums agree, and space given back.

Everything here blocks, for as long as the file is large, and is for commands.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from attrs import field

from proxy.record import define
from proxy.server.ledger.migrations import MIGRATIONS, SPENDERS
from proxy.server.ledger.retention import give_pages_back
from proxy.server.ledger.rows import BLOCK_BITS, DAY_MS, MARKED
from proxy.server.ledger.schema import open_reader, open_writer, refusal

MOST_TOLD = 20  # problems of one kind
STEP_PAGES = 256  # given back at a time: a millisecond or two under the write lock
PAUSE = 0.005  # seconds between two steps, for the gateway's writer
WITH_SUMS, WITH_FORMS, WITH_MARKS, WITH_SOLE = 3, 5, 6, 7  # the schemas that began to keep them


@define
class Findings:
    """`problems` is empty where all is well."""

    path: Path
    schema: int
    decisions: int = 0
    attempts: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    leases: int = 0  # of keys that have requests under way
    leases_over: int = 0  # of a process that died; the gateway deletes them
    bytes: int = 0
    bytes_free: int = 0
    problems: list[str] = field(factory=list)

    @property
    def newest_schema(self) -> int:
        return MIGRATIONS[-1].version

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "good": not self.problems,
            "problems": self.problems,
            "schema": self.schema,
            "newest_schema": self.newest_schema,
            "decisions": self.decisions,
            "attempts": self.attempts,
            "oldest_ms": self.oldest_ms,
            "newest_ms": self.newest_ms,
            "leases": self.leases,
            "leases_over": self.leases_over,
            "bytes": self.bytes,
            "bytes_free": self.bytes_free,
        }


def examine(path: Path, *, now_ms: int, quick: bool = False) -> Findings:
    """Reads the file from end to end, `quick` without comparing indexes and marks with the table. Safe at any time.
    Raises LedgerRefused for a file that cannot be read at all."""
    with closing(open_reader(path, older=True)) as connection:
        try:
            connection.execute("BEGIN")  # one state
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            found = Findings(path, int(schema))
            found.problems += _damage(connection, quick)
            if not found.problems and schema:
                _measure(connection, found, now_ms)
                found.problems += _disagreements(connection, found)
            if found.schema >= WITH_MARKS and not quick:
                found.problems += _not_marked(connection)
        except sqlite3.Error as exc:
            raise refusal(path, exc) from exc
    return found


def _damage(connection: sqlite3.Connection, quick: bool) -> Iterator[str]:
    pragma = "quick_check" if quick else "integrity_check"
    for (verdict,) in connection.execute(f"PRAGMA {pragma}({MOST_TOLD})"):
        if verdict != "ok":
            yield f"damage: {' '.join(str(verdict).split())}"
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(MOST_TOLD):
        yield f"row {row} of {table} belongs to no row of {parent}"


def _measure(connection: sqlite3.Connection, found: Findings, now_ms: int) -> None:
    def one(statement: str, *values: int) -> tuple[Any, ...]:
        row: tuple[Any, ...] = connection.execute(statement, values).fetchone()
        return row

    found.decisions, found.oldest_ms, found.newest_ms = one("SELECT count(*), min(at_ms), max(at_ms) FROM decisions")
    (found.attempts,) = one("SELECT count(*) FROM attempts")
    if found.schema >= WITH_SUMS:
        (found.leases,) = one("SELECT count(*) FROM leases WHERE until_ms >= ?", now_ms)
        (found.leases_over,) = one("SELECT count(*) FROM leases WHERE until_ms < ?", now_ms)
    (page,), (pages,), (free,) = (one(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
    found.bytes, found.bytes_free = page * pages, page * free


def _disagreements(connection: sqlite3.Connection, found: Findings) -> Iterator[str]:
    there = "(SELECT count(*) FROM {} WHERE decision = decisions.id)"
    there = "sole + " + there.format("own_attempts") if found.schema >= WITH_SOLE else there.format("attempts")
    lacking = (
        f"SELECT request_id, attempt_count, {there} AS rows"  # noqa: S608  constants
        " FROM decisions WHERE attempt_count <> rows ORDER BY at_ms"
    )
    for request_id, told, rows in connection.execute(lacking).fetchmany(MOST_TOLD):
        yield f"{request_id}: {told} attempts are told, and {rows} are there"
    if found.schema >= WITH_FORMS:
        lost = (
            "SELECT request_id FROM decisions WHERE form IS NOT NULL AND form NOT IN (SELECT id FROM plan_forms)"
            " ORDER BY at_ms"
        )
        for (request_id,) in connection.execute(lost).fetchmany(MOST_TOLD):
            yield f"{request_id}: the form of its plan is not there"
    if found.schema >= WITH_SUMS and found.oldest_ms is not None:
        for kind, column in SPENDERS:
            yield from _sums(connection, kind, column, found.oldest_ms // DAY_MS)


def _not_marked(connection: sqlite3.Connection) -> Iterator[str]:
    """Rows that a search by one of their columns would not find."""
    for column in MARKED:
        lost = (
            f"SELECT request_id FROM decisions WHERE {column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM marks"  # noqa: S608
            f" WHERE kind = '{column}' AND value = {column} AND block = at_ms >> {BLOCK_BITS}) ORDER BY at_ms"
        )
        for (request_id,) in connection.execute(lost).fetchmany(MOST_TOLD):
            yield f"{request_id}: no mark leads to it by its {column}"


def _sums(connection: sqlite3.Connection, kind: str, column: str, first: int) -> Iterator[str]:
    """Spend outlasts rows: of the day of the oldest row, and of days before it, it may be more than what is left."""
    differing = f"""
        SELECT account, day, sum(of_rows) AS rows, sum(kept) AS spent FROM (
            SELECT '{kind}:' || {column} AS account, at_ms / {DAY_MS} AS day, charged_nanos AS of_rows, 0 AS kept
            FROM decisions WHERE {column} IS NOT NULL
            UNION ALL SELECT account, day, 0, nanos FROM spend WHERE account LIKE '{kind}:%'
        )
        GROUP BY account, day HAVING rows > spent OR (day > ? AND rows <> spent) ORDER BY day, account
    """  # noqa: S608  constants
    for account, day, rows, spend in connection.execute(differing, (first,)).fetchmany(MOST_TOLD):
        date = time.strftime("%Y-%m-%d", time.gmtime(day * DAY_MS / 1000))
        yield f"{account}, {date}: the rows sum to {rows} nano-USD, and {spend} are counted as spent"


# -- space -------------------------------------------------------------------------------------------------------


class NoRoom(Exception):
    """The disk has too little space for a copy of the file. The text says so."""


def give_back(path: Path) -> tuple[int, int]:
    """Free pages, in small transactions between which the gateway writes on. Bytes before and after. Raises
    LedgerRefused."""
    with _writing(path) as connection:
        before = _size(connection)
        free = _free_pages(connection)
        while free:
            give_pages_back(connection, STEP_PAGES)
            time.sleep(PAUSE)
            free, last = _free_pages(connection), free
            if free >= last:
                break
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return before, _size(connection)


def rewrite(path: Path) -> tuple[int, int]:
    """The whole file anew, in order and without gaps, under its lock. Bytes before and after. Raises LedgerRefused and
    NoRoom."""
    with _writing(path) as connection:
        before = _size(connection)
        room = shutil.disk_usage(path.parent).free
        if room < 2 * before:
            raise NoRoom(f"ledger {path}: needs {2 * before:,} bytes of free disk for a while, and there are {room:,}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA optimize")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return before, _size(connection)


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that is there, whose errors are LedgerRefused."""
    if not path.is_file():
        raise refusal(path, "there is no such file; the gateway makes it when it first starts")
    with closing(open_writer(path)) as connection:
        try:
            yield connection
        except sqlite3.Error as exc:
            raise refusal(path, exc) from exc


def _size(connection: sqlite3.Connection) -> int:
    (page,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "page_count"))
    return int(page * pages)


def _free_pages(connection: sqlite3.Connection) -> int:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)
