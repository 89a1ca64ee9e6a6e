"""Requests of other dialects' clients, written for a Claude model of one generation or another."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from each import each

from proxy import ir
from proxy.dialects.anthropic import DIALECT
from proxy.errors import InvalidRequest, Unsupported

USER = {"role": "user", "content": "Hi"}
OPUS = ir.Target("claude-opus-4-8")
HAIKU = ir.Target("claude-haiku-4-5-20251001")
OLD = ir.Target("claude-3-5-sonnet-20241022")


def asked(*messages: ir.Message, **members: Any) -> ir.Request:
    turns = messages or (ir.Message("user", (ir.Text("Hi"),)),)
    return ir.Request(model="x", messages=turns, dialect="openai-chat", **members)


def spoken(role: Any, *parts: ir.Part | str) -> ir.Message:
    return ir.Message(role, tuple(ir.Text(part) if isinstance(part, str) else part for part in parts))


LOOP = (
    spoken("user", "Hi"),
    spoken("assistant", ir.ToolCall("c1", "look", "{}")),
    spoken("tool", ir.ToolResult("c1", (ir.Text("x"),))),
)
LOOK = ir.Tool("look", schema={"type": "object"})
ADAPTIVE = {"type": "adaptive"}

# request, target, the members wanted (None: absent), dropped
FITTED: dict[str, tuple[ir.Request, ir.Target, dict[str, Any], tuple[str, ...]]] = {
    "the client's max_tokens": (asked(max_tokens=9), OPUS, {"max_tokens": 9}, ()),
    "the model's cap bounds it": (
        asked(max_tokens=9),
        evolve(OPUS, max_output=5),
        {"max_tokens": 5},
        ("max_tokens",),
    ),
    "else the model's cap": (asked(), evolve(OPUS, max_output=5), {"max_tokens": 5}, ()),
    "else 4096": (asked(), OPUS, {"max_tokens": 4096}, ()),
    "the target's own name": (asked(), OPUS, {"model": "claude-opus-4-8"}, ()),
    "a temperature above one is one": (asked(temperature=1.4), HAIKU, {"temperature": 1}, ("temperature",)),
    "temperature or top_p, not both": (
        asked(temperature=0.5, top_p=0.5), HAIKU, {"temperature": 0.5, "top_p": None}, ("top_p",),
    ),
    "both where both are taken": (asked(temperature=0.5, top_p=0.5), OLD, {"temperature": 0.5, "top_p": 0.5}, ()),
    "no sampling from 4.7 on": (
        asked(temperature=0.5, top_k=3), OPUS, {"temperature": None, "top_k": None}, ("temperature", "top_k"),
    ),
    "its default said aloud is no loss": (asked(temperature=1, top_p=1), OPUS, {"temperature": None}, ()),
    "a model that is no Claude takes it all": (
        asked(temperature=0.5, top_p=0.5, top_k=3), ir.Target("glm-5"), {"temperature": 0.5, "top_p": 0.5, "top_k": 3},
        (),
    ),
    "what cannot be said": (
        asked(
            seed=1, frequency_penalty=0.5, presence_penalty=0.5, logit_bias={"1": 1.0}, logprobs=True, top_logprobs=2,
            verbosity="low", prediction={"type": "content"}, cache_key="k", store=True, metadata={"a": "b"},
            extra={"transforms": []},
        ),
        OPUS,
        {},
        (
            "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "verbosity",
            "prediction", "prompt_cache_key", "store", "metadata", "seed", "transforms",
        ),
    ),
    "what asks for nothing": (asked(frequency_penalty=0, logprobs=False, store=False, n=1), OPUS, {}, ()),
    "stops": (asked(stop=("a", "\n")), OPUS, {"stop_sequences": ["a"]}, ("stop",)),
    "the user": (asked(user="u"), OPUS, {"metadata": {"user_id": "u"}}, ()),
    "tier default": (asked(service_tier="default"), OPUS, {"service_tier": "standard_only"}, ()),
    "tier flex": (asked(service_tier="flex"), OPUS, {"service_tier": None}, ("service_tier",)),
    "a schema": (
        asked(response_format=ir.ResponseFormat("json_schema", "n", {"type": "object"}, True)),
        OPUS,
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        (),
    ),
    "any JSON": (asked(response_format=ir.ResponseFormat("json_object")), OPUS, {}, ("response_format",)),
    "plain text": (asked(response_format=ir.ResponseFormat("text")), OPUS, {"output_config": None}, ()),
    "effort": (
        asked(reasoning=ir.Reasoning("high")), OPUS,
        {"thinking": ADAPTIVE, "output_config": {"effort": "high"}}, (),
    ),
    "minimal effort is low": (
        asked(reasoning=ir.Reasoning("minimal")), OPUS,
        {"thinking": ADAPTIVE, "output_config": {"effort": "low"}}, (),
    ),
    "an effort the model lacks is the next lower": (
        asked(reasoning=ir.Reasoning("xhigh")), ir.Target("claude-sonnet-4-6"),
        {"output_config": {"effort": "high"}}, ("reasoning_effort",),
    ),
    "effort and a schema share output_config": (
        asked(reasoning=ir.Reasoning("low"), response_format=ir.ResponseFormat("json_schema", schema={})), OPUS,
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}}}, (),
    ),
    "a budget before 4.6": (
        asked(reasoning=ir.Reasoning("medium"), max_tokens=8000), HAIKU,
        {"thinking": {"type": "enabled", "budget_tokens": 4000}}, (),
    ),
    "a budget wants room": (
        asked(reasoning=ir.Reasoning("medium"), max_tokens=1000), HAIKU, {"thinking": None}, ("reasoning_effort",),
    ),
    "a budget excludes a temperature": (
        asked(reasoning=ir.Reasoning("low"), temperature=0.2), HAIKU, {"temperature": None}, ("temperature",),
    ),
    "a client's own budget": (
        asked(reasoning=ir.Reasoning(budget=2000)), HAIKU, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, (),
    ),
    "a budget where only effort is known": (
        asked(reasoning=ir.Reasoning(budget=2000)), OPUS, {"thinking": ADAPTIVE}, ("reasoning_effort",),
    ),
    "a loop whose calls have no thinking": (
        asked(*LOOP, reasoning=ir.Reasoning("low"), tools=(LOOK,)), HAIKU, {"thinking": None}, ("reasoning_effort",),
    ),
    "such a loop from 4.6 on": (
        asked(*LOOP, reasoning=ir.Reasoning("low"), tools=(LOOK,)), OPUS, {"thinking": ADAPTIVE}, (),
    ),
    "a forced tool and thinking": (
        asked(reasoning=ir.Reasoning("low"), tools=(LOOK,), tool_choice=ir.ToolChoice("any")), OPUS,
        {"thinking": None, "output_config": {"effort": "low"}}, ("reasoning_effort",),
    ),
    "a model that never thinks": (
        asked(reasoning=ir.Reasoning("low")), OLD, {"thinking": None}, ("reasoning_effort",),
    ),
    "no thinking, where it is off": (asked(reasoning=ir.Reasoning("none")), OPUS, {"thinking": None}, ()),
    "no thinking, where it is on": (
        asked(reasoning=ir.Reasoning("none")), ir.Target("claude-opus-5"), {"thinking": {"type": "disabled"}}, (),
    ),
    "no thinking, before tools at least": (
        asked(reasoning=ir.Reasoning("none")), ir.Target("claude-sonnet-5-5"),
        {"thinking": {"type": "between_tools"}}, (),
    ),
    "no thinking, where it is always on": (
        asked(reasoning=ir.Reasoning("none")), ir.Target("claude-opus-5-5"),
        {"thinking": None, "output_config": {"effort": "low"}}, ("reasoning_effort",),
    ),
    "a choice without tools": (asked(tool_choice=ir.ToolChoice("auto")), OPUS, {"tool_choice": None}, ()),
    "one call at a time": (
        asked(tools=(LOOK,), parallel_tools=False), OPUS,
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, (),
    ),
    "no calls at all, one at a time": (
        asked(tools=(LOOK,), tool_choice=ir.ToolChoice("none"), parallel_tools=False), OPUS,
        {"tool_choice": {"type": "none"}}, (),
    ),
    "some tools allowed": (
        asked(tools=(LOOK, ir.Tool("b", schema={"type": "object"})), tool_choice=ir.ToolChoice("any", None, ("b",))),
        OPUS,
        {"tools": [{"name": "b", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}}, (),
    ),
    "a tool without a schema": (
        asked(tools=(ir.Tool("a"),)), OPUS,
        {"tools": [{"name": "a", "input_schema": {"type": "object", "properties": {}}}]}, (),
    ),
    "a strict tool where none can be": (
        asked(tools=(ir.Tool("a", schema={"type": "object"}, strict=True),)), OLD,
        {"tools": [{"name": "a", "input_schema": {"type": "object"}}]}, ("tools[0].function.strict",),
    ),
    "a search by the provider": (
        asked(
            tools=(
                ir.ServerTool(
                    "web_search",
                    {"web_search_options": {"user_location": {"type": "approximate", "approximate": {"city": "Bonn"}}}},
                    "openai-chat",
                ),
            )
        ),
        OPUS,
        {"tools": [{"type": "web_search_20250305", "name": "web_search",
                    "user_location": {"type": "approximate", "city": "Bonn"}}]},
        (),
    ),
}  # fmt: skip


@each(("request_", "target", "members", "dropped"), FITTED.values(), ids=FITTED)
def test_a_request_is_fitted_to_its_target(
    request_: ir.Request, target: ir.Target, members: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    encoded = DIALECT.codec().encode_request(request_, target)
    assert {name: encoded.body.get(name) for name in members} == members
    assert encoded.dropped == dropped
    assert DIALECT.codec().encode_request(request_, target) == encoded


IMAGE = ir.Image(ir.Blob("aGk=", "image/png"))
PNG_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
# messages, target, system (None: absent), messages wanted, dropped
TURNS: dict[str, tuple[tuple[ir.Message, ...], ir.Target, Any, list[Any], tuple[str, ...]]] = {
    "instructions at the head": (
        (spoken("system", "A"), spoken("developer", "B"), spoken("user", "Hi")), OPUS,
        [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}], [USER], (),
    ),
    "later ones behind a user turn": (
        (spoken("user", "Hi"), spoken("system", "A")), OPUS, None, [USER, {"role": "system", "content": "A"}], (),
    ),
    "later ones before a user turn": (
        (spoken("user", "Hi"), spoken("system", "A"), spoken("user", "Ho")), OPUS, None,
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hi"},
                    {"type": "text", "text": "<system>\nA\n</system>"},
                    {"type": "text", "text": "Ho"},
                ],
            }
        ],
        ("messages[1].role",),
    ),
    "later ones where the model has no place for them": (
        (spoken("user", "Hi"), spoken("assistant", "Yes"), spoken("system", "A")), HAIKU, None,
        [USER, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "<system>\nA\n</system>"}],
        ("messages[2].role",),
    ),
    "instructions alone are the question": (
        (spoken("system", "A"),), OPUS, None, [{"role": "user", "content": "A"}], ("messages[0].role",),
    ),
    "turns of one role are one": (
        (spoken("user", "a"), spoken("user", "b")), OPUS, None,
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], (),
    ),
    "results come first in their turn": (
        (
            spoken("user", "Hi"),
            spoken("assistant", ir.ToolCall("c1", "a", '{"x": 1}'), ir.ToolCall("c2", "b")),
            spoken("user", "quick"),
            spoken("tool", ir.ToolResult("c1", (ir.Text("1"),))),
            spoken("tool", ir.ToolResult("c2", (IMAGE,), is_error=True)),
        ),
        OPUS, None,
        [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "a", "input": {"x": 1}},
                    {"type": "tool_use", "id": "c2", "name": "b", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [PNG_BLOCK], "is_error": True},
                    {"type": "text", "text": "quick"},
                ],
            },
        ],
        (),
    ),
    "empty text says nothing": (
        (spoken("user", "Hi"), spoken("assistant", ""), spoken("user", "", IMAGE)), OPUS, None,
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, PNG_BLOCK]}], (),
    ),
    "an id of foreign letters": (
        (spoken("user", "Hi"), spoken("assistant", ir.ToolCall("f.a:0", "a")),
         spoken("tool", ir.ToolResult("f.a:0"))),
        OPUS, None,
        [
            USER,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "f_2ea_3a0", "name": "a", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "f_2ea_3a0"}]},
        ],
        (),
    ),
    "thinking of another provider": (
        (spoken("user", "Hi"), spoken("assistant", ir.Thinking("so", signature="s", dialect="gemini"), "Yes")),
        OPUS, None, [USER, {"role": "assistant", "content": "Yes"}], ("messages[1].reasoning_content",),
    ),
    "thinking of this one": (
        (spoken("user", "Hi"), spoken("assistant", ir.Thinking("so", signature="s", dialect="anthropic"), "Yes")),
        OPUS, None,
        [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "so", "signature": "s"},
                    {"type": "text", "text": "Yes"},
                ],
            },
        ],
        (),
    ),
    "a cache marker and an image's detail": (
        (spoken("user", ir.Text("a", cache=ir.Cache("24h")), evolve(IMAGE, detail="low")),), OPUS, None,
        [{"role": "user", "content": [
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, PNG_BLOCK]}],
        ("messages[0].content[1].detail",),
    ),
    "documents": (
        (
            spoken(
                "user",
                ir.File(ir.Blob("aGk=", "application/pdf"), "a.pdf"),
                ir.File(ir.Blob("aGk=", "text/markdown"), "a.md"),
                ir.File(ir.Url("https://e.org/a.pdf")),
            ),
        ),
        OPUS, None,
        [{"role": "user", "content": [
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
             "title": "a.pdf"},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}, "title": "a.md"},
            {"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}},
        ]}],
        (),
    ),
    "blocks of another provider": (
        (spoken("user", "Hi"), spoken("assistant", ir.Opaque("video", {}, "openai-chat"), ir.Refusal("No."))),
        OPUS, None, [USER, {"role": "assistant", "content": "No."}], ("messages[1].content[0]",),
    ),
}  # fmt: skip


@each(("messages", "target", "system", "wanted", "dropped"), TURNS.values(), ids=TURNS)
def test_turns(
    messages: tuple[ir.Message, ...], target: ir.Target, system: Any, wanted: list[Any], dropped: tuple[str, ...]
) -> None:
    encoded = DIALECT.codec().encode_request(asked(*messages), target)
    assert encoded.body.get("system") == system
    assert encoded.body["messages"] == wanted
    assert encoded.dropped == dropped


CALLED = spoken("assistant", "So", ir.ToolCall("c0", "a", "{}"), ir.ToolCall("c1", "a", '{"x'))
IMPOSSIBLE: dict[str, tuple[ir.Request, type[Exception], str]] = {
    "several answers": (asked(n=2), Unsupported, "n"),
    "an answer to listen to": (asked(modalities=("text", "audio")), Unsupported, "modalities"),
    "something to listen to": (
        asked(spoken("user", "a", ir.Audio(ir.Blob("aGk=", "audio/wav")))), Unsupported, "messages[0].content[1]",
    ),
    "a film": (asked(spoken("user", ir.Video(ir.Url("u")))), Unsupported, "messages[0].content[0]"),
    "a picture of an odd kind": (
        asked(spoken("user", ir.Image(ir.Blob("aGk=", "image/tiff")))), Unsupported, "messages[0].content[0]",
    ),
    "a file stored elsewhere": (
        asked(spoken("user", ir.File(ir.FileId("file-1")))), Unsupported, "messages[0].content[0]",
    ),
    "an office document": (
        asked(spoken("user", ir.File(ir.Blob("aGk=", "application/msword")))), Unsupported, "messages[0].content[0]",
    ),
    "a tool of free text": (asked(tools=(ir.Tool("a", custom=True),)), Unsupported, "tools[0]"),
    "a tool that only another provider runs": (
        asked(tools=(LOOK, ir.ServerTool("image_generation", {}, "openai-responses"))), Unsupported, "tools[1]",
    ),
    "a schema for a model before 4.5": (
        evolve(asked(response_format=ir.ResponseFormat("json_schema", schema={})), model="old"), Unsupported,
        "response_format",
    ),
    "arguments that are no JSON": (
        asked(spoken("user", "Hi"), CALLED), InvalidRequest, "messages[1].tool_calls[1].function.arguments",
    ),
    "arguments that are no object": (
        asked(spoken("assistant", ir.ToolCall("c", "a", "[1]"))), InvalidRequest,
        "messages[0].tool_calls[0].function.arguments",
    ),
    "nothing said": (asked(spoken("user", "")), InvalidRequest, "messages"),
}  # fmt: skip


@each(("request_", "error", "param"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_would_change_the_meaning_is_refused(request_: ir.Request, error: type[Exception], param: str) -> None:
    with pytest.raises(error) as caught:
        DIALECT.codec().encode_request(request_, OLD if request_.model == "old" else OPUS)
    assert getattr(caught.value, "param", None) == param


def test_the_beginning_of_a_conversation_is_written_alike_however_it_goes_on() -> None:
    """The provider's prompt cache lives on equal beginnings."""
    turns = [spoken("system", "S"), *LOOP, spoken("assistant", "done"), spoken("user", "more")]
    before: list[Any] = []
    for end in (2, 4, 6):
        messages = DIALECT.codec().encode_request(asked(*turns[:end], tools=(LOOK,)), OPUS).body["messages"]
        assert messages[: len(before)] == before
        before = messages


def test_a_lone_surrogate_in_arguments_survives() -> None:
    request = asked(spoken("assistant", ir.ToolCall("c", "a", '{"x":"\\ud83d"}')))
    assert DIALECT.codec().encode_request(request, OPUS).body["messages"][0]["content"][0]["input"] == {"x": "\ud83d"}
