"""Providers' lists as they are sent, by kind; and what is made of a list that is odd."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog import CAPABILITIES, Listed, Price, family
from proxy.catalog.lists import (
    ANTHROPIC,
    LONGEST,
    OLLAMA,
    OPENAI,
    read_anthropic,
    read_ollama,
    read_openai,
    read_show,
    sources,
)
from proxy.catalog.roster import PATIENCE, Roster


def openai(*entries: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(entries)}


def one(entry: dict[str, Any]) -> Listed:
    (found,) = read_openai(openai(entry))
    return found


def usd(input: str, output: str, **more: str) -> Price:
    return Price.per_million({"input": input, "output": output, **more})


# -- where to ask ------------------------------------------------------------------------------------------------

ASKED = {
    "Anthropic has its own": (("anthropic", "anthropic", "https://api.anthropic.com"), False, (ANTHROPIC,)),
    "a vendor": (("openai-chat", "openai", "https://api.openai.com/v1"), False, (OPENAI,)),
    "Ollama by its name": (("openai-chat", "my-ollama", "http://gpu:80/v1"), True, (OLLAMA, OPENAI)),
    "Ollama by its port": (("openai-chat", "gpu", "http://gpu:11434"), True, (OLLAMA, OPENAI)),
    "Ollama by its port, with /v1": (("openai-chat", "gpu", "http://gpu:11434/v1"), True, (OLLAMA, OPENAI)),
    "some local server": (("openai-chat", "vllm", "http://gpu:8000/v1"), True, (OPENAI, OLLAMA)),
}


@each(("provider", "local", "asked"), ASKED.values(), ids=ASKED)
def test_the_likeliest_list_is_asked_for_first(
    provider: tuple[str, str, str], local: bool, asked: tuple[object, ...]
) -> None:
    assert sources(*provider, local=local) == asked


# -- OpenAI's shape and what is added to it ----------------------------------------------------------------------

ENTRIES: dict[str, tuple[dict[str, Any], Listed]] = {
    "OpenAI says nothing but the name": (
        {"id": "gpt-4o", "object": "model", "created": 1715367049, "owned_by": "system"},
        Listed("gpt-4o", kin="gpt-4o"),
    ),
    "vLLM says its window, and the model behind a served name": (
        {
            "id": "house",
            "object": "model",
            "owned_by": "vllm",
            "root": "Qwen/Qwen3-8B",
            "parent": None,
            "max_model_len": 40960,
            "permission": [{"id": "modelperm-1"}],
        },
        Listed("house", kin="Qwen/Qwen3-8B", context=40_960),
    ),
    "llama.cpp: what is loaded counts before what it was trained for": (
        {
            "id": "../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
            "owned_by": "llamacpp",
            "meta": {"n_ctx": 8192, "n_ctx_train": 131072, "n_params": 8030261312},
        },
        Listed(
            "../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
            kin="../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
            context=8_192,
        ),
    ),
    "llama.cpp while it loads": ({"id": "m", "meta": None}, Listed("m", kin="m")),
    "OpenRouter says nearly all": (
        {
            "id": "vendor/thinker-1",
            "context_length": 200000,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
            "pricing": {
                "prompt": "0.000002",
                "completion": "0.000012",
                "input_cache_read": "0.0000002",
                "request": "0",
            },
            "top_provider": {"context_length": 200000, "max_completion_tokens": 32768},
            "supported_parameters": ["tools", "tool_choice", "reasoning", "temperature"],
        },
        Listed(
            "vendor/thinker-1",
            kin="vendor/thinker-1",
            context=200_000,
            max_output=32_768,
            capabilities=frozenset({"vision", "tools", "thinking"}),
            price=usd("2", "12", cache_read="0.2"),
            chat=True,
        ),
    ),
    "OpenRouter's own router, whose price depends": (
        {"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
        Listed("openrouter/auto", kin="openrouter/auto"),
    ),
    "a price that cannot be per token is none": (
        {"id": "m", "pricing": {"prompt": 2.5, "completion": 10.0}},
        Listed("m", kin="m"),
    ),
    "a picture model": (
        {"id": "draws", "architecture": {"output_modalities": ["image"]}},
        Listed("draws", kin="draws", chat=False),
    ),
    "Together says USD per million": (
        {
            "id": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            "type": "chat",
            "context_length": 131072,
            "pricing": {"hourly": 0, "input": 0.88, "output": 0.88, "base": 0, "finetune": 0},
        },
        Listed(
            "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            kin="meta-llama/Llama-3.3-70B-Instruct-Turbo",
            context=131_072,
            price=usd("0.88", "0.88"),
        ),
    ),
    "Together's embeddings": (
        {"id": "BAAI/bge-large", "type": "embedding", "context_length": 512},
        Listed("BAAI/bge-large", kin="BAAI/bge-large", context=512, chat=False),
    ),
    "Groq": (
        {"id": "llama-3.3-70b-versatile", "active": True, "context_window": 131072, "max_completion_tokens": 32768},
        Listed("llama-3.3-70b-versatile", kin="llama-3.3-70b-versatile", context=131_072, max_output=32_768),
    ),
    "Mistral says yes and no, and other names": (
        {
            "id": "mistral-small-2603",
            "type": "base",
            "max_context_length": 262144,
            "aliases": ["mistral-small-latest"],
            "capabilities": {"completion_chat": True, "function_calling": True, "vision": False, "fine_tuning": False},
        },
        Listed(
            "mistral-small-2603",
            also=("mistral-small-latest",),
            kin="mistral-small-2603",
            context=262_144,
            capabilities=frozenset({"code", "tools", "json"}),
            chat=True,
        ),
    ),
    "LM Studio's own list": (
        {
            "id": "qwen2-vl-7b-instruct",
            "type": "vlm",
            "state": "loaded",
            "max_context_length": 32768,
            "loaded_context_length": 4096,
            "capabilities": ["tool_use"],
        },
        Listed(
            "qwen2-vl-7b-instruct",
            kin="qwen2-vl-7b-instruct",
            context=4_096,
            capabilities=frozenset({"vision", "tools", "json"}),
        ),
    ),
    "LM Studio's embeddings": (
        {"id": "nomic", "type": "embeddings", "max_context_length": 2048},
        Listed("nomic", kin="nomic", context=2_048, chat=False),
    ),
    "Fireworks": (
        {
            "id": "accounts/fireworks/models/deepseek-v3",
            "context_length": 131072,
            "supports_chat": True,
            "supports_tools": False,
            "supports_image_input": False,
        },
        Listed(
            "accounts/fireworks/models/deepseek-v3",
            kin="accounts/fireworks/models/deepseek-v3",
            context=131_072,
            capabilities=frozenset({"code", "reasoning", "json"}),
            chat=True,
        ),
    ),
    "a name of nobody's with nothing denied excludes nothing": (
        {"id": "oracle", "capabilities": ["tool_use"]},
        Listed("oracle", kin="oracle"),
    ),
}


@each(("entry", "expected"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_says_what_its_maker_adds_to_openais_shape(entry: dict[str, Any], expected: Listed) -> None:
    assert one(entry) == expected


def test_together_sends_a_bare_array() -> None:
    assert [model.native for model in read_openai([{"id": "a"}, {"id": "b"}])] == ["a", "b"]


def test_what_groq_has_switched_off_is_not_there() -> None:
    assert read_openai(openai({"id": "old", "active": False})) == []


def test_anthropic_says_windows_and_capabilities_and_what_is_retired() -> None:
    listed = read_anthropic(
        {
            "data": [
                {
                    "type": "model",
                    "id": "claude-opus-4-8",
                    "display_name": "Claude Opus 4.8",
                    "lifecycle": "active",
                    "max_input_tokens": 1000000,
                    "max_tokens": 128000,
                    "capabilities": {
                        "image_input": {"supported": True},
                        "pdf_input": {"supported": False},
                        "structured_outputs": {"supported": True},
                        "thinking": {"supported": True, "types": {}},
                        "batch": {"supported": True},
                    },
                },
                {"type": "model", "id": "claude-2", "lifecycle": "retired"},
            ],
            "has_more": False,
        }
    )
    expected = family("claude-opus-4-8").capabilities - {"files"}
    assert listed == [
        Listed(
            "claude-opus-4-8",
            kin="claude-opus-4-8",
            context=1_000_000,
            max_output=128_000,
            capabilities=expected,
        )
    ]


# -- Ollama's ----------------------------------------------------------------------------------------------------


def tag(name: str, family: str = "llama", size: str = "8.0B", **more: Any) -> dict[str, Any]:
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": size,
        "quantization_level": "Q4_K_M",
        **more.pop("details", {}),
    }
    return {"name": name, "model": name, "size": 1, "digest": f"digest-of-{name}", "details": details, **more}


def test_an_old_ollama_says_names_and_sizes() -> None:
    (listed,) = read_ollama({"models": [tag("qwen2.5-coder:7b", "qwen2", "7.6B")]})
    assert listed == Listed(
        "qwen2.5-coder:7b",
        also=("qwen2.5-coder",),
        kin="qwen2.5-coder:7b:7.6b",
        version="digest-of-qwen2.5-coder:7b",
    )


def test_a_new_ollama_says_capabilities_and_windows_at_once() -> None:
    (listed,) = read_ollama(
        {
            "models": [
                tag("gemma3:4b", "gemma3", capabilities=["completion", "vision"], details={"context_length": 131072})
            ]
        }
    )
    assert (listed.context, listed.chat) == (131_072, True)
    assert listed.capabilities == frozenset({"vision", "json"})


def test_show_says_what_the_list_does_not() -> None:
    (listed,) = read_ollama({"models": [tag("qwen3:8b", "qwen3")]})
    shown = read_show(
        {
            "capabilities": ["completion", "tools"],
            "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960, "qwen3.block_count": 36},
            "parameters": 'stop                           "<|im_end|>"\ntemperature                    0.6',
        },
        listed,
    )
    assert shown == evolve(
        listed,
        context=40_960,
        capabilities=frozenset({"code", "reasoning", "tools", "parallel_tools", "json"}),
        chat=True,
    )


def test_a_window_that_the_models_maker_set_is_the_one_in_use() -> None:
    shown = read_show(
        {"model_info": {"llama.context_length": 131072}, "parameters": "num_ctx                        8192\nseed 1"},
        Listed("mine:latest"),
    )
    assert shown.context == 8_192


EMBEDS = {
    "by its architecture": tag("all-minilm:latest", "bert", "23M"),
    "by one of its architectures": tag(
        "nomic:latest", "nomic-bert", details={"family": "", "families": ["nomic-bert"]}
    ),
    "by its capabilities": tag("anything:latest", capabilities=["embedding"]),
}


@pytest.mark.parametrize("entry", EMBEDS.values(), ids=EMBEDS)
def test_an_embedding_model_is_known(entry: dict[str, Any]) -> None:
    (listed,) = read_ollama({"models": [entry]})
    assert listed.chat is False
    assert not listed.capabilities


UNTAGGED = {
    "latest": (["llama3.1:latest", "llama3.1:8b"], {"llama3.1:latest": ("llama3.1",), "llama3.1:8b": ()}),
    "without it the smallest": (
        ["llama3.1:405b", "llama3.1:8b", "llama3.1:70b"],
        {"llama3.1:405b": (), "llama3.1:8b": ("llama3.1",), "llama3.1:70b": ()},
    ),
    "a name with a registry's port": (["host:5000/m:1b"], {"host:5000/m:1b": ("host:5000/m",)}),
    "a name without a tag": (["plain"], {"plain": ()}),
}


@each(("names", "short"), UNTAGGED.values(), ids=UNTAGGED)
def test_a_name_without_a_tag_means_one_of_them(names: list[str], short: dict[str, tuple[str, ...]]) -> None:
    listed = read_ollama({"models": [tag(name) for name in names]})
    assert {model.native: model.also for model in listed} == short


def test_a_name_of_ones_own_has_the_family_of_its_architecture() -> None:
    (listed,) = read_ollama({"models": [tag("helpdesk:latest", "qwen2", "7.6B")]})
    assert listed.kin == "qwen2:7.6b"


def test_llama_cpp_answers_ollamas_path_too_and_is_not_taken_for_it() -> None:
    with pytest.raises(ValueError, match="not Ollama's"):
        read_ollama({"models": [{"name": "m", "details": {}}], "object": "list", "data": [{"id": "m"}]})


# -- what is odd -------------------------------------------------------------------------------------------------

NO_LISTS: dict[str, Any] = {
    "an error": {"error": "Unexpected endpoint or method. (GET /api/tags)"},
    "nothing": None,
    "text": "models",
    "an object of objects": {"data": {"gpt-4o": {}}, "models": {}},
}


@each("read", [read_openai, read_anthropic, read_ollama])
@each("document", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_is_refused(read: Any, document: Any) -> None:
    with pytest.raises(ValueError, match="list"):
        read(document)


ODD_NAMES: dict[str, Any] = {
    "none": None,
    "empty": "",
    "a number": 7,
    "too long": "m" * (LONGEST + 1),
    "a line break": "a\nb",
    "a lone surrogate": "a\ud83d",
    "blanks at the ends": " m ",
}


@each("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_an_unusable_name_does_not_hide_the_others(name: Any) -> None:
    assert [model.native for model in read_openai(openai({"id": name}, "text", {"id": "good"}))] == ["good"]


def test_a_name_is_listed_once() -> None:
    assert [model.context for model in read_openai(openai({"id": "m", "max_model_len": 1}, {"id": "m"}))] == [1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "capabilities", "details", "family", "families", "context_length", "parameter_size", "pricing", "prompt", "input",
    "completion", "output", "architecture", "input_modalities", "output_modalities", "supported_parameters", "meta",
    "n_ctx", "type", "aliases", "root", "digest", "supports_tools", "max_model_len", "model_info", "parameters",
)  # fmt: skip
ODD = st.recursive(JSON, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=6), max_leaves=8)


@given(ODD)
def test_whatever_stands_in_an_entry_it_is_read(entry: Any) -> None:
    named = {**entry, "id": "m", "name": "m"} if isinstance(entry, dict) else {"id": "m", "name": "m", "details": entry}
    for read, document in ((read_openai, [named]), (read_anthropic, openai(named)), (read_ollama, {"models": [named]})):
        for listed in read(document):
            assert (listed.capabilities or frozenset()) <= CAPABILITIES
            assert read_show(named, listed).native == "m"


# -- the roster --------------------------------------------------------------------------------------------------


def names(roster: Roster) -> dict[str, bool]:
    return {listed.native: gone for listed, gone in roster}


def test_a_roster_marks_who_left_and_forgets_them_in_the_end() -> None:
    roster = Roster()
    assert roster.take([Listed("b"), Listed("a")]).added == ("b", "a")
    assert list(names(roster)) == ["a", "b"]  # whatever order the provider has

    assert roster.take([Listed("b")]).gone == ("a",)
    assert names(roster) == {"a": True, "b": False}
    changes = [roster.take([Listed("b")]) for _ in range(PATIENCE)]
    assert [change.forgotten for change in changes] == [()] * (PATIENCE - 1) + [("a",)]
    assert names(roster) == {"b": False}


def test_who_returns_is_there_again_and_is_given_all_the_patience_anew() -> None:
    roster = Roster()
    for listed in ([Listed("a")], [], [], [Listed("a")], []):
        roster.take(listed)
    assert names(roster) == {"a": True}
    assert not any(roster.take([]).forgotten for _ in range(PATIENCE - 1))


def test_a_list_that_says_the_same_changes_nothing() -> None:
    roster = Roster()
    roster.take([Listed("a"), Listed("b")])
    assert not roster.take([Listed("b"), Listed("a")])
    assert roster.take([Listed("a", context=1), Listed("b")]).altered == ("a",)
