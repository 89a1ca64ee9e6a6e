"""What real providers sent, read by us and by the official SDK: both must see the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from each import each
from sdk_reading import read_response, read_response_stream

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_responses import DIALECT
from proxy.dialects.openai_responses.request_reader import read_request
from proxy.dialects.openai_responses.usage import read_usage
from proxy.errors import Foreign, Unsupported, UpstreamRateLimited
from proxy.streams import Passthrough
from proxy.wire.sse import Framer

WIRE = Path(__file__).parents[2].parent / "shared" / "wire"
FILES = sorted(WIRE.glob("openai-responses*/**/*.json"))
CASES = {case["name"]: case for case in map(json.loads, (file.read_text() for file in FILES))}
FAILS = "resp-pr-stream-rate-limited-1"
VOICE = Voice("req_1", "m", 7)

pytestmark = pytest.mark.skipif(not FILES, reason="the recordings are not on this machine")


def _recordings(*, stream: bool, good: bool = True) -> list[Any]:
    return [
        pytest.param(case, id=name)
        for name, case in CASES.items()
        if case["response"]["stream"] is stream and (case["response"]["status"] < 400) is good and name != FAILS
    ]


def _requests() -> list[Any]:
    return [
        pytest.param(case["request"]["body"], id=name)
        for name, case in CASES.items()
        if case["request"] and isinstance(case["request"]["body"], dict)
    ]


def _raw(case: dict[str, Any]) -> bytes:
    raw: bytes = case["response"]["body_text"].encode()
    return raw


def _decoded(raw: bytes, size: int) -> list[ir.StreamEvent]:
    framer, decoder = Framer(), DIALECT.codec().stream_decoder()
    frames = [frame for at in range(0, len(raw), size) for frame in framer.feed(raw[at : at + size])] + framer.close()
    return [event for frame in frames for event in decoder.feed(frame)] + decoder.close()


def _put_together(events: list[ir.StreamEvent]) -> tuple[str, list[Any], str, ir.Usage]:
    """Text, calls, thinking and usage; parts are numbered densely, and each ends once."""
    text, thinking, usage = "", "", ir.Usage()
    calls: dict[int, list[str]] = {}
    begun, ended = list[int](), list[int]()
    for event in events:
        match event:
            case ir.PartStart(part=part, shell=shell):
                begun.append(part)
                if isinstance(shell, ir.ToolCall):
                    calls[part] = [shell.name, ""]
            case ir.PartEnd(part=part):
                ended.append(part)
            case ir.TextDelta(text=piece) | ir.RefusalDelta(text=piece):
                text += piece
            case ir.ThinkingDelta(text=piece):
                thinking += piece
            case ir.ArgumentsDelta(part=part, text=piece):
                calls[part][1] += piece
            case ir.UsageReport(usage=report):
                usage = report
    assert begun == list(range(len(begun)))
    assert sorted(ended) == begun
    return text, [(name, json.loads(arguments)) for name, arguments in calls.values()], thinking, usage


@pytest.mark.parametrize("case", _recordings(stream=True))
def test_a_recorded_stream_means_to_us_what_it_means_to_the_sdk(case: dict[str, Any]) -> None:
    there = read_response_stream(_raw(case))
    for size in (1, 7, 1 << 20):
        events = _decoded(_raw(case), size)
        assert [type(event) for event in (events[0], events[-1])] == [ir.Start, ir.End]
        text, calls, thinking, usage = _put_together(events)
        assert (text, tuple(calls), thinking) == (there.text, there.calls, there.thinking)
        assert {"input_total": usage.input_total, "cache_read": usage.cache_read, "output": usage.output} == there.usage
        assert [event.native_stop for event in events if isinstance(event, ir.Finish)] == [there.stop]


@pytest.mark.parametrize("case", _recordings(stream=True))
def test_a_recorded_stream_survives_our_own_encoder(case: dict[str, Any]) -> None:
    encoder = DIALECT.codec().stream_encoder(VOICE)
    out = b"".join(encoder.feed([event]) for event in _decoded(_raw(case), 1 << 20))
    assert read_response_stream(out) == read_response_stream(_raw(case))
    events = [json.loads(frame.data) for frame in Framer().feed(out)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert _items(events[-1]["response"]) == _items(_terminal(case))


def _terminal(case: dict[str, Any]) -> dict[str, Any]:
    frames = (frame.data for frame in Framer().feed(_raw(case)) if frame.data.startswith(b"{"))
    response: dict[str, Any] = [json.loads(frame) for frame in frames][-1]["response"]
    return response


def _items(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Output items without what says nothing new, or that we do not keep: a message's id and phase, a call's namespace,
    a picture's particulars, empty members. Reasoning is encrypted anew each time that it is told."""
    found = []
    for item in response["output"]:
        lost = {"reasoning": ("status", "id"), "function_call": ("status", "namespace")}.get(item["type"], ("status",))
        kept = {name: value for name, value in item.items() if name not in lost and value not in ([], None)}
        if "encrypted_content" in kept:
            kept["encrypted_content"] = "…"
        if item["type"] == "message":
            kept = {"content": [{**part, "logprobs": []} for part in item["content"]]}
        elif item["type"] == "image_generation_call":
            kept = {name: item[name] for name in ("type", "output_format", "result")}
        found.append(kept)
    return found


