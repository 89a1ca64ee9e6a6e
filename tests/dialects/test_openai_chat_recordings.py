"""What real providers sent, read by us and by the official SDK: both must see the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from each import each

from proxy import ir
from proxy.dialects import failures, workers_ai
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_chat import DIALECT
from proxy.dialects.openai_chat.usage import read_usage
from proxy.errors import Foreign, UpstreamError
from proxy.wire.sse import Framer

WIRE = Path(__file__).parents[2].parent / "shared" / "wire"
FILES = sorted([*WIRE.glob("openai-chat*/**/*.json"), *WIRE.glob("workers-ai/*.json")])
NATIVE = "cfw-tx-native-stream-documented"  # no SDK speaks it

pytestmark = pytest.mark.skipif(not FILES, reason="the recordings are not on this machine")


def _recordings(*, stream: bool, good: bool = True) -> list[Any]:
    found = []
    for file in FILES:
        case = json.loads(file.read_text())
        response = case["response"]
        if response["stream"] is stream and (response["status"] < 400) is good and case["name"] != NATIVE:
            found.append(pytest.param(case, id=case["name"]))
    return found


def _requests() -> list[Any]:
    found = []
    for file in FILES:
        case = json.loads(file.read_text())
        body = (case["request"] or {}).get("body")
        if isinstance(body, dict) and "messages" in body:
            found.append(pytest.param(body, file.parent.name, id=case["name"]))
    return found


def _client(case: dict[str, Any]) -> openai.OpenAI:
    response = case["response"]
    content_type = "text/event-stream" if response["stream"] else "application/json"

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            response["status"], headers={"content-type": content_type}, content=response["body_text"].encode()
        )

    return openai.OpenAI(api_key="k", max_retries=0, http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))


class _Heard:
    """What was heard of choice 0, by whichever reader."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[list[str]] = []
        self.finish: str | None = None
        self.usage = ir.Usage()
        self.failed = False

    def facts(self) -> dict[str, Any]:
        return dict(vars(self))


def _by_sdk(case: dict[str, Any]) -> _Heard:
    heard = _Heard()
    places: dict[int, list[str]] = {}
    try:
        with _client(case) as client:
            stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
            for chunk in stream:
                if chunk.usage:
                    heard.usage = heard.usage.merged(read_usage(chunk.usage.model_dump()))
                for choice in chunk.choices:
                    heard.text += choice.delta.content or ""
                    heard.finish = heard.finish or choice.finish_reason
                    for call in choice.delta.tool_calls or []:
                        entry = places.setdefault(call.index, ["", ""])
                        assert call.function
                        entry[0] = entry[0] or call.function.name or ""
                        entry[1] += call.function.arguments or ""
    except openai.APIError:
        heard.failed = True
    heard.calls = list(places.values())
    return heard


def _by_us(case: dict[str, Any], size: int) -> _Heard:
    raw = case["response"]["body_text"].encode()
    framer, decoder, heard = Framer(), DIALECT.codec().stream_decoder(), _Heard()
    frames = [frame for at in range(0, len(raw), size) for frame in framer.feed(raw[at : at + size])] + framer.close()
    parts: dict[int, list[str]] = {}
    ended: set[int] = set()
    events = [event for frame in frames for event in decoder.feed(frame)] + decoder.close()
    for event in events:
        match event:
            case ir.PartStart(part=part, shell=shell):
                assert part == len(parts), "parts are numbered densely"
                parts[part] = [shell.name, ""] if isinstance(shell, ir.ToolCall) else []
            case ir.PartEnd(part=part):
                assert part not in ended
                ended.add(part)
            case ir.TextDelta(text=text):
                heard.text += text
            case ir.ArgumentsDelta(part=part, text=text):
                parts[part][1] += text
            case ir.Finish(native_stop=native):
                heard.finish = native
            case ir.UsageReport(usage=usage):
                heard.usage = usage
            case ir.Failure():
                heard.failed = True
                break
    assert heard.failed or ended == set(parts)
    heard.calls = [part for part in parts.values() if part]
    return heard


@pytest.mark.parametrize("case", _recordings(stream=True))
def test_a_recorded_stream_means_to_us_what_it_means_to_the_sdk(case: dict[str, Any]) -> None:
    theirs = _by_sdk(case)
    for size in (1, 7, 1 << 20):
        ours = _by_us(case, size)
        if theirs.failed:  # the SDK raises before it reads the usage that stands beside the error
            ours.usage = theirs.usage
        assert ours.facts() == theirs.facts()


@pytest.mark.parametrize("case", _recordings(stream=True))
def test_a_recorded_stream_survives_our_own_encoder(case: dict[str, Any]) -> None:
    """Read, written again and read by the SDK: the text, the calls and the usage are the same."""
    theirs = _by_sdk(case)
    if theirs.failed or not theirs.finish:
        return  # ends in an error or is cut: the relay makes something of it
    decoder = DIALECT.codec().stream_decoder()
    encoder = DIALECT.codec().stream_encoder(_voice())
    framer = Framer()
    frames = framer.feed(case["response"]["body_text"].encode()) + framer.close()
    out = b"".join(encoder.feed(decoder.feed(frame)) for frame in frames)
    if not out.endswith(b"[DONE]\n\n"):
        out += encoder.feed([*decoder.close(), ir.End()])
    again = _by_sdk({"response": {"stream": True, "status": 200, "body_text": out.decode()}})
    assert (again.text, again.calls, again.usage) == (theirs.text, theirs.calls, _known(theirs.usage))
    assert again.finish == ("tool_calls" if theirs.calls else theirs.finish)


