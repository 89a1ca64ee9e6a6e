"""What the process as a whole takes on, and what it says to the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from gateway import Running, Start, provider, settles
from playbook import CHAT, MESSAGES, Tongue
from upstream import ScriptedUpstream, plain, streamed

from proxy.errors import Overloaded
from proxy.routing.table import Duration, Server, Size
from proxy.server import overload
from proxy.server.overload import Spare, Turnstile, memory_mark, watch_memory

BOTH = pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
NARROW = "concurrency = 1\nqueue = 1\n"


def turnstile(**limits: Any) -> Turnstile:
    return Turnstile(evolve(Server(), **limits))


# -- the turnstile -----------------------------------------------------------------------------------------------


async def test_places_are_handed_on_in_order_and_none_is_lost() -> None:
    gate = turnstile(concurrency=2, queue=3)
    entering = [asyncio.ensure_future(gate.enter()) for _ in range(5)]
    await asyncio.sleep(0)
    assert [place.done() for place in entering] == [True, True, False, False, False]
    with pytest.raises(Overloaded):
        await gate.enter()
    entering[2].cancel()
    await asyncio.gather(entering[2], return_exceptions=True)
    gate.leave()
    await entering[3]
    assert (gate.inside, gate.waiting) == (2, 1)
    gate.leave()
    await entering[4]
    gate.leave()
    gate.leave()
    assert (gate.inside, gate.waiting) == (0, 0)


async def test_who_gets_a_place_and_is_cancelled_at_once_gives_it_on() -> None:
    gate = turnstile(concurrency=1)
    await gate.enter()
    first, second = asyncio.ensure_future(gate.enter()), asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()
    await second
    assert first.cancelled()
    assert (gate.inside, gate.waiting) == (1, 0)


async def test_who_waits_gets_a_place_that_a_new_table_brings() -> None:
    gate = turnstile(concurrency=1)
    await gate.enter()
    entering = [asyncio.ensure_future(gate.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.under(evolve(gate.limits, concurrency=3))
    await asyncio.gather(*entering[:2])
    assert (gate.inside, gate.waiting, entering[2].done()) == (3, 1, False)
    gate.leave()
    await entering[2]


async def test_who_waits_in_a_queue_is_served_after_a_reload_with_more_places(
    upstream: ScriptedUpstream, start: Start
) -> None:
    over = asyncio.Event()
    upstream.plays([over, *plain(CHAT.answer("first"))], plain(CHAT.answer("second")))
    gw = await start(provider("first", upstream), NARROW)
    assert gw.app is not None
    turnstile = gw.app.gateway.turnstile
    first = asyncio.ensure_future(gw.ask())
    await upstream.asked()
    second = asyncio.ensure_future(gw.ask())
    await settles(lambda: turnstile.waiting == 1)
    gw.config.write_text(gw.config.read_text().replace("concurrency = 1", "concurrency = 2"))
    await gw.over_socket("POST", "/admin/reload", {})
    assert (await second).status == 200
    over.set()
    assert (await first).status == 200


async def test_nobody_waits_longer_than_said() -> None:
    gate = turnstile(concurrency=1, queue_wait=Duration(0.01))
    await gate.enter()
    with pytest.raises(Overloaded) as raised:
        await gate.enter()
    assert raised.value.retry_after
    assert gate.waiting == 0


def test_bodies_share_what_there_is_and_one_always_finds_room() -> None:
    gate = turnstile(body_memory=Size(100))
    gate.hold(150)
    with pytest.raises(Overloaded):
        gate.hold(1)
    gate.release(150)
    gate.hold(60)
    gate.hold(40)
    with pytest.raises(Overloaded):
        gate.hold(1)
    assert gate.held == 100


def test_short_of_memory_only_one_is_let_in() -> None:
    gate = turnstile()
    gate.memory_high = True
    gate.check()
    gate.inside = 1
    with pytest.raises(Overloaded):
        gate.check()


# -- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "given", "mark"),
    [
        ({}, None, None),
        ({"memory.high": "max", "memory.max": "max"}, None, None),
        ({"memory.high": "1000", "memory.max": "2000"}, None, 900),
        ({"memory.max": "2000"}, None, 1800),
        ({"memory.max": "2000"}, 5000, 5000),
    ],
)
def test_the_mark_is_the_tables_else_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], given: int | None, mark: int | None
) -> None:
    monkeypatch.setattr(overload, "_own", lambda cgroup: cgroup)
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    server = evolve(Server(), memory=None if given is None else Size(given))
    assert memory_mark(server, tmp_path) == mark


async def test_above_the_mark_new_work_is_refused_until_memory_is_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = [1000]
    monkeypatch.setattr(overload, "LOOK", 0)
    monkeypatch.setattr(overload, "memory_in_use", lambda: used[0])
    gate = turnstile(memory=Size(1000))
    watching = asyncio.ensure_future(watch_memory(gate))

    async def seen(high: bool) -> None:
        async with asyncio.timeout(10):
            while gate.memory_high is not high:  # noqa: ASYNC110
                await asyncio.sleep(0)

    await seen(True)
    used[0] = 960  # not yet
    await asyncio.sleep(0)
    assert gate.memory_high
    used[0] = 900
    await seen(False)
    watching.cancel()


def test_spare_memory_goes_once_it_has_been_quiet_and_only_where_there_is_some() -> None:
    spare = Spare(100 << 20)
    quiet = int(overload.QUIET / overload.LOOK)
    assert not any(spare.may_go(200 << 20, busy=True) for _ in range(2 * quiet))
    assert [spare.may_go(200 << 20, busy=False) for _ in range(quiet)] == [False] * (quiet - 1) + [True]
    assert not spare.may_go(200 << 20, busy=True)
    assert not any(spare.may_go(101 << 20, busy=False) for _ in range(2 * quiet))


def test_memory_in_use_is_told_by_the_kernel() -> None:
    assert 1 << 20 < overload.memory_in_use() < 8 << 30


# -- over HTTP ---------------------------------------------------------------------------------------------------


async def until_waiting(gw: Running, times: int) -> None:
    assert gw.app is not None
    gate = gw.app.gateway.turnstile
    async with asyncio.timeout(10):
        while gate.waiting < times:  # noqa: ASYNC110
            await asyncio.sleep(0)


@BOTH
async def test_past_the_queue_a_request_is_refused_at_once_and_health_answers(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue), NARROW)
    go_on = asyncio.Event()
    upstream.plays([go_on, *streamed(tongue.stream("ok"))])
    under_way = asyncio.ensure_future(gw.ask(tongue, stream=True))
    await upstream.asked()
    waiting = asyncio.ensure_future(gw.ask(tongue, stream=True))
    await until_waiting(gw, 1)
    refused = await gw.ask(tongue)
    assert refused.status == 503
    assert refused.headers["Retry-After"] == "1"
    assert b"gateway_overloaded" in refused.body
    assert refused.headers[tongue.id_header] == refused.request_id
    assert (await gw.get(f"{gw.base}/healthz")).status == 200
    metrics = (await gw.get(f"{gw.admin}/metrics")).body
    assert b"pointsman_requests_under_way 1" in metrics
    assert b"pointsman_requests_waiting 1" in metrics
    go_on.set()
    for answer in await asyncio.gather(under_way, waiting):
        assert tongue.read_stream(answer.body) == "ok"
    row = await gw.row(refused.request_id)
    assert (row["status"], row["outcome"], row["attempts"]) == (503, "gateway_overloaded", [])


async def test_a_client_that_leaves_the_queue_gives_its_place_up(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream), NARROW)
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(CHAT.answer("ok"))])
    under_way = asyncio.ensure_future(gw.ask())
    await upstream.asked()
    assert gw.app is not None
    for _ in range(3):
        client = await gw.connect()
        await client.request(CHAT, CHAT.request())
        await until_waiting(gw, 1)
        client.leave()
        async with asyncio.timeout(10):
            while gw.app.gateway.turnstile.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0)
    go_on.set()
    assert (await under_way).status == 200
    assert (await gw.ask()).status == 200
    await gw.quiet()
    assert gw.app.gateway.turnstile.inside == 0
    rows = await gw.rows(5)
    assert [row["gone_phase"] for row in rows if row["status"] == 499] == ["queue"] * 3


async def test_bodies_beyond_the_budget_are_refused_and_the_budget_comes_back(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream), 'body_memory = "1KiB"\n')
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(CHAT.answer("ok"))])
    under_way = asyncio.ensure_future(gw.ask(user="x" * 900))
    await upstream.asked()
    refused = await gw.ask(user="x" * 900)
    assert refused.status == 503
    go_on.set()
    assert (await under_way).status == 200
    await gw.quiet()
    assert gw.app is not None
    assert gw.app.gateway.turnstile.held == 0
    assert (await gw.ask(user="x" * 2000)).status == 200
