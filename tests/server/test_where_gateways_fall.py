"""Faults that translating gateways are known for, each shown over HTTP, plain and streamed, not to be one here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from gateway import Running, Start
from shares import product_of
from upstream import Script, ScriptedUpstream, plain, streamed

EXCHANGES = ("lean",)
LOOPS = ("uvloop",)
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
# provider -> dialect, what stands behind the root, its model
ASKED = {
    "chat": ("openai-chat", "/v1", "magistral-medium"),
    "messages": ("anthropic", "", "claude-sonnet-4-5"),
    "responses": ("openai-responses", "/v1", "gpt-4o"),
    "gemini": ("gemini", "", "gemini-2.5-flash"),
    "ollama": ("ollama", "", "qwen3"),
}
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
each_surface = pytest.mark.parametrize("surface", PATHS)


def table(upstream: ScriptedUpstream) -> str:
    return "[retry]\ntries = 1\n" + "".join(
        f'[providers.{name}]\ndialects = ["{dialect}"]\nbase_url = "{upstream.root}{suffix}"\napi_key = "k"\n'
        f'[models.{name}]\nprovider = "{name}"\nnative = "{native}"\n'
        for name, (dialect, suffix, native) in ASKED.items()
    )


def body(surface: str, model: str, *, stream: bool, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": model, "stream": stream}
    turns = [{"role": "user", "content": "Hi"}]
    match surface:
        case "responses":
            return {**asked, "input": turns, **more}
        case "messages":
            return {**asked, "messages": turns, "max_tokens": 99, **more}
    return {**asked, "messages": turns, **more}


def events(raw: bytes) -> list[Any]:
    lines = (line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: "))
    return [line.decode() if line == b"[DONE]" else orjson.loads(line) for line in lines]


def frames(found: Iterable[Any], *, named: bool = False) -> Script:
    return streamed(
        [
            b"event: %b\ndata: %b\n\n" % (one["type"].encode(), orjson.dumps(one)) if named
            else b"data: %b\n\n" % (one if isinstance(one, bytes) else orjson.dumps(one))
            for one in found
        ]
    )  # fmt: skip


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def said(surface: str, answer: Any) -> dict[str, Any]:
    """Of a whole answer: text, thinking, refusal, calls, why it ended."""
    found: dict[str, Any] = {"text": "", "thinking": "", "refusal": "", "calls": []}
    match surface:
        case "chat":
            choice = answer["choices"][0]
            message = choice["message"]
            found |= {name: message.get(name) or "" for name in ("refusal",)}
            found["text"], found["thinking"] = message.get("content") or "", message.get("reasoning_content") or ""
            found["calls"] = [
                (one["function"]["name"], orjson.loads(one["function"]["arguments"]))
                for one in message.get("tool_calls") or ()
            ]
            found["stop"] = choice["finish_reason"]
        case "messages":
            for block in answer["content"]:
                match block["type"]:
                    case "text":
                        found["text"] += block["text"]
                    case "thinking":
                        found["thinking"] += block["thinking"]
                    case "tool_use":
                        found["calls"].append((block["name"], block["input"]))
            found["stop"] = answer["stop_reason"]
        case _:
            for item in answer["output"]:
                match item["type"]:
                    case "message":
                        found["text"] += "".join(part.get("text", "") for part in item["content"])
                        found["refusal"] += "".join(part.get("refusal", "") for part in item["content"])
                    case "reasoning":
                        found["thinking"] += "".join(part["text"] for part in item["summary"])
                    case "function_call":
                        found["calls"].append((item["name"], orjson.loads(item["arguments"])))
            found["stop"] = answer["status"]
    return found


def whole(surface: str, raw: bytes) -> dict[str, Any]:
    """The same of a stream, by what a client puts together of its deltas."""
    found: dict[str, Any] = {"text": "", "thinking": "", "refusal": "", "calls": []}
    calls: dict[int, list[str]] = {}
    for event in events(raw):
        if event == "[DONE]":
            continue
        match surface:
            case "chat":
                for choice in event["choices"]:
                    delta = choice["delta"]
                    found["text"] += delta.get("content") or ""
                    found["thinking"] += delta.get("reasoning_content") or ""
                    found["refusal"] += delta.get("refusal") or ""
                    for call in delta.get("tool_calls") or ():
                        calls.setdefault(call["index"], ["", ""])
                        calls[call["index"]][0] += call["function"].get("name") or ""
                        calls[call["index"]][1] += call["function"].get("arguments") or ""
                    found["stop"] = choice["finish_reason"] or found.get("stop")
            case "messages":
                block, delta = event.get("content_block", {}), event.get("delta", {})
                found["text"] += delta.get("text", "")
                found["thinking"] += delta.get("thinking", "")
                if block.get("type") == "tool_use":
                    calls[event["index"]] = [block["name"], ""]
                if "partial_json" in delta:
                    calls[event["index"]][1] += delta["partial_json"]
                found["stop"] = delta.get("stop_reason") or found.get("stop")
            case _ if event["type"] in ("response.completed", "response.incomplete", "response.failed"):
                return said("responses", event["response"])
    found["calls"] = [(name, orjson.loads(words)) for name, words in calls.values()]
    return found


async def heard(gw: Running, surface: str, model: str, *, stream: bool, **more: Any) -> dict[str, Any]:
    answer = await gw.post(PATHS[surface], body(surface, model, stream=stream, **more))
    assert answer.status == 200, answer
    return whole(surface, answer.body) if stream else said(surface, answer.json)


# -- answers -----------------------------------------------------------------------------------------------------


def thought(text: str) -> dict[str, Any]:
    return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}


@both_ways
@pytest.mark.parametrize("surface", ["messages", "responses"])
async def test_mistrals_thinking_is_whole_however_many_pieces_it_comes_in(
    start: Start, upstream: ScriptedUpstream, surface: str, stream: bool
) -> None:
    gw = await start(table(upstream))
    pieces = ["Let ", "me ", "see", "."]
    if stream:
        upstream.plays(
            frames([*(chunk(thought(one)) for one in pieces), chunk({"content": "42"}), chunk({}, "stop"), b"[DONE]"])
        )
    else:
        parts = [*(part for one in pieces for part in thought(one)["content"]), {"type": "text", "text": "42"}]
        message = {"role": "assistant", "content": parts}
        upstream.plays(plain({"id": "c", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}))
    found = await heard(gw, surface, "chat", stream=stream)
    assert (found["thinking"].replace("\n\n", ""), found["text"]) == ("Let me see.", "42")


def gemini(parts: list[dict[str, Any]], reason: str = "STOP") -> dict[str, Any]:
    usage = {"promptTokenCount": 9, "cachedContentTokenCount": 4, "candidatesTokenCount": 2, "totalTokenCount": 11}
    content = {"role": "model", "parts": parts}
    return {"candidates": [{"content": content, "finishReason": reason, "index": 0}], "usageMetadata": usage}


def gemini_says(parts: list[dict[str, Any]], *, stream: bool) -> Script:
    return frames([gemini(parts)]) if stream else plain(gemini(parts))


LOOK = {"functionCall": {"name": "look", "args": {"at": "sky"}}}


@both_ways
@each_surface
async def test_three_calls_alike_are_three_calls(
    start: Start, upstream: ScriptedUpstream, surface: str, stream: bool
) -> None:
    gw = await start(table(upstream))
    upstream.plays(gemini_says([LOOK] * 3, stream=stream))
    found = await heard(gw, surface, "gemini", stream=stream)
    assert found["calls"] == [("look", {"at": "sky"})] * 3


async def test_a_gemini_stream_ends_with_done_and_counts_cached_tokens_in_the_total(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(table(upstream))
    upstream.plays(gemini_says([{"text": "Hi"}], stream=True))
    asked = body("chat", "gemini", stream=True, stream_options={"include_usage": True})
    answer = await gw.post(PATHS["chat"], asked)
    *_, last, done = events(answer.body)
    assert done == "[DONE]"
    assert (last["usage"]["prompt_tokens"], last["usage"]["prompt_tokens_details"]["cached_tokens"]) == (9, 4)


START = {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 3}}}
TEXT = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Half"}},
]
BUSY = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.mark.parametrize("surface", ["chat", "responses"])
async def test_an_error_in_the_middle_of_a_stream_is_told_and_no_end_follows(
    start: Start, upstream: ScriptedUpstream, surface: str
) -> None:
    gw = await start(table(upstream))
    upstream.plays(frames([START, *TEXT, BUSY], named=True))
    answer = await gw.post(PATHS[surface], body(surface, "messages", stream=True))
    assert answer.status == 200
    assert b"Half" in answer.body
    found = events(answer.body)
    if surface == "chat":
        assert found[-1]["error"]["message"] == "Overloaded"
        assert "[DONE]" not in found
        assert not any(choice["finish_reason"] for one in found[:-1] for choice in one["choices"])
    else:
        assert [one["type"] for one in found[-2:]] == ["error", "response.failed"]
        assert found[-1]["response"]["error"]["message"] == "Overloaded"
        assert [one["sequence_number"] for one in found] == list(range(len(found)))
        assert "response.completed" not in [one["type"] for one in found]
    assert (await gw.row())["outcome"] == "upstream_overloaded"


REFUSED = {"role": "assistant", "content": None, "refusal": "I will not."}


@both_ways
@pytest.mark.parametrize("surface", ["messages", "responses"])
async def test_a_refusal_arrives_with_its_words(
    start: Start, upstream: ScriptedUpstream, surface: str, stream: bool
) -> None:
    gw = await start(table(upstream))
    pieces = [chunk({"role": "assistant"}), chunk({"refusal": "I will "}), chunk({"refusal": "not."})]
    upstream.plays(
        frames([*pieces, chunk({}, "stop"), b"[DONE]"])
        if stream
        else plain({"id": "c", "model": "m", "choices": [{"message": REFUSED, "finish_reason": "stop"}]})
    )
    found = await heard(gw, surface, "chat", stream=stream)
    assert "I will not." in (found["text"], found["refusal"])
    assert found["stop"] == {"messages": "refusal", "responses": "completed"}[surface]


# -- errors ------------------------------------------------------------------------------------------------------

ERRORS: dict[str, dict[str, Any]] = {
    "chat": {"error": {"message": "Wait.", "type": "x", "code": None}},
    "messages": {"type": "error", "error": {"type": "rate_limit_error", "message": "Wait."}},
    "responses": {"error": {"message": "Wait.", "type": "x", "code": None}},
    "gemini": {"error": {"code": 429, "message": "Wait.", "status": "RESOURCE_EXHAUSTED"}},
    "ollama": {"error": "Wait."},
}


@pytest.mark.parametrize(
    ("model", "status", "surface", "stream"),
    product_of(
        {name: name for name in ERRORS},
        {"429": 429, "503": 503},
        {name: name for name in PATHS},
        {"plain": False, "streamed": True},
        fast=1,
        of=3,
    ),
)
async def test_a_providers_refusal_keeps_its_status_and_its_wait_though_a_stream_was_asked_for(
    start: Start, upstream: ScriptedUpstream, model: str, status: int, surface: str, stream: bool
) -> None:
    gw = await start(table(upstream))
    upstream.plays(plain(ERRORS[model], status, Retry_After="17"))
    answer = await gw.post(PATHS[surface], body(surface, model, stream=stream))
    assert (answer.status, answer.headers["retry-after"]) == (status, "17")
    assert answer.json["error"]["message"] == "Wait."
    assert answer.headers["content-type"].startswith("application/json")


# -- requests ----------------------------------------------------------------------------------------------------


def history(surface: str, calls: list[tuple[str, str]]) -> dict[str, Any]:
    """A turn of these calls, by id and name, with their results in the opposite order."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    back = calls[::-1]
    if surface == "responses":
        turns += [{"type": "function_call", "call_id": id, "name": name, "arguments": "{}"} for id, name in calls]
        turns += [{"type": "function_call_output", "call_id": id, "output": f"of {id}"} for id, _ in back]
        return {"input": turns}
    if surface == "messages":
        turns.append(
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": id, "name": name, "input": {}} for id, name in calls],
            }
        )
        found = [{"type": "tool_result", "tool_use_id": id, "content": f"of {id}"} for id, _ in back]
        return {"messages": [*turns, {"role": "user", "content": found}]}
    made = [{"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}} for id, name in calls]
    turns.append({"role": "assistant", "content": None, "tool_calls": made})
    return {"messages": [*turns, *({"role": "tool", "tool_call_id": id, "content": f"of {id}"} for id, _ in back)]}


@both_ways
@each_surface
async def test_gemini_gets_each_result_under_the_name_of_its_call(
    start: Start, upstream: ScriptedUpstream, surface: str, stream: bool
) -> None:
    gw = await start(table(upstream))
    upstream.plays(gemini_says([{"text": "Fine."}], stream=stream))
    calls = [("call_1", "look"), ("call_2", "hear"), ("call_3", "look")]
    await heard(gw, surface, "gemini", stream=stream, **history(surface, calls))
    contents = (await upstream.asked()).json["contents"]
    results = [part["functionResponse"] for part in contents[-1]["parts"]]
    assert [(one["name"], one["response"]) for one in results] == [(name, {"output": f"of {id}"}) for id, name in calls]


@each_surface
@pytest.mark.parametrize("model", ASKED)
async def test_three_past_calls_alike_stay_three_with_a_result_each(
    start: Start, upstream: ScriptedUpstream, surface: str, model: str
) -> None:
    gw = await start(table(upstream))
    upstream.plays(plain(b"{}", 400))
    calls = [("call_1", "look"), ("call_2", "look"), ("call_3", "look")]
    await gw.post(PATHS[surface], body(surface, model, stream=False, **history(surface, calls)))
    asked = (await upstream.asked()).body.decode()
    assert [asked.count(f"of {id}") for id, _ in calls] == [1, 1, 1]
    made = {
        "chat": '"function":{', "messages": '"tool_use"', "responses": '"function_call"', "gemini": '"functionCall"',
        "ollama": '"function":{',
    }[model]  # fmt: skip
    assert asked.replace(" ", "").count(made) == 3


@both_ways
@pytest.mark.parametrize("surface", ["chat", "responses"])
async def test_claude_is_given_a_bound_where_the_client_gives_none(
    start: Start, upstream: ScriptedUpstream, surface: str, stream: bool
) -> None:
    gw = await start(table(upstream))
    upstream.plays(plain(ERRORS["messages"], 400))
    await gw.post(PATHS[surface], body(surface, "messages", stream=stream))
    assert (await upstream.asked()).json["max_tokens"] >= 4096


SCHEMA = {
    "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "chat": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "responses": {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
}


@each_surface
@pytest.mark.parametrize("model", ASKED)
async def test_a_schema_reaches_whoever_is_asked(
    start: Start, upstream: ScriptedUpstream, surface: str, model: str
) -> None:
    gw = await start(table(upstream))
    upstream.plays(plain(b"{}", 400))
    await gw.post(PATHS[surface], body(surface, model, stream=False, **FORMS[surface]))
    assert orjson.dumps(SCHEMA["properties"]) in (await upstream.asked()).body.replace(b" ", b"")
