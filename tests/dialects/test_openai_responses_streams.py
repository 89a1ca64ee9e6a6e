from __future__ import annotations

from typing import Any

import fuzz
import openai
import orjson
import pytest
from each import each
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_reading import read_response_stream

from proxy import errors, ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_responses import DIALECT
from proxy.errors import UpstreamBroken, UpstreamFailed, UpstreamRateLimited
from proxy.ir import Sight
from proxy.streams import Passthrough
from proxy.wire import sse
from proxy.wire.sse import Frame

NAME = DIALECT.name
VOICE = Voice("req_1", "m", 7)


def frame(kind: str, **members: Any) -> Frame:
    return Frame(orjson.dumps({"type": kind, **members}), kind.encode())


def response(**members: Any) -> dict[str, Any]:
    return {"id": "resp_1", "model": "m", "created_at": 7, "status": "in_progress", "output": [], **members}


def added(index: int, **item: Any) -> Frame:
    return frame("response.output_item.added", output_index=index, item=item)


def done(index: int, **item: Any) -> Frame:
    return frame("response.output_item.done", output_index=index, item=item)


def delta(kind: str, text: str, index: int = 0, **members: Any) -> Frame:
    return frame(f"response.{kind}.delta", output_index=index, delta=text, **members)


CREATED = frame("response.created", response=response())
USAGE = {"input_tokens": 3, "output_tokens": 5}
COMPLETED = frame("response.completed", response=response(status="completed", usage=USAGE))
START = ir.Start("resp_1", "m", 7)
ENDED = (ir.Finish("end", native_stop="completed"), ir.UsageReport(ir.Usage(input=3, output=5)), ir.End())
CALLED = (ir.Finish("tool_call", native_stop="completed"), *ENDED[1:])
TEXT = (ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "Hi"), ir.PartEnd(0))
MESSAGE: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
WORDS = {"type": "output_text", "text": "Hi", "annotations": []}
URL = {"type": "url_citation", "url": "u", "start_index": 0, "end_index": 2}
CITED = ir.Citation("u", start=0, end=2, raw=URL, dialect=NAME)
CALL: dict[str, Any] = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": ""}
SHELL = ir.ToolCall("c1", "look", item_id="fc_1")
SEARCH: dict[str, Any] = {"type": "web_search_call", "id": "ws_1"}


def decoded(*frames: Frame) -> list[ir.StreamEvent]:
    decoder = DIALECT.codec().stream_decoder()
    return [event for item in frames for event in decoder.feed(item)] + decoder.close()


# -- decoding ----------------------------------------------------------------------------------------------------

