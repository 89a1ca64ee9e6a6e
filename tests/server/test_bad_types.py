"""Members of a wrong type are refused here, by name and in the surface's own words; nobody is asked."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import Start, provider
from playbook import CHAT, MESSAGES
from upstream import ScriptedUpstream, plain

from proxy.dialects import DIALECTS

WRONG: dict[type, Any] = {int: "many", float: "many", str: 5, list: 5, dict: 5, bool: "yes"}
CHAT_BODY = {"model": "first", "messages": [{"role": "user", "content": "Hi"}]}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-chat": ("/v1/chat/completions", CHAT_BODY),
    "anthropic": ("/v1/messages", CHAT_BODY | {"max_tokens": 5}),
    "openai-responses": ("/v1/responses", {"model": "first", "input": "Hi"}),
}
MEMBERS = [(dialect, name) for dialect in BODIES for name in DIALECTS[dialect].types]


@pytest.mark.parametrize(("dialect", "member"), MEMBERS)
async def test_a_member_of_a_wrong_type_is_named(
    upstream: ScriptedUpstream, start: Start, dialect: str, member: str
) -> None:
    path, body = BODIES[dialect]
    kinds = DIALECTS[dialect].types[member]
    value = next(value for value in WRONG.values() if type(value) not in kinds)
    running = await start(provider("first", upstream))
    answer = await running.post(path, {**body, member: value})
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith(f"{member} is ")
    assert not upstream.seen


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_a_turn_without_a_role_is_named(upstream: ScriptedUpstream, start: Start, tongue: Any) -> None:
    running = await start(provider("first", upstream, tongue))
    answer = await running.post(tongue.path, {**tongue.request(), "messages": [{"content": "Hi"}]})
    assert answer.status == 400
    assert "messages[0].role" in answer.json["error"]["message"]
    assert not upstream.seen


async def test_null_is_as_good_as_absent(upstream: ScriptedUpstream, start: Start) -> None:
    upstream.plays(plain(CHAT.answer("ok")))
    running = await start(provider("first", upstream))
    nothing = dict.fromkeys(DIALECTS["openai-chat"].types)
    assert (await running.post("/v1/chat/completions", CHAT_BODY | nothing)).status == 200
