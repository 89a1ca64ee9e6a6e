"""The keys of conversations that nobody looks for are made some at a time, and for the record at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from gateway import RawClient, Running, Start, provider
from playbook import CHAT
from riding import answer, frames, nobody_boards
from structlog.testing import capture_logs
from upstream import LAST, STREAM_HEAD, ScriptedUpstream, piece

from proxy.server.express.strangers import MOST, Strangers

LOOPS = ("uvloop",)
PRICED = {"first": "price = { input = 2.5, output = 10 }"}


def strangers_of(gw: Running) -> Strangers:
    assert gw.app is not None
    return gw.app.gateway.express.strangers


async def asks(client: RawClient, said: str) -> None:
    await client.request(CHAT, {**CHAT.request("first", stream=True), "messages": [{"role": "user", "content": said}]})


async def under_way(
    start: Start, upstream: ScriptedUpstream, count: int, goes_on: asyncio.Event
) -> tuple[Running, list[RawClient]]:
    """So many streams that have begun and wait, each of its own conversation but for the last, which is the first's.
    A stream rides where a connection is at hand, so as many came before."""
    gw = await start(provider("first", upstream, models=PRICED))
    *begun, last = map(piece, frames(CHAT))
    clients = [await gw.connect() for _ in range(count)]
    for turn in (asyncio.Event(), goes_on):
        upstream.answers(lambda seen, turn=turn: [STREAM_HEAD, *begun, turn, last + LAST])  # type: ignore[misc]
        for number, client in enumerate(clients):
            await asks(client, f"Hello, {number % (count - 1)}.")
            await client.until(b"\r\n\r\n")
            assert len(strangers_of(gw)._waiting) < MOST
        if turn is not goes_on:
            await _end(clients, turn)
    return gw, clients


async def _end(clients: list[RawClient], goes_on: asyncio.Event) -> None:
    goes_on.set()
    for client in clients:
        await client.until(b"\r\n0\r\n\r\n")


async def _leave_one(clients: list[RawClient], goes_on: asyncio.Event) -> None:
    clients[-1].leave()
    await _end(clients[:-1], goes_on)


async def _leave(clients: list[RawClient], goes_on: asyncio.Event) -> None:
    for client in clients:
        client.leave()


ENDS: dict[str, Callable[[list[RawClient], asyncio.Event], Awaitable[None]]] = {
    "that come to their end": _end,
    "that are left": _leave,
    "one of which is left first": _leave_one,
}


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
async def test_each_record_has_its_own_and_nothing_is_kept_of_streams(
    ends: Callable[[list[RawClient], asyncio.Event], Awaitable[None]], upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    goes_on = asyncio.Event()
    gw, clients = await under_way(start, upstream, MOST + 3, goes_on)
    assert len(strangers_of(gw)._waiting) == 3
    await ends(clients, goes_on)
    await gw.quiet()
    assert not strangers_of(gw)._waiting
    nobody_boards(monkeypatch)
    goes_on.set()
    client = await gw.connect()
    await asks(client, "Hello, 0.")
    await answer(client)
    rows = (await gw.rows(2 * len(clients) + 1))[len(clients) :]
    keys = [row["facts"]["conversation"] for row in rows]
    by_all = keys.pop()
    assert len(set(keys)) == len(clients) - 1
    assert all(keys)
    assert keys.count(by_all) == 2


async def test_a_fault_of_ours_in_one_keeps_nothing_of_the_others(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = asyncio.Event()
    gw, clients = await under_way(start, upstream, 3, goes_on)
    ride, _ = strangers_of(gw)._waiting[0]
    strangers_of(gw)._waiting[0] = ride, None  # type: ignore[assignment]
    with capture_logs() as logs:
        await _end(clients, goes_on)
    assert [it["event"] for it in logs if it["log_level"] == "error"] == ["internal_error"]
    *_, a, b, c = await gw.rows(6)
    assert [row["outcome"] for row in (a, b, c)] == ["ok"] * 3
    assert sorted("conversation" in row["facts"] for row in (a, b, c)) == [False, True, True]