STREAMS: dict[str, tuple[list[Frame], list[ir.StreamEvent]]] = {
    "text": (
        [CREATED, frame("response.in_progress", response=response()), added(0, **MESSAGE),
         frame("response.content_part.added", output_index=0, content_index=0, part={**WORDS, "text": ""}),
         delta("output_text", "H"), delta("output_text", "i"),
         frame("response.output_text.done", output_index=0, content_index=0, text="Hi"),
         frame("response.content_part.done", output_index=0, content_index=0, part=WORDS),
         done(0, **{**MESSAGE, "content": [WORDS]}), COMPLETED],
        [START, ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "H"), ir.TextDelta(0, "i"), ir.PartEnd(0), *ENDED],
    ),
    "deltas alone": ([delta("output_text", "Hi"), COMPLETED], [ir.Start("", ""), *TEXT, *ENDED]),
    "text that comes with its end": (
        [CREATED, frame("response.output_text.done", output_index=0, content_index=0, text="Hi"), COMPLETED],
        [START, *TEXT, *ENDED],
    ),
    "a whole item": ([CREATED, done(0, **{**MESSAGE, "content": [WORDS]}), COMPLETED], [START, *TEXT, *ENDED]),
    "nothing but the end": (
        [frame("response.completed", response=response(usage=USAGE, output=[{**MESSAGE, "content": [WORDS]}]))],
        [START, *TEXT, *ENDED],
    ),
    "the end repeats what has been said": (
        [CREATED, delta("output_text", "Hi"),
         frame("response.completed", response=response(usage=USAGE, output=[{**MESSAGE, "content": [WORDS]}]))],
        [START, *TEXT, *ENDED],
    ),
    "no indexes but ids": (
        [CREATED, frame("response.output_item.added", item=MESSAGE),
         frame("response.output_text.delta", item_id="msg_1", delta="Hi"),
         frame("response.output_item.added", item=CALL),
         frame("response.function_call_arguments.delta", item_id="fc_1", delta="{}"), COMPLETED],
        [START, *TEXT[:2], ir.PartStart(1, SHELL), ir.ArgumentsDelta(1, "{}"), ir.PartEnd(0), ir.PartEnd(1), *CALLED],
    ),
    "several pieces of one message": (
        [CREATED, delta("output_text", "Hi", content_index=0), delta("output_text", "Ho", content_index=1),
         frame("response.refusal.delta", output_index=0, content_index=2, delta="No."), COMPLETED],
        [START, *TEXT[:2], ir.PartStart(1, ir.Text("")), ir.TextDelta(1, "Ho"), ir.PartStart(2, ir.Refusal("")),
         ir.RefusalDelta(2, "No."), ir.PartEnd(0), ir.PartEnd(1), ir.PartEnd(2),
         ir.Finish("refusal", native_stop="completed"), *ENDED[1:]],
    ),
    "sources": (
        [CREATED, delta("output_text", "Hi"),
         frame("response.output_text.annotation.added", output_index=0, content_index=0, annotation=URL),
         done(0, **{**MESSAGE, "content": [{**WORDS, "annotations": [URL, URL]}]}), COMPLETED],
        [START, *TEXT[:2], ir.CitationDelta(0, CITED), ir.CitationDelta(0, CITED), ir.PartEnd(0), *ENDED],
    ),
    "log probabilities": (
        [CREATED, delta("output_text", "Hi", logprobs=[{"token": "Hi", "logprob": 0}]), COMPLETED],
        [START, TEXT[0], ir.TextDelta(0, "Hi", 0, {"content": [{"token": "Hi", "logprob": 0}], "refusal": None}),
         TEXT[2], *ENDED],
    ),
    "a call": (
        [CREATED, added(0, **CALL), delta("function_call_arguments", "{"), delta("function_call_arguments", "}"),
         frame("response.function_call_arguments.done", output_index=0, arguments="{}"),
         done(0, **{**CALL, "arguments": "{}"}), COMPLETED],
        [START, ir.PartStart(0, SHELL), ir.ArgumentsDelta(0, "{"), ir.ArgumentsDelta(0, "}"), ir.PartEnd(0), *CALLED],
    ),
    "a call whose arguments come whole": (
        [CREATED, added(0, **CALL), done(0, **{**CALL, "arguments": "{}"}), COMPLETED],
        [START, ir.PartStart(0, SHELL), ir.ArgumentsDelta(0, "{}"), ir.PartEnd(0), *CALLED],
    ),
    "a call whose first deltas were lost": (
        [CREATED, added(0, **CALL), delta("function_call_arguments", "{"), done(0, **{**CALL, "arguments": "{}"})],
        [START, ir.PartStart(0, SHELL), ir.ArgumentsDelta(0, "{"), ir.ArgumentsDelta(0, "}"), ir.PartEnd(0)],
    ),
    "a custom call": (
        [CREATED, added(0, type="custom_tool_call", id="ctc_1", call_id="c1", name="edit", input=""),
         delta("custom_tool_call_input", "x"),
         frame("response.custom_tool_call_input.done", output_index=0, input="xy"), COMPLETED],
        [START, ir.PartStart(0, ir.ToolCall("c1", "edit", custom=True, item_id="ctc_1")), ir.ArgumentsDelta(0, "x"),
         ir.ArgumentsDelta(0, "y"), ir.PartEnd(0), *CALLED],
    ),
    "reasoning": (
        [CREATED, added(0, type="reasoning", id="rs_1", summary=[], encrypted_content="not yet"),
         delta("reasoning_summary_text", "a", summary_index=0), delta("reasoning_summary_text", "b", summary_index=1),
         delta("reasoning_text", "c"),
         done(0, type="reasoning", id="rs_1", summary=[{"text": "a"}, {"text": "bc"}], content=[{"text": "cd"}],
              encrypted_content="e"), COMPLETED],
        [START, ir.PartStart(0, ir.Thinking(id="rs_1", dialect=NAME)), ir.ThinkingDelta(0, "a", summary=0),
         ir.ThinkingDelta(0, "b", summary=1), ir.ThinkingDelta(0, "c"), ir.ThinkingDelta(0, "c", summary=1),
         ir.ThinkingDelta(0, "d"), ir.SignatureDelta(0, encrypted="e"), ir.PartEnd(0), *ENDED],
    ),
    "items that overlap": (
        [CREATED, added(0, type="reasoning", id="rs_1", summary=[]), delta("output_text", "Hi", 1),
         delta("reasoning_text", "a"), COMPLETED],
        [START, ir.PartStart(0, ir.Thinking(id="rs_1", dialect=NAME)), ir.PartStart(1, ir.Text("")),
         ir.TextDelta(1, "Hi"), ir.ThinkingDelta(0, "a"), ir.PartEnd(0), ir.PartEnd(1), *ENDED],
    ),
    "a tool that the provider runs is no call of the client's": (
        [CREATED, added(0, **SEARCH), frame("response.web_search_call.searching", output_index=0),
         delta("mcp_call_arguments", "{}"), done(0, **SEARCH, status="completed"), COMPLETED],
        [START, ir.PartStart(0, ir.ServerCall("ws_1", "web_search", "", SEARCH, NAME)),
         ir.PartEnd(0, final=ir.ServerCall("ws_1", "web_search", "", {**SEARCH, "status": "completed"}, NAME)), *ENDED],
    ),
    "a picture is there when it is done": (
        [CREATED, added(0, type="image_generation_call", id="ig_1"),
         done(0, type="image_generation_call", id="ig_1", result="aGk=", output_format="webp")],
        [START, ir.PartStart(0, ir.ServerCall("ig_1", "image_generation", "",
                                              {"type": "image_generation_call", "id": "ig_1"}, NAME)),
         ir.PartEnd(0, final=ir.Image(ir.Blob("aGk=", "image/webp")))],
    ),
    "an answer cut off by its bound": (
        [CREATED, delta("output_text", "Hi"),
         frame("response.incomplete", response=response(incomplete_details={"reason": "max_output_tokens"}))],
        [START, *TEXT, ir.Finish("length", native_stop="max_output_tokens"), ir.End()],
    ),
    "what follows the end is not read": ([COMPLETED, COMPLETED, Frame(b"[DONE]")], [START, *ENDED]),
    "empty and unknown events": (
        [CREATED, delta("output_text", ""), frame("response.of_next_year", x=1), frame("keepalive"), Frame(b"[DONE]")],
        [START, ir.Ping()],
    ),
    "a type in the event line alone": (
        [Frame(orjson.dumps({"response": response()}), b"response.created")], [START],
    ),
    "an error": (
        [CREATED, frame("error", code="server_error", message="m", param=None), COMPLETED],
        [START, ir.Failure("server_error", "m", code="server_error")],
    ),
    "an error in its wrapping": (
        [frame("error", error={"type": "tokens", "code": "rate_limit_exceeded", "message": "m"})],
        [ir.Failure("tokens", "m", code="rate_limit_exceeded")],
    ),
    "an error of Chat's": (
        [Frame(b'{"error":{"message":"m","type":"server_error"}}')], [ir.Failure("server_error", "m")],
    ),
    "a failed response": (
        [frame("response.failed", response=response(error={"code": "invalid_prompt", "message": "m"}))],
        [ir.Failure("api_error", "m", 400, "invalid_prompt")],
    ),
    "a cut": ([CREATED, delta("output_text", "Hi")], [START, *TEXT]),
}  # fmt: skip


