from __future__ import annotations

import pytest
from each import each

from proxy.catalog import CAPABILITIES, ModelInfo, chats, family
from proxy.catalog.families import FAMILIES

NAMES = {
    "qwen2.5-coder:7b": "qwen-coder",
    "@cf/qwen/qwen2.5-coder-32b-instruct": "qwen-coder",
    "Qwen/Qwen3-30B-A3B": "qwen3",
    "qwen2.5vl:7b": "qwen-vl",
    "qwq": "qwq",
    "deepseek-r1": "deepseek-r1",
    "deepseek-r1:8b": "deepseek-r1-distill",
    "@cf/deepseek-ai/deepseek-r1-distill-qwen-32b": "deepseek-r1-distill",
    "deepseek-chat": "deepseek",
    "llama3.1": "llama-3.x",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.x",
    "llama3.2-vision:11b": "llama-vision",
    "codellama:13b": "codellama",
    "mistral:7b": "mistral",
    "mistral-small-3.1-24b-instruct": "mistral-3",
    "glm-4.7-flash": "glm-flash",
    "glm-5.2": "glm",
    "gemma3:270m": "gemma-3",
    "gemma-4-26b-a4b-it": "gemma-4",
    "kimi-k2.6": "kimi",
    "gpt-oss:20b": "gpt-oss",
    "phi4": "phi",
    "gpt-4o": "gpt-4o",
    "gpt-4o-mini-2024-07-18": "gpt-4o-mini",
    "gpt-5.1": "gpt-5",
    "gpt-5-mini": "gpt-5-mini",
    "o3": "o",
    "o4-mini": "o-mini",
    "claude-opus-4-8": "claude-opus",
    "claude-3-opus-20240229": "claude-opus",
    "claude-sonnet-4-6": "claude-sonnet",
    "claude-3-5-sonnet": "claude-3.5",
    "claude-haiku-4-5": "claude-haiku",
    "claude-3-5-haiku": "claude-3-haiku",
    "gemini-2.5-pro": "gemini-pro",
    "gemini-2.5-flash": "gemini-flash",
    "oracle-of-delphi": "unknown",
    "": "unknown",
}


@each(("name", "expected"), NAMES.items(), ids=[name or "empty" for name in NAMES])
def test_family_of(name: str, expected: str) -> None:
    assert family(name).name == expected


def test_an_unknown_name_says_nothing() -> None:
    found = family("oracle")
    assert (found.capabilities, found.context, found.quality, found.reasoning) == (frozenset(), None, None, None)


def test_rank_grows_with_size() -> None:
    ranks = [family(f"qwen2.5:{size}").quality for size in ("500m", "1.5b", "7b", "14b", "72b")]
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)
    assert ranks[2] == family("qwen2.5").quality


SIZES = {"mixtral:8x7b": 56, "gemma3n:e4b": 4, "gemma-4-26b-a4b-it": 26, "gemma3:270m": 0.27, "llama-3.3-70b-x": 70}


@each(("name", "billions"), SIZES.items(), ids=list(SIZES))
def test_size_in_a_name(name: str, billions: float) -> None:
    assert family(name).size == pytest.approx(billions)


def test_every_row_is_within_bounds() -> None:
    for _, row in FAMILIES:
        assert row.capabilities <= CAPABILITIES, row.name
        assert 0 <= (row.quality or 0) <= 100, row.name
        assert 0 <= (row.reasoning or 0) <= 100, row.name
        assert row.context is None or row.context >= 1_024, row.name


def test_a_model_refuses_a_capability_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="flying"):
        ModelInfo("m", "p", "n", capabilities=frozenset({"flying"}))


def test_unknown_capabilities_are_not_none_at_all() -> None:
    assert ModelInfo("m", "p", "n").capabilities is None


NO_CHAT = (
    "text-embedding-3-small", "nomic-embed-text:latest", "mxbai-embed-large", "all-minilm", "bge-m3", "gte-large",
    "intfloat/e5-mistral", "jina-reranker-v2", "whisper-large-v3", "gpt-4o-mini-tts", "tts-1", "dall-e-3",
    "gpt-image-1", "omni-moderation-latest", "llama-guard3:8b", "gpt-oss-safeguard:20b", "shieldgemma",
    "gpt-4o-transcribe", "sora-2", "stable-diffusion-3", "flux.1-dev", "gpt-4o-realtime-preview", "davinci-002",
)  # fmt: skip


@each("name", NO_CHAT)
def test_a_name_tells_who_holds_no_conversations(name: str) -> None:
    assert not chats(name)


@each("name", [*filter(None, NAMES), "gpt-4o-audio-preview", "reflux:7b", "gemini-2.5-flash-image"])
def test_all_others_do(name: str) -> None:
    assert chats(name)
