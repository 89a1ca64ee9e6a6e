from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from each import each
from sdk_reading import Reading, read_message

from proxy import errors, ir
from proxy.dialects.anthropic import DIALECT
from proxy.dialects.anthropic.faults import write_failure
from proxy.dialects.anthropic.usage import read_usage, write_usage
from proxy.dialects.dialect import Reading as ErrorReading
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError, UpstreamBroken
from proxy.wire import json_text

DATA = Path(__file__).parents[1] / "data" / "anthropic"
USAGES = json.loads((DATA / "usage.json").read_text())
VOICE = Voice("req_1", "asked-for", 0)


def message(**members: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    } | members


def answer(*parts: ir.Part, stop: ir.StopReason = "end", **members: Any) -> ir.Answer:
    return ir.Answer("id-1", "glm", (ir.Choice(parts, stop),), **members)


# -- usage -------------------------------------------------------------------------------------------------------


@each(("raw", "classes"), USAGES.values(), ids=USAGES)
def test_usage_is_read_in_disjoint_classes(raw: Any, classes: dict[str, int]) -> None:
    assert read_usage(raw) == ir.Usage(**classes)


def test_usage_comes_back() -> None:
    raw, _ = USAGES["all classes"]
    assert write_usage(read_usage(raw)) == raw


def test_what_is_unknown_is_written_as_nothing() -> None:
    assert write_usage(ir.Usage()) == {"input_tokens": 0, "output_tokens": 0}


def test_the_hours_share_is_remembered_where_only_the_sum_is_repeated() -> None:
    start = ir.Usage(input=1, cache_write_5m=5, cache_write_1h=20)
    later = read_usage({"cache_creation_input_tokens": 25, "output_tokens": 3}, start)
    assert start.merged(later) == ir.Usage(input=1, cache_write_5m=5, cache_write_1h=20, output=3)


# -- checking ----------------------------------------------------------------------------------------------------

NO_ANSWERS: dict[str, tuple[Any, type[GatewayError]]] = {
    "null": (None, UpstreamBroken),
    "a list": ([], UpstreamBroken),
    "a text": ("<html>", UpstreamBroken),
    "an empty object": ({}, UpstreamBroken),
    "content that is no list": (message(content="Hi"), UpstreamBroken),
    "nothing, and no reason": (message(content=[], stop_reason=None), UpstreamBroken),
    "an error": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
        errors.UpstreamOverloaded,
    ),
    "an error without an envelope": (
        {"error": {"type": "rate_limit_error", "message": "slow"}},
        errors.UpstreamRateLimited,
    ),
    "an error without words": ({"type": "error"}, errors.UpstreamFailed),
}


