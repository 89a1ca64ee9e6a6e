"""The task of a connection sleeps while its requests ride, and is woken for whatever else becomes of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp.web_protocol import RequestHandler
from gateway import RawClient, Running, Start, connection_of, listener_of, provider, sent_behind, settles
from playbook import CHAT, MESSAGES, Tongue
from riding import answer, frames, rides
from structlog.testing import capture_logs
from upstream import CUT, LAST, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, Seen, piece, plain, streamed

from proxy.server.clients.connection import Connection
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.express.course import Course
from proxy.server.express.ride import Ride
from proxy.server.gateway import Gateway
from proxy.server.upstream import LeanUpstream
from proxy.server.watchdog import Watchdog

LOOPS = ("uvloop",)
PRICED = {"first": "price = { input = 2.5, output = 10 }"}


def whole(tongue: Tongue, *, stream: bool) -> bytes:
    """A good answer, as it comes at once."""
    said = streamed(frames(tongue)) if stream else plain(tongue.answer("Hello."))
    return b"".join(it for it in said if isinstance(it, bytes))


def slow(tongue: Tongue) -> Script:
    """A stream, each of its frames in a read of its own."""
    *said, last = map(piece, frames(tongue))
    return [STREAM_HEAD, *(step for it in said for step in (it, 0.01)), last + LAST]


GOOD: dict[bool, bytes] = {stream: whole(CHAT, stream=stream) for stream in (False, True)}
BEGUN: list[bytes] = [STREAM_HEAD, *map(piece, frames(CHAT)[:2])]  # up to the first text


def gateway_of(gw: Running) -> Gateway:
    assert gw.app is not None
    return gw.app.gateway


def woken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that a task had to do with a request: whether that rode."""
    seen: list[bool] = []
    served = Connection._served

    async def noted(self: Connection, request: OrdinaryRequest, fault: BaseException | None) -> bool:
        seen.append(request.ride is not None)
        return await served(self, request, fault)

    monkeypatch.setattr(Connection, "_served", noted)
    return seen


