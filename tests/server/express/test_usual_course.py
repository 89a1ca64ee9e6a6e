"""A stream that begins and ends as others of its kind did is known by that, and whatever goes otherwise at any point of
it shows what it always did."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gateway import RawClient, Running, Start, listener_of, provider, settles
from playbook import CHAT, chunk
from riding import KNOWN_BY, answer, asking, frames, played, same_either_way, told
from shares import product_of
from structlog.testing import capture_logs
from upstream import CUT, LAST, RESET, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, head, piece, streamed

from proxy.dialects import Dialect
from proxy.server.express.course import Course
from proxy.server.express.ride import Ride
from proxy.server.gateway import Gateway
from proxy.streams import Usual

LOOPS = ("uvloop",)
PRICES = {"first": "price = { input = 2.5, output = 10 }"}
ROLE, HELLO, THERE, STOP, TOLD, END = map(piece, frames(CHAT))
USED = piece(chunk(None, usage={"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}))
PAUSE = 0.01
DIFFERS = head(200, "text/event-stream", Transfer_Encoding="chunked", X_Own="{}")


def slow(*, begins: bytes = STREAM_HEAD + ROLE, ends: bytes = STOP + USED + END + LAST) -> list[Any]:
    return [begins, PAUSE, HELLO, PAUSE, THERE, PAUSE, ends]


def own(id: bytes) -> list[Any]:
    """A stream of that id."""
    role, hello, there, *end = [piece(it.replace(b"chatcmpl-1", id)) for it in frames(CHAT)]
    return [STREAM_HEAD + role, PAUSE, hello, PAUSE, there, PAUSE, b"".join(end) + LAST]


def other(usage: dict[str, Any]) -> Script:
    return slow(ends=STOP + piece(chunk(None, usage=usage)) + END + LAST)


# What the provider does behind streams that came as `slow` has them.
TURNS: dict[str, Script] = {
    "the same": slow(),
    "another id": own(b"chatcmpl-2"),
    "a longer id": own(b"chatcmpl-12"),
    "an id that changes": [*slow()[:-1], STOP.replace(b"chatcmpl-1", b"chatcmpl-2") + USED + END + LAST],
    "an end behind a text": [STREAM_HEAD + ROLE, PAUSE, HELLO, PAUSE, THERE + STOP + USED + END + LAST],
    "an end behind two texts": [STREAM_HEAD + ROLE, PAUSE, HELLO, PAUSE, HELLO + THERE + STOP + USED + END + LAST],
    "an end behind the first text": [STREAM_HEAD + ROLE, PAUSE, HELLO + STOP + USED + END + LAST],
    "an end behind no text": [STREAM_HEAD + ROLE, PAUSE, STOP + USED + END + LAST],
    "two texts at first": [STREAM_HEAD + ROLE, PAUSE, HELLO + THERE, PAUSE, STOP + USED + END + LAST],
    "an empty text at first": [STREAM_HEAD + ROLE, PAUSE, HELLO.replace(b"Hello", b""), *slow()[1:]],
    "a text with escapes at first": [STREAM_HEAD + ROLE, PAUSE, piece(CHAT.text('"\\\n')), *slow()[3:]],
    "a text that is no JSON at first": [STREAM_HEAD + ROLE, PAUSE, HELLO.replace(b"Hello", b"Hell\\"), *slow()[3:]],
    "a control character at first": [STREAM_HEAD + ROLE, PAUSE, HELLO.replace(b"Hello", b"Hell\1"), *slow()[3:]],
    "another language at first": [STREAM_HEAD + ROLE, PAUSE, piece(CHAT.text("日本")), *slow()[3:]],
    "no UTF-8 at first": [STREAM_HEAD + ROLE, PAUSE, HELLO.replace(b"Hello", b"Hell\xff"), *slow()[3:]],
    "a comment at first": [STREAM_HEAD + ROLE, PAUSE, piece(b": hm\n\n"), *slow()[1:]],
    "another role": slow(begins=STREAM_HEAD + ROLE.replace(b"assistant", b"assistent")),
    "a head that differs": slow(begins=DIFFERS + ROLE),
    "a role behind its head": [STREAM_HEAD, PAUSE, ROLE, *slow()[1:]],
    "other counts": other({"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 7}),
    "longer counts": other({"prompt_tokens": 1234, "completion_tokens": 567, "total_tokens": 1801}),
    "counts of nothing": other({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    "a usage with more in it": other(
        {"prompt_tokens": 9, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4}}
    ),
    "a usage that is no JSON": slow(ends=(STOP + USED + END + LAST).replace(b":6}", b":}}")),
    "another reason": slow(ends=(STOP + USED + END + LAST).replace(b'"stop"', b'"kill"')),
    "an end in three reads": [*slow()[:-1], STOP, PAUSE, USED, PAUSE, END + LAST],
    "a usage told before": [*slow()[:-1], USED, PAUSE, STOP + USED + END + LAST],
    "an end without its last chunk": [*slow()[:-1], STOP + USED + END, PAUSE, LAST],
    "more behind the end": [*slow()[:-1], STOP + USED + END + LAST + b"HTTP"],
    "a cut behind the role": [STREAM_HEAD + ROLE, PAUSE, CUT],
    "a cut behind the first text": [STREAM_HEAD + ROLE, PAUSE, HELLO, PAUSE, CUT],
    "a cut within the first text": [STREAM_HEAD + ROLE, PAUSE, HELLO[:-9], PAUSE, CUT],
    "a cut within the end": [*slow()[:-1], STOP + USED[:-9], PAUSE, CUT],
    "a reset behind the role": [STREAM_HEAD + ROLE, PAUSE, RESET],
    "an error at first": [STREAM_HEAD + ROLE, PAUSE, piece(CHAT.error_frame("overloaded_error", "No.")) + LAST],
    "an error behind a text": [
        STREAM_HEAD + ROLE, PAUSE, HELLO, PAUSE, piece(CHAT.error_frame("overloaded_error", "No.")) + LAST,
    ],
    "no chunk at first": [STREAM_HEAD + ROLE, PAUSE, b"zz\r\n", SILENCE],
    "silence behind the role": [STREAM_HEAD + ROLE, SILENCE],
    "silence behind the first text": [STREAM_HEAD + ROLE, PAUSE, HELLO, SILENCE],
}  # fmt: skip
TIMEOUTS = 'first_content = "400ms"\nidle = "500ms"'
BEFORE: dict[str, Callable[[int], Script]] = {
    "equal heads": lambda number: slow(),
    "heads that differ": lambda number: slow(begins=DIFFERS.replace(b"{}", b"own-%d" % number) + ROLE),
}
ASKED: dict[str, dict[str, Any]] = {"usage too": {"stream_options": {"include_usage": True}}, "no usage": {}}


@pytest.mark.parametrize(("turn", "before", "more"), [*product_of(TURNS, BEFORE, ASKED, fast=1, of=8)])
async def test_what_goes_otherwise_shows_what_the_way_of_all_would(
    turn: Script, before: Callable[[int], Script], more: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = [*map(before, range(KNOWN_BY + 1)), turn]
    second = streamed(frames(CHAT, "From the second."))
    exchange = asking(CHAT, CHAT.request("chain", stream=True, **more))
    timeouts = TIMEOUTS if SILENCE in turn else ""
    await same_either_way(monkeypatch, home, lambda home: played(home, timeouts, CHAT, scripts, second, exchange))


def at_once(script: Script) -> Script:
    """In one read, up to where something else happens than that bytes come."""
    steps = [step for step in script if step != PAUSE]
    ends = next((at for at, step in enumerate(steps) if not isinstance(step, bytes)), len(steps))
    return [b"".join(steps[:ends]), *steps[ends:]]  # type: ignore[arg-type]


AT_ONCE = {name: at_once(turn) for name, turn in TURNS.items()}
BEFORE_AT_ONCE: dict[str, Callable[[int], Script]] = {
    "all at once": lambda number: at_once(slow()),
    "all at once, heads that differ": lambda number: at_once(
        slow(begins=DIFFERS.replace(b"{}", b"own-%d" % number) + ROLE)
    ),
    "one by one": lambda number: slow(),
}


@pytest.mark.parametrize(("turn", "before", "more"), [*product_of(AT_ONCE, BEFORE_AT_ONCE, ASKED, fast=1, of=8)])
async def test_what_comes_at_once_shows_what_the_way_of_all_would(
    turn: Script, before: Callable[[int], Script], more: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await test_what_goes_otherwise_shows_what_the_way_of_all_would(turn, before, more, home, monkeypatch)


SPEAKS = STREAM_HEAD + HELLO  # from its first frame on
SPOKEN: dict[str, Script] = {
    "an end": [SPEAKS, PAUSE, STOP + USED + END + LAST],
    "another text and an end": [SPEAKS, PAUSE, THERE + STOP + USED + END + LAST],
    "another text": [SPEAKS, PAUSE, THERE, PAUSE, STOP + USED + END + LAST],
    "a cut": [SPEAKS, PAUSE, CUT],
}


@pytest.mark.parametrize("turn", SPOKEN.values(), ids=SPOKEN)
async def test_a_text_that_others_began_with_leaves_at_once(
    turn: Script, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = at_once([SPEAKS, THERE, STOP + USED + END + LAST])
    await test_what_goes_otherwise_shows_what_the_way_of_all_would(turn, lambda number: before, {}, home, monkeypatch)


def looks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Reads of which each frame was looked at."""
    seen: list[bytes] = []
    is_known = Course._is_known

    def noted(self: Course, data: bytes) -> bool:
        seen.append(data)
        return is_known(self, data)

    monkeypatch.setattr(Course, "_is_known", noted)
    return seen