@each(("body", "error"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_is_a_failed_attempt(body: Any, error: type[GatewayError]) -> None:
    with pytest.raises(error):
        DIALECT.check_answer(body)


def test_an_empty_answer_with_a_reason_is_a_success() -> None:
    body = message(content=[], stop_reason="refusal")
    assert DIALECT.check_answer(body) == ir.Usage(input=3, output=2)
    assert DIALECT.codec().decode_answer(body).choices[0].stop == "refusal"


@pytest.mark.parametrize("usage", [None, [], "x"])
def test_an_answer_without_usage_passes(usage: Any) -> None:
    assert DIALECT.check_answer(message(usage=usage)) is None
    assert DIALECT.codec().decode_answer(message(usage=usage)).usage == ir.Usage()


def test_a_block_that_cannot_be_read_breaks_the_answer() -> None:
    with pytest.raises(UpstreamBroken, match=r"content\[0\]\.name"):
        DIALECT.codec().decode_answer(message(content=[{"type": "tool_use", "id": "a"}]))


# -- decoding and encoding ---------------------------------------------------------------------------------------

STOPS: dict[str, tuple[ir.StopReason, str]] = {
    "end_turn": ("end", "end_turn"),
    "max_tokens": ("length", "max_tokens"),
    "stop_sequence": ("stop_sequence", "stop_sequence"),
    "tool_use": ("tool_call", "tool_use"),
    "pause_turn": ("pause", "pause_turn"),
    "refusal": ("refusal", "refusal"),
    "model_context_window_exceeded": ("length", "model_context_window_exceeded"),
    "of_next_year": ("unknown", "end_turn"),
}


@each(("native", "stops"), STOPS.items(), ids=STOPS)
def test_stop_reasons_both_ways(native: str, stops: tuple[ir.StopReason, str]) -> None:
    decoded = DIALECT.codec().decode_answer(message(stop_reason=native))
    assert decoded.choices[0].stop == stops[0]
    assert DIALECT.codec().encode_answer(decoded, VOICE)["stop_reason"] == stops[1]


def test_what_only_this_api_says_comes_back() -> None:
    body = message(
        container={"id": "c"},
        stop_details={"type": "refusal"},
        usage={"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2}},
    )
    again = DIALECT.codec().encode_answer(DIALECT.codec().decode_answer(body), VOICE)
    assert dict(again) == body


CITED = ir.Citation(url="https://e.org", title="E", dialect="openai-chat", raw={"type": "url_citation"})
ENCODED: dict[str, tuple[ir.Answer, list[dict[str, Any]], str]] = {
    "text": (answer(ir.Text("Hi")), [{"type": "text", "text": "Hi"}], "end_turn"),
    "nothing": (answer(ir.Text(""), stop="length"), [], "max_tokens"),
    "a call, though the provider says stop": (
        answer(ir.Text("so"), ir.ToolCall("c.1", "look", '{"at": 1}')),
        [{"type": "text", "text": "so"}, {"type": "tool_use", "id": "c_2e1", "name": "look", "input": {"at": 1}}],
        "tool_use",
    ),
    "a call without id and arguments": (
        answer(ir.ToolCall("", "look"), stop="tool_call"),
        [{"type": "tool_use", "id": "toolu_req_1_0", "name": "look", "input": {}}],
        "tool_use",
    ),
    "a call cut off by the length": (
        answer(ir.Text("so"), ir.ToolCall("c", "look", '{"at'), stop="length"),
        [{"type": "text", "text": "so"}],
        "max_tokens",
    ),
    "a refusal": (answer(ir.Refusal("No.")), [{"type": "text", "text": "No."}], "refusal"),
    "a filter": (answer(ir.Text("x"), stop="filter"), [{"type": "text", "text": "x"}], "refusal"),
    "thinking of another provider has no proof": (
        answer(ir.Thinking("hm", signature="s", dialect="gemini"), ir.Text("x")),
        [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "x"}],
        "end_turn",
    ),
    "a summary of thinking": (
        answer(ir.Thinking(summary=("a", "b"), encrypted="e", dialect="openai-responses")),
        [{"type": "thinking", "thinking": "a\n\nb", "signature": ""}],
        "end_turn",
    ),
    "thinking that shows nothing": (
        answer(ir.Thinking(encrypted="e", dialect="openai-responses"), ir.Text("x")),
        [{"type": "text", "text": "x"}],
        "end_turn",
    ),
    "a citation": (
        answer(ir.Text("x", (CITED,))),
        [
            {
                "type": "text",
                "text": "x",
                "citations": [
                    {
                        "type": "web_search_result_location",
                        "url": "https://e.org",
                        "title": "E",
                        "cited_text": "",
                        "encrypted_index": "",
                    }
                ],
            }
        ],
        "end_turn",
    ),
    "what has no place in a message": (
        answer(ir.Image(ir.Url("u")), ir.ServerCall("s", "search", dialect="openai-responses"), ir.Text("x")),
        [{"type": "text", "text": "x"}],
        "end_turn",
    ),
}


@each(("given", "content", "stop"), ENCODED.values(), ids=ENCODED)
def test_an_answer_of_another_dialect_becomes_a_message(
    given: ir.Answer, content: list[dict[str, Any]], stop: str
) -> None:
    written = DIALECT.codec().encode_answer(given, VOICE)
    assert (written["content"], written["stop_reason"]) == (content, stop)
    assert read_message(json_text.write(written)).stop == stop


def test_a_message_has_all_that_its_sdk_wants() -> None:
    written = DIALECT.codec().encode_answer(ir.Answer("", "", (ir.Choice((ir.Text("Hi"),), "end"),)), VOICE)
    assert (written["id"], written["model"]) == ("msg_req_1", "asked-for")
    usage = {"input": 0, "cache_read": None, "cache_write": None, "output": 0}
    assert read_message(json_text.write(written)) == Reading("Hi", (), "end_turn", usage)


@pytest.mark.parametrize("arguments", ['{"x', "[1]", "7"])
def test_a_call_with_broken_arguments_is_a_broken_answer(arguments: str) -> None:
    with pytest.raises(UpstreamBroken, match="look"):
        DIALECT.codec().encode_answer(answer(ir.ToolCall("c", "look", arguments), stop="tool_call"), VOICE)


# -- errors ------------------------------------------------------------------------------------------------------

READINGS: dict[str, tuple[Any, ErrorReading]] = {
    "the API's own": (
        {
            "type": "error",
            "error": {"type": "not_found_error", "message": "m", "details": {"error_code": "c"}},
            "request_id": "r",
        },
        ErrorReading(True, "m", "not_found_error", "c"),
    ),
    "half of it": ({"error": {"type": "x", "message": "m"}}, ErrorReading(False, "m", "x")),
    "a text for an error": ({"error": "no"}, ErrorReading(False, "no")),
    "no JSON object": (None, ErrorReading(False)),
    "absurd": ({"type": "error", "error": {"type": 7, "message": []}}, ErrorReading(False)),
}


@each(("body", "reading"), READINGS.values(), ids=READINGS)
def test_an_errors_body_is_read(body: Any, reading: ErrorReading) -> None:
    assert DIALECT.read_error(body) == reading


@each(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error"),
        (403, "permission_error"), (404, "not_found_error"), (408, "timeout_error"), (413, "request_too_large"),
        (422, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"),
        (503, "api_error"), (504, "timeout_error"), (529, "overloaded_error"),
    ],
)  # fmt: skip
def test_our_errors_have_the_names_that_the_sdks_know(status: int, kind: str) -> None:
    error = errors.UnknownModel("No such model.", param="model")
    assert DIALECT.write_error(error, status, "req_1") == {
        "type": "error",
        "error": {
            "type": kind,
            "message": "No such model.",
            "details": {"error_code": "model_not_found", "param": "model"},
        },
        "request_id": "req_1",
    }


@each(
    ("error", "kind"),
    [
        (errors.UpstreamOverloaded("x"), "overloaded_error"),
        (errors.UpstreamRateLimited("x"), "rate_limit_error"),
        (errors.UpstreamTimeout("x"), "timeout_error"),
        (errors.UpstreamBroken("x"), "api_error"),
        (errors.UpstreamRefusedKey("x"), "api_error"),
        (errors.ContentBlocked("x"), "invalid_request_error"),
        (errors.BudgetSpent("x"), "billing_error"),
        (errors.NotAllowed("x"), "permission_error"),
        (errors.Internal("x"), "api_error"),
    ],
)
def test_in_a_stream_the_errors_class_stands_for_its_status(error: GatewayError, kind: str) -> None:
    written = write_failure(error, "req_1")
    assert (written["error"]["type"], written["error"]["details"]) == (kind, {"error_code": error.code})


# -- how it is reached -------------------------------------------------------------------------------------------


def test_where_and_how_a_request_is_sent() -> None:
    assert DIALECT.path("chat", "claude-x", True) == "/v1/messages"
    assert DIALECT.credential("KEY") == (("x-api-key", "KEY"),)
    assert DIALECT.fixed_headers == (("anthropic-version", "2023-06-01"),)
    with pytest.raises(errors.Unsupported):
        DIALECT.path("embeddings", "claude-x", False)


@pytest.mark.parametrize(
    ("data", "value"), [(b'"\\ud83d"', "\ud83d"), (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"), (b"[1]", [1])]
)
def test_json_is_read_and_written_with_its_surrogates(data: bytes, value: Any) -> None:
    assert json_text.read(data) == value
    assert json_text.read(json_text.write(value)) == value


@each("data", [b"{", b"NaN", b'["\\ud83d", NaN]', b"[" * 100_000, b'"\\ud83d"' + b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        json_text.read(data)


@each(("native", "tier"), {"standard": "default", "priority": "priority", "batch": None, "odd": None}.items())
def test_how_an_answer_was_served_is_told_in_openais_words(native: str, tier: str | None) -> None:
    counts = {"input_tokens": 1, "output_tokens": 1, "service_tier": native}
    assert DIALECT.codec().decode_answer(message(usage=counts)).service_tier == tier
