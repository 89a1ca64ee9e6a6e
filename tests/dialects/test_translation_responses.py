"""Responses in the words of Chat Completions and Messages, and the other way round: requests, answers, streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from attrs import evolve
from each import each
from sdk_reading import (
    Reading,
    read_chat_answer,
    read_chat_stream,
    read_message,
    read_messages_stream,
    read_response,
    read_response_stream,
)
from shares import product_of

from proxy import ir
from proxy.dialects import anthropic as messages_dialect
from proxy.dialects import openai_chat, openai_responses
from proxy.dialects.dialect import Dialect, Voice
from proxy.errors import Internal, Unsupported, UpstreamBroken, UpstreamError, UpstreamOverloaded
from proxy.streams import Translation, events_of
from proxy.wire import sse

CHAT, MESSAGES, RESPONSES = openai_chat.DIALECT, messages_dialect.DIALECT, openai_responses.DIALECT
DIALECTS = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}
DATA = Path(__file__).parents[1] / "data" / "translation"
WIRE = Path(__file__).parents[2].parent / "shared" / "wire"
VOICE = Voice("req_1", "m", 7, include_usage=True)
READ_STREAM = {"chat": read_chat_stream, "messages": read_messages_stream, "responses": read_response_stream}
READ_ANSWER = {"chat": read_chat_answer, "messages": read_message, "responses": read_response}


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name).read_text())
    return found


# -- requests ----------------------------------------------------------------------------------------------------

TO_OTHERS = golden("responses_requests.json")
FROM_OTHERS = golden("requests_to_responses.json")


@each("target", ["chat", "messages"])
@each("name", TO_OTHERS)
def test_a_responses_request_in_the_words_of(name: str, target: str) -> None:
    case = TO_OTHERS[name]
    native = "claude-opus-4-8" if target == "messages" else case.get("chat_model", "gpt-4o")
    request = RESPONSES.codec().decode_request({"model": "m"} | case["responses"])
    if refused := case.get(f"refused_by_{target}"):
        with pytest.raises(Unsupported) as caught:
            DIALECTS[target].codec().encode_request(request, ir.Target(native))
        assert caught.value.param == refused
        return
    encoded = DIALECTS[target].codec().encode_request(request, ir.Target(native, max_output=99))
    cap = {"max_tokens": 99} if target == "messages" else {}
    assert orjson.loads(orjson.dumps(encoded.body)) == {"model": native} | cap | case[target]
    assert sorted(encoded.dropped) == sorted(case.get(f"dropped_to_{target}", []))


@each("name", FROM_OTHERS)
def test_anothers_request_in_the_words_of_responses(name: str) -> None:
    """Which is never stored, unless the client says so: the API would do it unasked."""
    case = FROM_OTHERS[name]
    source, native = "chat" if "chat" in case else "messages", case.get("model", "gpt-4o")
    cap = {"max_tokens": 99} if source == "messages" else {}
    body = {"model": native} | cap | case[source]
    request = DIALECTS[source].codec().decode_request(body)
    if refused := case.get("refused"):
        with pytest.raises(Unsupported) as caught:
            RESPONSES.codec().encode_request(request, ir.Target(native))
        assert (caught.value.param or "").startswith(refused)
        return
    encoded = RESPONSES.codec().encode_request(request, ir.Target(native))
    wanted = {"model": native, "store": False} | ({"max_output_tokens": 99} if cap else {}) | case["responses"]
    assert orjson.loads(orjson.dumps(encoded.body)) == wanted
    assert sorted(encoded.dropped) == sorted(case.get("dropped", []))


def test_a_request_is_written_the_same_each_time() -> None:
    for case in FROM_OTHERS.values():
        if "chat" in case and "refused" not in case:
            request = CHAT.codec().decode_request({"model": "gpt-4o"} | case["chat"])
            first, again = (RESPONSES.codec().encode_request(request, ir.Target("gpt-4o")) for _ in range(2))
            assert orjson.dumps(first.body) == orjson.dumps(again.body)


# -- streams, as scripts -----------------------------------------------------------------------------------------

SCRIPTS = golden("responses_streams.json")


def bytes_of(event: Any, dialect: Dialect) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    return sse.encode(orjson.dumps(event), b"" if dialect is CHAT else event["type"].encode())


def spoken(out: bytes) -> list[Any]:
    """What left, event by event: of a chat chunk what changes from one to the next, of a response what is no echo of
    the request."""
    found: list[Any] = []
    for frame in sse.Framer().feed(out):
        if frame.data == b"[DONE]":
            found.append("[DONE]")
            continue
        event = orjson.loads(frame.data)
        assert frame.event.decode() == event.get("type", "")
        event.pop("sequence_number", None)
        if isinstance(response := event.get("response"), dict):
            told = ("id", "status", "error", "incomplete_details", "output", "usage")
            event["response"] = {name: response[name] for name in told if response[name]}
        found.append(chunk(event) if "choices" in event else event)
    return found


def chunk(event: dict[str, Any]) -> dict[str, Any]:
    if not event["choices"]:
        return {"usage": event["usage"]}
    choice = event["choices"][0]
    reason = {"finish_reason": choice["finish_reason"]} if choice["finish_reason"] else {}
    return {"delta": choice["delta"]} | reason


def translation(script: dict[str, Any]) -> Translation:
    voice = evolve(VOICE, asked=script.get("asked", {}))
    return Translation(DIALECTS[script["from"]], DIALECTS[script["to"]], voice)


@each("name", SCRIPTS)
def test_what_comes_leaves_before_more_comes(name: str) -> None:
    script = SCRIPTS[name]
    stream = translation(script)
    for up, down in script["steps"]:
        assert spoken(stream.feed(bytes_of(up, DIALECTS[script["from"]]))) == down, up
    assert stream.done
    assert stream.close() == b""


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_other_sdk_reads_the_whole(name: str) -> None:
    script = SCRIPTS[name]
    stream = translation(script)
    out = b"".join(stream.feed(bytes_of(up, DIALECTS[script["from"]])) for up, _ in script["steps"])
    read = READ_STREAM[script["to"]]
    if error := script.get("error"):
        with pytest.raises((anthropic.APIStatusError, openai.APIError), match=error):
            read(out)
    else:
        reading = read(out)
        assert [reading.text, [list(call) for call in reading.calls], reading.stop] == script["reads"]


@each("name", [name for name, script in SCRIPTS.items() if script["to"] == "responses"])
def test_every_event_is_numbered_and_one_alone_is_terminal(name: str) -> None:
    script = SCRIPTS[name]
    stream = translation(script)
    out = b"".join(stream.feed(bytes_of(up, DIALECTS[script["from"]])) for up, _ in script["steps"])
    events = [orjson.loads(frame.data) for frame in sse.Framer().feed(out)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    terminal = {"response.completed", "response.incomplete", "response.failed"}
    assert [event["type"] in terminal for event in events] == [False] * (len(events) - 1) + [True]


@pytest.mark.parametrize("source", ["chat", "messages"])
def test_a_failure_of_ours_raises_in_the_sdk_and_ends_the_response(source: str) -> None:
    script = SCRIPTS[f"text from {source}, to responses"]
    stream = translation(script)
    out = b"".join(stream.feed(bytes_of(up, DIALECTS[source])) for up, _ in script["steps"][:4])
    out += stream.fail(Internal("Something broke here.", param="p"))
    with pytest.raises(openai.APIError, match="Something broke here") as caught:
        read_response_stream(out)
    assert (caught.value.code, caught.value.type, caught.value.param) == ("internal_error", "server_error", "p")
    error, failed = spoken(out)[-2:]
    assert (error["type"], error["code"], error["message"]) == ("error", "internal_error", "Something broke here.")
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "Something broke here."}


@pytest.mark.parametrize("target", ["chat", "messages"])
def test_an_error_before_any_content_is_a_failed_attempt(target: str) -> None:
    stream = Translation(RESPONSES, DIALECTS[target], VOICE)
    created = {"type": "response.created", "response": {"id": "r", "model": "m"}}
    assert stream.feed(bytes_of(created, RESPONSES)) == b""
    with pytest.raises(UpstreamOverloaded):
        stream.feed(bytes_of({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, RESPONSES))


# -- streams and answers as they were recorded ---------------------------------------------------------------------


def recordings(source: str, *, stream: bool) -> dict[str, Any]:
    folders = {
        "chat": ("openai-chat", "openai-chat-compatible"),
        "messages": ("anthropic-messages",),
        "responses": ("openai-responses", "openai-responses-compatible"),
    }[source]
    files = [path for folder in folders for path in sorted(WIRE.glob(f"{folder}/**/*.json"))]
    found = {}
    for path in files:
        case = json.loads(path.read_text())
        if case["response"]["status"] == 200 and bool(case["response"]["stream"]) is stream:
            found[case["name"]] = (source, case["response"]["body_text"].encode())
    return found


# From which dialect to which other.
PAIRS = (("chat", "responses"), ("messages", "responses"), ("responses", "chat"), ("responses", "messages"))
STREAMS = {
    f"{name}-{target}": (raw, source, target)
    for source, target in PAIRS
    for name, (_, raw) in recordings(source, stream=True).items()
}
ANSWERS = [
    pytest.param(raw, source, target, id=f"{name}-{target}")
    for source, target in PAIRS
    for name, (_, raw) in recordings(source, stream=False).items()
]
recorded = pytest.mark.skipif(not STREAMS, reason="the recordings are not on this machine")

STOPS = {
    ("chat", "responses"): {
        "stop": "completed", "tool_calls": "completed", "": "completed", "length": "max_output_tokens",
        "content_filter": "content_filter",
    },
    ("messages", "responses"): {
        "end_turn": "completed", "tool_use": "completed", "stop_sequence": "completed", "pause_turn": "completed",
        "max_tokens": "max_output_tokens", "refusal": "content_filter",
    },
    ("responses", "chat"): {"completed": "stop"},
    ("responses", "messages"): {"completed": "end_turn"},
}  # fmt: skip
CALLING = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def first_answer(raw: bytes, source: str) -> bytes:
    """A few recordings of Messages hold several answers one behind the other."""
    if source != "messages":
        return raw
    return raw[: raw.index(b"\n\n", raw.index(b'{"type":"message_stop"')) + 2]


def same(there: Reading, here: Reading, source: str, target: str) -> None:
    assert (here.text, here.calls) == (there.text, there.calls)
    if "chat" not in (source, target):  # its SDK does not know where reasoning stands
        assert here.thinking.replace("\n\n", "") == there.thinking.replace("\n\n", "")
    assert here.stop == (
        CALLING[target] if here.calls and target != "responses" else STOPS[source, target][there.stop or ""]
    )
    counted(there.usage, here.usage)


def counted(there: Any, here: Any) -> None:
    """Messages has cached tokens apart, the others within the total. Where the source told nothing, nothing is made up,
    but for the zeros that Messages demands."""
    one, other = (
        (
            usage["input_total"] if "input_total" in usage else _total(usage),
            usage["cache_read"] or 0,
            usage["output"],
        )
        for usage in (there, here)
    )
    assert one == other or there["output"] is None


def _total(usage: Any) -> int:
    return sum(usage[name] or 0 for name in ("input", "cache_read", "cache_write"))


@recorded
@pytest.mark.parametrize(
    ("recording", "size"), product_of(STREAMS, {"in small pieces": 7, "at once": 1 << 20}, fast=1, of=2)
)
def test_a_recorded_stream_as_the_others_client_reads_it(recording: tuple[bytes, str, str], size: int) -> None:
    raw, source, target = recording
    raw = first_answer(raw, source)
    stream = Translation(DIALECTS[source], DIALECTS[target], VOICE)
    try:
        there = READ_STREAM[source](raw)
    except openai.APIError:
        check_failure(stream, raw, target)
        return
    out = b"".join(map(stream.feed, pieces(raw, size)))
    if there.stop is None:
        with pytest.raises(UpstreamBroken):
            stream.close()
        return
    same(there, READ_STREAM[target](out + stream.close()), source, target)


def check_failure(stream: Translation, raw: bytes, target: str) -> None:
    """Before any content it is a failed attempt, behind it the client's own SDK raises."""
    try:
        out = stream.feed(raw)
    except UpstreamError:
        return
    assert isinstance(stream.failure, UpstreamError)
    with pytest.raises((openai.APIError, anthropic.APIStatusError)):
        READ_STREAM[target](out)


