from __future__ import annotations

from typing import Any

import pytest
from each import each

from proxy import errors, ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_chat import DIALECT
from proxy.dialects.openai_chat.usage import read_usage, write_usage
from proxy.errors import GatewayError, UpstreamBroken, UpstreamError

VOICE = Voice("req_1", "asked", 1700)


def answer(message: dict[str, Any], finish: Any = "stop", **members: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "up",
        "choices": [choice],
        **members,
    }


def url_citation(**inner: Any) -> dict[str, Any]:
    return {"type": "url_citation", "url_citation": inner}


PARTS: dict[str, tuple[dict[str, Any], tuple[ir.Part, ...], str]] = {
    "text": ({"content": "hi"}, (ir.Text("hi"),), "end"),
    "nothing, for a reason": ({"content": ""}, (), "end"),
    "a refusal": ({"content": None, "refusal": "no"}, (ir.Refusal("no"),), "refusal"),
    "a call under a stop": (
        {
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        (ir.ToolCall("a", "f", "{}"),),
        "tool_call",
    ),
    "a call without an id, with an object": (
        {"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        (ir.ToolCall("call_chatcmpl-1_0", "f", '{"x":1}'),),
        "tool_call",
    ),
    "a custom call": (
        {"tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "patch", "input": "x"}}]},
        (ir.ToolCall("a", "patch", "x", custom=True),),
        "tool_call",
    ),
    "a legacy call": (
        {"function_call": {"name": "f", "arguments": "{}"}},
        (ir.ToolCall("call_chatcmpl-1_0", "f", "{}"),),
        "tool_call",
    ),
    "Snowflake's empty members": (
        {
            "content": "hi",
            "refusal": "",
            "audio": {"id": "", "data": "", "expires_at": 0, "transcript": ""},
            "function_call": {"name": "", "arguments": ""},
            "tool_calls": None,
            "annotations": None,
        },
        (ir.Text("hi"),),
        "end",
    ),
    "audio": (
        {"content": None, "audio": {"id": "au", "data": "AAAA", "transcript": "beep", "expires_at": 9}},
        (ir.Audio(ir.Blob("AAAA"), transcript="beep", id="au", expires_at=9),),
        "end",
    ),
    "a picture": (
        {"content": "", "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        (ir.Image(ir.Blob("AAAA", "image/png")),),
        "end",
    ),
}


@each(("message", "parts", "stop"), PARTS.values(), ids=PARTS)
def test_a_message_has_its_parts(message: dict[str, Any], parts: tuple[ir.Part, ...], stop: str) -> None:
    choice = DIALECT.codec().decode_answer(answer(message)).choices[0]
    assert choice.parts == parts
    assert choice.stop == stop
    assert choice.native_stop == "stop"


def test_reasoning_of_every_name_is_thinking() -> None:
    for message in (
        {"content": "4", "reasoning": "hm"},
        {"content": "4", "reasoning_content": "hm"},
        {"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "4"},
            ]
        },
    ):
        thinking, text = DIALECT.codec().decode_answer(answer(message)).choices[0].parts
        assert isinstance(thinking, ir.Thinking)
        assert (thinking.text, thinking.dialect, text) == ("hm", "openai-chat", ir.Text("4"))


def test_citations_of_the_web_are_kept_as_they_came() -> None:
    raw = url_citation(url="https://x", title="X", start_index=0, end_index=2)
    vague = url_citation(url="https://y", title="", start_index=0, end_index=0, content="words")
    (text,) = DIALECT.codec().decode_answer(answer({"content": "hi", "annotations": [raw, vague]})).choices[0].parts
    assert isinstance(text, ir.Text)
    assert text.citations == (
        ir.Citation("https://x", "X", None, 0, 2, raw, "openai-chat"),
        ir.Citation("https://y", None, "words", None, None, vague, "openai-chat"),
    )


def test_sources_beside_the_choices_are_citations_of_the_text() -> None:
    rich = {"citations": ["https://x"], "search_results": [{"url": "https://x", "title": "X", "snippet": "s"}]}
    (text,) = DIALECT.codec().decode_answer(answer({"content": "hi"}, **rich)).choices[0].parts
    assert text == ir.Text("hi", (ir.Citation("https://x", "X", "s"),))
    (text,) = DIALECT.codec().decode_answer(answer({"content": "hi"}, citations=["https://x"])).choices[0].parts
    assert text == ir.Text("hi", (ir.Citation("https://x"),))


def test_a_stop_sequence_that_the_server_names_is_known() -> None:
    body = answer({"content": "hi"})
    body["choices"][0]["stop_reason"] = "END"
    choice = DIALECT.codec().decode_answer(body).choices[0]
    assert (choice.stop, choice.stop_sequence) == ("stop_sequence", "END")
    body["choices"][0]["stop_reason"] = 154827
    assert DIALECT.codec().decode_answer(body).choices[0].stop == "end"


FINISHES = {
    "length": "length",
    "content_filter": "filter",
    "model_length": "length",
    "eos": "end",
    None: "unknown",
    "": "unknown",
    "brand_new": "unknown",
}


@each(("native", "stop"), FINISHES.items())
def test_a_finish_reason_has_a_meaning(native: str | None, stop: str) -> None:
    assert DIALECT.codec().decode_answer(answer({"content": "hi"}, native)).choices[0].stop == stop


BROKEN: dict[str, tuple[Any, type[UpstreamError]]] = {
    "null": (None, UpstreamBroken),
    "an array": ([], UpstreamBroken),
    "a page": ("<html>login</html>", UpstreamBroken),
    "an empty object": ({}, UpstreamBroken),
    "no choices": ({"id": "x", "choices": []}, UpstreamBroken),
    "another endpoint's answer": ({"object": "list", "data": [{"embedding": [0.1]}]}, UpstreamBroken),
    "choices that are no objects": ({"choices": [None]}, UpstreamBroken),
    "no output and no reason": (answer({"content": ""}, None), UpstreamBroken),
    "no message at all": ({"choices": [{"index": 0}]}, UpstreamBroken),
    "an error": ({"error": {"message": "x", "type": "server_error"}}, errors.UpstreamFailed),
    "an overload": ({"error": {"message": "x", "type": "overloaded_error"}}, errors.UpstreamOverloaded),
    "a limit with a numeric code": ({"error": {"message": "x", "code": 429}}, errors.UpstreamRateLimited),
    "a limit with a code in words": ({"error": {"message": "x", "code": "429"}}, errors.UpstreamRateLimited),
    "an error that is a string": ({"error": "boom"}, errors.UpstreamFailed),
    "vLLM's error": (
        {"object": "error", "message": "x", "type": "BadRequestError", "code": 400},
        errors.UpstreamRejected,
    ),
    "a full window": (
        {"error": {"message": "maximum context length is 8192", "type": "invalid_request_error"}},
        errors.ContextTooLong,
    ),
    "an answer broken off": (answer({"content": "half"}, "error"), errors.UpstreamFailed),
    "DeepSeek out of machines": (answer({"content": ""}, "insufficient_system_resource"), errors.UpstreamFailed),
    "a call without a name": (answer({"tool_calls": [{"id": "a", "function": {}}]}), UpstreamBroken),
}


@each(("parsed", "error"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_an_error(parsed: Any, error: type[UpstreamError]) -> None:
    with pytest.raises(error):
        DIALECT.codec().decode_answer(parsed)


# -- written -----------------------------------------------------------------------------------------------------


def test_an_answer_of_another_dialect_is_written_whole() -> None:
    parts = (
        ir.Thinking("hm", signature="sig", dialect="anthropic"),
        ir.Thinking(redacted="xyz", dialect="anthropic"),
        ir.Text("one "),
        ir.ServerCall("s", "web_search"),
        ir.Text("two", (ir.Citation("https://x", "X"), ir.Citation(cited_text="page 3"))),
        ir.ToolCall("a", "f", "", signature="proof"),
    )
    usage = ir.Usage(input=5, cache_read=3, cache_write_5m=2, cache_write_1h=1, output=7, reasoning=4)
    written = DIALECT.codec().encode_answer(ir.Answer("msg_1", "", (ir.Choice(parts, "tool_call"),), usage), VOICE)
    form = "anthropic-claude-v1"
    assert written == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1700,
        "model": "asked",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "one two",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "hm", "signature": "sig", "format": form, "index": 0},
                        {"type": "reasoning.encrypted", "data": "xyz", "format": form, "index": 1},
                    ],
                    "annotations": [url_citation(url="https://x", title="X", start_index=4, end_index=7)],
                    "tool_calls": [
                        {
                            "id": "a",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                            "extra_content": {"google": {"thought_signature": "proof"}},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }


STOPS: dict[str, tuple[tuple[ir.Part, ...], ir.StopReason, str]] = {
    "an end": ((ir.Text("x"),), "end", "stop"),
    "an end with a call": ((ir.ToolCall("a", "f"),), "end", "tool_calls"),
    "a cut with a call": ((ir.ToolCall("a", "f"),), "length", "length"),
    "a refusal in words": ((ir.Refusal("no"),), "refusal", "stop"),
    "a refusal without words": ((), "refusal", "content_filter"),
    "a stop sequence": ((ir.Text("x"),), "stop_sequence", "stop"),
    "a pause": ((ir.Text("x"),), "pause", "stop"),
    "an unknown end": ((ir.Text("x"),), "unknown", "stop"),
}


@each(("parts", "stop", "reason"), STOPS.values(), ids=STOPS)
def test_every_stop_has_a_reason_that_clients_know(
    parts: tuple[ir.Part, ...], stop: ir.StopReason, reason: str
) -> None:
    written = DIALECT.codec().encode_answer(ir.Answer("x", "m", (ir.Choice(parts, stop),)), VOICE)
    assert written["choices"][0]["finish_reason"] == reason
    assert "usage" not in written, "unknown usage is not written as zeros"


# -- usage -------------------------------------------------------------------------------------------------------

USAGES: dict[str, tuple[Any, ir.Usage]] = {
    "nothing": (None, ir.Usage()),
    "totals alone": ({"prompt_tokens": 5, "completion_tokens": 2}, ir.Usage(5, output=2)),
    "cached and written are parts of the prompt": (
        {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}},
        ir.Usage(3, 4, 3),
    ),
    "DeepSeek's hits": ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4}, ir.Usage(6, 4)),
    "Moonshot's": ({"prompt_tokens": 10, "cached_tokens": 4}, ir.Usage(6, 4)),
    "more cached than there is": (
        {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}},
        ir.Usage(0, 10),
    ),
    "reasoning within": (
        {
            "prompt_tokens": 1,
            "completion_tokens": 9,
            "total_tokens": 10,
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
        ir.Usage(1, output=9, reasoning=4),
    ),
    "reasoning apart, as xAI counts": (
        {
            "prompt_tokens": 12,
            "completion_tokens": 2,
            "total_tokens": 354,
            "completion_tokens_details": {"reasoning_tokens": 340},
        },
        ir.Usage(12, output=342, reasoning=340),
    ),
    "absurd": (
        {
            "prompt_tokens": -1,
            "completion_tokens": "7",
            "prompt_tokens_details": [],
            "completion_tokens_details": {"reasoning_tokens": 1.5},
        },
        ir.Usage(),
    ),
    "huge": ({"prompt_tokens": 1e30, "completion_tokens": True}, ir.Usage()),
    "whole floats": ({"prompt_tokens": 3.0, "completion_tokens": None}, ir.Usage(3)),
}


@each(("raw", "usage"), USAGES.values(), ids=USAGES)
def test_usage_falls_into_disjoint_classes(raw: Any, usage: ir.Usage) -> None:
    assert read_usage(raw) == usage


def test_a_total_that_is_unknown_is_not_written() -> None:
    assert write_usage(ir.Usage(input=3)) is None
    assert write_usage(ir.Usage(output=3)) is None


# -- errors ------------------------------------------------------------------------------------------------------

OWN: dict[str, tuple[GatewayError, int, str, str]] = {
    "a bad request": (errors.InvalidRequest("x", param="n"), 400, "invalid_request_error", "invalid_request"),
    "no key": (errors.Unauthenticated("x"), 401, "invalid_request_error", "invalid_api_key"),
    "no model": (errors.UnknownModel("x"), 404, "invalid_request_error", "model_not_found"),
    "not allowed": (errors.NotAllowed("x"), 403, "permission_error", "not_allowed"),
    "spent": (errors.BudgetSpent("x"), 429, "insufficient_quota", "insufficient_quota"),
    "limited": (errors.LimitReached("x"), 429, "rate_limit_error", "rate_limit_exceeded"),
    "an upstream that fails": (errors.UpstreamFailed("x"), 502, "server_error", "upstream_failed"),
    "overloaded": (errors.UpstreamOverloaded("x"), 529, "server_error", "upstream_overloaded"),
}


@each(("error", "status", "kind", "code"), OWN.values(), ids=OWN)
def test_our_errors_have_the_types_that_the_sdk_knows(error: GatewayError, status: int, kind: str, code: str) -> None:
    body = DIALECT.write_error(error, status, "req_1")
    assert body == {"error": {"message": "x", "type": kind, "param": error.param, "code": code}}
    reading = DIALECT.read_error(body)
    assert (reading.own, reading.message, reading.type, reading.code) == (True, "x", kind, code)


FOREIGN: dict[str, tuple[Any, bool, str, str]] = {
    "its own": ({"error": {"message": "m", "type": "t", "code": None}}, True, "m", ""),
    "a numeric code": ({"error": {"message": "m", "code": 429}}, True, "m", "429"),
    "a string": ({"error": "m", "code": "c"}, True, "m", "c"),
    "Mistral's": ({"object": "error", "message": "m", "type": "t", "code": "3000"}, True, "m", "3000"),
    "FastAPI's": ({"detail": [{"loc": ["body"], "msg": "m"}]}, True, "m", ""),
    "FastAPI's in short": ({"detail": "m"}, True, "m", ""),
    "nothing": (None, False, "", ""),
    "a page": ("<html>", False, "", ""),
    "an error without words": ({"error": {}}, False, "", ""),
}


@each(("parsed", "own", "message", "code"), FOREIGN.values(), ids=FOREIGN)
def test_errors_of_providers_are_read(parsed: Any, own: bool, message: str, code: str) -> None:
    reading = DIALECT.read_error(parsed)
    assert (reading.own, reading.message, reading.code) == (own, message, code)


def test_paths_and_the_credential() -> None:
    assert DIALECT.path("chat", "m", True) == "/chat/completions"
    assert DIALECT.path("embeddings", "m", False) == "/embeddings"
    assert DIALECT.path("audio/speech", "m", False) == "/audio/speech"
    assert DIALECT.credential("K") == (("Authorization", "Bearer K"),)
