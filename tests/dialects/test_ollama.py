"""Ollama's own API: requests side by side in tests/data/ollama/requests.json, answers, streams, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from attrs import evolve
from each import each
from sdk_reading import read_chat_stream, read_messages_stream

from proxy import errors, ir
from proxy.dialects import DIALECTS, UPSTREAMS, failures
from proxy.dialects.dialect import Reading, Voice
from proxy.errors import Foreign, InvalidRequest, Unsupported, UpstreamBroken, UpstreamError, UpstreamFailed
from proxy.streams import Translation
from proxy.wire.sse import Frame

OLLAMA, CHAT, MESSAGES = UPSTREAMS["ollama"], DIALECTS["openai-chat"], DIALECTS["anthropic"]
SOURCES = {"chat": CHAT, "messages": MESSAGES}
VOICE = Voice("req_1", "m", 7, include_usage=True)
Json = dict[str, Any]
CASES: dict[str, Json] = json.loads((Path(__file__).parents[1] / "data" / "ollama" / "requests.json").read_text())
PAIRS = [pytest.param(case, source, id=f"{name}, {source}") for name, case in CASES.items() for source in SOURCES
         if source in case]  # fmt: skip

# -- requests ----------------------------------------------------------------------------------------------------


def request_of(source: str, body: Json) -> ir.Request:
    """As if the client of Messages had not had to bound its answer."""
    if source == "messages" and "max_tokens" not in body:
        return evolve(SOURCES[source].codec().decode_request({"model": "m", "max_tokens": 1} | body), max_tokens=None)
    return SOURCES[source].codec().decode_request({"model": "m"} | body)


@each(("case", "source"), PAIRS)
def test_a_request_in_ollamas_words(case: Json, source: str) -> None:
    native = case.get("model", "qwen3:14b")
    written = OLLAMA.codec().encode_request(request_of(source, case[source]), ir.Target(native))
    assert json.loads(json.dumps(written.body)) == case["ollama"]
    assert list(written.dropped) == case.get("dropped", {}).get(source, [])


def encoded(source: str = "chat", cap: int | None = None, **members: Any) -> ir.Encoded:
    request = request_of(source, {"messages": [{"role": "user", "content": "Hi"}]} | members)
    return OLLAMA.codec().encode_request(request, ir.Target("qwen3:14b", max_output=cap))


def user(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}]}


FUNCTION = {"type": "function", "function": {"name": "look"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}
UNSUPPORTED: dict[str, tuple[str, Json, str, str]] = {
    "a picture that has to be fetched": ("chat", user(PICTURE), "messages[0].content[0]", "data: URL"),
    "sound": ("chat", user(SOUND), "messages[0].content[0]", "pictures only"),
    "a document that is no text": ("messages", user(PDF), "messages[0].content[0]", "as text"),
    "a call that has to be made": ("chat", {"tools": [FUNCTION], "tool_choice": "required"}, "tool_choice", "call"),
    "a tool of the provider's": ("chat", {"web_search_options": {}}, "tools[0]", "web_search"),
    "a tool that takes free text": (
        "chat", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]", "free text",
    ),
    "several answers": ("chat", {"n": 2}, "n", "one answer"),
    "spoken answers": ("chat", {"modalities": ["text", "audio"]}, "modalities", "text only"),
}  # fmt: skip


@each(("source", "members", "param", "words"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_cannot_be_said_is_refused_with_its_place(source: str, members: Json, param: str, words: str) -> None:
    with pytest.raises(Unsupported, match=words) as refused:
        encoded(source, **members)
    assert refused.value.param == param


def test_a_request_that_makes_no_sense_is_refused_with_its_place() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{"}}
    said = {"role": "assistant", "tool_calls": [call]}
    with pytest.raises(InvalidRequest, match="not JSON") as refused:
        encoded(messages=[said])
    assert refused.value.param == "messages[0].tool_calls[0].function.arguments"
    with pytest.raises(InvalidRequest, match="no call"):
        encoded(messages=[{"role": "tool", "tool_call_id": "c9", "content": "?"}])


def test_the_clients_bound_is_kept_within_the_models() -> None:
    written = encoded(cap=4096, max_tokens=10_000)
    assert (written.body["options"], written.dropped) == ({"num_predict": 4096}, ("max_tokens",))


def test_a_message_of_messages_has_its_own_place_in_what_is_dropped() -> None:
    """The client's third message, though its results and its words are turns of their own here."""
    use = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "x"}
    said = {"type": "text", "text": "Well?", "cache_control": {"type": "ephemeral"}}
    written = encoded("messages", system="Be terse.", messages=[
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, said]},
    ])  # fmt: skip
    assert written.dropped == ("messages[2].content[1].cache_control",)


