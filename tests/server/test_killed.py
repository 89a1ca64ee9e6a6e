"""kill -9 at a random moment under load: what was answered is counted, once; what was under way is not forgotten."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest
from gateway import gateway, process, provider
from keyed import Made, make
from ledger_sums import leases, spent
from playbook import CHAT
from upstream import ScriptedUpstream, plain, streamed

from proxy.app import LEDGER

TABLE = "[projects.x]\nbudget = { limit = 1000 }\n"
CLIENTS = 8
COUNTED_AFTER = 0.05  # seconds: what ended longer ago than that is in the file


async def load(base: str, key: Made, ended: dict[str, float]) -> None:
    """Asks until the gateway is gone; half of it streams."""
    async with aiohttp.ClientSession() as session:
        for number in range(1_000_000):
            body = CHAT.request("first", stream=number % 2 == 1, max_tokens=20)
            async with session.post(f"{base}{CHAT.path}", json=body, headers=key.bearer) as answer:
                assert answer.status == 200
                await answer.read()
                ended[answer.headers["X-Request-Id"]] = time.monotonic()


async def late(worst: list[float]) -> None:
    """By how much this machine keeps a process waiting that wants to run."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.002)
        worst.append(time.monotonic() - before - 0.002)


async def killed_under_load(table: str, home: Path, key: Made, seconds: float) -> tuple[dict[str, float], float]:
    """When each answer had ended, and from when on it may be missing: a machine that is too busy to run what wants to
    run delays the writer, too."""
    ended: dict[str, float] = {}
    waits: list[float] = [0.0]
    async with process(table, home) as (running, child):
        clients = [asyncio.ensure_future(load(running.base, key, ended)) for _ in range(CLIENTS)]
        while not ended:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        watching = asyncio.ensure_future(late(waits))
        await asyncio.sleep(seconds)
        moment = time.monotonic()
        child.signal(signal.SIGKILL)
        await child.child.wait()
        watching.cancel()
        for client in clients:
            with suppress(aiohttp.ClientError, AssertionError):
                await client
    return ended, moment - COUNTED_AFTER - 10 * max(waits)


def rows(state: Path) -> set[str]:
    with closing(sqlite3.connect(state / LEDGER)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = [row[0] for row in connection.execute("SELECT request_id FROM decisions")]
        assert len(found) == len(set(found)), "nothing is counted twice"
        return set(found)


async def kill_and_look(home: Path, upstream: ScriptedUpstream, times: int, seed: int) -> None:
    whole, stream = plain(CHAT.answer("Hello.")), streamed(CHAT.stream("Hello."))
    upstream.plays(*[whole, stream] * 20_000)
    table = provider("first", upstream, models={"first": "price = { input = 1, output = 2 }"}) + TABLE
    dice = random.Random(seed)
    async with gateway(table, home) as gw:
        key = await make(gw, project="x", budget={"limit": 1000})
        state = gw.state
    for _ in range(times):
        ended, moment = await killed_under_load(table, home, key, dice.uniform(0.05, 0.5))
        counted = rows(state)
        due = {request for request, at in ended.items() if at < moment}
        assert due <= counted, f"{len(due - counted)} answers are missing"
        held = leases(state)
        assert not held.keys() & counted, "a lease goes with the row of its request"
        sums = spent(state)
        assert sums.get(f"key:{key.id}") == sums.get("project:x")
        async with gateway(table, home) as gw:
            assert (await gw.ask(headers={"Authorization": "Bearer x"})).status == 401
            assert gw.app is not None
            for name, account in gw.app.books.accounts.items():
                assert sum(account.days.values()) == sums.get(name, 0)
                assert account.reserved == sum(held.values())


async def test_a_kill_under_load_loses_and_doubles_nothing(home: Path, upstream: ScriptedUpstream) -> None:
    await kill_and_look(home, upstream, times=1, seed=1)


@pytest.mark.slow
async def test_fifty_kills_under_load_lose_and_double_nothing(home: Path, upstream: ScriptedUpstream) -> None:
    await kill_and_look(home, upstream, times=50, seed=50)
