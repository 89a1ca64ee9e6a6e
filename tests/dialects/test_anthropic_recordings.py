"""The dialect against what the API really sent, as the official SDK reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from each import each
from sdk_reading import Reading, of_message, read_messages_stream
from shares import product_of

from proxy import ir
from proxy.dialects.anthropic import DIALECT
from proxy.dialects.dialect import Voice
from proxy.wire.sse import Framer

WIRE = Path(__file__).parents[2].parent / "shared" / "wire" / "anthropic-messages"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(WIRE.glob("*.json"))}
pytestmark = pytest.mark.skipif(not CASES, reason="no recordings beside the project")

STREAMS = {name: case for name, case in CASES.items() if case["response"]["stream"]}
SIZES = {"byte by byte": 1, "in small pieces": 7, "at once": 1 << 20}
ANSWERS = {n: c for n, c in CASES.items() if not c["response"]["stream"] and c["response"]["status"] == 200}
ERRORS = {name: case for name, case in CASES.items() if case["response"]["status"] >= 400}
REQUESTS = {name: case["request"]["body"] for name, case in CASES.items() if (case["request"] or {}).get("body")}


def first_message(case: dict[str, Any]) -> bytes:
    """Some recordings hold the answers of several requests one behind the other."""
    body: bytes = case["response"]["body_text"].encode()
    end = b'{"type":"message_stop"'
    return body[: body.index(b"\n\n", body.index(end)) + 2] if end in body else body


def decode(body: bytes, size: int) -> list[ir.StreamEvent]:
    framer, decoder = Framer(), DIALECT.codec().stream_decoder()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    frames = [frame for piece in pieces for frame in framer.feed(piece)] + framer.close()
    return [event for frame in frames for event in decoder.feed(frame)] + decoder.close()


def read(events: list[ir.StreamEvent]) -> Reading:
    """The same facts out of the IR as the SDK finds in the bytes."""
    shells = {event.part: event.shell for event in events if isinstance(event, ir.PartStart)}
    arguments = {part: "" for part, shell in shells.items() if isinstance(shell, ir.ToolCall)}
    text = thinking = ""
    stop, usage = None, ir.Usage()
    for event in events:
        match event:
            case ir.TextDelta():
                text += event.text
            case ir.ThinkingDelta():
                thinking += event.text
            case ir.ArgumentsDelta() if event.part in arguments:
                arguments[event.part] += event.text
            case ir.Finish():
                stop = event.native_stop
            case ir.UsageReport():
                usage = event.usage
    calls = [(shells[part], json.loads(words or "{}")) for part, words in arguments.items()]
    return Reading(
        text=text,
        calls=tuple((shell.name, given) for shell, given in calls if isinstance(shell, ir.ToolCall)),
        stop=stop,
        usage={
            "input": usage.input,
            "cache_read": usage.cache_read,
            "cache_write": (usage.cache_write_5m or 0) + (usage.cache_write_1h or 0),
            "output": usage.output,
        },
        thinking=thinking,
    )


@pytest.mark.parametrize(("case", "size"), product_of(STREAMS, SIZES, fast=1, of=3))
def test_a_stream_says_what_the_sdk_reads_in_it(case: dict[str, Any], size: int) -> None:
    body = first_message(case)
    assert read(decode(body, size)) == read_messages_stream(body)


@pytest.mark.parametrize("case", STREAMS.values(), ids=STREAMS)
def test_a_stream_decoded_and_encoded_again_reads_the_same(case: dict[str, Any]) -> None:
    body = first_message(case)
    encoder = DIALECT.codec().stream_encoder(Voice("req_1", "m", 0))
    assert read_messages_stream(encoder.feed(decode(body, 1 << 20))) == read_messages_stream(body)


@each("case", STREAMS.values(), ids=STREAMS)
def test_what_follows_the_end_is_not_read(case: dict[str, Any]) -> None:
    events = decode(case["response"]["body_text"].encode(), 1 << 20)
    assert [isinstance(event, ir.End) for event in events].count(True) == 1
    assert isinstance(events[-1], ir.End)


@each("case", STREAMS.values(), ids=STREAMS)
def test_the_tap_sees_what_the_decoder_sees(case: dict[str, Any]) -> None:
    tap, framer = DIALECT.tap(), Framer()
    sights = [tap.look(frame) for frame in framer.feed(first_message(case))]
    events = decode(first_message(case), 1 << 20)
    reports = [event.usage for event in events if isinstance(event, ir.UsageReport)]
    finishes = [event.stop for event in events if isinstance(event, ir.Finish)]
    assert (tap.usage, [tap.stop]) == (reports[-1], finishes)
    assert sights[0] is ir.Sight.LIFECYCLE
    assert sights[-2:] == [ir.Sight.FINISH, ir.Sight.END]
    assert tap.produced == (ir.Sight.CONTENT in sights)


@each("case", STREAMS.values(), ids=STREAMS)
def test_frames_without_a_probe_tell_the_tap_nothing_it_must_know(case: dict[str, Any]) -> None:
    every, probed = DIALECT.tap(), DIALECT.tap()
    for frame in Framer().feed(first_message(case)):
        every.look(frame)
        if any(probe in frame.data for probe in DIALECT.probes):
            probed.look(frame)
    assert (probed.usage, probed.stop, probed.model, probed.error) == (
        every.usage, every.stop, every.model, every.error,
    )  # fmt: skip


@each("case", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_decoded_and_encoded_again_reads_the_same(case: dict[str, Any]) -> None:
    body = json.loads(case["response"]["body_text"])
    answer = DIALECT.codec().decode_answer(body)
    again = DIALECT.codec().encode_answer(answer, Voice("req_1", "m", 0))
    assert DIALECT.check_answer(body) == answer.usage
    assert of_message(dict(again)) == of_message(body)
    assert {name: again[name] for name in ("id", "model", "role", "type")} == {
        name: body[name] for name in ("id", "model", "role", "type")
    }


def normalised(value: Any, key: str = "") -> Any:
    """Takes away what the API says in two ways: null for absence, a string for one block of text, `output_format`."""
    match value:
        case dict():
            value = {name: normalised(item, name) for name, item in value.items() if item is not None}
            if "output_format" in value:
                value["output_config"] = {"format": value.pop("output_format")}
            return value
        case [{"type": "text", "text": text, **rest}] if key in ("content", "system") and not rest:
            return text
        case list():
            return [normalised(item) for item in value]
        case _:
            return value


@each("body", REQUESTS.values(), ids=REQUESTS)
def test_a_request_keeps_its_meaning_on_the_way_through_the_ir(body: dict[str, Any]) -> None:
    encoded = DIALECT.codec().encode_request(DIALECT.codec().decode_request(body), ir.Target(body["model"]))
    assert encoded.dropped == ()
    assert normalised(dict(encoded.body)) == normalised({k: v for k, v in body.items() if (k, v) != ("stream", False)})


@each("body", REQUESTS.values(), ids=REQUESTS)
def test_the_shape_of_a_request_is_that_of_its_meaning(body: dict[str, Any]) -> None:
    shape, request = DIALECT.read_shape(body), DIALECT.codec().decode_request(body)
    assert shape.max_tokens == request.max_tokens
    assert ("tools" in shape.needs) == bool(request.tools)
    assert ("json" in shape.needs) == (request.response_format is not None)
    assert ("thinking" in shape.needs) == bool(request.reasoning and request.reasoning.enabled)
    spoken = [m for m in request.messages if m.role == "user" and any(isinstance(p, ir.Text) for p in m.parts)]
    assert len(shape.turns) == len(spoken)
    assert shape.chars >= len(shape.system) + sum(map(len, shape.turns))


@each("case", ERRORS.values(), ids=ERRORS)
def test_an_error_is_known_as_the_apis_own(case: dict[str, Any]) -> None:
    body = json.loads(case["response"]["body_text"])
    reading = DIALECT.read_error(body)
    assert reading.own
    assert (reading.type, reading.message) == (body["error"]["type"], body["error"]["message"])
