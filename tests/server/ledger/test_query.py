from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import fuzz
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.server.ledger import Decision
from proxy.server.ledger.export import rows as export
from proxy.server.ledger.query import (
    CONDITIONS,
    FLAG_CONDITIONS,
    MARKS,
    PAGE_MOST,
    SELECT_PAGE,
    Cursor,
    Decisions,
    Filter,
    Search,
    SearchTooLong,
    rows_as_json,
    searched,
)
from proxy.server.ledger.schema import open_reader

from .samples import NOON, Plan, attempt, decision, locked, write

COMMON: dict[str, Any] = {"status": 200, "model": "m1", "provider": "p1", "requested": "auto", "project": "a"}
CHOSEN = Plan({"intent": "auto", "class": {"label": "code"}, "rule": "day", "profile": "house", "candidates": []})
PLANNED: dict[str, Any] = {"plan": CHOSEN, "config": "sha256:new"}
SAMPLE = [
    decision(1, **COMMON),
    decision(2, **COMMON | {"model": "m2", "key_id": "k2"}),
    decision(3, **COMMON | {"provider": "p2", "cost_nanos": 5_000}),
    decision(4, **COMMON | {"status": 502, "outcome": "upstream_failed", "model": None, "provider": None}),
    decision(5, **COMMON | {"status": 499, "outcome": "client_closed", "project": "b"}),
    decision(6, **COMMON | PLANNED | {"surface": "messages", "fallback_used": True, "duration_ms": 9_000}),
    decision(7, **COMMON | {"requested": "100%_'", "client_request_id": "theirs", "cost_nanos": 0}),
]
FILTERS: dict[str, tuple[Filter, list[int]]] = {
    "nothing": (Filter(), [7, 6, 5, 4, 3, 2, 1]),
    "since is included": (Filter(since_ms=NOON + 6000), [7, 6]),
    "until is excluded": (Filter(until_ms=NOON + 3000), [2, 1]),
    "a span": (Filter(since_ms=NOON + 2000, until_ms=NOON + 4000), [3, 2]),
    "model": (Filter(model="m2"), [2]),
    "provider": (Filter(provider="p2"), [3]),
    "requested, without patterns": (Filter(requested="100%_'"), [7]),
    "a pattern matches nothing": (Filter(requested="100%"), []),
    "surface": (Filter(surface="messages"), [6]),
    "intent": (Filter(intent="auto"), [6]),
    "class": (Filter(klass="code"), [6]),
    "another class": (Filter(klass="chat"), []),
    "rule": (Filter(rule="day"), [6]),
    "profile": (Filter(profile="house"), [6]),
    "config": (Filter(config="sha256:new"), [6]),
    "a bad status": (Filter(status=502), [4]),
    "a good status": (Filter(status=200), [7, 6, 3, 2, 1]),
    "outcome": (Filter(outcome="client_closed"), [5]),
    "outcome ok": (Filter(outcome="ok"), [7, 6, 3, 2, 1]),
    "failed": (Filter(failed=True), [5, 4]),
    "not failed": (Filter(failed=False), [7, 6, 3, 2, 1]),
    "fallback": (Filter(fallback=True), [6]),
    "no fallback": (Filter(fallback=False), [7, 5, 4, 3, 2, 1]),
    "project": (Filter(project="b"), [5]),
    "key": (Filter(key_id="k2"), [2]),
    "our id": (Filter(request_id=decision(3).request_id), [3]),
    "their id": (Filter(client_request_id="theirs"), [7]),
    "cost": (Filter(min_cost_nanos=1), [3]),
    "duration": (Filter(min_duration_ms=9_000), [6]),
    "two of them": (Filter(project="a", failed=True), [4]),
    "a value past any column": (Filter(since_ms=10**40), []),
    "a lone surrogate": (Filter(model="\ud800"), []),
    "a statement": (Filter(model="m1' OR 1=1 --"), []),
}