async def acquainted(gw: Running, before: Callable[[int], Script], upstream: ScriptedUpstream) -> RawClient:
    """A client behind whose streams the next one may be known."""
    client = await gw.connect()
    upstream.plays(*map(before, range(KNOWN_BY + 1)))
    for _ in range(KNOWN_BY + 1):
        await client.request(CHAT, CHAT.request("first", stream=True))
        await answer(client)
    return client


async def reads(gw: Running, client: RawClient, upstream: ScriptedUpstream, *data: bytes) -> Course:
    """The next stream, whose provider sends these, each in a read of its own."""
    upstream.plays([SILENCE])
    await client.request(CHAT, CHAT.request("first", stream=True))
    gateway = the_gateway(gw)
    await settles(lambda: bool(gateway.calls))
    (ride,) = gateway.calls
    assert isinstance(ride, Ride)
    assert ride.course is not None
    course, handler = ride.course, ride.reply._handler
    for it in data:
        handler.data_received(it)
    return course


def the_gateway(gw: Running) -> Gateway:
    assert gw.app is not None
    return gw.app.gateway


ENDS = {"by itself": [THERE, STOP + USED + END + LAST], "behind a text": [THERE + STOP + USED + END + LAST]}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
async def test_no_frame_is_looked_at_of_a_stream_like_those_before(
    before: Callable[[int], Script],
    ends: list[bytes],
    start: Start,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, before, upstream)
    looked = looks(monkeypatch)
    await reads(gw, client, upstream, bytes(before(9)[0]), HELLO, *ends)  # type: ignore[arg-type]
    status, _, body = await answer(client)
    assert (status, body.count(b"data: ")) == (b"HTTP/1.1 200 OK", 5)  # the client did not ask for the usage
    assert looked == []
    await gw.quiet()
    *_, last, row = await gw.rows(KNOWN_BY + 2)
    assert told(row) == told(last)


