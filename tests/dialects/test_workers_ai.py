from __future__ import annotations

from typing import Any

import orjson
import pytest
from each import each

from proxy import errors, ir
from proxy.dialects import failures
from proxy.dialects.workers_ai import DIALECT, check_answer, mend_answer, mend_frame, mend_request
from proxy.errors import Foreign, UpstreamBroken, UpstreamError
from proxy.wire.sse import Framer


def envelope(code: Any = 7009, message: str = "Upstream service unavailable") -> dict[str, Any]:
    return {"result": None, "success": False, "errors": [{"code": code, "message": message}], "messages": []}


def test_its_bytes_pass_through_as_openai_chat() -> None:
    assert (DIALECT.name, DIALECT.speaks) == ("workers-ai", "openai-chat")
    assert DIALECT.path("chat", "@cf/meta/llama", False) == "/chat/completions", "the id stands in the body alone"


# -- requests ----------------------------------------------------------------------------------------------------

TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x"}}
CONTENTS: dict[str, tuple[Any, Any]] = {
    "null": (None, ""),
    "text parts": ([TEXT, TEXT], "a\n\na"),
    "no parts": ([], ""),
    "a string": ("a", "a"),
    "a picture among them": ([TEXT, IMAGE], [TEXT, IMAGE]),
}


@each(("content", "mended"), CONTENTS.values(), ids=CONTENTS)
def test_content_is_a_string_where_it_can_be(content: Any, mended: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]}
    result = mend_request(body)
    if mended == content:
        assert result is None, "nothing is touched that need not be"
    else:
        assert result == {"model": "m", "messages": [body["messages"][0], {"role": "assistant", "content": mended}]}


def test_a_call_without_content_gets_some() -> None:
    message = {"role": "assistant", "tool_calls": [{"id": "a"}]}
    assert mend_request({"messages": [message]}) == {"messages": [{**message, "content": ""}]}
    assert "content" not in message, "the request belongs to the next candidate too"


def test_bodies_without_messages_are_left_alone() -> None:
    assert mend_request({"input": "x"}) is None
    assert mend_request({"messages": "x"}) is None
    assert mend_request({"messages": ["x"]}) is None


def test_a_translated_request_is_mended_as_it_is_written() -> None:
    turn = ir.Message("assistant", (ir.ToolCall("a", "f"),))
    encoded = DIALECT.codec().encode_request(ir.Request("m", (turn,), "anthropic"), ir.Target("@cf/meta/llama"))
    assert encoded.body["messages"][0]["content"] == ""


# -- frames ------------------------------------------------------------------------------------------------------


def frame(chunk: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)


WHOLE = [
    frame({"choices": [{"index": 0, "delta": {"content": "a"}}]}),
    frame({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a"}]}}]}),
    frame({"choices": []}),
    b"data: [DONE]\n\n",
    b": comment\n\n",
    b"data: {broken\n\n",
]


@each("raw", WHOLE)
def test_a_good_frame_is_the_same_bytes(raw: bytes) -> None:
    assert mend_frame(raw, "req_1") == raw


def test_a_choice_without_an_index_gets_one() -> None:
    for delta in ({"content": "a"}, {"tool_calls": [{"index": 0, "id": "a"}]}):
        (mended,) = Framer().feed(mend_frame(frame({"id": "x", "choices": [{"delta": delta}]}), "req_1"))
        assert orjson.loads(mended.data) == {"id": "x", "choices": [{"index": 0, "delta": delta}]}


def test_the_frames_beside_a_mended_one_keep_their_bytes() -> None:
    raw = b": hi\n\n" + frame({"choices": [{"delta": {}}]}) + b"data: [DONE]\n\n"
    assert (
        mend_frame(raw, "req_1") == b": hi\n\n" + frame({"choices": [{"index": 0, "delta": {}}]}) + b"data: [DONE]\n\n"
    )


def test_the_native_stream_becomes_chunks() -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 1}
    raw = frame({"response": "New"}) + frame({"response": "", "usage": usage}) + b"data: [DONE]\n\n"
    decoder = DIALECT.codec().stream_decoder()
    events = [event for each in Framer().feed(mend_frame(raw, "req_1")) for event in decoder.feed(each)]
    assert events == [
        ir.Start("", "", 0), ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "New"),
        ir.UsageReport(ir.Usage(2, output=1)), ir.PartEnd(0), ir.Finish("unknown"), ir.End(),
    ]  # fmt: skip


def test_the_native_stream_is_understood_unmended_too() -> None:
    decoder = DIALECT.codec().stream_decoder()
    events = [event for each in Framer().feed(frame({"response": "New"})) for event in decoder.feed(each)]
    assert ir.TextDelta(0, "New") in events


def test_an_error_in_a_stream_has_the_clients_shape() -> None:
    (mended,) = Framer().feed(mend_frame(frame(envelope(3036, "spent")), "req_1"))
    error = orjson.loads(mended.data)["error"]
    assert error == {
        "message": "spent",
        "type": "insufficient_quota",
        "param": None,
        "code": "3036",
        "status_code": 429,
    }
    (failure,) = DIALECT.codec().stream_decoder().feed(mended)
    assert isinstance(failure, ir.Failure)
    assert isinstance(failures.of_stream(failure), errors.UpstreamRefusedKey)


