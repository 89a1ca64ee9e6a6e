"""Metrics and lines of good answers are told some at a time, and before anybody can tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gateway import RawClient, Running, Start, provider, settles
from playbook import CHAT
from riding import answer, frames
from structlog.testing import capture_logs
from upstream import Script, ScriptedUpstream, plain, streamed

from proxy.server.express.tally import Tally
from proxy.server.express.tidings import MOST, Tidings
from proxy.server.gateway import Gateway

LOOPS = ("uvloop",)
PRICED = {"first": "price = { input = 2.5, output = 10 }"}
GOOD: dict[bool, Script] = {False: plain(CHAT.answer("Hello.")), True: streamed(frames(CHAT))}


@pytest.fixture
def only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tenth of a second ends."""
    monkeypatch.setattr(Tidings, "look", lambda self, now: None)


def gateway_of(gw: Running) -> Gateway:
    assert gw.app is not None
    return gw.app.gateway


async def asks(client: RawClient, *, stream: bool = False) -> str:
    """The request's id."""
    await client.request(CHAT, CHAT.request("first", stream=stream))
    status, headers, _ = await answer(client)
    assert status.startswith(b"HTTP/1.1 200")
    return headers["x-request-id"]


async def started(start: Start, upstream: ScriptedUpstream) -> tuple[Running, RawClient]:
    """The next request rides, and so does a stream."""
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: GOOD[b'"stream":true' in seen.body])
    client = await gw.connect()
    for stream in (False, True):
        await asks(client, stream=stream)
    gateway_of(gw).express.tidings.tell()
    return gw, client


def lines(logs: list[Any]) -> list[str]:
    """The requests of which a line was told, in that order."""
    return [it["request_id"] for it in logs if it["event"] == "request_done"]


async def test_what_nobody_asks_for_is_told_at_the_end_of_a_tenth(upstream: ScriptedUpstream, start: Start) -> None:
    gw, client = await started(start, upstream)
    with capture_logs() as logs:
        await asks(client)
        await settles(lambda: len(lines(logs)) == 1)
    gateway = gateway_of(gw)
    await settles(lambda: not any(gateway.relay.agenda._pages.values()))


async def _scrapes(gw: Running, client: RawClient) -> None:
    gateway_of(gw).metrics.render()


async def _asks_what_does_not_ride(gw: Running, client: RawClient) -> None:
    await client.request(CHAT, CHAT.request("nobody"))
    assert (await answer(client))[0].startswith(b"HTTP/1.1 404")
    await gw.quiet()


async def _asks_for_many_more(gw: Running, client: RawClient) -> None:
    for _ in range(MOST - 2):
        await asks(client)


async def _stops(gw: Running, client: RawClient) -> None:
    assert gw.app is not None
    await gw.app.stop(drain=0)


ASKS: dict[str, Callable[[Running, RawClient], Awaitable[None]]] = {
    "a scrape": _scrapes,
    "a request that does not ride": _asks_what_does_not_ride,
    "many more that ride": _asks_for_many_more,
    "the gateway stops": _stops,
}


@pytest.mark.usefixtures("only_when_asked")
@pytest.mark.parametrize("asked", ASKS.values(), ids=ASKS)
async def test_it_is_told_at_once_and_in_order_where(
    asked: Callable[[Running, RawClient], Awaitable[None]], upstream: ScriptedUpstream, start: Start
) -> None:
    gw, client = await started(start, upstream)
    with capture_logs() as logs:
        ended = [await asks(client, stream=stream) for stream in (False, True, True)]
        assert lines(logs) == []
        await gw.rows(5)
        await asked(gw, client)
    assert lines(logs)[:3] == ended


@pytest.mark.usefixtures("only_when_asked")
async def test_what_ended_before_a_reload_is_told_behind_it(upstream: ScriptedUpstream, start: Start) -> None:
    gw, client = await started(start, upstream)
    with capture_logs() as logs:
        ended = [await asks(client)]
        gw.config.write_text(gw.config.read_text() + '[aliases]\nother = "first"\n')
        assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
        assert lines(logs) == []
        ended.append(await asks(client))
        await gw.quiet()
    assert lines(logs) == ended


@pytest.mark.usefixtures("only_when_asked")
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_fault_of_ours_in_one_keeps_nothing_of_the_others(
    stream: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw, client = await started(start, upstream)
    add, faults = Tally.add, [ZeroDivisionError()]

    def fails_once(self: Tally, *told: Any) -> None:
        if faults:
            raise faults.pop()
        add(self, *told)

    monkeypatch.setattr(Tally, "add", fails_once)
    with capture_logs() as logs:
        for _ in range(3):
            await asks(client, stream=stream)
        gateway_of(gw).express.tidings.tell()
    assert [it["event"] for it in logs] == ["internal_error", "request_done", "request_done"]
    assert [row["outcome"] for row in await gw.rows(5)] == ["ok"] * 5
