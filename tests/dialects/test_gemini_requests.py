"""Requests of chat and Messages clients in Gemini's words, side by side in tests/data/gemini/requests.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from each import each

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.gemini.thinking import thinking_config
from proxy.dialects.gemini.vocabulary import accepts
from proxy.errors import InvalidRequest, Unsupported

GEMINI = UPSTREAMS["gemini"]
SOURCES = {"chat": DIALECTS["openai-chat"], "messages": DIALECTS["anthropic"]}
CASES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "gemini" / "requests.json").read_text()
)
PAIRS = [pytest.param(case, source, id=f"{name}, {source}") for name, case in CASES.items() for source in SOURCES
         if source in case]  # fmt: skip
PNG = "data:image/png;base64,iVBORw0KGgo="


def request_of(source: str, body: dict[str, Any]) -> ir.Request:
    """As if the client of Messages had not had to bound its answer."""
    if source == "messages" and "max_tokens" not in body:
        return evolve(SOURCES[source].codec().decode_request({"model": "m", "max_tokens": 1} | body), max_tokens=None)
    return SOURCES[source].codec().decode_request({"model": "m"} | body)


def encoded(native: str = "gemini-2.5-flash", source: str = "chat", **members: Any) -> ir.Encoded:
    body = {"messages": [{"role": "user", "content": "Hi"}]} | members
    return GEMINI.codec().encode_request(request_of(source, body), ir.Target(native))


@each(("case", "source"), PAIRS)
def test_a_request_in_geminis_words(case: dict[str, Any], source: str) -> None:
    request = request_of(source, case[source])
    written = GEMINI.codec().encode_request(request, ir.Target(case.get("model", "gemini-2.5-flash")))
    assert json.loads(json.dumps(written.body)) == case["gemini"]
    assert list(written.dropped) == case.get("dropped", {}).get(source, [])


@each(("case", "source"), PAIRS)
def test_the_same_request_is_written_the_same_again(case: dict[str, Any], source: str) -> None:
    """The provider's prompt cache goes by the bytes; and no encoder may change what the next candidate gets."""
    target = ir.Target(case.get("model", "gemini-2.5-flash"))
    request = request_of(source, case[source])
    first, again = (json.dumps(GEMINI.codec().encode_request(request, target).body) for _ in range(2))
    assert first == again
    assert request == request_of(source, case[source])


