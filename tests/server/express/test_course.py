"""The course of a stream on the short way: what goes it to its end, and what is handed over under way. That client,
provider and record cannot tell is what `test_express_streams.py` shows."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from crowd import CROWDS, crowd
from gateway import RawClient, Running, Start, listener_of, provider, sent_behind, settles
from keyed import make
from playbook import CHAT, MESSAGES, Tongue
from riding import OWN, TOLD, answer, frames, rides
from structlog.testing import capture_logs
from upstream import LAST, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, piece, streamed, within
from upstream import plain as whole

from proxy.server.billing import STREAM_BYTES_PER_TOKEN
from proxy.server.call import NOTHING
from proxy.server.clients.connection import Connection
from proxy.server.express.course import Course
from proxy.server.express.ride import Ride
from proxy.server.gateway import Gateway
from proxy.server.upstream import LeanUpstream, plain
from proxy.server.upstream.handler import Handler, Receiver
from proxy.server.upstream.lean import LeanReply
from proxy.streams import rote
from proxy.wire.head_shape import Head

LOOPS = ("uvloop",)
PRICED = {"first": "price = { input = 2.5, output = 10 }"}


GOOD = frames(CHAT)
MANY_TEXTS = [f"word {number}" for number in range(300)]
MANY = frames(CHAT, *MANY_TEXTS)
WIRE = b"".join([*map(piece, MANY), LAST])
# Reads of the provider's third answer -> whether it goes the short way to its end.
COURSES: dict[str, tuple[Sequence[Any], bool]] = {
    "all in one read": ([b"".join([STREAM_HEAD, *map(piece, GOOD), LAST])], True),
    "a frame at a time": ([STREAM_HEAD, 0.01, *(step for it in GOOD for step in (piece(it), 0.01)), LAST], True),
    "the end in a read of its own": ([b"".join([STREAM_HEAD, *map(piece, GOOD)]), 0.01, LAST], True),
    "no end of the body": ([b"".join([STREAM_HEAD, *map(piece, GOOD)]), SILENCE], True),
    "a head that comes in two": ([STREAM_HEAD[:20], 0.01, STREAM_HEAD[20:], *map(piece, GOOD), LAST], True),
    "an odd chunk": (
        [STREAM_HEAD, piece(GOOD[0] + GOOD[1][:9]), 0.01, piece(GOOD[1][9:]), *map(piece, GOOD[2:]), LAST], True
    ),
    "a chunk that is large": (streamed([*GOOD[:2], 0.01, CHAT.text("x" * 20_000), 0.01, *GOOD[2:]]), True),
    "hundreds of frames at once": ([b"".join([STREAM_HEAD, *map(piece, MANY), LAST])], True),
    "hundreds that are cut anywhere": (
        [STREAM_HEAD, *(step for at in range(0, len(WIRE), 20_001) for step in (WIRE[at : at + 20_001], 0.01))], True
    ),
    "more than is seen to here": ([b"".join([STREAM_HEAD, *map(piece, frames(CHAT, *MANY_TEXTS * 8)), LAST])], False),
    "no usage": ([STREAM_HEAD, *(piece(it) for it in GOOD if it is not TOLD), LAST], False),
    "no terminator": ([STREAM_HEAD, *map(piece, GOOD[:-1]), LAST], False),
    "an error within": (streamed([*GOOD[:2], CHAT.error_frame("overloaded_error", "No.")]), False),
}  # fmt: skip


def courses(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each went the short way to its end."""
    seen: list[bool] = []
    opening, ended = Course.opening, Course._ended

    def noted(self: Course, *args: Any) -> Any:
        seen.append(False)
        return opening(self, *args)

    def noted_end(self: Course, *args: Any) -> None:
        seen.append(True)
        ended(self, *args)

    monkeypatch.setattr(Course, "opening", noted)
    monkeypatch.setattr(Course, "_ended", noted_end)
    return seen


async def asks(client: RawClient, *more: str) -> None:
    await client.request(CHAT, CHAT.request("first", stream=True), *more)


async def taken(client: RawClient) -> bytes:
    """A stream, to the end of its body."""
    said = b""
    async with asyncio.timeout(20):
        while not said.endswith(b"\r\n0\r\n\r\n"):
            said += (more := await client.reader.read(1 << 16))
            assert more, said
    return said


