"""What keys and projects have spent, summed as rows come, and what requests under way have reserved."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.server.ledger import Lease, Ledger
from proxy.server.ledger.booking import USED_MS
from proxy.server.ledger.care import examine
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.retention import Retention
from proxy.server.ledger.rows import DAY_MS
from proxy.server.ledger.schema import open_writer

from .conftest import Events
from .samples import NOON, PATIENCE, Traced, attempt, count, decision, sql, write


def spend(path: Path) -> dict[tuple[str, int], int]:
    return {(account, day): nanos for account, day, nanos in sql(path, "SELECT account, day, nanos FROM spend")}


def test_spend_is_summed_by_key_by_project_and_by_day(path: Path) -> None:
    day = NOON // DAY_MS
    write(
        path,
        [
            decision(1, key_id="a", charged_nanos=5),
            decision(2, key_id="a", project="team", charged_nanos=7),
            decision(3, key_id="b", project="team", charged_nanos=11, at_ms=NOON + DAY_MS),
            decision(4, key_id="b", charged_nanos=0),
            decision(5, charged_nanos=13),
        ],
    )
    assert spend(path) == {
        ("key:a", day): 12,
        ("key:b", day + 1): 11,
        ("project:team", day): 7,
        ("project:team", day + 1): 11,
    }


def test_the_same_request_twice_is_paid_once(path: Path) -> None:
    write(path, [decision(1, key_id="a", charged_nanos=5)] * 2)
    assert sum(spend(path).values()) == 5


def test_spend_outlasts_the_rows_that_made_it(path: Path) -> None:
    write(path, [decision(1, key_id="a", charged_nanos=5)])
    connection = open_writer(path)
    assert Retention(days=1).step(connection, NOON + 9 * DAY_MS) == (1, True)
    connection.close()
    assert sql(path, "SELECT count(*) FROM decisions") == [(0,)]
    assert spend(path) == {("key:a", NOON // DAY_MS): 5}


@settings(max_examples=fuzz.examples(10))
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "a", "b"]), st.sampled_from([None, "t", "u"]),
            st.integers(0, 10**15), st.integers(0, 5 * DAY_MS),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_spend_is_the_sum_over_the_ledger(tmp_path_factory, rows) -> None:  # type: ignore[no-untyped-def]
    path: Path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    written = [
        decision(i, key_id=key, project=project, charged_nanos=nanos, at_ms=NOON + after)
        for i, (key, project, nanos, after) in enumerate(rows)
    ]
    write(path, written)
    expected: Counter[tuple[str, int]] = Counter()
    for key, project, nanos, after in rows:
        for account in [f"key:{key}"] * (key is not None) + [f"project:{project}"] * (project is not None):
            expected[account, (NOON + after) // DAY_MS] += nanos
    assert spend(path) == {one: nanos for one, nanos in expected.items() if nanos}


def lease(i: int) -> Lease:
    return Lease(decision(i).request_id, "a", None, 5 << i, NOON)


def reserved(path: Path) -> list[tuple[str, int]]:
    return sql(path, "SELECT key_id, nanos FROM leases")


def test_a_lease_goes_with_the_row_of_its_request(path: Path) -> None:
    ledger = Ledger(path, now=lambda: 0.0)
    ledger.start()
    ledger.lease(lease(1))
    ledger.lease(lease(2))
    while reserved(path) != [("a", 10 + 20)]:
        assert ledger.flush(PATIENCE)
    ledger.record(decision(1, key_id="a"))
    assert ledger.stop(PATIENCE)
    assert reserved(path) == [("a", 20)]


def test_a_lease_that_ends_with_its_batch_is_never_written(path: Path) -> None:
    statements: list[str] = []
    ledger = Ledger(path, connect=Traced(statements.append), retain_days=None)
    for i in range(10):
        ledger.lease(lease(i))
        ledger.record(decision(i, key_id="a"))
    ledger.start()
    assert ledger.stop(PATIENCE)
    assert count(path) == 10
    assert not [told for told in statements if "INTO leases" in told or "leases WHERE request_id" in told]


def test_a_lease_is_written_for_a_request_that_is_under_way_at_two_looks(path: Path) -> None:
    ledger = Ledger(path, now=lambda: 0.0)
    ledger.lease(lease(1))
    ledger._gather()
    ledger.record(decision(1, key_id="a"))
    ledger.lease(lease(2))
    ledger._gather()
    assert (ledger._file.reserves.due(), list(ledger._leases)) == ([], [lease(2).request_id])
    ledger._gather()
    assert ([sum.nanos for sum in ledger._file.reserves.due()], list(ledger._leases)) == ([20], [])
    ledger.start()
    while not reserved(path):
        assert ledger.flush(PATIENCE)
    assert ledger.stop(PATIENCE)
    assert reserved(path) == [("a", 20)]


def test_a_lease_goes_although_its_row_was_refused(path: Path, events: Events) -> None:
    ledger = Ledger(path, now=lambda: 0.0)
    ledger.start()
    ledger.lease(lease(1))
    while not reserved(path):
        assert ledger.flush(PATIENCE)
    broken: Any = None
    ledger.record(decision(1, key_id="a", surface=broken))
    assert not ledger.stop(PATIENCE)
    assert (ledger.failed, count(path)) == (1, 0)
    assert reserved(path) == []


def test_what_many_have_reserved_is_told_to_the_nano_when_nothing_comes_any_more(path: Path) -> None:
    ledger = Ledger(path, now=lambda: 0.0, flush_ms=1)
    ledger.start()
    for i in range(20):
        ledger.lease(lease(i))
    while reserved(path) != [("a", sum(lease(i).nanos for i in range(20)))]:
        assert ledger.flush(PATIENCE)
    while not ledger._asleep:
        assert ledger.flush(PATIENCE)
    assert ledger.stop(PATIENCE)


@define
class Forgetful:
    """A connection whose first commit is in the file, and seems to have failed."""

    connection: sqlite3.Connection
    failed: bool = False

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        done = self.connection.execute(statement, values)
        if statement == "COMMIT" and not self.failed:
            self.failed = True
            raise sqlite3.OperationalError("disk I/O error")
        return done

    def close(self) -> None:
        self.connection.close()


def test_a_commit_whose_answer_was_lost_pays_nothing_twice(path: Path, events: Events) -> None:
    connections: list[Forgetful] = []

    def connect(where: Path) -> Any:
        connections.append(Forgetful(open_writer(where), failed=bool(connections)))
        return connections[-1]

    ledger = Ledger(path, connect=connect, retain_days=None)
    for i in range(10):
        ledger.record(decision(i, key_id="a", charged_nanos=7, attempts=[attempt()]))
    ledger.start()
    assert ledger.flush(PATIENCE)
    assert ledger.stop(PATIENCE)
    assert len(connections) == 2
    assert (count(path), count(path, "attempts")) == (10, 10)
    assert sum(spend(path).values()) == 70


def test_rows_of_other_writers_are_counted_too(path: Path) -> None:
    write(path, [decision(1, key_id="a", project="team", charged_nanos=5)])
    sql(path, "INSERT INTO keys VALUES ('a', '', '', x'00', '', 0, NULL, '', NULL, NULL, NULL, 0, NULL, '{}')")
    sql(path, "INSERT INTO leases VALUES ('req_theirs', 'a', NULL, 5, 9)")
    sql(
        path,
        "INSERT INTO decisions (request_id, at_ms, surface, requested, stream, config, status, outcome, fallback_used,"
        " attempt_count, charged_nanos, estimated, duration_ms, bytes_committed, dropped, key_id, project) VALUES"
        " ('req_theirs', ?, 'chat', 'auto', 0, '', 200, 'ok', 0, 0, 7, 0, 0, 0, '[]', 'a', 'team')",
        NOON + 5,
    )
    day = NOON // DAY_MS
    assert spend(path) == {("key:a", day): 12, ("project:team", day): 12}
    assert sql(path, "SELECT last_used_ms FROM keys") == [(NOON + 5,)]
    assert sql(path, "SELECT request_id FROM leases") == []
    assert {row["request_id"] for row in Decisions(path).page(Filter(project="team")).rows} > {"req_theirs"}
    assert examine(path, now_ms=NOON).problems == []


def test_the_last_use_of_a_key_is_that_of_its_last_request(path: Path) -> None:
    open_writer(path).close()
    sql(path, "INSERT INTO keys VALUES ('a', '', '', x'00', '', 0, NULL, '', NULL, NULL, NULL, 0, NULL, '{}')")
    write(path, [decision(2, key_id="a"), decision(1, key_id="a"), decision(3, key_id="b")])
    assert sql(path, "SELECT last_used_ms FROM keys") == [(NOON + 2000,)]
    assert sql(path, "SELECT n FROM key_changes") == [(1,)]  # use is no change


def test_the_last_use_of_a_key_is_written_once_a_second(path: Path) -> None:
    open_writer(path).close()
    sql(path, "INSERT INTO keys VALUES ('a', '', '', x'00', '', 0, NULL, '', NULL, NULL, NULL, 0, NULL, '{}')")
    ledger = Ledger(path, retain_days=None)
    ledger.start()
    for number, (after, written) in enumerate(((0, 0), (USED_MS - 1, 0), (USED_MS, USED_MS))):
        ledger.record(decision(number, key_id="a", at_ms=NOON + after))
        assert ledger.flush(PATIENCE)
        assert sql(path, "SELECT last_used_ms FROM keys") == [(NOON + written,)]
    assert ledger.stop(PATIENCE)
