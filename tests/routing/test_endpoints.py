"""Requests that are no conversations: who may serve them, what they may cost, how their records are replayed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve
from each import each
from scenes import EVERY, HOUSE, asks, chain, fates, half, planned, shipped, world_of

from proxy.routing.case import Case
from proxy.routing.plan import resolve
from proxy.routing.recorded import facts_from_record
from proxy.routing.strategies import SORTS
from proxy.routing.world import Pick, expected_nanos, worst_nanos

SERVING = HOUSE.replace(
    'dialect = "openai-chat"', 'dialect = "openai-chat"\nendpoints = ["chat", "embeddings"]'
).replace('dialect = "anthropic"', 'dialect = "anthropic"\nendpoints = ["embeddings"]')
EMBEDDING: dict[str, Any] = {"surface": "embeddings", "endpoint": "embeddings", "max_tokens": 0}


def test_who_does_not_serve_an_endpoint_or_not_in_its_words_is_dropped() -> None:
    assert fates(planned(world_of(HOUSE), "a", **EMBEDDING)) == {
        "a": ("needs", "the provider does not serve embeddings")
    }
    assert fates(planned(world_of(SERVING), "b", **EMBEDDING)) == {
        "b": ("needs", "the provider has no embeddings endpoint in a dialect this surface speaks")
    }


def test_a_conversation_is_served_in_any_dialect() -> None:
    assert chain(planned(world_of(HOUSE), "b")) == ["b"]


def test_the_window_holds_each_input_by_itself() -> None:
    assert chain(planned(world_of(SERVING), "c", tokens=9_000, **EMBEDDING)) == ["c"]
    assert chain(planned(world_of(SERVING), "c", tokens=9_000)) == []


def test_what_is_too_long_is_counted_all_the_same() -> None:
    world = world_of(HOUSE)
    assert chain(planned(world, "c", tokens=9_000, surface="count_tokens", dialect="anthropic")) == ["c"]


def test_what_writes_nothing_costs_what_it_reads() -> None:
    world = world_of(SERVING)
    facts = asks("a", tokens=1_000, **EMBEDDING)
    info = world.models.listed["a"]
    assert (expected_nanos(info, facts), worst_nanos(info, facts)) == (1_000_000, 1_000_000)


def test_a_model_without_a_price_for_output_has_one_for_embeddings() -> None:
    world = shipped(EVERY)
    (pick,) = planned(world, "text-embedding-3-small", **EMBEDDING).chain
    facts = asks("text-embedding-3-small", tokens=1_000_000, **EMBEDDING)
    assert worst_nanos(pick.info, facts) == 20_000_000
    other = Pick.of(world.models.describe("text-embedding-3-large", "openai", "text-embedding-3-large"))
    assert SORTS["price"]([other, pick], Case(facts, world, half, 0.0)) == [pick, other]


def test_a_record_keeps_that_nothing_is_written() -> None:
    facts = asks("a", **EMBEDDING)
    kept = orjson.loads(orjson.dumps(facts.as_json()))
    assert kept["max_tokens"] == 0
    row = {"facts": kept, "plan": {"candidates": []}, "surface": "embeddings", "stream": False, "project": None}
    world = world_of(SERVING)
    again = resolve(facts_from_record(row), world, lambda: 0.5, 0.0)
    assert chain(again) == chain(resolve(facts, world, lambda: 0.5, 0.0)) == ["a"]


SHIPPED = {
    "text-embedding-3-small": ("embeddings", "openai"),
    "gpt-3.5-turbo-instruct": ("completions", "openai"),
    "gpt-image-1": ("images", "openai"),
    "dall-e-3": ("images", "openai"),
    "chatgpt-image-latest": ("images", "openai"),
    "tts-1-hd": ("audio", "openai"),
    "whisper-1": ("audio", "openai"),
    "gpt-4o-transcribe": ("audio", "openai"),
    "omni-moderation-latest": ("moderations", "openai"),
    "workers-ai/@cf/baai/bge-m3": ("embeddings", "workers-ai"),
    "ollama/nomic-embed-text": ("embeddings", "ollama"),
}


@pytest.mark.parametrize(("model", "endpoint", "provider"), [(name, *where) for name, where in SHIPPED.items()])
def test_the_shipped_table_knows_where_they_go(model: str, endpoint: str, provider: str) -> None:
    (pick,) = planned(shipped(EVERY), model, surface=endpoint, endpoint=endpoint).chain
    assert pick.candidate.provider == provider


CHOOSING = (
    SERVING
    + """
[models.vectors]
provider = "p"
native = "text-embedding-3-small"
[models.drawing]
provider = "p"
native = "gpt-image-1"
[auto]
chat = ["a", "vectors"]
"""
)


@pytest.mark.parametrize("name", ["strategy:cost", "strategy:latency", "auto"])
def test_what_leaves_the_choice_finds_those_that_serve_the_endpoint(name: str) -> None:
    assert chain(planned(world_of(CHOOSING), name, turns=("hi",), **EMBEDDING)) == ["vectors"]


@each("name", ["strategy:cost", "auto"])
@each("endpoint", ["audio", "moderations", "rerank", "completions", "images"])
def test_it_finds_nobody_for_other_endpoints_and_says_so(endpoint: str, name: str) -> None:
    plan = planned(world_of(CHOOSING), name, turns=("hi",), endpoint=endpoint)
    assert plan.chain == ()
    assert plan.refusal is not None
    if not plan.dropped:
        assert plan.refusal.message.endswith(f"known to serve {endpoint}; name the model itself.")


def test_a_record_keeps_what_is_written_to_the_cache() -> None:
    facts = asks("a")
    facts = evolve(facts, shape=evolve(facts.shape, cache_write="1h"))
    row = {"facts": facts.as_json(), "plan": {"candidates": []}, "surface": "chat", "stream": False, "project": None}
    assert facts_from_record(row).shape.cache_write == "1h"