@each(("frames", "events"), STREAMS.values(), ids=STREAMS)
def test_a_stream_is_read(frames: list[Frame], events: list[ir.StreamEvent]) -> None:
    assert decoded(*frames) == events


GARBAGE = {
    "no JSON": Frame(b"{"),
    "an array": Frame(b"[]"),
    "a number": Frame(b"1"),
    "an item that is text": frame("response.output_item.added", output_index=0, item="x"),
    "no response": frame("response.created"),
    "arguments of no call": delta("function_call_arguments", "{}"),
    "a call without a name": added(0, type="function_call", call_id="c"),
}


@each("item", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_event_of_this_dialect_is_broken(item: Frame) -> None:
    with pytest.raises(UpstreamBroken):
        decoded(item)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["type", "item", "content", "part", "text", "delta", "summary", "id", "name", "error"]), inner
    ),
)  # fmt: skip
KINDS = st.sampled_from(
    ["response.created", "response.output_item.added", "response.output_item.done", "response.content_part.added",
     "response.content_part.done", "response.output_text.delta", "response.output_text.annotation.added",
     "response.reasoning_summary_text.delta", "response.function_call_arguments.done", "response.completed", "error"]
)  # fmt: skip
MEMBERS = st.dictionaries(
    st.sampled_from(
        ["item", "part", "delta", "output_index", "content_index", "response", "text", "error", "annotation"]
    ),
    JSON,
)


