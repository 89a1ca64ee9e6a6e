"""The ledger's file under its operator's hands: damage and wrong sums are found, space is given back, rows stay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.server.ledger import Ledger, LedgerRefused
from proxy.server.ledger.care import NoRoom, examine, give_back, rewrite
from proxy.server.ledger.migrations import MIGRATIONS
from proxy.server.ledger.retention import Retention
from proxy.server.ledger.schema import open_writer

from .samples import NOON, PATIENCE, attempt, count, decision, sql, write

NEWEST = MIGRATIONS[-1].version
DAY = 86_400_000
NOW = NOON + 10 * DAY


def days(path: Path) -> None:
    """Three days of a key and a project, with attempts."""
    write(
        path,
        (
            decision(i, at_ms=NOON + i * DAY, key_id="k", project="team", charged_nanos=100 + i, attempts=[attempt()])
            for i in range(3)
        ),
    )


def test_a_good_file_is_told_to_be_good(path: Path) -> None:
    days(path)
    found = examine(path, now_ms=NOW)
    assert found.problems == []
    assert (found.schema, found.decisions, found.attempts) == (NEWEST, 3, 3)
    assert (found.oldest_ms, found.newest_ms) == (NOON, NOON + 2 * DAY)
    assert found.as_json()["good"] is True
    assert found.bytes == path.stat().st_size


def test_a_new_file_is_good(path: Path) -> None:
    write(path, [])
    assert examine(path, now_ms=NOW, quick=True).problems == []


def forgotten(path: Path) -> None:
    sql(path, "DELETE FROM spend WHERE day = ?", (NOON + DAY) // DAY)


def doubled(path: Path) -> None:
    sql(path, "UPDATE spend SET nanos = nanos * 2 WHERE account = 'project:team' AND day = ?", (NOON + 2 * DAY) // DAY)


def too_little_on_the_first_day(path: Path) -> None:
    sql(path, "UPDATE spend SET nanos = 99 WHERE account = 'key:k' AND day = ?", NOON // DAY)


def one_attempt_gone(path: Path) -> None:
    sql(path, "DELETE FROM own_attempts WHERE decision = 2")


def an_attempt_of_nobody(path: Path) -> None:
    sql(path, "DELETE FROM decisions WHERE id = 2")  # without foreign keys, as another program would


def not_marked(path: Path) -> None:
    sql(path, "DELETE FROM marks WHERE kind = 'project' AND block = ?", NOON + DAY >> 10)


def an_index_that_lacks_a_row(path: Path) -> None:
    (root,) = sql(path, "SELECT rootpage FROM sqlite_master WHERE name = 'decisions_by_time'")[0]
    (page,) = sql(path, "PRAGMA page_size")[0]
    raw = bytearray(path.read_bytes())
    raw[(root - 1) * page + 3 : (root - 1) * page + 5] = b"\0\2"  # it holds two entries, says its header
    path.write_bytes(raw)


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "a day of spend is lost": (forgotten, "key:k, 2025-06-16: the rows sum to 101 nano-USD, and 0 are counted"),
    "more is counted than there was": (doubled, "project:team, 2025-06-17: the rows sum to 102 nano-USD, and 204 are"),
    "less is counted on the oldest day": (too_little_on_the_first_day, "key:k, 2025-06-15: the rows sum to 100"),
    "an attempt is gone": (one_attempt_gone, "1 attempts are told, and 0 are there"),
    "an attempt belongs to nobody": (an_attempt_of_nobody, "row 2 of own_attempts belongs to no row of decision_rows"),
    "a row is not found by its project": (not_marked, "00001: no mark leads to it by its project"),
    "an index is damaged": (an_index_that_lacks_a_row, "damage: "),
}


@pytest.mark.parametrize(("spoil", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told(path: Path, spoil: Callable[[Path], None], told: str) -> None:
    days(path)
    spoil(path)
    assert told in "\n".join(examine(path, now_ms=NOW).problems)


def test_what_the_retention_deleted_is_no_disagreement(path: Path) -> None:
    write(path, (decision(i, key_id="k", charged_nanos=5) for i in range(400)))  # all of one day
    with closing(open_writer(path)) as connection:
        Retention(days=None, bytes=1).step(connection, NOW)
    assert 0 < count(path) < 400
    assert examine(path, now_ms=NOW).problems == []


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_an_older_schema_is_checked_as_it_is(path: Path, version: int) -> None:
    open_writer(path, MIGRATIONS[:version]).close()
    found = examine(path, now_ms=NOW)
    assert (found.schema, found.problems) == (version, [])
    assert sql(path, "PRAGMA user_version") == [(version,)]


def test_reservations_are_told_apart(path: Path) -> None:
    write(path, [])
    for request, until in (("r1", NOW + 1), ("r2", NOW - 1), ("r3", NOW - 2)):
        sql(path, "INSERT INTO leases VALUES (?, 'k', NULL, 5, ?)", request, until)
    found = examine(path, now_ms=NOW)
    assert (found.leases, found.leases_over) == (1, 2)


# -- space -------------------------------------------------------------------------------------------------------


def emptied(path: Path) -> int:
    """Most of the rows gone, their pages free. The file's size."""
    write(path, (decision(i, requested="x" * 256, charged_nanos=1, key_id="k") for i in range(4000)))
    sql(path, "DELETE FROM decisions WHERE id > 10")
    sql(path, "DELETE FROM marks WHERE block > (SELECT max(at_ms) FROM decisions) / 1024")
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


@pytest.mark.parametrize("work", [give_back, rewrite])
def test_free_space_goes_back_and_rows_stay(path: Path, work: Callable[[Path], tuple[int, int]]) -> None:
    size = emptied(path)
    before, after = work(path)
    assert before == size
    assert after < size / 4
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size == after
    assert count(path) == 10
    assert sql(path, "PRAGMA user_version") == [(NEWEST,)]
    assert sql(path, "PRAGMA auto_vacuum") == [(2,)]
    assert sql(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.slow
def test_rows_come_in_while_space_is_given_back(path: Path) -> None:
    emptied(path)
    ledger = Ledger(path, retain_days=None, retain_bytes=None)
    ledger.start()
    ledger.record(decision(5000))
    give_back(path)
    ledger.record(decision(5001))
    assert ledger.stop(PATIENCE)
    assert count(path) == 12


def test_without_room_for_a_copy_nothing_is_rewritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = emptied(path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2 * size - 1}))
    with pytest.raises(NoRoom, match="free disk"):
        rewrite(path)
    assert path.stat().st_size == size


@pytest.mark.parametrize("work", [give_back, rewrite, lambda path: examine(path, now_ms=NOW)])
def test_no_file_is_made(path: Path, work: Callable[[Path], object]) -> None:
    with pytest.raises(LedgerRefused, match="there is no such file"):
        work(path)
    assert not path.exists()
