"""What Ollama really sent, read by hand, and in other words by the official SDKs: both see the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from each import each
from sdk_reading import Reading, read_chat_answer, read_chat_stream, read_message, read_messages_stream

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Voice
from proxy.streams import Translation
from proxy.wire.sse import Frame

OLLAMA, CHAT, MESSAGES = UPSTREAMS["ollama"], DIALECTS["openai-chat"], DIALECTS["anthropic"]
VOICE = Voice("req_1", "m", 7, include_usage=True)
FILES = sorted((Path(__file__).parents[2].parent / "shared" / "wire" / "ollama").glob("*.json"))
pytestmark = pytest.mark.skipif(not FILES, reason="the recordings are not on this machine")
Case = dict[str, Any]


def recorded(*, stream: bool, good: bool = True) -> list[Any]:
    cases = [json.loads(file.read_text()) for file in FILES]
    return [
        pytest.param(case, id=case["name"])
        for case in cases
        if case["response"]["stream"] is stream and ('{"error"' in case["response"]["body_text"]) is not good
    ]


def body_of(case: Case) -> bytes:
    body: bytes = case["response"]["body_text"].encode()
    return body


class ByHand:
    """The answer as its lines say it, put together without any of our code."""

    def __init__(self, case: Case) -> None:
        lines = [json.loads(line) for line in case["response"]["body_text"].splitlines()]
        messages = [line["message"] for line in lines]
        self.text = "".join(message.get("content", "") for message in messages)
        self.thinking = "".join(message.get("thinking", "") for message in messages)
        calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
        self.calls = tuple((call["name"], call["arguments"]) for call in calls)
        self.length = lines[-1]["done_reason"] == "length"
        self.input, self.output = lines[-1].get("prompt_eval_count"), lines[-1].get("eval_count")

    def as_chat(self, here: Reading) -> None:
        assert (here.text, here.calls) == (self.text, self.calls)
        assert here.stop == ("length" if self.length else "tool_calls" if self.calls else "stop")
        assert (here.usage["input_total"], here.usage["output"]) == (self.input, self.output)

    def as_messages(self, here: Reading) -> None:
        assert (here.text, here.calls, here.thinking) == (self.text, self.calls, self.thinking)
        assert here.stop == ("max_tokens" if self.length else "tool_use" if self.calls else "end_turn")
        assert (here.usage["input"], here.usage["output"]) == (self.input or 0, self.output or 0)


def translations() -> tuple[Translation, Translation]:
    return Translation(OLLAMA, CHAT, VOICE), Translation(OLLAMA, MESSAGES, VOICE)


@pytest.mark.parametrize("size", [1, 7, 1 << 24])
@pytest.mark.parametrize("case", recorded(stream=True))
def test_a_recorded_stream_as_the_sdks_read_it(case: Case, size: int) -> None:
    body, there = body_of(case), ByHand(case)
    chat, messages = translations()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    there.as_chat(read_chat_stream(b"".join(map(chat.feed, pieces)) + chat.close()))
    there.as_messages(read_messages_stream(b"".join(map(messages.feed, pieces)) + messages.close()))


@pytest.mark.parametrize("case", recorded(stream=True, good=False))
def test_a_recorded_stream_that_fails_as_the_sdks_read_it(case: Case) -> None:
    chat, messages = translations()
    with pytest.raises(openai.APIError, match="an error was encountered"):
        read_chat_stream(chat.feed(body_of(case)))
    with pytest.raises(anthropic.APIStatusError, match="an error was encountered"):
        read_messages_stream(messages.feed(body_of(case)))


@each("case", recorded(stream=False))
def test_a_recorded_answer_as_the_sdks_read_it(case: Case) -> None:
    answer, there = OLLAMA.codec().decode_answer(json.loads(body_of(case))), ByHand(case)
    there.as_chat(read_chat_answer(orjson.dumps(CHAT.codec().encode_answer(answer, VOICE))))
    there.as_messages(read_message(orjson.dumps(MESSAGES.codec().encode_answer(answer, VOICE))))
    assert OLLAMA.check_answer(json.loads(body_of(case))) == answer.usage


@each("case", recorded(stream=True))
def test_a_recorded_stream_speaks_every_surface(case: Case) -> None:
    for dialect in DIALECTS.values():
        stream = Translation(OLLAMA, dialect, VOICE)
        assert stream.feed(body_of(case))
        assert stream.done
        assert stream.stop in ("end", "tool_call")
        assert stream.usage is None or stream.usage.output


def test_calls_get_ids_that_are_unlike() -> None:
    found = [
        part.id for file in FILES if "stream-with-tools" in file.name for part in _calls(json.loads(file.read_text()))
    ]
    assert len(set(found)) == len(found) > 1


def _calls(case: Case) -> list[ir.ToolCall]:
    decoder = OLLAMA.codec().stream_decoder()
    events = [event for line in body_of(case).splitlines() for event in decoder.feed(Frame(line))]
    return [event.shell for event in events if isinstance(event, ir.PartStart) and isinstance(event.shell, ir.ToolCall)]