@settings(max_examples=fuzz.examples(50))
@given(st.lists(st.tuples(KINDS, MEMBERS), max_size=4))
def test_any_events_are_read_or_broken(events: list[tuple[str, dict[str, Any]]]) -> None:
    decoder, tap, encoder = DIALECT.codec().stream_decoder(), DIALECT.tap(), DIALECT.codec().stream_encoder(VOICE)
    for kind, members in events:
        item = frame(kind, **members)
        try:
            encoder.feed(decoder.feed(item))
            tap.look(item)
        except UpstreamBroken:
            return
    encoder.feed(decoder.close())


# -- encoding ----------------------------------------------------------------------------------------------------


def kinds(out: bytes) -> list[str]:
    """The types of what left, each named in its event line too."""
    found = []
    for item in sse.Framer().feed(out):
        event = orjson.loads(item.data)
        assert event["type"] == item.event.decode()
        found.append(event["type"].removeprefix("response."))
    return found


def final(out: bytes) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(sse.Framer().feed(out)[-1].data)["response"]
    return body


BEGUN = ["created", "in_progress"]
SAYING = ["output_item.added", "content_part.added", "output_text.delta"]
SAID = ["output_text.done", "content_part.done"]
SCRIPTS: dict[str, list[tuple[ir.StreamEvent, list[str]]]] = {
    "text": [
        (ir.Start("a", "m"), BEGUN),
        (ir.PartStart(0, ir.Text("")), SAYING[:2]),
        (ir.TextDelta(0, "Hi"), SAYING[2:]),
        (ir.PartEnd(0), SAID),
        (ir.Finish("end"), ["output_item.done"]),
        (ir.UsageReport(ir.Usage(input=1, output=1)), []),
        (ir.End(), ["completed"]),
    ],
    "words that go on are said in the same message": [
        (ir.PartStart(0, ir.Text("H")), [*BEGUN, *SAYING]),
        (ir.PartEnd(0), SAID),
        (ir.PartStart(1, ir.Text("i")), SAYING[1:]),
        (ir.PartEnd(1), SAID),
        (ir.PartStart(2, ir.ToolCall("c1", "look")), ["output_item.done", "output_item.added"]),
        (ir.PartStart(3, ir.Text("!")), SAYING),
        (ir.End(), ["function_call_arguments.done", "output_item.done", *SAID, "output_item.done", "completed"]),
    ],
    "words around something that overlaps them": [
        (ir.PartStart(0, ir.Text("H")), [*BEGUN, *SAYING]),
        (ir.PartStart(1, ir.ToolCall("c1", "look", "{}")), ["output_item.added", "function_call_arguments.delta"]),
        (ir.TextDelta(0, "i"), SAYING[2:]),
        (ir.PartEnd(0), [*SAID, "output_item.done"]),
        (ir.TextDelta(0, "late"), []),
        (ir.PartEnd(1), ["function_call_arguments.done", "output_item.done"]),
        (ir.End(), ["completed"]),
    ],
    "a call that may go on waits for the end": [
        (ir.PartStart(0, ir.ToolCall("c1", "look")), [*BEGUN, "output_item.added"]),
        (ir.ArgumentsDelta(0, '{"a"'), ["function_call_arguments.delta"]),
        (ir.PartEnd(0), []),
        (ir.PartStart(1, ir.ToolCall("c2", "look")), ["output_item.added"]),
        (ir.ArgumentsDelta(0, ":1}"), ["function_call_arguments.delta"]),
        (ir.PartEnd(1), []),
        (ir.Finish("tool_call"), ["function_call_arguments.done", "output_item.done"] * 2),
        (ir.End(), ["completed"]),
    ],
    "own reasoning in full and in summary": [
        (ir.PartStart(0, ir.Thinking(dialect=NAME)), [*BEGUN, "output_item.added"]),
        (ir.ThinkingDelta(0, "a", summary=0), ["reasoning_summary_part.added", "reasoning_summary_text.delta"]),
        (ir.ThinkingDelta(0, "b", summary=1), ["reasoning_summary_part.added", "reasoning_summary_text.delta"]),
        (ir.ThinkingDelta(0, "c"), ["content_part.added", "reasoning_text.delta"]),
        (ir.SignatureDelta(0, encrypted="e"), []),
        (ir.PartEnd(0), ["reasoning_summary_text.done", "reasoning_summary_part.done"] * 2
         + ["reasoning_text.done", "content_part.done", "output_item.done"]),
        (ir.End(), ["completed"]),
    ],
    "words that Gemini proved": [
        (ir.PartStart(0, ir.Text("Hi")), [*BEGUN, *SAYING]),
        (ir.SignatureDelta(0, "s"), []),
        (ir.PartEnd(0), SAID),
        (ir.Finish("end"), ["output_item.done", "output_item.added", "output_item.done"]),
        (ir.End(), ["completed"]),
    ],
    "a refusal": [
        (ir.PartStart(0, ir.Refusal("")), [*BEGUN, "output_item.added", "content_part.added"]),
        (ir.RefusalDelta(0, "No."), ["refusal.delta"]),
        (ir.PartEnd(0), ["refusal.done", "content_part.done"]),
        (ir.Finish("refusal"), ["output_item.done"]),
        (ir.End(), ["completed"]),
    ],
    "a source ahead of its text": [
        (ir.PartStart(0, ir.Text("")), [*BEGUN, *SAYING[:2]]),
        (ir.CitationDelta(0, ir.Citation("u")), ["output_text.annotation.added"]),
        (ir.CitationDelta(0, ir.Citation(title="no page")), []),
        (ir.TextDelta(0, "x"), SAYING[2:]),
        (ir.End(), [*SAID, "output_item.done", "completed"]),
    ],
    "what has no place here": [
        (ir.PartStart(0, ir.ServerCall("s", "code_execution", dialect="anthropic")), BEGUN),
        (ir.ArgumentsDelta(0, "{}"), []),
        (ir.PartEnd(0), []),
        (ir.PartStart(1, ir.Audio()), []),
        (ir.AudioDelta(1, "aGk="), []),
        (ir.TextDelta(2, "other choice", choice=1), []),
        (ir.Finish("length", choice=1), []),
        (ir.Failure("x", "y"), []),
        (ir.End(), ["completed"]),
    ],
    "nothing but an end": [(ir.End(), [*BEGUN, "completed"]), (ir.TextDelta(0, "late"), [])],
}  # fmt: skip


