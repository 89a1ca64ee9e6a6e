from __future__ import annotations

import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from proxy.server.ledger import Decision, Ledger
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.schema import open_writer
from proxy.server.ledger.writer import NAPS, THICK

from .conftest import Events
from .samples import NOON, PATIENCE, Plan, Traced, attempt, count, decision, locked, sql, write


def impatient(path: Path) -> sqlite3.Connection:
    """The real file, without the real wait for its locks."""
    connection = open_writer(path)
    connection.execute("PRAGMA busy_timeout = 10")
    return connection


def started(path: Path, **options: Any) -> Ledger:
    ledger = Ledger(path, **{"retain_days": None, "retain_bytes": None, "connect": impatient, **options})
    ledger.start()
    return ledger


def recorded(ledger: Ledger) -> int:
    return ledger.written + ledger.queued + ledger.dropped + ledger.failed


# -- batches -----------------------------------------------------------------------------------------------------


def test_a_row_is_written_without_being_asked_for(path: Path) -> None:
    committed = threading.Event()
    ledger = started(path, connect=Traced(lambda sql: committed.set() if sql == "COMMIT" else None))
    ledger.record(decision())
    assert committed.wait(PATIENCE)
    assert ledger.stop(PATIENCE)
    assert count(path) == 1


def test_what_comes_together_is_one_transaction(path: Path) -> None:
    statements: list[str] = []
    ledger = Ledger(path, retain_days=None, connect=Traced(statements.append))
    for i in range(100):
        ledger.record(decision(i, attempts=[attempt(1), attempt(2)]))
    ledger.start()
    assert ledger.flush(PATIENCE)
    assert statements.count("COMMIT") == 1
    assert ledger.stop(PATIENCE)
    assert (count(path), count(path, "attempts")) == (100, 200)


