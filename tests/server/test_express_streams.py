"""The short way into a stream: from its head on the way of all goes on, and client, provider and record see no
difference."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway import RawClient, Running, Start, gateway, provider
from playbook import CHAT, MESSAGES, USAGE, Tongue, chunk
from upstream import CUT, RESET, SILENCE, Script, ScriptedUpstream, head, plain, streamed

from proxy.server.express import Express, Ride
from proxy.server.ledger import Brief, Decision

GUARD_S = 20.0
LOOPS = ("uvloop",)
VARYING = {"request_id", "at_ms", "ttfb_ms", "duration_ms", "started_ms", "id", "config", "plan"}
DATED = {"date", "x-request-id", "request-id", "x-nyuro-config"}
TOLD = chunk(None, usage=USAGE)  # the chunk that tells the usage of a chat


def frames(tongue: Tongue, *texts: str) -> list[bytes]:
    said = tongue.stream(*(texts or ("Hello", " there.")))
    return [*said[:-1], TOLD, said[-1]] if tongue is CHAT else said


def good(tongue: Tongue) -> Script:
    return streamed(frames(tongue))


def but(change: Callable[[Tongue, list[bytes]], Sequence[Any]]) -> Callable[[Tongue], Script]:
    return lambda tongue: streamed(change(tongue, frames(tongue)))


def of_status(status: int, kind: str) -> Callable[[Tongue], Script]:
    return lambda tongue: plain(tongue.error(kind, "No."), status=status)


# What the provider does with a third request, when two of its kind went well.
TURNS: dict[str, Callable[[Tongue], Script]] = {
    "a good stream": good,
    "a good stream that came at once": lambda tongue: streamed([b"".join(frames(tongue))]),
    "a good stream with pauses": but(lambda tongue, good: [step for frame in good for step in (frame, 0.01)]),
    "a long one": lambda tongue: streamed(frames(tongue, *(f"word {number} " for number in range(300)))),
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
    "cut behind content": lambda tongue: streamed([*frames(tongue)[:3], CUT], last=False),
    "not HTTP": lambda tongue: [b"220 smtp ready\r\n\r\n", SILENCE],
    "no answer in time": lambda tongue: [SILENCE],
    "no event in time": lambda tongue: [head(Content_Type="text/event-stream", Transfer_Encoding="chunked"), SILENCE],
    "no content in time": lambda tongue: streamed([frames(tongue)[0], SILENCE]),
    "silence behind content": lambda tongue: streamed([*frames(tongue)[:3], SILENCE]),
}
STALLS = ("no answer in time", "no event in time", "no content in time", "silence behind content")
TIMEOUTS = '[timeouts]\nfirst_event = "300ms"\nfirst_content = "400ms"\nidle = "500ms"\n'


def table(first: ScriptedUpstream, second: ScriptedUpstream, tongue: Tongue, limits: str) -> str:
    price = "price = { input = 2.5, output = 10 }"
    return (
        limits
        + provider("first", first, tongue, models={"first": price})
        + provider("second", second, tongue, models={"second": price})
        + '[aliases]\nchain = ["first", "second"]\n'
    )


async def answer(client: RawClient) -> tuple[bytes, dict[str, str], bytes]:
    """One answer, however it is framed; what came of it where it is broken off."""
    first, *lines = (await client.until(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    async with asyncio.timeout(GUARD_S):
        if "content-length" in headers:
            return first.encode(), headers, await client.reader.readexactly(int(headers["content-length"]))
        try:
            while size := int(await client.reader.readline() or b"0", 16):
                body += (await client.reader.readexactly(size + 2))[:-2]
            await client.reader.readline()
        except (ConnectionError, asyncio.IncompleteReadError):
            body += b"(cut)"
    return first.encode(), headers, body


def told(row: dict[str, Any]) -> dict[str, Any]:
    """Of a record what two of them have in common."""
    kept = {name: value for name, value in row.items() if name not in VARYING}
    kept["plan"] = row["plan"] and {name: value for name, value in row["plan"].items() if name != "config"}
    kept["attempts"] = [
        {name: value for name, value in attempt.items() if name not in VARYING} for attempt in row["attempts"]
    ]
    return kept


def rides(monkeypatch: pytest.MonkeyPatch) -> list[Ride | None]:
    """What came of each request that asked to board."""
    seen: list[Ride | None] = []
    board = Express.board

    def noted(self: Express, *args: Any) -> Ride | None:
        seen.append(ride := board(self, *args))
        return ride

    monkeypatch.setattr(Express, "board", noted)
    return seen


async def played(
    home: Path, tongue: Tongue, theirs: Tongue, turn: Callable[[Tongue], Script], more: dict[str, Any]
) -> list[Any]:
    """Three requests of a kind, of which the third takes that turn: what the client got, what the provider was asked,
    what the record says."""
    home.mkdir()
    limits = TIMEOUTS if turn in [TURNS[name] for name in STALLS] else ""
    async with (
        ScriptedUpstream() as first,
        ScriptedUpstream() as second,
        gateway(table(first, second, theirs, limits), home) as gw,
    ):
        second.plays(streamed(frames(theirs, "From the second.")))
        client = await gw.connect()
        seen: list[Any] = []
        for script in (good(theirs), good(theirs), turn(theirs)):
            first.plays(script)
            await client.request(tongue, tongue.request("chain", stream=True, **more))
            line, headers, said = await answer(client)
            identity = headers["x-request-id"].encode()
            kept = {name: value for name, value in headers.items() if name not in DATED}
            said = re.sub(rb'"created":\d+', b'"created":1', said.replace(identity, b"(id)"))
            seen.append((line, kept, said))
        alike = {"x-pointsman-hops": "", "host": ""}
        seen.append([(it.path, it.headers | alike, it.body) for it in (*first.seen, *second.seen)])
        seen.append([told(row) for row in await gw.rows(3)])
        return seen


WANTS = {"usage": {"stream_options": {"include_usage": True}}, "no usage": {}}


PAIRS = {
    "chat": (CHAT, CHAT),
    "messages": (MESSAGES, MESSAGES),
    "chat by messages": (CHAT, MESSAGES),
    "messages by chat": (MESSAGES, CHAT),
}
SOON = ("chat", "chat by messages")


@pytest.mark.parametrize("pair", [pytest.param(pair, marks=() if pair in SOON else pytest.mark.slow) for pair in PAIRS])
@pytest.mark.parametrize("more", WANTS.values(), ids=WANTS)
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
async def test_the_short_way_shows_what_the_way_of_all_would(
    turn: Callable[[Tongue], Script], more: dict[str, Any], pair: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tongue, theirs = PAIRS[pair]
    if tongue is MESSAGES:
        more = {}
    boarded = rides(monkeypatch)
    short = await played(home / "short", tongue, theirs, turn, more)
    assert [ride is not None for ride in boarded] == [False, True, True]
    monkeypatch.setattr(Express, "board", lambda self, request, surface: None)
    assert short == await played(home / "of-all", tongue, theirs, turn, more)


ASKED = CHAT.request("first", stream=True)
BODIES: dict[str, tuple[dict[str, Any], bool]] = {
    "the same": (ASKED, True),
    "one that wants its usage": (ASKED | {"stream_options": {"include_usage": True}}, False),
    "one that wants no usage": (ASKED | {"stream_options": {"include_usage": False}}, False),
    "one with options that are none": (ASKED | {"stream_options": None}, False),
    "a plain one": (ASKED | {"stream": False}, False),
}


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