LEARNT: dict[str, tuple[Callable[[int], Script], Script]] = {
    "from others": (BEFORE_AT_ONCE["all at once"], at_once(slow())),
    "from slow ones": (BEFORE_AT_ONCE["one by one"], at_once(slow())),
    "from one of another length": (
        BEFORE_AT_ONCE["all at once"], at_once([STREAM_HEAD + ROLE, *[THERE] * 5, STOP + USED + END + LAST])
    ),
    "where heads differ": (
        BEFORE_AT_ONCE["all at once, heads that differ"],
        at_once(slow(begins=DIFFERS.replace(b"{}", b"own") + ROLE)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "then"), LEARNT.values(), ids=LEARNT)
@pytest.mark.parametrize("more", ASKED.values(), ids=ASKED)
async def test_no_frame_is_looked_at_of_a_stream_that_came_at_once_like_those_before(
    before: Callable[[int], Script],
    then: Script,
    more: dict[str, Any],
    start: Start,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await gw.connect()
    looked = list[bytes]()
    leaves = Course._leaves

    def noted(self: Course, data: bytes) -> bool:
        looked.append(data)
        return leaves(self, data)

    upstream.plays(*map(before, range(KNOWN_BY + 1)), then)
    for number in range(KNOWN_BY + 2):
        if number > KNOWN_BY:
            monkeypatch.setattr(Course, "_leaves", noted)
        await client.request(CHAT, CHAT.request("first", stream=True, **more))
        status, _, body = await answer(client)
    (sent,) = then
    assert isinstance(sent, bytes)
    assert (status, body.count(b"data: ")) == (b"HTTP/1.1 200 OK", sent.count(b"data: ") - (not more))
    assert looked == []
    await gw.quiet()
    *_, last, row = await gw.rows(KNOWN_BY + 2)
    assert (row["outcome"], row["cost_nanos"]) == ("ok", last["cost_nanos"])
    assert row["bytes_committed"] == len(body)


async def test_what_was_learnt_from_a_stream_that_came_at_once_holds_for_a_slow_one(
    start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE_AT_ONCE["all at once"], upstream)
    looked = looks(monkeypatch)
    await reads(gw, client, upstream, STREAM_HEAD + ROLE, HELLO, THERE, STOP + USED + END + LAST)
    await answer(client)
    assert looked == []


async def test_streams_that_come_at_once_and_never_again_are_learnt_from_seldom(
    start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client, learnt = await gw.connect(), list[bytes]()
    learn_ending = Usual.learn_ending

    def noted(self: Usual, dialect: Dialect, data: bytes, *of: Any, strips: bool) -> None:
        learnt.append(data)
        learn_ending(self, dialect, data, *of, strips=strips)

    monkeypatch.setattr(Usual, "learn_ending", noted)
    cached = {"prompt_tokens": 9, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4}}
    upstream.plays(at_once(other(cached)))
    for _ in range(200):
        await client.request(CHAT, CHAT.request("first", stream=True))
        await answer(client)
    assert 64 <= len(learnt) < 64 + 200 // 16 + 1


FAULTS = {  # what fails -> what becomes of the request: before anything has left, the way of all finds the same
    "_may_leave_whole": "ok", "_leave_whole": "ok", "_ended": "internal_error",
}  # fmt: skip


@pytest.mark.parametrize(("at", "outcome"), FAULTS.items(), ids=FAULTS)
async def test_a_fault_of_ours_ends_a_stream_that_came_at_once_as_any(
    at: str, outcome: str, start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE_AT_ONCE["all at once"], upstream)

    def fails(self: Course, *args: Any, **more: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Course, at, fails)
    upstream.plays(at_once(slow()))
    await client.request(CHAT, CHAT.request("first", stream=True))
    status, _, body = await answer(client)
    assert (status, body.count(b"data: ")) == (b"HTTP/1.1 200 OK", 5)
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 2))[-1]
    assert row["outcome"] == outcome
    assert not the_gateway(gw).calls