@each("name", SCRIPTS)
def test_nothing_waits_that_need_not(name: str) -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    sent = b""
    for event, leaving in SCRIPTS[name]:
        out = encoder.feed([event])
        assert kinds(out) == leaving, event
        sent += out
    numbers = [orjson.loads(item.data)["sequence_number"] for item in sse.Framer().feed(sent)]
    assert numbers == list(range(len(numbers)))
    together = DIALECT.codec().stream_encoder(VOICE)
    assert together.feed([event for event, _ in SCRIPTS[name]]) == sent
    read_response_stream(sent)


def test_the_terminal_event_repeats_all_that_was_said() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    out = encoder.feed([event for event, _ in SCRIPTS["words around something that overlaps them"]])
    message, call = final(out)["output"]
    assert [part["text"] for part in message["content"]] == ["Hi"]
    assert (call["arguments"], call["status"]) == ("{}", "completed")
    whole = [orjson.loads(item.data) for item in sse.Framer().feed(out)]
    ends = [event["item"] for event in whole if event["type"] == "response.output_item.done"]
    assert sorted(ends, key=lambda item: item["id"]) == sorted([message, call], key=lambda item: item["id"])


def test_arguments_that_are_cut_off_are_not_whole() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    out = encoder.feed(
        [ir.PartStart(0, ir.ToolCall("c1", "look")), ir.ArgumentsDelta(0, '{"a'), ir.PartEnd(0), ir.Finish("length"),
         ir.End()]
    )  # fmt: skip
    body = final(out)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (body["output"][0]["status"], body["output"][0]["arguments"]) == ("incomplete", '{"a')


