"""How long rows stay: by age, and by the bytes they take. The oldest go first, a few at a time, with their attempts
and plans. Nothing else ever deletes from the ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from proxy.record import frozen
from proxy.server.ledger.rows import BLOCK_BITS, DAY_MS

STEP_ROWS = 200  # about 10 ms under the write lock
STEP_PAGES = 512
STEP_BLOCKS = 256

OLDER = (
    "DELETE FROM decision_rows WHERE id IN (SELECT id FROM decision_rows WHERE at_ms < ? ORDER BY at_ms, id LIMIT ?)"
)
OLDEST = "DELETE FROM decision_rows WHERE id IN (SELECT id FROM decision_rows ORDER BY at_ms, id LIMIT ?)"


# Of days, and of blocks of time, before that of the oldest row.
FORMS = f"DELETE FROM plan_forms WHERE day < (SELECT min(at_ms) / {DAY_MS} FROM decisions)"  # noqa: S608
MARKS = (
    "DELETE FROM marks WHERE block < min("  # noqa: S608
    f"(SELECT min(at_ms) >> {BLOCK_BITS} FROM decisions), (SELECT min(block) FROM marks) + {STEP_BLOCKS})"
)


@frozen
class Retention:
    """`days` by the wall clock, `bytes` of the file without its WAL; None keeps for ever."""

    days: float | None = 90
    bytes: int | None = 2 << 30

    def step(self, connection: sqlite3.Connection, now_ms: int) -> tuple[int, bool]:
        """One small transaction: the rows it deleted, and whether there is more to do. Raises sqlite3.Error."""
        if self.days is not None:
            cutoff = now_ms - int(self.days * DAY_MS)
            if deleted := connection.execute(OLDER, (cutoff, STEP_ROWS)).rowcount:
                return deleted, True
        if self.bytes is not None:
            return self._shrink(connection, self.bytes)
        return 0, False

    def _shrink(self, connection: sqlite3.Connection, most: int) -> tuple[int, bool]:
        page, pages, free = (_pragma(connection, name) for name in ("page_size", "page_count", "freelist_count"))
        if (pages - free) * page > most:
            deleted = connection.execute(OLDEST, (STEP_ROWS,)).rowcount
            return deleted, deleted > 0
        if pages * page > most and free:
            # Free pages are used again; they go back to the disk only where the file itself is too large.
            give_pages_back(connection, STEP_PAGES)
            return 0, _pragma(connection, "freelist_count") < free
        return 0, False


@contextmanager
def cascading(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """With a row that is deleted go its attempts and its plan."""
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.execute("PRAGMA foreign_keys = OFF")


def give_pages_back(connection: sqlite3.Connection, pages: int) -> None:
    """So many free ones to the disk. A cursor would end after the first: what it takes for the statement's end is a row
    without columns for each page."""
    connection.executescript(f"PRAGMA incremental_vacuum({pages})")


def sweep(connection: sqlite3.Connection) -> bool:
    """What belongs to rows that are gone, after the last step: a small part of it. Whether there may be more."""
    connection.execute(FORMS)
    return connection.execute(MARKS).rowcount > 0


def _pragma(connection: sqlite3.Connection, name: Literal["page_size", "page_count", "freelist_count"]) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
