"""Conditions on facts that redirect a request."""

from __future__ import annotations

from typing import Any

import pytest
from each import each
from scenes import HOUSE, PROMPTS, chain, planned, problems, world_of

from proxy.errors import InvalidRequest
from proxy.routing.world import World

LISTS = """
[aliases]
any = "auto"
[auto]
chat = ["a"]
code = ["a"]
[profiles.team]
candidates = ["a"]
[industries.law]
models = ["a"]
[projects]
x = {}
y = {}
z = {}
"""


def ruled(condition: str, *, use: str = '["b"]') -> World:
    return world_of(f'{HOUSE}{LISTS}[[rules]]\nname = "the rule"\nuse = {use}\n{condition}\n')


# condition -> requests that meet it, requests that do not
CONDITIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "enough tokens": ("tokens = { min = 1000 }", {"tokens": 1000}, {"tokens": 999}),
    "few tokens": ("tokens = { max = 1000 }", {"tokens": 1000}, {"tokens": 1001}),
    "a range": ("tokens = { min = 5, max = 10 }", {"tokens": 7}, {"tokens": 11}),
    "a keyword": ('keywords = ["SELECT", "table"]', {"turns": ("old", "a Table of")}, {"turns": ("table", "chair")}),
    "a tag beside the model": ('industries = ["law"]', {"industry": "law"}, {"industry": "art"}),
    "a need": ('needs = ["tools"]', {"needs": {"tools", "json"}}, {"needs": {"json"}}),
    "all needs": ('needs = ["tools", "json"]', {"needs": {"tools", "json"}}, {"needs": {"tools"}}),
    "a project": ('projects = ["x", "y"]', {"project": "y"}, {"project": "z"}),
    "an endpoint": ('endpoints = ["chat"]', {}, {"endpoint": "embeddings"}),
    "a header": ('headers = { X-Team = "b*" }', {"headers": {"x-team": "blue"}}, {"headers": {"x-team": "red"}}),
    "any header": ('headers = { X-Team = "*" }', {"headers": {"x-team": ""}}, {"headers": {}}),
    "its cost": ("cost = { min = 0.001 }", {"tokens": 1000, "max_tokens": 10}, {"tokens": 1, "max_tokens": 10}),
    "a class": ('classes = ["code", "reasoning"]', {"turns": (PROMPTS["code"],)}, {"turns": (PROMPTS["chat"],)}),
    "a class by its other name": ('classes = ["coding"]', {"turns": (PROMPTS["code"],)}, {"turns": ()}),
    "both": (
        'needs = ["tools"]\ntokens = { min = 5 }',
        {"needs": {"tools"}, "tokens": 5},
        {"needs": {"tools"}, "tokens": 4},
    ),
}


@each(("condition", "met", "missed"), CONDITIONS.values(), ids=CONDITIONS)
def test_a_condition(condition: str, met: dict[str, Any], missed: dict[str, Any]) -> None:
    world = ruled(condition)
    yes, no = planned(world, "auto", **met), planned(world, "auto", **missed)
    assert (yes.rule, chain(yes)) == ("the rule", ["b"])
    assert yes.reason.startswith("rule the rule; ")
    assert no.rule is None


def test_without_conditions_a_rule_takes_all_that_leave_the_choice() -> None:
    world = ruled("")
    for name in ("auto", "industry:law", "strategy:cost", "profile:team", "team", "team;sort:price", "auto:floor"):
        assert planned(world, name).rule == "the rule"


@each("name", ["a", "c;sort:price", "any", "q-x", "p/x", "nobody"])
def test_who_names_a_model_gets_that_model(name: str) -> None:
    assert planned(ruled(""), name).rule is None


def test_a_tag_that_was_asked_for_counts_as_one_beside_the_model() -> None:
    assert planned(ruled('industries = ["law"]'), "industry:law").rule == "the rule"


def test_with_models_a_rule_looks_at_those_names_alone() -> None:
    world = ruled('models = ["a", "q-*"]')
    assert planned(world, "a").rule == planned(world, "q-9").rule == planned(world, "c", "a").rule == "the rule"
    assert planned(world, "c").rule is planned(world, "auto").rule is None
    assert planned(ruled('models = ["*"]'), "a").rule == "the rule"


BOUND = """
[industries.law]
models = ["strategy:local;sort:quality"]
[profiles.team]
candidates = ["a"]
[profiles.inside]
candidates = ["strategy:local"]
[profiles.mixed]
candidates = ["strategy:local", "a"]
"""


def house_rule(models: str) -> World:
    return world_of(f'{HOUSE}{BOUND}[[rules]]\nname = "r"\n{models}\nuse = ["b"]\n')


@each("name", ["strategy:local", "strategy:local;sort:price", "inside", "profile:inside", "industry:law"])
@each("models", ["", 'models = ["*"]', 'models = ["strategy:*", "i*", "profile:*"]'])
def test_what_is_bound_to_own_machines_is_led_elsewhere_by_no_general_rule(name: str, models: str) -> None:
    plan = planned(house_rule(models), name)
    assert plan.rule is None
    assert chain(plan) == ["home"]
    assert planned(house_rule(models), "strategy:cost").rule == "r"