def _known(usage: ir.Usage) -> ir.Usage:
    """Our own reports say zero for details that the provider left out."""
    if usage.output is None:
        return usage
    return ir.Usage(
        usage.input, usage.cache_read or 0, usage.cache_write_5m or None, None, usage.output, usage.reasoning or 0,
        usage.audio_input, usage.audio_output,
    )  # fmt: skip


def _voice() -> Voice:
    return Voice("req_1", "m", 1, include_usage=True)


@each("case", _recordings(stream=True))
def test_the_tap_hears_what_the_decoder_hears(case: dict[str, Any]) -> None:
    heard = _by_us(case, 1 << 20)
    framer, tap = Framer(), DIALECT.tap()
    frames = framer.feed(case["response"]["body_text"].encode()) + framer.close()
    probed = DIALECT.tap()
    for frame in frames:
        sight = tap.look(frame)
        if sight is ir.Sight.CONTENT and not any(probe in frame.data for probe in DIALECT.probes):
            continue
        probed.look(frame)
    assert (tap.usage or ir.Usage()) == heard.usage
    assert bool(tap.error) is heard.failed
    assert (tap.stop is not None) is (heard.finish is not None)
    assert (probed.usage, probed.error, probed.stop is None) == (tap.usage, tap.error, tap.stop is None)


@each("case", _recordings(stream=False))
def test_a_recorded_answer_means_to_us_what_it_means_to_the_sdk(case: dict[str, Any]) -> None:
    with _client(case) as client:
        theirs = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    ours = DIALECT.codec().decode_answer(json.loads(case["response"]["body_text"]))
    message, choice = theirs.choices[0].message, ours.choices[0]
    assert ours.model == theirs.model
    assert ours.usage == read_usage(theirs.usage.model_dump() if theirs.usage else None)
    reason: str = theirs.choices[0].finish_reason
    assert choice.native_stop == (reason or None)
    content: Any = message.content
    if not isinstance(content, list):  # Mistral's, which the SDK hands on
        assert "".join(part.text for part in choice.parts if isinstance(part, ir.Text)) == (content or "")
    calls = [(call.id, call.name, call.arguments) for call in choice.parts if isinstance(call, ir.ToolCall)]
    assert calls == [
        (call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls or []
        if call.type == "function"
    ]
    assert DIALECT.check_answer(json.loads(case["response"]["body_text"])) == ours.usage


@each("case", _recordings(stream=False))
def test_a_recorded_answer_survives_our_own_encoder(case: dict[str, Any]) -> None:
    ours = DIALECT.codec().decode_answer(json.loads(case["response"]["body_text"]))
    again = DIALECT.codec().decode_answer(json.loads(json.dumps(DIALECT.codec().encode_answer(ours, _voice()))))
    assert [_spoken(choice) for choice in again.choices] == [_spoken(choice) for choice in ours.choices]
    assert again.usage == _known(ours.usage)


def _spoken(choice: ir.Choice) -> list[Any]:
    said: list[Any] = [choice.stop if choice.stop != "unknown" else "end"]
    for part in choice.parts:
        match part:
            case ir.Text(text=text) | ir.Refusal(text=text):
                said.append(text)
            case ir.Thinking(text=text):
                said.append(("thinking", text))
            case ir.ToolCall():
                said.append((part.id, part.name, part.arguments))
            case other:
                said.append(type(other))
    return said


@each("case", _recordings(stream=False, good=False))
def test_a_recorded_error_is_understood(case: dict[str, Any]) -> None:
    parsed = json.loads(case["response"]["body_text"])
    reading = workers_ai.DIALECT.read_error(parsed)
    assert bool(reading.message) is (reading.code != "7003")  # which names the account
    assert reading.own is ("error" in parsed)
    if reading.own:
        assert DIALECT.read_error(parsed) == reading
    else:
        assert DIALECT.read_error(parsed).own is False
    with pytest.raises(UpstreamError):
        workers_ai.DIALECT.check_answer(parsed)
    assert failures.of_status(case["response"]["status"], reading, _foreign(case)).code != "upstream_error"


def _foreign(case: dict[str, Any]) -> Foreign:
    return Foreign(case["response"]["status"], case["response"]["body_text"].encode())


@each(("body", "provider"), _requests())
def test_a_recorded_request_says_the_same_when_written_again(body: dict[str, Any], provider: str) -> None:
    request = DIALECT.codec().decode_request(body)
    encoded = DIALECT.codec().encode_request(request, ir.Target(body["model"], provider))
    assert encoded.dropped == ()
    written = json.loads(json.dumps(encoded.body))
    assert _normal(written) == _normal(body)
    shape = DIALECT.read_shape(body)
    assert ("tools" in shape.needs) is bool(body.get("tools"))


def _normal(body: dict[str, Any]) -> dict[str, Any]:
    """The differences that are meant: nulls and empties are absent, text alone is a string, one name for the cap, usage
    is always asked for in a stream, `image_url` is an object."""
    absent: tuple[Any, ...] = (None, [], False)
    kept = ("clear_thinking", "enable_thinking")
    out = {name: value for name, value in body.items() if name in kept or value not in absent}
    out.pop("stream_options", None)
    if "max_completion_tokens" in out:
        out["max_tokens"] = out.pop("max_completion_tokens")
    out["messages"] = [_normal_message(message) for message in body["messages"]]
    return out


def _normal_message(message: dict[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in message.items() if value is not None and (value != "" or name != "content")}
    content = out.get("content")
    if isinstance(content, list):
        content = [_normal_part(part) for part in content]
        plain = all(part.keys() == {"type", "text"} for part in content)
        between = "" if message["role"] == "assistant" else "\n\n"
        out["content"] = between.join(part["text"] for part in content) if plain else content
    return out


def _normal_part(part: dict[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in part.items() if value is not None}
    if isinstance(out.get("image_url"), str):
        out["image_url"] = {"url": out["image_url"]}
    return out