def test_log_probabilities_are_in_this_dialects_form() -> None:
    found = [{"token": "Hi", "logprob": -0.5, "bytes": [72], "top_logprobs": []}]
    encoder = DIALECT.codec().stream_encoder(VOICE)
    out = encoder.feed([ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "Hi", logprobs={"content": found}), ir.End()])
    told = [orjson.loads(item.data) for item in sse.Framer().feed(out)]
    assert next(event for event in told if event["type"] == "response.output_text.delta")["logprobs"] == found
    assert final(out)["output"][0]["content"][0]["logprobs"] == found


def test_an_answer_that_breaks_off_is_a_failed_response() -> None:
    body = final(
        DIALECT.codec().stream_encoder(VOICE).feed([ir.PartStart(0, ir.Text("Hi")), ir.Finish("error"), ir.End()])
    )
    assert (body["status"], body["error"]["code"]) == ("failed", "server_error")


def test_half_a_pair_of_surrogates_leaves_as_the_escape_that_it_came_as() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    encoder.feed([ir.PartStart(0, ir.Text(""))])
    assert b'"delta":"\\ud83d"' in encoder.feed([ir.TextDelta(0, "\ud83d")])
    assert decoded(Frame(b'{"type":"response.output_text.delta","delta":"\\ud83d"}'))[2] == ir.TextDelta(0, "\ud83d")


# -- failing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_failure_raises_in_the_sdk_and_ends_the_response(begun: bool) -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    out = encoder.feed([ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "H")]) if begun else b""
    out += encoder.fail(errors.ContextTooLong("Too long.", param="input"))
    assert kinds(out)[:2] == BEGUN
    assert kinds(out)[-2:] == ["error", "failed"]
    error = orjson.loads(sse.Framer().feed(out)[-2].data)
    bare = {name: error[name] for name in ("code", "message", "param")}
    assert bare == {"code": "context_length_exceeded", "message": "Too long.", "param": "input"}
    assert final(out)["error"] == {"code": "context_length_exceeded", "message": "Too long."}
    with pytest.raises(openai.APIError, match="Too long") as caught:
        read_response_stream(out)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    assert encoder.feed([ir.End()]) == encoder.fail(errors.Internal("x")) == b""


