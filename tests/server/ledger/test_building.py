"""What many rows have in common is made once and written once, and no row shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuzz
import orjson
import pytest
from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from past import HOUSE, facts_of, world_of

from proxy.ir import Usage
from proxy.routing.facts import Facts
from proxy.routing.forms import filled, form_of
from proxy.routing.plan import Plan, recalled, resolve
from proxy.routing.world import World
from proxy.server.ledger import Brief, Decision, Ledger
from proxy.server.ledger.building import MOST_ALIKE, Rows
from proxy.server.ledger.care import examine
from proxy.server.ledger.export import decision_csv, decision_lines, rows
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.rows import CODE, DAY_MS, text

from .samples import NOON, PATIENCE, attempt, count, decision, sql, write

TABLE = HOUSE + '[aliases]\nfast = ["small", "large"]\n[projects.team]\n'
USAGE = Usage(input=12, cache_read=0, output=30, reasoning=0)


@pytest.fixture(scope="module")
def house() -> World:
    return world_of(TABLE)


def planned(world: World, tokens: int = 10, **changes: Any) -> Plan:
    facts: Facts = evolve(facts_of({"model": "fast", "max_tokens": 50}, tokens=tokens), **changes)
    return resolve(facts, world, lambda: 0.5, 0.0)


def asked(i: int, plan: Plan, **changes: Any) -> Decision:
    return decision(
        i,
        **{
            "plan": plan, "facts": plan.facts, "usage": USAGE, "status": 200, "model": "small", "provider": "near",
            "native": "small", "key_id": "k", "project": "team", "charged_nanos": 5, "queue_ms": 0,
            "attempts": [attempt(status=200, upstream_request_id="up", usage=USAGE, ttfb_ms=3)], **changes,
        },
    )  # fmt: skip


def shown(plan: Plan) -> tuple[Any, Any]:
    return orjson.loads(orjson.dumps(plan.as_json())), orjson.loads(orjson.dumps(plan.facts.as_json()))


def test_plans_that_are_remembered_share_one_form_and_come_back_as_they_were(path: Path, house: World) -> None:
    plans = [planned(house, tokens=10 * i, conversation=f"{i:032x}") for i in range(1, 60)]
    write(path, [asked(i, plan) for i, plan in enumerate(plans)])
    assert count(path, "plan_forms") == 1
    assert count(path, "plans") < 3  # before it was known that they come again
    for i, plan in enumerate(plans):
        found = Decisions(path).one(decision(i).request_id)
        assert found is not None
        assert (found["plan"], found["facts"]) == shown(plan)
        assert found["intent"] == plan.intent
    pages = Decisions(path).page(Filter(), plans=True).rows
    assert [(row["plan"], row["facts"]) for row in reversed(pages)] == [shown(plan) for plan in plans]
    exported = [orjson.loads(line) for line in decision_lines(rows(path, Filter()), plans=True)]
    assert [(row["plan"], row["facts"]) for row in exported] == [shown(plan) for plan in plans]
    assert b'""tokens_estimated"":590' in b"".join(decision_csv(rows(path, Filter())))


VARIED: dict[str, dict[str, Any]] = {
    "as the others": {},
    "its client's own id": {"client_request_id": "theirs"},
    "a client that left": {"outcome": "client_closed", "status": 499, "gone_phase": "stream"},
    "no usage": {"usage": None},
    "no cost, and an estimate": {"cost_nanos": None, "estimated": True},
    "tokens written to a cache": {"usage": Usage(1, 2, 3, 4, 5, 6, 7, 8)},
    "tokens of which none is known": {"usage": Usage()},
    "more tokens than a column holds": {"usage": Usage(input=1 << 70, output=-(1 << 70))},
    "a negative time": {"at_ms": -5, "duration_ms": -1},
    "a long name": {"requested": "x" * 300},
    "a name that is not ASCII": {"requested": "größe", "model": "größe\ud800"},
    "an id that is not ASCII": {"request_id": "req_\ud800\U0001f9e8"},
    "a long id": {"request_id": "r" * 65},
    "what a translation lost": {"dropped": ("seed",)},
    "no attempt": {"attempts": []},
    "two attempts": {"attempts": [attempt(1, outcome="upstream_failed", status=None), attempt(2, usage=USAGE)]},
    "an attempt with a long detail": {"attempts": [attempt(detail="x" * 600, upstream_request_id="ü" * 300)]},
    "an attempt of many tokens": {"attempts": [attempt(usage=Usage(1, 2, 3, 4, 5, 6, 7, 1 << 80), bytes_out=1 << 80)]},
}


@pytest.mark.parametrize("changes", VARIED.values(), ids=VARIED)
def test_a_row_is_the_same_whatever_was_remembered_before_it(
    tmp_path: Path, house: World, changes: dict[str, Any]
) -> None:
    """Its plan as such and by a form; among alike ones and as the first of its kind."""
    plan = planned(house)
    told = []
    for number, before in enumerate(([], [asked(100, plan), asked(101, plan), asked(102, plan, **changes)])):
        path = tmp_path / f"{number}.db"
        alone = evolve(plan, told={})  # so that nobody knows that it comes again
        this = asked(1, plan if before else alone, **changes)
        if before:
            before[2].request_id = decision(102).request_id
        write(path, [*before, this])
        found = Decisions(path).one(text(this.request_id, CODE))
        assert found is not None
        told.append(found)
        assert examine(path, now_ms=NOON).problems == []
    assert told[0] == told[1]
    assert count(tmp_path / "1.db", "plan_forms") > 0


@settings(max_examples=fuzz.examples(60), deadline=None)
@given(
    st.integers(0, 200_000), st.integers(1, 4), st.sampled_from([None, "5m", "1h"]),
    st.none() | st.text("0123456789abcdef", min_size=32, max_size=32), st.none() | st.integers(1, 10_000),
    st.none() | st.text(max_size=5), st.booleans(),
)  # fmt: skip
def test_a_form_and_what_is_a_requests_own_are_the_whole_plan(  # type: ignore[no-untyped-def]
    house, tokens, answers, cache_write, conversation, max_tokens, industry, stream
) -> None:
    def one(size: int, answers: int) -> Plan:
        facts = facts_of({"model": "fast"}, tokens=size)
        shape = evolve(facts.shape, max_tokens=max_tokens, n=answers, cache_write=cache_write)
        facts = evolve(facts, shape=shape, conversation=conversation, industry=industry, stream=stream)
        return resolve(facts, house, lambda: 0.5, 0.0)

    one(1, 1)
    seen = one(7, 1)  # of the same form, and it is what the form is made of
    form_of(seen, seen.facts)
    form_of(seen, seen.facts)
    plan = one(tokens, answers)
    form = form_of(plan, plan.facts)
    assert form is not None
    own = orjson.loads(orjson.dumps(form.own(plan)))
    assert filled(orjson.loads(form.text), own) == shown(plan)


def test_a_plan_that_leads_for_its_warm_cache_says_so(house: World) -> None:
    plan = planned(house)
    warm = evolve(plan, pinned=plan.chain[0].candidate)
    for _ in range(2):
        form_of(plan, plan.facts)
    form = form_of(warm, warm.facts)
    assert form is not None
    assert filled(orjson.loads(form.text), form.own(warm)) == shown(warm)
    elsewhere = evolve(plan, pinned=plan.chain[1].candidate)
    assert form_of(elsewhere, elsewhere.facts) is None


def test_each_day_has_its_own_forms_and_they_go_with_its_rows(path: Path, house: World) -> None:
    plan = planned(house)
    write(path, [asked(i, plan, at_ms=NOON + i // 5 * DAY_MS) for i in range(15)])
    assert count(path, "plan_forms") == 3
    ledger = Ledger(path, retain_days=1, now=lambda: (NOON + 2 * DAY_MS) / 1000)
    ledger.start()
    while count(path, "plan_forms") > 2:
        assert ledger.flush(PATIENCE)
    assert ledger.stop(PATIENCE)
    assert {row["plan"]["intent"] for row in Decisions(path).page(Filter(), plans=True).rows} == {"alias"}


def test_a_form_that_is_lost_costs_its_rows_their_plan_and_is_told(path: Path, house: World) -> None:
    write(path, [asked(i, planned(house)) for i in range(5)])
    sql(path, "DELETE FROM plan_forms")
    page = Decisions(path).page(Filter(), plans=True).rows
    assert [row["plan"] for row in page[:2]] == [None, None]
    assert "the form of its plan is not there" in "\n".join(examine(path, now_ms=NOON).problems)


def test_what_is_remembered_is_bounded() -> None:
    rows = Rows()
    for i in range(MOST_ALIKE + 10):
        rows.row_of(decision(i, requested=f"model-{i}", attempts=[attempt(model=f"model-{i}")]), lambda d, exc: None)
    assert len(rows._alike) <= MOST_ALIKE
    assert len(rows._attempts) <= MOST_ALIKE


# -- briefs ------------------------------------------------------------------------------------------------------


@define(eq=False)
class Kind:
    """Of requests for one plan."""

    plan: Plan
    client: str | None = None
    rows: Any = None
    asked: int = 0  # times that a decision was wanted in full

    def decision(self, brief: Brief) -> Decision:
        self.asked += 1
        facts = evolve(self.plan.facts, tokens=brief.tokens, conversation=brief.conversation)
        plan = recalled(self.plan, facts, self.plan.chain[0].candidate if brief.warm else None)
        started = brief.started_ms
        tried = attempt(
            model="small", provider="near", native="small", started_ms=started,
            duration_ms=brief.duration_ms - started, ttfb_ms=brief.ttfb_ms - started, status=200, usage=brief.usage,
            upstream_request_id=brief.upstream_request_id, cost_nanos=brief.cost_nanos, bytes_out=brief.bytes_committed,
        )  # fmt: skip
        return asked(
            0, plan, request_id=brief.request_id, at_ms=brief.at_ms, attempts=[tried], usage=brief.usage,
            cost_nanos=brief.cost_nanos, charged_nanos=brief.charged_nanos, ttfb_ms=brief.ttfb_ms, queue_ms=0,
            duration_ms=brief.duration_ms, bytes_committed=brief.bytes_committed, client_request_id=self.client,
        )  # fmt: skip


def unreadable(_: Decision, exc: Exception) -> None:
    raise exc


def brief(kind: Kind, i: int, **changes: Any) -> Brief:
    made = Brief(kind, f"req_{i}", NOON + i, 10 + i, f"{i:032x}", False, USAGE, 7, 5, 3, 4, 100, f"up-{i}")
    return made._replace(**changes)


BRIEFS: dict[str, dict[str, Any]] = {
    "as the others": {},
    "a warm cache": {"warm": True},
    "no conversation": {"conversation": None},
    "the next day": {"at_ms": NOON + DAY_MS},
    "no id of the provider's": {"upstream_request_id": None},
    "a long id of the provider's": {"upstream_request_id": "u" * 300},
    "an id of the provider's that is not ASCII": {"upstream_request_id": "ü\ud800"},
    "no cost": {"cost_nanos": None, "charged_nanos": 0},
    "tokens written to a cache": {"usage": Usage(1, 2, 3, 4, 5, 6, 7, 8)},
    "tokens of which none is known": {"usage": Usage()},
    "more tokens than a column holds": {"usage": Usage(input=1 << 70, output=2)},
}


@pytest.mark.parametrize("started", [0, 2], ids=["asked at once", "asked later"])
@pytest.mark.parametrize("changes", BRIEFS.values(), ids=BRIEFS)
def test_a_brief_makes_the_row_that_its_decision_makes(house: World, changes: dict[str, Any], started: int) -> None:
    planned(house)
    kind, rows = Kind(planned(house)), Rows()
    for i in range(3):
        rows.row_of(brief(kind, i), unreadable)
        rows.row_of(brief(kind, i, started_ms=2), unreadable)
    wanted = kind.asked
    one = brief(kind, 9, **changes, started_ms=started)
    row = rows.row_of(one, unreadable)
    assert (kind.asked == wanted) is ("at_ms" not in changes)
    assert row == rows.row_of(kind.decision(one), unreadable)
    after = rows.row_of(brief(kind, 10), unreadable)
    assert after == rows.row_of(kind.decision(brief(kind, 10)), unreadable)


def test_briefs_of_a_kind_are_written_as_they_were(path: Path, house: World) -> None:
    planned(house)
    kind = Kind(planned(house))
    write(path, [brief(kind, i) for i in range(20)])
    assert kind.asked < 4
    for i in range(20):
        found = Decisions(path).one(f"req_{i}")
        assert found is not None
        told = kind.decision(brief(kind, i))
        assert isinstance(told.plan, Plan)
        assert (found["plan"], found["facts"]) == shown(told.plan)
        assert (found["cost_nanos"], found["attempts"][0]["upstream_request_id"]) == (7, f"up-{i}")


def test_an_attempt_that_says_no_more_than_its_decision_is_no_row_and_is_shown_like_any_other(
    path: Path, house: World
) -> None:
    planned(house)
    kind = Kind(planned(house))
    later = [brief(kind, i, started_ms=1) for i in (4, 5)]
    write(path, [brief(kind, 1), asked(2, kind.plan), brief(kind, 3, upstream_request_id=None), *later])
    assert count(path, "own_attempts") == 3
    columns = "decision, n, model, started_ms, duration_ms, upstream_request_id"
    assert sql(path, f"SELECT {columns} FROM attempts ORDER BY decision") == [
        (1, 1, "small", 0, 4, "up-1"), (2, 1, "m", 0, 0, "up"), (3, 1, "small", 0, 4, None),
        (4, 1, "small", 1, 3, "up-4"), (5, 1, "small", 1, 3, "up-5"),
    ]  # fmt: skip
    found = Decisions(path).one("req_1")
    assert found is not None
    (shown,) = found["attempts"]
    assert shown == {
        "n": 1, "model": "small", "provider": "near", "native": "small", "started_ms": 0, "duration_ms": 4,
        "ttfb_ms": 3, "outcome": "ok", "status": 200, "detail": "", "upstream_request_id": "up-1",
        "usage": found["usage"], "cost_nanos": 7, "bytes_out": 100, "byok": False,
    }  # fmt: skip
    assert examine(path, now_ms=NOON).problems == []


def test_plans_that_an_older_version_wrote_down_are_shown_whole(house: World) -> None:
    plan = planned(house, conversation="1f" * 16)
    for _ in range(2):
        form_of(plan, plan.facts)
    form = form_of(plan, plan.facts)
    assert form is not None
    costs = [round(candidate["cost_max_usd"] * 1e9) for candidate in plan.as_json()["candidates"]]
    assert filled(orjson.loads(form.text), [10, costs, 1, None, "1f1f", False]) == shown(plan)


def test_a_kind_with_more_to_say_is_told_in_full(house: World) -> None:
    planned(house)
    kind, rows = Kind(planned(house), client="theirs"), Rows()
    for i in range(4):
        assert rows.row_of(brief(kind, i), unreadable) == rows.row_of(kind.decision(brief(kind, i)), unreadable)
    assert kind.rows is None
