"""Chat Completions and Messages in each other's words: requests, answers, streams, both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from each import each
from sdk_reading import Reading, read_chat_answer, read_chat_stream, read_message, read_messages_stream
from shares import product_of

from proxy import ir
from proxy.dialects import anthropic as messages_dialect
from proxy.dialects import openai_chat
from proxy.dialects.dialect import Dialect, Voice
from proxy.errors import Internal, UpstreamBroken, UpstreamError, UpstreamOverloaded
from proxy.streams import Translation
from proxy.wire import sse

CHAT, MESSAGES = openai_chat.DIALECT, messages_dialect.DIALECT
DATA = Path(__file__).parents[1] / "data" / "translation"
WIRE = Path(__file__).parents[2].parent / "shared" / "wire"
VOICE = Voice("req_1", "m", 7, include_usage=True)
DIALECTS = {"chat": CHAT, "messages": MESSAGES}


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name).read_text())
    return found


# -- requests ----------------------------------------------------------------------------------------------------

REQUESTS = golden("requests.json")
TO_MESSAGES = [name for name, case in REQUESTS.items() if case.get("only") != "to chat"]
TO_CHAT = [name for name, case in REQUESTS.items() if case.get("only") != "to messages"]


def models(case: dict[str, Any]) -> tuple[str, str]:
    return case.get("chat_model", "gpt-4o"), case.get("messages_model", "claude-opus-4-8")


@each("name", TO_MESSAGES)
def test_a_chat_request_in_the_words_of_messages(name: str) -> None:
    case = REQUESTS[name]
    chat, native = models(case)
    request = CHAT.codec().decode_request({"model": chat, "max_tokens": 99} | case["chat"])
    encoded = MESSAGES.codec().encode_request(request, ir.Target(native))
    assert encoded.body == {"model": native, "max_tokens": 99} | case["messages"]
    assert sorted(encoded.dropped) == sorted(case.get("dropped_to_messages", []))


@each("name", TO_CHAT)
def test_a_messages_request_in_the_words_of_chat(name: str) -> None:
    case = REQUESTS[name]
    native, asked = models(case)
    limit = "max_completion_tokens" if native == "gpt-5" else "max_tokens"
    request = MESSAGES.codec().decode_request({"model": asked, "max_tokens": 99} | case["messages"])
    encoded = CHAT.codec().encode_request(request, ir.Target(native))
    assert encoded.body == {"model": native, limit: 99} | (case.get("chat_again") or case["chat"])
    assert sorted(encoded.dropped) == sorted(case.get("dropped_to_chat", []))


# -- answers -----------------------------------------------------------------------------------------------------

ANSWERS = golden("answers.json")


@each("name", ANSWERS)
def test_a_chat_answer_in_the_words_of_messages(name: str) -> None:
    case = ANSWERS[name]
    assert MESSAGES.codec().encode_answer(CHAT.codec().decode_answer(case["chat"]), VOICE) == case["messages"]


@each("name", [name for name, case in ANSWERS.items() if "only" not in case])
def test_a_messages_answer_in_the_words_of_chat(name: str) -> None:
    case = ANSWERS[name]
    assert CHAT.codec().encode_answer(MESSAGES.codec().decode_answer(case["messages"]), VOICE) == case["chat"]


# -- streams, as scripts -----------------------------------------------------------------------------------------

SCRIPTS = golden("streams.json")


def bytes_of(event: Any, dialect: Dialect) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    return sse.encode(orjson.dumps(event), event["type"].encode() if dialect is MESSAGES else b"")


def spoken(out: bytes) -> list[Any]:
    """What left, event by event; of a chat chunk what changes from one to the next."""
    found: list[Any] = []
    for frame in sse.Framer().feed(out):
        if frame.data == b"[DONE]":
            found.append("[DONE]")
            continue
        event = orjson.loads(frame.data)
        assert frame.event.decode() == event.get("type", "")
        found.append(event if "type" in event or "error" in event else chunk(event))
    return found


def chunk(event: dict[str, Any]) -> dict[str, Any]:
    assert (event["object"], event["created"]) == ("chat.completion.chunk", 7)
    if not event["choices"]:
        return {"usage": event["usage"]}
    choice = event["choices"][0]
    reason = {"finish_reason": choice["finish_reason"]} if choice["finish_reason"] else {}
    return {"delta": choice["delta"]} | reason


def translation(source: str) -> Translation:
    target = MESSAGES if source == "chat" else CHAT
    return Translation(DIALECTS[source], target, VOICE)


@each("name", SCRIPTS)
def test_what_comes_leaves_before_more_comes(name: str) -> None:
    script = SCRIPTS[name]
    stream = translation(script["from"])
    for up, down in script["steps"]:
        assert spoken(stream.feed(bytes_of(up, DIALECTS[script["from"]]))) == down, up
    assert stream.done
    assert stream.close() == b""


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_other_sdk_reads_the_whole(name: str) -> None:
    script = SCRIPTS[name]
    stream = translation(script["from"])
    out = b"".join(stream.feed(bytes_of(up, DIALECTS[script["from"]])) for up, _ in script["steps"])
    read = read_messages_stream if script["from"] == "chat" else read_chat_stream
    if error := script.get("error"):
        with pytest.raises((anthropic.APIStatusError, openai.APIError), match=error):
            read(out)
    else:
        reading = read(out)
        assert [reading.text, [list(call) for call in reading.calls], reading.stop] == script["reads"]


@pytest.mark.parametrize("source", DIALECTS)
def test_a_failure_of_ours_is_told_in_the_clients_dialect(source: str) -> None:
    text = {"chat": {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}, "messages": None}[source]
    stream = translation(source)
    if text is None:
        start = {"type": "message_start", "message": {"id": "a", "model": "m"}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
        out = stream.feed(bytes_of(start, MESSAGES)) + stream.feed(bytes_of(delta, MESSAGES))
    else:
        out = stream.feed(bytes_of(text, CHAT))
    out += stream.fail(Internal("Something broke here."))
    with pytest.raises((anthropic.APIStatusError, openai.APIError), match="Something broke here"):
        (read_messages_stream if source == "chat" else read_chat_stream)(out)
    assert b"[DONE]" not in out
    assert b"message_stop" not in out


@pytest.mark.parametrize("source", DIALECTS)
def test_an_error_before_any_content_is_a_failed_attempt(source: str) -> None:
    error = {"type": "overloaded_error", "message": "busy"}
    event = {"type": "error", "error": error} if source == "messages" else {"error": {**error, "code": 529}}
    with pytest.raises(UpstreamOverloaded):
        translation(source).feed(bytes_of(event, DIALECTS[source]))


# -- streams and answers as they were recorded ---------------------------------------------------------------------

MESSAGES_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
CHAT_STOP = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def recordings(folder: str, *, stream: bool) -> dict[str, dict[str, Any]]:
    cases = {path.stem: json.loads(path.read_text()) for path in sorted(WIRE.glob(f"{folder}/**/*.json"))}
    return {
        name: case
        for name, case in cases.items()
        if case["response"]["status"] == 200 and bool(case["response"]["stream"]) is stream
    }


CHAT_STREAMS = recordings("openai-chat", stream=True) | recordings("openai-chat-compatible", stream=True)
CHAT_ANSWERS = recordings("openai-chat", stream=False) | recordings("openai-chat-compatible", stream=False)
MESSAGES_STREAMS = recordings("anthropic-messages", stream=True)
MESSAGES_ANSWERS = recordings("anthropic-messages", stream=False)
SIZES = {"in small pieces": 7, "at once": 1 << 20}
recorded = pytest.mark.skipif(not CHAT_STREAMS, reason="no recordings beside the project")


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def same(there: Reading, here: Reading) -> None:
    assert (here.text, here.calls) == (there.text, there.calls)


def same_usage(chat: Reading, messages: Reading) -> None:
    """Chat counts cached tokens within its total, Messages apart. Where chat told nothing, Messages must say 0."""
    usage = messages.usage
    if chat.usage["output"] is None:
        return
    total = sum(usage[name] or 0 for name in ("input", "cache_read", "cache_write"))
    assert (total, usage["cache_read"] or 0) == (chat.usage["input_total"], chat.usage["cache_read"])
    assert usage["output"] == chat.usage["output"]


@recorded
@pytest.mark.parametrize(("case", "size"), product_of(CHAT_STREAMS, SIZES, fast=1, of=2))
def test_a_recorded_chat_stream_as_a_messages_client_reads_it(case: dict[str, Any], size: int) -> None:
    body: bytes = case["response"]["body_text"].encode()
    stream = translation("chat")
    try:
        there = read_chat_stream(body)
    except openai.APIError:
        out = b"".join(map(stream.feed, pieces(body, size)))
        assert isinstance(stream.failure, UpstreamError)
        with pytest.raises(anthropic.APIStatusError):
            read_messages_stream(out)
        return
    out = b"".join(map(stream.feed, pieces(body, size)))
    if there.stop is None:
        with pytest.raises(UpstreamBroken):
            stream.close()
        return
    here = read_messages_stream(out + stream.close())
    same(there, here)
    assert here.stop == ("tool_use" if here.calls and there.stop == "stop" else MESSAGES_STOP[there.stop])
    same_usage(there, here)


@recorded
@pytest.mark.parametrize(("case", "size"), product_of(MESSAGES_STREAMS, SIZES, fast=1, of=2))
def test_a_recorded_messages_stream_as_a_chat_client_reads_it(case: dict[str, Any], size: int) -> None:
    body: bytes = case["response"]["body_text"].encode()
    end = body.index(b"\n\n", body.index(b'{"type":"message_stop"')) + 2
    stream = translation("messages")
    out = b"".join(map(stream.feed, pieces(body, size))) + stream.close()
    there, here = read_messages_stream(body[:end]), read_chat_stream(out)
    same(there, here)
    assert there.stop is not None
    assert here.stop == CHAT_STOP[there.stop]
    same_usage(here, there)


@recorded
@each("case", CHAT_ANSWERS.values(), ids=CHAT_ANSWERS)
def test_a_recorded_chat_answer_as_a_messages_client_reads_it(case: dict[str, Any]) -> None:
    raw = case["response"]["body_text"].encode()
    there = read_chat_answer(raw)
    here = read_message(
        orjson.dumps(MESSAGES.codec().encode_answer(CHAT.codec().decode_answer(orjson.loads(raw)), VOICE))
    )
    same(there, here)
    assert here.stop == MESSAGES_STOP[there.stop or "stop"]  # Snowflake says ""
    same_usage(there, here)


@recorded
@pytest.mark.parametrize("case", MESSAGES_ANSWERS.values(), ids=MESSAGES_ANSWERS)
def test_a_recorded_messages_answer_as_a_chat_client_reads_it(case: dict[str, Any]) -> None:
    raw = case["response"]["body_text"].encode()
    there = read_message(raw)
    here = read_chat_answer(
        orjson.dumps(CHAT.codec().encode_answer(MESSAGES.codec().decode_answer(orjson.loads(raw)), VOICE))
    )
    same(there, here)
    assert there.stop is not None
    assert here.stop == CHAT_STOP[there.stop]
    same_usage(here, there)
