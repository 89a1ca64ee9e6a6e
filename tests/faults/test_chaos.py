"""10,000 requests over faults at random, SIGHUPs and restarts: each is answered or told, and all of it adds up."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway import whole
from upstream import ScriptedUpstream

from faults import table
from faults.bench import SETTING, Daemon, Misbehaving
from faults.load import Chaos, Tally, ask, drive, table_of
from faults.soak import soak
from faults.sockets import activated, held_socket
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.starting import LEDGER

REQUESTS, RESTARTS, HANGUPS = 10_000, 5, 20


@asynccontextmanager
async def none_left_of(running: list[Daemon]) -> AsyncIterator[None]:
    """Whatever becomes of the test."""
    try:
        yield
    finally:
        for one in running:
            if one.child.returncode is None:
                one.child.kill()
                await one.child.wait()


@pytest.mark.parametrize("requests", [400, pytest.param(REQUESTS, marks=pytest.mark.slow)])
async def test_every_request_is_answered_or_told_and_all_adds_up(requests: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        home = Path(made)
        running: list[Daemon] = []
        async with ScriptedUpstream() as upstream, held_socket() as listener, none_left_of(running):
            provider = Misbehaving(upstream)
            chaos, tally = Chaos(0.3, random.Random(4)), Tally()
            text = whole(table_of(provider), 'drain = "20s"\n' + SETTING)
            (home / "routes.toml").write_text(text.replace('listen = ["127.0.0.1:0"]', 'listen = ["systemd"]'))
            upstream.answers(chaos.script)
            restarts = RESTARTS if requests == REQUESTS else 1
            running.append(await activated(listener, home, 0))
            done = asyncio.Event()

            async def disturb() -> None:
                for number in range(1, restarts + 1):
                    for _ in range(HANGUPS // RESTARTS):
                        await asyncio.sleep(0.3)
                        running[-1].signal(signal.SIGHUP)
                    old = running[-1]
                    old.signal(signal.SIGTERM)
                    assert await old.ends() == 0
                    running.append(await activated(listener, home, number))
                done.set()

            disturbing = asyncio.ensure_future(disturb())
            await drive(range(requests), 40, lambda number: ask(running[-1], number, tally))
            await disturbing
            assert done.is_set()
            await running[-1].until_metric("pointsman_requests_under_way", lambda value: value == 0)
            running[-1].signal(signal.SIGTERM)
            assert await running[-1].ends() == 0
            await upstream.until(lambda it: not it.open)
            assert not tally.wrong, tally.wrong[:5]
            assert tally.whole + tally.typed.total() == requests
            assert tally.whole > 0.8 * requests
            assert upstream.opened == upstream.closed
            assert len(set(tally.ids)) == requests
            _adds_up(home, tally, requests)
            assert max(chaos.answered.values()) == 1  # nobody's request was done twice


def _adds_up(home: Path, tally: Tally, requests: int) -> None:
    """One row for each request, and its outcome is what the client saw."""
    decisions, before, rows = Decisions(home / "state" / LEDGER), None, []
    while True:
        page = decisions.page(Filter(), 1000, before)
        rows += page.rows
        if page.next is None:
            break
        before = page.next
    assert len(rows) == requests
    assert {row["request_id"] for row in rows} == set(tally.ids)
    assert sum(row["outcome"] == "ok" for row in rows) == tally.whole


@pytest.mark.slow
async def test_a_soak_of_a_minute_leaves_nothing_behind() -> None:
    """Row P13 in small; `make soak` is half an hour of it, with full caches."""
    report = await soak(minutes=1.0, fill=False)
    assert report.problems(tolerance=0.15) == [], report  # caches fill for some minutes yet
    assert report.whole > 0.9 * report.requests
    table.tell(
        "P13",
        "a minute of mixed load with 5 % faults, clients that leave, and reloads (half an hour by `make soak`)",
        "each request answered or told",
        "memory flat; no row dropped; no task, socket or descriptor left",
        test="tests/faults/test_chaos.py::test_a_soak_of_a_minute_leaves_nothing_behind",
    )