LESSONS = {
    "how one begins that came at once": (at_once(slow()), "learn_opening"),
    "how one ends that came at once": (at_once(slow()), "learn_ending"),
    "how a slow one begins": (slow(), "learn_opening"),
    "how a slow one ends": (slow(), "learn_ending"),
}


@pytest.mark.parametrize(("stream", "lesson"), LESSONS.values(), ids=LESSONS)
async def test_a_fault_of_ours_in_what_is_learnt_is_told_and_ends_no_stream(
    stream: Script, lesson: str, start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE_AT_ONCE["all at once"], upstream)
    for track in the_gateway(gw).current.tracks.values():
        track.usual.opening = None
        track.usual.endings.clear()

    def fails(self: Usual, *args: Any, **more: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Usual, lesson, fails)
    upstream.plays(stream)
    with capture_logs() as logs:
        await client.request(CHAT, CHAT.request("first", stream=True))
        status, _, body = await answer(client)
        await gw.quiet()
    assert (status, body.count(b"data: ")) == (b"HTTP/1.1 200 OK", 5)
    assert [it["event"] for it in logs if it["log_level"] == "error"] == ["internal_error"]
    assert (await gw.rows(KNOWN_BY + 2))[-1]["outcome"] == "ok"


async def test_texts_that_are_worded_otherwise_from_some_day_on_are_usual_from_then_on(
    start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE["equal heads"], upstream)
    worded = b'"logprobs":null,"finish_reason"'
    hello, there = (piece(CHAT.text(it).replace(b'"finish_reason"', worded)) for it in ("Hello", " there."))
    for _ in range(3):
        upstream.plays([STREAM_HEAD + ROLE, PAUSE, hello, PAUSE, there, PAUSE, STOP + USED + END + LAST])
        await client.request(CHAT, CHAT.request("first", stream=True))
        await answer(client)
    looked = looks(monkeypatch)
    await reads(gw, client, upstream, STREAM_HEAD + ROLE, hello, there, STOP + USED + END + LAST)
    await answer(client)
    assert looked == []


