"""Streams of Gemini: what comes in, and what must leave before more comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st
from sdk_reading import read_chat_stream, read_messages_stream

from proxy import ir
from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.dialects.dialect import Voice
from proxy.dialects.gemini.arguments import Arguments
from proxy.errors import UpstreamBroken, UpstreamFailed, UpstreamRateLimited
from proxy.streams import Translation
from proxy.wire import sse
from proxy.wire.sse import Frame

GEMINI, CHAT, MESSAGES = UPSTREAMS["gemini"], DIALECTS["openai-chat"], DIALECTS["anthropic"]
VOICE = Voice("req_1", "m", 7, include_usage=True)
Json = dict[str, Any]


def chunk(*parts: Json, reason: str | None = None, index: int = 0, **members: Any) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    if reason:
        candidate["finishReason"] = reason
    grounding = members.pop("grounding", None)
    return {"candidates": [candidate | ({"groundingMetadata": grounding} if grounding else {})], "responseId": "r-1",
            "modelVersion": "gemini-x"} | members  # fmt: skip


def said(text: str, **members: Any) -> Json:
    return {"text": text} | members


def thought(text: str) -> Json:
    return said(text, thought=True)


def call(name: str | None = None, args: Json | None = None, *pieces: Json, goes_on: bool = False, **more: Any) -> Json:
    members = {"name": name, "args": args, "partialArgs": list(pieces) or None, "willContinue": goes_on or None, **more}
    return {"functionCall": {key: value for key, value in members.items() if value is not None}}


def piece(path: str, goes_on: bool = False, **value: Any) -> Json:
    return {"jsonPath": path, **value} | ({"willContinue": True} if goes_on else {})


def usage(prompt: int, output: int) -> Json:
    return {"promptTokenCount": prompt, "candidatesTokenCount": output, "totalTokenCount": prompt + output}


def framed(document: Any) -> bytes:
    return sse.encode(orjson.dumps(document)).replace(b"\n", b"\r\n")  # as Google ends its lines


def to_chat() -> Translation:
    return Translation(GEMINI, CHAT, VOICE)


def to_messages() -> Translation:
    return Translation(GEMINI, MESSAGES, VOICE)


def deltas(out: bytes) -> list[Any]:
    """Of each chat chunk what changes: the delta, or the reason to stop, or the usage."""
    found: list[Any] = []
    for frame in sse.Framer().feed(out):
        if frame.data == b"[DONE]":
            found.append("[DONE]")
            continue
        event = orjson.loads(frame.data)
        if not event["choices"]:
            found.append((event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"]))
        for choice in event["choices"]:
            found.append(choice["finish_reason"] or choice["delta"])
    return found


ROLE = {"role": "assistant", "content": ""}


def calls(place: int, **members: Any) -> Json:
    ident = {"id": members.pop("id"), "type": "function"} if "id" in members else {}
    proof = members.pop("proof", None)
    extra = {"extra_content": {"google": {"thought_signature": proof}}} if proof else {}
    return {"tool_calls": [{"index": place, **ident, "function": members} | extra]}


Script = list[tuple[Json, list[Any]]]
# What comes, and the chat chunks that leave before more comes; the last entry is the end of the body.
SCRIPTS: dict[str, Script] = {
    "text leaves as it comes": [
        (chunk(said("Hel")), [ROLE, {"content": "Hel"}]),
        (chunk(said("lo")), [{"content": "lo"}]),
        (chunk(said("!"), reason="STOP", usageMetadata=usage(7, 2)), [{"content": "!"}, "stop"]),
        ({}, [(7, 2), "[DONE]"]),
    ],
    "the proof of a text comes behind it": [
        (chunk(said("Hi")), [ROLE, {"content": "Hi"}]),
        (
            chunk(said("", thoughtSignature="Uw=="), reason="STOP"),
            [{"extra_content": {"google": {"thought_signature": "Uw=="}}}, "stop"],
        ),
        ({}, ["[DONE]"]),
    ],
    "thoughts, then a call": [
        (chunk(thought("Hm")), [ROLE, {"reasoning_content": "Hm", "reasoning_details": [
            {"type": "reasoning.text", "text": "Hm", "format": "google-gemini-v1", "index": 0}]}]),
        (
            chunk(call("look", {"at": "sea"}, id="c9") | {"thoughtSignature": "Uw=="}),
            [calls(0, id="c9", name="look", arguments="", proof="Uw=="), calls(0, arguments='{"at":"sea"}')],
        ),
        (chunk(said(""), reason="STOP", usageMetadata=usage(7, 2)), ["tool_calls"]),
        ({}, [(7, 2), "[DONE]"]),
    ],
    "calls in one chunk and in the next": [
        (
            chunk(call("a", {}), call("b", {"x": 1})),
            [ROLE, calls(0, id="call_r-1_0", name="a", arguments=""), calls(0, arguments="{}"),
             calls(1, id="call_r-1_1", name="b", arguments=""), calls(1, arguments='{"x":1}')],
        ),
        (
            chunk(call("a", {}), reason="STOP"),
            [calls(2, id="call_r-1_2", name="a", arguments=""), calls(2, arguments="{}"), "tool_calls"],
        ),
        ({}, ["[DONE]"]),
    ],
    "a call value by value": [
        (chunk(call("cook", goes_on=True)), [ROLE, calls(0, id="call_r-1_0", name="cook", arguments="")]),
        (chunk(call(None, None, piece("$.a[0].b", True, stringValue="1"), goes_on=True)),
         [calls(0, arguments='{"a":[{"b":"1')]),
        (chunk(call(None, None, piece("$.a[0].b", True, stringValue=' "x'), goes_on=True)),
         [calls(0, arguments=' \\"x')]),
        (chunk(call(None, None, piece("$.a[0].b", stringValue=""), goes_on=True)), [calls(0, arguments='"')]),
        (chunk(call(goes_on=True)), []),
        (chunk(call(None, None, piece("$.a[1].b", numberValue=2.0), piece("$.c", boolValue=False), goes_on=True)),
         [calls(0, arguments='},{"b":2'), calls(0, arguments='}],"c":false')]),
        (chunk(call(), reason="STOP"), [calls(0, arguments="}"), "tool_calls"]),
        ({}, ["[DONE]"]),
    ],
    "a call that is cut must not look whole": [
        (chunk(call("cook", None, piece("$.a", True, stringValue="1"), goes_on=True)),
         [ROLE, calls(0, id="call_r-1_0", name="cook", arguments=""), calls(0, arguments='{"a":"1')]),
        (chunk(reason="MAX_TOKENS"), ["length"]),
        ({}, ["[DONE]"]),
    ],
    "two candidates": [
        (chunk(said("a")), [ROLE, {"content": "a"}]),
        (chunk(said("b"), index=1), [ROLE, {"content": "b"}]),
        (chunk(reason="STOP"), ["stop"]),
        (chunk(reason="MAX_TOKENS", index=1), ["length"]),
        ({}, ["[DONE]"]),
    ],
    "a picture": [
        (chunk({"inlineData": {"mimeType": "image/png", "data": "AA=="}}),
         [ROLE, {"images": [{"index": 0, "type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]),
        (chunk(reason="STOP"), ["stop"]),
        ({}, ["[DONE]"]),
    ],
    "sources come with the last words, and once": [
        (chunk(said("Ä. B."), grounding={"groundingChunks": []}), [ROLE, {"content": "Ä. B."}]),
        (
            chunk(said(""), reason="STOP", grounding={
                "groundingChunks": [{"web": {"uri": "https://a", "title": "A"}}],
                "groundingSupports": [{"segment": {"startIndex": 4, "endIndex": 6}, "groundingChunkIndices": [0, 0]}],
            }),
            [{"annotations": [{"index": 0, "type": "url_citation", "url_citation": {
                "url": "https://a", "title": "A", "start_index": 3, "end_index": 5}}]}, "stop"],
        ),
        ({}, ["[DONE]"]),
    ],
    "the provider's own tools at work say nothing": [
        (chunk({"executableCode": {"language": "PYTHON", "code": "1"}}), [ROLE]),
        (chunk(said("1"), reason="STOP"), [{"content": "1"}, "stop"]),
        ({}, ["[DONE]"]),
    ],
    "a blocked prompt": [
        ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}},
         [ROLE, "content_filter"]),
        ({}, [(4, 0), "[DONE]"]),
    ],
    "safety in the middle": [
        (chunk(said("Once")), [ROLE, {"content": "Once"}]),
        ({"candidates": [{"finishReason": "SAFETY", "safetyRatings": []}]}, ["content_filter"]),
        ({}, ["[DONE]"]),
    ],
}  # fmt: skip


@each("script", SCRIPTS.values(), ids=SCRIPTS)
def test_what_comes_leaves_before_more_comes(script: Script) -> None:
    stream = to_chat()
    for up, down in script:
        assert deltas(stream.feed(framed(up)) if up else stream.close()) == down, up
    assert stream.done
    assert not any(stream.edits.values()), "the end of the body is the end of the stream: nothing is added"


@each("script", SCRIPTS.values(), ids=SCRIPTS)
@each("size", [1, 7])
def test_where_the_bytes_are_cut_changes_nothing(script: Script, size: int) -> None:
    body = b"".join(framed(up) for up, _ in script if up)
    whole, cut = to_messages(), to_messages()
    out = whole.feed(body) + whole.close()
    assert b"".join(cut.feed(body[at : at + size]) for at in range(0, len(body), size)) + cut.close() == out


@each("script", SCRIPTS.values(), ids=SCRIPTS)
def test_both_sdks_read_the_whole(script: Script) -> None:
    chunks = [up for up, _ in script if up]
    chat, messages = to_chat(), to_messages()
    body = b"".join(map(framed, chunks))
    here, there = chat.feed(body) + chat.close(), messages.feed(body) + messages.close()
    if script is SCRIPTS["a call that is cut must not look whole"]:
        assert b'"length"' in here
        assert read_messages_stream(there).stop == "max_tokens"
        return
    if script is SCRIPTS["two candidates"]:
        return  # no client of Messages can ask for them
    one, other = read_chat_stream(here), read_messages_stream(there)
    assert (one.text, one.calls) == (other.text, other.calls)
    assert other.stop == {"stop": "end_turn", "tool_calls": "tool_use", "content_filter": "refusal"}[one.stop or ""]


# -- failures ----------------------------------------------------------------------------------------------------

BUSY = {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}
LIMIT = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED",
                   "details": [{"retryDelay": "7s"}]}}  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "in an array"])
def test_an_error_before_any_content_is_a_failed_attempt(wrapped: bool) -> None:
    with pytest.raises(UpstreamRateLimited) as raised:
        to_chat().feed(framed([LIMIT] if wrapped else LIMIT))
    assert raised.value.retry_after == 7.0


def test_an_error_in_the_middle_is_told_in_the_clients_words() -> None:
    stream = to_chat()
    out = stream.feed(framed(chunk(said("Hi")))) + stream.feed(framed(BUSY))
    assert isinstance(stream.failure, UpstreamFailed)
    assert stream.done
    with pytest.raises(openai.APIError, match="busy"):
        read_chat_stream(out)


def test_a_model_that_lost_its_way_before_any_content_is_a_failed_attempt() -> None:
    with pytest.raises(UpstreamFailed, match="MALFORMED_FUNCTION_CALL"):
        to_chat().feed(framed(chunk(reason="MALFORMED_FUNCTION_CALL")))


def test_a_stream_that_ends_in_the_middle_is_broken() -> None:
    stream = to_chat()
    stream.feed(framed(chunk(said("Hi"))))
    with pytest.raises(UpstreamBroken, match="ended before"):
        stream.close()


def test_a_candidate_that_never_ended_leaves_the_stream_without_an_end() -> None:
    decoder = GEMINI.codec().stream_decoder()
    decoder.feed(Frame(orjson.dumps(chunk(said("a"), reason="STOP"))))
    decoder.feed(Frame(orjson.dumps(chunk(said("b"), index=1))))
    assert decoder.close() == [ir.PartEnd(0, 1)]


NONSENSE = {
    "no JSON": b"{",
    "no object": b"3",
    "candidates of another kind": b'{"candidates":3}',
    "a candidate of another kind": b'{"candidates":[3]}',
    "parts of another kind": b'{"candidates":[{"content":{"parts":[3]}}]}',
    "arguments for no call": b'{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"a":1}}}]}}]}',
    "arguments without a place": orjson.dumps(chunk(call("a", None, {"stringValue": "x"}))),
}


@each("data", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_broken_stream(data: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        GEMINI.codec().stream_decoder().feed(Frame(data))


MISSING: dict[str, Json] = {
    "no content": {"candidates": [{"index": 0}]},
    "an empty content": {"candidates": [{"content": {}}]},
    "an empty part": {"candidates": [{"content": {"parts": [{}]}}]},
    "usage alone": {"usageMetadata": {"trafficType": "ON_DEMAND"}},
    "an end of no call": chunk(call()),
    "nothing": {},
}


@each("up", MISSING.values(), ids=MISSING)
def test_what_says_nothing_is_passed_over(up: Json) -> None:
    decoder = GEMINI.codec().stream_decoder()
    events = decoder.feed(Frame(orjson.dumps(up)))
    assert [type(event) for event in events] == [ir.Start]
    assert decoder.close() == []


# -- arguments value by value --------------------------------------------------------------------------------------


def pieces_of(value: Any, path: str) -> Iterator[Json]:
    """As Vertex AI would send it: leaves in the order of the document, strings in pieces."""
    match value:
        case dict():
            for name, inner in value.items():
                yield from pieces_of(inner, f"{path}[{json.dumps(name)}]")
        case list():
            for at, inner in enumerate(value):
                yield from pieces_of(inner, f"{path}[{at}]")
        case str():
            half = len(value) // 2
            yield piece(path, True, stringValue=value[:half])
            yield piece(path, True, stringValue=value[half:])
            yield piece(path, stringValue="")
        case bool():
            yield piece(path, boolValue=value)
        case None:
            yield piece(path, nullValue="NULL_VALUE")
        case _:
            yield piece(path, numberValue=float(value))


words = st.text(st.characters(codec="utf-8"), max_size=8)
leaves = st.none() | st.booleans() | st.integers(-(2**50), 2**50) | words
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(words, inner, min_size=1, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(words, trees, max_size=3))
def test_any_arguments_come_out_as_they_went_in(value: Json) -> None:
    arguments = Arguments()
    text = "".join(arguments.add(entry) for entry in pieces_of(value, "$")) + arguments.end()
    assert json.loads(text) == value


PLACES = {
    "names with dots": ([piece("$.a.b", numberValue=1.5)], '{"a":{"b":1.5}}'),
    "names in quotes": ([piece("$['a b'][\"c\"]", numberValue=1)], '{"a b":{"c":1}}'),
    "names with quotes": ([piece(r"$['a\'b']", boolValue=True)], '{"a\'b":true}'),
    "elements passed over": ([piece("$.a[2]", stringValue="x")], '{"a":[null,null,"x"]}'),
    "a null": ([piece("$.a", nullValue="NULL_VALUE")], '{"a":null}'),
    "a string whose end was not told": (
        [piece("$.a", True, stringValue="x"), piece("$.b", stringValue="y")], '{"a":"x","b":"y"}',
    ),
    "a string that ends with its last piece": (
        [piece("$.a", True, stringValue="x"), piece("$.a", stringValue="y")], '{"a":"xy"}',
    ),
    "a place without a value": ([piece("$.a")], "{}"),
    "nothing": ([], "{}"),
}  # fmt: skip


@each(("entries", "text"), PLACES.values(), ids=PLACES)
def test_places(entries: list[Json], text: str) -> None:
    arguments = Arguments()
    assert json.loads("".join(map(arguments.add, entries)) + arguments.end()) == json.loads(text)


DISORDER = {
    "a name that comes again": [piece("$.a", numberValue=1), piece("$.a", numberValue=2)],
    "an object left and entered again": [piece(f"$.{path}", numberValue=1) for path in ("a.b", "c", "a.d")],
    "an element that comes again": [piece("$.a[1]", numberValue=1), piece("$.a[0]", numberValue=2)],
    "an array that is an object": [piece("$.a[0]", numberValue=1), piece("$.a.b", numberValue=2)],
    "far too many elements passed over": [piece("$.a[99999999]", numberValue=1)],
    "no place": [piece("$", numberValue=1)],
    "a name that cannot be read": [piece(r"$['a\x']", numberValue=1)],
    "a place of another kind": [piece("$.a..b", numberValue=1)],
}


@each("entries", DISORDER.values(), ids=DISORDER)
def test_what_cannot_be_put_in_order_is_broken(entries: list[Json]) -> None:
    arguments = Arguments()
    for entry in entries[:-1]:
        arguments.add(entry)
    with pytest.raises(UpstreamBroken):
        arguments.add(entries[-1])


def test_arguments_given_whole_in_a_call_that_goes_on() -> None:
    stream = to_chat()
    out = stream.feed(framed(chunk(call("a", {"x": 1}, goes_on=True))))
    out += stream.feed(framed(chunk(call(None, None, piece("$.y", numberValue=2)), reason="STOP"))) + stream.close()
    assert read_chat_stream(out).calls == (("a", {"x": 1, "y": 2}),)
