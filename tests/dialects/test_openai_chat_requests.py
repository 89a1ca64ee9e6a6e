from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy import ir
from proxy.dialects.openai_chat import DIALECT
from proxy.errors import InvalidRequest, Unsupported

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "openai_chat" / "requests.json").read_text())
HI = [{"role": "user", "content": "hi"}]


@each("case", GOLDEN.values(), ids=GOLDEN)
def test_a_request_is_written_as_it_was_meant(case: dict[str, Any]) -> None:
    request = DIALECT.codec().decode_request(case["body"])
    encoded = DIALECT.codec().encode_request(request, ir.Target(case["native"], max_output=case.get("max_output")))
    assert json.loads(json.dumps(encoded.body)) == case["encoded"]
    assert encoded.dropped == ()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"messages": HI}, "model"),
    "an empty model": ({"model": "", "messages": HI}, "model"),
    "no messages": ({"model": "m"}, "messages"),
    "messages that are no array": ({"model": "m", "messages": "hi"}, "messages"),
    "an empty array of messages": ({"model": "m", "messages": []}, "messages"),
    "a message that is a number": ({"model": "m", "messages": [1]}, "messages[0]"),
    "an unknown role": ({"model": "m", "messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
    "content that is a number": ({"model": "m", "messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "a part without a type": (
        {"model": "m", "messages": [*HI, {"role": "user", "content": [{"text": "x"}]}]},
        "messages[1].content[0].type",
    ),
    "an image without a URL": (
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    "a file without data": (
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
        "messages[0].content[0].file.file_data",
    ),
    "a result without the id of its call": (
        {"model": "m", "messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
    ),
    "a call without a function": (
        {"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    "a tool without a name": (
        {"model": "m", "messages": HI, "tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
    ),
    "an unknown tool choice": ({"model": "m", "messages": HI, "tool_choice": "maybe"}, "tool_choice"),
    "stream as a string": ({"model": "m", "messages": HI, "stream": "true"}, "stream"),
    "a negative cap": ({"model": "m", "messages": HI, "max_tokens": -1}, "max_tokens"),
    "a cap with a fraction": ({"model": "m", "messages": HI, "max_tokens": 1.5}, "max_tokens"),
    "a cap beyond all numbers": ({"model": "m", "messages": HI, "max_tokens": 1e308}, "max_tokens"),
    "a boolean temperature": ({"model": "m", "messages": HI, "temperature": True}, "temperature"),
    "stops that are numbers": ({"model": "m", "messages": HI, "stop": ["a", 1]}, "stop[1]"),
    "an unknown response format": (
        {"model": "m", "messages": HI, "response_format": {"type": "xml"}},
        "response_format.type",
    ),
    "a schema format without the schema": (
        {"model": "m", "messages": HI, "response_format": {"type": "json_schema"}},
        "response_format.json_schema",
    ),
    "a bias that is a word": ({"model": "m", "messages": HI, "logit_bias": {"1": "x"}}, "logit_bias.1"),
}


@each(("body", "param"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.codec().decode_request(body)
    assert caught.value.param == param
    assert param in caught.value.message


# -- from other dialects -----------------------------------------------------------------------------------------


def _foreign(*messages: ir.Message, dialect: str = "anthropic", **members: Any) -> ir.Request:
    return ir.Request("m", messages or (ir.Message("user", (ir.Text("hi"),)),), dialect, **members)


def _encode(request: ir.Request, native: str = "gpt-4o", provider: str = "openai") -> ir.Encoded:
    return DIALECT.codec().encode_request(request, ir.Target(native, provider))


def test_a_system_of_blocks_and_a_turn_of_blocks_become_strings() -> None:
    request = _foreign(
        ir.Message("system", (ir.Text("one", cache=ir.Cache()), ir.Text("two"))),
        ir.Message("user", (ir.Text("reminder"), ir.Text("question", cache=ir.Cache("1h")))),
    )
    encoded = _encode(request)
    assert encoded.body["messages"] == [
        {"role": "system", "content": "one\n\ntwo"},
        {"role": "user", "content": "reminder\n\nquestion"},
    ]
    assert encoded.dropped == ("system[0].cache_control", "messages[0].content[1].cache_control")


def test_claude_behind_a_compatible_endpoint_keeps_its_cache_markers() -> None:
    request = _foreign(
        ir.Message("user", (ir.Text("a", cache=ir.Cache("1h")),)), tools=(ir.Tool("f", schema={}, cache=ir.Cache()),)
    )
    encoded = _encode(request, "anthropic/claude-sonnet-4.5", "openrouter")
    marker = {"type": "ephemeral", "ttl": "1h"}
    assert encoded.body["messages"][0]["content"] == [{"type": "text", "text": "a", "cache_control": marker}]
    assert encoded.body["tools"][0]["cache_control"] == {"type": "ephemeral"}
    assert encoded.dropped == ()


def test_pictures_of_a_tool_follow_behind_the_last_result_of_the_turn() -> None:
    """Nothing may stand between calls and results, and a result may hold text alone."""
    picture = ir.Image(ir.Blob("AAAA", "image/png"))
    request = _foreign(
        ir.Message("user", (ir.Text("look"),)),
        ir.Message("assistant", (ir.ToolCall("a", "f"), ir.ToolCall("b", "f", '{"x":1}'))),
        ir.Message("tool", (ir.ToolResult("a", (picture,)), ir.ToolResult("b", (ir.Text("no"),), is_error=True))),
        ir.Message("user", (ir.Text("and?"),)),
    )
    encoded = _encode(request)
    assert encoded.body["messages"][2:] == [
        {"role": "tool", "tool_call_id": "a", "content": "Attached below."},
        {"role": "tool", "tool_call_id": "b", "content": "no"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Attachments of tool call a:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    assert encoded.dropped == ("messages[2].content[1].is_error",)
    calls = encoded.body["messages"][1]
    assert calls["content"] is None
    assert [call["function"]["arguments"] for call in calls["tool_calls"]] == ["{}", '{"x":1}']


def test_pictures_of_the_last_tool_turn_get_a_message_of_their_own() -> None:
    request = _foreign(
        ir.Message("tool", (ir.ToolResult("a", (ir.Text("see"), ir.Image(ir.Url("https://x/y")))),)),
    )
    roles = [message["role"] for message in _encode(request).body["messages"]]
    assert roles == ["tool", "user"]


def test_thinking_that_another_provider_signed_is_never_sent() -> None:
    signed = ir.Thinking("hm", signature="s", dialect="anthropic")
    request = _foreign(ir.Message("user", (ir.Text("x"),)), ir.Message("assistant", (signed, ir.Text("4"))))
    encoded = _encode(request, "deepseek-reasoner", "deepseek")
    assert encoded.body["messages"][1] == {"role": "assistant", "content": "4"}
    assert encoded.dropped == ("messages[1].content[0]",)


MEMBERS = {
    "deepseek-v4": "reasoning_content",
    "moonshotai/kimi-k2.6": "reasoning_content",
    "openai/gpt-oss-20b": "reasoning",
}


@pytest.mark.parametrize(("native", "member"), MEMBERS.items())
def test_unsigned_thinking_goes_back_to_models_that_want_it(native: str, member: str) -> None:
    turn = ir.Message("assistant", (ir.Thinking("hm", dialect="anthropic"), ir.ToolCall("a", "f")))
    encoded = _encode(_foreign(turn), native)
    assert encoded.body["messages"][0][member] == "hm"
    assert encoded.dropped == ()


THINKING: dict[str, tuple[ir.Reasoning, str, str, dict[str, Any], tuple[str, ...]]] = {
    "a budget is an effort": (
        ir.Reasoning(budget=20_000, enabled=True),
        "gpt-5",
        "openai",
        {"reasoning_effort": "high"},
        ("thinking.budget_tokens",),
    ),
    "a small budget is a low one": (
        ir.Reasoning(budget=1024, enabled=True),
        "o3",
        "openai",
        {"reasoning_effort": "low"},
        ("thinking.budget_tokens",),
    ),
    "an effort is an effort": (
        ir.Reasoning(effort="max"),
        "gpt-oss-20b",
        "groq",
        {"reasoning_effort": "high"},
        ("output_config.effort",),
    ),
    "none at all is the least": (
        ir.Reasoning(enabled=False),
        "gpt-5",
        "openai",
        {"reasoning_effort": "low"},
        ("thinking",),
    ),
    "a model that does not reason is not asked to": (
        ir.Reasoning(budget=2000, enabled=True),
        "gpt-4o",
        "openai",
        {},
        ("thinking",),
    ),
    "no thinking needs no word there": (ir.Reasoning(enabled=False), "gpt-4o", "openai", {}, ()),
    "a switch": (
        ir.Reasoning(budget=2000, enabled=True),
        "glm-4.7",
        "zai",
        {"thinking": {"type": "enabled"}},
        ("thinking.budget_tokens",),
    ),
    "a switch that is off": (
        ir.Reasoning(enabled=False),
        "deepseek-v4",
        "deepseek",
        {"thinking": {"type": "disabled"}},
        (),
    ),
    "OpenRouter's object": (
        ir.Reasoning(budget=2000, enabled=True),
        "anthropic/claude-x",
        "openrouter",
        {"reasoning": {"max_tokens": 2000}},
        (),
    ),
}


@each(("asked", "native", "provider", "members", "dropped"), THINKING.values(), ids=THINKING)
def test_thinking_is_asked_for_in_the_words_of_the_model(
    asked: ir.Reasoning, native: str, provider: str, members: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    encoded = _encode(_foreign(reasoning=asked), native, provider)
    names = ("reasoning_effort", "thinking", "reasoning", "enable_thinking")
    assert {name: encoded.body[name] for name in names if name in encoded.body} == members
    assert encoded.dropped == dropped


def test_what_the_target_cannot_say_is_named() -> None:
    request = _foreign(
        top_k=5,
        temperature=0.2,
        extra={"context_management": {}},
        metadata={"user_id": "u"},
        user="u",
        service_tier="standard_only",
    )
    encoded = _encode(request, "gpt-5")
    assert encoded.dropped == ("temperature", "top_k", "context_management")
    assert encoded.body["user"] == "u"
    assert encoded.body["service_tier"] == "default"
    assert "metadata" not in encoded.body


def test_what_only_openai_knows_goes_to_openai_alone() -> None:
    members: dict[str, Any] = {"verbosity": "low", "cache_key": "k", "store": False, "metadata": {"a": "b"}}
    request = _foreign(dialect="openai-responses", extra={"safety_identifier": "u", "include": ["x"]}, **members)
    there, elsewhere = _encode(request, "gpt-5"), _encode(request, "llama-3.3-70b", "groq")
    assert there.dropped == ("include", "metadata")
    assert (there.body["store"], there.body["safety_identifier"], there.body["verbosity"]) == (False, "u", "low")
    assert set(elsewhere.body) == {"model", "messages"}
    assert set(elsewhere.dropped) == {"include", "text.verbosity", "metadata", "prompt_cache_key", "safety_identifier"}
    kept = _foreign(dialect="openai-responses", store=True, metadata={"a": "b"})
    assert _encode(kept, "gpt-5").body["metadata"] == {"a": "b"}


REFUSED: dict[str, tuple[ir.Request, str]] = {
    "a tool that another provider runs": (
        _foreign(tools=(ir.ServerTool("code_execution", {"type": "x"}, "anthropic"),)),
        "tools[0]",
    ),
    "web search, of a model without it": (
        _foreign(tools=(ir.ServerTool("web_search", {"type": "x"}, "anthropic"),)),
        "tools[0]",
    ),
    "a file that another provider stores": (
        _foreign(ir.Message("user", (ir.File(ir.FileId("file_1")),))),
        "messages[0].content[0]",
    ),
    "a picture that another provider stores": (
        _foreign(ir.Message("user", (ir.Text("x"), ir.Image(ir.FileId("file_1"))))),
        "messages[0].content[1]",
    ),
    "a document by URL": (_foreign(ir.Message("user", (ir.File(ir.Url("https://x")),))), "messages[0].content[0]"),
    "audio by URL": (_foreign(ir.Message("user", (ir.Audio(ir.Url("https://x")),))), "messages[0].content[0]"),
}


@each(("request_", "param"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_left_out_is_refused(request_: ir.Request, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        _encode(request_)
    assert caught.value.param == param


def test_web_search_goes_to_the_models_that_search() -> None:
    request = _foreign(tools=(ir.ServerTool("web_search", {"type": "web_search_20250305"}, "anthropic"),))
    assert _encode(request, "gpt-4o-search-preview").body["web_search_options"] == {}


def test_a_document_given_as_text_stays_text() -> None:
    document = ir.File(ir.PlainText("body"), "Title", context="why", citations=True)
    encoded = _encode(_foreign(ir.Message("user", (document,))))
    assert encoded.body["messages"][0]["content"] == '<document title="Title">\nwhy\nbody\n</document>'
    assert encoded.dropped == ("messages[0].content[0].citations",)


def test_developer_is_system_to_all_but_openai() -> None:
    request = _foreign(ir.Message("developer", (ir.Text("x"),)), dialect="openai-responses")
    assert _encode(request, "gpt-4o").body["messages"][0]["role"] == "developer"
    assert _encode(request, "llama-3").body["messages"][0]["role"] == "system"


def test_signed_thinking_comes_home_through_a_chat_client() -> None:
    """A client that keeps OpenRouter's details hands them back as deltas or joined: the proof is found either way."""
    form = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    deltas = [{**form, "text": "so "}, {**form, "text": "it is"}, {**form, "signature": "sig"}]
    redacted = {"type": "reasoning.encrypted", "data": "xyz", "format": "anthropic-claude-v1", "index": 1}
    message = {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "so it is",
        "reasoning_details": [*deltas, redacted],
    }
    first, second, text = DIALECT.codec().decode_request({"model": "m", "messages": [message]}).messages[0].parts
    assert isinstance(first, ir.Thinking)
    assert isinstance(second, ir.Thinking)
    assert (first.text, first.signature, first.dialect) == ("so it is", "sig", "anthropic")
    assert (second.redacted, second.dialect) == ("xyz", "anthropic")
    assert text == ir.Text("4")


def test_a_proof_alone_finds_the_text_beside_it() -> None:
    detail = {"type": "reasoning.text", "signature": "sig", "format": "anthropic-claude-v1", "index": 0}
    message = {"role": "assistant", "content": "", "reasoning_content": "hm", "reasoning_details": [detail]}
    (part,) = DIALECT.codec().decode_request({"model": "m", "messages": [message]}).messages[0].parts
    assert isinstance(part, ir.Thinking)
    assert (part.text, part.signature) == ("hm", "sig")


# -- the shape ---------------------------------------------------------------------------------------------------

NEEDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({"messages": HI}, set()),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools"}),
    "parallel calls asked for": ({"parallel_tool_calls": True}, {"parallel_tools"}),
    "parallel calls refused": ({"parallel_tool_calls": False}, set()),
    "parallel calls in the history": (
        {"messages": [{"role": "assistant", "tool_calls": [{}, {}]}]},
        {"tools", "parallel_tools"},
    ),
    "a tool's result in the history": ({"messages": [{"role": "tool", "content": "4"}]}, {"tools"}),
    "json": ({"response_format": {"type": "json_object"}}, {"json"}),
    "text is no json": ({"response_format": {"type": "text"}}, set()),
    "an effort": ({"reasoning_effort": "low"}, {"thinking"}),
    "no effort": ({"reasoning_effort": "none"}, set()),
    "a switch that is off": ({"thinking": {"type": "disabled"}}, set()),
    "a switch that is on": ({"enable_thinking": True}, {"thinking"}),
    "spoken output": ({"modalities": ["text", "audio"]}, {"audio"}),
    "pictures out": ({"modalities": ["image", "text"]}, {"images"}),
    "pictures, sound and files in": (
        {"messages": [{"role": "user", "content": [{"type": kind} for kind in ("image_url", "input_audio", "file")]}]},
        {"vision", "audio", "files"},
    ),
}


@each(("body", "needs"), NEEDS.values(), ids=NEEDS)
def test_needs_are_read_from_the_shape(body: dict[str, Any], needs: set[str]) -> None:
    assert DIALECT.read_shape(body).needs == needs


def test_turns_and_sizes() -> None:
    body = {
        "max_tokens": 9,
        "max_completion_tokens": 7.0,
        "n": 2,
        "messages": [
            {"role": "system", "content": "sys"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image_url"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "ff", "arguments": "{}"}}]},
            {"role": "user", "content": "three"},
        ],
    }
    shape = DIALECT.read_shape(body)
    assert (shape.turns, shape.system, shape.media) == (("one", "three"), "sys", 1)
    assert (shape.max_tokens, shape.n, shape.chars) == (7, 2, 3 + 3 + 4 + 5)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "tool_calls",
                    "function",
                    "messages",
                    "tools",
                    "n",
                    "max_tokens",
                    "thinking",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(["messages", "tools", "n", "max_tokens", "modalities", "response_format"]), JSON)
)
def test_the_shape_of_anything_can_be_read(body: dict[str, Any]) -> None:
    assert DIALECT.read_shape(body).n >= 1


@given(st.lists(JSON, max_size=3), JSON, JSON)
def test_any_body_is_a_request_or_an_invalid_one(messages: list[Any], tools: Any, choice: Any) -> None:
    body = {"model": "m", "messages": messages, "tools": tools, "tool_choice": choice, "stop": choice}
    try:
        request = DIALECT.codec().decode_request(body)
    except InvalidRequest:
        return
    assert DIALECT.codec().encode_request(request, ir.Target("gpt-4o")).body["messages"]


@each(
    ("extra", "life"),
    [
        ({}, None),
        ({"cache_control": {"type": "ephemeral"}}, "5m"),
        ({"messages": [{"content": [{"text": "a", "cache_control": {"ttl": "1h"}}]}]}, "1h"),
        ({"tools": [{"type": "function", "cache_control": {"type": "ephemeral"}}]}, "5m"),
        ({"messages": [{"content": [{"text": "a", "prompt_cache_breakpoint": {}}]}]}, "5m"),
        ({"cache_control": "1h", "messages": 7}, None),
    ],
)
def test_the_longest_life_that_a_cache_marker_asks_for(extra: dict[str, Any], life: str | None) -> None:
    assert DIALECT.read_shape(extra).cache_write == life