STATES: dict[str, list[bytes]] = {
    "behind the role": [STREAM_HEAD + ROLE],
    "behind the first text": [STREAM_HEAD + ROLE, HELLO],
    "behind the second": [STREAM_HEAD + ROLE, HELLO, THERE],
}


@pytest.mark.parametrize("data", STATES.values(), ids=STATES)
async def test_a_client_that_leaves_such_a_stream_is_recorded(
    data: list[bytes], start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE["equal heads"], upstream)
    await reads(gw, client, upstream, *data)
    client.leave()
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 2))[-1]
    phase = "stream" if len(data) > 1 else "first_byte"
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", phase)
    assert not the_gateway(gw).calls


async def test_a_long_text_before_the_end_is_not_recorded_before_its_client_takes_it(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE["equal heads"], upstream)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for it in listener_of(gw).connections:
        assert it.transport is not None
        it.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    long = "x" * (200 << 10)
    await reads(gw, client, upstream, STREAM_HEAD + ROLE, HELLO, piece(CHAT.text(long)) + STOP + USED + END + LAST)
    for _ in range(20):
        assert (await gw.get(gw.base + "/healthz")).status == 200
    assert the_gateway(gw).calls
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    _, _, body = await answer(client)
    assert long.encode() in body
    await gw.quiet()
    assert (await gw.row())["outcome"] == "ok"


@pytest.mark.parametrize("data", STATES.values(), ids=STATES)
async def test_a_shutdown_in_such_a_stream_is_told(data: list[bytes], start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE["equal heads"], upstream)
    await reads(gw, client, upstream, *data)
    the_gateway(gw).cut()
    _, _, body = await answer(client)
    assert b"shutting down" in body
    assert b"[DONE]" not in body
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 2))[-1]
    assert (row["status"], row["outcome"]) == (503 if len(data) == 1 else 200, "gateway_overloaded")


@pytest.mark.parametrize("at", ["_begin_with", "_ended"])
async def test_a_fault_of_ours_ends_such_a_stream_as_any(
    at: str, start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE["equal heads"], upstream)

    def fails(self: Course, *args: Any, **more: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Course, at, fails)
    course = await reads(gw, client, upstream, STREAM_HEAD + ROLE, HELLO)
    if at == "_ended":
        course.received(STOP + USED + END + LAST)
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 2))[-1]
    assert row["outcome"] == "internal_error"
    assert not the_gateway(gw).calls


async def test_nothing_of_a_stream_that_ends_before_its_first_text_is_left_to_the_collector(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream, models=PRICES))
    client = await acquainted(gw, BEFORE["equal heads"], upstream)
    gc.collect()
    gc.disable()
    try:
        await reads(gw, client, upstream, STREAM_HEAD + ROLE)
        client.leave()
        await gw.quiet()
        await settles(lambda: not any(isinstance(it, Course) and not it.committed for it in gc.get_objects()))
    finally:
        gc.enable()
