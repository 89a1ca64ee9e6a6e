from __future__ import annotations

from contextlib import closing
from pathlib import Path

from proxy.server.ledger.retention import STEP_ROWS, Retention, give_pages_back
from proxy.server.ledger.rows import DAY_MS
from proxy.server.ledger.schema import open_writer

from .samples import NOON, Plan, attempt, count, decision, sql, write

BIG = Plan({"reason": "x" * 3000})


def run(path: Path, retention: Retention, now_ms: int) -> list[int]:
    """The rows that each step deleted."""
    steps = []
    with closing(open_writer(path)) as connection:
        more = True
        while more:
            deleted, more = retention.step(connection, now_ms)
            steps.append(deleted)
    return steps


def test_nothing_is_deleted_without_limits(path: Path) -> None:
    write(path, map(decision, range(10)))
    assert run(path, Retention(days=None, bytes=None), NOON + 10**12) == [0]
    assert count(path) == 10


def test_old_rows_go_a_few_at_a_time_with_their_attempts_and_plans(path: Path) -> None:
    write(path, (decision(i, attempts=[attempt(), attempt(2)], plan=BIG) for i in range(500)))
    steps = run(path, Retention(days=1, bytes=None), now_ms=decision(490).at_ms + DAY_MS)
    assert max(steps) <= STEP_ROWS
    assert sum(steps) == 490
    assert [count(path, table) for table in ("decisions", "attempts", "plans")] == [10, 20, 10]


def test_the_edge_of_the_age_is_kept(path: Path) -> None:
    write(path, [decision(1)])
    at_ms = decision(1).at_ms
    assert run(path, Retention(days=1), now_ms=at_ms + DAY_MS) == [0]
    assert run(path, Retention(days=1), now_ms=at_ms + DAY_MS + 1) == [1, 0]


def test_the_oldest_go_until_the_rest_fits_and_the_disk_gets_its_pages_back(path: Path) -> None:
    write(path, (decision(i, plan=BIG) for i in range(1000)))
    most = path.stat().st_size // 2
    assert sum(run(path, Retention(days=None, bytes=most), now_ms=NOON)) > 0
    kept = sql(path, "SELECT min(at_ms), max(at_ms), count(*) FROM decisions")[0]
    assert 0 < kept[2] < 1000
    assert kept[1] == decision(999).at_ms
    assert kept[0] == decision(1000 - kept[2]).at_ms  # without a gap
    assert path.stat().st_size <= most
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_pages_go_back_to_the_disk_many_at_a_step(path: Path) -> None:
    write(path, (decision(i, requested="x" * 256) for i in range(2000)))
    sql(path, "DELETE FROM decisions")
    with closing(open_writer(path)) as connection:
        (before,) = connection.execute("PRAGMA freelist_count").fetchone()
        assert before > 100
        give_pages_back(connection, 100)
        assert connection.execute("PRAGMA freelist_count").fetchone() == (before - 100,)


def test_a_limit_below_an_empty_file_ends_all_the_same(path: Path) -> None:
    write(path, map(decision, range(5)))
    assert sum(run(path, Retention(days=None, bytes=1), now_ms=NOON)) == 5