def test_tap_and_decoder_know_the_codes_of_an_error_as_it_came() -> None:
    (raw,) = Framer().feed(frame(envelope(3036, "spent")))
    tap = DIALECT.tap()
    assert tap.look(raw) is ir.Sight.ERROR
    assert DIALECT.codec().stream_decoder().feed(raw) == [tap.error]
    assert tap.error == ir.Failure("insufficient_quota", "spent", 429, "3036")


# -- answers and errors ------------------------------------------------------------------------------------------


def test_the_native_answer_becomes_a_completion() -> None:
    result = {
        "response": "hi",
        "tool_calls": [{"name": "f", "arguments": {"x": 1}}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1},
    }
    body = orjson.dumps({"result": result, "success": True, "errors": [], "messages": []})
    mended = orjson.loads(mend_answer(body, "req_1"))
    assert mended["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert mended["choices"][0]["finish_reason"] == "tool_calls"
    for parsed in (mended, orjson.loads(body)):
        assert check_answer(parsed) == ir.Usage(2, output=1)
        assert DIALECT.codec().decode_answer(parsed).choices[0].parts[0] == ir.Text("hi")


# What stands under `result` -> content and the calls' arguments.
CALL = {"name": "f", "arguments": {"x": 1}}
RESULTS: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "JSON that was asked for": ({"response": {"a": [1]}}, '{"a":[1]}', []),
    "calls and no words": ({"response": None, "tool_calls": [CALL]}, "", ['{"x":1}']),
    "calls alone": ({"tool_calls": [CALL, CALL]}, "", ['{"x":1}', '{"x":1}']),
    "calls in OpenAI's words": (
        {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, "", ["{}"],
    ),
    "a whole completion": (
        {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}, "hi", [],
    ),
}  # fmt: skip


@each(("result", "content", "arguments"), RESULTS.values(), ids=RESULTS)
def test_what_a_native_answer_holds(result: dict[str, Any], content: str, arguments: list[str]) -> None:
    message = orjson.loads(mend_answer(orjson.dumps({"result": result}), "req_1"))["choices"][0]["message"]
    calls = message.get("tool_calls", [])
    assert (message["content"], [call["function"]["arguments"] for call in calls]) == (content, arguments)
    assert len({call["id"] for call in calls}) == len(calls)
    assert all(call["id"] for call in calls)


def test_calls_in_the_native_stream() -> None:
    raw = mend_frame(frame({"response": None, "tool_calls": [CALL, CALL]}), "req_7") + b"data: [DONE]\n\n"
    first, _ = Framer().feed(raw)
    (choice,) = orjson.loads(first.data)["choices"]
    assert [call["index"] for call in choice["delta"]["tool_calls"]] == [0, 1]
    assert [call["id"] for call in choice["delta"]["tool_calls"]] == ["call_7_0", "call_7_1"]
    assert choice["finish_reason"] == "tool_calls"


@each(
    "body",
    [
        b'{"result":{"response":"","tool_calls":[1]}}',
        b'{"choices":[{"result":1}]}',
        b'{"result":',
        b"<html>",
        orjson.dumps(envelope()),
    ],
)
def test_other_answers_are_the_same_bytes(body: bytes) -> None:
    assert mend_answer(body, "req_1") == body


UNDER_200: dict[str, tuple[Any, type[UpstreamError]]] = {
    "unavailable": (envelope(), errors.UpstreamFailed),
    "out of capacity": (envelope(3040), errors.UpstreamRateLimited),
    "the allocation is spent": (envelope(3036), errors.UpstreamRefusedKey),
    "no such model": (envelope(5007), errors.UpstreamUnknownModel),
    "an invalid id": (envelope(3042), errors.UpstreamUnknownModel),
    "a wrong token": (envelope(10000), errors.UpstreamRefusedKey),
    "a code unknown to us": (envelope(9999), errors.UpstreamFailed),
    "a code that is none": (envelope(True), errors.UpstreamFailed),
    "no error in it": ({"success": False, "errors": []}, errors.UpstreamFailed),
    "the compatible shape": ({"error": {"message": "x", "code": 429}}, errors.UpstreamRateLimited),
    "null": (None, UpstreamBroken),
    "nothing": ({}, UpstreamBroken),
}


@each(("parsed", "error"), UNDER_200.values(), ids=UNDER_200)
def test_an_error_under_a_200_is_that_error(parsed: Any, error: type[UpstreamError]) -> None:
    with pytest.raises(error):
        check_answer(parsed)


STATUSES: dict[str, tuple[int, int, type[UpstreamError]]] = {
    "no route to the account": (400, 7003, errors.UpstreamUnknownModel),
    "no such model": (400, 5007, errors.UpstreamUnknownModel),
    "spent": (429, 3036, errors.UpstreamRefusedKey),
    "capacity": (429, 3040, errors.UpstreamRateLimited),
    "a wrong token": (401, 10000, errors.UpstreamRefusedKey),
    "too large": (413, 3006, errors.UpstreamRejected),
}


@each(("status", "code", "error"), STATUSES.values(), ids=STATUSES)
def test_a_native_error_is_sorted_by_its_code(status: int, code: int, error: type[UpstreamError]) -> None:
    reading = DIALECT.read_error(envelope(code, "words"))
    assert (reading.own, reading.code) == (False, str(code))
    assert reading.message == ("" if code in (7000, 7003) else "words"), "where there is no route, the account is named"
    assert type(failures.of_status(status, reading, Foreign(status, b""))) is error


def test_the_compatible_error_is_its_own() -> None:
    reading = DIALECT.read_error({"error": {"message": "x", "type": "t"}})
    assert (reading.own, reading.message) == (True, "x")
