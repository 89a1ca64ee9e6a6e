"""The short way into a stream: from its head on the way of all goes on, and client, provider and record see no
difference."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from crowd import crowd
from gateway import RawClient, Running, Start, provider
from playbook import CHAT, Tongue
from riding import HOPS, KNOWN_BY, Answer, answer, asking, frames, played, rides, same_either_way
from shares import product_of
from upstream import CUT, LAST, RESET, SILENCE, Script, ScriptedUpstream, head, piece, plain, streamed

from proxy.server.ledger import Brief, Decision

LOOPS = ("uvloop",)
KEY = "canary-house-key-0001"

ODD = ("a", "bc", "d", "é", 'x"y', "\\", "\n", "ef", "", "日本", "\x7f", "g" * 60, "h", "%b", "{}")


def good(tongue: Tongue) -> Script:
    return streamed(frames(tongue))


def but(change: Callable[[Tongue, list[bytes]], Sequence[Any]]) -> Callable[[Tongue], Script]:
    return lambda tongue: streamed(change(tongue, frames(tongue)))


def joined(script: Script) -> Script:
    *begun, last = map(bytes, script)  # type: ignore[arg-type]
    return [b"".join(begun), 0.01, last]


def broken(said: list[bytes]) -> list[bytes]:
    """Of a stream, what comes before a chunk that is none."""
    return [*map(bytes, streamed(said, last=False)), b"zz\r\n"]  # type: ignore[arg-type]


def pieces(script: Script, size: int) -> Script:
    whole = b"".join(map(bytes, script))  # type: ignore[arg-type]
    return [step for at in range(0, len(whole), size) for step in (whole[at : at + size], 0.001)]


def small(frame: bytes) -> list[Any]:
    """In chunks that come one by one."""
    return [step for at in range(0, len(frame), 8_000) for step in (0.01, frame[at : at + 8_000])]


def of_status(status: int, kind: str) -> Callable[[Tongue], Script]:
    return lambda tongue: plain(tongue.error(kind, "No."), status=status)


# What the provider does with a third request, when two of its kind went well.
TURNS: dict[str, Callable[[Tongue], Script]] = {
    "a good stream": good,
    "a good stream that came at once": lambda tongue: streamed([b"".join(frames(tongue))]),
    "a good stream with pauses": but(lambda tongue, good: [step for frame in good for step in (frame, 0.01)]),
    "a slow one of odd words": lambda tongue: streamed(
        [step for frame in frames(tongue, *ODD) for step in (frame, 0.01)]
    ),
    "a long one": lambda tongue: streamed(frames(tongue, *(f"word {number} " for number in range(300)))),
    "a good stream in odd pieces": lambda tongue: pieces(streamed(frames(tongue)), 37),
    "a good stream that came at once but for the last chunk": lambda tongue: joined(streamed(frames(tongue))),
    "a good stream of frames in pairs": but(
        lambda tongue, good: [b"".join(good[at : at + 2]) for at in range(0, len(good), 2)]
    ),
    "a good stream with comments": but(lambda tongue, good: [step for frame in good for step in (b": hm\n\n", frame)]),
    "a good stream and more behind it": but(lambda tongue, good: [*good, good[1]]),
    "a good stream on a connection that then closes": lambda tongue: streamed(
        frames(tongue), stream_head=head(200, "text/event-stream", Transfer_Encoding="chunked", Connection="close")
    ),
    "a good stream of another content type": lambda tongue: streamed(
        frames(tongue), stream_head=head(200, "text/event-stream; charset=utf-8", Transfer_Encoding="chunked")
    ),
    "a good stream with limits of the provider's": lambda tongue: streamed(
        frames(tongue),
        stream_head=head(200, "text/event-stream", Transfer_Encoding="chunked", x_ratelimit_limit_requests="5"),
    ),
    "a good stream that its connection ends": lambda tongue: [
        head(200, "text/event-stream"),
        b"".join(frames(tongue)),
        CUT,
    ],
    "a good stream with a large frame": but(lambda tongue, good: [*good[:3], tongue.text("x" * 40_000), *good[3:]]),
    "a good stream behind what begins as a document": but(lambda tongue, good: [b"[]\n\n", *good]),
    "a good stream behind what begins as a page": but(lambda tongue, good: [b"<p>\n\n", *good]),
    "a good stream that begins large": but(lambda tongue, good: [*good[:1], tongue.text("x" * 40_000), *good[1:]]),
    "a good stream that begins large, in small reads": but(
        lambda tongue, good: [
            *good[: good.index(tongue.text("Hello"))],
            *small(tongue.text("x" * 40_000)),
            *good[-4:],
        ]
    ),
    "a good stream with a frame past all tails": but(
        lambda tongue, good: [*good[:3], tongue.text("x" * 100_000), *good[3:]]
    ),
    "a frame past all tails with a key of ours": lambda tongue: pieces(
        streamed([*frames(tongue)[:3], tongue.text(f"{'x' * 80_000} {KEY} {'x' * 80_000}"), *frames(tongue)[3:]]), 9000
    ),
    "a comment with a key of ours": but(lambda tongue, good: [*good[:3], f": {KEY}\n\n".encode(), *good[3:]]),
    "a stream that never says its usage": but(lambda tongue, good: [it for it in good if b"usage" not in it]),
    "a stream with another end than before": but(lambda tongue, good: [*good[:-3], *good[-1:]]),
    "an error before content": but(lambda tongue, good: [good[0], tongue.error_frame("overloaded_error", "Busy.")]),
    "an error behind content": but(lambda tongue, good: [*good[:3], tongue.error_frame("overloaded_error", "Busy.")]),
    "no content": but(lambda tongue, good: [good[0]]),
    "no UTF-8": but(lambda tongue, good: [*good[:3], tongue.text("x").replace(b"x", b"\xff"), *good[3:]]),
    "a document": lambda tongue: plain(tongue.answer("Hello.")),
    "a page": lambda tongue: plain(b"<html></html>", content_type="text/html"),
    "400": of_status(400, "invalid_request_error"),
    "401 of our key": of_status(401, "authentication_error"),
    "503": of_status(503, "server_error"),
    "closed without an answer": lambda tongue: [CUT],
    "reset without an answer": lambda tongue: [RESET],
    "cut behind the head": lambda tongue: streamed([CUT], last=False),
    "cut before content": lambda tongue: streamed([frames(tongue)[0], CUT], last=False),
    "broken chunks behind content": lambda tongue: [*streamed(frames(tongue)[:3], last=False), b"zz\r\n", SILENCE],
    "broken chunks right behind content": lambda tongue: [b"".join(broken(frames(tongue)[:3])), SILENCE],
    "broken chunks right behind more content": lambda tongue: [
        *streamed(frames(tongue)[:3], last=False),
        0.02,
        b"".join(broken([tongue.text("more")] * 3)[1:]),
        SILENCE,
    ],
    "broken chunks right behind a run": lambda tongue: [
        *streamed(frames(tongue)[:3], last=False),
        0.02,
        b"".join(broken([tongue.text("more")] * 200)[1:]),
        SILENCE,
    ],
    "broken chunks before content": lambda tongue: [b"".join(broken(frames(tongue)[:1])), SILENCE],
    "broken chunks right behind the end": lambda tongue: [b"".join(broken(frames(tongue))), SILENCE],
    "an end that is broken": lambda tongue: [*streamed(frames(tongue), last=False), b"zz\r\n", SILENCE],
    "cut behind content": lambda tongue: streamed([*frames(tongue)[:3], CUT], last=False),
    "not HTTP": lambda tongue: [b"220 smtp ready\r\n\r\n", SILENCE],
    "no answer in time": lambda tongue: [SILENCE],
    "no event in time": lambda tongue: [head(Content_Type="text/event-stream", Transfer_Encoding="chunked"), SILENCE],
    "no content in time": lambda tongue: streamed([frames(tongue)[0], SILENCE]),
    "silence behind content": lambda tongue: streamed([*frames(tongue)[:3], SILENCE]),
}
STALLS = ("no answer in time", "no event in time", "no content in time", "silence behind content")
TIMEOUTS = 'first_event = "300ms"\nfirst_content = "400ms"\nidle = "500ms"'


USAGE_TOO = {"stream_options": {"include_usage": True}}
KINDS = {  # streams of Messages tell their usage unasked
    **{name: (hop, {}) for name, hop in HOPS.items()},
    **{f"{name}, usage too": (hop, USAGE_TOO) for name, hop in HOPS.items() if hop[0] is CHAT},
}
QUICK = ("chat, usage too", "chat", "chat put into messages")


async def shows_the_same(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    turn: Callable[[Tongue], Script],
    theirs: Tongue,
    exchange: Callable[[Running, RawClient], Awaitable[Answer]],
    *,
    timeouts: str = "",
    by: str = "board",
) -> None:
    """`turn` is what the first provider does behind good answers of its kind."""
    scripts = [*[good(theirs)] * KNOWN_BY, turn(theirs)]
    second = streamed(frames(theirs, "From the second."))
    await same_either_way(monkeypatch, home, lambda home: played(home, timeouts, theirs, scripts, second, exchange), by)


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        *product_of(TURNS, {name: KINDS[name] for name in QUICK}, fast=1, of=3),
        *product_of(TURNS, {name: kind for name, kind in KINDS.items() if name not in QUICK}, fast=0, of=1),
    ],
)
async def test_the_short_way_shows_what_the_way_of_all_would(
    turn: Callable[[Tongue], Script],
    kind: tuple[tuple[Tongue, Tongue], dict[str, Any]],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (spoken, theirs), more = kind
    timeouts = TIMEOUTS if turn in [TURNS[name] for name in STALLS] else ""
    exchange = asking(spoken, spoken.request("chain", stream=True, **more))
    await shows_the_same(monkeypatch, home, turn, theirs, exchange, timeouts=timeouts)


@pytest.mark.parametrize(("turn", "kind"), product_of(TURNS, {name: KINDS[name] for name in QUICK}, fast=1, of=6))
async def test_so_it_does_in_a_crowd(
    turn: Callable[[Tongue], Script],
    kind: tuple[tuple[Tongue, Tongue], dict[str, Any]],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd(monkeypatch)
    await test_the_short_way_shows_what_the_way_of_all_would(turn, kind, home, monkeypatch)


JOINED = ("a good stream", "503", "cut behind content", "closed without an answer")
LONG = {"messages": [{"role": "user", "content": "Say hello. " * 500}]}
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'iVBORw0KGgo/' * 10_000}"}}
PICTURED = {"messages": [{"role": "user", "content": [PICTURE]}]}


@pytest.mark.parametrize(
    ("turn", "more", "hop"),
    product_of(
        {name: TURNS[name] for name in JOINED},
        {"short": {}, "long": LONG, "long, usage too": LONG | USAGE_TOO, "a picture": PICTURED},
        {"native": HOPS["chat"], "translated": HOPS["chat put into messages"]},
        fast=1,
        of=2,
    ),
)
async def test_whose_body_comes_behind_its_head_joins_and_shows_the_same(
    turn: Callable[[Tongue], Script],
    hop: tuple[Tongue, Tongue],
    more: dict[str, Any],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoken, theirs = hop
    exchange = asking(spoken, spoken.request("chain", stream=True, **more), 0, 9)
    await shows_the_same(monkeypatch, home, turn, theirs, exchange, by="join")


ASKED = CHAT.request("first", stream=True)
BODIES: dict[str, tuple[dict[str, Any], bool]] = {
    "the same": (ASKED, True),
    "one that wants its usage": (ASKED | {"stream_options": {"include_usage": True}}, False),
    "one that wants no usage": (ASKED | {"stream_options": {"include_usage": False}}, False),
    "one with options that are none": (ASKED | {"stream_options": None}, False),
    "a plain one": (ASKED | {"stream": False}, False),
}


@pytest.mark.parametrize("hop", HOPS.values(), ids=HOPS)
async def test_what_stands_behind_an_end_is_counted_once_however_large_the_read(
    hop: tuple[Tongue, Tongue], start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken, theirs = hop
    gw, boarded = await start(provider("first", upstream, theirs)), rides(monkeypatch)
    whole = b"".join([*frames(theirs), theirs.text("x" * 14_000)])
    small = b"".join(piece(whole[at : at + 40]) for at in range(0, len(whole), 40))
    at_once = [head(200, "text/event-stream", Transfer_Encoding="chunked") + small + LAST]
    upstream.plays(*[good(theirs)] * KNOWN_BY, at_once)
    client = await gw.connect()
    for _ in range(KNOWN_BY + 1):
        await client.request(spoken, spoken.request("first", stream=True))
        await answer(client)
    await gw.quiet()
    assert boarded[-1] is not None
    assert gw.app is not None
    assert b'stream_edits_total{kind="surplus_dropped"} 1.0' in gw.app.metrics.render()


@pytest.mark.parametrize(("asked", "boards"), BODIES.values(), ids=BODIES)
async def test_only_streams_of_a_known_kind_board(
    asked: dict[str, Any], boards: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT) if b'"stream":true' in seen.body else plain(CHAT.answer("Hello.")))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    for document in (ASKED, asked):
        await client.request(CHAT, document)
        await answer(client)
    assert [ride is not None for ride in boarded] == [False, boards]


async def test_who_commits_early_does_not_board(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw: Running = await start('[timeouts]\ncommit_after = "5s"\n' + provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    for _ in range(2):
        await client.request(CHAT, ASKED)
        await answer(client)
    assert boarded == [None, None]


async def test_a_client_that_leaves_a_stream_is_recorded(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream))
    client = await gw.connect()
    boarded = rides(monkeypatch)
    upstream.plays(good(CHAT))
    await client.request(CHAT, ASKED)
    await answer(client)
    upstream.plays(streamed([*frames(CHAT)[:2], SILENCE]))
    await client.request(CHAT, ASKED)
    await client.until(b"Hello")
    client.leave()
    await gw.quiet()
    row = (await gw.rows(2))[-1]
    assert boarded[1] is not None
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", "stream")


async def test_a_good_stream_is_recorded_by_what_is_its_own(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, models={"first": "price = { input = 2.5, output = 10 }"}))
    upstream.answers(lambda seen: good(CHAT))
    assert gw.app is not None
    recorded: list[type] = []
    record = gw.app.gateway.ledger.record

    def noted(one: Decision | Brief) -> None:
        recorded.append(type(one))
        record(one)

    monkeypatch.setattr(gw.app.gateway.ledger, "record", noted)
    client = await gw.connect()
    for _ in range(3):
        await client.request(CHAT, ASKED)
        await answer(client)
    await gw.quiet()
    assert recorded == [Decision, Brief, Brief]