def test_behind_the_end_nothing_fails() -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    encoder.feed([ir.End()])
    assert encoder.fail(errors.Internal("x")) == b""


# -- what passes -------------------------------------------------------------------------------------------------

SIGHTS: dict[str, tuple[Frame, Sight]] = {
    "created": (CREATED, Sight.LIFECYCLE),
    "queued": (frame("response.queued", response=response()), Sight.LIFECYCLE),
    "a sign of life": (frame("keepalive"), Sight.LIFECYCLE),
    "a message without a word": (added(0, **MESSAGE), Sight.LIFECYCLE),
    "reasoning that has only been announced": (
        added(0, type="reasoning", summary=[], encrypted_content="not yet"), Sight.LIFECYCLE,
    ),
    "reasoning that says nothing": (done(0, type="reasoning", summary=[]), Sight.LIFECYCLE),
    "reasoning that nobody may read": (done(0, type="reasoning", summary=[], encrypted_content="e"), Sight.CONTENT),
    "an empty piece": (
        frame("response.content_part.added", part={"type": "output_text", "text": ""}), Sight.LIFECYCLE,
    ),
    "an empty piece of a summary": (
        frame("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""}), Sight.LIFECYCLE,
    ),
    "an empty delta": (delta("output_text", ""), Sight.LIFECYCLE),
    "text": (delta("output_text", "Hi"), Sight.CONTENT),
    "reasoning": (delta("reasoning_summary_text", "a"), Sight.CONTENT),
    "a call": (added(0, **CALL), Sight.CONTENT),
    "a tool of the provider's": (added(0, **SEARCH), Sight.CONTENT),
    "a type of next year": (frame("response.of_next_year"), Sight.CONTENT),
    "completed": (COMPLETED, Sight.END),
    "incomplete": (frame("response.incomplete", response=response()), Sight.END),
    "failed": (frame("response.failed", response=response()), Sight.ERROR),
    "an error": (frame("error", message="m"), Sight.ERROR),
    "an error of Chat's": (Frame(b'{"error":{"message":"m"}}'), Sight.ERROR),
    "the end of Chat's streams": (Frame(b"[DONE]"), Sight.LIFECYCLE),
}  # fmt: skip


@each(("item", "sight"), SIGHTS.values(), ids=SIGHTS)
def test_what_a_frame_means_for_the_commit(item: Frame, sight: Sight) -> None:
    tap = DIALECT.tap()
    assert tap.look(item) is sight
    assert tap.produced is (sight is Sight.CONTENT)
    needs_a_look = sight in (Sight.END, Sight.ERROR)
    assert not needs_a_look or any(probe in item.data for probe in DIALECT.probes)


def test_the_tap_keeps_what_the_terminal_event_tells() -> None:
    tap = DIALECT.tap()
    tap.look(CREATED)
    tap.look(frame("response.completed", response=response(usage=USAGE, output=[CALL])))
    assert (tap.model, tap.stop, tap.usage) == ("m", "tool_call", ir.Usage(input=3, output=5))
    refused = DIALECT.tap()
    content = [{"type": "refusal", "refusal": "No."}]
    refused.look(frame("response.completed", response=response(output=[{**MESSAGE, "content": content}])))
    assert refused.stop == "refusal"


def bytes_of(*frames: Frame) -> bytes:
    return b"".join(sse.encode(item.data, item.event) for item in frames)


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 20])
def test_a_terminal_event_of_any_size_is_seen_without_a_byte_more(size: int) -> None:
    """It repeats the whole answer, so it outgrows the buffer that holds half a frame."""
    long = {**MESSAGE, "content": [{**WORDS, "text": "x" * 200_000}]}
    last = frame("response.completed", response=response(usage=USAGE, output=[long]))
    raw = bytes_of(CREATED, delta("output_text", "x"), last)
    passing = Passthrough(DIALECT, VOICE)
    out = b"".join(passing.feed(raw[at : at + size]) for at in range(0, len(raw), size))
    assert out == raw
    assert passing.done
    assert (passing.usage, passing.stop) == (ir.Usage(input=3, output=5), "end")
    assert passing.close() == b""


