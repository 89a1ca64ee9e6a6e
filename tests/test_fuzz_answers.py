"""Answers that are well-formed JSON and of the wrong shape: any member of a good one replaced by a value of any kind.
Streamed and plain, passed through and translated, they are an answer or a failure of ours, never an accident, and never
much larger than what came."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from faults.responses import RESPONSES
from hypothesis import given
from hypothesis import strategies as st
from playbook import MESSAGES, Tongue

from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Dialect, Voice
from proxy.errors import GatewayError
from proxy.streams import Passthrough, Stream, Translation
from proxy.wire import json_text

VOICE = Voice("req_1", "asked", 1, True, {})
MOST_GROWN = 200_000  # bytes that an answer of a few hundred may come to

CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def events_of(tongue: Tongue) -> list[Any]:
    lines = b"".join(tongue.stream("one", "two")).splitlines()
    found = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: {")]
    return [orjson.loads(line) for line in found]


BLOCK = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
ANTHROPIC = [
    *events_of(MESSAGES)[:-2],
    {"type": "content_block_start", "index": 1, "content_block": BLOCK},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2, "input_tokens": 3}},
    {"type": "message_stop"},
]
OPENAI = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm", "content": "one"}),
    chunk({"tool_calls": [CALL]}),
    chunk({}, "tool_calls"),
    chunk({}, None, usage=USAGE),
]
FUNCTION = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}
AI_RESPONSES = [
    *events_of(RESPONSES)[:-1],
    {"type": "response.output_item.added", "output_index": 1, "item": FUNCTION, "sequence_number": 1},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "item_id": "fc_1", "delta": "{}"},
    {"type": "response.output_item.done", "output_index": 1, "item": FUNCTION, "sequence_number": 1},
    events_of(RESPONSES)[-1],
]
PARTS = [{"text": "hm", "thought": True}, {"text": "one"}, {"functionCall": {"name": "look", "args": {"at": "sky"}}}]
GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": PARTS}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
    "modelVersion": "m",
}
TOOL = {"function": {"name": "look", "arguments": {"at": "sky"}}}
OLLAMA = {
    "model": "m", "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "stop",
    "message": {"role": "assistant", "content": "one", "thinking": "hm", "tool_calls": [TOOL]},
    "prompt_eval_count": 3, "eval_count": 2,
}  # fmt: skip
MESSAGE = {"role": "assistant", "content": "one", "reasoning_content": "hm", "tool_calls": [CALL]}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}
WHOLE = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE}

STREAMED: dict[str, list[Any]] = {
    "openai-chat": OPENAI,
    "openai-responses": AI_RESPONSES,
    "anthropic": ANTHROPIC,
    "gemini": [GEMINI],
    "ollama": [{**OLLAMA, "done": False}, OLLAMA],
    "workers-ai": OPENAI,
}
PLAIN: dict[str, Any] = {
    "openai-chat": WHOLE,
    "openai-responses": {**RESPONSES.answer("one"), "output": [*RESPONSES.answer("one")["output"], FUNCTION]},
    "anthropic": {**MESSAGES.answer("one"), "content": [*MESSAGES.answer("one")["content"], BLOCK]},
    "gemini": GEMINI,
    "ollama": OLLAMA,
    "workers-ai": WHOLE,
}
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e300, 10**18, -(10**18), 2**63, "", "x", "stop", "1", "\ud800", [], {}, [None],
    [[]], [{}], {"a": 1}, {"type": "x"}, [1, "a", None], "0" * 50, {"error": {"message": "no"}},
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in members:
        yield (*at, name)
        yield from places(inner, (*at, name))


def altered(document: Any, changes: list[tuple[int, int, bool]]) -> Any:
    """With a few of its members replaced, or gone."""
    changed = copy.deepcopy(document)
    for place, value, gone in changes:
        known = list(places(changed))
        if not known:
            break
        *way, last = known[place % len(known)]
        inner = changed
        for name in way:
            inner = inner[name]
        if gone and isinstance(inner, dict):
            del inner[last]
        else:
            inner[last] = copy.deepcopy(ODD[value % len(ODD)])
    return changed


changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 99), st.booleans()), min_size=1, max_size=4)
each_upstream = pytest.mark.parametrize("spoken", sorted(STREAMED))


def framed(spoken: str, events: list[Any]) -> bytes:
    texts = [orjson.dumps(_sayable(event)) for event in events]
    if UPSTREAMS[spoken].framing != "sse":
        return b"".join(text + b"\n" for text in texts)
    names = [event.get("type") if isinstance(event, dict) else None for event in events]
    heads = [b"event: %b\n" % name.encode() if isinstance(name, str) and name.isascii() else b"" for name in names]
    return b"".join(b"%bdata: %b\n\n" % (head, text) for head, text in zip(heads, texts, strict=True))


def _sayable(value: Any) -> Any:
    """orjson writes no lone surrogate; what it would read is an escape, which `test_fuzz.py` has."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_sayable(name): _sayable(inner) for name, inner in value.items()}
        case list():
            return [_sayable(inner) for inner in value]
    return value


def played(stream: Stream, raw: bytes) -> bytes:
    out = b""
    try:
        out += stream.feed(raw)
        if not stream.done:
            out += stream.close()
    except GatewayError as error:
        out += stream.fail(error)
    return out


def test_every_dialect_of_providers_is_here() -> None:
    assert STREAMED.keys() == PLAIN.keys() == UPSTREAMS.keys()


@each_upstream
@given(changes=changes)
def test_a_stream_of_any_shape_is_translated_or_fails(spoken: str, changes: list[tuple[int, int, bool]]) -> None:
    raw = framed(spoken, altered(STREAMED[spoken], changes))
    for client in DIALECTS:
        out = played(Translation(UPSTREAMS[spoken], DIALECTS[client], VOICE), raw)
        assert len(out) < MOST_GROWN


@pytest.mark.parametrize("spoken", list(DIALECTS))
@given(changes=changes)
def test_a_stream_of_any_shape_passes_or_fails(spoken: str, changes: list[tuple[int, int, bool]]) -> None:
    raw = framed(spoken, altered(STREAMED[spoken], changes))
    assert len(played(Passthrough(DIALECTS[spoken], VOICE), raw)) < len(raw) + 10_000


@each_upstream
@given(changes=changes)
def test_an_answer_of_any_shape_is_read_or_refused(spoken: str, changes: list[tuple[int, int, bool]]) -> None:
    dialect, document = UPSTREAMS[spoken], _sayable(altered(PLAIN[spoken], changes))
    for client in DIALECTS:
        encode: Callable[..., Any] = DIALECTS[client].codec().encode_answer
        try:
            dialect.check_answer(copy.deepcopy(document))
            answer = dialect.codec().decode_answer(copy.deepcopy(document))
            assert len(json_text.write(encode(answer, VOICE))) < MOST_GROWN
        except GatewayError:
            continue
        if isinstance(dialect, Dialect) and dialect.mend_answer is not None:
            dialect.mend_answer(orjson.dumps(document), "req_1")