def test_many_threads_record_at_once_and_nothing_is_lost_or_doubled(path: Path) -> None:
    ledger = started(path, flush_ms=1)
    gate = threading.Barrier(8)

    def record(thread: int) -> None:
        gate.wait(PATIENCE)
        for i in range(250):
            ledger.record(decision(thread * 250 + i, attempts=[attempt()], charged_nanos=1))

    threads = [threading.Thread(target=record, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert ledger.flush(PATIENCE)
    assert (ledger.written, ledger.queued, ledger.queued_bytes) == (2000, 0, 0)
    assert ledger.stop(PATIENCE)
    assert sql(path, "SELECT count(DISTINCT request_id), sum(charged_nanos) FROM decisions") == [(2000, 2000)]


def test_a_row_behind_another_is_found_by_a_thread_that_nobody_wakes(path: Path) -> None:
    commits = threading.Semaphore(0)
    ledger = Ledger(path, connect=Traced(lambda said: commits.release() if said == "COMMIT" else None), flush_ms=300)
    ledger.start()
    ledger.record(decision(0))
    assert commits.acquire(timeout=PATIENCE)
    assert not ledger._asleep
    ledger.record(decision(1))
    assert commits.acquire(timeout=PATIENCE)
    assert ledger.stop(PATIENCE)
    assert count(path) == 2


def test_where_rows_come_thick_the_next_batch_is_due_in_half_the_time(path: Path) -> None:
    ledger = Ledger(path, flush_ms=40, retain_days=None)
    for rows, pause in ((THICK, 0.02), (THICK - 1, 0.04)):
        for i in range(rows):
            ledger.record(decision(1000 * rows + i))
        ledger._gather()
        ledger._write()
        assert ledger._pause_s == pause
    ledger.start()
    assert ledger.stop(PATIENCE)
    assert count(path) == 2 * THICK - 1


@pytest.mark.parametrize(
    ("naps", "age_ms", "left_ms"),
    [(0, 0, 40), (1, 0, 40), (1, 15, 25), (1, 40, 5), (1, -1, 5), (1, 3_600_000, 5), (2, 0, 5), (NAPS, 0, 5)],
    ids=[
        "came with the last batch", "came just now", "a while ago", "as long ago as may be", "in time to come",
        "long before the last batch", "came late behind it", "came after a quiet while",
    ],
)  # fmt: skip
def test_a_batch_is_due_when_its_first_row_has_waited_for_as_long_as_it_may(
    path: Path, monkeypatch: pytest.MonkeyPatch, naps: int, age_ms: int, left_ms: int
) -> None:
    ledger = Ledger(path, flush_ms=40, now=lambda: NOON / 1000)
    monkeypatch.setattr("proxy.server.ledger.writer.time.monotonic", lambda: 1000.0)
    ledger._naps, ledger._written_at = naps, 1000.0 - 0.035
    for behind in (0, 5):
        ledger.record(decision(behind, at_ms=NOON - age_ms - 7 + behind, duration_ms=7))
    assert round(1000 * ledger._left()) == left_ms


def test_a_row_whose_time_cannot_be_told_waits_as_if_it_came_with_the_last_batch(path: Path) -> None:
    ledger = Ledger(path, flush_ms=40, now=lambda: NOON / 1000)
    broken: Any = None
    ledger.record(decision(at_ms=broken))
    assert ledger._left() < 0


def test_a_ring_whose_reason_is_gone_makes_no_batch_of_its_own(path: Path) -> None:
    """As one leaves that found the thread about to sleep, which then saw the row and did not."""
    commits = threading.Semaphore(0)
    ledger = Ledger(path, connect=Traced(lambda said: commits.release() if said == "COMMIT" else None), flush_ms=300)
    ledger.start()
    ledger.record(decision(0))
    assert commits.acquire(timeout=PATIENCE)
    ledger.record(decision(1))
    ledger._bell.ring()
    ledger.record(decision(2))
    assert commits.acquire(timeout=PATIENCE)
    assert ledger.stop(PATIENCE)
    assert not commits.acquire(blocking=False)
    assert count(path) == 3


def test_two_processes_worth_of_writers_share_a_file(path: Path) -> None:
    old, new = started(path, flush_ms=0), started(path, flush_ms=0)
    for i in range(500):
        (old, new)[i % 2].record(decision(i))
    assert old.stop(PATIENCE)
    assert new.stop(PATIENCE)
    assert count(path) == 500


def test_stop_writes_all_that_is_queued(path: Path) -> None:
    ledger = started(path, flush_ms=3_600_000)
    for i in range(1700):
        ledger.record(decision(i))
    assert ledger.stop(PATIENCE)
    assert (count(path), ledger.written, ledger.queued) == (1700, 1700, 0)


def test_stop_twice_is_stop_once(path: Path) -> None:
    ledger = started(path)
    assert ledger.stop(PATIENCE)
    assert ledger.stop(PATIENCE)


def test_what_comes_after_stop_is_counted_as_dropped(path: Path) -> None:
    ledger = started(path)
    assert ledger.stop(PATIENCE)
    ledger.record(decision())
    assert (ledger.dropped, count(path)) == (1, 0)


def test_the_same_request_recorded_twice_stands_once(path: Path) -> None:
    twice = decision(charged_nanos=5, attempts=[attempt()], plan=Plan({}))
    write(path, [twice, twice])
    write(path, [twice])
    assert sql(path, "SELECT sum(charged_nanos) FROM decisions") == [(5,)]
    assert count(path, "attempts") == count(path, "plans") == 1


# -- what cannot be written --------------------------------------------------------------------------------------


def test_past_the_cap_decisions_are_dropped_and_counted(path: Path, events: Events) -> None:
    ledger = started(path, max_queue_bytes=64 << 10)
    with locked(path):
        for i in range(1000):
            ledger.record(decision(i, attempts=[attempt()]))
        assert ledger.queued_bytes <= 64 << 10
        assert 0 < ledger.dropped < 1000
        assert recorded(ledger) == 1000
        events.wait("ledger_stalled")
    assert ledger.stop(PATIENCE)
    assert ledger.written == count(path) == 1000 - ledger.dropped


def test_a_locked_file_is_waited_for(path: Path, events: Events) -> None:
    ledger = started(path)
    with locked(path):
        ledger.record(decision(1))
        assert "another process keeps it locked" in events.wait("ledger_stalled")["reason"]
        assert ledger.stalled
        for i in range(2, 50):
            ledger.record(decision(i))
        assert ledger.written == 0
        assert Decisions(path).page(Filter()).rows == []  # readers are not held up
    events.wait("ledger_recovered")
    assert ledger.flush(PATIENCE)
    assert ledger.stop(PATIENCE)
    assert count(path) == 49
    assert [event["event"] for event in events.seen] == ["ledger_stalled", "ledger_recovered"]


@define
class SmallDisk:
    """SQLite's own "disk is full" at `pages`, met by the real writer."""

    pages: int

    def __call__(self, path: Path) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.execute(f"PRAGMA max_page_count = {self.pages}").fetchone()
        return connection


def test_a_full_disk_is_waited_for(path: Path, events: Events) -> None:
    disk = SmallDisk(pages=60)
    ledger = started(path, connect=disk)
    for i in range(2000):
        ledger.record(decision(i))
    assert "the disk is full" in events.wait("ledger_stalled")["reason"]
    disk.pages = 1 << 30
    assert ledger.flush(PATIENCE)
    events.wait("ledger_recovered")
    assert not ledger.stalled
    assert ledger.stop(PATIENCE)
    assert ledger.written == count(path) == 2000
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert len(events.named("ledger_stalled")) == len(events.named("ledger_recovered")) == 1


def test_stop_gives_up_at_its_time_and_says_what_was_lost(path: Path, events: Events) -> None:
    ledger = started(path)
    with locked(path):
        for i in range(30):
            ledger.record(decision(i))
        assert not ledger.stop(0.01)
        assert events.wait("ledger_rows_lost")["rows"] == 30
    assert (ledger.failed, count(path)) == (30, 0)


def test_while_it_is_stalled_no_request_is_kept_alive(path: Path, events: Events) -> None:
    ledger = started(path)
    with locked(path):
        ledger.record(decision(1))
        events.wait("ledger_stalled")
        plan, gone = Plan({"reason": "because"}), threading.Event()
        weakref.finalize(plan, gone.set)
        ledger.record(decision(2, plan=plan))
        del plan
        assert gone.wait(PATIENCE)
        assert ledger.queued == 2
    assert ledger.stop(PATIENCE)
    assert count(path, "plans") == 1


BROKEN: dict[str, dict[str, Any]] = {
    "no attempt": {"attempts": [None]},
    "no text": {"requested": 7},
    "no surface": {"surface": None},
    "no number": {"status": "many"},
    "no flag": {"stream": "yes"},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_what_is_no_decision_is_counted_and_hinders_no_other(
    path: Path, events: Events, changes: dict[str, Any]
) -> None:
    ledger = started(path, flush_ms=3_600_000)
    for i in range(3):
        ledger.record(decision(i))
        ledger.record(decision(100 + i, **changes))
    assert ledger.flush(PATIENCE)
    assert (ledger.written, ledger.failed, recorded(ledger)) == (3, 3, 6)
    assert not ledger.stop(PATIENCE)
    assert count(path) == 3
    assert len(events.seen) <= 1  # told once, not for every request


def test_record_takes_anything_without_raising(path: Path) -> None:
    ledger = started(path)
    nothing: Any = None
    ledger.record(nothing)
    assert ledger.failed == 1
    ledger.stop(PATIENCE)


class Unreadable:
    def as_json(self) -> dict[str, Any]:
        raise RuntimeError("no plan to tell")


@pytest.mark.parametrize("plan", [Unreadable(), Plan({"x": object()}), Plan({"x": float("nan"), "y": "\ud800"})])
def test_a_plan_that_cannot_be_told_costs_the_row_its_plan_only(path: Path, events: Events, plan: Any) -> None:
    ledger = started(path)
    ledger.record(decision(1, plan=plan, charged_nanos=9))
    ledger.record(decision(2, plan=plan))
    assert ledger.stop(PATIENCE)
    assert sql(path, "SELECT sum(charged_nanos) FROM decisions") == [(9,)]
    assert count(path, "plans") == 0
    assert len(events.named("ledger_plan_unreadable")) == 1


# -- the file goes away ------------------------------------------------------------------------------------------


def test_a_file_moved_away_keeps_its_rows_and_a_new_one_takes_the_next(path: Path, events: Events) -> None:
    ledger = started(path)
    ledger.record(decision(1))
    assert ledger.flush(PATIENCE)
    archive = path.with_suffix(".old")
    path.rename(archive)
    ledger.record(decision(2))
    assert ledger.stop(PATIENCE)
    assert sql(archive, "SELECT request_id FROM decisions") == [(decision(1).request_id,)]
    assert sql(path, "SELECT request_id FROM decisions") == [(decision(2).request_id,)]
    events.wait("ledger_file_replaced")


def test_a_deleted_directory_stalls_until_it_is_back(tmp_path: Path, events: Events) -> None:
    state = tmp_path / "state"
    state.mkdir()
    ledger = started(state / "ledger.db")
    state.rename(tmp_path / "gone")
    ledger.record(decision(1))
    assert "there is no directory" in events.wait("ledger_stalled")["reason"]
    state.mkdir()
    assert ledger.stop(PATIENCE)
    assert count(state / "ledger.db") == 1


# -- tidying -----------------------------------------------------------------------------------------------------


def test_the_writer_removes_what_is_too_old(path: Path, events: Events) -> None:
    write(path, [decision(i, attempts=[attempt()]) for i in range(450)])
    newest: Decision = decision(450)
    write(path, [newest])
    ledger = Ledger(path, retain_days=1, now=lambda: newest.at_ms / 1000 + 86_400)
    ledger.start()
    assert events.wait("ledger_tidied")["rows"] == 450
    assert ledger.stop(PATIENCE)
    assert sql(path, "SELECT request_id FROM decisions") == [(newest.request_id,)]
    assert count(path, "attempts") == 0


def test_tidying_that_fails_is_told_and_tried_again_later(path: Path, events: Events) -> None:
    write(path, [decision(1)])
    with locked(path):
        ledger = started(path, retain_days=1)
        assert "locked" in events.wait("ledger_tidy_failed")["reason"]
    ledger.record(decision(2))
    assert ledger.stop(PATIENCE)
    assert count(path) == 2
