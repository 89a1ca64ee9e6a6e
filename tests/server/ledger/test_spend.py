"""What keys and projects have spent, summed by triggers as rows come."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.server.ledger import Ledger
from proxy.server.ledger.retention import Retention
from proxy.server.ledger.schema import DAY_MS, open_writer

from .samples import NOON, PATIENCE, decision, sql, write


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


@settings(max_examples=10)
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


def test_a_lease_goes_with_the_row_of_its_request(path: Path) -> None:
    ledger = Ledger(path)
    ledger.start()
    values = "(?, 'a', NULL, 5, 9e15), ('req_other', 'a', NULL, 5, 9e15)"  # one whose time is over would go anyhow
    sql(path, f"INSERT INTO leases VALUES {values}", decision(1).request_id)
    ledger.record(decision(1, key_id="a"))
    assert ledger.stop(PATIENCE)
    assert sql(path, "SELECT request_id FROM leases") == [("req_other",)]


def test_the_last_use_of_a_key_is_that_of_its_last_request(path: Path) -> None:
    open_writer(path).close()
    sql(path, "INSERT INTO keys VALUES ('a', '', '', x'00', '', 0, NULL, '', NULL, NULL, NULL, 0, NULL, '{}')")
    write(path, [decision(2, key_id="a"), decision(1, key_id="a"), decision(3, key_id="b")])
    assert sql(path, "SELECT last_used_ms FROM keys") == [(NOON + 2000,)]
    assert sql(path, "SELECT n FROM key_changes") == [(1,)]  # use is no change
