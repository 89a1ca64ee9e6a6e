from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import orjson
import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st
from sdk_reading import read_messages_stream

from proxy import errors, ir
from proxy.dialects.anthropic import DIALECT
from proxy.dialects.dialect import Voice
from proxy.errors import UpstreamBroken
from proxy.wire.sse import Frame

DATA = Path(__file__).parents[1] / "data" / "anthropic"
VOICE = Voice("req_1", "asked-for", 0)


def frame(kind: str, **members: Any) -> Frame:
    return Frame(orjson.dumps({"type": kind} | members), kind.encode())


def start(**usage: Any) -> Frame:
    message = {"id": "msg_1", "model": "claude-x", "usage": usage or {"input_tokens": 3, "output_tokens": 1}}
    return frame("message_start", message=message)


def block(index: int, **members: Any) -> Frame:
    return frame("content_block_start", index=index, content_block=members)


def delta(index: int, kind: str, **members: Any) -> Frame:
    return frame("content_block_delta", index=index, delta={"type": kind} | members)


def stop(index: int) -> Frame:
    return frame("content_block_stop", index=index)


def finish(reason: str | None = "end_turn", **usage: Any) -> Frame:
    members: dict[str, Any] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
    return frame("message_delta", **members, **({"usage": usage} if usage else {}))


END = frame("message_stop")
START = ir.Start("msg_1", "claude-x", usage=ir.Usage(input=3, output=1))
FINISH = ir.Finish("end", native_stop="end_turn")


def decoded(*frames: Frame) -> list[ir.StreamEvent]:
    decoder = DIALECT.codec().stream_decoder()
    return [event for item in frames for event in decoder.feed(item)] + decoder.close()


# -- decoding ----------------------------------------------------------------------------------------------------