def test_where_it_is_asked() -> None:
    assert OLLAMA.path("chat", "qwen3:14b", True) == OLLAMA.path("chat", "qwen3:14b", False) == "/api/chat"
    assert OLLAMA.credential("k") == (("Authorization", "Bearer k"),)
    with pytest.raises(Unsupported, match="embeddings"):
        OLLAMA.path("embeddings", "x", False)


# -- answers -----------------------------------------------------------------------------------------------------

AT = "2025-06-09T17:58:55.337823123Z"
DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 2}


def line(message: Json, **members: Any) -> Json:
    return {"model": "qwen3:14b", "created_at": AT, "message": {"role": "assistant", "content": ""} | message,
            "done": False} | members  # fmt: skip


def called(name: str, **members: Any) -> Json:
    return {"function": {"name": name, "arguments": members.pop("arguments", {})}} | members


IDENT = "20250609175855337823123"
ANSWERS: dict[str, tuple[Json, tuple[ir.Part, ...], ir.StopReason]] = {
    "text": (line({"content": "Hi"}, **DONE), (ir.Text("Hi"),), "end"),
    "thinking": (
        line({"thinking": "Hm", "content": "Hi"}, **DONE), (ir.Thinking("Hm", dialect="ollama"), ir.Text("Hi")), "end",
    ),
    "calls without ids": (
        line({"tool_calls": [called("look", arguments={"at": "sea"}), called("look")]}, **DONE),
        (ir.ToolCall(f"call_{IDENT}_0", "look", '{"at":"sea"}'), ir.ToolCall(f"call_{IDENT}_1", "look", "{}")),
        "tool_call",
    ),
    "a call with an id": (
        line({"tool_calls": [called("look", id="c9")]}, **DONE), (ir.ToolCall("c9", "look", "{}"),), "tool_call",
    ),
    "the bound": (line({"content": "Hi"}, **DONE | {"done_reason": "length"}), (ir.Text("Hi"),), "length"),
    "an early server": (line({"content": "Hi"}, done=True), (ir.Text("Hi"),), "end"),
    "another reason": (line({}, done=True, done_reason="load"), (), "unknown"),
}  # fmt: skip


@each(("body", "parts", "stop"), ANSWERS.values(), ids=ANSWERS)
def test_a_whole_answer(body: Json, parts: tuple[ir.Part, ...], stop: ir.StopReason) -> None:
    decoded = OLLAMA.codec().decode_answer(body)
    assert (decoded.choices[0].parts, decoded.choices[0].stop) == (parts, stop)
    assert (decoded.model, decoded.created) == ("qwen3:14b", 1_749_491_935)


def test_the_odds_of_words_are_where_openai_has_them() -> None:
    odds = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]
    decoded = OLLAMA.codec().decode_answer(line({"content": "Hi"}, **DONE, logprobs=odds))
    assert decoded.choices[0].logprobs == {"content": odds, "refusal": None}


@each("count", [None, -1, "7", 1e30, 1.5, True])
def test_absurd_counts_are_unknown(count: object) -> None:
    usage = OLLAMA.check_answer(line({"content": "Hi"}, **DONE | {"prompt_eval_count": count}))
    assert usage == ir.Usage(output=2)


BROKEN: dict[str, Any] = {
    "nothing": None,
    "a list": [],
    "no members": {},
    "no message": {"done": True},
    "not done": line({"content": "Hi"}),
    "an error": {"error": "out of memory"},
}


