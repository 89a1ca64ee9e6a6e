"""Slow translated streams each of whose reads others had as well: whatever happens in one, client, provider and record
see what they would have seen of a stream that is read and written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway import RawClient, Running, Start, provider, settles
from playbook import CHAT, MESSAGES, event
from riding import KNOWN_BY, asking, frames, same_either_way
from riding import played as played_by
from upstream import CUT, GUARD_S, LAST, RESET, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, piece, streamed, within

from proxy.server import flow
from proxy.server.express import telling
from proxy.server.express.course import Course
from proxy.streams import Recital, rote

LOOPS = ("uvloop",)
GOOD = frames(MESSAGES, "Hello", " there,", " you")
TIMEOUTS = 'first_event = "300ms"\nfirst_content = "400ms"\nidle = "500ms"'
ASKED = CHAT.request("chain", stream=True, stream_options={"include_usage": True})
Reads = list[bytes]


def reads(said: Sequence[bytes] = GOOD) -> Reads:
    """As a slow stream comes: its head with what stands before the text, each text, and what stands behind them."""
    begun = len([it for it in (MESSAGES.start, MESSAGES.opening) if it])
    first = b"".join([STREAM_HEAD, *map(piece, said[:begun])])
    ending = next(at for at in range(begun, len(said)) if b"content_block_stop" in said[at])
    return [first, *map(piece, said[begun:ending]), b"".join([*map(piece, said[ending:]), LAST])]


def slowly(said: Sequence[Any]) -> Script:
    """Each of them in a read of its own."""
    return [step for it in said for step in (it, 0.01)]


def but(at: int, *steps: Any, less: int = 0) -> Script:
    """A good stream in which that stands before the read of that number, in the place of so many."""
    good = reads()
    at %= len(good)
    return slowly([*good[:at], *steps, *good[at + less :]])


ERROR = piece(MESSAGES.error_frame("overloaded_error", "Busy."))
PING = piece(event("ping"))
SOURCE = {"type": "web_search_result_location", "url": "http://a", "title": "A", "cited_text": "x"}
CITED = piece(event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": SOURCE}))
END = reads()[-1]
# What the provider does with a request, when others of its kind went well, read by read.
TURNS: dict[str, Script] = {
    "a good stream": slowly(reads()),
    "odd texts": slowly(reads(frames(MESSAGES, "a", 'x"y', "\\", "\n", "日本", "\x7f", "%b", " z"))),
    "two texts at once": but(2, b"".join(map(piece, map(MESSAGES.text, ("a", "b"))))),
    "pings within the text": but(2, PING, 0.02, PING),
    "pings before the text": but(1, PING),
    "a source within the text": but(2, CITED),
    "an error before the text": but(1, ERROR),
    "an error behind the first text": but(2, ERROR),
    "an error in the place of the end": but(-1, ERROR, less=1),
    "cut before the text": but(1, CUT),
    "cut behind the first text": but(2, CUT),
    "reset before the end": but(-1, RESET),
    "cut in the middle of the end": but(-1, END[:90], 0.02, CUT),
    "an end in two": but(-1, END[:90], 0.02, END[90:], less=1),
    "an end whose last chunk is late": but(-1, END.removesuffix(LAST), 0.02, LAST, less=1),
    "more behind the end": but(-1, END.removesuffix(LAST) + piece(MESSAGES.text("more")) + LAST, less=1),
    "broken chunks within the text": but(2, b"zz\r\n", SILENCE),
    "broken chunks in the end": but(-1, END.removesuffix(LAST) + b"zz\r\n", SILENCE, less=1),
    "an end without usage": but(-1, END.replace(b'"output_tokens"', b'"input_tokenz"'), less=1),
    "a usage that is none": but(-1, END.replace(b'"output_tokens":2', b'"output_tokens":-'), less=1),
    "silence before the text": but(1, SILENCE),
    "silence behind the first text": but(2, SILENCE),
}  # fmt: skip
STALLS = ("silence before the text", "silence behind the first text")
QUICK = ("pings within the text", "an error behind the first text", "an end in two", "more behind the end")


@pytest.fixture
def recited(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each stream that came slowly, whether nobody had to be told what it was."""
    monkeypatch.setattr(rote, "_memories", {})
    seen: list[bool] = []
    goes_on, recall = Recital.goes_on, Course._recall

    def noted(self: Recital, *args: Any) -> None:
        if not self.script:
            seen.append(True)
        goes_on(self, *args)

    def noted_recall(self: Course, *args: Any) -> None:
        if self._recital is not None and self._recital.script:
            seen[-1] = False
        recall(self, *args)

    monkeypatch.setattr(Recital, "goes_on", noted)
    monkeypatch.setattr(Course, "_recall", noted_recall)
    return seen


