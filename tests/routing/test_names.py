"""What a name stands for, and which names are near."""

from __future__ import annotations

import pytest
from each import each
from scenes import HOUSE, planned, shipped, table_of, world_of

from proxy import errors
from proxy.routing.names import find_pattern, nearest, split_native
from proxy.routing.table import Provider

PROVIDERS = [
    Provider("wide", ("openai-chat",), models=("claude-*", "gpt-*", "same-*")),
    Provider("narrow", ("openai-chat",), models=("claude-haiku-*", "o3", "same-*")),
    Provider("all", ("openai-chat",), models=("*",)),
]


@each(
    ("name", "provider", "pattern"),
    [
        ("claude-opus", "wide", "claude-*"),
        ("claude-haiku-4", "narrow", "claude-haiku-*"),
        ("o3", "narrow", "o3"),
        ("o3-mini", "all", "*"),
        ("same-1", "wide", "same-*"),
        ("CLAUDE-opus", "all", "*"),
        ("gpt-", "wide", "gpt-*"),
    ],
)
def test_the_longest_pattern_wins_and_of_equal_ones_the_first(name: str, provider: str, pattern: str) -> None:
    found = find_pattern(name, PROVIDERS)
    assert found is not None
    assert (found[0].name, found[1]) == (provider, pattern)


def test_no_pattern_is_nobody() -> None:
    assert find_pattern("gpt-4o", []) is None
    assert find_pattern("x", PROVIDERS[:2]) is None


@each("name", ["wide", "wide/", "/x", "nobody/x", "/"])
def test_what_names_no_provider_is_no_native_name(name: str) -> None:
    assert split_native(name, {provider.name: provider for provider in PROVIDERS}) is None


def test_a_native_name_may_have_slashes_of_its_own() -> None:
    found = split_native("wide/@cf/meta/llama", {provider.name: provider for provider in PROVIDERS})
    assert found == (PROVIDERS[0], "@cf/meta/llama")


TEXT = (
    HOUSE
    + """
[aliases]
q-alias = "a"
a2 = ["a", "b"]
[profiles.a2]
candidates = ["c"]
[profiles.team]
candidates = ["c"]
"""
)


@each(
    ("name", "provider", "native", "intent"),
    [
        ("a", "p", "a", "model"),
        ("q-alias", "p", "a", "alias"),  # before the pattern q-*
        ("a2", "p", "a", "alias"),  # before the profile of that name
        ("team", "p", "c", "profile"),
        ("profile:team", "p", "c", "profile"),
        ("q-anything", "q", "q-anything", "pattern"),
        ("p/some/model", "p", "some/model", "native"),
        ("local/qwen2.5-coder:7b", "local", "qwen2.5-coder:7b", "native"),
        ("p/a", "p", "a", "native"),
    ],
)
def test_the_first_that_a_name_can_mean_it_means(name: str, provider: str, native: str, intent: str) -> None:
    plan = planned(world_of(TEXT), name)
    head = plan.chain[0].candidate
    assert (head.provider, head.native, plan.intent) == (provider, native, intent)


NEAR = {
    "gpt4o": "gpt-4o",
    "GPT-4O": "gpt-4o",
    "claude-opus-4.8": "claude-opus-4-8",
    "meta/llama3.3-70b": "meta/llama-3.3-70b",
    "industry:law": "industry:legal",
    "strategy:cheap": "strategy:cost",
    "meta-lm": "meta-llm",
    "profile:generall": "profile:general",
}


@pytest.mark.parametrize(("name", "meant"), NEAR.items())
def test_the_nearest_names_are_three(name: str, meant: str) -> None:
    world = shipped({})
    found = nearest(name, world.table, world.models.listed)
    assert meant in found
    assert len(set(found)) == 3


@pytest.mark.parametrize("kind", ["industry", "strategy", "profile"])
def test_what_is_near_a_tag_is_a_tag(kind: str) -> None:
    world = shipped({})
    assert all(found.startswith(f"{kind}:") for found in nearest(f"{kind}:xyz", world.table, world.models.listed))


def test_where_there_are_fewer_of_a_kind_others_fill_up() -> None:
    world = world_of(TEXT)
    first, *others = nearest("profile:teem", world.table, world.models.listed)
    assert first == "profile:team"
    assert len(others) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt4o", "no model, alias, profile or pattern has this name. Nearest: gpt-4o"),
        ("industry:law", "no such tag; the tags are code, creative"),
        ("strategy:cheap", "no such strategy; they are cost, quality, latency, local"),
        ("profile:generall", "no such profile; they are batch, code"),
        ("nobody/native", "no model, alias, profile or pattern has this name"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_an_unknown_name_is_a_404_that_helps(name: str, said: str) -> None:
    refusal = planned(shipped({}), name).refusal
    assert isinstance(refusal, errors.UnknownModel)
    assert refusal.param == "model"
    assert said in refusal.message


def test_a_name_of_any_length_is_compared_within_a_bound() -> None:
    assert len(nearest("x" * 10_000, table_of(HOUSE), ["a"])) == 3


def test_of_thousands_of_names_the_likeliest_are_compared() -> None:
    many = [f"maker/model-{n}" for n in range(20_000)]
    assert nearest("gpt-4o-mimi", table_of(HOUSE), [*many, "gpt-4o-mini"])[0] == "gpt-4o-mini"


KEYS = {
    "OpenAI's": "sk-proj-Ab3dEf6hIj9kLm2nOp5qRs8t",
    "an old one of OpenAI's": "sk-0123456789abcdefghij",
    "Anthropic's": "sk-ant-api03-Ab3dEf6h_Ij9kLm2n-Op5qRs8t",
    "OpenRouter's": "sk-or-v1-0123456789abcdef0123456789abcdef",
    "Groq's": "gsk_Ab3dEf6hIj9kLm2nOp5qRs8t",
    "xAI's": "xai-Ab3dEf6hIj9kLm2nOp5qRs8tUv1w",
    "Google's": "AIzaSyAb3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z0",
}


@each("key", KEYS.values(), ids=KEYS)
@each("entry", ["{0}", "q/{0}", "profile:{0}", "any-{0}", "{0}:floor"])
def test_a_providers_key_in_the_place_of_a_name_goes_nowhere_and_is_repeated_to_nobody(entry: str, key: str) -> None:
    """Not even where a pattern takes every name."""
    plan = planned(world_of(HOUSE.replace('"q-*"', '"*"')), entry.format(key))
    assert isinstance(plan.refusal, errors.UnknownModel)
    assert (plan.chain, plan.refusal.code) == ((), "model_not_found")
    assert key not in str((plan.as_json(), plan.facts.as_json(), plan.requested, plan.refusal.message))
    beside = planned(world_of(HOUSE), "a", entry.format(key))
    assert [pick.candidate.model for pick in beside.chain] == ["a"]
    assert key not in str((beside.as_json(), beside.facts.as_json()))


@each("name", ["xai-grok-4-fast-reasoning", "task-forty-two-of-many", "sk-7b", "hf_small-model-of-ours"])
def test_a_name_that_only_begins_like_a_key_is_a_name(name: str) -> None:
    assert planned(world_of(HOUSE), f"q/{name}").chain[0].candidate.native == name


def test_what_the_table_names_is_a_name_whatever_it_looks_like() -> None:
    plan = planned(world_of(HOUSE + '[models.sk-0123456789abcdef]\nprovider = "p"'), "sk-0123456789abcdef")
    assert (plan.requested, len(plan.chain)) == ("sk-0123456789abcdef", 1)
