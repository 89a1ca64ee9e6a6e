"""The end of the process: streams finish within the drain; what does not is told in its own stream."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from gateway import Running, Start, provider, settles
from playbook import CHAT, MESSAGES, Tongue
from upstream import SILENCE, STREAM_HEAD, Script, ScriptedUpstream, head, piece, plain, streamed, within

EXCHANGES = ("lean", "plain")
BOTH = pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])


def halves(tongue: Tongue) -> tuple[list[bytes], list[bytes]]:
    """A stream up to its first word, and the rest."""
    frames = tongue.stream("one", "two")
    cut = frames.index(tongue.text("one")) + 1
    return frames[:cut], frames[cut:]


async def listens(running: Running) -> bool:
    try:
        (await running.connect()).leave()
    except ConnectionError:
        return False
    return True


@BOTH
async def test_a_stream_finishes_within_the_drain(upstream: ScriptedUpstream, start: Start, tongue: Tongue) -> None:
    go_on = asyncio.Event()
    said, unsaid = halves(tongue)
    upstream.plays(streamed([*said, go_on, *unsaid]))
    running = await start(provider("first", upstream, tongue))
    assert running.app is not None
    client = await running.connect()
    await client.request(tongue, tongue.request(stream=True))
    await client.until(b"one")
    stopping = asyncio.ensure_future(running.app.stop(drain=20))
    async with asyncio.timeout(20):
        while await listens(running):
            continue
    go_on.set()
    assert b"two" in await client.rest()
    await stopping


UNUSUAL = "X-Odd:  two blanks"  # for which a connection is aiohttp's, whatever the exchange


async def test_idle_connections_are_hung_up_on_while_others_are_still_served(
    upstream: ScriptedUpstream, start: Start
) -> None:
    go_on = asyncio.Event()
    said, unsaid = halves(CHAT)
    upstream.plays(plain(CHAT.answer("Hi")), plain(CHAT.answer("Hi")), streamed([*said, go_on, *unsaid]))
    running = await start(provider("first", upstream))
    assert running.app is not None
    fresh, used, unusual, busy = [await running.connect() for _ in range(4)]
    for client, more in ((used, ()), (unusual, (UNUSUAL,))):
        await client.request(CHAT, CHAT.request(), *more)
        assert (await client.answer())[0] == 200
    await busy.request(CHAT, CHAT.request(stream=True))
    await busy.until(b"one")
    stopping = asyncio.ensure_future(running.app.stop(drain=20))
    assert [await client.rest() for client in (fresh, used, unusual)] == [b""] * 3
    assert running.app.gateway.running
    go_on.set()
    assert b"two" in await busy.rest()
    await stopping


async def test_a_body_still_arrives_while_the_process_stops(upstream: ScriptedUpstream, start: Start) -> None:
    upstream.plays(plain(CHAT.answer("Hi")))
    running = await start(provider("first", upstream))
    assert running.app is not None
    app, idle = running.app, await running.connect()
    sending = [await running.connect() for _ in range(2)]
    document = orjson.dumps(CHAT.request())
    for client, more in zip(sending, ((), (UNUSUAL,)), strict=True):
        await client.request(CHAT, document, *more, cut=10)
    await settles(lambda: app.gateway.running == len(sending))
    stopping = asyncio.ensure_future(app.stop(drain=20))
    assert await idle.rest() == b""
    for client in sending:
        await client.send(document[10:])
        assert (await client.answer())[0] == 200
    await stopping


@BOTH
async def test_what_does_not_finish_is_told_in_its_own_stream(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    upstream.plays(streamed([*halves(tongue)[0], asyncio.Event()]))
    running = await start(provider("first", upstream, tongue))
    assert running.app is not None
    client = await running.connect()
    await client.request(tongue, tongue.request(stream=True))
    await client.until(b"one")
    await running.app.stop(drain=0)
    told = await client.rest()
    assert b"shutting down" in told
    assert told.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in told
    row = await running.row()
    assert (row["status"], row["outcome"]) == (200, "gateway_overloaded")
    assert (await upstream.asked()).gone.is_set()


@pytest.mark.parametrize("before", [0, 3], ids=["the way of all", "the short way"])
async def test_who_asks_again_behind_the_cut_is_refused_and_costs_nothing(
    upstream: ScriptedUpstream, start: Start, before: int
) -> None:
    upstream.plays(*[plain(CHAT.answer("Hi"))] * before, streamed([*halves(CHAT)[0], asyncio.Event()]))
    running = await start(provider("first", upstream))
    assert running.app is not None
    client = await running.connect()
    for _ in range(before):
        await client.request(CHAT, CHAT.request())
        assert (await client.answer())[0] == 200
    await client.request(CHAT, CHAT.request(stream=True))
    await client.until(b"one")
    running.app.gateway.cut()
    await client.until(b"0\r\n\r\n")
    await client.request(CHAT, CHAT.request())
    status, headers, body = await client.answer()
    assert (status, headers["retry-after"]) == (503, "1")
    assert b"shutting down" in body
    assert len(upstream.seen) == before + 1
    row = await running.row()
    assert (row["status"], row["outcome"], row["charged_nanos"]) == (503, "gateway_overloaded", 0)


NO_ANSWER_YET: dict[str, tuple[Script, bool, int | None]] = {
    "no byte came for a plain answer": ([SILENCE], False, None),
    "no byte came for a stream": ([SILENCE], True, None),
    "half of a plain answer is here": ([head(Content_Length=5000), b'{"id":', SILENCE], False, None),
    "the stream has no content yet": ([STREAM_HEAD, piece(b": alive\n\n"), SILENCE], True, None),
    "its body has not come": ([SILENCE], False, 10),
}


@BOTH
@pytest.mark.parametrize(("script", "stream", "cut"), NO_ANSWER_YET.values(), ids=NO_ANSWER_YET)
async def test_who_has_no_answer_at_the_end_is_told_so(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, script: Script, stream: bool, cut: int | None
) -> None:
    upstream.plays(script)
    running = await start(provider("first", upstream, tongue))
    assert running.app is not None
    gateway = running.app.gateway
    client = await running.connect()
    await client.request(tongue, tongue.request(stream=stream), cut=cut)
    seen = await upstream.asked() if cut is None else None
    await settles(lambda: bool(gateway.running))
    await running.app.stop(drain=0)
    status, headers, body = await client.answer()
    assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
    assert b"shutting down" in body
    assert b"gateway_overloaded" in body
    row = await running.row()
    assert (row["status"], row["outcome"]) == (503, "gateway_overloaded")
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["gateway_overloaded"] * (cut is None)
    if seen is not None:
        await within(seen.gone)


async def test_who_waits_for_a_place_at_the_end_is_told_so(upstream: ScriptedUpstream, start: Start) -> None:
    upstream.plays([SILENCE])
    running = await start(provider("first", upstream), "concurrency = 1")
    assert running.app is not None
    turnstile = running.app.gateway.turnstile
    clients = [await running.connect() for _ in range(3)]
    for client in clients:
        await client.request(CHAT, CHAT.request())
    await settles(lambda: turnstile.waiting == 2)
    await running.app.stop(drain=0)
    assert [(await client.answer())[0] for client in clients] == [503] * 3
    assert len(upstream.seen) == 1
    assert (turnstile.inside, turnstile.waiting, turnstile.held) == (0, 0, 0)


async def test_who_has_a_head_and_no_content_at_the_end_is_told_in_the_stream(
    upstream: ScriptedUpstream, start: Start
) -> None:
    upstream.plays([SILENCE])
    running = await start(provider("first", upstream, more='timeouts = { commit_after = "1ms" }'))
    assert running.app is not None
    client = await running.connect()
    await client.request(CHAT, CHAT.request(stream=True))
    await client.until(b"keep-alive")
    await running.app.stop(drain=0)
    told = await client.rest()
    assert b"shutting down" in told
    assert told.endswith(b"0\r\n\r\n")
    row = await running.row()
    assert (row["status"], row["outcome"]) == (200, "gateway_overloaded")


async def test_a_request_on_an_idle_connection_is_still_served_and_told_that_it_closes(
    upstream: ScriptedUpstream, start: Start
) -> None:
    upstream.plays(plain(CHAT.answer("last")))
    running = await start(provider("first", upstream))
    assert running.app is not None
    client, idle = await running.connect(), await running.connect()
    for connection in (client, idle):
        await connection.request(CHAT, CHAT.request())
        assert (await connection.answer())[0] == 200
    stopping = asyncio.ensure_future(running.app.stop(drain=20))
    async with asyncio.timeout(20):
        while await listens(running):
            continue
    await client.request(CHAT, CHAT.request())
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await client.rest() == b""
    assert await idle.rest() == b""
    await stopping
