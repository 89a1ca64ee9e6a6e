"""What is written of what requests have reserved: never less, not much more, and seldom where they are many."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fuzz
import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from past import world_of

from proxy.accounts.periods import DAY_MS
from proxy.server.ledger import Ledger
from proxy.server.ledger.records import Leased
from proxy.server.ledger.reserves import ABOVE, MANY, MARGIN_MS, SLACK, STILL_S, Reserves
from proxy.server.ledger.schema import open_writer

from .conftest import Events
from .samples import NOON, count, decision, sql
from .test_building import TABLE, Kind, brief, planned
from .test_transactions import Failing, ledger_at, way_of_all

Owner = tuple[str, str | None]


@define
class Desk:
    """Reserves, and the file that they are written to; and what should stand in it."""

    connection: sqlite3.Connection
    now: float = 100.0
    reserves: Reserves = field(init=False)
    under_way: dict[str, Leased] = field(factory=dict)
    statements: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.reserves = Reserves(lambda: self.now)
        self.connection.set_trace_callback(self.statements.append)

    def begin(self, request: str, owner: Owner = ("a", None), nanos: int = 100, until_ms: int = NOON) -> None:
        self.under_way[request] = lease = (request, *owner, nanos, until_ms)
        self.reserves.begin([lease])

    def end(self, request: str) -> None:
        self.under_way.pop(request, None)
        self.reserves.end((request,))

    def commit(self) -> int:
        """How many statements it took."""
        self.statements.clear()
        self.reserves.write(self.connection)
        self.reserves.done()
        return len(self.statements)

    def fail(self) -> None:
        self.connection.execute("BEGIN")
        self.reserves.write(self.connection)
        self.connection.execute("ROLLBACK")
        self.reserves.doubt()

    def kept(self) -> dict[Owner, int]:
        rows = self.connection.execute("SELECT key_id, project, nanos FROM leases").fetchall()
        kept = {(key, project): nanos for key, project, nanos in rows}
        assert len(kept) == len(rows), "one row for each"
        return kept

    def right(self) -> dict[Owner, int]:
        sums: Counter[Owner] = Counter()
        for _, key, project, nanos, _ in self.under_way.values():
            sums[key, project] += nanos
        return dict(sums)


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    connection = open_writer(path)
    yield Desk(connection)
    connection.close()


def test_what_a_few_have_reserved_is_written_to_the_nano(desk: Desk) -> None:
    for i in range(MANY - 1):
        desk.begin(f"r{i}", nanos=1 << i)
        desk.commit()
        assert desk.kept() == desk.right()
    for i in range(MANY - 1):
        desk.end(f"r{i}")
        desk.commit()
        assert desk.kept() == desk.right()
    assert desk.reserves._sums == {}


def test_of_many_that_come_and_go_little_is_written(desk: Desk) -> None:
    for i in range(50):
        desk.begin(f"r{i}")
    assert desk.commit() == 1
    assert desk.kept() == {("a", None): 5000 + 5000 // ABOVE}
    for i in range(25):
        desk.end(f"r{i}")
        desk.begin(f"r{50 + i}", until_ms=NOON + MARGIN_MS)
        assert desk.commit() == 0
        desk.now += STILL_S / 25
    assert desk.commit() == 1, "as long as it says something else it is written once in a while"


def test_a_row_says_never_less_and_not_much_more_than_there_is(desk: Desk) -> None:
    for i in range(100):
        desk.begin(f"r{i}")
        desk.commit()
        assert 100 * (i + 1) <= desk.kept()["a", None] <= 100 * (i + 1) * (SLACK + 1) // SLACK
    for i in range(99):
        desk.end(f"r{i}")
        desk.commit()
        left = 99 - i
        assert 100 * left <= desk.kept()["a", None] <= 100 * left * (SLACK + 1) // SLACK
    desk.end("r99")
    desk.commit()
    assert desk.kept() == {}


def test_it_counts_until_the_youngest_of_many_is_over(desk: Desk) -> None:
    for i in range(20):
        desk.begin(f"r{i}", until_ms=NOON + i)
    desk.commit()
    for until_ms in (NOON + 500, NOON + MARGIN_MS, NOON + MARGIN_MS + 500):
        desk.begin("young", until_ms=until_ms)
        desk.commit()
        ((kept_ms,),) = desk.connection.execute("SELECT until_ms FROM leases").fetchall()
        assert until_ms <= kept_ms <= until_ms + MARGIN_MS + 20


def test_what_has_not_changed_for_a_while_is_written_to_the_nano(desk: Desk) -> None:
    for i in range(20):
        desk.begin(f"r{i}")
    desk.commit()
    desk.now += STILL_S / 2
    assert desk.commit() == 0
    desk.now += STILL_S / 2
    assert desk.commit() == 1
    assert desk.kept() == desk.right()
    desk.now += STILL_S
    assert (desk.commit(), desk.reserves.settle()) == (0, False)


def test_more_of_the_same_request_takes_the_place_of_what_it_had(desk: Desk) -> None:
    desk.begin("r", nanos=100)
    desk.commit()
    desk.begin("r", nanos=250)
    desk.commit()
    assert desk.kept() == {("a", None): 250}


def test_nothing_reserved_is_a_row_that_goes_as_well(desk: Desk) -> None:
    desk.begin("r", nanos=0)
    desk.commit()
    assert count_of(desk) == 1
    desk.end("r")
    desk.commit()
    assert count_of(desk) == 0


def count_of(desk: Desk) -> int:
    ((rows,),) = desk.connection.execute("SELECT count(*) FROM leases").fetchall()
    return int(rows)


def test_a_request_that_never_comes_to_a_row_is_forgotten_with_its_time(desk: Desk) -> None:
    desk.begin("lost", until_ms=NOON)
    desk.begin("later", until_ms=NOON + 1)
    desk.commit()
    desk.reserves.forget(NOON + 1)
    desk.commit()
    assert desk.kept() == {("a", None): 100}


@pytest.mark.parametrize("others", [2, 20])
def test_a_clock_that_was_ahead_holds_nothing_once_its_request_has_ended(desk: Desk, others: int) -> None:
    for i in range(others):
        desk.begin(f"r{i}", until_ms=NOON + i)
    desk.begin("ahead", until_ms=NOON + 365 * DAY_MS)
    desk.commit()
    desk.end("ahead")
    desk.commit()
    desk.reserves.forget(NOON)
    desk.now += STILL_S
    desk.commit()
    ((kept_ms,),) = desk.connection.execute("SELECT until_ms FROM leases").fetchall()
    assert NOON + others - 1 <= kept_ms <= NOON + others - 1 + MARGIN_MS
    assert desk.right() == {("a", None): others * 100}
    desk.begin("young", until_ms=NOON + MARGIN_MS * 2)
    desk.commit()
    ((kept_ms,),) = desk.connection.execute("SELECT until_ms FROM leases").fetchall()
    assert kept_ms >= NOON + MARGIN_MS * 2


MOVES = st.lists(
    st.tuples(
        st.sampled_from(("begin", "begin", "end", "commit", "fail", "wait")),
        st.integers(0, 30),
        st.sampled_from([("a", None), ("a", "team"), ("b", "team")]),
        st.integers(0, 1 << 62),
    ),
    max_size=120,
)


@settings(deadline=None, max_examples=fuzz.examples(100))
@given(moves=MOVES)
def test_whatever_comes_and_fails_the_file_says_enough_and_in_the_end_what_is_so(
    moves: list[tuple[str, int, Owner, int]],
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE leases (request_id PRIMARY KEY, key_id, project, nanos, until_ms)")
    desk = Desk(connection)
    for move, n, owner, nanos in moves:
        match move:
            case "begin" if f"{owner}{n}" in desk.under_way or len(desk.under_way) < 40:
                desk.begin(f"{owner}{n}", owner, nanos)
            case "end":
                desk.end(f"{owner}{n}")
            case "fail":
                desk.fail()
            case "wait":
                desk.now += STILL_S / 3
            case "commit":
                desk.commit()
                kept, right = desk.kept(), desk.right()
                assert kept.keys() == right.keys()
                for one, held in right.items():
                    held = min(held, (1 << 63) - 1)
                    assert held <= kept[one] <= held + held // SLACK
    desk.reserves.settle()
    desk.commit()
    assert desk.kept() == {one: min(held, (1 << 63) - 1) for one, held in desk.right().items()}
    assert not desk.reserves._changed
    connection.close()


def under_way(ledger: Ledger, requests: int) -> None:
    for i in range(requests):
        ledger.lease((f"req_{i}", "k", "team", 5, NOON))
    for _ in range(2):
        ledger._gather()


def reserved(path: Path) -> list[tuple[str, str, int]]:
    return sql(path, "SELECT key_id, project, nanos FROM leases")


@pytest.mark.parametrize("requests", [3, 40])
def test_what_the_file_did_not_take_is_written_when_it_does(path: Path, events: Events, requests: int) -> None:
    def connect(path: Path) -> sqlite3.Connection:
        open_writer(path).close()
        return sqlite3.connect(path, isolation_level=None, factory=Failing)

    ledger = ledger_at(path, connect)
    under_way(ledger, requests)
    connection = ledger._file.open()
    assert isinstance(connection, Failing)
    connection.refusing = True
    ledger._write()
    assert (ledger.stalled, reserved(path)) == (True, [])
    ledger.record(decision(0, request_id="req_0"))
    way_of_all(ledger)
    ((key, project, nanos),) = reserved(path)
    assert (key, project, ledger.stalled) == ("k", "team", False)
    assert 5 * (requests - 1) <= nanos <= 5 * requests * (SLACK + 1) // SLACK
    for i in range(1, requests):
        ledger.record(decision(i, request_id=f"req_{i}"))
    way_of_all(ledger)
    assert reserved(path) == []


def test_another_file_in_its_place_is_told_of_those_under_way(path: Path, events: Events) -> None:
    ledger = ledger_at(path)
    under_way(ledger, 3)
    ledger._write()
    path.rename(path.with_suffix(".old"))
    ledger.record(decision(0, request_id="req_0"))
    way_of_all(ledger)
    assert reserved(path) == [("k", "team", 10)]


def test_of_many_under_way_a_batch_of_few_rows_writes_rows_and_sums_alone(path: Path) -> None:
    """As they trickle: a row for each that ends, one that begins in its place."""
    plan = planned(world_of(TABLE))
    kind, statements = Kind(plan), list[str]()

    def connect(path: Path) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.set_trace_callback(statements.append)
        return connection

    ledger = ledger_at(path, connect)
    for i in range(40):
        ledger.lease((f"req_{i}", "k", "team", 5, NOON))
    way_of_all(ledger)
    way_of_all(ledger)
    for i in range(2):
        ledger.record(brief(kind, i))
        way_of_all(ledger)
    ledger.record(brief(kind, 2))
    assert ledger._sheaf()
    ledger.lease(("req_40", "k", "team", 5, NOON))
    ledger.record(brief(kind, 3))
    statements.clear()
    assert ledger._sheaf()
    assert [said.split(" (")[0] for said in statements if not said.startswith("--")] == [
        "BEGIN IMMEDIATE", "INSERT OR ROLLBACK INTO decision_rows", "INSERT INTO spend", "COMMIT",
    ]  # fmt: skip
    assert count(path, "leases") == 1