def numbers(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [int(row["request_id"].removeprefix("req_"), 16) for row in rows]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("query") / "ledger.db"
    write(path, SAMPLE)
    return path


@pytest.mark.parametrize(("filters", "expected"), FILTERS.values(), ids=FILTERS)
def test_a_filter_leaves_what_it_asks_for_newest_first(sample: Path, filters: Filter, expected: list[int]) -> None:
    page = Decisions(sample).page(filters)
    assert numbers(page.rows) == expected
    assert page.next is None


def test_each_field_of_the_filter_has_its_condition_and_its_test() -> None:
    fields = set(attrs.fields_dict(Filter))
    assert set(CONDITIONS) | {name for name, _ in FLAG_CONDITIONS} == fields
    assert {name for filters, _ in FILTERS.values() for name in fields if getattr(filters, name) is not None} == fields


def steps(path: Path, search: Search) -> str:
    """How SQLite goes about it."""
    with closing(open_reader(path)) as connection:
        told = connection.execute(f"EXPLAIN QUERY PLAN {SELECT_PAGE} {search.newest_first}", (*search.values, 100))
        return " | ".join(step[3] for step in told)


@pytest.mark.parametrize(("filters", "_expected"), FILTERS.values(), ids=FILTERS)
def test_no_page_sorts_and_none_walks_the_table(sample: Path, filters: Filter, _expected: list[int]) -> None:
    for below in (None, Cursor(NOON, 1)):
        search = searched(filters) if below is None else searched(filters).below(below)
        told = steps(sample, search)
        assert "TEMP B-TREE" not in told
        assert "SEARCH decision_rows USING" in told or "SCAN decision_rows USING INDEX decisions_" in told


INDEXED = {
    "failures of a class": (Filter(klass="code", failed=True), "decisions_failed"),
    "a bad status": (Filter(status=502), "decisions_by_bad_status"),
    "outcome": (Filter(outcome="upstream_failed"), "decisions_failed"),
    "failures of a project": (Filter(failed=True, project="a"), "decisions_failed"),
    "failures of a key in a span": (Filter(outcome="client_closed", key_id="k", since_ms=1), "decisions_failed"),
    "a bad status of a model": (Filter(status=502, model="m"), "decisions_by_bad_status"),
    "cost": (Filter(min_cost_nanos=1), "decisions_by_time"),
    "failed": (Filter(failed=True), "decisions_failed"),
    "fallback": (Filter(fallback=True), "decisions_fallen_back"),
    "their id": (Filter(client_request_id="x"), "decisions_by_client_id"),
    "their id and a model": (Filter(client_request_id="x", model="m"), "decisions_by_client_id"),
    "our id of a key": (Filter(request_id="x", key_id="k"), "decisions_by_request_id"),
}


@pytest.mark.parametrize(("filters", "index"), INDEXED.values(), ids=INDEXED)
def test_what_is_rare_is_found_along_its_own_index(sample: Path, filters: Filter, index: str) -> None:
    assert index in steps(sample, searched(filters))


def only(**fields: Any) -> Filter:
    return Filter(**fields)


BLOCKS: dict[str, tuple[Filter, str]] = {
    **{field: (only(**{field: "x"}), "kind=? AND value=?") for field in MARKS.values()},
    "in a span": (Filter(rule="day", since_ms=NOON, until_ms=NOON + 9), "kind=? AND value=? AND block>? AND block<?"),
    "since": (Filter(key_id="k", since_ms=NOON), "kind=? AND value=? AND block>?"),
    "two of them": (Filter(model="m1", project="a"), "more USING PRIMARY KEY (kind=? AND value=? AND block=?)"),
    "what is cheap": (Filter(model="m1", min_cost_nanos=5), "kind=? AND value=?"),
}


@pytest.mark.parametrize(("filters", "way"), BLOCKS.values(), ids=BLOCKS)
def test_what_is_not_is_found_in_the_blocks_where_it_is_marked(sample: Path, filters: Filter, way: str) -> None:
    told = steps(sample, searched(filters))
    assert way in told
    assert "SEARCH decision_rows USING INDEX decisions_by_time (at_ms>? AND at_ms<?)" in told
    assert "block<?" in steps(sample, searched(filters).below(Cursor(NOON, 1)))


def test_a_page_of_what_is_rare_reads_its_own_blocks_alone(path: Path) -> None:
    """One row in a thousand of 20,000, over hours: the work of SQLite's machine, not time, which others share."""
    many = [
        decision(i, at_ms=NOON + 50 * i, model="rare" if i % 1000 == 0 else "common", config="c") for i in range(20_000)
    ]
    write(path, many)
    work = 0

    def count_work() -> int:
        nonlocal work
        work += 1
        return 0

    with closing(open_reader(path)) as connection:
        connection.set_progress_handler(count_work, 100)
        search = searched(Filter(model="rare"))
        found = connection.execute(f"{SELECT_PAGE} {search.newest_first}", (*search.values, 100)).fetchall()
    assert len(found) == 20
    assert work * 100 < 20_000  # 20 blocks of 20 rows, a few steps for each


# -- pages -------------------------------------------------------------------------------------------------------


def test_pages_have_no_gap_and_no_repeat_while_rows_are_added(path: Path) -> None:
    dice = random.Random(7)
    # Requests end in another order than they begin, and several begin in the same millisecond.
    standing = [decision(i, at_ms=NOON + i // 5) for i in range(200)]
    dice.shuffle(standing)
    write(path, standing)
    seen: list[int] = []
    cursor, added = None, 1000
    while True:
        page = Decisions(path).page(Filter(), limit=7, before=cursor)
        seen += numbers(page.rows)
        if (cursor := page.next) is None:
            break
        write(path, [decision(added + i, at_ms=NOON + dice.randrange(50)) for i in range(3)])
        added += 3
    assert sorted(number for number in seen if number < 200) == list(range(200))
    assert len(seen) == len(set(seen))


def test_a_full_last_page_has_no_next(sample: Path) -> None:
    assert Decisions(sample).page(Filter(), limit=7).next is None
    assert Decisions(sample).page(Filter(), limit=6).next is not None


@pytest.mark.parametrize(("limit", "got"), [(-5, 1), (0, 1), (3, 3), (10**9, 7)])
def test_a_limit_is_held_within_bounds(sample: Path, limit: int, got: int) -> None:
    assert len(Decisions(sample).page(Filter(), limit=limit).rows) == got
    assert got <= PAGE_MOST


@pytest.mark.parametrize("cursor", ["", "x", "1", "1.", ".1", "1.1.1", "1.1; --", "1e3.4", "1" * 30 + ".1", "١.١"])
def test_a_cursor_that_no_page_gave_is_refused(sample: Path, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Decisions(sample).page(Filter(), before=cursor)


def test_a_cursor_is_written_and_read_alike() -> None:
    assert Cursor.parse(str(Cursor(-5, 12))) == Cursor(-5, 12)


def test_a_page_is_ready_to_be_sent(sample: Path) -> None:
    page = Decisions(sample).page(Filter(), limit=2)
    sent = orjson.loads(rows_as_json(page))
    assert sent == {"decisions": page.rows, "next": page.next}


def test_a_page_has_no_plans_and_counts_the_attempts(path: Path) -> None:
    write(path, [decision(plan=Plan({"reason": "because"}), attempts=[attempt(1), attempt(2)])])
    (row,) = Decisions(path).page(Filter()).rows
    assert "plan" not in row
    assert row["attempt_count"] == 2


# -- one ---------------------------------------------------------------------------------------------------------


def test_one_has_its_attempts_in_order_and_its_plan(path: Path) -> None:
    write(path, [decision(1, attempts=[attempt(2), attempt(1)], plan=Plan({"reason": "because"})), decision(2)])
    found = Decisions(path).one(decision(1).request_id)
    assert found is not None
    assert [each["n"] for each in found["attempts"]] == [1, 2]
    assert found["plan"] == {"reason": "because"}
    assert found.keys() > attrs.fields_dict(Decision).keys() - {"plan", "attempts"}


@pytest.mark.parametrize("request_id", ["", "req_absent", "' OR 1=1 --", "%", "\ud800", "a\0b"])
def test_one_that_is_not_there_is_none(sample: Path, request_id: str) -> None:
    assert Decisions(sample).one(request_id) is None


# -- beside the writer -------------------------------------------------------------------------------------------


def test_reading_does_not_wait_for_a_writer(sample: Path) -> None:
    with locked(sample):
        assert len(Decisions(sample).page(Filter()).rows) == len(SAMPLE)


def test_a_search_is_limited_in_time(path: Path) -> None:
    write(path, map(decision, range(3000)))
    with pytest.raises(SearchTooLong, match="narrower span"):
        Decisions(path, patience=0).page(Filter(min_cost_nanos=1))


# -- marks -------------------------------------------------------------------------------------------------------

VALUES = (None, "a", "b", "ß", "100%")


def fits(one: Decision, filters: Filter) -> bool:
    asked = {name: getattr(filters, name) for name in ("model", "project", "requested", "surface")}
    return (
        all(value is None or getattr(one, name) == value for name, value in asked.items())
        and (filters.since_ms is None or one.at_ms >= filters.since_ms)
        and (filters.until_ms is None or one.at_ms < filters.until_ms)
    )


@settings(max_examples=fuzz.examples(25), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 6_000) | st.integers(1_020, 1_026),
            st.sampled_from(VALUES),
            st.sampled_from(VALUES),
            st.sampled_from(["", "r1", "r2"]),
        ),
        max_size=60,
    ),
    st.lists(st.integers(1, 25), max_size=4),
    st.integers(1, 7),
    st.none() | st.integers(0, 6_000),
    st.none() | st.integers(0, 6_000),
)
def test_what_is_found_by_marks_is_what_a_look_at_every_row_finds(  # type: ignore[no-untyped-def]
    tmp_path_factory, rows, batches, limit, since, until
) -> None:
    """Rows out of the order of time, over several blocks, in several batches, some from a writer that has seen none of
    the others; read page by page."""
    path = tmp_path_factory.mktemp("marks") / "ledger.db"
    written = [
        decision(i, at_ms=NOON + after, model=model, project=project, requested=requested)
        for i, (after, model, project, requested) in enumerate(rows)
    ]
    at = 0
    for size in (*batches, len(written)):
        write(path, written[at : at + size])
        at += size
    span = {"since_ms": None if since is None else NOON + since, "until_ms": None if until is None else NOON + until}
    for filters in (
        only(model="a"), only(model="ß", **span), only(project="b", **span), only(requested="r1", project="a"),
        only(requested="", model="b", project="a", **span), only(surface="chat", **span), only(model="absent"),
    ):  # fmt: skip
        expected = [(one.at_ms, number) for number, one in enumerate(written) if fits(one, filters)]
        seen: list[int] = []
        cursor = None
        while True:
            page = Decisions(path).page(filters, limit, cursor)
            seen += numbers(page.rows)
            if (cursor := page.next) is None:
                break
        assert seen == [number for _, number in sorted(expected, reverse=True)]
        assert Decisions(path).count(filters) == len(expected)
        exported = [one.decision[0] for one in export(path, filters)]
        assert exported == [written[number].request_id for _, number in sorted(expected)]