TEXT = (ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "Hi"), ir.PartEnd(0))
STREAMS: dict[str, tuple[list[Frame], list[ir.StreamEvent]]] = {
    "text": (
        [start(), block(0, type="text", text=""), delta(0, "text_delta", text="Hi"), stop(0),
         finish(output_tokens=5), END],
        [START, *TEXT, FINISH, ir.UsageReport(ir.Usage(input=3, output=5)), ir.End()],
    ),
    "text that stands in the start of its block": (
        [start(), block(0, type="text", text="Hi"), stop(0)], [START, *TEXT],
    ),
    "no start of a block": ([start(), delta(0, "text_delta", text="Hi")], [START, *TEXT]),
    "no start at all": ([delta(0, "text_delta", text="Hi")], [ir.Start("", ""), *TEXT]),
    "no index": (
        [
            start(), frame("content_block_start", content_block={"type": "text", "text": ""}),
            frame("content_block_delta", delta={"type": "text_delta", "text": "Hi"}), frame("content_block_stop"),
        ],
        [START, *TEXT],
    ),
    "no stop of a block": (
        [start(), block(0, type="text", text=""), delta(0, "text_delta", text="Hi"), finish()],
        [START, *TEXT, FINISH],
    ),
    "a block begun anew under its index": (
        [start(), block(0, type="text", text="Hi"), block(0, type="text", text="Hi")],
        [START, *TEXT, ir.PartStart(1, ir.Text("")), ir.TextDelta(1, "Hi"), ir.PartEnd(1)],
    ),
    "indexes with gaps": (
        [start(), block(5, type="text", text="Hi"), stop(5), block(9, type="text", text="Hi"), stop(9)],
        [START, *TEXT, ir.PartStart(1, ir.Text("")), ir.TextDelta(1, "Hi"), ir.PartEnd(1)],
    ),
    "empty and unknown deltas": (
        [start(), block(0, type="text", text=""), delta(0, "text_delta", text=""), delta(0, "text_delta"),
         delta(0, "of_next_year", x=1), frame("content_block_delta", index=0, delta={}), stop(0)],
        [START, ir.PartStart(0, ir.Text("")), ir.PartEnd(0)],
    ),
    "a call": (
        [start(), block(0, type="tool_use", id="t", name="n", input={}), delta(0, "input_json_delta", partial_json=""),
         delta(0, "input_json_delta", partial_json='{"a"'), delta(0, "input_json_delta", partial_json=":1}"), stop(0)],
        [START, ir.PartStart(0, ir.ToolCall("t", "n")), ir.ArgumentsDelta(0, '{"a"'), ir.ArgumentsDelta(0, ":1}"),
         ir.PartEnd(0)],
    ),
    "a call without arguments": (
        [start(), block(0, type="tool_use", id="t", name="n", input={}), delta(0, "input_json_delta", partial_json=""),
         stop(0)],
        [START, ir.PartStart(0, ir.ToolCall("t", "n")), ir.ArgumentsDelta(0, "{}"), ir.PartEnd(0)],
    ),
    "a call cut off before its arguments": (
        [start(), block(0, type="tool_use", id="t", name="n", input={})],
        [START, ir.PartStart(0, ir.ToolCall("t", "n")), ir.PartEnd(0)],
    ),
    "a call whose input came whole": (
        [start(), block(0, type="tool_use", id="t", name="n", input={"a": 1}), stop(0)],
        [START, ir.PartStart(0, ir.ToolCall("t", "n")), ir.ArgumentsDelta(0, '{"a":1}'), ir.PartEnd(0)],
    ),
    "a call whose input came whole and in pieces": (
        [start(), block(0, type="tool_use", id="t", name="n", input={"a": 1}),
         delta(0, "input_json_delta", partial_json='{"a":1}'), stop(0)],
        [START, ir.PartStart(0, ir.ToolCall("t", "n")), ir.ArgumentsDelta(0, '{"a":1}'), ir.PartEnd(0)],
    ),
    "thinking": (
        [start(), block(0, type="thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="hm"),
         delta(0, "signature_delta", signature="s"), stop(0)],
        [START, ir.PartStart(0, ir.Thinking(dialect="anthropic")), ir.ThinkingDelta(0, "hm"), ir.SignatureDelta(0, "s"),
         ir.PartEnd(0)],
    ),
    "a provider's call": (
        [start(), block(0, type="server_tool_use", id="s", name="web_search", input={}),
         delta(0, "input_json_delta", partial_json='{"q":1}'), stop(0)],
        [
            START,
            ir.PartStart(0, ir.ServerCall(
                "s", "web_search", "{}",
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, "anthropic")),
            ir.ArgumentsDelta(0, '{"q":1}'),
            ir.PartEnd(0, final=ir.ServerCall(
                "s", "web_search", '{"q":1}',
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}}, "anthropic")),
        ],
    ),
    "a citation": (
        [start(), block(0, type="text", text="", citations=[]),
         delta(0, "citations_delta", citation={"type": "char_location", "document_title": "D", "cited_text": "c"})],
        [
            START, ir.PartStart(0, ir.Text("")),
            ir.CitationDelta(0, ir.Citation(
                title="D", cited_text="c", dialect="anthropic",
                raw={"type": "char_location", "document_title": "D", "cited_text": "c"})),
            ir.PartEnd(0),
        ],
    ),
    "usage alone": (
        [start(), finish(None, output_tokens=4), finish(output_tokens=6)],
        [START, ir.UsageReport(ir.Usage(input=3, output=4)), FINISH, ir.UsageReport(ir.Usage(input=3, output=6))],
    ),
    "a later report of nothing wipes nothing out": (
        [start(), finish(output_tokens=0, input_tokens=0)],
        [START, FINISH, ir.UsageReport(ir.Usage(input=3, output=1))],
    ),
    "a ping and what is not known yet": ([frame("ping"), frame("of_next_year"), Frame(b"")], [ir.Ping()]),
    "an error in the middle ends it": (
        [start(), frame("error", error={"type": "overloaded_error", "message": "busy"}), END],
        [START, ir.Failure("overloaded_error", "busy")],
    ),
    "an error without a type of its own": (
        [Frame(b'{"error":{"type":"api_error","message":"m","details":{"error_code":"c"}}}', b"error")],
        [ir.Failure("api_error", "m", code="c")],
    ),
    "events named by their line alone": (
        [Frame(b'{"message":{"id":"msg_1","model":"claude-x"}}', b"message_start")], [ir.Start("msg_1", "claude-x")],
    ),
    "what follows the end": ([END, start(), END], [ir.End()]),
    "a second start": ([start(), start()], [START]),
}  # fmt: skip


@each(("frames", "events"), STREAMS.values(), ids=STREAMS)
def test_frames_to_events(frames: list[Frame], events: list[ir.StreamEvent]) -> None:
    assert decoded(*frames) == events


GARBAGE = {
    "no JSON": [Frame(b"<html>")],
    "a list": [Frame(b"[]")],
    "a start without a message": [frame("message_start")],
    "a block of no kind": [frame("content_block_start", index=0, content_block={"text": "x"})],
    "a block that is none": [frame("content_block_start", index=0, content_block=[])],
    "a call without a name": [block(0, type="tool_use", id="a")],
    "arguments of no call": [start(), delta(0, "input_json_delta", partial_json="{")],
}


@each("frames", GARBAGE.values(), ids=GARBAGE)
def test_garbage_breaks_the_stream(frames: list[Frame]) -> None:
    with pytest.raises(UpstreamBroken):
        decoded(*frames)


