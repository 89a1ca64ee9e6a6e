from __future__ import annotations

import json
from typing import Any

import pytest
from each import each
from sdk_reading import read_response

from proxy import errors, ir
from proxy.dialects import failures
from proxy.dialects.dialect import Reading, Voice
from proxy.dialects.openai_responses import DIALECT
from proxy.dialects.openai_responses.usage import read_usage, write_usage
from proxy.errors import UpstreamBroken

NAME = DIALECT.name
VOICE = Voice("req_1", "asked-for", 7)
URL = {"type": "url_citation", "url": "https://e.org", "title": "E", "start_index": 0, "end_index": 2}


def answer(*output: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"id": "resp_1", "model": "m", "created_at": 7, "status": "completed", "output": list(output), **members}


def message(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": list(content)}


def text(words: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": words, "annotations": list(annotations)}


CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"}

# -- reading -----------------------------------------------------------------------------------------------------

SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
PICTURE = {"type": "image_generation_call", "id": "ig_1", "result": "aGk=", "output_format": "webp"}
ANSWERS: dict[str, tuple[dict[str, Any], tuple[ir.Part, ...], ir.StopReason, str]] = {
    "text": (answer(message(text("hi"))), (ir.Text("hi"),), "end", "completed"),
    "text with its source": (
        answer(message(text("hi", URL))),
        (ir.Text("hi", (ir.Citation("https://e.org", "E", start=0, end=2, raw=URL, dialect=NAME),)),),
        "end",
        "completed",
    ),
    "a refusal": (
        answer(message({"type": "refusal", "refusal": "No."})), (ir.Refusal("No."),), "refusal", "completed",
    ),
    "reasoning and calls": (
        answer({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "a"}],
                "encrypted_content": "e"}, CALL,
               {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "edit", "input": "x"}),
        (ir.Thinking("", ("a",), encrypted="e", id="rs_1", dialect=NAME),
         ir.ToolCall("c1", "look", "{}", item_id="fc_1"),
         ir.ToolCall("c2", "edit", "x", custom=True, item_id="ctc_1")),
        "tool_call",
        "completed",
    ),
    "tools that the provider runs are no calls of the client's": (
        answer(SEARCH, {"type": "mcp_approval_request", "id": "mcpr_1"}),
        (ir.ServerCall("ws_1", "web_search", "", SEARCH, NAME),
         ir.Opaque("mcp_approval_request", {"type": "mcp_approval_request", "id": "mcpr_1"}, NAME)),
        "end",
        "completed",
    ),
    "a picture": (answer(PICTURE), (ir.Image(ir.Blob("aGk=", "image/webp")),), "end", "completed"),
    "cut off by its bound": (
        answer(message(text("h")), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        (ir.Text("h"),),
        "length",
        "max_output_tokens",
    ),
    "filtered before a word": (
        answer(status="incomplete", incomplete_details={"reason": "content_filter"}), (), "filter", "content_filter",
    ),
    "incomplete for no known reason": (answer(message(text("h")), status="incomplete"), (ir.Text("h"),), "unknown",
                                       "incomplete"),
    "no status": (answer(message(text("h")), status=None), (ir.Text("h"),), "end", "completed"),
    "arguments as an object": (
        answer({**CALL, "arguments": {"a": 1}}), (ir.ToolCall("c1", "look", '{"a":1}', item_id="fc_1"),), "tool_call",
        "completed",
    ),
}  # fmt: skip


@each(("body", "parts", "stop", "native"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read(body: dict[str, Any], parts: tuple[ir.Part, ...], stop: ir.StopReason, native: str) -> None:
    read = DIALECT.codec().decode_answer(body)
    assert (read.id, read.model, read.created) == ("resp_1", "m", 7)
    choice = read.choices[0]
    assert (choice.parts, choice.stop, choice.native_stop) == (parts, stop, native)
    assert DIALECT.check_answer(body) is None


def test_log_probabilities_are_read_and_written() -> None:
    found = [{"token": "hi", "logprob": -1.0, "bytes": [1], "top_logprobs": []}]
    read = DIALECT.codec().decode_answer(answer(message({**text("hi"), "logprobs": found})))
    assert read.choices[0].logprobs == {"content": found, "refusal": None}
    assert DIALECT.codec().encode_answer(read, VOICE)["output"][0]["content"][0]["logprobs"] == found


BROKEN: dict[str, Any] = {
    "nothing": None,
    "an array": [],
    "a page": "<html>",
    "an empty object": {},
    "no output": {"id": "r", "status": "completed"},
    "output that is text": {"output": "hi"},
    "no output and no status": {"output": []},
    "an answer of Chat": {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]},
}


@each("body", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_broken(body: Any) -> None:
    with pytest.raises(UpstreamBroken):
        DIALECT.check_answer(body)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_in_the_background_passes_and_cannot_be_bridged(status: str) -> None:
    assert DIALECT.check_answer(answer(status=status, background=True)) is None
    with pytest.raises(UpstreamBroken, match="no way to wait"):
        DIALECT.codec().decode_answer(answer(status=status))


def test_the_other_endpoints_of_such_a_provider_are_chats() -> None:
    assert DIALECT.path("chat", "m", True) == "/responses"
    assert DIALECT.path("embeddings", "m", False) == "/embeddings"


def test_a_call_without_a_name_is_broken() -> None:
    with pytest.raises(UpstreamBroken, match="without a name"):
        DIALECT.codec().decode_answer(answer({**CALL, "name": None}))


FAILURES: dict[str, tuple[dict[str, Any], type[errors.UpstreamError]]] = {
    "an error object": ({"error": {"message": "busy", "type": "overloaded_error"}}, errors.UpstreamOverloaded),
    "a failed response": (answer(status="failed", error={"code": "server_error", "message": "m"}),
                          errors.UpstreamFailed),
    "one that does not say why": (answer(status="failed", error=None), errors.UpstreamFailed),
    "too many": (answer(status="failed", error={"code": "rate_limit_exceeded", "message": "m"}),
                 errors.UpstreamRateLimited),
    "fault with the request": (answer(status="failed", error={"code": "invalid_image", "message": "m"}),
                               errors.UpstreamRejected),
    "a policy": (answer(status="failed", error={"code": "image_content_policy_violation", "message": "m"}),
                 errors.ContentBlocked),
    "too long": (answer(status="failed", error={"code": "context_length_exceeded", "message": "m"}),
                 errors.ContextTooLong),
}  # fmt: skip


@each(("body", "kind"), FAILURES.values(), ids=FAILURES)
def test_a_failure_under_a_200_is_that_failure(body: dict[str, Any], kind: type[errors.UpstreamError]) -> None:
    for read in (DIALECT.check_answer, DIALECT.codec().decode_answer):
        with pytest.raises(kind):
            read(body)


# -- writing -----------------------------------------------------------------------------------------------------


def written(*parts: ir.Part, stop: ir.StopReason = "end", **asked: Any) -> dict[str, Any]:
    body = ir.Answer("a1", "m", (ir.Choice(parts, stop),), ir.Usage(input=3, cache_read=1, output=2), created=5)
    found = json.loads(json.dumps(DIALECT.codec().encode_answer(body, Voice("req_1", "asked-for", 7, asked=asked))))
    assert read_response(json.dumps(found).encode()).usage == {"input_total": 4, "cache_read": 1, "output": 2}
    return dict(found)


def items(*parts: ir.Part, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = written(*parts, **asked)["output"]
    return [{name: value for name, value in item.items() if name not in ("status", "role")} for item in found]


def test_the_response_repeats_what_was_asked_and_keeps_nothing() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}, "strict": False}]
    body = written(
        ir.Text("hi"), instructions="Be brief.", tools=tools, temperature=0.5, store=False, metadata={"a": "b"},
        reasoning={"effort": "low"}, text={"verbosity": "low"}, parallel_tool_calls=False,
    )  # fmt: skip
    assert (body["id"], body["object"], body["status"], body["created_at"]) == ("a1", "response", "completed", 5)
    assert (body["instructions"], body["tools"], body["temperature"]) == ("Be brief.", tools, 0.5)
    assert (body["metadata"], body["parallel_tool_calls"], body["store"]) == ({"a": "b"}, False, False)
    assert body["reasoning"] == {"effort": "low", "summary": None}
    assert body["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    plain = written(ir.Text("hi"))
    assert (plain["tools"], plain["tool_choice"], plain["store"], plain["truncation"]) == (
        [],
        "auto",
        False,
        "disabled",
    )


ITEMS: dict[str, tuple[list[ir.Part], list[dict[str, Any]]]] = {
    "words that follow each other are one message": (
        [ir.Text("a"), ir.Text("b"), ir.Refusal("c")],
        [{"id": "msg_a1_0", "type": "message", "content": [
            {**text("a"), "logprobs": []}, {**text("b"), "logprobs": []}, {"type": "refusal", "refusal": "c"}]}],
    ),
    "a call parts messages": (
        [ir.Text("a"), ir.ToolCall("c1", "look"), ir.Text("b")],
        [{"id": "msg_a1_0", "type": "message", "content": [{**text("a"), "logprobs": []}]},
         {"id": "fc_a1_1", "type": "function_call", "arguments": "{}", "call_id": "c1", "name": "look"},
         {"id": "msg_a1_2", "type": "message", "content": [{**text("b"), "logprobs": []}]}],
    ),
    "a citation without a place stands for the whole text": (
        [ir.Text("hello", (ir.Citation("https://e.org"), ir.Citation(title="no page")))],
        [{"id": "msg_a1_0", "type": "message", "content": [{
            **text("hello", {**URL, "title": "", "end_index": 5}), "logprobs": []}]}],
    ),
    "own reasoning as it was": (
        [ir.Thinking("full", ("a", "b"), encrypted="e", id="rs_1", dialect=NAME)],
        [{"id": "rs_1", "type": "reasoning", "summary": [
            {"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
          "content": [{"type": "reasoning_text", "text": "full"}], "encrypted_content": "e"}],
    ),
    "thinking of others is a summary, sealed": (
        [ir.Thinking("hm", signature="s", dialect="anthropic"), ir.Thinking(redacted="d", dialect="anthropic"),
         ir.Thinking("so", dialect="openai-chat")],
        [{"id": "rs_a1_0", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}],
          "encrypted_content": "pointsman/anthropic/signature/s"},
         {"id": "rs_a1_1", "type": "reasoning", "summary": [],
          "encrypted_content": "pointsman/anthropic/redacted/d"},
         {"id": "rs_a1_2", "type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}],
          "encrypted_content": "pointsman/openai-chat/"}],
    ),
    "a proof goes ahead of its call": (
        [ir.ToolCall("c1", "look", "{}", signature="s")],
        [{"id": "rs_a1_0", "type": "reasoning", "summary": [], "encrypted_content": "pointsman/gemini/call/s"},
         {"id": "fc_a1_1", "type": "function_call", "arguments": "{}", "call_id": "c1", "name": "look"}],
    ),
    "a proof of words stands behind them": (
        [ir.Text("a", signature="s"), ir.Text("b")],
        [{"id": "msg_a1_0", "type": "message", "content": [{**text("a"), "logprobs": []}]},
         {"id": "rs_a1_1", "type": "reasoning", "summary": [], "encrypted_content": "pointsman/gemini/text/s"},
         {"id": "msg_a1_2", "type": "message", "content": [{**text("b"), "logprobs": []}]}],
    ),
    "a call without an id gets one": (
        [ir.ToolCall("", "look", "{}")],
        [{"id": "fc_a1_0", "type": "function_call", "arguments": "{}", "call_id": "call_fc_a1_0", "name": "look"}],
    ),
    "another provider's search": (
        [ir.ServerCall("s", "web_search", '{"query":"q"}', dialect="anthropic"),
         ir.ServerResult("s", "web_search", dialect="anthropic"),
         ir.ServerCall("x", "code_execution", "{}", dialect="anthropic")],
        [{"id": "ws_a1_0", "type": "web_search_call", "action": {"type": "search", "query": "q"}}],
    ),
    "a picture": (
        [ir.Image(ir.Blob("aGk=", "image/webp")), ir.Image(ir.Url("https://e.org/a.png"))],
        [{"id": "ig_a1_0", "type": "image_generation_call", "output_format": "webp", "result": "aGk="}],
    ),
}  # fmt: skip


@each(("parts", "found"), ITEMS.values(), ids=ITEMS)
def test_parts_become_items(parts: list[ir.Part], found: list[dict[str, Any]]) -> None:
    assert items(*parts) == found


def test_a_function_that_the_client_knows_as_a_custom_tool_is_called_as_one() -> None:
    tools = [{"type": "custom", "name": "edit"}]
    called = {"id": "ctc_a1_0", "type": "custom_tool_call", "input": "a\n", "call_id": "c1", "name": "edit"}
    assert items(ir.ToolCall("c1", "edit", '{"input":"a\\n"}'), tools=tools) == [called]
    assert items(ir.ToolCall("c1", "edit", "a\n"), tools=tools) == [called]


STOPS: dict[ir.StopReason, tuple[str, str | None]] = {
    "end": ("completed", None), "tool_call": ("completed", None), "stop_sequence": ("completed", None),
    "pause": ("completed", None), "unknown": ("completed", None), "length": ("incomplete", "max_output_tokens"),
    "filter": ("incomplete", "content_filter"), "refusal": ("incomplete", "content_filter"), "error": ("failed", None),
}  # fmt: skip


@each(("stop", "status", "reason"), [(stop, *words) for stop, words in STOPS.items()])
def test_why_it_ended(stop: ir.StopReason, status: str, reason: str | None) -> None:
    body = written(ir.Text("hi"), stop=stop)
    assert (body["status"], body["incomplete_details"]) == (status, {"reason": reason} if reason else None)
    assert body["output"][-1]["status"] == ("completed" if status == "completed" else "incomplete")
    assert bool(body["error"]) is (status == "failed")
    if stop == "refusal":
        assert written(ir.Refusal("No."), stop=stop)["status"] == "completed"


def test_an_item_id_is_one_that_the_api_takes_back() -> None:
    long = ir.Answer("gen/" + "x" * 90, "", (ir.Choice((ir.Text("hi"),), "end"),))
    body = DIALECT.codec().encode_answer(long, VOICE)
    ident = body["output"][0]["id"]
    assert ident.startswith("msg_gen_x")
    assert len(ident) <= 64
    assert (body["model"], body["created_at"], body["usage"]) == ("asked-for", 7, None)
    assert DIALECT.codec().encode_answer(ir.Answer("", "m", ()), VOICE)["id"] == "resp_req_1"


# -- usage -------------------------------------------------------------------------------------------------------

USAGES: dict[str, tuple[Any, ir.Usage]] = {
    "classes are taken apart": (
        {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 1}, "output_tokens": 4,
         "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 14},
        ir.Usage(input=3, cache_read=6, cache_write_5m=1, output=4, reasoning=3),
    ),
    "no details": ({"input_tokens": 10, "output_tokens": 4}, ir.Usage(input=10, output=4)),
    "nonsense": ({"input_tokens": -1, "output_tokens": "4", "input_tokens_details": []}, ir.Usage()),
    "more nonsense": ({"input_tokens": 1e30, "output_tokens": 0.5, "output_tokens_details": {"reasoning_tokens": True}},
                      ir.Usage()),
    "more cached than there is": (
        {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 9}, "output_tokens": 1},
        ir.Usage(input=0, cache_read=5, output=1),
    ),
    "nothing": (None, ir.Usage()),
}  # fmt: skip


@each(("raw", "usage"), USAGES.values(), ids=USAGES)
def test_usage_is_read(raw: Any, usage: ir.Usage) -> None:
    assert read_usage(raw) == usage


def test_usage_is_written_whole_or_not_at_all() -> None:
    usage = ir.Usage(input=3, cache_read=6, cache_write_5m=1, cache_write_1h=2, output=4, reasoning=3)
    assert write_usage(usage) == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 3},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 16,
    }
    assert write_usage(ir.Usage(input=3)) is None
    assert write_usage(ir.Usage(output=3)) is None


# -- errors ------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_chat() -> None:
    error = errors.InvalidRequest("`input`: no.", param="input")
    body = DIALECT.write_error(error, 400, "req_1")
    assert body == {
        "error": {
            "message": "`input`: no.",
            "type": "invalid_request_error",
            "param": "input",
            "code": "invalid_request",
        }
    }
    assert DIALECT.read_error(body) == Reading(
        True, "`input`: no.", "invalid_request_error", "invalid_request", "input"
    )
    limited = DIALECT.read_error({"error": {"message": "m", "type": "tokens", "code": "rate_limit_exceeded"}})
    failure = ir.Failure(limited.type, limited.message, code=limited.code)
    assert failures.status_of(failure) == 429
