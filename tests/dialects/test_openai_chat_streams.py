from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from each import each

from proxy import ir
from proxy.dialects.openai_chat import DIALECT
from proxy.errors import UpstreamBroken
from proxy.wire.sse import Frame

DONE = Frame(b"[DONE]")
START = ir.Start("c1", "up", 5)


def chunk(delta: Any = None, finish: str | None = None, *, index: int | None = 0, **members: Any) -> Frame:
    choice: dict[str, Any] = {"delta": {} if delta is None else delta, "finish_reason": finish}
    if index is not None:
        choice["index"] = index
    return frame(choices=[choice], **members)


def frame(**members: Any) -> Frame:
    return Frame(orjson.dumps({"id": "c1", "created": 5, "model": "up", **members}))


def call(index: int | None = 0, ident: str | None = None, name: str | None = None, arguments: str | None = None) -> Any:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    raw = {"index": index, "id": ident, "function": function}
    return {key: value for key, value in raw.items() if value is not None}


def calls(*raw: Any) -> dict[str, Any]:
    return {"tool_calls": list(raw)}


def decode(frames: Sequence[Frame]) -> list[ir.StreamEvent]:
    decoder = DIALECT.codec().stream_decoder()
    return [event for each in frames for event in decoder.feed(each)] + decoder.close()


def text_part(part: int, *texts: str) -> list[ir.StreamEvent]:
    return [ir.PartStart(part, ir.Text("")), *(ir.TextDelta(part, text) for text in texts), ir.PartEnd(part)]


def call_part(part: int, ident: str, name: str, *arguments: str) -> list[ir.StreamEvent]:
    deltas = (ir.ArgumentsDelta(part, text) for text in arguments)
    return [ir.PartStart(part, ir.ToolCall(ident, name)), *deltas, ir.PartEnd(part)]


END: list[ir.StreamEvent] = [ir.Finish("end", native_stop="stop"), ir.End()]
CALLED: list[ir.StreamEvent] = [ir.Finish("tool_call", native_stop="tool_calls"), ir.End()]
FINISHED, CALL_END = [chunk(finish="stop"), DONE], [chunk(finish="tool_calls"), DONE]