# -- encoding ----------------------------------------------------------------------------------------------------

A, B = ir.ToolCall("a", "one"), ir.ToolCall("b", "two")
# Each step: what comes, and how many bytes' worth of events leave at once (their types).
SCRIPTS: dict[str, list[tuple[ir.StreamEvent, list[str]]]] = {
    "text leaves as it comes": [
        (ir.Start("1", "m", usage=ir.Usage(input=3)), ["message_start"]),
        (ir.PartStart(0, ir.Text("")), []),
        (ir.TextDelta(0, "H"), ["content_block_start", "content_block_delta"]),
        (ir.TextDelta(0, "i"), ["content_block_delta"]),
        (ir.Ping(), ["ping"]),
        (ir.PartEnd(0), ["content_block_stop"]),
        (ir.UsageReport(ir.Usage(input=3, output=2)), []),
        (ir.Finish("end"), []),
        (ir.End(), ["message_delta", "message_stop"]),
        (ir.TextDelta(0, "late"), []),
    ],
    "a call begins at once and its arguments leave as they come": [
        (ir.PartStart(0, A), ["message_start", "content_block_start"]),
        (ir.ArgumentsDelta(0, '{"a'), ["content_block_delta"]),
        (ir.ArgumentsDelta(0, '":1}'), ["content_block_delta"]),
        (ir.PartEnd(0), ["content_block_stop"]),
        (ir.PartStart(1, B), ["content_block_start"]),
        (ir.End(), ["content_block_stop", "message_delta", "message_stop"]),
    ],
    "text gives way to a call, and goes on in a block of its own": [
        (ir.PartStart(0, ir.Text("")), ["message_start"]),
        (ir.TextDelta(0, "H"), ["content_block_start", "content_block_delta"]),
        (ir.PartStart(1, A), ["content_block_stop", "content_block_start"]),
        (ir.TextDelta(0, "i"), []),
        (ir.ArgumentsDelta(1, "{}"), ["content_block_delta"]),
        (ir.PartEnd(1), ["content_block_stop", "content_block_start", "content_block_delta"]),
        (ir.PartEnd(0), ["content_block_stop"]),
        (ir.End(), ["message_delta", "message_stop"]),
    ],
    "calls that overlap come one behind the other": [
        (ir.PartStart(0, A), ["message_start", "content_block_start"]),
        (ir.PartStart(1, B), []),
        (ir.ArgumentsDelta(1, '{"b":2}'), []),
        (ir.ArgumentsDelta(0, '{"a":1}'), ["content_block_delta"]),
        (ir.PartEnd(0), ["content_block_stop", "content_block_start", "content_block_delta"]),
        (ir.PartEnd(1), ["content_block_stop"]),
        (ir.Finish("end"), []),
        (ir.End(), ["message_delta", "message_stop"]),
    ],
    "calls that never end are ended with the stream": [
        (ir.PartStart(0, A), ["message_start", "content_block_start"]),
        (ir.PartStart(1, B), []),
        (ir.ArgumentsDelta(1, '{"b":2}'), []),
        (ir.PartStart(2, ir.ToolCall("c", "three", '{"c":3}')), []),
        (
            ir.End(),
            ["content_block_stop"]
            + ["content_block_start", "content_block_delta", "content_block_stop"] * 2
            + ["message_delta", "message_stop"],
        ),
    ],
    "thinking of this API keeps its proof": [
        (ir.PartStart(0, ir.Thinking(dialect="anthropic")), ["message_start"]),
        (ir.ThinkingDelta(0, "hm"), ["content_block_start", "content_block_delta"]),
        (ir.SignatureDelta(0, "s"), ["content_block_delta"]),
        (ir.PartEnd(0), ["content_block_stop"]),
        (ir.End(), ["message_delta", "message_stop"]),
    ],
    "thinking of another has none, and its summaries are parted": [
        (ir.PartStart(0, ir.Thinking(dialect="openai-responses")), ["message_start"]),
        (ir.ThinkingDelta(0, "one", summary=0), ["content_block_start", "content_block_delta"]),
        (ir.ThinkingDelta(0, "two", summary=1), ["content_block_delta"]),
        (ir.SignatureDelta(0, encrypted="e"), []),
        (ir.SignatureDelta(0, "s"), []),
        (ir.PartEnd(0), ["content_block_stop"]),
        (ir.End(), ["message_delta", "message_stop"]),
    ],
    "a refusal is text, and the reason to stop": [
        (ir.PartStart(0, ir.Refusal("")), ["message_start"]),
        (ir.RefusalDelta(0, "No."), ["content_block_start", "content_block_delta"]),
        (ir.Finish("end", native_stop="stop"), []),
        (ir.End(), ["content_block_stop", "message_delta", "message_stop"]),
    ],
    "a citation goes into its text": [
        (ir.PartStart(0, ir.Text("")), ["message_start"]),
        (ir.CitationDelta(0, ir.Citation(url="u")), ["content_block_start", "content_block_delta"]),
        (ir.TextDelta(0, "x"), ["content_block_delta"]),
        (ir.CitationDelta(0, ir.Citation(url="u", title="t")), ["content_block_delta"]),
        (ir.PartEnd(0), ["content_block_stop"]),
        (ir.CitationDelta(0, ir.Citation(url="late")), []),
        (ir.End(), ["message_delta", "message_stop"]),
    ],
    "what has no place in a message": [
        (ir.PartStart(0, ir.ServerCall("s", "search", dialect="openai-responses")), ["message_start"]),
        (ir.ArgumentsDelta(0, "{}"), []),
        (ir.PartEnd(0), []),
        (ir.PartStart(1, ir.Audio()), []),
        (ir.AudioDelta(1, "aGk="), []),
        (ir.TextDelta(2, "other choice", choice=1), []),
        (ir.Finish("length", choice=1), []),
        (ir.Failure("x", "y"), []),
        (ir.End(), ["message_delta", "message_stop"]),
    ],
    "nothing but an end is a whole message": [(ir.End(), ["message_start", "message_delta", "message_stop"])],
}


