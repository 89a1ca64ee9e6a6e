"""Observed times over HTTP: what is learnt from streams, plain answers and waits, and who is asked next."""

from __future__ import annotations

import asyncio

from gateway import Running, Start, provider
from playbook import CHAT
from upstream import CUT, ScriptedUpstream, plain, streamed

from proxy.app import App
from proxy.routing.names import Candidate

FIRST, SECOND = (Candidate(name, name, f"native-of-{name}") for name in ("first", "second"))


def app_of(gw: Running) -> App:
    assert gw.app is not None
    return gw.app


async def served(gw: Running, *, stream: bool) -> str:
    return (await gw.ask(CHAT, "strategy:latency", stream=stream)).headers["X-Nyuro-Model"]


async def test_a_candidate_is_left_while_its_streams_still_wait(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second))
    gateway, now = app_of(gw).gateway, 1_000.0
    gateway.clock = gateway.relay.clock = lambda: now
    gateway.dice = lambda: 0.5
    latencies = gateway.current.world.latencies
    latencies.observe(FIRST, 100.0, now)
    latencies.observe(SECOND, 200.0, now)
    go_on = asyncio.Event()
    upstream.plays([go_on, *streamed(CHAT.stream("late"))])
    second.plays(streamed(CHAT.stream("soon")))
    late = [asyncio.ensure_future(served(gw, stream=True)) for _ in range(3)]
    await upstream.asked(3)
    now += 1.0
    assert [await served(gw, stream=True) for _ in range(3)] == ["second"] * 3
    go_on.set()
    assert await asyncio.gather(*late) == ["first"] * 3
    assert latencies.waited_ms(FIRST, now + 60) == 0.0


async def test_streams_that_fail_wait_no_more(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second) + "[retry]\ntries = 1\n")
    upstream.plays([CUT])
    second.plays(streamed(CHAT.stream("ok")))
    for _ in range(4):
        assert (await gw.ask(CHAT, "first", models=["second"], stream=True)).status == 200
    latencies = app_of(gw).gateway.current.world.latencies
    assert [latencies.waited_ms(candidate, 1e9) for candidate in (FIRST, SECOND)] == [0.0, 0.0]


async def test_plain_answers_are_learnt_from_however_many_streams_there_were(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(streamed(CHAT.stream("ok")), plain(CHAT.answer("ok")))
    for stream in (True, False):
        assert (await gw.ask(CHAT, "first", stream=stream)).status == 200
    latencies, now = app_of(gw).gateway.current.world.latencies, app_of(gw).gateway.clock()
    latencies.observe(FIRST, 9_000.0, now, whole=True)
    (streamed_ms,), (plain_ms,) = (latencies.expected_ms([FIRST], now, whole=whole) for whole in (False, True))
    assert streamed_ms < 4_000 < plain_ms
