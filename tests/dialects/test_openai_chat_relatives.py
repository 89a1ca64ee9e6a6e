"""What the relatives of OpenAI's chat do their own way, as the IR and the other surfaces have it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from each import each

from proxy import ir
from proxy.dialects import DIALECTS, failures
from proxy.dialects.dialect import Voice
from proxy.errors import UpstreamRateLimited
from proxy.streams import Passthrough, Translation
from proxy.wire import sse
from proxy.wire.sse import Frame

CHAT, RESPONSES = DIALECTS["openai-chat"], DIALECTS["openai-responses"]
VOICE = Voice("req_1", "m", 7)


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} | more


def decoded(*chunks: dict[str, Any]) -> list[ir.StreamEvent]:
    decoder = CHAT.codec().stream_decoder()
    return [event for one in chunks for event in decoder.feed(Frame(orjson.dumps(one)))] + decoder.feed(
        Frame(b"[DONE]")
    )


def calls(events: list[ir.StreamEvent]) -> list[tuple[str, str]]:
    """Names and arguments."""
    found: dict[int, list[str]] = {}
    for event in events:
        match event:
            case ir.PartStart(part=part, shell=ir.ToolCall(name=name)):
                found[part] = [name, ""]
            case ir.ArgumentsDelta(part=part, text=text):
                found[part][1] += text
    return [(name, arguments) for name, arguments in found.values()]


def call(arguments: str, name: str = "look", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


CALLS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "whole, all numbered 0, without ids": (
        [chunk({"tool_calls": [call('{"a":1}', index=0)]}), chunk({"tool_calls": [call('{"a":2}', index=0)]})],
        [("look", '{"a":1}'), ("look", '{"a":2}')],
    ),
    "numbered 0, with ids": (
        [chunk({"tool_calls": [call("{}", index=0, id="a")]}), chunk({"tool_calls": [call("{}", index=0, id="b")]})],
        [("look", "{}"), ("look", "{}")],
    ),
    "numbered 0, of two names": (
        [chunk({"tool_calls": [call("", index=0)]}), chunk({"tool_calls": [call("{}", "see", index=0)]})],
        [("look", ""), ("see", "{}")],
    ),
    "the name again in each piece": (
        [chunk({"tool_calls": [call("{", index=0, id="a")]}), chunk({"tool_calls": [call("}", index=0, id="a")]})],
        [("look", "{}")],
    ),
    "without numbers and ids": (
        [chunk({"tool_calls": [call("{}"), call("{}")]})],
        [("look", "{}"), ("look", "{}")],
    ),
    "beside one that the provider runs": (
        [chunk({"tool_calls": [{"index": 0, "id": "w", "type": "web_search_call"}, call("{}", index=1, id="a")]})],
        [("look", "{}")],
    ),
}


@each(("chunks", "found"), CALLS.values(), ids=CALLS)
def test_calls_are_kept_apart(chunks: list[dict[str, Any]], found: list[tuple[str, str]]) -> None:
    assert calls(decoded(*chunks)) == found


def test_sources_that_come_with_the_finish_reason_belong_to_the_text() -> None:
    events = decoded(chunk({"content": "Hi"}), chunk({}, "stop", citations=["https://a"]))
    assert [event.citation.url for event in events if isinstance(event, ir.CitationDelta)] == ["https://a"]
    kinds = [type(event) for event in events]
    assert kinds.index(ir.CitationDelta) < kinds.index(ir.PartEnd)


GROK = {"model": "grok-4"}
LATE: dict[str, list[dict[str, Any]]] = {
    "beside no choices": [chunk({}, "stop", **GROK), {"choices": [], "citations": ["https://a"]}],
    "with the usage": [
        chunk({}, "stop", **GROK),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}, "citations": ["https://a"]},
    ],
    "with a second finish reason": [chunk({}, "stop", **GROK), chunk({}, "stop", citations=["https://a"])],
    "in two goes": [
        chunk({}, "stop", **GROK, citations=["https://a"]), {"choices": [], "citations": ["https://a", "https://b"]}
    ],
    "behind text and reason in one": [
        chunk({"content": "."}, "stop", model="perplexity/sonar"), {"citations": ["https://a"], "choices": []}
    ],
    "ahead of the reason, beside no choices": [{"choices": [], "citations": ["https://a"]}, chunk({}, "stop")],
}  # fmt: skip


@each("end", [b"data: [DONE]\n\n", b""], ids=["with an end", "without an end"])
@each("behind", LATE.values(), ids=LATE)
@each("surface", ["openai-responses", "anthropic"])
def test_sources_that_come_behind_the_finish_reason_belong_to_the_text(
    surface: str, behind: list[dict[str, Any]], end: bytes
) -> None:
    raw = b"".join(b"data: %b\n\n" % orjson.dumps(one) for one in (chunk({"content": "Hi"}), *behind)) + end
    stream = Translation(CHAT, DIALECTS[surface], VOICE)
    decoder = DIALECTS[surface].codec().stream_decoder()
    out = stream.feed(raw) + stream.close()
    events = [event for frame in sse.Framer().feed(out) for event in decoder.feed(frame)]
    kinds = [type(event) for event in events]
    cited = [event.citation.url for event in events if isinstance(event, ir.CitationDelta)]
    assert cited == [url for url in ("https://a", "https://b") if url.encode() in raw]
    assert stream.stop == "end"
    assert kinds.count(ir.PartStart) == 1
    assert kinds.index(ir.CitationDelta) < kinds.index(ir.PartEnd) < kinds.index(ir.Finish)


@pytest.mark.parametrize(
    "delta", [{"content": "Hi"}, {"tool_calls": [call("{}", index=0, id="a")]}], ids=["a text", "a call"]
)
def test_the_finish_of_others_waits_for_nothing(delta: dict[str, Any]) -> None:
    decoder = CHAT.codec().stream_decoder()
    model = "grok-4" if "tool_calls" in delta else "gpt-4o"
    assert isinstance(decoder.feed(Frame(orjson.dumps(chunk(delta, "stop", model=model))))[-1], ir.Finish)


FAILED = {"index": 0, "delta": {"content": ""}, "message": {"content": "Hi"}, "finish_reason": "error",
          "error": {"code": 429, "message": "Too many."}}  # fmt: skip


def test_an_error_in_a_choice_is_told_in_its_own_words() -> None:
    (failure,) = [event for event in decoded({"choices": [FAILED]}) if isinstance(event, ir.Failure)]
    assert (failure.message, failures.status_of(failure)) == ("Too many.", 429)
    with pytest.raises(UpstreamRateLimited, match="Too many"):
        CHAT.check_answer({"choices": [FAILED]})
    with pytest.raises(UpstreamRateLimited, match="Too many"):
        Passthrough(CHAT, VOICE).feed(b"data: %b\n\n" % orjson.dumps({"choices": [FAILED]}))


def test_a_second_answer_does_not_get_into_the_first_one_of_a_response() -> None:
    def both(first: str, second: str) -> dict[str, Any]:
        said = [{"index": at, "delta": {"content": text}} for at, text in enumerate((first, second))]
        return {"id": "c", "model": "m", "choices": said}

    raw = b"".join(b"data: %b\n\n" % orjson.dumps(one) for one in (both("A", "B"), both("C", "D"), chunk({}, "stop")))
    stream = Translation(CHAT, RESPONSES, VOICE)
    last = stream.feed(raw + b"data: [DONE]\n\n").rpartition(b"data: ")[2]
    assert orjson.loads(last)["response"]["output"][0]["content"][0]["text"] == "AC"


def test_an_answer_without_an_id_gets_calls_with_ids_of_the_request() -> None:
    message = {"role": "assistant", "tool_calls": [call("{}"), call("{}")]}
    answer = CHAT.codec().decode_answer({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    written = CHAT.codec().encode_answer(answer, Voice("req_77", "m", 7))
    assert [one["id"] for one in written["choices"][0]["message"]["tool_calls"]] == ["call_77_0", "call_77_1"]