def kinds(out: bytes) -> list[str]:
    """The event lines; each must name the type that stands in its data."""
    names = []
    for piece in out.split(b"\n\n")[:-1]:
        event, data = piece.split(b"\n")
        names.append(event.removeprefix(b"event: ").decode())
        assert orjson.loads(data.removeprefix(b"data: "))["type"] == names[-1]
    return names


@each("name", SCRIPTS)
def test_nothing_waits_that_need_not(name: str) -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    sent = b""
    for event, leaving in SCRIPTS[name]:
        out = encoder.feed([event])
        assert kinds(out) == leaving, event
        sent += out
    assert sent == (DATA / f"{name.replace(' ', '-').replace(',', '')}.sse").read_bytes()


@each("name", SCRIPTS)
def test_events_fed_together_give_the_same_bytes(name: str) -> None:
    one, many = DIALECT.codec().stream_encoder(VOICE), DIALECT.codec().stream_encoder(VOICE)
    events = [event for event, _ in SCRIPTS[name]]
    assert many.feed(events) == b"".join(one.feed([event]) for event in events)


@each("name", SCRIPTS)
def test_the_sdk_reads_what_was_said(name: str) -> None:
    events = [event for event, _ in SCRIPTS[name]]
    reading = read_messages_stream(DIALECT.codec().stream_encoder(VOICE).feed(events))
    calls = [event.shell.name for event in events if isinstance(event, ir.PartStart) and type(event.shell) is type(A)]
    assert [call for call, _ in reading.calls] == calls
    said = [event.text for event in events if isinstance(event, ir.TextDelta | ir.RefusalDelta) and not event.choice]
    assert reading.text == "".join(said).replace("late", "")


def test_a_failure_is_told_and_nothing_follows() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    sent = encoder.feed([ir.Start("1", "m"), ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "Hi")])
    told = encoder.fail(errors.UpstreamOverloaded("busy"))
    assert told == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy",'
        b'"details":{"error_code":"upstream_overloaded"}},"request_id":"req_1"}\n\n'
    )
    assert encoder.feed([ir.TextDelta(0, "x"), ir.Finish("end"), ir.End()]) == b""
    assert encoder.fail(errors.Internal("x")) == b""
    with pytest.raises(anthropic.APIStatusError, match="busy") as caught:
        read_messages_stream(sent + told)
    assert caught.value.type == "overloaded_error"


def test_after_the_end_no_failure_is_told() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    encoder.feed([ir.End()])
    assert encoder.fail(errors.Internal("x")) == b""


def test_late_arguments_of_a_call_that_has_ended_find_their_block() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    late: list[ir.StreamEvent] = [
        ir.PartStart(0, A), ir.ArgumentsDelta(0, '{"a"'), ir.PartEnd(0), ir.PartStart(1, B),
        ir.ArgumentsDelta(1, '{"b"'), ir.PartEnd(1), ir.ArgumentsDelta(0, ":1}"), ir.ArgumentsDelta(1, ":2}"), ir.End(),
    ]  # fmt: skip
    assert read_messages_stream(encoder.feed(late)).calls == (("one", {"a": 1}), ("two", {"b": 2}))


