"""A plan that is remembered is the plan that would have been made."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scenes import HOUSE, asks, candidate, chain, cool, planned, world_of

from proxy.routing.facts import Ceiling, Facts, Preferences
from proxy.routing.plan import resolve
from proxy.routing.world import World

TABLE = (
    HOUSE
    + """
[aliases]
both = ["a", "b", "c"]
most = ["a", "keyless", "b"]
[industries.law]
models = ["b", "a"]
[profiles.team]
candidates = [{ model = "a", weight = 1 }, { model = "b", weight = 1 }]
"""
)
NAMES = [
    "a",
    "b",
    "both",
    "most",
    "q-new",
    "p/own",
    "industry:law",
    "profile:team",
    "strategy:cost",
    "auto",
    "a;sort:price",
]
EVERY = given(
    asked=st.lists(
        st.fixed_dictionaries(
            {
                "wanted": st.lists(st.sampled_from(NAMES), min_size=1, max_size=2),
                "tokens": st.sampled_from([10, 7_999, 8_001, 150_000]),
                "needs": st.sampled_from([(), ("tools",), ("vision",)]),
                "max_tokens": st.sampled_from([None, 500, 1_500]),
                "conversation": st.sampled_from([None, "ab" * 16]),
                "continues": st.booleans(),
                "sort": st.sampled_from([None, None, "price"]),
                "byok": st.sampled_from([frozenset(), frozenset({"bare"})]),
                "preferences": st.sampled_from([Preferences(), Preferences(only=("q",))]),
            }
        ),
        max_size=12,
    )
)


def fresh(world: World) -> World:
    """The same world without its memory."""
    return World(world.table, world.models, world.health, world.latencies, world.affinity)


def facts_of(asked: dict[str, Any]) -> Facts:
    return asks(*asked.pop("wanted"), turns=("Hi there",), **asked)


@EVERY
def test_remembering_changes_no_plan(asked: list[dict[str, Any]]) -> None:
    world = world_of(TABLE)
    world.affinity.pin("ab" * 16, candidate(world, "b"), 0.0)
    for number, facts in enumerate(map(facts_of, asked)):
        plan, expected = (resolve(facts, it, Random(number).random, 1.0) for it in (world, fresh(world)))
        assert repr(plan) == repr(expected)  # a refusal is no value


def test_a_name_asked_for_twice_is_resolved_once() -> None:
    world = world_of(TABLE)
    one, two = planned(world, "both", tokens=10), planned(world, "both", tokens=20)
    assert one.chain is two.chain
    assert (one.facts.tokens, two.facts.tokens) == (10, 20)


def test_a_text_that_is_too_long_for_a_window_is_judged_anew() -> None:
    world = world_of(TABLE)
    assert chain(planned(world, "both")) == ["a", "b", "c"]
    assert chain(planned(world, "both", tokens=9_000)) == ["a", "b"]
    assert chain(planned(world, "both", tokens=7_500, max_tokens=800)) == ["a", "b"]
    assert chain(planned(world, "both", max_tokens=2_000)) == ["b", "c"]


def test_while_somebody_rests_nothing_is_remembered() -> None:
    world = world_of(TABLE)
    assert chain(planned(world, "both")) == ["a", "b", "c"]
    cool(world, [candidate(world, "a")])
    assert chain(planned(world, "both")) == ["b", "c", "a"]


def test_a_ceiling_is_never_passed_over() -> None:
    world = world_of(TABLE)
    assert not planned(world, "both").refusal
    assert planned(world, "both", ceiling=Ceiling(total=Decimal(0))).refusal


def test_what_is_remembered_is_bounded() -> None:
    world = world_of(TABLE)
    for number in range(2_000):
        planned(world, f"q-{number}")
    assert len(world.memo._kept) <= 512
