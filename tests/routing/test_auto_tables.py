"""Two sample tables of `auto`, under every combination of credentials."""

from __future__ import annotations

from collections.abc import Mapping

from each import each
from scenes import ANTHROPIC, OLLAMA, OPENAI, PROMPTS, candidate, chain, cool, fates, planned, sample

from proxy import errors
from proxy.routing.plan import Plan
from proxy.routing.world import World

KEYS: dict[str, Mapping[str, str]] = {
    "no key": {},
    "OpenAI": OPENAI,
    "Anthropic": ANTHROPIC,
    "both": {**OPENAI, **ANTHROPIC},
    "a local server": OLLAMA,
    "all": {**OPENAI, **ANTHROPIC, **OLLAMA},
}
CLASSES = ("code", "reasoning", "summarization", "extraction", "long-context", "chat")


def asked(world: World, label: str) -> Plan:
    return planned(world, "auto", turns=(PROMPTS[label],), tokens=len(PROMPTS[label]) // 4)


# -- an edge platform: its own models need no key ----------------------------------------------------------------

EDGE = {
    "no key": (
        "qwen/coder-32b",
        "deepseek/r1-32b",
        "meta/llama-3.1-8b",
        "meta/llama-3.1-8b",
        "meta/llama-3.3-70b",
        "meta/llama-3.3-70b",
    ),
    "OpenAI": (
        "qwen/coder-32b",
        "deepseek/r1-32b",
        "meta/llama-3.1-8b",
        "gpt-4o-mini",
        "meta/llama-3.3-70b",
        "meta/llama-3.3-70b",
    ),
    "Anthropic": (
        "qwen/coder-32b",
        "deepseek/r1-32b",
        "claude-haiku-4-5",
        "meta/llama-3.1-8b",
        "meta/llama-3.3-70b",
        "meta/llama-3.3-70b",
    ),
    "both": (
        "qwen/coder-32b",
        "deepseek/r1-32b",
        "claude-haiku-4-5",
        "gpt-4o-mini",
        "meta/llama-3.3-70b",
        "meta/llama-3.3-70b",
    ),
}
WORKERS_AI_DOWN = ("gpt-4o", "claude-opus-4-8", "claude-haiku-4-5", "gpt-4o-mini", "gpt-4o-mini", "gpt-4o-mini")


@each(
    ("keys", "label", "target"),
    [(keys, label, target) for keys, row in EDGE.items() for label, target in zip(CLASSES, row, strict=True)],
)
def test_the_edge_table_gives_its_targets(keys: str, label: str, target: str) -> None:
    plan = asked(sample("edge", KEYS[keys]), label)
    assert chain(plan)[0] == target
    assert plan.klass is not None
    assert plan.klass.label == label


@each(("label", "target"), list(zip(CLASSES, WORKERS_AI_DOWN, strict=True)))
def test_the_edge_table_moves_on_while_its_own_models_fail(label: str, target: str) -> None:
    world = sample("edge", KEYS["both"])
    before = asked(world, label)
    cool(world, [pick.candidate for pick in before.chain if pick.candidate.provider == "workers-ai"])
    after = asked(world, label)
    assert chain(after)[0] == target
    assert sorted(chain(after)) == sorted(chain(before))  # the cooling ones are last, not away
    assert after.first == before.chain[0].candidate


@each("label", CLASSES)
def test_the_edge_table_never_ends_without_a_candidate(label: str) -> None:
    plan = asked(sample("edge", {}), label)
    assert plan.refusal is None
    assert {pick.candidate.provider for pick in plan.chain} == {"workers-ai"}


def test_a_candidate_without_a_key_was_the_first_all_the_same() -> None:
    plan = asked(sample("edge", {}), "summarization")
    assert plan.first is not None
    assert (plan.first.model, chain(plan)) == ("claude-haiku-4-5", ["meta/llama-3.1-8b"])
    assert fates(plan) == {"claude-haiku-4-5": ("credential", "ANTHROPIC_API_KEY is not set")}


def test_a_class_without_a_list_uses_that_of_chat_and_says_so() -> None:
    plan = asked(sample("edge", {}), "long-context")
    assert plan.reason == "detected long-context cues -> long-context list, which the table lacks -> chat list"


def test_an_alias_is_never_classified() -> None:
    plan = planned(sample("edge", {}), "meta-llm", turns=(PROMPTS["code"],))
    assert chain(plan) == ["meta/llama-3.1-8b"]
    assert plan.klass is None
    assert (plan.intent, plan.reason) == ("alias", "alias meta-llm -> meta/llama-3.1-8b")


PATTERNS = {
    "o3": "openai",
    "o4-mini": "openai",
    "gpt-4.1-nano": "openai",
    "claude-3-5-sonnet": "anthropic",
    "claude-opus-4-8": "anthropic",
    "meta/llama-3.3-70b": "workers-ai",
    "mistral/7b": "workers-ai",
    "qwen/qwq-32b": "workers-ai",
    "deepseek/r1-32b": "workers-ai",
    "moonshot/kimi-k2": "workers-ai",
    "google/gemma-4-27b": "workers-ai",
}


@each(("name", "provider"), PATTERNS.items())
def test_a_pattern_gives_its_provider_and_sends_the_name_as_it_is(name: str, provider: str) -> None:
    (pick,) = planned(sample("edge", KEYS["both"]), name).chain
    assert (pick.candidate.provider, pick.candidate.native) == (provider, name)


@each("name", ["o3-mini", "o1", "o4", "qwen2.5-coder", "llama3.1", "meta", "xgpt-4o"])
def test_no_pattern_reaches_further_than_it_says(name: str) -> None:
    assert isinstance(planned(sample("edge", KEYS["both"]), name).refusal, errors.UnknownModel)


# -- a local model for code, the big houses behind it ------------------------------------------------------------

REFUSED = None
LOCAL_FIRST: dict[str, tuple[str | None, ...]] = {
    "no key": (REFUSED, REFUSED, REFUSED, REFUSED, REFUSED, REFUSED),
    "a local server": ("qwen2.5-coder", REFUSED, REFUSED, REFUSED, REFUSED, REFUSED),
    "OpenAI": ("gpt-4o", "gpt-4o", "gpt-4o-mini", "gpt-4o-mini", "gpt-4o", "gpt-4o-mini"),
    "Anthropic": (
        "claude-3-5-sonnet",
        "claude-3-5-sonnet",
        "claude-3-5-haiku",
        "claude-3-5-haiku",
        "claude-3-5-sonnet",
        "claude-3-5-haiku",
    ),
    "both": ("claude-3-5-sonnet", "claude-3-5-sonnet", "gpt-4o-mini", "gpt-4o-mini", "gpt-4o", "gpt-4o-mini"),
    "all": ("qwen2.5-coder", "claude-3-5-sonnet", "gpt-4o-mini", "gpt-4o-mini", "gpt-4o", "gpt-4o-mini"),
}


@each(
    ("keys", "label", "target"),
    [(keys, label, target) for keys, row in LOCAL_FIRST.items() for label, target in zip(CLASSES, row, strict=True)],
)
def test_the_local_first_table_gives_its_targets(keys: str, label: str, target: str | None) -> None:
    plan = asked(sample("local_first", KEYS[keys]), label)
    assert [*chain(plan), None][0] == target
    if target is None:
        assert isinstance(plan.refusal, errors.NotConfigured)
        assert "_API_KEY is not set" in plan.refusal.message


def test_a_code_prompt_has_three_candidates_and_a_reason_in_ascii() -> None:
    plan = asked(sample("local_first", KEYS["all"]), "code")
    assert chain(plan) == ["qwen2.5-coder", "claude-3-5-sonnet", "gpt-4o"]
    assert plan.reason == "detected code cues -> code list"
    assert plan.first == plan.chain[0].candidate


def test_the_local_model_failing_moves_code_to_the_next() -> None:
    world = sample("local_first", KEYS["all"])
    cool(world, [candidate(world, "qwen2.5-coder")])
    plan = asked(world, "code")
    assert chain(plan) == ["claude-3-5-sonnet", "gpt-4o", "qwen2.5-coder"]
    assert plan.first == candidate(world, "qwen2.5-coder")


def test_a_conversation_keeps_its_class_from_its_own_turns() -> None:
    plan = planned(sample("local_first", KEYS["all"]), "auto", turns=(PROMPTS["code"], "Now in Rust."))
    assert plan.klass is not None
    assert plan.klass.label == "code"
    assert chain(plan)[0] == "qwen2.5-coder"


def test_strategy_local_never_leaves_even_when_all_of_it_is_down() -> None:
    world = sample("local_first", KEYS["all"])
    cool(world, [candidate(world, "qwen2.5-coder"), candidate(world, "llama3.1")])
    plan = planned(world, "strategy:local")
    assert sorted(chain(plan)) == ["llama3.1", "qwen2.5-coder"]
    assert plan.cooling > 0


def test_strategy_local_without_a_local_server_is_refused_and_names_the_variable() -> None:
    plan = planned(sample("local_first", KEYS["both"]), "strategy:local")
    assert isinstance(plan.refusal, errors.NotConfigured)
    assert "OLLAMA_BASE_URL is not set" in plan.refusal.message
