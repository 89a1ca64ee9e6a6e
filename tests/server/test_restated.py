"""A Responses body on the path of chats is answered as the chat that it means."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from gateway import Start, provider
from playbook import CHAT, MESSAGES
from upstream import ScriptedUpstream, plain, streamed

READ = {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False}
ITEMS = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
    {"type": "function_call", "call_id": "call_1", "name": "read", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "print()"},
]
BODY: dict[str, Any] = {"model": "first", "input": ITEMS, "tools": [READ], "max_output_tokens": 50, "store": False}


async def test_it_goes_out_as_a_chat_and_comes_back_as_one(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Done.")))
    gateway = await start(provider("first", upstream))
    answer = await gateway.post(CHAT.path, {**BODY, "sort": "price"})
    assert (answer.status, CHAT.read_text(answer.json)) == (200, "Done.")
    sent = orjson.loads((await upstream.asked()).body)
    assert (sent["model"], sent["max_tokens"]) == ("native-of-first", 50)
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user", "assistant", "tool"]
    assert sent["tools"][0]["function"]["name"] == "read"
    assert not {"input", "sort"} & sent.keys()


async def test_a_stream_has_no_usage_that_nobody_asked_for(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(streamed(CHAT.stream("Done.")))
    gateway = await start(provider("first", upstream))
    answer = await gateway.post(CHAT.path, {**BODY, "stream": True})
    assert answer.body == b"".join(CHAT.stream("Done."))


async def test_to_a_third_dialect_it_is_translated_like_any_chat(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(MESSAGES.answer("Done.")))
    gateway = await start(provider("first", upstream, MESSAGES))
    answer = await gateway.post("/ai/chat", BODY)
    assert (answer.status, CHAT.read_text(answer.json)) == (200, "Done.")
    sent = orjson.loads((await upstream.asked()).body)
    assert (sent["system"], sent["max_tokens"]) == ("Be brief.", 50)


async def test_what_a_chat_cannot_say_is_named(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Done.")))
    gateway = await start(provider("first", upstream))
    items = [*ITEMS[:2], {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAA"}]
    answer = await gateway.post(CHAT.path, {**BODY, "input": items})
    assert answer.headers["X-Nyuro-Dropped"].startswith("input")
    assert (await gateway.row())["dropped"]


REFUSED = {
    "a stored answer": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "a tool of the provider's": ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    "an item of an unknown kind": ({"input": 3}, "input"),
}


@pytest.mark.parametrize(("changed", "param"), REFUSED.values(), ids=REFUSED)
async def test_what_it_cannot_be_asked_is_refused_in_the_words_of_the_body(
    start: Start, upstream: ScriptedUpstream, changed: dict[str, Any], param: str
) -> None:
    gateway = await start(provider("first", upstream))
    answer = await gateway.post(CHAT.path, BODY | changed)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert not upstream.seen


async def test_a_body_without_either_is_still_told_what_is_missing(start: Start, upstream: ScriptedUpstream) -> None:
    gateway = await start(provider("first", upstream))
    answer = await gateway.post(CHAT.path, {"model": "first"})
    assert (answer.status, answer.json["error"]["param"]) == (400, "messages")