FUNCTION = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CUSTOM = {"type": "custom", "custom": {"name": "look"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
LOOK = {"name": "look", "input_schema": {"type": "object"}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


UNSUPPORTED = {
    "a picture that has to be fetched": (
        "chat", user({"type": "text", "text": "See"}, picture("http://example.org/a.png")), "messages[0].content[1]",
        "data: URL",
    ),
    "a picture of unknown type": (
        "chat", user(picture("https://example.org/a")), "messages[0].content[0]", "data: URL",
    ),
    "a file that OpenAI stores": (
        "chat", user({"type": "file", "file": {"file_id": "file-1"}}), "messages[0].content[0]", "send its content",
    ),
    "spoken answers": ("chat", {"modalities": ["text", "audio"]}, "modalities", "spoken"),
    "a tool that takes free text": ("chat", {"tools": [CUSTOM]}, "tools[0]", "free text"),
    "a tool that only its own provider runs": (
        "messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]", "bash",
    ),
    "a search within some pages": (
        "messages", {"tools": [SEARCH | {"allowed_domains": ["a.org"]}]}, "tools[0]", "domains",
    ),
    "a search outside some pages": (
        "chat", {"web_search_options": {"filters": {"blocked_domains": ["a.org"]}}}, "web_search_options", "domains",
    ),
    "functions beside a search, before Gemini 3": ("messages", {"tools": [LOOK, SEARCH]}, "tools", "not both"),
    "a schema beside functions, before Gemini 3": (
        "chat",
        {"tools": [FUNCTION],
         "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
        "response_format", "no tools",
    ),
    "more stop sequences than it takes": ("chat", {"stop": list("abcdef")}, "stop", "5 stop sequences"),
}  # fmt: skip


@each(("source", "members", "param", "words"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_cannot_be_said_is_refused_with_its_place(
    source: str, members: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(Unsupported, match=words) as refused:
        encoded(source=source, **members)
    assert refused.value.param == param


def answered(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, *turns]}


def calling(arguments: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


INVALID = {
    "arguments that are no JSON": (answered(calling("{")), "messages[1].tool_calls[0].function.arguments"),
    "arguments that are no object": (answered(calling("[1]")), "messages[1].tool_calls[0].function.arguments"),
    "the result of no call": (
        answered({"role": "tool", "tool_call_id": "c9", "content": "?"}), "messages[1].content",
    ),
    "nothing said": ({"messages": [{"role": "user", "content": ""}]}, "messages"),
}  # fmt: skip


@each(("body", "param"), INVALID.values(), ids=INVALID)
def test_a_request_that_makes_no_sense_is_refused_with_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        encoded(**body)
    assert refused.value.param == param


def test_the_clients_bound_is_kept_within_the_models() -> None:
    request = request_of("chat", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100_000})
    written = GEMINI.codec().encode_request(request, ir.Target("gemini-2.5-flash", max_output=65_536))
    assert written.body["generationConfig"] == {"maxOutputTokens": 65_536}
    assert written.dropped == ("max_tokens",)


def test_pictures_of_its_own_go_back_to_the_model() -> None:
    written = encoded(messages=[{"role": "user", "content": "A cat"}, {"role": "assistant", "images": [picture(PNG)]}])
    assert written.body["contents"][1] == {
        "role": "model",
        "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}],
    }


# -- how hard to think -------------------------------------------------------------------------------------------

Wish = ir.Reasoning
OFF = Wish(enabled=False)
# model, wish -> thinkingConfig, and whether the wish was met
THINKING: dict[str, tuple[str, ir.Reasoning, dict[str, Any], bool]] = {
    "off": ("gemini-2.5-flash", OFF, {"thinkingBudget": 0}, True),
    "off, where it cannot be": ("gemini-2.5-pro", OFF, {"thinkingBudget": 128}, False),
    "off, from 3 on": ("gemini-3-flash-preview", OFF, {"thinkingLevel": "minimal"}, False),
    "off, where there is no minimal": ("gemini-3.1-pro-preview", OFF, {"thinkingLevel": "low"}, False),
    "off, where there is none": ("gemini-2.0-flash", OFF, {}, True),
    "an effort where there is none": ("gemini-2.0-flash", Wish("high"), {}, False),
    "an effort for what is no Gemini": ("gemma-3-27b-it", Wish("high"), {}, False),
    "minimal in tokens": ("gemini-2.5-flash-lite", Wish("minimal"), {"thinkingBudget": 1024}, True),
    "high in tokens": ("gemini-2.5-pro", Wish("high"), {"thinkingBudget": 24_576}, True),
    "max in tokens": ("gemini-2.5-pro", Wish("max"), {"thinkingBudget": 32_768}, True),
    "more tokens than it takes": ("gemini-2.5-flash", Wish(budget=90_000), {"thinkingBudget": 24_576}, False),
    "fewer tokens than it takes": ("gemini-2.5-flash-lite", Wish(budget=100), {"thinkingBudget": 512}, False),
    "as much as it needs": ("gemini-2.5-flash", Wish(enabled=True, adaptive=True), {"thinkingBudget": -1}, True),
    "as much as it needs, from 3 on": ("gemini-3-flash-preview", Wish(enabled=True, adaptive=True), {}, True),
    "a level": ("gemini-3-flash-preview", Wish("medium"), {"thinkingLevel": "medium"}, True),
    "the next lower level": ("gemini-3-pro-preview", Wish("medium"), {"thinkingLevel": "low"}, False),
    "a level that Pro got later": ("gemini-3.1-pro-preview", Wish("medium"), {"thinkingLevel": "medium"}, True),
    "a level that Flash lost": ("gemini-3.8-flash", Wish("minimal"), {"thinkingLevel": "low"}, True),
    "a level that Flash-Lite kept": ("gemini-3.8-flash-lite", Wish("minimal"), {"thinkingLevel": "minimal"}, True),
    "more than there is": ("gemini-3-flash-preview", Wish("xhigh"), {"thinkingLevel": "high"}, False),
    "tokens as a level": ("gemini-3-flash-preview", Wish(budget=20_000), {"thinkingLevel": "high"}, False),
    "the newest": ("gemini-flash-latest", Wish("low"), {"thinkingLevel": "low"}, True),
    "a word that nobody knows": ("gemini-2.5-flash", Wish("ultra"), {}, False),
    "a maker of pictures": ("gemini-2.5-flash-image", Wish("low"), {}, False),
}


@each(("native", "wish", "config", "met"), THINKING.values(), ids=THINKING)
def test_how_hard_to_think(native: str, wish: ir.Reasoning, config: dict[str, Any], met: bool) -> None:
    assert thinking_config(wish, accepts(native), shown=False) == (config, met)


def test_thoughts_are_shown_to_those_who_are_used_to_them() -> None:
    anthropic = encoded(source="messages", max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 1024})
    chat, openrouter = encoded(reasoning_effort="low"), encoded(reasoning={"max_tokens": 1024})
    shown = [
        written.body["generationConfig"]["thinkingConfig"].get("includeThoughts", False)
        for written in (anthropic, chat, openrouter)
    ]
    assert shown == [True, False, True]


PATHS = {
    "a plain answer": ("gemini-2.5-flash", False, "/v1beta/models/gemini-2.5-flash:generateContent"),
    "a stream": ("gemini-2.5-flash", True, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
    "a tuned model": ("tunedModels/mine-1", False, "/v1beta/tunedModels/mine-1:generateContent"),
    "a name in full": ("models/gemini-2.5-flash", False, "/v1beta/models/gemini-2.5-flash:generateContent"),
    "a name that leads elsewhere": ("a?key=b#c", False, "/v1beta/models/a%3Fkey%3Db%23c:generateContent"),
}


@each(("native", "stream", "path"), PATHS.values(), ids=PATHS)
def test_the_model_stands_in_the_path(native: str, stream: bool, path: str) -> None:
    assert GEMINI.path("chat", native, stream) == path


def test_the_key_is_never_in_a_url() -> None:
    assert GEMINI.credential("secret") == (("x-goog-api-key", "secret"),)
    assert "secret" not in GEMINI.path("chat", "gemini-2.5-flash", True)
    with pytest.raises(Unsupported, match="embeddings"):
        GEMINI.path("embeddings", "gemini-embedding-001", False)
