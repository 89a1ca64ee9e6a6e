from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from proxy.ir import Usage
from proxy.server.ledger import Attempt, Decision
from proxy.server.ledger.building import SOLE
from proxy.server.ledger.query import Decisions
from proxy.server.ledger.rows import ATTEMPT, DECISION, FACTS_BYTES, PLAN_BYTES, plan_text
from proxy.server.ledger.schema import open_writer

from .samples import NOON, Plan, attempt, count, decision, full_decision, sql, write


def one(path: Path, written: Decision) -> dict[str, Any]:
    write(path, [written])
    found = Decisions(path).one(written.request_id)
    assert found is not None
    return found


def test_every_field_comes_back_as_it_was_recorded(path: Path) -> None:
    written = full_decision()
    plan = written.plan
    assert isinstance(plan, Plan)
    expected = attrs.asdict(written) | {
        "plan": plan.tree,
        "dropped": list(written.dropped),
        "attempt_count": len(written.attempts),
        **{name: plan.tree[name] for name in ("intent", "rule", "profile")},
        "class": "code",
    }
    assert one(path, written) == expected


def test_a_plan_without_a_choice_has_none_to_be_found_by(path: Path) -> None:
    trees: list[dict[str, Any]] = [{}, {"class": None, "rule": 7}, {"class": "code"}]
    for number, tree in enumerate(trees):
        found = one(path, decision(number, plan=Plan(tree)))
        assert [found[name] for name in ("intent", "class", "rule", "profile")] == [None] * 4


def test_what_is_unknown_comes_back_as_null_and_not_as_zero(path: Path) -> None:
    found = one(path, decision(attempts=[attempt()]))
    unknown = {name for name, value in found.items() if value is None}
    assert unknown >= {"cost_nanos", "usage", "plan", "facts", "model", "ttfb_ms", "queue_ms", "gone_phase"}
    assert found["attempts"][0]["cost_nanos"] is None
    assert found["charged_nanos"] == 0


def test_a_partly_known_usage_keeps_what_is_known(path: Path) -> None:
    found = one(path, decision(usage=Usage(input=3)))
    assert found["usage"]["input"] == 3
    assert found["usage"]["output"] is None


@pytest.mark.parametrize(("table", "names"), [("decisions", DECISION), ("attempts", ATTEMPT)])
def test_the_columns_are_those_of_the_table(path: Path, table: str, names: tuple[str, ...]) -> None:
    open_writer(path).close()
    columns = {name for _, name, *_ in sql(path, f"PRAGMA table_info({table})")}
    assert columns - {"id", "decision", "form", "own", "booked", "sole"} - (
        set(SOLE) if table == "decisions" else set()
    ) == set(names)


HOSTILE = {
    "a quote and a statement": "'; DROP TABLE decisions; --",
    "double quotes": '"); DELETE FROM attempts; --',
    "patterns": "%_*?[a-z]",
    "NUL": "a\0b",
    "line ends": "a\r\nb\u2028c",
    "escape sequences": "\x1b[2J\x07",
    "emoji and combining": "e\u0301\U0001f9e8",
    "right to left": "\u202egpj.exe",
    "placeholders": "? :name ?1 @x $y",
    "backslashes": "\\' \\x00 \\",
}


def strings(record: type[attrs.AttrsInstance]) -> set[str]:
    """The names of the fields that hold text, by their annotations (which are not evaluated)."""
    return {each.name for each in attrs.fields(record) if str(each.type) in ("str", "str | None")}


STRINGS = strings(Decision) - {"request_id"}
ATTEMPT_STRINGS = strings(Attempt)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_text_stands_in_any_column_as_it_is(path: Path, text: str) -> None:
    names: dict[str, Any] = dict.fromkeys(STRINGS, text)
    texts: dict[str, Any] = dict.fromkeys(ATTEMPT_STRINGS, text)
    written = decision(
        **names,
        request_id=text,
        dropped=(text,),
        facts={text: text},
        plan=Plan({"requested": text}),
        attempts=[attempt(**texts)],
    )
    found = one(path, written)
    assert {name: found[name] for name in names} == names
    assert found["dropped"] == [text]
    assert found["facts"] == {text: text}
    assert found["plan"] == {"requested": text}
    assert found["attempts"][0].items() >= texts.items()
    assert count(path) == count(path, "attempts") == 1


def test_the_strings_are_all_tried() -> None:
    assert {"requested", "client_request_id", "project", "key_id", "outcome", "native"} < STRINGS
    assert {"detail", "upstream_request_id"} < ATTEMPT_STRINGS


def test_lone_surrogates_become_question_marks(path: Path) -> None:
    text = "a\ud800b"
    found = one(path, decision(requested=text, facts={"x": text}, dropped=(text,), plan=Plan({"requested": text})))
    assert found["requested"] == found["facts"]["x"] == found["plan"]["requested"] == "a?b"
    assert found["dropped"] == ["a?b"]


def test_long_text_is_cut(path: Path) -> None:
    long = "x" * 10_000
    found = one(path, decision(requested=long, attempts=[attempt(detail=long)], dropped=(long,) * 1000))
    assert len(found["requested"]) == 256
    assert len(found["attempts"][0]["detail"]) == 500
    assert len(found["dropped"]) == 64


def test_integers_beyond_a_column_are_held_at_its_end(path: Path) -> None:
    found = one(path, decision(usage=Usage(input=10**30, output=-(10**30)), charged_nanos=2**80))
    assert found["usage"]["input"] == found["charged_nanos"] == 2**63 - 1
    assert found["usage"]["output"] == -(2**63)


def test_large_facts_are_left_out_and_say_so(path: Path) -> None:
    assert one(path, decision(facts={"x": "y" * FACTS_BYTES}))["facts"] == {"cut": True}


def test_sets_and_mappings_of_a_plan_become_json() -> None:
    raw = plan_text(Plan({"needs": frozenset({"tools", "json"}), "big": 1 << 70}))
    assert raw is not None
    assert orjson.loads(raw)["needs"] == ["json", "tools"]


def test_a_large_plan_loses_the_ends_of_its_lists_and_says_how_long_they_were() -> None:
    entry = {"model": "m" * 200}
    raw = plan_text(Plan({"reason": "because", "candidates": [entry] * 16, "dropped": [entry] * 2000}))
    assert raw is not None
    assert len(raw) <= PLAN_BYTES
    plan = orjson.loads(raw)
    assert plan["reason"] == "because"
    assert plan["candidates"] == [entry] * 16
    assert 0 < len(plan["dropped"]) < 2000
    assert plan["cut"] == {"candidates": 16, "dropped": 2000}


def test_a_plan_that_no_cutting_makes_small_keeps_its_reason() -> None:
    raw = plan_text(Plan({"reason": "because", "class": "c" * PLAN_BYTES, "candidates": [1]}))
    assert raw is not None
    assert orjson.loads(raw) == {"reason": "because", "cut": {"candidates": 1, "dropped": 0}}


def test_the_time_is_kept_to_the_millisecond(path: Path) -> None:
    assert one(path, decision(at_ms=NOON + 123))["at_ms"] == NOON + 123