@pytest.mark.parametrize("crowded", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize(("script", "whole"), COURSES.values(), ids=COURSES)
async def test_a_good_stream_goes_the_short_way_to_its_end(
    script: Script,
    whole: bool,
    crowded: bool,
    upstream: ScriptedUpstream,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if crowded:
        crowd(monkeypatch)
    monkeypatch.setattr(plain, "LINGER", 0.1)
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.plays(streamed(GOOD), script)
    seen = courses(monkeypatch)
    client = await gw.connect()
    for _ in range(2):
        await asks(client)
        await taken(client)
    await gw.quiet()
    assert seen == [whole]
    await held_is_nothing(gw)


STREAM = b"".join([STREAM_HEAD, *map(piece, GOOD), LAST])
PIECES = {"in one": (STREAM,), "in two": (STREAM[:30], STREAM[30:]), "no more than the head": (STREAM_HEAD,)}
MEANWHILE: dict[str, Callable[[Course], None]] = {
    "the connection ends": lambda course: course.lost(None),
    "its time is over": lambda course: course.look(course._agenda.now()),
    "nothing happens": lambda course: None,
}


@pytest.mark.parametrize("happens", MEANWHILE.values(), ids=MEANWHILE)
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
async def test_what_waits_for_its_turn_s_end_has_come(
    pieces: tuple[bytes, ...],
    happens: Callable[[Course], None],
    upstream: ScriptedUpstream,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    client = await gw.connect()
    upstream.plays(streamed(GOOD), [SILENCE])
    await asks(client)
    await taken(client)
    await asks(client)
    await upstream.asked(2)
    assert gw.app is not None
    (ride,) = gw.app.gateway.calls
    assert isinstance(ride, Ride)
    course = ride.course
    assert course is not None
    crowd(monkeypatch)
    for data in pieces:
        course.received(data)
    assert (ride.left, course._whole) == (None, b"".join(pieces))
    happens(course)
    complete = b"".join(pieces) == STREAM
    if complete:
        assert b"Hello" in await taken(client)
    else:
        await asyncio.sleep(0)  # the turn's end
        client.leave()
    await gw.quiet()
    outcome = (await gw.rows(2))[-1]["outcome"]
    assert (outcome == "ok") is complete
    await held_is_nothing(gw)


@pytest.mark.parametrize("crowded", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("script", [script for script, whole in COURSES.values() if whole][:3])
async def test_nothing_is_left_to_the_collector(
    script: Script, crowded: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    if crowded:
        crowd(monkeypatch)
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: script)
    client = await gw.connect()
    for _ in range(3):
        await asks(client)
        await taken(client)
    await gw.quiet()
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            await asks(client)
            await taken(client)
        await gw.quiet()
        left = [it.__class__ for it in gc.get_objects() if isinstance(it, Course | Ride)]
        assert len(left) == len(set(left))  # of the last, whose task waits for the connection's next request
    finally:
        gc.enable()


LEAVES: dict[str, Script] = {
    "in one read": [b"".join([STREAM_HEAD, *map(piece, GOOD), LAST])],
    "behind its head": [STREAM_HEAD, 0.01, b"".join([*map(piece, GOOD), LAST])],
    "a frame at a time": [
        STREAM_HEAD,
        *(step for it in GOOD[:-1] for step in (piece(it), 0.01)),
        piece(GOOD[-1]) + LAST,
    ],
}


@pytest.mark.parametrize("by", ["board", "join"])
@pytest.mark.parametrize("script", LEAVES.values(), ids=LEAVES)
async def test_a_task_that_waits_for_the_next_request_keeps_nothing_of_the_last(
    script: Script, by: str, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends large ones and then nothing would have the gateway keep them past any bound."""
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: script)
    client, rode = await gw.connect(), rides(monkeypatch, by)
    for _ in range(6):
        if by == "board":
            await asks(client)
        else:
            await sent_behind(gw, client, CHAT, CHAT.request("first", stream=True), 0)
        await taken(client)
        await gw.quiet()
    assert rode[-1] is not None
    for ride in rode[1:]:
        assert ride is not None
        call = ride.call
        kept = ride.body, ride.found, ride.sent, ride.request.ready(), call and (call.body, call.document)
        assert kept == (b"", None, (), None, call and (b"", NOTHING))


def slowly(theirs: Tongue) -> Script:
    *said, last = map(piece, frames(theirs))
    return [STREAM_HEAD, *(step for it in said for step in (it, 0.01)), last + LAST]


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
async def test_the_streams_of_a_connection_have_one_course_and_its_transport_is_told_once(
    theirs: Tongue, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, theirs, models=PRICED))
    upstream.answers(lambda seen: slowly(theirs))
    served, told = list[Course](), list[object]()
    serves, direct = Course.serves, Handler.direct

    def noted(self: Course, ride: Ride, now: float) -> None:
        served.append(self)
        serves(self, ride, now)

    def noted_ear(self: Handler, ear: Receiver | None) -> None:
        told.append(ear)
        direct(self, ear)

    client = await gw.connect()
    said = []
    for number in range(8):
        if number == 3:  # what was learnt from the first ones makes the next ones all alike
            monkeypatch.setattr(Course, "serves", noted)
            monkeypatch.setattr(Handler, "direct", noted_ear)
        await asks(client)
        said.append((await taken(client)).count(b"data: "))
    await gw.quiet()
    assert len(served) == 5
    assert len(set(served)) == 1
    assert told in ([], served[:1])
    assert len(set(said)) == 1
    await held_is_nothing(gw)


async def test_what_comes_for_others_passes_a_course_that_rests(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    upstream.answers(lambda seen: slowly(CHAT) if b'"stream":true' in seen.body else whole(CHAT.answer("Hello.")))
    client = await gw.connect()
    for stream in (True, True, False, False, True, False, True):  # of each kind the first goes the way of all
        await client.request(CHAT, CHAT.request("first", stream=stream))
        if stream:
            assert (await taken(client)).count(b"data: ") == len(GOOD) - 1
        else:
            assert (await answer(client))[0] == b"HTTP/1.1 200 OK"
    await gw.quiet()
    assert len({seen.connection for seen in upstream.seen}) == 1
    assert [row["outcome"] for row in await gw.rows(7)] == ["ok"] * 7


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
@pytest.mark.parametrize("slow", [False, True], ids=["at once", "slowly"])
async def test_a_course_that_rests_is_as_a_new_one(
    theirs: Tongue, slow: bool, upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, theirs, models=PRICED))
    script = slowly(theirs) if slow else [b"".join([STREAM_HEAD, *map(piece, frames(theirs)), LAST])]
    upstream.answers(lambda seen: script)
    client = await gw.connect()
    gateway, rests = the_gateway(gw), None
    for _ in range(5):
        await asks(client)
        await taken(client)
        await gw.quiet()
        there = gateway.current.upstreams["first"]
        assert isinstance(there, LeanUpstream)
        for _, handler, _ in there._at_hand._pile:
            if (rests := handler.rests) is not None:
                new = Course(handler, gateway.relay.agenda)
                names = [it for kind in Course.__mro__ for it in getattr(kind, "__slots__", ()) if hasattr(new, it)]
                assert {it: getattr(rests, it) for it in names} == {it: getattr(new, it) for it in names}
    assert rests is not None


async def test_a_course_whose_stream_was_read_keeps_nothing_of_it(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its connection would keep a ride for as long as nobody asks."""
    monkeypatch.setattr(rote, "_memories", {})
    gw = await start(provider("first", upstream, MESSAGES, models=PRICED))
    upstream.answers(lambda seen: slowly(MESSAGES))
    client, rode = await gw.connect(), rides(monkeypatch)
    said = []
    for _ in range(4):
        rote._memories.clear()  # so each is read
        await asks(client)
        said.append(body_of(await taken(client)))
        await gw.quiet()
    assert None not in rode[1:]
    assert said == said[:1] * 4
    there = the_gateway(gw).current.upstreams["first"]
    assert isinstance(there, LeanUpstream)
    ((_, handler, _),) = there._at_hand._pile
    rests = handler.rests
    assert isinstance(rests, Course)
    assert handler.ear is rests
    assert not any(hasattr(rests, of_one_stream) for of_one_stream in ("_ride", "_reply", "_client", "_stream"))
    assert (rests._recast, rests._done) == (None, False)
    with pytest.raises(AssertionError):
        rests._write(b"before the commit")


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
@pytest.mark.parametrize("kind", ["plain", "at once", "slowly"])
async def test_a_reply_that_rests_is_as_a_new_one(
    theirs: Tongue, kind: str, upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, theirs, models=PRICED))
    at_once = [b"".join([STREAM_HEAD, *map(piece, frames(theirs)), LAST])]
    script = {"plain": whole(theirs.answer("Hello.")), "at once": at_once, "slowly": slowly(theirs)}[kind]
    upstream.answers(lambda seen: script)
    client = await gw.connect()
    spares = set()
    for _ in range(5):
        await client.request(CHAT, CHAT.request("first", stream=kind != "plain"))
        await (answer(client) if kind == "plain" else taken(client))
        await gw.quiet()
        there = the_gateway(gw).current.upstreams["first"]
        assert isinstance(there, LeanUpstream)
        ((connection, handler, _),) = there._at_hand._pile
        if (spare := handler.spare) is not None:
            spares.add(spare)
            assert handler.reply is None
            new = LeanReply(connection, handler, there._turn, there._at_hand)
            handler.reply = None
            names = {it for it in LeanReply.__slots__ if hasattr(new, it)} - {"_ours", "_slot"}  # see `serves`
            assert {it: getattr(spare, it) for it in names} == {it: getattr(new, it) for it in names}
            assert (spare._ours, spare._slot) == (False, None)
    assert len(spares) == 1
    assert handler.transport is not None
    handler.transport.abort()
    await settles(lambda: handler.spare is None)


@pytest.mark.parametrize("by", ["board", "join"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_client_that_leaves_behind_its_answer_does_nothing_to_who_has_its_reply_now(
    stream: bool, by: str, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    held = asyncio.Event()
    at_once = b"".join([STREAM_HEAD, *map(piece, GOOD), LAST])
    said = [at_once] if stream else whole(CHAT.answer("Hello."))
    upstream.answers(lambda seen: said if len(upstream.seen) < 5 else [held, *said])
    one, other = await gw.connect(), await gw.connect()
    rode = rides(monkeypatch, by)

    async def ask(client: RawClient) -> None:
        if by == "join":
            await sent_behind(gw, client, CHAT, CHAT.request("first", stream=stream), 0)
        else:
            await client.request(CHAT, CHAT.request("first", stream=stream))

    for _ in range(4):  # each of which has its answer when the next one is asked
        await ask(one)
        await (taken(one) if stream else answer(one))
        await gw.quiet()
    await ask(other)
    await upstream.asked(5)
    over, runs = rode[-2:]
    assert over is not None
    assert runs is not None
    assert runs.reply is over.reply
    with pytest.raises(asyncio.CancelledError):
        over.interrupted(asyncio.CancelledError())
    one.leave()
    await settles(lambda: len(listener_of(gw).connections) == 1)
    assert runs.reply._ours
    held.set()
    await (taken(other) if stream else answer(other))
    await gw.quiet()
    assert {seen.connection for seen in upstream.seen} == {1}
    assert [row["outcome"] for row in await gw.rows(5)] == ["ok"] * 5
    await held_is_nothing(gw)


@pytest.mark.parametrize("crowded", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("by", ["board", "join"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_answer_that_leaves_while_the_gateway_is_cut_off_is_the_only_one(
    stream: bool, by: str, crowded: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    at_once = b"".join([STREAM_HEAD, *map(piece, GOOD), LAST])
    said: Script = [at_once] if stream else whole(CHAT.answer("Hello."))
    upstream.answers(lambda seen: said if len(upstream.seen) < 5 else [SILENCE])
    client, rode = await gw.connect(), rides(monkeypatch, by)
    for number in range(5):
        document = CHAT.request("first", stream=stream)
        if by == "join":
            await sent_behind(gw, client, CHAT, document, 0)
        else:
            await client.request(CHAT, document)
        if number < 4:
            await (taken(client) if stream else answer(client))
            await gw.quiet()
    await upstream.asked(5)
    ride = rode[-1]
    assert ride is not None
    if crowded:
        crowd(monkeypatch)
    the_gateway(gw).cut()  # its task is cancelled, and has not run yet when the answer comes
    assert isinstance(said[0], bytes)
    ride.reply._handler.passes_on(said[0])
    assert (await client.rest()).count(b"HTTP/1.1 ") == 1
    await gw.quiet()
    last = "gateway_overloaded" if crowded else "ok"  # its turn would have come after the task's
    assert [row["outcome"] for row in await gw.rows(5)] == [*["ok"] * 4, last]


async def held_is_nothing(gw: Running) -> None:
    assert gw.app is not None
    gateway = gw.app.gateway
    (track,) = gateway.current.tracks.values()
    assert (gateway.turnstile.inside, gateway.turnstile.held, gateway.current.users) == (0, 0, 0)
    assert track.in_flight.value == 0
    assert not any(gateway.current.world.latencies._waiting.values())
    assert all(handler.ear in (None, handler.rests) for _, handler, _ in track.upstream._at_hand._pile)
    await settles(lambda: track.upstream._slots.take_at_once())
    assert not any(gateway.relay.agenda._pages.values())


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
async def test_a_slow_client_is_waited_for(
    theirs: Tongue, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, theirs, models=PRICED))
    text = piece(theirs.text("z" * 8_000))
    begun = [it for it in (theirs.start, theirs.opening) if it]
    upstream.plays(streamed(frames(theirs)), [STREAM_HEAD, *map(piece, begun), *[text] * 4000, SILENCE])
    seen = courses(monkeypatch)
    client = await gw.connect()
    await asks(client)
    await taken(client)
    await asks(client)
    await client.until(b"\r\n\r\n")
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await settles(lambda: bool(upstream.blocked))
    assert seen == [False]
    assert upstream.sent < 4000 * 8_000
    client.leave()
    await within((await upstream.asked(2)).gone)
    await gw.quiet()
    row = (await gw.rows(2))[-1]
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", "stream")
    await held_is_nothing(gw)


async def under_way(gw: Running, upstream: ScriptedUpstream) -> RawClient:
    """A client whose second stream has begun."""
    client = await gw.connect()
    upstream.plays(streamed(GOOD), streamed([*GOOD[:2], SILENCE]))
    await asks(client)
    await taken(client)
    await asks(client)
    await client.until(b"Hello")
    assert gw.app is not None
    (ride,) = gw.app.gateway.calls
    assert isinstance(ride, Ride)
    assert ride.course is not None
    assert ride.course._familiar is not None  # each of its frames was known
    return client


async def test_a_shutdown_is_told_in_the_stream(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    client = await under_way(gw, upstream)
    assert gw.app is not None
    gw.app.gateway.cut()
    said = await taken(client)
    assert b"shutting down" in said
    assert b"[DONE]" not in said
    await gw.quiet()
    row = (await gw.rows(2))[-1]
    assert (row["status"], row["outcome"]) == (200, "gateway_overloaded")
    await held_is_nothing(gw)


async def test_a_provider_that_goes_away_is_told_in_the_stream(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    client = await under_way(gw, upstream)
    for transport in upstream.transports:
        transport.abort()
    assert b"error" in await taken(client)
    await gw.quiet()
    row = (await gw.rows(2))[-1]
    assert (row["status"], row["outcome"]) == (200, "bad_upstream_response")
    assert row["attempts"][0]["ttfb_ms"] is not None
    await held_is_nothing(gw)


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
async def test_a_stream_beyond_its_reservation_goes_on(
    theirs: Tongue, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = '[projects.team]\nbudget = { limit = 1, period = "monthly" }\n'
    gw = await start(provider("first", upstream, theirs, models=PRICED) + project)
    key = await make(gw, project="team")
    long = frames(theirs, *(f" word {number}" for number in range(400)))  # of 16 tokens that are reserved
    upstream.plays(streamed(frames(theirs)), streamed([step for it in long for step in (it, 0.0)]))
    seen, reserved, outgrows = courses(monkeypatch), list[int](), Course._outgrows
    assert gw.app is not None
    accounts = gw.app.gateway.current.gate.books.accounts

    def noted(self: Course, size: int) -> bool:
        beyond = outgrows(self, size)
        reserved.append(accounts["project:team"].reserved - size // STREAM_BYTES_PER_TOKEN * 10_000)
        return beyond

    monkeypatch.setattr(Course, "_outgrows", noted)
    client = await gw.connect()
    for _ in range(2):
        await asks(client, f"Authorization: {key.bearer['Authorization']}")
        said = await taken(client)
    assert b" word 399" in said
    await gw.quiet()
    assert seen == [True]
    assert reserved
    assert min(reserved) > 0
    assert accounts["project:team"].reserved == 0
    await held_is_nothing(gw)


ENDS: dict[str, tuple[Callable[[Running, RawClient], None], str]] = {
    "the client leaves": (lambda gw, client: client.leave(), "client_closed"),
    "the gateway shuts down": (lambda gw, client: the_gateway(gw).cut(), "gateway_overloaded"),
}


@pytest.mark.parametrize("spoken", [MESSAGES, CHAT], ids=["passing", "translated"])
@pytest.mark.parametrize(("happens", "outcome"), ENDS.values(), ids=ENDS)
async def test_what_was_told_before_the_commit_is_recorded_where_the_wait_for_more_ends(
    happens: Callable[[Running, RawClient], None], outcome: str, spoken: Tongue, upstream: ScriptedUpstream,
    start: Start,
) -> None:  # fmt: skip
    gw = await start(provider("first", upstream, MESSAGES, models=PRICED))
    upstream.plays(streamed(frames(MESSAGES)), streamed([MESSAGES.start, SILENCE]))
    client = await gw.connect()
    for _ in range(2):
        await client.request(spoken, spoken.request("first", stream=True))
        if not the_gateway(gw).current.tracks:
            await taken(client)
    await upstream.asked(2)
    (ride,) = the_gateway(gw).calls
    assert isinstance(ride, Ride)
    course = ride.course
    assert course is not None
    await settles(lambda: bool(course._size))
    happens(gw, client)
    await gw.quiet()
    row = (await gw.rows(2))[-1]
    assert row["outcome"] == outcome
    (attempt,) = row["attempts"]
    assert (attempt["status"], attempt["usage"]["input"], attempt["cost_nanos"]) == (200, 7, 17_500)
    assert row["charged_nanos"] == 17_500
    client.leave()
    await held_is_nothing(gw)


def the_gateway(gw: Running) -> Gateway:
    assert gw.app is not None
    return gw.app.gateway


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
async def test_what_a_stream_takes_beyond_its_reservation_is_reserved_while_it_runs(
    theirs: Tongue, upstream: ScriptedUpstream, start: Start
) -> None:
    project = '[projects.team]\nbudget = { limit = 1, period = "monthly" }\n'
    gw = await start(provider("first", upstream, theirs, models=PRICED) + project)
    key = await make(gw, project="team")
    read = [asyncio.Event() for _ in range(80)]
    begun = [it for it in (theirs.start, theirs.opening) if it]
    steps: list[Any] = [step for n, it in enumerate(read) for step in (piece(theirs.text(f" word {n}.")), it)]
    upstream.plays(streamed(frames(theirs)), [STREAM_HEAD, *map(piece, begun), *steps, SILENCE])
    client = await gw.connect()
    bearer = f"Authorization: {key.bearer['Authorization']}"
    await asks(client, bearer)
    await taken(client)
    await asks(client, bearer)
    await client.until(b" word 0.")
    assert gw.app is not None
    account = gw.app.gateway.current.gate.books.accounts["project:team"]
    at_first = account.reserved
    for number, it in enumerate(read[:-1]):
        it.set()
        await client.until(b" word %d." % (number + 1))
    assert account.reserved > at_first > 0
    client.leave()
    await gw.quiet()
    assert account.reserved == 0


async def test_what_is_held_before_the_commit_does_not_end_a_stream(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICED))
    first = CHAT.text("x" * 40_000)
    parts = [piece(first[at : at + 8_000]) for at in range(0, len(first), 8_000)]
    upstream.plays(streamed(GOOD), [SILENCE])
    seen = courses(monkeypatch)
    client = await gw.connect()
    await asks(client)
    await taken(client)
    await asks(client)
    await upstream.asked(2)
    (ride,) = the_gateway(gw).calls
    assert isinstance(ride, Ride)
    for data in (STREAM_HEAD + piece(GOOD[0]), *parts[:3]):
        assert ride.course is not None
        ride.course.received(data)
    for data in (*parts[3:], *map(piece, GOOD[2:]), LAST):
        ride.reply.received(data)
    assert (await taken(client)).count(b"x" * 1_000) >= 39
    await gw.quiet()
    assert seen == [False]
    await held_is_nothing(gw)


def slow_reads(theirs: Tongue) -> list[bytes]:
    """As a slow stream comes: its head with what stands before the text, each text, and what stands behind them."""
    said = list(map(piece, frames(theirs, "Hello", " there,", ' "you"')))
    begun = len([it for it in (theirs.start, theirs.opening) if it])
    return [b"".join([STREAM_HEAD, *said[:begun]]), *said[begun : begun + 3], b"".join([*said[begun + 3 :], LAST])]


@pytest.mark.parametrize("each", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("theirs", [CHAT, MESSAGES], ids=["passing", "translated"])
async def test_a_slow_stream_is_the_same_wherever_it_is_cut(
    theirs: Tongue, each: int, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, theirs, models=PRICED))
    reads = slow_reads(theirs)
    wire = b"".join(reads)
    borders = {len(b"".join(reads[:number])) for number in range(len(reads))}
    upstream.plays(*[streamed(frames(theirs))] * 3, [SILENCE])
    seen, parsers = courses(monkeypatch), list[Course]()
    take_parser = Course._take_parser

    def noted(self: Course, head: Head) -> None:
        parsers.append(self)
        take_parser(self, head)

    monkeypatch.setattr(Course, "_take_parser", noted)
    client = await gw.connect()
    for _ in range(3):
        await asks(client)
        await taken(client)
    told: set[bytes] = set()
    for cut in (0, *sorted({*range(1, len(wire), each), len(wire) - 1})):
        before = len(parsers)
        ends = sorted(borders | {cut, len(wire)})
        await settles(lambda: not the_gateway(gw).calls)
        await asks(client)
        await settles(lambda: bool(the_gateway(gw).calls))
        (ride,) = the_gateway(gw).calls
        assert isinstance(ride, Ride)
        handler = ride.reply._handler
        for begin, end in pairwise(ends):
            handler.data_received(wire[begin:end])
        said = await taken(client)
        told.add(body_of(said))
        if cut in borders:  # each read is known
            assert len(parsers) == before
    assert len(told) == 1
    assert len(parsers) > len(wire) // each // 2
    assert set(seen[2:]) == {True}
    await gw.quiet()
    rows = (await gw.rows(20))[-20:]
    assert len({(row["outcome"], row["cost_nanos"], row["bytes_committed"]) for row in rows}) == 1
    client.leave()
    for transport in upstream.transports:
        transport.abort()
    await gw.quiet()


def body_of(said: bytes) -> bytes:
    """The body, however its chunks are cut, less what it has of its own request."""
    chunks = said[said.index(b"\r\n\r\n") + 4 :]
    body, at = b"", 0
    while size := int(chunks[at : (end := chunks.index(b"\r\n", at))], 16):
        body, at = body + chunks[end + 2 : end + 2 + size], end + 4 + size
    return OWN.sub(b"", body)


async def _asks_again(client: RawClient) -> None:
    await asks(client)
    await taken(client)


async def _is_refused(client: RawClient) -> None:
    await client.request(CHAT, CHAT.request("nobody", stream=True))
    assert (await client.answer())[0] == 404


async def _sends_what_aiohttp_reads(client: RawClient) -> None:
    await client.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer())[0] == 200
    await _asks_again(client)


async def _sends_a_head_in_two(client: RawClient) -> None:
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\n")
    await client.send(b"Host: localhost\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")
    assert (await client.answer())[0] == 400


async def _sends_what_nobody_reads(client: RawClient) -> None:
    await client.send(b"\x00\r\n\r\n")
    assert b" 400 " in await client.rest()


async def _leaves(client: RawClient) -> None:
    client.leave()


async def _stays_too_long(client: RawClient) -> None:
    assert await client.rest() == b""


NEXT = {
    "another stream comes": _asks_again,
    "a request that is refused": _is_refused,
    "one that aiohttp reads": _sends_what_aiohttp_reads,
    "one whose head comes in two": _sends_a_head_in_two,
    "nonsense": _sends_what_nobody_reads,
    "the client leaves": _leaves,
    "nothing for too long": _stays_too_long,
    "nothing": None,
}


@pytest.mark.parametrize("comes", NEXT.values(), ids=NEXT)
async def test_behind_a_stream_a_connection_is_idle_like_any_other(
    comes: Callable[[RawClient], Awaitable[None]] | None, upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gw = await start(
        provider("first", upstream, models=PRICED), 'keep_alive = "2s"' if comes is _stays_too_long else ""
    )
    upstream.plays(streamed(GOOD), next(script for script, whole in COURSES.values() if whole))
    seen = courses(monkeypatch)
    client = await gw.connect()
    with capture_logs() as logs:
        for _ in range(3):
            await asks(client)
            await taken(client)
        await gw.quiet()
        assert seen == [True, True]
        assert gw.app is not None
        app = gw.app
        server = app._listeners[0]
        assert server is not None
        (connection,) = server.connections
        assert isinstance(connection, Connection)
        assert connection.idle
        if comes is not None:
            await comes(client)
        async with asyncio.timeout(10):
            await app.stop(drain=8)
        assert comes is _leaves or await client.rest() == b""
    assert not [it for it in logs if it["log_level"] == "error"]
