"""What waits for the end of its turn of the loop is lost to nothing that comes in between, and leaves nothing."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from crowd import crowd
from gateway import RawClient, Running, Start, listener_of, provider, sent_behind, settles
from keyed import make
from playbook import CHAT
from riding import CALM, PLACES, frames, held_is_nothing, rides
from upstream import CUT, LAST, STREAM_HEAD, Script, ScriptedUpstream, piece, plain

from proxy.server.clients.connection import Connection
from proxy.server.express.course import Course
from proxy.server.express.ride import Ride
from proxy.server.upstream.handler import Handler
from proxy.server.upstream.lean import LeanReply

LOOPS = ("uvloop",)
PRICED = {"first": "price = { input = 2.5, output = 10 }"}
FRAMES = list(map(piece, frames(CHAT)))
WHOLE: dict[bool, bytes] = {
    True: b"".join([STREAM_HEAD, *FRAMES, LAST]),
    False: b"".join(it for it in plain(CHAT.answer("Hello.")) if isinstance(it, bytes)),
}
STREAMED = {"plain": False, "streamed": True}


async def team(start: Start, upstream: ScriptedUpstream) -> tuple[Running, str]:
    """A gateway whose callers have limits and a budget, and a caller's header."""
    table = CALM.format(parallel=40) + provider("first", upstream, models=PRICED, more=f"connections = {PLACES}")
    gw = await start(table)
    return gw, f"Authorization: {(await make(gw, project='team')).bearer['Authorization']}"


async def asks(client: RawClient, key: str, *, stream: bool) -> bytes:
    """The whole of the answer's body."""
    await client.request(CHAT, CHAT.request("first", stream=stream), key)
    head = (await client.until(b"\r\n\r\n")).lower()
    if stream:
        return await client.until(b"\r\n0\r\n\r\n")
    return await client.reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))


def closing(answer: bytes) -> bytes:
    return answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


ENDS: dict[str, tuple[Script, bool]] = {  # an answer with which its connection ends
    "plain": ([closing(WHOLE[False]), CUT], False),
    "a stream at once": ([closing(WHOLE[True]), CUT], True),
    "a slow stream": ([closing(STREAM_HEAD) + FRAMES[0] + FRAMES[1], 0.01, b"".join(FRAMES[2:]) + LAST, CUT], True),
}


@pytest.mark.parametrize(("last", "stream"), ENDS.values(), ids=ENDS)
async def test_a_connection_that_ends_with_its_answer_is_left_to_no_collector(
    last: Script, stream: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw, key = await team(start, upstream)
    upstream.answers(lambda seen: last if len(upstream.seen) > 4 and len(upstream.seen) % 2 else [WHOLE[stream]])
    crowd(monkeypatch)
    client = await gw.connect()

    def there() -> Counter[type]:
        kinds = Course, Ride, Handler, LeanReply
        return Counter(it.__class__ for it in gc.get_objects() if isinstance(it, kinds))

    for _ in range(4):
        await asks(client, key, stream=stream)
    await gw.quiet()
    gc.collect()
    gc.disable()
    try:
        before = there()
        for _ in range(10):
            await asks(client, key, stream=stream)
            await gw.quiet()
        after = there()
    finally:
        gc.enable()
    assert all(after[kind] <= before[kind] + 1 for kind in after), (before, after)


async def test_an_answer_that_left_is_settled_once_though_the_gateway_is_cut_off_before_its_turn_comes(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw, key = await team(start, upstream)
    answer = WHOLE[False]
    upstream.answers(lambda seen: [answer] if len(upstream.seen) < 4 else [answer[:10], 0.01, answer[10:]])
    client, joined = await gw.connect(), rides(monkeypatch, "join")
    for _ in range(3):
        await asks(client, key, stream=False)
    came = Ride.came
    assert gw.app is not None
    cut = gw.app.gateway.cut

    def cut_off(self: Ride) -> None:
        cut()
        came(self)

    monkeypatch.setattr(Ride, "came", cut_off)
    crowd(monkeypatch)
    await sent_behind(gw, client, CHAT, CHAT.request("first"), 20, headers=(key,))
    assert (await client.rest()).count(b"HTTP/1.1 ") == 1
    assert [ride is not None for ride in joined] == [True]
    account = await held_is_nothing(gw)
    rows = await gw.rows(4)
    assert [row["outcome"] for row in rows] == ["ok"] * 4
    assert sum(row["charged_nanos"] for row in rows) == account.spent


def idle_for_too_long(connection: Connection) -> None:
    connection._next_keepalive_close_time = 0
    connection._process_keepalive()


def as_it_comes(monkeypatch: pytest.MonkeyPatch, happens: Callable[[Connection], None]) -> list[bool]:
    """That happens whenever a request waits for its turn's end, as connections have it that are made from now on."""
    received, waited = Connection.data_received, list[bool]()

    def between(self: Connection, data: bytes) -> None:
        received(self, data)
        if self._arrived is not None and not self._arrived.tried:
            waited.append(self._riding is None)
            happens(self)

    monkeypatch.setattr(Connection, "data_received", between)
    return waited


BETWEEN: dict[str, Callable[[Connection], None]] = {
    "the time between two requests is over": idle_for_too_long,
    "the connection is to end": lambda connection: connection.close(),
    "its task is woken": lambda connection: connection._wake(),
}


@pytest.mark.parametrize("stream", STREAMED.values(), ids=STREAMED)
@pytest.mark.parametrize("happens", BETWEEN.values(), ids=BETWEEN)
async def test_a_request_that_waits_for_its_turn_s_end_is_answered(
    happens: Callable[[Connection], None], stream: bool, upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gw, key = await team(start, upstream)
    upstream.answers(lambda seen: [WHOLE[stream]])
    waited = as_it_comes(monkeypatch, happens)
    client = await gw.connect()
    for _ in range(3):
        await asks(client, key, stream=stream)
    await gw.quiet()
    crowd(monkeypatch)
    assert b"Hello" in await asks(client, key, stream=stream)
    assert waited == [True]
    await held_is_nothing(gw)
    assert [row["outcome"] for row in await gw.rows(4)] == ["ok"] * 4


async def test_a_request_whose_client_is_let_go_before_its_turn_s_end_is_left_to_no_collector(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw, key = await team(start, upstream)
    upstream.answers(lambda seen: [WHOLE[False]])
    waited = as_it_comes(monkeypatch, lambda connection: connection.force_close())
    client = await gw.connect()
    for _ in range(3):
        await asks(client, key, stream=False)
    await gw.quiet()
    crowd(monkeypatch)
    gc.collect()
    gc.disable()
    try:
        with suppress(ConnectionError):
            await client.request(CHAT, CHAT.request("first"), key)
            assert await client.rest() == b""
        await settles(lambda: not listener_of(gw).connections)
        assert waited == [True]
        assert not [it for it in gc.get_objects() if isinstance(it, Connection) and it.transport is None]
    finally:
        gc.enable()
    await held_is_nothing(gw)