def request(*, stream: bool = False, most: int = 16, more: tuple[str, ...] = ()) -> bytes:
    """On the wire."""
    body = orjson.dumps(CHAT.request("first", stream=stream, max_tokens=most))
    lines = (f"POST {CHAT.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *more)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


async def asked(client: RawClient, *, stream: bool = False) -> None:
    await client.send(request(stream=stream))


async def status(client: RawClient) -> int:
    """Of an answer, which is read to its end."""
    first, _, _ = await answer(client)
    return int(first.split()[1])


async def good(client: RawClient, *, stream: bool = False) -> None:
    await asked(client, stream=stream)
    assert await status(client) == 200


async def held_is_nothing(gw: Running) -> None:
    await gw.quiet()
    gateway = gateway_of(gw)
    assert (gateway.turnstile.inside, gateway.turnstile.held, gateway.current.users) == (0, 0, 0)
    assert all(track.in_flight.value == 0 for track in gateway.current.tracks.values())
    assert not any(gateway.relay.agenda._pages.values())


COMES: dict[str, tuple[bool, Callable[[Tongue], Script]]] = {  # whether it is a stream, and what comes of it
    "plain": (False, lambda tongue: [whole(tongue, stream=False)]),
    "streamed at once": (True, lambda tongue: [whole(tongue, stream=True)]),
    "streamed slowly": (True, slow),
}


@pytest.mark.parametrize(("stream", "script"), COMES.values(), ids=COMES)
@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
async def test_no_task_wakes_up_for_a_good_answer(
    theirs: Tongue, stream: bool, script: Callable[[Tongue], Script], upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gw = await start(provider("first", upstream, theirs, models=PRICED))
    upstream.answers(lambda seen: script(theirs))
    seen, boarded = woken(monkeypatch), rides(monkeypatch)
    client = await gw.connect()
    for _ in range(6):
        await good(client, stream=stream)
    assert [ride is not None for ride in boarded] == [False, *[True] * 5]
    assert seen == [False]
    assert [row["outcome"] for row in await gw.rows(6)] == ["ok"] * 6
    await held_is_nothing(gw)


async def test_of_who_rode_nothing_is_left_to_the_collector(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: [GOOD[b'"stream":true' in seen.body]])
    client = await gw.connect()
    for stream in (False, True) * 3:
        await good(client, stream=stream)
    await gw.quiet()
    gc.collect()
    gc.disable()
    try:
        for stream in (False, True):
            await good(client, stream=stream)
        await gw.quiet()
        left = [it for it in gc.get_objects() if isinstance(it, Course | Ride | OrdinaryRequest)]
        assert [it.__class__ for it in left] == [Course]  # which rests with its connection
        assert not any(hasattr(left[0], of_one_stream) for of_one_stream in ("_ride", "_reply", "_client"))
        left.clear()
        there = gateway_of(gw).current.upstreams["first"]
        assert isinstance(there, LeanUpstream)
        ((_, handler, _),) = there._at_hand._pile
        assert handler.transport is not None
        handler.transport.abort()
        await settles(lambda: not any(isinstance(it, Course) for it in gc.get_objects()))
    finally:
        gc.enable()


WAITS: dict[str, tuple[bool, list[bytes]]] = {  # for what it waits -> whether it is a stream, and what came of it
    "an answer": (False, []),
    "a stream": (True, []),
    "more of a head": (False, [GOOD[False][:20]]),
    "more of a stream": (True, BEGUN),
}


async def riding(gw: Running, upstream: ScriptedUpstream, waits: tuple[bool, list[bytes]], *behind: Any) -> RawClient:
    """Whose request waits for that; `behind` is what comes then."""
    stream, script = waits
    upstream.plays([GOOD[stream]], [*script, *behind, SILENCE])
    client = await gw.connect()
    await good(client, stream=stream)
    await asked(client, stream=stream)
    await upstream.asked(2)
    (ride,) = gateway_of(gw).calls
    assert isinstance(ride, Ride) or script
    if script is BEGUN:
        await client.until(b"Hello")
    return client


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
async def test_a_client_that_leaves_takes_its_ride_along(
    waits: tuple[bool, list[bytes]], upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    client = await riding(gw, upstream, waits)
    client.leave()
    await upstream.until(lambda it: not it.open)
    await held_is_nothing(gw)
    row = (await gw.rows(2))[-1]
    phase = "stream" if waits[1] is BEGUN else "first_byte"
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", phase)
    await settles(lambda: not listener_of(gw).connections)


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
async def test_whoever_rides_when_the_gateway_ends_is_told_so(
    waits: tuple[bool, list[bytes]], upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    client = await riding(gw, upstream, waits)
    gateway_of(gw).cut()
    if waits[1] is BEGUN:
        said = await client.until(b"\r\n0\r\n\r\n")
    else:
        said = await client.rest()
        assert said.startswith(b"HTTP/1.1 503")
        await settles(lambda: not listener_of(gw).connections)
    assert b"shutting down" in said
    await held_is_nothing(gw)
    assert (await gw.rows(2))[-1]["outcome"] == "gateway_overloaded"


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
async def test_a_provider_that_cuts_is_told_of_and_the_connection_stays(
    waits: tuple[bool, list[bytes]], upstream: ScriptedUpstream, start: Start
) -> None:
    go_on = asyncio.Event()
    gw = await start("[retry]\ntries = 1\n" + provider("first", upstream, models=PRICED))
    client = await riding(gw, upstream, waits, go_on, CUT)
    go_on.set()
    if waits[1] is BEGUN:
        assert b'"error"' in await client.until(b"\r\n0\r\n\r\n")
    else:
        assert await status(client) == 502
    upstream.answers(lambda seen: [GOOD[False]])
    await good(client)
    await held_is_nothing(gw)
    assert [row["outcome"] for row in await gw.rows(3)] == ["ok", "bad_upstream_response", "ok"]


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
async def test_a_connection_whose_request_rides_is_not_idle(
    waits: tuple[bool, list[bytes]], upstream: ScriptedUpstream, start: Start
) -> None:
    """Neither the clock of idle ones nor the want of room, nor a drain, ends it."""
    stream, script = waits
    go_on, rest = asyncio.Event(), GOOD[stream][len(b"".join(script)) :]
    gw = await start(provider("first", upstream, models=PRICED))
    client = await riding(gw, upstream, waits, go_on, rest)
    connection = connection_of(gw)
    assert not connection.idle
    connection._next_keepalive_close_time = 0
    connection._process_keepalive()
    listener_of(gw).hang_up_on_idle()
    go_on.set()
    if script is BEGUN:
        await client.until(b"\r\n0\r\n\r\n")
    else:
        assert await status(client) == 200
    await settles(lambda: connection.idle)
    listener_of(gw).hang_up_on_idle()
    assert await client.rest() == b""
    await held_is_nothing(gw)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_one_that_rides_while_the_listener_stops_is_told_that_its_connection_closes(
    stream: bool, upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: [GOOD[stream]])
    client = await gw.connect()
    await good(client, stream=stream)
    listener_of(gw).stopping = True
    await asked(client, stream=stream)
    said = await client.rest()
    assert said.startswith(b"HTTP/1.1 200")
    assert b"\r\nConnection: close\r\n" in said
    await held_is_nothing(gw)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_shutdown_waits_for_who_rides(stream: bool, upstream: ScriptedUpstream, start: Start) -> None:
    go_on = asyncio.Event()
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.plays([GOOD[stream]], [go_on, GOOD[stream]])
    client = await gw.connect()
    await good(client, stream=stream)
    await asked(client, stream=stream)
    await upstream.asked(2)
    connection = connection_of(gw)
    ending = asyncio.ensure_future(RequestHandler.shutdown(connection, 20))
    await settles(lambda: connection._handler_waiter is not None)
    go_on.set()
    assert await status(client) == 200
    await ending
    assert await client.rest() == b""
    await held_is_nothing(gw)


def behind(name: str, *, stream: bool) -> bytes:
    if name == "an unusual one":
        return request(stream=stream, more=("X-Odd:  two blanks",))
    return request(stream=stream, most=17 if name == "one of another kind" else 16) * (2 if name == "two" else 1)


AHEAD = ("another", "two", "one of another kind", "an unusual one")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("cut", [None, 20, -5], ids=["whole", "half of its head", "less of its body"])
@pytest.mark.parametrize("more", AHEAD)
async def test_what_comes_while_one_rides_begins_when_that_has_ended(
    more: str, cut: int | None, stream: bool, upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    go_on, running = asyncio.Event(), list[int]()

    def script(seen: Seen) -> Script:
        running.append(gateway_of(gw).running)
        return [go_on, GOOD[stream]] if len(running) == 3 else [GOOD[stream]]

    upstream.answers(script)
    client, data = await gw.connect(), behind(more, stream=stream)
    for _ in range(2):
        await good(client, stream=stream)
    await asked(client, stream=stream)
    await upstream.asked(3)
    await client.send(data[:cut])
    await settles(lambda: bool(connection_of(gw)._ahead))
    go_on.set()
    assert await status(client) == 200
    if cut is not None:
        await client.send(data[cut:])
    for _ in range(data.count(b"POST")):
        assert await status(client) == 200
    assert set(running) == {1}
    await held_is_nothing(gw)


FAULTS: dict[str, tuple[str, bool, int]] = {  # ours -> of a stream, and what comes of it
    "before it is judged": ("proxy.server.express.ride.Ride._judged", False, 500),
    "amid its answer": ("proxy.routing.latency.Notes.add", False, 200),
    "behind its answer": ("proxy.server.express.ride.settle", False, 200),
    "amid its stream": ("proxy.routing.latency.Notes.add", True, 200),
    "behind its stream": ("proxy.server.express.telling.settle", True, 200),
}


@pytest.mark.parametrize("cuts", [(), (0,)], ids=["with its head", "behind its head"])
@pytest.mark.parametrize(("where", "stream", "comes"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_ours_is_told_and_ends_one_connection(
    where: str, stream: bool, comes: int, cuts: tuple[int, ...], upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: [GOOD[stream]])
    client = await gw.connect()
    await good(client, stream=stream)
    with capture_logs() as logs:
        monkeypatch.setattr(where, None)  # cannot be called
        if cuts:
            await sent_behind(gw, client, CHAT, CHAT.request("first", stream=stream, max_tokens=16), *cuts)
        else:
            await asked(client, stream=stream)
        assert await status(client) == comes
        if comes == 200:
            assert await client.rest() == b""
    assert [it["event"] for it in logs if it["log_level"] == "error"] == ["internal_error"]
    other = await gw.connect()
    monkeypatch.undo()
    await good(other, stream=stream)
    await held_is_nothing(gw)
    assert [row["outcome"] for row in await gw.rows(3)] == ["ok", "internal_error", "ok"]


@pytest.mark.parametrize(
    "where", ["proxy.server.express.tally.Tally.add", "proxy.server.clients.visitor.Visitor.client"]
)
async def test_a_fault_of_ours_behind_the_record_keeps_nothing(
    where: str, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: [GOOD[False]])
    client = await gw.connect()
    await good(client)
    monkeypatch.setattr(where, None)
    await good(client)
    await held_is_nothing(gw)
    assert [row["outcome"] for row in await gw.rows(2)] == ["ok", "ok"]


DEPARTS = (
    "proxy.server.express.fare.boards",
    "proxy.server.upstream.session.LeanUpstream.asked",
    "proxy.server.express.departure.request_id",
    "proxy.server.express.ride.Ride.recognizes",
    "proxy.server.upstream.lean.LeanReply.lend",
)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("where", DEPARTS)
async def test_a_fault_of_ours_amid_the_departure_keeps_nothing(
    where: str, stream: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the way of all may have no fault."""
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: [GOOD[stream]])
    client = await gw.connect()
    for _ in range(2):
        await good(client, stream=stream)
    (track,) = gateway_of(gw).current.tracks.values()
    free = track.upstream._slots._free
    monkeypatch.setattr(where, None)
    with capture_logs() as logs:
        await good(client, stream=stream)
    assert "internal_error" in [it["event"] for it in logs]
    monkeypatch.undo()
    await good(client, stream=stream)
    await held_is_nothing(gw)
    assert track.upstream._slots._free == free
    assert [row["outcome"] for row in await gw.rows(4)] == ["ok"] * 4


@pytest.mark.parametrize("where", ["begun", "Course._goes_on_as_usual"])
async def test_a_fault_of_ours_ahead_of_the_commit_loses_nothing_of_a_stream_without_a_word(
    where: str, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: slow(CHAT))
    client = await gw.connect()
    for _ in range(2):
        await good(client, stream=True)
    monkeypatch.setattr(f"proxy.server.express.course.{where}", None)
    await asked(client, stream=True)
    assert await status(client) == 500
    await held_is_nothing(gw)
    assert (await gw.rows(3))[-1]["outcome"] == "internal_error"


async def test_a_stream_that_fell_silent_is_not_given_its_time_anew(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start('[timeouts]\nidle = "300ms"\n' + provider("first", upstream, models=PRICED))
    client = await riding(gw, upstream, (True, BEGUN))
    touched: list[int] = []
    monkeypatch.setattr(Watchdog, "touch", lambda self, size=0: touched.append(size))
    assert b"fell silent" in await client.until(b"\r\n0\r\n\r\n")
    assert touched == [0]  # by what tells the client so
    await held_is_nothing(gw)
