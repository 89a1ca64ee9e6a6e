"""The shipped routes.toml: every documented name resolves, and without a key it says which variable to set."""

from __future__ import annotations

import pytest
from each import each
from scenes import (
    ANTHROPIC,
    EVERY,
    OLLAMA,
    OPENAI,
    PROJECT,
    PROMPTS,
    WORKERS_AI,
    candidate,
    chain,
    cool,
    fates,
    planned,
    shipped,
    world_of,
)

from proxy import errors
from proxy.routing import directive
from proxy.routing.table import LABELS

CONCRETE = {
    "meta/llama-3.3-70b": "workers-ai",
    "meta/llama-3.1-8b": "workers-ai",
    "meta/llama-3.2-3b": "workers-ai",
    "meta/llama-4-scout-17b": "workers-ai",
    "qwen/coder-32b": "workers-ai",
    "qwen/qwq-32b": "workers-ai",
    "deepseek/r1-32b": "workers-ai",
    "mistral/7b": "workers-ai",
    "mistral/small-24b": "workers-ai",
    "moonshot/kimi-k2": "workers-ai",
    "moonshot/kimi-k2-code": "workers-ai",
    "google/gemma-4-27b": "workers-ai",
    "gpt-4o": "openai",
    "gpt-4o-mini": "openai",
    "o3": "openai",
    "o4-mini": "openai",
    "claude-opus-4-8": "anthropic",
    "claude-sonnet-4-6": "anthropic",
    "claude-haiku-4-5": "anthropic",
    "claude-3-5-sonnet": "anthropic",
    "claude-3-5-haiku": "anthropic",
    "qwen2.5-coder": "ollama",
    "llama3.1": "ollama",
}
TAGS = (
    *("legal", "healthcare", "finance", "code", "creative"),
    *("support", "sales", "data", "education", "general"),
)
STRATEGIES = ("cost", "quality", "latency", "local")
NAMES = ["meta-llm", "auto", *(f"industry:{tag}" for tag in TAGS), *(f"strategy:{name}" for name in STRATEGIES)]
VARIABLE = {
    "openai": "OPENAI_API_KEY is not set",
    "anthropic": "ANTHROPIC_API_KEY is not set",
    "workers-ai": "CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN are not set",
    "ollama": "OLLAMA_BASE_URL is not set",
}
OWN = ["qwen2.5-coder", "llama3.1"]  # the better one first
WORLD = shipped(EVERY)
BARE = shipped({})


@each(("name", "provider"), CONCRETE.items())
def test_a_documented_id_is_one_candidate_at_its_provider(name: str, provider: str) -> None:
    (pick,) = planned(WORLD, name).chain
    assert (pick.candidate.model, pick.candidate.provider) == (name, provider)


@each(("name", "provider"), CONCRETE.items())
def test_without_its_key_an_id_is_refused_and_names_the_variable(name: str, provider: str) -> None:
    plan = planned(BARE, name)
    assert isinstance(plan.refusal, errors.NotConfigured)
    assert VARIABLE[provider] in plan.refusal.message
    assert plan.chain == ()


@each("name", NAMES)
def test_a_documented_name_resolves(name: str) -> None:
    plan = planned(WORLD, name, turns=(PROMPTS["chat"],))
    assert plan.refusal is None
    assert plan.chain
    assert {pick.candidate.provider for pick in plan.chain} <= {"openai", "anthropic", "workers-ai", "ollama"}


def test_a_documented_alias_stands_for_one_model() -> None:
    assert chain(planned(WORLD, "meta-llm")) == ["meta/llama-3.1-8b"]
    plan = planned(BARE, "meta-llm")
    assert isinstance(plan.refusal, errors.NotConfigured)
    assert VARIABLE["workers-ai"] in plan.refusal.message


@each("name", [name for name in NAMES if name != "meta-llm"])
def test_on_a_first_run_a_name_that_leaves_the_choice_is_served_by_the_embedded_provider(name: str) -> None:
    plan = planned(BARE, name, turns=(PROMPTS["chat"],))
    assert chain(plan) == ["embedded/echo"]
    assert "no provider is configured" in plan.reason


@pytest.mark.parametrize("name", [name for name in NAMES if name != "meta-llm"])
def test_where_the_embedded_provider_is_off_a_name_without_a_key_is_refused(name: str) -> None:
    text = (PROJECT / "routes.toml").read_text().replace("enabled = true", "enabled = false")
    plan = planned(world_of(text, {}), name, turns=(PROMPTS["chat"],))
    assert isinstance(plan.refusal, errors.NotConfigured)
    assert " not set" in plan.refusal.message


