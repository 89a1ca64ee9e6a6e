"""`commit_after`: the head leaves before content, and what fails from then on is told in the stream."""

from __future__ import annotations

import asyncio

import pytest
from gateway import Start, chain, provider
from playbook import CHAT, MESSAGES, Tongue
from upstream import ScriptedUpstream, plain, streamed

EXCHANGES = ("lean", "plain")
EARLY = '\n[timeouts]\ncommit_after = "1ms"\n'
BOTH = pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])


@BOTH
async def test_the_head_and_a_comment_leave_before_the_provider_says_anything(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    speak = asyncio.Event()
    upstream.plays([speak, *streamed(tongue.stream("late"))])
    running = await start(provider("first", upstream, tongue) + EARLY)
    client = await running.connect()
    await client.request(tongue, tongue.request(stream=True))
    head = await client.until(b": keep-alive\n\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"X-Nyuro-Model: first" in head
    speak.set()
    assert b"late" in await client.until(b"0\r\n\r\n")
    row = await running.row()
    assert (row["outcome"], row["status"]) == ("ok", 200)


@BOTH
async def test_a_failure_behind_the_head_is_told_in_band_and_nobody_else_is_asked(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    fail = asyncio.Event()
    upstream.plays([fail, *plain(tongue.error("server_error", "no"), status=400)])
    table = provider("first", upstream, tongue) + provider("second", second, tongue) + chain("first", "second") + EARLY
    running = await start(table)
    client = await running.connect()
    await client.request(tongue, tongue.request("profile:chain", stream=True))
    await client.until(b": keep-alive\n\n")
    fail.set()
    told = await client.until(b"0\r\n\r\n")
    assert b'"error"' in told
    assert b"[DONE]" not in told
    assert b"message_stop" not in told
    row = await running.row()
    assert row["outcome"] == "upstream_rejected"
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["upstream_rejected"]
    assert not second.seen


async def test_a_client_that_leaves_behind_the_head_takes_its_provider_along(
    upstream: ScriptedUpstream, start: Start
) -> None:
    upstream.plays([asyncio.Event()])
    running = await start(provider("first", upstream) + EARLY)
    client = await running.connect()
    await client.request(CHAT, CHAT.request(stream=True))
    await client.until(b": keep-alive\n\n")
    client.leave()
    await (await upstream.asked()).gone.wait()
    await running.quiet()
    assert (await running.row())["status"] == 499


async def test_a_plain_answer_is_never_begun_early(upstream: ScriptedUpstream, start: Start) -> None:
    upstream.plays(plain(CHAT.error("rate_limit_error", "slow down"), status=429))
    running = await start(provider("first", upstream) + EARLY)
    assert (await running.ask()).status == 429