def test_nothing_is_committed_before_there_is_content() -> None:
    passing = Passthrough(DIALECT, VOICE)
    announced = (CREATED, added(0, type="reasoning", summary=[]), done(0, type="reasoning", summary=[]))
    assert passing.feed(bytes_of(*announced, added(1, **MESSAGE))) == b""
    assert not passing.committed
    first = bytes_of(delta("output_text", "Hi", 1))
    assert passing.feed(first) == bytes_of(*announced, added(1, **MESSAGE)) + first


def test_an_error_before_content_is_a_failed_attempt() -> None:
    error = frame("error", error={"type": "tokens", "code": "rate_limit_exceeded", "message": "m"})
    with pytest.raises(UpstreamRateLimited):
        Passthrough(DIALECT, VOICE).feed(bytes_of(CREATED, error))


def test_an_error_behind_content_passes_with_the_terminal_event_behind_it() -> None:
    passing = Passthrough(DIALECT, VOICE)
    raw = bytes_of(CREATED, delta("output_text", "Hi"), frame("error", code="server_error", message="m"))
    assert passing.feed(raw) == raw
    assert isinstance(passing.failure, UpstreamFailed)
    failed = bytes_of(frame("response.failed", response={"id": "resp_1", "status": "failed", "error": {"code": "x"}}))
    assert passing.feed(failed) == failed
    assert passing.close() == b""
    assert passing.done


def test_a_cut_is_told_in_this_dialect() -> None:
    passing = Passthrough(DIALECT, VOICE)
    passing.feed(bytes_of(CREATED, delta("output_text", "Hi")))
    with pytest.raises(UpstreamBroken) as caught:
        passing.close()
    assert kinds(passing.fail(caught.value))[-2:] == ["error", "failed"]


def test_a_picture_that_is_whole_at_its_start_and_at_its_end_is_told_once() -> None:
    picture = ir.Image(ir.Blob("aGk=", "image/png"))
    encoder = DIALECT.codec().stream_encoder(VOICE)
    out = encoder.feed([START, ir.PartStart(0, picture), ir.PartEnd(0, final=picture), *ENDED])
    events = [orjson.loads(found.data) for found in sse.Framer().feed(out)]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["image_generation_call"]


CHUNKS = (CREATED, frame("response.output_text.delta", output_index=0, delta="Hi"), COMPLETED)
WHOLE = b"".join(sse.encode(found.data, found.event) for found in CHUNKS)
DONE_FRAME = b"data: [DONE]\n\n"
# What stands behind the terminal event -> what of it leaves, and whether anything was dropped.
BEHIND: dict[str, tuple[bytes, bytes, bool]] = {
    "nothing": (b"", b"", False),
    "the [DONE] of servers that end all streams Chat's way": (DONE_FRAME, DONE_FRAME, False),
    "one without its blank line": (DONE_FRAME[:-2], DONE_FRAME[:-2], False),
    "two of them": (DONE_FRAME * 2, DONE_FRAME, True),
    "another event": (b"data: {}\n\n", b"", True),
    "a [DONE] behind another event": (b"data: {}\n\n" + DONE_FRAME, b"", True),
}


@each("size", [1, 7, 1 << 20])
@each(("behind", "leaves", "dropped"), BEHIND.values(), ids=BEHIND)
def test_behind_the_terminal_event_only_a_done_leaves(behind: bytes, leaves: bytes, dropped: bool, size: int) -> None:
    passing, raw = Passthrough(DIALECT, VOICE), WHOLE + behind
    out = b""
    for at in range(0, len(raw), size):
        out += passing.feed(raw[at : at + size])
    assert out + passing.close() == WHOLE + leaves
    assert passing.done
    assert bool(passing.edits["surplus_dropped"]) is dropped