STREAMS: dict[str, tuple[list[Frame], list[ir.StreamEvent]]] = {
    "text": (
        [chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "b"}), *FINISHED],
        [*text_part(0, "a", "b"), *END],
    ),
    "no index, no role, null content": (
        [chunk({"content": None}, index=None), chunk({"content": "a"}, index=None), *FINISHED],
        [*text_part(0, "a"), *END],
    ),
    "a finish reason beside the last text": ([chunk({"content": "a"}, "stop"), DONE], [*text_part(0, "a"), *END]),
    "a finish reason told twice": ([chunk({"content": "a"}, "stop"), *FINISHED], [*text_part(0, "a"), *END]),
    "no finish reason": ([chunk({"content": "a"}), DONE], [*text_part(0, "a"), ir.Finish("unknown"), ir.End()]),
    "nothing at all": ([chunk({"role": "assistant"}), DONE], [ir.End()]),
    "no [DONE]": ([chunk({"content": "a"}), chunk(finish="stop")], [*text_part(0, "a"), END[0]]),
    "reasoning, then text": (
        [
            chunk({"reasoning_content": "h"}),
            chunk({"reasoning": "m", "content": ""}),
            chunk({"content": "4"}),
            *FINISHED,
        ],
        [
            ir.PartStart(0, ir.Thinking(dialect="openai-chat")),
            ir.ThinkingDelta(0, "h"),
            ir.ThinkingDelta(0, "m"),
            ir.PartEnd(0),
            *text_part(1, "4"),
            *END,
        ],
    ),
    "signed reasoning, which OpenRouter repeats in two members": (
        [
            chunk(
                {
                    "reasoning": "h",
                    "reasoning_details": [{"type": "reasoning.text", "text": "h", "format": "anthropic-claude-v1"}],
                }
            ),
            chunk(
                {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1"}]}
            ),
            chunk(
                {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "format": "anthropic-claude-v1"}]}
            ),
            *FINISHED,
        ],
        [
            ir.PartStart(0, ir.Thinking(dialect="anthropic")),
            ir.ThinkingDelta(0, "h"),
            ir.SignatureDelta(0, "s"),
            ir.PartEnd(0),
            ir.PartStart(1, ir.Thinking(redacted="x", dialect="anthropic")),
            ir.PartEnd(1),
            *END,
        ],
    ),
    "Mistral's list": (
        [
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}]}),
            chunk({"content": [{"type": "text", "text": "4"}]}),
            *FINISHED,
        ],
        [
            ir.PartStart(0, ir.Thinking(dialect="openai-chat")),
            ir.ThinkingDelta(0, "h"),
            ir.PartEnd(0),
            *text_part(1, "4"),
            *END,
        ],
    ),
    "arguments piece by piece, two calls": (
        [
            chunk(calls(call(0, "a", "f", ""))),
            chunk(calls(call(0, None, None, '{"x"'))),
            chunk(calls(call(0, "", None, ":1}"))),
            chunk(calls(call(1, "b", "g", "{}"))),
            *CALL_END,
        ],
        [*call_part(0, "a", "f", '{"x"', ":1}"), *call_part(1, "b", "g", "{}"), *CALLED],
    ),
    "two calls whole in one chunk": (
        [chunk(calls(call(0, "a", "f", "{}"), call(1, "b", "f", "{}")), "tool_calls"), DONE],
        [*call_part(0, "a", "f", "{}"), *call_part(1, "b", "f", "{}"), *CALLED],
    ),
    "a name in every chunk": (
        [chunk(calls(call(0, "a", "f", "{"))), chunk(calls(call(0, "a", "f", "}"))), *CALL_END],
        [*call_part(0, "a", "f", "{", "}"), *CALLED],
    ),
    "calls without an index, by id": (
        [
            chunk(calls(call(None, "a", "f", "{"))),
            chunk(calls(call(None, "a", None, "}"))),
            chunk(calls(call(None, "b", "f", "{}"))),
            *CALL_END,
        ],
        [*call_part(0, "a", "f", "{", "}"), *call_part(1, "b", "f", "{}"), *CALLED],
    ),
    "calls under one index, another id": (
        [chunk(calls(call(0, "a", "f", "{}"))), chunk(calls(call(0, "b", "f", "{}"))), *CALL_END],
        [*call_part(0, "a", "f", "{}"), *call_part(1, "b", "f", "{}"), *CALLED],
    ),
    "calls with neither index nor id": (
        [
            chunk(calls(call(None, None, "f", "{}"), call(None, None, "f", "{}"))),
            chunk(calls(call(None, None, None, " "))),
            *CALL_END,
        ],
        [
            *call_part(0, "call_c1_0", "f", "{}"),
            ir.PartStart(1, ir.ToolCall("call_c1_1", "f")),
            ir.ArgumentsDelta(1, "{}"),
            ir.ArgumentsDelta(1, " "),
            ir.PartEnd(1),
            *CALLED,
        ],
    ),
    "a name that comes late": (
        [chunk(calls(call(0, "a", None, '{"x'))), chunk(calls(call(0, None, "f", '":1}'))), *CALL_END],
        [*call_part(0, "a", "f", '{"x":1}'), *CALLED],
    ),
    "an index that starts at one": (
        [chunk({"content": "a"}), chunk(calls(call(1, "a", "f", "{}"))), *CALL_END],
        [*text_part(0, "a"), *call_part(1, "a", "f", "{}"), *CALLED],
    ),
    "a call that ends with stop": (
        [chunk(calls(call(0, "a", "f", "{}"))), *FINISHED],
        [*call_part(0, "a", "f", "{}"), ir.Finish("tool_call", native_stop="stop"), ir.End()],
    ),
    "a custom call": (
        [
            chunk({"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "p", "input": "*"}}]}),
            *CALL_END,
        ],
        [ir.PartStart(0, ir.ToolCall("a", "p", custom=True)), ir.ArgumentsDelta(0, "*"), ir.PartEnd(0), *CALLED],
    ),
    "a legacy call": (
        [
            chunk({"function_call": {"name": "f", "arguments": ""}}),
            chunk({"function_call": {"arguments": "{}"}}),
            chunk(finish="function_call"),
            DONE,
        ],
        [*call_part(0, "call_c1_0", "f", "{}"), ir.Finish("tool_call", native_stop="function_call"), ir.End()],
    ),
    "a refusal": (
        [chunk({"refusal": "no"}), *FINISHED],
        [
            ir.PartStart(0, ir.Refusal("")),
            ir.RefusalDelta(0, "no"),
            ir.PartEnd(0),
            ir.Finish("refusal", native_stop="stop"),
            ir.End(),
        ],
    ),
    "audio": (
        [
            chunk({"audio": {"id": "au", "transcript": "be"}}),
            chunk({"audio": {"data": "AAAA"}}),
            chunk({"audio": {"expires_at": 9}}),
            *FINISHED,
        ],
        [ir.PartStart(0, ir.Audio(id="au")), ir.AudioDelta(0, "", "be"), ir.AudioDelta(0, "AAAA"), ir.PartEnd(0), *END],
    ),
    "a picture": (
        [chunk({"content": "", "images": [{"type": "image_url", "image_url": {"url": "https://x"}}]}), *FINISHED],
        [ir.PartStart(0, ir.Image(ir.Url("https://x"))), ir.PartEnd(0), *END],
    ),
    "usage in its own chunk": (
        [
            chunk({"content": "a"}),
            chunk(finish="stop"),
            frame(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1}),
            DONE,
        ],
        [*text_part(0, "a"), END[0], ir.UsageReport(ir.Usage(3, output=1)), ir.End()],
    ),
    "usage twice, the last all zero": (
        [
            chunk({"content": "a"}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 1}),
            chunk(None, "stop", usage={"prompt_tokens": 0, "completion_tokens": 0}),
            DONE,
        ],
        [*text_part(0, "a"), END[0], ir.UsageReport(ir.Usage(3, output=1)), ir.End()],
    ),
    "Groq's usage": (
        [chunk({"content": "a"}, "stop", x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 1}}), DONE],
        [*text_part(0, "a"), END[0], ir.UsageReport(ir.Usage(3, output=1)), ir.End()],
    ),
    "two choices": (
        [
            chunk({"content": "a"}),
            chunk({"content": "b"}, index=1),
            chunk(finish="stop"),
            chunk(finish="length", index=1),
            DONE,
        ],
        [
            ir.PartStart(0, ir.Text("")),
            ir.TextDelta(0, "a"),
            ir.PartStart(0, ir.Text(""), 1),
            ir.TextDelta(0, "b", 1),
            ir.PartEnd(0),
            END[0],
            ir.PartEnd(0, 1),
            ir.Finish("length", None, 1, "length"),
            ir.End(),
        ],
    ),
    "a stop sequence that the server names": (
        [frame(choices=[{"delta": {"content": "a"}, "finish_reason": "stop", "stop_reason": "END"}]), DONE],
        [*text_part(0, "a"), ir.Finish("stop_sequence", "END", 0, "stop"), ir.End()],
    ),
    "Perplexity's sources, repeated in every chunk": (
        [chunk({"content": "a"}, citations=["https://x"]), chunk({"content": "b"}, citations=["https://x"]), *FINISHED],
        [
            ir.PartStart(0, ir.Text("")),
            ir.TextDelta(0, "a"),
            ir.CitationDelta(0, ir.Citation("https://x")),
            ir.TextDelta(0, "b"),
            ir.PartEnd(0),
            *END,
        ],
    ),
    "unknown chunks": ([frame(object="something.new"), chunk({"content": "a"}), *FINISHED], [*text_part(0, "a"), *END]),
    "a whole message in a stream": (
        [
            frame(choices=[{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]),
            DONE,
        ],
        [*text_part(0, "a"), *END],
    ),
    "text behind the finish": (
        [chunk({"content": "a"}, "stop"), chunk({"content": "b"}), DONE],
        [*text_part(0, "a"), END[0], *text_part(1, "b"), ir.End()],
    ),
    "an error": (
        [chunk({"content": "a"}), frame(error={"message": "no", "type": "server_error", "code": 502})],
        [
            ir.PartStart(0, ir.Text("")),
            ir.TextDelta(0, "a"),
            ir.Failure("server_error", "no", 502, "502"),
            ir.PartEnd(0),
        ],
    ),
    "an error named by its event": (
        [chunk({"role": "assistant"}), Frame(b'{"message":"no","type":"overloaded_error"}', b"error")],
        [ir.Failure("overloaded_error", "no")],
    ),
    "broken off": (
        [chunk({"content": "a"}, "insufficient_system_resource")],
        [
            *text_part(0, "a"),
            ir.Failure(
                "server_error",
                "The provider broke off its answer (insufficient_system_resource).",
                None,
                "insufficient_system_resource",
            ),
        ],
    ),
}