@pytest.mark.parametrize(
    "turn",
    [pytest.param(it, marks=() if name in QUICK else pytest.mark.slow, id=name) for name, it in TURNS.items()],
)
async def test_what_happens_in_a_stream_shows_as_in_one_that_is_read(
    turn: Script, home: Path, monkeypatch: pytest.MonkeyPatch, recited: list[bool]
) -> None:
    timeouts = TIMEOUTS if turn in [TURNS[name] for name in STALLS] else ""
    scripts = [*[slowly(reads())] * (KNOWN_BY + 2), turn]
    second = streamed(frames(MESSAGES, "From the second."))
    exchange = asking(CHAT, ASKED)

    def play(home: Path) -> Any:
        return played_by(home, timeouts, MESSAGES, scripts, second, exchange)

    await same_either_way(monkeypatch, home, play)
    assert recited[:KNOWN_BY].count(True) > 1  # of the good ones


async def test_comments_in_a_quiet_stream_are_signs_of_life_for_its_client(
    home: Path, monkeypatch: pytest.MonkeyPatch, recited: list[bool]
) -> None:
    monkeypatch.setattr(telling, "QUIET", 0.0)
    monkeypatch.setattr(flow, "QUIET", 0.0)
    scripts = [but(2, piece(b": hm\n\n"))] * (KNOWN_BY + 3)
    second = streamed(frames(MESSAGES))
    shown: list[Any] = []

    async def play(home: Path) -> list[Any]:
        shown[:] = await played_by(home, "", MESSAGES, scripts, second, asking(CHAT, ASKED))
        return shown

    await same_either_way(monkeypatch, home, play)
    assert recited[-1]
    assert b": keep-alive\n\n" in shown[KNOWN_BY + 2][2]


async def under_way(gw: Running, upstream: ScriptedUpstream, *steps: Any) -> RawClient:
    """A client whose stream has begun that goes as others did; behind its first text come these."""
    begun = reads()[:2]
    upstream.plays(*[slowly(reads())] * (KNOWN_BY + 2), [*slowly(begun), *steps])
    client = await gw.connect()
    for number in range(KNOWN_BY + 3):
        await client.request(CHAT, CHAT.request("first", stream=True))
        await client.until(b"[DONE]\n\n\r\n0\r\n\r\n" if number < KNOWN_BY + 2 else b"Hello")
    return client


async def test_a_client_that_leaves_is_recorded(start: Start, upstream: ScriptedUpstream, recited: list[bool]) -> None:
    gw = await start(provider("first", upstream, MESSAGES))
    client = await under_way(gw, upstream, SILENCE)
    assert recited[-1]
    client.leave()
    await within((await upstream.asked(KNOWN_BY + 3)).gone)
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 3))[-1]
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", "stream")
    assert row["attempts"][0]["usage"]["input"] == 7  # as it was told in the first read


async def test_a_shutdown_is_told_in_the_stream(start: Start, upstream: ScriptedUpstream, recited: list[bool]) -> None:
    gw = await start(provider("first", upstream, MESSAGES))
    client = await under_way(gw, upstream, SILENCE)
    assert recited[-1]
    assert gw.app is not None
    gw.app.gateway.cut()
    said = await client.until(b"\r\n0\r\n\r\n")
    assert b"shutting down" in said
    assert b"[DONE]" not in said
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 3))[-1]
    assert (row["status"], row["outcome"]) == (200, "gateway_overloaded")


async def test_a_slow_client_is_waited_for_and_gets_all_of_it(
    start: Start, upstream: ScriptedUpstream, recited: list[bool]
) -> None:
    gw = await start(provider("first", upstream, MESSAGES))
    reading = asyncio.Event()
    text = piece(MESSAGES.text("z" * 2_000))
    client = await under_way(gw, upstream, reading, *[text] * 8_000, *slowly(reads()[-1:]))
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    reading.set()
    await settles(lambda: not recited[-1])
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    said = bytearray()
    async with asyncio.timeout(GUARD_S):
        while not said.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
            said += await client.reader.read(1 << 20)
    assert said.count(b"z" * 2_000) == 8_000
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 3))[-1]
    assert (row["status"], row["outcome"]) == (200, "ok")


async def test_a_fault_of_ours_ends_the_stream_and_gives_back_what_it_took(
    start: Start, upstream: ScriptedUpstream, recited: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, MESSAGES))
    end = asyncio.Event()
    client = await under_way(gw, upstream, end, *slowly(reads()[-1:]))
    assert recited[-1]

    def raises(self: Recital, data: bytes) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr(Recital, "finds", raises)
    end.set()
    assert b"[DONE]" not in await client.rest()
    await gw.quiet()
    row = (await gw.rows(KNOWN_BY + 3))[-1]
    assert row["outcome"] == "internal_error"
