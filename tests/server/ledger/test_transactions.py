"""Rows that trickle, beside the same rows written in the way of all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import count as count_from
from pathlib import Path
from typing import Any, Self

import pytest
from past import world_of

from proxy.routing.forms import form_of
from proxy.server.ledger import Brief, Lease, Ledger
from proxy.server.ledger.insert import MANY, SIZES
from proxy.server.ledger.schema import open_writer
from proxy.server.ledger.writer import MIXED, THICK

from .conftest import Events
from .samples import NOON, count, sql
from .test_building import TABLE, Kind, brief, planned

TABLES = ("decision_rows", "own_attempts", "plans", "plan_forms", "marks", "spend", "keys", "leases")
KEY = "INSERT INTO keys VALUES ('k', '', '', x'00', '', 0, NULL, '', NULL, NULL, NULL, 0, NULL, '{}')"


@pytest.fixture
def kind() -> Kind:
    """Of a plan that others were like."""
    plan = planned(world_of(TABLE))
    for _ in range(2):
        form_of(plan, plan.facts)
    return Kind(plan)


class Failing(sqlite3.Connection):
    """Takes no COMMIT while `refusing`."""

    refusing = False

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return Refusing(self).execute(statement, *values)

    def cursor(self, factory: Any = None) -> Any:
        return Refusing(self)


class Refusing(sqlite3.Cursor):
    def execute(self, statement: str, *values: Any) -> Self:
        assert isinstance(self.connection, Failing)
        if self.connection.refusing and statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(statement, *values)


def ledger_at(path: Path, connect: Callable[[Path], sqlite3.Connection] = open_writer) -> Ledger:
    """Without its thread: a test takes its turns."""
    open_writer(path).close()
    sql(path, KEY)
    ledger = Ledger(path, connect=connect, retain_days=None, retain_bytes=None)
    ledger._tidy_at = float("inf")
    return ledger


def way_of_all(ledger: Ledger) -> None:
    ledger._gather()
    if ledger._unwritten():
        ledger._write()


def a_turn(ledger: Ledger) -> bool:
    if ledger._sheaf():
        return True
    way_of_all(ledger)
    return False


def turns(ledger: Ledger, kind: Kind, take: Callable[[Ledger], object]) -> Iterator[object]:
    """A lease for each request, and its row three turns later; a second of the clock goes by meanwhile, and a request
    ends with tokens that are not plain."""
    usages: dict[int, dict[str, Any]] = {17: {"cost_nanos": 1 << 70}, 23: {"charged_nanos": 0}, 29: {"started_ms": 2}}
    for turn in range(16):
        for i in range(3 * turn, 3 * turn + 3):
            ledger.lease(Lease(f"req_{i}", "k", "team", 5, NOON + 10_000))
            if i >= 9:
                ledger.record(brief(kind, i - 9, at_ms=NOON + 70 * i, **usages.get(i - 9, {})))
        if ledger._queue:
            yield take(ledger)
        else:
            way_of_all(ledger)


def told(path: Path) -> dict[str, list[Any]]:
    return {table: sql(path, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


def test_rows_that_trickle_are_written_as_a_crowds_are(tmp_path: Path, kind: Kind) -> None:
    trickling, crowded = tmp_path / "trickling.db", tmp_path / "crowded.db"
    ways = list(turns(ledger_at(trickling), kind, a_turn))
    assert ways.count(True) > len(ways) / 2
    assert False in ways
    kind.rows = None
    list(turns(ledger_at(crowded), kind, way_of_all))
    assert told(trickling) == told(crowded)
    assert count(trickling) == 39
    assert sql(trickling, "SELECT key_id, project, nanos FROM leases") == [("k", "team", 6 * 5)]


@pytest.mark.parametrize("rows", [9, 374, 512])
def test_a_crowd_that_is_alike_is_written_as_any_other(tmp_path: Path, kind: Kind, rows: int) -> None:
    alike, of_all = tmp_path / "alike.db", tmp_path / "of_all.db"
    for path, take in ((alike, a_turn), (of_all, way_of_all)):
        kind.rows, ledger = None, ledger_at(path)
        for i in range(2):
            ledger.record(brief(kind, i))
            way_of_all(ledger)
        for i in range(rows):
            ledger.record(brief(kind, i + 2, at_ms=NOON + 9 * i, bytes_committed=i))
        assert take(ledger) in (True, None)
        assert (ledger.queued, ledger.written) == (0, rows + 2)
    assert told(alike) == told(of_all)


ODD = {"one that is there": ({"request_id": "req_0"}, 0), "one without an id": ({"request_id": None}, 1)}


@pytest.mark.parametrize(("odd", "failed"), ODD.values(), ids=ODD)
def test_a_crowd_whose_later_statement_is_refused_is_written_but_for_one_row(
    path: Path, kind: Kind, odd: dict[str, Any], failed: int
) -> None:
    ledger, rows = ledger_at(path), SIZES[0] + MANY
    for i in range(2):
        ledger.record(brief(kind, i))
        way_of_all(ledger)
    for i in range(rows):
        ledger.record(brief(kind, i + 2, charged_nanos=5, **(odd if i == rows - 1 else {})))
    assert not a_turn(ledger)
    assert (ledger.queued, ledger.failed, count(path)) == (0, failed, rows + 1)
    assert sql(path, "SELECT DISTINCT nanos FROM spend") == sql(path, "SELECT sum(charged_nanos) FROM decisions")


def test_a_crowd_that_is_mixed_is_not_looked_at_each_time(path: Path, kind: Kind) -> None:
    ledger, came = ledger_at(path), count_from(0)
    for _ in range(2):
        ledger.record(brief(kind, next(came)))
        way_of_all(ledger)
    ways = []
    for turn in range(MIXED + 2):
        for _ in range(THICK):
            ledger.record(brief(kind, next(came), started_ms=0 if turn else 2))
        ways.append(a_turn(ledger))
    assert ways == [False] * (MIXED + 1) + [True]
    assert ledger.written == next(came)


def a_file_that_takes_nothing(ledger: Ledger, _: Brief) -> None:
    connection = ledger._file.open()
    assert isinstance(connection, Failing)
    connection.refusing = True


def a_row_that_is_there(ledger: Ledger, last: Brief) -> None:
    ledger.record(last)


def rows_of_another_process(ledger: Ledger, last: Brief) -> None:
    theirs = Ledger(ledger.path, retain_days=None)
    theirs.record(last._replace(request_id=last.request_id.replace("req", "req_theirs")))
    way_of_all(theirs)


def another_file(ledger: Ledger, _: Brief) -> None:
    ledger.path.rename(ledger.path.with_suffix(".old"))


UNUSUAL = {
    "a file that takes nothing": (a_file_that_takes_nothing, 4),
    "a row that is there": (a_row_that_is_there, 4),
    "another file in its place": (another_file, 1),
}


@pytest.mark.parametrize(("spoil", "rows"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_the_way_of_all(
    path: Path, kind: Kind, spoil: Callable[[Ledger, Brief], None], rows: int
) -> None:
    def connect(path: Path) -> sqlite3.Connection:
        open_writer(path).close()
        return sqlite3.connect(path, isolation_level=None, factory=Failing)

    ledger = ledger_at(path, connect)
    for i in range(2):
        ledger.record(brief(kind, i))
        way_of_all(ledger)
    ledger.record(brief(kind, 2))
    assert ledger._sheaf()
    spoil(ledger, brief(kind, 2))
    ledger.record(brief(kind, 3))
    assert not ledger._sheaf()
    assert ledger.queued == len(ledger._queue) > 0
    way_of_all(ledger)
    assert (ledger.queued, ledger.stalled, ledger.failed) == (0, False, 0)
    assert count(path) == rows


def test_rows_that_trickle_go_on_behind_those_of_another_process(path: Path, kind: Kind) -> None:
    ledger = ledger_at(path)
    for i in range(2):
        ledger.record(brief(kind, i))
        way_of_all(ledger)
    for i in (2, 3):
        rows_of_another_process(ledger, brief(kind, i))
        ledger.record(brief(kind, i))
        assert ledger._sheaf()
    assert [id for (id,) in sql(path, "SELECT request_id FROM decisions ORDER BY id")] == [
        "req_0", "req_1", "req_theirs_2", "req_2", "req_theirs_3", "req_3",
    ]  # fmt: skip
    ledger.record(brief(kind, 4))
    way_of_all(ledger)
    assert sql(path, "SELECT max(id), count(*) FROM decisions") == [(7, 7)]


def test_a_row_that_cannot_be_told_is_left_to_the_way_of_all(path: Path, kind: Kind) -> None:
    ledger = ledger_at(path)
    for i in range(2):
        ledger.record(brief(kind, i))
        way_of_all(ledger)
    broken: Any = None
    ledger.record(brief(kind, 2, usage=broken))
    ledger.record(brief(kind, 3))
    assert not ledger._sheaf()
    way_of_all(ledger)
    assert (ledger.queued, ledger.stalled, ledger.failed) == (0, False, 1)
    assert count(path) == 3


def test_a_fault_of_ours_is_told_once_and_costs_no_row(path: Path, kind: Kind, events: Events) -> None:
    ledger = ledger_at(path)
    for i in range(4):
        ledger.record(brief(kind, i))
        if i > 1:
            ledger._file.write_sheaf = None  # type: ignore[assignment,method-assign]  # cannot be called
            assert not ledger._sheaf()
        way_of_all(ledger)
    assert (ledger.queued, ledger.stalled, ledger.failed) == (0, False, 0)
    assert count(path) == 4
    assert len(events.named("ledger_batch_failed")) == 1