@pytest.mark.parametrize("keys", [OPENAI, ANTHROPIC, WORKERS_AI, OLLAMA], ids=lambda keys: next(iter(keys)))
def test_the_embedded_provider_never_joins_where_another_is_configured(keys: dict[str, str]) -> None:
    world = shipped(keys)
    for name in NAMES:
        assert "embedded/echo" not in chain(planned(world, name, turns=(PROMPTS["chat"],)))


def test_the_embedded_provider_can_always_be_asked_for_by_name() -> None:
    assert chain(planned(WORLD, "embedded/echo")) == chain(planned(BARE, "embedded/echo")) == ["embedded/echo"]


@pytest.mark.parametrize("tag", TAGS)
def test_an_industry_falls_through_its_list_in_order(tag: str) -> None:
    *listed, last = WORLD.table.industries[tag].models
    assert last == "strategy:local;sort:quality"
    assert chain(planned(WORLD, f"industry:{tag}")) == [*listed, *OWN]
    world = shipped(WORKERS_AI)
    plan = planned(world, f"industry:{tag}")
    assert chain(plan) == [id for id in listed if CONCRETE[id] == "workers-ai"]
    assert plan.first == candidate(world, listed[0])
    assert plan.chain, "one Cloudflare token is enough for every tag"


@pytest.mark.parametrize(
    "name", [f"industry:{tag}" for tag in TAGS] + [f"profile:{name}" for name in WORLD.table.profiles]
)
def test_ones_own_machines_alone_are_enough_for_every_tag_and_profile(name: str) -> None:
    plan = planned(shipped(OLLAMA), name)
    assert set(chain(plan)) == set(OWN)
    if name != "profile:interactive":  # by latency, which nobody has observed
        assert chain(plan) == OWN


@pytest.mark.parametrize("label", LABELS)
def test_every_class_has_a_list_and_serves_with_one_cloudflare_token(label: str) -> None:
    plan = planned(shipped(WORKERS_AI), "auto", turns=(PROMPTS[label],), tokens=2_000)
    assert plan.klass is not None
    assert plan.klass.label == label
    assert plan.chain[0].candidate.provider == "workers-ai"


def test_a_chain_of_mixed_forms_has_its_entries_in_order() -> None:
    plan = planned(WORLD, "gpt-4o", "claude-3-5-sonnet", "strategy:cost")
    assert chain(plan)[:2] == ["gpt-4o", "claude-3-5-sonnet"]
    assert len(plan.chain) == 16
    assert plan.first == candidate(WORLD, "gpt-4o")


def test_auto_has_a_name_that_claude_code_lists() -> None:
    plans = [planned(WORLD, name, turns=(PROMPTS["code"],)) for name in ("claude-auto", "auto")]
    assert plans[0].klass == plans[1].klass
    assert chain(plans[0]) == chain(plans[1])


def test_strategy_cost_is_ordered_by_price_and_strategy_quality_by_reasoning() -> None:
    costs = [pick.info.price for pick in planned(WORLD, "strategy:cost").chain]
    rates = [price.input or 0 for price in costs if price is not None]
    assert len(rates) == len(costs)
    assert rates[:2] == [0, 0]  # one's own machines cost nothing by the token
    ranks = [pick.info.reasoning or 0 for pick in planned(WORLD, "strategy:quality").chain]
    assert ranks == sorted(ranks, reverse=True)
    assert chain(planned(WORLD, "strategy:quality"))[0] == "claude-opus-4-8"


def test_strategy_local_holds_the_local_models_alone() -> None:
    assert set(chain(planned(WORLD, "strategy:local"))) == {"qwen2.5-coder", "llama3.1"}


def test_ids_of_one_upstream_model_are_not_tried_twice() -> None:
    plan = planned(WORLD, "claude-3-5-sonnet", "claude-sonnet-4-6")
    assert chain(plan) == ["claude-3-5-sonnet"]
    assert fates(plan) == {"claude-sonnet-4-6": ("expand", "the same model of anthropic as claude-3-5-sonnet")}


@each("name", [f"profile:{name}" for name in WORLD.table.profiles] + ["general", "multimodal"])
def test_a_shipped_profile_resolves(name: str) -> None:
    plan = planned(WORLD, name)
    assert plan.chain
    assert plan.profile == name.removeprefix("profile:")


def test_a_failing_provider_is_passed_over_by_every_list_that_has_another() -> None:
    world = shipped({**OPENAI, **ANTHROPIC, **WORKERS_AI})
    cool(world, [candidate(world, id) for id, provider in CONCRETE.items() if provider == "workers-ai"])
    for label in ("code", "reasoning", "summarization", "extraction", "chat"):
        plan = planned(world, "auto", turns=(PROMPTS[label],))
        assert plan.chain[0].candidate.provider in ("openai", "anthropic")


def test_the_strategies_are_the_documented_ones() -> None:
    assert directive.STRATEGIES == STRATEGIES
    assert tuple(WORLD.table.industries) == TAGS
    assert WORLD.table.warnings == ()
