"""The ledger's writer: a queue with a cap in bytes, and one thread that empties it into SQLite.

`record` is for the event loop: it appends, never waits for a disk and never raises. A row that comes after a quiet
while is written at once, what comes after it within `flush_ms` together, or half of that where it comes thick: then the
loop is busy, and a transaction beside it takes its time. What the file refuses for now (disk full, locked, unreadable)
stays queued and is tried again until it is taken; what comes while the queue is full is dropped and counted.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import structlog

from proxy.server.bell import Bell
from proxy.server.ledger.booking import Bookings
from proxy.server.ledger.building import ATTEMPT_BYTES, ROW_BYTES, Row, Rows
from proxy.server.ledger.checkpoints import Checkpoints
from proxy.server.ledger.insert import BAD_ROW, insert_each, insert_rows, last_id
from proxy.server.ledger.records import Brief, Decision, Lease
from proxy.server.ledger.retention import STEP_PAGES, Retention, cascading, sweep
from proxy.server.ledger.schema import LedgerRefused, check, inode_of, open_writer, refusal

log = structlog.get_logger()

BATCH_ROWS = 512
THICK = 16  # rows of a batch, from which on the next one is due in half the time
RECORDED = (Decision, Brief)
BACKOFF_FIRST, BACKOFF_MOST = 0.05, 5.0  # seconds between tries while the file takes nothing
TIDY_SECONDS = 60.0
NAPS = 10  # times of `flush_ms` without a row, after which the thread sleeps until it is woken

# What a decision weighs before it is a row, about: objects and strings are bounded, so counting them would cost more
# than it says.
QUEUED_BYTES = ROW_BYTES + ATTEMPT_BYTES + 4096
BATCH_PAGES, ROW_PAGE = 12, 6_000  # pages that a batch writes of itself, and bytes of rows for one more

OLD_LEASE = "SELECT 1 FROM leases WHERE until_ms < ? LIMIT 1"
DROP_LEASES = "DELETE FROM leases WHERE until_ms < ?"


class Ledger:
    """Append-only record of requests. `start`, `flush` and `stop` block: call them off the event loop.

    Counters, in rows: `written` are in the file, `queued` on their way, `dropped` came while the queue was full (or
    after the end), `failed` could not be written at all. Together they are all that was recorded.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_queue_bytes: int = 16 << 20,
        flush_ms: int = 40,
        retain_days: float | None = 90,
        retain_bytes: int | None = 2 << 30,
        now: Callable[[], float] = time.time,
        connect: Callable[[Path], sqlite3.Connection] = open_writer,
    ) -> None:
        self.path = path
        self.written = self.dropped = self.failed = 0
        self._max_bytes, self._flush_s, self._now, self._connect = max_queue_bytes, flush_ms / 1000, now, connect
        self._retention = Retention(retain_days, retain_bytes)
        self._pause_s = self._flush_s  # between two batches, as the last one was
        # Callers add to these two without a lock. Only where `_room` is taken up do they meet the thread at it.
        self._queue: deque[Decision | Brief] = deque()
        self._leases: dict[str, Lease] = {}  # by request: those that the thread has not taken, of requests under way
        self._room = max(
            1, min(BATCH_ROWS, max_queue_bytes // QUEUED_BYTES)
        )  # rows in the queue, until it is looked at
        self._asleep = False
        self._bell = Bell()  # wakes the thread, where it sleeps until somebody comes or a batch is due before its time
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._watched = 0  # how many wait for it
        self._held = self._done = 0  # rows that the thread has, and has done with
        self._held_bytes = 0
        self._hurry = False
        self._ending, self._deadline = False, 0.0
        # The rest is the writer thread's own.
        self._thread: threading.Thread | None = None
        self._rows, self._bookings, self._checkpoints = Rows(), Bookings(), Checkpoints(path)
        self._pending: deque[Row] = deque()
        self._young: list[str] = []  # requests whose leases were there at the last look
        self._leasing: dict[str, Lease] = {}  # to be written
        self._connection: sqlite3.Connection | None = None
        self._place = os.fspath(path)
        self._inode: int | None = None
        self._last_id: int | None = None  # of the rows in the file; None where it has to be asked
        self._stalled_at: float | None = None
        self._retry_at, self._backoff = 0.0, BACKOFF_FIRST
        self._written_at = 0.0  # when the last batch was begun
        self._naps = NAPS  # since then
        self._dropped_before = 0
        self._tidy_at, self._tidied = 0.0, 0
        self._reported: set[tuple[str, type[Exception]]] = set()

    @property
    def queued(self) -> int:
        return len(self._queue) + self._held

    @property
    def queued_bytes(self) -> int:
        """An estimate; rows are taken as long as it is below `max_queue_bytes`."""
        return len(self._queue) * QUEUED_BYTES + self._held_bytes

    @property
    def stalled(self) -> bool:
        """The file takes no rows at the moment."""
        return self._stalled_at is not None

    # -- the callers' side ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the file, brings it forward, starts the thread. Raises LedgerRefused."""
        try:
            check(self._open(), self.path)
        except LedgerRefused:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def lease(self, lease: Lease) -> None:
        """Notes what a request under way has reserved, in the place of what it had before; its `record` ends it. From
        any thread. While the file takes nothing it is not noted: it would be forgotten with the process."""
        if self._stalled_at is None and not self._ending:
            self._leases[lease.request_id] = lease
            if self._asleep:
                self._bell.ring()

    def record(self, decision: Decision | Brief) -> None:
        """Hands a finished decision over; it must not be changed any more. From any thread."""
        queue = self._queue
        if len(queue) >= self._room or decision.__class__ not in RECORDED:
            self._consider(decision)
            return
        queue.append(decision)
        self._leases.pop(decision.request_id, None)
        if self._asleep:
            self._bell.ring()

    def _consider(self, decision: object) -> None:
        """A decision that is none, or one of a crowd."""
        with self._lock:
            if not isinstance(decision, RECORDED):  # stands in a request's clean-up, where nothing may go wrong
                self.failed += 1
                return
            self._leases.pop(decision.request_id, None)
            if self._ending or self.queued_bytes + QUEUED_BYTES > self._max_bytes:
                self.dropped += 1
            else:
                self._queue.append(decision)
                self._bell.ring()

    def flush(self, timeout: float) -> bool:
        """Waits until all that was recorded before is settled, so that a reader sees it; False if it took too long."""
        with self._lock:
            goal = self._done + self.queued
            self._hurry = True
            self._bell.ring()
            self._watched += 1
            try:
                return self._settled.wait_for(lambda: self._done >= goal, timeout)
            finally:
                self._watched -= 1

    def stop(self, timeout: float) -> bool:
        """Takes no more, writes what is queued, ends the thread. False if rows were lost or are still in its hands."""
        with self._lock:
            self._deadline = time.monotonic() + timeout
            self._ending = True
            self._room = 0
            self._bell.ring()
        if self._thread is not None:
            self._thread.join(timeout)
        return not (self.queued or self.failed)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._finished():
            self._wait()
            self._gather()
            if self._unwritten() and (self._ending or time.monotonic() >= self._retry_at):
                self._write()
            if self._ending:
                if self.stalled and not self._linger():
                    break
            elif not self._unwritten() and time.monotonic() >= self._tidy_at:
                self._tidy()
        self._abandon()
        self._checkpoints.join(max(0.0, self._deadline - time.monotonic()))
        self._close()

    def _finished(self) -> bool:
        return self._ending and not self._queue and not self._pending

    def _unwritten(self) -> bool:
        return bool(self._pending or self._leasing)

    def _wait(self) -> None:
        """Until there is something to do. Whoever records wakes a thread that is asleep, and none that naps or gathers:
        on a core that both share it would run at once, in the middle of a request."""
        if self._naps >= NAPS:
            self._asleep = True  # said before the look at the queues: what comes after it rings
            if not self._came():
                self._bell.heard(self._idle())
            self._asleep = False
        elif not self._came():
            self._naps += 1
            self._rest(min(self._pause_s, self._idle()))
        if self._queue:  # a lone row does not wait
            self._rest(min(self._written_at + self._pause_s - time.monotonic(), self._idle()))
        elif self._leases:
            self._rest(min(self._pause_s, self._idle()))

    def _rest(self, seconds: float) -> None:
        """For so long, or until a batch is due before its time."""
        until = time.monotonic() + seconds
        while not self._batch_is_due() and (left := until - time.monotonic()) > 0 and self._bell.heard(left):
            pass  # rung for a reason that is gone

    def _came(self) -> bool:
        return bool(self._queue or self._leases) or self._hurry or self._ending

    def _idle(self) -> float:
        """Seconds until something is due that no new decision brings."""
        return max(0.0, (self._retry_at if self._unwritten() else self._tidy_at) - time.monotonic())

    def _batch_is_due(self) -> bool:
        return self._hurry or self._ending or len(self._queue) >= BATCH_ROWS

    def _gather(self) -> None:
        """Turns what was recorded into rows, also while the file takes none: a decision's plan holds on to much of
        its request, a row to its own few kilobytes."""
        with self._lock:
            count = min(len(self._queue), BATCH_ROWS)
            self._hold(count, count * QUEUED_BYTES)
            fresh = [self._queue.popleft() for _ in range(count)]
            if not self._queue:
                self._hurry = False
        if self._leases or self._young:
            self._take_leases()
        built = self._built(fresh)
        if self._leasing:
            for row in built:
                self._leasing.pop(row.request_id, None)
        self._pending += built
        self._held_bytes += sum([row.weight for row in built]) - count * QUEUED_BYTES
        if len(built) < count:
            self._settle(written=0, failed=count - len(built), weight=0)

    def _take_leases(self) -> None:
        """Those that are there for the second time: most requests end sooner than a kill would lose their leases."""
        for request in self._young:
            if (lease := self._leases.pop(request, None)) is not None:
                self._leasing[request] = lease
        self._young = list(self._leases)

    def _hold(self, rows: int, weight: int) -> None:
        """Under the lock."""
        self._held += rows
        self._held_bytes += weight
        if not self._ending:
            self._room = min(BATCH_ROWS, (self._max_bytes - self._held_bytes) // QUEUED_BYTES)

    def _write(self) -> None:
        batch = list(islice(self._pending, BATCH_ROWS))
        weight = sum([row.weight for row in batch])
        self._written_at, self._naps = time.monotonic(), 0
        self._pause_s = self._flush_s if len(batch) < THICK else self._flush_s / 2
        try:
            written = self._commit(batch, weight)
        except Exception as exc:  # the thread's outermost handler: whatever it is, the rows are kept
            self._close()
            self._checkpoints.failed()
            self._stall(exc)
            self._retry_at = time.monotonic() + self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF_MOST)
            return
        for _ in batch:
            self._pending.popleft()
        if self._leasing:
            self._leasing = {}
        self._settle(written, len(batch) - written, weight)
        if self._stalled_at is not None:
            self._recover(self._stalled_at)

    def _settle(self, written: int, failed: int, weight: int) -> None:
        with self._lock:
            self._hold(-written - failed, -weight)
            self._done += written + failed
            self.written += written
            self.failed += failed
            if self._watched:
                self._settled.notify_all()

    def _linger(self) -> bool:
        """Before the last tries; False once `stop` has given up."""
        left = self._deadline - time.monotonic()
        time.sleep(min(BACKOFF_FIRST, max(0.0, left)))
        return left > 0

    def _abandon(self) -> None:
        with self._lock:
            lost = self.queued
            self._hold(len(self._queue), 0)
            self._queue.clear()
            self._pending.clear()
        if lost:
            self._settle(written=0, failed=lost, weight=self._held_bytes)
            log.error("ledger_rows_lost", path=str(self.path), rows=lost)

    def _built(self, decisions: Sequence[Decision | Brief]) -> list[Row]:
        """All but what is no decision at all."""
        built, row_of, unreadable = [], self._rows.row_of, self._unreadable
        for decision in decisions:
            try:
                built.append(row_of(decision, unreadable))
            except Exception as exc:
                self._report("ledger_row_refused", exc, decision.request_id)
        return built

    def _unreadable(self, decision: Decision, exc: Exception) -> None:
        self._report("ledger_plan_unreadable", exc, decision.request_id)

    def _report(self, event: str, exc: Exception, request_id: object) -> None:
        """Faults of our own, told once for each kind: they would come with every request. The counter has them all."""
        if (kind := (event, type(exc))) not in self._reported:
            self._reported.add(kind)
            log.error(event, request_id=request_id, exc_info=exc)

    def _commit(self, rows: Sequence[Row], weight: int) -> int:
        """All rows in one transaction; how many the tables took. A row that breaks their rules stalls nobody."""
        connection, bookings = self._open(), self._bookings
        self._checkpoints.give_way()
        connection.execute("BEGIN IMMEDIATE")
        new, refused = (rows, 0) if self._insert(connection, rows) else self._insert_each(connection, rows)
        bookings.book(connection, new)
        bookings.settle(connection, rows)
        if self._leasing:
            bookings.lease(connection, self._leasing)
        connection.execute("COMMIT")
        bookings.done()
        self._checkpoints.committed(connection, BATCH_PAGES + weight // ROW_PAGE)
        return len(rows) - refused

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
            self._report("ledger_row_refused", exc, row.request_id)

        return insert_each(connection, rows, refuse), len(refused)

    def _stall(self, exc: Exception) -> None:
        if self._stalled_at is None:
            self._stalled_at, self._dropped_before = time.monotonic(), self.dropped
            reason = exc if isinstance(exc, LedgerRefused) else self._reason(exc)
            log.error("ledger_stalled", reason=str(reason), queued=self.queued)

    def _reason(self, exc: Exception) -> Exception:
        return refusal(self.path, exc) if isinstance(exc, sqlite3.Error | OSError) else exc

    def _recover(self, since: float) -> None:
        self._stalled_at, self._retry_at, self._backoff = None, 0.0, BACKOFF_FIRST
        log.warning(
            "ledger_recovered",
            stalled_ms=round((time.monotonic() - since) * 1000),
            queued=self.queued,
            dropped=self.dropped - self._dropped_before,
        )

    def _tidy(self) -> None:
        try:
            now_ms = round(self._now() * 1000)
            if self._open().execute(OLD_LEASE, (now_ms,)).fetchone():  # a look takes no lock
                self._open().execute(DROP_LEASES, (now_ms,))
            self._bookings.forget(now_ms)
            with cascading(self._open()) as connection:
                deleted, more = self._retention.step(connection, now_ms)
            self._tidied += deleted
            if self._tidied and not more:
                more = sweep(self._open())
                self._bookings.doubt()
            if deleted or more:
                self._checkpoints.committed(self._open(), STEP_PAGES)
        except Exception as exc:  # as above; if it lasts, the next batch meets it and says so
            log.warning("ledger_tidy_failed", reason=str(self._reason(exc)))
            self._close()
            more = False
        self._tidy_at = time.monotonic() + (0 if more else TIDY_SECONDS)
        if self._tidied and not more:
            log.info("ledger_tidied", rows=self._tidied)
            self._tidied = 0

    # -- the connection ------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """The connection, opened again after any failure, and where the path no longer leads to the open file:
        rows written to a deleted file would be gone without a word."""
        if self._connection is not None and inode_of(self._place) != self._inode:
            log.warning("ledger_file_replaced", path=str(self.path))
            # The WAL does not move along with a file that is renamed: what it holds goes home first.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._close()
        if self._connection is None:
            self._connection = self._connect(self.path)
            self._connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()  # see `checkpoints`
            # New rows belong to new ones: a look at what may belong to each would be two searches.
            self._connection.execute("PRAGMA foreign_keys = OFF")
            self._inode = inode_of(self._place)
        return self._connection

    def _close(self) -> None:
        """Rolls back what is open."""
        connection, self._connection = self._connection, None
        self._bookings.doubt()
        self._last_id = None
        if connection is not None:
            with suppress(sqlite3.Error):  # on a disk that fails; the next one is opened in its place
                connection.close()
