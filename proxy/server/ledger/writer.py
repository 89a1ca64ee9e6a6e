"""The ledger's writer: a queue with a cap in bytes, and one thread that empties it into SQLite.

`record` is for the event loop: it appends, never waits for a disk and never raises. A row that comes after a quiet
while is written at once, what comes after it together, when the first of it has waited for `flush_ms`, or half of that
where it comes thick: then the loop is busy, and a transaction beside it takes its time. What the file refuses for now
(disk full, locked, unreadable) stays queued and is tried again until it is taken; what comes while the queue is full is
dropped and counted.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import structlog

from proxy.server.backstage import step_back
from proxy.server.bell import Bell
from proxy.server.ledger.building import ATTEMPT_BYTES, ROW_BYTES, Row, Rows
from proxy.server.ledger.records import Brief, Decision, Leased
from proxy.server.ledger.retention import Retention
from proxy.server.ledger.schema import LedgerRefused, check, open_writer, refusal
from proxy.server.ledger.sheaf import together
from proxy.server.ledger.transactions import Transactions

log = structlog.get_logger()

BATCH_ROWS = 512
THICK = 16  # rows of a batch, from which on the next one is due in half the time
MIXED = 16  # thick batches that are not looked at for being alike, after one that was not
RECORDED = (Decision, Brief)
BACKOFF_FIRST, BACKOFF_MOST = 0.05, 5.0  # seconds between tries while the file takes nothing
TIDY_SECONDS = 60.0
NAPS = 10  # times of `flush_ms` without a row, after which the thread sleeps until it is woken

# What a decision weighs before it is a row, about: objects and strings are bounded, so counting them would cost more
# than it says.
QUEUED_BYTES = ROW_BYTES + ATTEMPT_BYTES + 4096


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
        flush_ms: int = 44,
        retain_days: float | None = 90,
        retain_bytes: int | None = 2 << 30,
        now: Callable[[], float] = time.time,
        connect: Callable[[Path], sqlite3.Connection] = open_writer,
    ) -> None:
        self.path = path
        self.written = self.dropped = self.failed = 0
        self._max_bytes, self._flush_s, self._now = max_queue_bytes, flush_ms / 1000, now
        self._pause_s = self._flush_s  # between two batches, as the last one was
        # Callers add to these two without a lock. Only where `_room` is taken up do they meet the thread at it.
        self._queue: deque[Decision | Brief] = deque()
        self._leases: dict[str, Leased] = {}  # by request: those that the thread has not taken, of requests under way
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
        self._rows = Rows()
        self._file = Transactions(path, connect, Retention(retain_days, retain_bytes), self._row_refused)
        self._pending: deque[Row] = deque()
        self._mixed = 0  # so many to come
        self._young: list[str] = []  # requests whose leases were there at the last look
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
            check(self._file.open(), self.path)
        except LedgerRefused:
            self._file.close()
            raise
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def lease(self, lease: Leased) -> None:
        """Notes what a request under way has reserved, in the place of what it had before; its `record` ends it. From
        any thread. While the file takes nothing it is not noted: it would be forgotten with the process."""
        if self._stalled_at is None and not self._ending:
            self._leases[lease[0]] = lease
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
        step_back()
        while not self._finished():
            self._wait()
            if self._sheaf():
                continue
            self._gather()
            if self._unwritten() and (self._ending or time.monotonic() >= self._retry_at):
                self._write()
            if self._ending:
                if self.stalled and not self._linger():
                    break
            elif not self._unwritten() and time.monotonic() >= self._tidy_at:
                self._tidy()
        self._abandon()
        self._file.close(max(0.0, self._deadline - time.monotonic()))

    def _finished(self) -> bool:
        return self._ending and not self._queue and not self._pending

    def _unwritten(self) -> bool:
        return bool(self._pending or self._file.reserves.due())

    def _wait(self) -> None:
        """Until there is something to do. Whoever records wakes a thread that is asleep, and none that naps or gathers:
        on a core that both share it would run at once, in the middle of a request."""
        if self._naps >= NAPS:
            if not self.stalled and self._file.reserves.settle():
                return
            self._asleep = True  # said before the look at the queues: what comes after it rings
            if not self._came():
                due_at = self._retry_at if self._unwritten() else self._tidy_at
                self._bell.heard(max(0.0, due_at - time.monotonic()))
            self._asleep = False
        elif not self._came():
            self._naps += 1
            self._rest(self._pause_s)
            if self._leases or self._young:
                self._take_leases()
        if self._queue:
            if (left := self._left()) > 0:
                self._rest(left)
        elif self._leases:
            self._rest(self._pause_s)

    def _left(self) -> float:
        """Seconds that the first row may wait for others. It came behind the last batch; that it came later is believed
        while rows follow each other, and an untrue clock makes it wait for two pauses at most."""
        pause, first = self._pause_s, self._queue[0]
        left = self._written_at + pause - time.monotonic()
        if self._naps > 1:  # a lone one does not wait
            return left
        try:
            age = self._now() - (first.at_ms + first.duration_ms) / 1000
        except TypeError:  # a fault of ours, which `_built` tells
            return left
        return max(left, pause - age) if age >= 0 else left

    def _rest(self, seconds: float) -> None:
        """For so long, or until something is due."""
        now = time.monotonic()
        until = min(now + seconds, self._retry_at if self._unwritten() else self._tidy_at)
        while (
            now < until
            and not (self._hurry or self._ending or len(self._queue) >= BATCH_ROWS)
            and self._bell.heard(until - now)
        ):
            now = time.monotonic()  # it rang, perhaps for a reason that is gone

    def _came(self) -> bool:
        return bool(self._queue or self._leases) or self._hurry or self._ending

    def _sheaf(self) -> bool:
        """A turn as most are: rows that are alike, which the file takes, and nothing else. They stand in the queue
        until they are written. False where anything is unusual, for the way of all."""
        queue, now = self._queue, time.monotonic()
        count = min(len(queue), BATCH_ROWS)
        if not count or self._pending or self._stalled_at is not None or self._ending or now >= self._tidy_at:
            return False
        if count >= THICK and self._mixed:
            self._mixed -= 1
            return False
        try:
            sheaf = together(list(queue)[:count])
        except Exception:  # as in `_built`, which tells whose row is none
            return False
        if sheaf is None:
            self._mixed = MIXED
            return False
        if self._leases or self._young:
            self._take_leases()
        try:
            if not self._file.write_sheaf(sheaf):
                return False
        except Exception as exc:  # as in `_write`, which tries again, and tells what ails the file
            self._file.failed()
            if not isinstance(exc, sqlite3.Error | OSError | LedgerRefused):
                self._report("ledger_batch_failed", exc, sheaf.requests[0])
            return False
        self._written_at, self._naps = now, 0
        self._pause_s = self._flush_s if count < THICK else self._flush_s / 2
        with self._lock:
            for _ in range(count):
                queue.popleft()
            if not queue:
                self._hurry = False
            self._done += count
            self.written += count
            if self._watched:
                self._settled.notify_all()
        return True

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
        self._pending += built
        self._held_bytes += sum([row.weight for row in built]) - count * QUEUED_BYTES
        if len(built) < count:
            self._settle(written=0, failed=count - len(built), weight=0)

    def _take_leases(self) -> None:
        """Those that are there for the second time: most requests end sooner than a kill would lose their leases."""
        if self._young:
            leases = self._leases
            taken = [lease for request in self._young if (lease := leases.pop(request, None)) is not None]
            self._file.reserves.begin(taken)
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
            written = self._file.write(batch, weight)
        except Exception as exc:  # the thread's outermost handler: whatever it is, the rows are kept
            self._file.failed()
            self._stall(exc)
            self._retry_at = time.monotonic() + self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF_MOST)
            return
        for _ in batch:
            self._pending.popleft()
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

    def _row_refused(self, row: Row, exc: Exception) -> None:
        self._report("ledger_row_refused", exc, row.request_id)

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
            deleted, more = self._file.tidy(round(self._now() * 1000), swept=self._tidied > 0)
            self._tidied += deleted
        except Exception as exc:  # as above; if it lasts, the next batch meets it and says so
            log.warning("ledger_tidy_failed", reason=str(self._reason(exc)))
            self._file.close()
            more = False
        self._tidy_at = time.monotonic() + (0 if more else TIDY_SECONDS)
        if self._tidied and not more:
            log.info("ledger_tidied", rows=self._tidied)
            self._tidied = 0
