"""A conversation stays where its prompt cache is warm: how it is told over HTTP, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from gateway import Running, Start, provider
from playbook import CHAT
from upstream import CUT, ScriptedUpstream, plain

EVEN = """
[profiles.even]
candidates = [{ model = "first", weight = 50 }, { model = "second", weight = 50 }]
"""
HELLO = {"role": "user", "content": "hello"}
NEXT = [HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


async def served(gw: Running, dice: float, headers: Mapping[str, str] | None = None, **body: Any) -> str:
    """Who answers where the draw of the profile falls like this."""
    assert gw.app is not None
    gw.app.gateway.dice = lambda: dice
    document = {"model": "even", "messages": [HELLO], **body}
    answer = await gw.post(CHAT.path, document, headers)
    assert answer.status == 200, answer.json
    return answer.headers["X-Nyuro-Model"]


async def two(start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream, more: str = "") -> Running:
    for it in (upstream, second):
        it.plays(plain(CHAT.answer("ok")))
    blind = {"first": 'capabilities = ["tools"]'}
    return await start(provider("first", upstream, models=blind) + provider("second", second) + EVEN + more)


SESSIONS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "Claude Code's header": ({"X-Claude-Code-Session-Id": "s1"}, {}),
    "Codex's header": ({"session_id": "s1"}, {}),
    "a plain header": ({"X-Session-Id": "s1"}, {}),
    "prompt_cache_key": ({}, {"prompt_cache_key": "s1"}),
}


@pytest.mark.parametrize(("headers", "body"), SESSIONS.values(), ids=SESSIONS)
async def test_a_session_stays_with_who_answered_it(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, headers: dict[str, str], body: dict[str, Any]
) -> None:
    gw = await two(start, upstream, second)
    assert await served(gw, 0.0, headers, **body) == "first"
    assert await served(gw, 0.9, headers, **body, messages=[{"role": "user", "content": "something else"}]) == "first"
    assert await served(gw, 0.9) == "second"  # nobody's session
    other = dict.fromkeys(headers, "s2"), dict.fromkeys(body, "s2")
    assert await served(gw, 0.9, other[0], **other[1]) == "second"


async def test_without_a_session_its_beginning_tells_it(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await two(start, upstream, second)
    assert await served(gw, 0.0) == "first"
    assert await served(gw, 0.9, messages=NEXT) == "first"
    row = await gw.row()
    assert row["plan"]["pinned"]["model"] == "first"
    assert await served(gw, 0.9) == "second"  # it begins anew: the draw decides
    assert await served(gw, 0.0, messages=NEXT) == "second"  # and is followed from there
    system = [{"role": "system", "content": "Be brief."}, *NEXT]
    assert await served(gw, 0.0, messages=system) == "first"  # another conversation


async def test_it_ends_five_minutes_after_its_last_turn(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await two(start, upstream, second)
    assert gw.app is not None
    now = 1_000.0
    gw.app.gateway.clock = gw.app.gateway.relay.clock = lambda: now
    assert await served(gw, 0.0) == "first"
    for _ in range(3):
        now += 299.0
        assert await served(gw, 0.9, messages=NEXT) == "first"
    now += 301.0
    assert await served(gw, 0.9, messages=NEXT) == "second"


async def test_a_need_and_a_rest_break_it(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    gw = await two(start, upstream, second)
    assert await served(gw, 0.0) == "first"
    seeing = [*NEXT[:-1], {"role": "user", "content": [IMAGE]}]
    assert await served(gw, 0.0, messages=seeing) == "second"  # the first sees nothing
    assert await served(gw, 0.0) == "first"
    upstream.plays([CUT])
    for _ in range(3):
        assert await served(gw, 0.0, messages=NEXT) == "second"
    asked = len(upstream.seen)
    assert await served(gw, 0.0, messages=[*NEXT, *NEXT[1:]]) == "second"
    assert len(upstream.seen) == asked


async def test_one_key_turns_it_off(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    gw = await two(start, upstream, second, '[routing]\naffinity = "off"\n')
    assert await served(gw, 0.0, {"X-Session-Id": "s1"}) == "first"
    assert await served(gw, 0.9, {"X-Session-Id": "s1"}) == "second"
