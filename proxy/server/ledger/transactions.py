"""The file in the hands of the writer's thread: its connection, opened anew after any failure, and what is written by
it in one transaction each."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from proxy.server.ledger.booking import Bookings
from proxy.server.ledger.building import Row
from proxy.server.ledger.checkpoints import Checkpoints
from proxy.server.ledger.insert import BAD_ROW, File, insert_each, insert_rows, insert_sheaf, last_id
from proxy.server.ledger.reserves import Reserves
from proxy.server.ledger.retention import STEP_PAGES, Retention, cascading, sweep
from proxy.server.ledger.schema import inode_of
from proxy.server.ledger.sheaf import Sheaf

log = structlog.get_logger()

BATCH_PAGES, ROW_PAGE = 12, 6_000  # pages that a batch writes of itself, and bytes of rows for one more
SHEAF_PAGES, PAGE_ROWS = 8, 6  # the same of rows that are alike

OLD_LEASE = "SELECT 1 FROM leases WHERE until_ms < ? LIMIT 1"
DROP_LEASES = "DELETE FROM leases WHERE until_ms < ?"


class Transactions:
    """All methods block. After any exception of theirs, `failed` rolls back what is open."""

    def __init__(
        self,
        path: Path,
        connect: Callable[[Path], sqlite3.Connection],
        retention: Retention,
        refused: Callable[[Row, Exception], None],
    ) -> None:
        """`refused` hears of rows that break the tables' rules."""
        self._path, self._connect, self._retention, self._refused = path, connect, retention, refused
        self._place = os.fspath(path)
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None  # of it; a connection makes a new one for each statement
        self._inode: int | None = None
        self._last_id: int | None = None  # of the rows in the file; None where it has to be asked
        self._bookings, self._checkpoints = Bookings(), Checkpoints(path)
        self.reserves = Reserves()

    def write(self, rows: Sequence[Row], weight: int) -> int:
        """All of them, and what is reserved; how many rows the tables took. A row that breaks their rules stalls
        nobody."""
        connection = self.open()
        self._checkpoints.give_way()
        connection.execute("BEGIN IMMEDIATE")
        new, refused = (rows, 0) if self._insert(connection, rows) else self._insert_each(connection, rows)
        self._bookings.book(connection, new)
        self._commit(connection, [row.request_id for row in rows], BATCH_PAGES + weight // ROW_PAGE)
        return len(rows) - refused

    def write_sheaf(self, sheaf: Sheaf) -> bool:
        """The same for rows that are alike, while the file takes them. False where it is not so: nothing is written
        then."""
        connection = self._connection
        if connection is None or self._last_id is None or inode_of(self._place) != self._inode:
            return False
        if (cursor := self._cursor) is None:
            self._cursor = cursor = connection.cursor()
        self._checkpoints.give_way()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            self._last_id = insert_sheaf(cursor, sheaf)
        except OverflowError:
            cursor.execute("ROLLBACK")
            return False
        self._bookings.book_sheaf(cursor, sheaf)
        self._commit(cursor, sheaf.requests, SHEAF_PAGES + len(sheaf.requests) // PAGE_ROWS)
        return True

    def _commit(self, file: File, requests: Iterable[str], pages: int) -> None:
        reserves = self.reserves
        reserves.end(requests)
        reserves.write(file)
        file.execute("COMMIT")
        reserves.done()
        self._checkpoints.committed(file, pages)

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> bool:
        """All at once, if they are new; where another process has written, from its last id on. False if not."""
        last = self._last_id
        if last is not None and self._insert_behind(last, connection, rows):
            return True
        return self._insert_behind(last_id(connection), connection, rows)

    def _insert_behind(self, last: int, connection: sqlite3.Connection, rows: Sequence[Row]) -> bool:
        try:
            insert_rows(connection, rows, last)
        except BAD_ROW:
            self._last_id = None
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            return False
        self._last_id = last + len(rows)
        return True

    def _insert_each(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> tuple[Sequence[Row], int]:
        """Those that are new, and how many are none."""
        refused = []

        def refuse(row: Row, exc: Exception) -> None:
            refused.append(row)
            self._refused(row, exc)

        return insert_each(connection, rows, refuse), len(refused)

    def tidy(self, now_ms: int, *, swept: bool) -> tuple[int, bool]:
        """A step of the retention, and old leases: the rows that it deleted, and whether there is more to do. `swept`
        where rows were deleted before, so that what belonged to them goes as well."""
        connection = self.open()
        if connection.execute(OLD_LEASE, (now_ms,)).fetchone():  # a look takes no lock
            connection.execute(DROP_LEASES, (now_ms,))
        self.reserves.forget(now_ms)
        with cascading(connection):
            deleted, more = self._retention.step(connection, now_ms)
        if (swept or deleted) and not more:
            more = sweep(connection)
            self._bookings.doubt()
        if deleted or more:
            self._checkpoints.committed(connection, STEP_PAGES)
        return deleted, more

    # -- the connection ------------------------------------------------------------------------------------------

    def open(self) -> sqlite3.Connection:
        """The connection, opened again after any failure, and where the path no longer leads to the open file:
        rows written to a deleted file would be gone without a word."""
        if self._connection is not None and inode_of(self._place) != self._inode:
            log.warning("ledger_file_replaced", path=self._place)
            # The WAL does not move along with a file that is renamed: what it holds goes home first.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self.close()
        if self._connection is None:
            self._connection = self._connect(self._path)
            self._connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()  # see `checkpoints`
            # New rows belong to new ones: a look at what may belong to each would be two searches.
            self._connection.execute("PRAGMA foreign_keys = OFF")
            self._inode = inode_of(self._place)
        return self._connection

    def failed(self) -> None:
        self.close()
        self._checkpoints.failed()

    def close(self, timeout: float | None = None) -> None:
        """Rolls back what is open; with a `timeout` for good."""
        if timeout is not None:
            self._checkpoints.join(timeout)
        connection, self._connection, self._cursor = self._connection, None, None
        self._bookings.doubt()
        self.reserves.doubt()
        self._last_id = None
        if connection is not None:
            with suppress(sqlite3.Error):  # on a disk that fails; the next one is opened in its place
                connection.close()