@each("case", _recordings(stream=True))
def test_the_tap_hears_what_the_decoder_hears(case: dict[str, Any]) -> None:
    events = _decoded(_raw(case), 1 << 20)
    tap, probed = DIALECT.tap(), DIALECT.tap()
    sights = []
    for frame in Framer().feed(_raw(case)):
        sights.append(tap.look(frame))
        if any(probe in frame.data for probe in DIALECT.probes):
            probed.look(frame)
    ended = [event for event in events if isinstance(event, ir.Finish | ir.UsageReport)]
    assert [ir.Finish(tap.stop, native_stop="completed"), ir.UsageReport(tap.usage)] == ended  # type: ignore[arg-type]
    assert (probed.stop, probed.usage, probed.model) == (tap.stop, tap.usage, tap.model)
    assert sights.count(ir.Sight.END) == 1
    assert tap.produced


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("case", _recordings(stream=True))
def test_a_recorded_stream_passes_through_unchanged(case: dict[str, Any], size: int) -> None:
    raw = _raw(case)
    passing = Passthrough(DIALECT, VOICE)
    out = b"".join(passing.feed(raw[at : at + size]) for at in range(0, len(raw), size)) + passing.close()
    assert out == raw
    assert not any(passing.edits.values())
    assert passing.done
    assert passing.usage is not None


def test_a_recorded_failure_is_a_failed_attempt_and_raises_in_the_sdk() -> None:
    raw = _raw(CASES[FAILS])
    with pytest.raises(openai.APIError, match="Request too large"):
        read_response_stream(raw)
    with pytest.raises(UpstreamRateLimited, match="Request too large"):
        Passthrough(DIALECT, VOICE).feed(raw)
    failure = next(event for event in _decoded(raw, 7) if isinstance(event, ir.Failure))
    assert (failures.status_of(failure), failure.code) == (429, "rate_limit_exceeded")


@each("case", _recordings(stream=False))
def test_a_recorded_answer_means_to_us_what_it_means_to_the_sdk(case: dict[str, Any]) -> None:
    raw = _raw(case)
    there, answer = read_response(raw), DIALECT.codec().decode_answer(json.loads(raw))
    parts = answer.choices[0].parts
    assert "".join(part.text for part in parts if isinstance(part, ir.Text)) == there.text
    calls = [part for part in parts if isinstance(part, ir.ToolCall)]
    assert tuple((call.name, json.loads(call.arguments)) for call in calls) == there.calls
    thoughts = [part for part in parts if isinstance(part, ir.Thinking)]
    assert "".join("".join(part.summary) + part.text for part in thoughts) == there.thinking
    assert answer.choices[0].stop == ("tool_call" if calls else "end")
    assert DIALECT.check_answer(json.loads(raw)) == answer.usage == read_usage(json.loads(raw)["usage"])


@each("case", _recordings(stream=False))
def test_a_recorded_answer_survives_our_own_encoder(case: dict[str, Any]) -> None:
    raw = _raw(case)
    again = json.loads(json.dumps(DIALECT.codec().encode_answer(DIALECT.codec().decode_answer(json.loads(raw)), VOICE)))
    assert read_response(json.dumps(again).encode()) == read_response(raw)
    assert _items(again) == _items(json.loads(raw))


@pytest.mark.parametrize("case", _recordings(stream=False, good=False))
def test_a_recorded_error_is_understood(case: dict[str, Any]) -> None:
    parsed = json.loads(_raw(case))
    reading = DIALECT.read_error(parsed)
    assert reading.own
    assert reading.message == parsed["error"]["message"]
    status = case["response"]["status"]
    error = failures.of_status(status, reading, Foreign(status, _raw(case)))
    assert error.code == {400: "upstream_rejected", 401: "upstream_credentials"}[status]


@each("body", _requests())
def test_a_recorded_request_says_the_same_when_written_again(body: dict[str, Any]) -> None:
    encoded = DIALECT.codec().encode_request(read_request(body), ir.Target(body["model"]))
    assert encoded.dropped == ()
    assert _normal(json.loads(json.dumps(encoded.body))) == _normal(body)
    assert ("tools" in DIALECT.read_shape(body).needs) is bool(body.get("tools"))
    assert DIALECT.mend_request is not None
    assert DIALECT.mend_request(body) is None, "nothing in it is ours: its bytes may pass"


@each("body", _requests())
def test_a_recorded_request_is_bridged_or_refused_for_its_conversation(body: dict[str, Any]) -> None:
    if "conversation" in body:
        with pytest.raises(Unsupported, match="send the earlier turns themselves in `input`"):
            DIALECT.codec().decode_request(body)
    else:
        assert DIALECT.codec().decode_request(body).messages


def _normal(body: dict[str, Any]) -> dict[str, Any]:
    """The differences that are meant: nulls and empties are absent, a text alone is a string, a string is the user's
    words, an item's status says nothing."""
    out = {
        name: value for name, value in body.items() if value not in (None, []) and (name, value) != ("stream", False)
    }
    if isinstance(out["input"], str):
        out["input"] = [{"role": "user", "content": out["input"]}]
    out["input"] = [_normal_item(item) for item in out["input"]]
    for name in ("tools", "reasoning"):
        if name in out:
            out[name] = _without_nulls(out[name])
    return out


def _normal_item(item: dict[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in item.items() if value is not None and name != "status"}
    content = out.get("content")
    if isinstance(content, list) and len(content) == 1 and out.get("type") != "reasoning":
        out["content"] = content[0]["text"] if content[0].keys() == {"type", "text"} else content
    return out


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
