"""A stream that does not come to its end, whatever ended it: what is told in it, what the record keeps of it, and what
it is charged with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from faults.responses import SURFACES, asking, frames, terminator
from gateway import Start, chain, provider
from playbook import MESSAGES, Tongue
from upstream import CUT, RESET, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, Step, piece, plain, streamed, within

from proxy.server import watchdog

LOOPS = ("uvloop",)
PRICED = {"first": "price = { input = 1, output = 100 }"}
each_surface = pytest.mark.parametrize("tongue", SURFACES, ids=[it.surface for it in SURFACES])
WORDS = ["word "] * 80


def begun(tongue: Tongue) -> list[bytes]:
    """Frames up to the last of the words."""
    found = frames(tongue, *WORDS, "the last")
    return found[: found.index(tongue.text("the last"))]


# what ends it -> what follows the words, and the code that is told
ENDS: dict[str, tuple[Callable[[Tongue], list[Step]], str]] = {
    "reset": (lambda tongue: [RESET], "bad_upstream_response"),
    "closed without the last chunk": (lambda tongue: [CUT], "bad_upstream_response"),
    "ended without a terminator": (lambda tongue: [b"0\r\n\r\n"], "bad_upstream_response"),
    "silent": (lambda tongue: [SILENCE], "upstream_timeout"),
    "no UTF-8 any more": (
        lambda tongue: [piece(tongue.text("bad!").replace(b"bad!", b"\xff")), *[piece(tongue.text("b"))] * 9, SILENCE],
        "bad_upstream_response",
    ),
    "failing in its own words": (
        lambda tongue: [piece(tongue.error_frame("api_error", "lost my way")), b"0\r\n\r\n"],
        "upstream_failed",
    ),
    "overloaded in its own words": (
        lambda tongue: [piece(tongue.error_frame("overloaded_error", "busy")), b"0\r\n\r\n"],
        "upstream_overloaded",
    ),
}


@each_surface
@pytest.mark.parametrize(("ending", "code"), ENDS.values(), ids=ENDS)
async def test_what_came_is_kept_and_charged_and_the_end_is_told(
    start: Start,
    upstream: ScriptedUpstream,
    tongue: Tongue,
    ending: Callable[[Tongue], list[Step]],
    code: str,
) -> None:
    gw = await start(
        provider("first", upstream, tongue, models=PRICED, more='timeouts = { idle = "200ms" }\n')
        + "[retry]\ntries = 1\n"
    )
    upstream.plays([STREAM_HEAD, *map(piece, begun(tongue)), *ending(tongue)])
    answer = await gw.post(tongue.path, asking(tongue, "first", stream=True))
    assert answer.status == 200
    said = tongue.read_stream(answer.body)
    assert said
    assert "".join(WORDS).startswith(said)  # a reset takes back what was not read yet
    assert terminator(tongue) not in answer.body
    assert b'"stop"' not in answer.body
    assert b"end_turn" not in answer.body
    row = await gw.row(answer.request_id)
    assert (row["status"], row["outcome"], row["attempts"][0]["outcome"]) == (200, code, code)
    _kept(row, tongue, len(said) // len(WORDS[0]))


CUTS = {  # how the frames come that stand before a chunk that is none -> what of them comes in the read that holds it
    "all with the head": lambda frames: ([], frames),
    "the last": lambda frames: ([*frames[:-1], 0.02], frames[-1:]),
    "all but the first that bears content": lambda frames: ([*frames[:-8], 0.02], frames[-8:]),
    "half a frame beside": lambda frames: ([*frames[:-1], 0.02, frames[-1][:20], 0.02], [frames[-1][20:]]),
}


@each_surface
@pytest.mark.parametrize("parted", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("asked_before", [0, 2])
async def test_what_came_well_before_broken_chunks_leaves_before_their_error(
    start: Start,
    upstream: ScriptedUpstream,
    tongue: Tongue,
    parted: Callable[[list[bytes]], tuple[list[Step], list[bytes]]],
    asked_before: int,
) -> None:
    gw = await start(provider("first", upstream, tongue, models=PRICED) + "[retry]\ntries = 1\n")
    before, beside = parted(begun(tongue))
    bad = b"".join([*map(piece, beside), b"zz\r\nmore\r\n"])
    good: Script = streamed(frames(tongue, "Hello"))
    upstream.plays(*[good] * asked_before, [*streamed(before, last=False), bad, SILENCE])
    for _ in range(asked_before + 1):
        answer = await gw.post(tongue.path, asking(tongue, "first", stream=True))
    assert (answer.status, tongue.read_stream(answer.body)) == (200, "".join(WORDS))
    assert terminator(tongue) not in answer.body
    row = await gw.row(answer.request_id)
    assert (row["outcome"], row["bytes_committed"]) == ("bad_upstream_response", len(answer.body))


def _kept(row: dict[str, Any], tongue: Tongue, words: int) -> None:
    assert row["estimated"]
    assert row["charged_nanos"] >= words // 4 * 100_000  # as they are estimated, by their bytes
    assert row["bytes_committed"]
    if tongue is MESSAGES:
        assert row["usage"]["input"] == 7  # its providers say that first


@each_surface
async def test_a_client_that_leaves_is_charged_with_what_came(
    start: Start, upstream: ScriptedUpstream, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue, models=PRICED))
    upstream.plays([STREAM_HEAD, *map(piece, begun(tongue)), SILENCE])
    client = await gw.connect()
    await client.request(tongue, asking(tongue, "first", stream=True))
    for _ in WORDS:
        await client.until(WORDS[0].encode())
    client.leave()
    await within((await upstream.asked()).gone)
    await gw.quiet()
    row = await gw.row()
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", "stream")
    _kept(row, tongue, len(WORDS))


# -- too slow to begin -------------------------------------------------------------------------------------------


@each_surface
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_who_trickles_before_the_commit_is_left_for_the_next(
    start: Start,
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    tongue: Tongue,
    stream: bool,
) -> None:
    monkeypatch.setattr(watchdog, "SPAN", 0.2)
    slow = provider("first", upstream, tongue, more="timeouts = { min_rate = 100_000 }\n")
    gw = await start(slow + provider("second", second, tongue) + chain("first", "second"))
    drip: list[Step] = [step for _ in range(100) for step in (piece(tongue.keep_alive if stream else b" "), 0.02)]
    began = [STREAM_HEAD, piece(tongue.start)] if stream else [_chunked(), piece(b'{"id": ')]
    upstream.plays([*began, *drip])
    good: Script = streamed(frames(tongue, "in time")) if stream else plain(tongue.answer("in time"))
    second.plays(good)
    answer = await gw.post(tongue.path, asking(tongue, "profile:chain", stream=stream))
    assert (answer.status, b"in time" in answer.body) == (200, True)
    row = await gw.row(answer.request_id)
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["upstream_timeout", "ok"]
    await within((await upstream.asked()).gone)


def _chunked() -> bytes:
    return STREAM_HEAD.replace(b"text/event-stream", b"application/json")