def test_a_rule_that_names_it_leads_it_elsewhere_all_the_same() -> None:
    assert chain(planned(house_rule('models = ["strategy:local"]'), "strategy:local")) == ["b"]


@pytest.mark.parametrize("name", ["mixed", "profile:team", "strategy:cost"])
def test_what_may_leave_the_house_is_no_exception(name: str) -> None:
    assert planned(house_rule(""), name, turns=("Hi",)).rule == "r"
    assert planned(house_rule(""), "strategy:local", "a").rule == "r"


def test_a_class_that_a_rule_asked_for_is_in_the_plan() -> None:
    world = ruled('classes = ["code"]')
    plan = planned(world, "auto", turns=(PROMPTS["chat"],))
    assert plan.klass is not None
    assert (plan.rule, plan.klass.label) == (None, "chat")
    assert planned(world, "a", turns=(PROMPTS["code"],)).klass is None  # no rule is for it, so nobody asked


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ('needs = ["reasoning"]', "; a class of the prompt belongs into classes"),
        ('needs = ["magic"]', "unknown 'magic'; known are audio"),
        ('classes = ["prose"]', "unknown 'prose'; known are code, reasoning"),
    ],
)
def test_a_condition_that_could_never_hold_is_refused_with_the_table(condition: str, said: str) -> None:
    (problem,) = problems(f'{HOUSE}{LISTS}[[rules]]\nname = "r"\nuse = ["a"]\n{condition}\n')
    assert said in problem.message


def test_the_first_match_wins() -> None:
    text = f"{HOUSE}{LISTS}" + "".join(
        f'[[rules]]\nname = "{name}"\nuse = ["{use}"]\ntokens = {{ min = {least} }}\n'
        for name, use, least in (("large", "b", 1000), ("middle", "c", 100), ("all", "a", 0))
    )
    world = world_of(text)
    for tokens, name, use in ((5000, "large", "b"), (1000, "large", "b"), (500, "middle", "c"), (5, "all", "a")):
        plan = planned(world, "auto", tokens=tokens)
        assert (plan.rule, chain(plan)) == (name, [use])


def test_a_rule_s_entries_are_resolved_like_any_others() -> None:
    world = ruled("", use='["strategy:local", "team;sort:price"]')
    assert chain(planned(world, "auto")) == ["home", "a"]
    assert planned(world, "auto").intent == "strategy"


def test_a_rule_replaces_every_entry_of_a_request() -> None:
    assert chain(planned(ruled(""), "auto", "c")) == ["b"]


@pytest.mark.parametrize("name", ["a;sort:price", "a:floor", " a ", "a,max_price:9"])
def test_no_suffix_and_no_space_keeps_an_entry_from_a_rule(name: str) -> None:
    assert planned(ruled('models = ["a"]'), name).rule == "the rule"
    assert planned(ruled('models = ["industry:*"]'), " industry:law;sort:price").rule == "the rule"
    for tag in ("industry:law;sort:price", " industry:law", "industry:law:floor"):
        assert planned(ruled('industries = ["law"]'), tag).rule == "the rule"


@pytest.mark.parametrize("use", ["named", "b;sort:price", "named:floor"])
def test_the_cost_of_a_rule_is_known_behind_an_alias_or_a_suffix(use: str) -> None:
    lists = LISTS.replace('any = "auto"', 'any = "auto"\nnamed = "b"')
    world = world_of(f'{HOUSE}{lists}[[rules]]\nname = "r"\nuse = ["{use}"]\ncost = {{ min = 0.001 }}\n')
    assert planned(world, "auto", tokens=1_000).rule == "r"
    assert planned(world, "auto", tokens=1, max_tokens=1).rule is None


@each("use", ["strategy:cost", "auto", "profile:team", "team", "industry:law"])
def test_a_cost_without_a_model_to_take_it_from_is_refused_with_the_table(use: str) -> None:
    text = f'{HOUSE}{LISTS}[[rules]]\nname = "r"\nuse = ["{use}"]\ncost = {{ min = 1 }}\n'
    (problem,) = problems(text)
    assert problem.path == "rules[0].cost"


def test_an_unpriced_rule_has_no_cost_to_go_by() -> None:
    world = ruled("cost = { min = 0 }", use='["q-x", "strategy:cost"]')
    assert planned(world, "auto").rule is None


def test_a_keyword_is_looked_for_in_the_beginning_of_the_last_turn() -> None:
    world = ruled('keywords = ["needle"]')
    assert planned(world, "auto", turns=("x" * 19_000 + "NEEDLE",)).rule == "the rule"
    assert planned(world, "auto", turns=("x" * 20_000 + "NEEDLE",)).rule is None
    assert planned(world, "auto", turns=()).rule is None


def test_a_bad_suffix_is_refused_before_any_rule_matches() -> None:
    with pytest.raises(InvalidRequest):
        planned(ruled(""), "auto;sort:best")


def test_a_plan_without_a_rule_has_none() -> None:
    plan = planned(world_of(HOUSE + LISTS), "auto", turns=("hi",))
    assert plan.rule is None
    assert plan.as_json()["rule"] is None
