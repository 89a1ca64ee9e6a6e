"""What Gemini really sent, read by us and by hand, and in other words by the official SDKs: all see the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from each import each
from json_paths import put
from sdk_reading import Reading, read_chat_answer, read_chat_stream, read_message, read_messages_stream

from proxy import errors, ir
from proxy.dialects import DIALECTS, UPSTREAMS, failures
from proxy.dialects.dialect import Voice
from proxy.errors import Foreign
from proxy.streams import Translation
from proxy.wire.sse import Framer

GEMINI, CHAT, MESSAGES = UPSTREAMS["gemini"], DIALECTS["openai-chat"], DIALECTS["anthropic"]
VOICE = Voice("req_1", "m", 7, include_usage=True)
FILES = sorted((Path(__file__).parents[2].parent / "shared" / "wire" / "gemini").glob("*.json"))
CHAT_STOP = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}
MESSAGES_STOP = {"STOP": "end_turn", "MAX_TOKENS": "max_tokens", "SAFETY": "refusal"}
pytestmark = pytest.mark.skipif(not FILES, reason="the recordings are not on this machine")
Case = dict[str, Any]


def recorded(*, stream: bool | None = None, good: bool = True) -> list[Any]:
    cases = [json.loads(file.read_text()) for file in FILES]
    return [
        pytest.param(case, id=case["name"])
        for case in cases
        if (case["response"]["status"] == 200) is good and stream in (None, case["response"]["stream"])
    ]


def body_of(case: Case) -> bytes:
    body: bytes = case["response"]["body_text"].encode()
    return body


# -- by hand -----------------------------------------------------------------------------------------------------


class ByHand:
    """The answer as its chunks say it, put together without any of our code."""

    def __init__(self, case: Case) -> None:
        text = case["response"]["body_text"]
        chunks = re.findall(r"^data: (.*)$", text, re.MULTILINE) if case["response"]["stream"] else [text]
        self.text, self.thinking, self.stop = "", "", ""
        self.calls: list[tuple[str, Any]] = []
        self.signatures: list[str] = []
        self.images: list[str] = []
        self.sources: list[str] = []
        counts: dict[str, Any] = {}
        for chunk in map(json.loads, chunks):
            candidate = chunk["candidates"][0]
            for part in candidate["content"].get("parts", []):
                self._part(part)
            self.stop = candidate.get("finishReason", self.stop)
            grounding = candidate.get("groundingMetadata", {})
            found = [next(iter(source.values())) for source in grounding.get("groundingChunks", [])]
            for support in grounding.get("groundingSupports", []):
                self.sources += [found[at].get("uri", "") for at in support["groundingChunkIndices"]]
            counts = counts | chunk["usageMetadata"]
        prompt, cached = counts["promptTokenCount"], counts.get("cachedContentTokenCount", 0)
        output = counts.get("candidatesTokenCount", 0) + counts.get("thoughtsTokenCount", 0)
        self.input_total = prompt + counts.get("toolUsePromptTokenCount", 0)
        self.cached, self.output = cached, output
        assert counts["totalTokenCount"] == self.input_total + output, "the API's own sum"

    def _part(self, part: dict[str, Any]) -> None:
        call = part.get("functionCall", {})
        if call.get("name"):
            self.calls.append((call["name"], call.get("args", {})))
        for entry in call.get("partialArgs", []):
            put(self.calls[-1][1], entry["jsonPath"], entry["stringValue"])
        if part.get("thought"):
            self.thinking += part["text"]
        else:
            self.text += part.get("text", "")
        if "thoughtSignature" in part and "toolCall" not in part and "toolResponse" not in part:
            self.signatures.append(part["thoughtSignature"])
        if "inlineData" in part:
            self.images.append(part["inlineData"]["data"])


# -- by us -------------------------------------------------------------------------------------------------------


class ByUs:
    """The same of events and of parts."""

    def __init__(self) -> None:
        self.parts: dict[int, list[Any]] = {}  # name and text, or text alone
        self.kinds: dict[int, type[ir.Part]] = {}
        self.signatures: list[str] = []
        self.images: list[str] = []
        self.sources: list[str] = []
        self.stop: str | None = None
        self.usage = ir.Usage()

    def hear(self, events: list[ir.StreamEvent]) -> None:
        for event in events:
            match event:
                case ir.PartStart(part=part, shell=shell):
                    assert part == len(self.parts), "parts are numbered densely"
                    self.kinds[part] = type(shell)
                    self.parts[part] = [shell.name, ""] if isinstance(shell, ir.ToolCall) else [""]
                    if signature := getattr(shell, "signature", None):
                        self.signatures.append(signature)
                case ir.TextDelta(part=part, text=text) | ir.ThinkingDelta(part=part, text=text):
                    self.parts[part][-1] += text
                case ir.ArgumentsDelta(part=part, text=text):
                    self.parts[part][-1] += text
                case ir.SignatureDelta(signature=str(signature)):
                    self.signatures.append(signature)
                case ir.CitationDelta(citation=citation):
                    self.sources.append(citation.url or "")
                case ir.PartEnd(final=ir.Image(source=ir.Blob(data))):
                    self.images.append(data)
                case ir.Finish(native_stop=native):
                    self.stop = native
                case ir.UsageReport(usage=usage):
                    self.usage = usage

    def said(self, kind: type[ir.Part]) -> str:
        return "".join(said[-1] for part, said in self.parts.items() if self.kinds[part] is kind)

    @property
    def calls(self) -> list[tuple[str, Any]]:
        called = (said for part, said in self.parts.items() if self.kinds[part] is ir.ToolCall)
        return [(name, json.loads(arguments)) for name, arguments in called]


def same(there: ByHand, here: ByUs) -> None:
    assert (here.said(ir.Text), here.said(ir.Thinking)) == (there.text, there.thinking)
    assert here.calls == there.calls
    assert (here.signatures, here.images, here.sources) == (there.signatures, there.images, there.sources)
    assert here.stop == there.stop
    assert (here.usage.input_total, here.usage.cache_read or 0, here.usage.output) == (
        there.input_total, there.cached, there.output,
    )  # fmt: skip


@each("size", [1, 7, 1 << 24])
@each("case", recorded(stream=True))
def test_a_recorded_stream_is_read_as_it_was_meant(case: Case, size: int) -> None:
    body, framer, decoder, heard = body_of(case), Framer(), GEMINI.codec().stream_decoder(), ByUs()
    frames = [frame for at in range(0, len(body), size) for frame in framer.feed(body[at : at + size])]
    for frame in frames + framer.close():
        heard.hear(decoder.feed(frame))
    last = decoder.close()
    heard.hear(last)
    assert last[-1] == ir.End()
    same(ByHand(case), heard)


@each("case", recorded(stream=False))
def test_a_recorded_answer_is_read_as_it_was_meant(case: Case) -> None:
    answer = GEMINI.codec().decode_answer(json.loads(body_of(case)))
    (choice,) = answer.choices
    there = ByHand(case)
    assert "".join(part.text for part in choice.parts if isinstance(part, ir.Text)) == there.text
    assert "".join(part.text for part in choice.parts if isinstance(part, ir.Thinking)) == there.thinking
    calls = [(part.name, json.loads(part.arguments)) for part in choice.parts if isinstance(part, ir.ToolCall)]
    images = [part.source.data for part in choice.parts
              if isinstance(part, ir.Image) and isinstance(part.source, ir.Blob)]  # fmt: skip
    signatures = [signature for part in choice.parts if (signature := getattr(part, "signature", None))]
    assert (calls, images, signatures) == (there.calls, there.images, there.signatures)
    assert choice.native_stop == there.stop
    assert (answer.usage.input_total, answer.usage.output) == (there.input_total, there.output)
    assert GEMINI.check_answer(json.loads(body_of(case))) == answer.usage


# -- in the clients' words -----------------------------------------------------------------------------------------


def as_chat(there: ByHand, here: Reading) -> None:
    assert (here.text, list(here.calls)) == (there.text, there.calls)
    assert here.stop == ("tool_calls" if there.calls else CHAT_STOP[there.stop])
    usage = {"input_total": there.input_total, "cache_read": there.cached, "output": there.output}
    assert here.usage == usage


def as_messages(there: ByHand, here: Reading) -> None:
    assert (here.text, list(here.calls), here.thinking) == (there.text, there.calls, there.thinking)
    assert here.stop == ("tool_use" if there.calls else MESSAGES_STOP[there.stop])
    assert (here.usage["input"], here.usage["cache_read"] or 0) == (there.input_total - there.cached, there.cached)
    assert here.usage["output"] == there.output


@pytest.mark.parametrize("size", [1, 7, 1 << 24])
@pytest.mark.parametrize("case", recorded(stream=True))
def test_a_recorded_stream_as_the_sdks_read_it(case: Case, size: int) -> None:
    body, there = body_of(case), ByHand(case)
    chat, messages = (Translation(GEMINI, dialect, VOICE) for dialect in (CHAT, MESSAGES))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    as_chat(there, read_chat_stream(b"".join(map(chat.feed, pieces)) + chat.close()))
    as_messages(there, read_messages_stream(b"".join(map(messages.feed, pieces)) + messages.close()))


@pytest.mark.parametrize("case", recorded(stream=False))
def test_a_recorded_answer_as_the_sdks_read_it(case: Case) -> None:
    answer, there = GEMINI.codec().decode_answer(json.loads(body_of(case))), ByHand(case)
    as_chat(there, read_chat_answer(orjson.dumps(CHAT.codec().encode_answer(answer, VOICE))))
    as_messages(there, read_message(orjson.dumps(MESSAGES.codec().encode_answer(answer, VOICE))))


@each("case", recorded(stream=True))
def test_a_recorded_stream_speaks_every_surface(case: Case) -> None:
    for dialect in DIALECTS.values():
        stream = Translation(GEMINI, dialect, VOICE)
        assert stream.feed(body_of(case)) + stream.close()
        assert stream.done
        assert not any(stream.edits.values())


# -- errors ------------------------------------------------------------------------------------------------------

MEANING = {404: errors.UpstreamUnknownModel, 429: errors.UpstreamRateLimited, 400: errors.ContextTooLong,
           503: errors.UpstreamFailed}  # fmt: skip


@each("case", recorded(good=False))
def test_a_recorded_error_is_understood(case: Case) -> None:
    parsed, status = json.loads(body_of(case)), case["response"]["status"]
    reading = GEMINI.read_error(parsed)
    assert (reading.own, reading.message) == (True, parsed["error"]["message"])
    found = failures.of_status(status, reading, Foreign(status, b""))
    assert type(found) is MEANING[status]
    assert found.retry_after == (48.0 if status == 429 else None)