def test_what_waits_for_an_open_call_is_bounded() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    encoder.feed([ir.PartStart(0, A), ir.PartStart(1, B)])
    with pytest.raises(UpstreamBroken):
        encoder.feed([ir.ArgumentsDelta(1, "x" * 1024)] * 1100)


def test_a_lone_surrogate_leaves_as_the_escape_it_was() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    encoder.feed([ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "a")])
    assert b'"text":"\\ud83d"' in encoder.feed([ir.TextDelta(0, "\ud83d")])
    assert decoded(Frame(b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\ud83d"}}'))[
        2
    ] == ir.TextDelta(0, "\ud83d")


WORDS = [
    "type", "index", "delta", "content_block", "message", "usage", "text", "thinking", "partial_json", "signature",
    "citation", "stop_reason", "error", "input", "id", "name", "input_tokens", "output_tokens", "data",
]  # fmt: skip
KINDS = [
    "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "text",
    "thinking", "tool_use", "server_tool_use", "text_delta", "input_json_delta", "signature_delta", "thinking_delta",
]  # fmt: skip
json_values = st.recursive(
    st.none() | st.integers(-1, 3) | st.floats() | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)


@given(events=st.lists(st.dictionaries(st.sampled_from(WORDS), json_values, max_size=6), max_size=6))
def test_any_events_are_a_stream_or_a_broken_one(events: list[dict[str, Any]]) -> None:
    decoder, tap, encoder = DIALECT.codec().stream_decoder(), DIALECT.tap(), DIALECT.codec().stream_encoder(VOICE)
    out = b""
    with suppress(UpstreamBroken):
        for event in events:
            item = Frame(orjson.dumps(event))
            tap.look(item)
            out += encoder.feed(decoder.feed(item))
    out += encoder.feed(decoder.close()) + encoder.feed([ir.End()])
    assert kinds(out)[-1] == "message_stop"


# -- the tap -----------------------------------------------------------------------------------------------------

SIGHTS: dict[str, tuple[Frame, ir.Sight]] = {
    "the start": (start(), ir.Sight.LIFECYCLE),
    "a ping": (frame("ping"), ir.Sight.LIFECYCLE),
    "a text block's start": (block(0, type="text", text=""), ir.Sight.LIFECYCLE),
    "a thinking block's start": (block(0, type="thinking", thinking="", signature=""), ir.Sight.LIFECYCLE),
    "a text block's start with text": (block(0, type="text", text="x"), ir.Sight.CONTENT),
    "a call's start": (block(0, type="tool_use", id="a", name="b", input={}), ir.Sight.CONTENT),
    "hidden thinking": (block(0, type="redacted_thinking", data="x"), ir.Sight.CONTENT),
    "a word": (delta(0, "text_delta", text="x"), ir.Sight.CONTENT),
    "no word": (delta(0, "text_delta", text=""), ir.Sight.LIFECYCLE),
    "a proof": (delta(0, "signature_delta", signature="x"), ir.Sight.CONTENT),
    "an unknown delta": (delta(0, "of_next_year", x=""), ir.Sight.CONTENT),
    "a block's stop": (stop(0), ir.Sight.LIFECYCLE),
    "usage": (finish(None, output_tokens=1), ir.Sight.USAGE),
    "a finish": (finish(), ir.Sight.FINISH),
    "the end": (END, ir.Sight.END),
    "an error": (frame("error", error={"type": "api_error", "message": "m"}), ir.Sight.ERROR),
    "what is not known yet": (frame("of_next_year"), ir.Sight.CONTENT),
}


@each(("item", "sight"), SIGHTS.values(), ids=SIGHTS)
def test_what_a_frame_means_for_the_commit(item: Frame, sight: ir.Sight) -> None:
    tap = DIALECT.tap()
    assert tap.look(item) is sight
    assert tap.produced == (sight is ir.Sight.CONTENT)


def test_the_tap_keeps_what_the_record_wants() -> None:
    tap = DIALECT.tap()
    for item in (start(input_tokens=3, cache_read_input_tokens=4), finish("tool_use", output_tokens=5), END, start()):
        tap.look(item)
    assert (tap.usage, tap.stop, tap.model) == (ir.Usage(3, 4, output=5), "tool_call", "claude-x")
    failed = DIALECT.tap()
    failed.look(frame("error", error={"type": "overloaded_error", "message": "busy"}))
    assert failed.error == ir.Failure("overloaded_error", "busy")


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b'"x"'])
def test_the_tap_refuses_what_is_no_event(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        DIALECT.tap().look(Frame(data))