@each("body", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer(body: Any) -> None:
    with pytest.raises(UpstreamError):
        OLLAMA.check_answer(body)


def test_a_call_without_a_name_is_none() -> None:
    with pytest.raises(UpstreamBroken, match="name"):
        OLLAMA.codec().decode_answer(line({"tool_calls": [{"function": {}}]}, **DONE))


# -- streams -----------------------------------------------------------------------------------------------------

STREAMS: dict[str, tuple[list[Json], list[Any]]] = {
    "text": (
        [line({"content": "He"}), line({"content": "llo"}), line({}, **DONE)],
        ["start", ir.PartStart(0, ir.Text("")), ir.TextDelta(0, "He"), ir.TextDelta(0, "llo"), ir.PartEnd(0),
         ir.Finish("end", native_stop="stop"), ir.UsageReport(ir.Usage(7, output=2)), ir.End()],
    ),
    "thinking, text, and the last of it with the end": (
        [line({"thinking": "Hm"}), line({"content": "Hi"}), line({"content": "!"}, **DONE)],
        ["start", ir.PartStart(0, ir.Thinking(dialect="ollama")), ir.ThinkingDelta(0, "Hm"), ir.PartEnd(0),
         ir.PartStart(1, ir.Text("")), ir.TextDelta(1, "Hi"), ir.TextDelta(1, "!"), ir.PartEnd(1),
         ir.Finish("end", native_stop="stop"), ir.UsageReport(ir.Usage(7, output=2)), ir.End()],
    ),
    "calls in one line and in the next": (
        [line({"tool_calls": [called("a"), called("b")]}), line({"tool_calls": [called("a", id="x")]}),
         line({}, done=True)],
        ["start",
         ir.PartStart(0, ir.ToolCall(f"call_{IDENT}_0", "a")), ir.ArgumentsDelta(0, "{}"), ir.PartEnd(0),
         ir.PartStart(1, ir.ToolCall(f"call_{IDENT}_1", "b")), ir.ArgumentsDelta(1, "{}"), ir.PartEnd(1),
         ir.PartStart(2, ir.ToolCall("x", "a")), ir.ArgumentsDelta(2, "{}"), ir.PartEnd(2),
         ir.Finish("tool_call"), ir.End()],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "events"), STREAMS.values(), ids=STREAMS)
def test_a_stream(lines: list[Json], events: list[Any]) -> None:
    decoder = OLLAMA.codec().stream_decoder()
    heard = [event for each in lines for event in decoder.feed(Frame(orjson.dumps(each)))]
    assert heard[0] == ir.Start("", "qwen3:14b", 1_749_491_935)
    assert heard[1:] == events[1:]
    assert decoder.close() == []


def ndjson(*lines: Json) -> bytes:
    return b"".join(orjson.dumps(each) + b"\n" for each in lines)


@pytest.mark.parametrize(("lines", "events"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_both_sdks_read_a_stream(lines: list[Json], events: list[Any], size: int) -> None:
    body = ndjson(*lines)
    chat, messages = (Translation(OLLAMA, dialect, VOICE) for dialect in (CHAT, MESSAGES))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    one = read_chat_stream(b"".join(map(chat.feed, pieces)) + chat.close())
    other = read_messages_stream(b"".join(map(messages.feed, pieces)) + messages.close())
    text = "".join(event.text for event in events if isinstance(event, ir.TextDelta))
    assert (one.text, other.text, one.calls) == (text, text, other.calls)
    assert (one.stop, other.stop) == (("tool_calls", "tool_use") if one.calls else ("stop", "end_turn"))
    assert not any(chat.edits.values())


def test_an_error_in_the_middle_is_told_in_the_clients_words() -> None:
    body = ndjson(line({"content": "Hi"}), {"error": "the runner died"})
    chat, messages = (Translation(OLLAMA, dialect, VOICE) for dialect in (CHAT, MESSAGES))
    with pytest.raises(openai.APIError, match="the runner died"):
        read_chat_stream(chat.feed(body))
    with pytest.raises(anthropic.APIStatusError, match="the runner died"):
        read_messages_stream(messages.feed(body))
    assert isinstance(chat.failure, UpstreamFailed)


def test_an_error_before_any_content_is_a_failed_attempt() -> None:
    with pytest.raises(errors.ContextTooLong):
        Translation(OLLAMA, CHAT, VOICE).feed(
            ndjson({"error": "the input length exceeds the context length", "status": 400})
        )


def test_a_stream_that_ends_in_the_middle_is_broken() -> None:
    stream = Translation(OLLAMA, CHAT, VOICE)
    stream.feed(ndjson(line({"content": "Hi"})))
    with pytest.raises(UpstreamBroken, match="ended before"):
        stream.close()


@each("data", [b"{", b"3", b"{}", b'{"message":3}', b'{"message":{"tool_calls":[3]}}'])
def test_nonsense_is_a_broken_stream(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        OLLAMA.codec().stream_decoder().feed(Frame(data))


# -- errors ------------------------------------------------------------------------------------------------------

ERRORS = {
    "an unknown model": (404, "model 'x' not found", errors.UpstreamUnknownModel),
    "too long a prompt": (400, "the input length exceeds the context length", errors.ContextTooLong),
    "a fault of the request": (400, '"gemma" does not support thinking', errors.UpstreamRejected),
    "a key that may not": (401, "unauthorized", errors.UpstreamRefusedKey),
    "a server in trouble": (500, "llama runner process has terminated", errors.UpstreamFailed),
}


@each(("status", "message", "kind"), ERRORS.values(), ids=ERRORS)
def test_what_an_error_means(status: int, message: str, kind: type[UpstreamError]) -> None:
    reading = OLLAMA.read_error({"error": message})
    assert reading == Reading(True, message)
    assert type(failures.of_status(status, reading, Foreign(status, b""))) is kind


@each("body", [None, [], {}, {"error": None}, {"error": {"message": "x"}}, {"error": ""}])
def test_nobodys_json_is_no_error_of_ollama(body: Any) -> None:
    assert not OLLAMA.read_error(body).own