@each(("frames", "events"), STREAMS.values(), ids=STREAMS)
def test_a_stream_is_read(frames: list[Frame], events: list[ir.StreamEvent]) -> None:
    assert decode(frames) == [START, *events]


def test_azure_starts_with_its_filter_results() -> None:
    first = Frame(b'{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}')
    assert decode([first, chunk({"content": "a"}), *FINISHED]) == [START, *text_part(0, "a"), *END]


def test_open_router_cites_ahead_of_the_text() -> None:
    raw = {"type": "url_citation", "url_citation": {"url": "https://x", "title": "X"}}
    events = decode([chunk({"content": "", "annotations": [raw]}), chunk({"content": "a"}), *FINISHED])
    cited = ir.CitationDelta(0, ir.Citation("https://x", "X", raw=raw, dialect="openai-chat"))
    assert events == [START, ir.PartStart(0, ir.Text("")), cited, ir.TextDelta(0, "a"), ir.PartEnd(0), *END]


GARBAGE = {
    "not JSON": b"<html>",
    "a string": b'"x"',
    "null": b"null",
    "an array": b"[]",
    "choices that are no array": b'{"choices":{}}',
    "a choice that is no object": b'{"choices":[1]}',
    "a call that is no object": b'{"choices":[{"delta":{"tool_calls":[1]}}]}',
    "a cut frame": b'{"choices":[{"delta":{"con',
}


@each("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_broken_upstream(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        DIALECT.codec().stream_decoder().feed(Frame(data))