@recorded
@each(("raw", "source", "target"), ANSWERS)
def test_a_recorded_answer_as_the_others_client_reads_it(raw: bytes, source: str, target: str) -> None:
    answer = DIALECTS[source].codec().decode_answer(orjson.loads(raw))
    here = READ_ANSWER[target](orjson.dumps(DIALECTS[target].codec().encode_answer(answer, VOICE)))
    same(READ_ANSWER[source](raw), here, source, target)


@recorded
@each(("raw", "source", "target"), [case for case in ANSWERS if case.values[2] == "responses"])
def test_a_recorded_answer_is_the_same_as_a_stream(raw: bytes, source: str, target: str) -> None:
    """For providers that answer a stream request with a document: the terminal event holds what a plain answer is."""
    answer = DIALECTS[source].codec().decode_answer(orjson.loads(raw))
    out = RESPONSES.codec().stream_encoder(VOICE).feed(events_of(answer))
    plain = RESPONSES.codec().encode_answer(answer, VOICE)
    final = orjson.loads(sse.Framer().feed(out)[-1].data)["response"]
    assert kept(final) == kept(orjson.loads(orjson.dumps(plain)))


def kept(response: dict[str, Any]) -> dict[str, Any]:
    """Log probabilities do not travel in the events of a whole answer, and its citations come ahead of their text, so
    that an unknown place in it is its beginning."""
    for item in response["output"]:
        for part in item.get("content", ()):
            part.pop("logprobs", None)
            for note in part.get("annotations", ()):
                note.pop("end_index")
    return response
