"""The short way of requests whose kind came before: whatever happens on it, client, provider and record see what they
would have seen on the way of all."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import orjson
import pytest
from crowd import crowd
from gateway import RawClient, Running, Start, gateway, provider, sent_behind, settles
from keyed import make
from limited import inline
from playbook import CHAT, MESSAGES, Tongue
from riding import (
    EACH_HOP,
    KNOWN_BY,
    OWN,
    PRICES,
    Answer,
    answer,
    asking,
    chained,
    frames,
    nobody_boards,
    over_hops,
    played,
    rides,
    same_either_way,
    told,
)
from shares import product_of
from structlog.testing import capture_logs
from upstream import CUT, LAST, RESET, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, head, piece, plain, streamed

from proxy.errors import UpstreamBroken
from proxy.server.call import Call
from proxy.server.clients.visitor import Visitor, visitor_of
from proxy.server.express import outline
from proxy.server.express.departure import departs
from proxy.server.express.ride import Ride
from proxy.wire.parted import Parted

LOOPS = ("uvloop",)


def good(tongue: Tongue, text: str = "Hello.", **headers: Any) -> Script:
    return plain(tongue.answer(text), x_request_id="up-1", **headers)


def body(tongue: Tongue, text: str = "Hello.") -> bytes:
    return orjson.dumps(tongue.answer(text))


def without_usage(tongue: Tongue) -> Script:
    return plain({name: value for name, value in tongue.answer("Hello.").items() if name != "usage"})


def in_two_writes(tongue: Tongue) -> Script:
    whole = body(tongue)
    return [head(Content_Length=len(whole)) + whole[:20], 0.01, whole[20:]]


def in_chunks(tongue: Tongue) -> Script:
    whole = body(tongue)
    return [head(Transfer_Encoding="chunked") + piece(whole[:20]) + piece(whole[20:]) + LAST]


def silence(tongue: Tongue) -> Script:
    return [SILENCE]


def half(tongue: Tongue) -> Script:
    return [head(Content_Length=1000) + b'{"choices"', SILENCE]


# What the provider does with a request, when all of its kind went well.
TURNS: dict[str, Callable[[Tongue], Script]] = {
    "a good answer": good,
    "a good answer with limits of the provider's": lambda tongue: good(
        tongue, x_ratelimit_limit_requests="5", anthropic_ratelimit_tokens_limit="7", openai_processing_ms="12"
    ),
    "a good answer that says how it is written": lambda tongue: plain(
        tongue.answer("Hello."), content_type="application/json; charset=utf-8"
    ),
    "a good answer that came in two writes": in_two_writes,
    "a good answer in chunks": in_chunks,
    "a good answer on a connection that then closes": lambda tongue: good(tongue, Connection="close"),
    "a good answer and more behind it": lambda tongue: [b"".join(map(bytes, good(tongue))) + b"more"],  # type: ignore[arg-type]
    "a long answer": lambda tongue: good(tongue, "Hello. " * 4000),
    "another status that is good": lambda tongue: plain(tongue.answer("Hello."), status=201),
    "an answer without usage": without_usage,
    "an empty answer": lambda tongue: plain(b""),
    "an error under 200": lambda tongue: plain(tongue.error("server_error", "No.")),
    "a page": lambda tongue: plain(b"<html></html>", content_type="text/html"),
    "broken JSON": lambda tongue: plain(b'{"choices": ['),
    "a compressed answer": lambda tongue: good(tongue, Content_Encoding="gzip"),
    "a header that repeats our key": lambda tongue: good(tongue, x_ratelimit_key="canary-house-key-0001"),
    "an interim answer first": lambda tongue: [b"HTTP/1.1 103 Early Hints\r\n\r\n", *good(tongue)],
    "400": lambda tongue: plain(tongue.error("invalid_request_error", "No."), status=400),
    "401 of our key": lambda tongue: plain(tongue.error("authentication_error", "No."), status=401),
    "429": lambda tongue: plain(tongue.error("rate_limit_error", "No."), status=429),
    "503": lambda tongue: plain(tongue.error("server_error", "No."), status=503),
    "529": lambda tongue: plain(tongue.error("overloaded_error", "No."), status=529),
    "closed without an answer": lambda tongue: [CUT],
    "reset without an answer": lambda tongue: [RESET],
    "cut within the head": lambda tongue: [b"HTTP/1.1 200 OK\r\nContent-", CUT],
    "cut within the body": lambda tongue: [head(Content_Length=1000) + b'{"choices"', CUT],
    "not HTTP": lambda tongue: [b"220 smtp ready\r\n\r\n", SILENCE],
    "no answer in time": silence,
    "half an answer in time": half,
}


@pytest.mark.parametrize(("turn", "hop"), over_hops(TURNS, of=2))
async def test_the_short_way_shows_what_the_way_of_all_would(
    turn: Callable[[Tongue], Script], hop: tuple[Tongue, Tongue], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken, theirs = hop
    timeouts = 'answer = "300ms"' if turn in (silence, half) else ""
    scripts = [*[good(theirs)] * KNOWN_BY, turn(theirs)]
    second = good(theirs, "From the second.")
    exchange = asking(spoken, spoken.request("chain"))
    await same_either_way(monkeypatch, home, lambda home: played(home, timeouts, theirs, scripts, second, exchange))


@pytest.mark.parametrize(("turn", "hop"), over_hops(TURNS, of=6))
async def test_so_it_does_in_a_crowd(
    turn: Callable[[Tongue], Script], hop: tuple[Tongue, Tongue], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(monkeypatch)
    await test_the_short_way_shows_what_the_way_of_all_would(turn, hop, home, monkeypatch)


JOINED = ("a good answer", "an answer without usage", "503", "cut within the body", "no answer in time")
CUTS: dict[str, tuple[int, ...]] = {"with its head": (), "behind its head": (0, 5, 40)}
WORDS = {"a few words": "Say hello.", "a long prompt": 'Say "hello". \u2026\n' * 500}


@pytest.mark.parametrize(
    ("turn", "cuts", "words"), product_of({name: TURNS[name] for name in JOINED}, CUTS, WORDS, fast=1, of=3)
)
@pytest.mark.parametrize("hop", EACH_HOP)
async def test_a_body_of_any_length_rides_however_it_comes(
    turn: Callable[[Tongue], Script], hop: tuple[Tongue, Tongue], cuts: tuple[int, ...], words: str, home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spoken, theirs = hop
    timeouts = 'answer = "300ms"' if turn in (silence, half) else ""
    scripts = [*[good(theirs)] * KNOWN_BY, turn(theirs)]
    asked = spoken.request("chain") | {"messages": [{"role": "user", "content": words}]}
    exchange = asking(spoken, asked, *cuts)
    await same_either_way(
        monkeypatch, home, lambda home: played(home, timeouts, theirs, scripts, good(theirs, "Second."), exchange),
        "join" if cuts else "board",
    )  # fmt: skip


DATA = "iVBORw0KGgo/" * 10_000


def pictured(tongue: Tongue, data: str = DATA) -> list[dict[str, Any]]:
    """A question about a picture."""
    if tongue is CHAT:
        picture: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    else:
        picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is on it? \u2026"}, picture]}]


def turn_of(role: str, text: str, **more: str) -> dict[str, str]:
    return {"role": role, "content": text} | more


def written(tongue: Tongue, text: str) -> list[dict[str, Any]]:
    """A long text without a blank, and a picture beside it, so that it is of the same kind."""
    first = {"type": "text", "text": text}
    return [{"role": "user", "content": [first, pictured(tongue, "AAAA")[0]["content"][1]]}]


PICTURES: dict[str, tuple[Callable[[Tongue], Any], bool | None]] = {  # and whether it rides
    "the same": (pictured, True),
    "another picture": (lambda tongue: pictured(tongue, DATA[::-1]), True),
    "a small one": (lambda tongue: pictured(tongue, "AAAA"), True),
    "behind many words": (lambda tongue: [turn_of("user", "Look. " * 1000), *pictured(tongue)], True),
    "behind another model's name": (lambda tongue: [turn_of("user", "Look.", model="x"), *pictured(tongue)], None),
    "a long text": (lambda tongue: written(tongue, DATA), True),
    "a long text of other letters": (lambda tongue: written(tongue, DATA + "\u00e4"), True),
    "a picture that is none": (lambda tongue: pictured(tongue, DATA + "\\n" + DATA), None),  # a translation minds
    "a control character in it": (lambda tongue: json.dumps(pictured(tongue)).replace("Ggo/iV", "Ggo/\niV", 1), False),
    "broken off": (lambda tongue: json.dumps(pictured(tongue))[:-9], False),
}


PICTURES_COME: dict[str, tuple[int, ...]] = {"with its head": (), "behind its head": (0, 70_000)}


@pytest.mark.parametrize(("picture", "cuts", "hop"), over_hops(PICTURES, PICTURES_COME, of=3))
async def test_pictures_ride_unread(
    picture: tuple[Callable[[Tongue], Any], bool | None], cuts: tuple[int, ...], hop: tuple[Tongue, Tongue],
    home: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (third, goes), (spoken, theirs) = picture, hop
    asked = []
    for turns in (pictured(spoken), pictured(spoken), third(spoken)):
        told = turns if isinstance(turns, str) else json.dumps(turns)
        asked.append(
            json.dumps(spoken.request("chain")).replace(json.dumps(spoken.request()["messages"]), told).encode()
        )

    async def play(home: Path) -> list[Any]:
        left = list(asked)

        async def exchange(gw: Running, client: RawClient) -> Answer:
            body = left.pop(0)
            at = cuts if len(body) > 80_000 else ()
            await (sent_behind(gw, client, spoken, body, *at) if at else client.request(spoken, body))
            return await client.answer()

        return await played(home, "", theirs, [good(theirs)] * 3, good(theirs, "Second."), exchange)

    boarded = [rides(monkeypatch), rides(monkeypatch, "join")]  # a large body may come in two reads in any case
    short = await play(home / "short")
    assert sum(ride is not None for some in boarded for ride in some) == 1 + (
        spoken is theirs if goes is None else goes
    )
    nobody_boards(monkeypatch)
    assert short == await play(home / "of-all")


LARGE_COMES: dict[str, tuple[tuple[int, ...], int]] = {  # and how many pieces it leaves in
    "in large parts": ((0, 40_000, 80_000), 3),
    "in small parts": ((0, *range(1, 120_000, 6_000)), 1),
}


@pytest.mark.parametrize("turn", ["a good answer", "503"])
@pytest.mark.parametrize(("cuts", "count"), LARGE_COMES.values(), ids=LARGE_COMES)
async def test_a_large_body_is_put_together_for_the_way_of_all_alone(
    cuts: tuple[int, ...], count: int, turn: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its parts are nobody's then."""
    asked, rode, pieces = CHAT.request("chain") | {"messages": pictured(CHAT)}, rides(monkeypatch, "join"), list[int]()

    def noted(ride: Ride) -> bool:
        pieces.append(len([*ride.body.since(0)]) if isinstance(ride.body, Parted) else 1)
        return departs(ride)

    async def exchange(gw: Running, client: RawClient) -> Answer:
        await sent_behind(gw, client, CHAT, asked, *cuts)
        return await client.answer()

    monkeypatch.setattr("proxy.server.express.boarding.departs", noted)
    await played(home / "played", "", CHAT, [good(CHAT), good(CHAT), TURNS[turn](CHAT)], good(CHAT), exchange)
    assert [ride is not None for ride in rode] == [False, True, True]
    assert pieces == [count, count]
    assert rode[2] is not None
    assert not rode[2].sent
    assert not isinstance(rode[2].body, Parted) or len([*rode[2].body.since(0)]) == 1


class Noted(Parted):
    """One of which can be told whether anybody has it."""


STUCK: Script = [STREAM_HEAD + b"".join(map(piece, frames(CHAT)[:2])), SILENCE]
NOBODYS: dict[str, tuple[bool, int, Script, Script]] = {  # stream, how many went before, what the providers do
    "behind a plain answer": (False, 1, good(CHAT), good(CHAT)),
    "in a stream": (True, 1, STUCK, STUCK),
    "in the first stream of its kind": (True, 0, STUCK, STUCK),
    "in the second provider's stream": (True, 1, TURNS["503"](CHAT), STUCK),
}


@pytest.mark.parametrize(("stream", "before", "script", "then"), NOBODYS.values(), ids=NOBODYS)
async def test_no_part_of_a_large_body_is_kept_that_nobody_will_be_asked_with(
    stream: bool, before: int, script: Script, then: Script, upstream: ScriptedUpstream, second: ScriptedUpstream,
    start: Start, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its client may be idle for a minute, or a stream may go on for as long."""
    kept = WeakSet[Parted]()

    def noted(parts: list[bytes]) -> Parted:
        kept.add(text := Noted(parts))
        return text

    monkeypatch.setattr("proxy.server.clients.ordinary.Parted", noted)
    gw = await start(chained("", upstream, second, CHAT))
    asked = CHAT.request("chain", stream=stream) | {"messages": pictured(CHAT)}
    client = await gw.connect()
    upstream.plays(*[streamed(frames(CHAT)) if stream else good(CHAT)] * before, script)
    second.plays(then)
    for _ in range(before):
        await sent_behind(gw, client, CHAT, asked, 0, 40_000, 80_000)
        await answer(client)
        await gw.quiet()
    await sent_behind(gw, client, CHAT, asked, 0, 40_000, 80_000)
    await client.until(b"Hello")
    await settles(lambda: not kept)


# -- who boards --------------------------------------------------------------------------------------------------

ASKED = CHAT.request("first")
LONG = [{"role": "user", "content": "Say hello. " * 500}]
BODIES: dict[str, tuple[dict[str, Any] | bytes, bool]] = {
    "the same": (ASKED, True),
    "other words": (ASKED | {"messages": [{"role": "user", "content": "Guten Tag, wie geht's? Schön \u2026"}]}, True),
    "more turns": (ASKED | {"messages": [*ASKED["messages"], {"role": "assistant", "content": "Hi."}] * 2}, True),
    "no stream, in so many words": (ASKED | {"stream": False}, True),
    "another member that nobody reads": (ASKED | {"temperature": 0.5, "seed": 7}, True),
    "a stream": (ASKED | {"stream": True}, False),
    "another limit of its answer": (ASKED | {"max_tokens": 17}, False),
    "another model": (ASKED | {"model": "second"}, False),
    "tools": (ASKED | {"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
    "a picture": (ASKED | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]}, False),  # noqa: E501
    "several models": (ASKED | {"models": ["second"]}, False),
    "wishes for providers": (ASKED | {"provider": {"only": ["first"]}}, False),
    "a fact for rules": (ASKED | {"metadata": {"industry": "legal"}}, False),
    "a conversation by name": (ASKED | {"prompt_cache_key": "one"}, False),
    "a long body": (ASKED | {"messages": LONG}, True),
    "a member that stands twice": (orjson.dumps(ASKED)[:-1] + b',"model":"second"}', False),
    "a member that stands twice with one value": (orjson.dumps(ASKED)[:-1] + b',"model":"first"}', False),
    "turns that stand twice": (orjson.dumps({"messages": []})[:-1] + b"," + orjson.dumps(ASKED)[1:], False),
    "a turn's member that stands twice": (orjson.dumps(ASKED).replace(b'"role"', b'"role":"tool","role"'), True),
    "escapes in a text": (ASKED | {"messages": [{"role": "user", "content": 'Say "hello"\n\\'}]}, True),
    "escapes, and a member that stands twice": (
        orjson.dumps(ASKED | {"messages": [{"role": "user", "content": "\n"}]})[:-1] + b',"model":"first"}', False,
    ),
    "white space": (b" " + json.dumps(ASKED, indent=1).encode(), True),
    "the model at the end": (dict(reversed(ASKED.items())), True),
    "a number that is no integer": (ASKED | {"max_tokens": 16.0}, True),
    "a stream that is a number": (ASKED | {"stream": 0}, False),
    "no turns": (ASKED | {"messages": []}, False),
    "a turn that is none": (ASKED | {"messages": ["Hello."]}, False),
    "a turn without a role": (ASKED | {"messages": [{"content": "Hello."}]}, False),
    "a turn without a text": (ASKED | {"messages": [{"role": "user", "content": None}]}, True),
    "a turn of a tool": (ASKED | {"messages": [{"role": "tool", "content": "Hello."}]}, False),
    "a turn with a name": (ASKED | {"messages": [{"role": "user", "content": "Hello.", "name": "Ann"}]}, True),
    "several that say what the system is": (
        ASKED | {"messages": [{"role": role, "content": "Hello."} for role in ("system", "developer", "user", "user")]},
        True,
    ),
    "a member of the wrong type": (ASKED | {"messages": "Hello."}, False),
    "no messages": ({"model": "first", "max_tokens": 16}, False),
    "no JSON": (b"{", False),
    "a list": (b"[]", False),
    "nothing": (b"", False),
}  # fmt: skip


@pytest.mark.parametrize("before", [1, KNOWN_BY], ids=["once", "often"])
@pytest.mark.parametrize(("asked", "boards"), BODIES.values(), ids=BODIES)
async def test_only_ordinary_requests_of_a_known_kind_board(
    asked: dict[str, Any] | bytes, boards: bool, before: int, upstream: ScriptedUpstream, start: Start, monkeypatch: Any
) -> None:
    gw = await start(provider("house", upstream, models={"first": "", "second": ""}))
    upstream.answers(lambda seen: good(CHAT))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    for document in (*[ASKED] * before, asked):
        await client.request(CHAT, document)
        await client.answer()
    assert [ride is not None for ride in boarded] == [False, *[True] * (before - 1), boards]


@pytest.mark.parametrize("cuts", PICTURES_COME.values(), ids=PICTURES_COME)
@pytest.mark.parametrize("asked", [b"[%b]", b"%b"], ids=["a list", "a text"])
async def test_a_large_body_that_is_no_object_is_refused_as_a_small_one_is(
    asked: bytes, cuts: tuple[int, ...], upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    client = await gw.connect()
    answers = []
    with capture_logs() as logs:
        for document, at in ((ASKED, ()), (asked % b'"a"', ()), (asked % orjson.dumps(DATA), cuts)):
            await (sent_behind(gw, client, CHAT, document, *at) if at else client.request(CHAT, document))
            answers.append(await client.answer())
    (_, _, small), (status, _, large) = answers[1:]
    assert status == 400
    assert OWN.sub(b"", large) == OWN.sub(b"", small)
    assert not [it for it in logs if it["log_level"] == "error"]


async def test_a_reload_begins_anew(upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    for again in (False, False, True, False):
        if again:
            gw.config.write_text(gw.config.read_text() + '[aliases]\nother = "first"\n')
            assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
        await client.request(CHAT, ASKED)
        assert (await client.answer())[0] == 200
    assert [ride is not None for ride in boarded] == [False, True, False, True]


@pytest.mark.parametrize("at", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("where", ["boarding.found_by", "departure.splice"])
async def test_a_fault_of_ours_before_anything_was_done_leaves_the_request_to_the_way_of_all(
    where: str, at: tuple[int, ...], upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    client = await gw.connect()
    with capture_logs() as logs:
        for _ in range(2):
            await (sent_behind(gw, client, CHAT, ASKED, *at) if at else client.request(CHAT, ASKED))
            assert (await client.answer())[0] == 200
            monkeypatch.setattr(f"proxy.server.express.{where}", None)  # cannot be called
    assert [it["event"] for it in logs if it["log_level"] == "error"] == ["internal_error"]
    assert [row["outcome"] for row in await gw.rows(2)] == ["ok", "ok"]
    assert len(upstream.seen) == 2


async def test_nobody_boards_while_somebody_rests(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream) + provider("second", second))
    upstream.answers(lambda seen: good(CHAT))
    second.plays(plain(CHAT.error("overloaded_error", "No."), status=529))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    for model in ("first", "first", "second", "first"):
        await client.request(CHAT, CHAT.request(model))
        await client.answer()
    assert [ride is not None for ride in boarded] == [False, True, False, False]


async def test_a_pin_that_leads_elsewhere_is_for_the_way_of_all(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(
        provider("first", upstream) + provider("second", second) + '[aliases]\nchain = ["first", "second"]\n'
    )
    upstream.answers(lambda seen: good(CHAT))
    second.answers(lambda seen: good(CHAT, "From the second."))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    asked = CHAT.request("chain") | {"messages": [{"role": "user", "content": "Hello."}] * 2}
    for _ in range(2):
        await client.request(CHAT, asked)
        await client.answer()
    assert gw.app is not None
    affinity = gw.app.gateway.current.world.affinity
    (conversation,) = affinity._pins
    plans = [track.plan for track in gw.app.gateway.current.tracks.values()]
    affinity.pin(conversation, plans[0].chain[1].candidate, gw.app.gateway.clock())
    await client.request(CHAT, asked)
    assert b"From the second." in (await client.answer())[2]
    assert [ride is not None for ride in boarded] == [False, True, False]


# -- keys, limits and budgets ------------------------------------------------------------------------------------


def keyed_table(upstream: ScriptedUpstream, limits: dict[str, int]) -> str:
    project = '[projects.team]\nbudget = { limit = 1, period = "monthly", alert = 0.8 }\n'
    return provider("first", upstream, models={"first": PRICES["first"]}) + project + inline(limits) + "\n"


BEHIND = pytest.mark.parametrize("cuts", [(), (0, 9)], ids=["body with its head", "body behind its head"])


@BEHIND
async def test_limits_and_budgets_hold_as_on_the_way_of_all(
    cuts: tuple[int, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boarded = rides(monkeypatch, "join" if cuts else "board")
    seen = []
    for name in ("short", "of-all"):
        if name == "of-all":
            nobody_boards(monkeypatch)
        (home / name).mkdir()
        async with (
            ScriptedUpstream() as upstream,
            gateway(keyed_table(upstream, {"rpm": 3, "tpm": 100_000, "parallel": 2}), home / name) as gw,
        ):
            upstream.answers(lambda seen: good(CHAT))
            key = await make(gw, project="team")
            client = await gw.connect()
            told_client = []
            for number in range(4):
                bearer = f"Authorization: {key.bearer['Authorization']}"
                if cuts and number < 3:
                    await sent_behind(gw, client, CHAT, ASKED, *cuts, headers=(bearer,))
                else:
                    await client.request(CHAT, ASKED, bearer)
                status, headers, _ = await client.answer()
                limits = {it: value for it, value in headers.items() if "limit" in it and "reset" not in it}
                told_client.append((status, limits, headers.get("x-nyuro-cost")))
            await gw.settled()
            assert gw.app is not None
            (gate,) = {gw.app.gateway.current.gate}
            account = gate.books.accounts["project:team"]
            meter = gate.books.meters["project:team"]
            books = account.spent, account.reserved, meter.running, meter.reserved, meter.tokens.used
            rows = [told(row) | {"key_id": None} for row in await gw.rows(4)]
            for row in rows:
                (row["facts"] or {}).pop("conversation", None)  # it goes by the key
            seen.append((told_client, books, rows))
    assert [ride is not None for ride in boarded] == [False, True, True, *([] if cuts else [False])]
    assert seen[0] == seen[1]
    assert [status for status, *_ in seen[0][0]] == [200, 200, 200, 429]


# -- what ends it ------------------------------------------------------------------------------------------------


async def riding(gw: Running, upstream: ScriptedUpstream, *cuts: int) -> RawClient:
    """A client whose second request waits for its answer."""
    client = await gw.connect()
    upstream.plays(good(CHAT), [SILENCE])
    await client.request(CHAT, ASKED)
    await client.answer()
    await (sent_behind(gw, client, CHAT, ASKED, *cuts) if cuts else client.request(CHAT, ASKED))
    await upstream.asked(2)
    assert gw.app is not None
    (ride,) = gw.app.gateway.calls
    assert isinstance(ride, Call if cuts else Ride)
    return client


async def left(gw: Running, upstream: ScriptedUpstream, *cuts: int) -> None:
    client = await riding(gw, upstream, *cuts)
    client.leave()
    await gw.quiet()


@BEHIND
async def test_a_client_that_leaves_is_recorded_with_where_it_was(
    cuts: tuple[int, ...], upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    await left(gw, upstream, *cuts)
    row = (await gw.rows(2))[-1]
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", "first_byte")
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["client_closed"]
    async with asyncio.timeout(5):
        await upstream.seen[1].gone.wait()


@BEHIND
async def test_a_shutdown_tells_the_client(cuts: tuple[int, ...], upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    client = await riding(gw, upstream, *cuts)
    assert gw.app is not None
    gw.app.gateway.cut()
    status, _, said = await client.answer()
    assert (status, b"shutting down" in said) == (503, True)
    await gw.quiet()
    row = (await gw.rows(2))[-1]
    assert (row["status"], row["outcome"]) == (503, "gateway_overloaded")


ANSWER = b"".join(step for step in good(CHAT) if isinstance(step, bytes))
MEANWHILE: dict[str, Callable[[Ride], None]] = {
    "the connection ends": lambda ride: ride.lost(None),
    "its time is over": lambda ride: ride.look(ride.gateway.relay.agenda.now()),
    "nothing happens": lambda ride: None,
}


@pytest.mark.parametrize("happens", MEANWHILE.values(), ids=MEANWHILE)
@pytest.mark.parametrize("pieces", [(ANSWER,), (ANSWER[:30], ANSWER[30:])], ids=["in one", "in two"])
async def test_an_answer_that_waits_for_its_turn_s_end_has_come(
    pieces: tuple[bytes, ...], happens: Callable[[Ride], None], upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gw = await start(provider("first", upstream))
    client = await riding(gw, upstream)
    assert gw.app is not None
    (ride,) = gw.app.gateway.calls
    assert isinstance(ride, Ride)
    crowd(monkeypatch)
    for data in pieces:
        ride.received(data)
    assert (ride.left, ride.unread) == (None, ANSWER)
    happens(ride)
    status, _, body = await client.answer()
    assert (status, b"Hello." in body) == (200, True)
    await gw.quiet()
    assert [row["outcome"] for row in await gw.rows(2)] == ["ok", "ok"]


async def test_what_waits_for_its_turn_s_end_is_nothing_to_a_client_that_left(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream))
    await riding(gw, upstream)
    assert gw.app is not None
    (ride,) = gw.app.gateway.calls
    assert isinstance(ride, Ride)
    crowd(monkeypatch)
    ride.received(ANSWER)
    ride.interrupted(asyncio.CancelledError())
    ride.wakes()
    await gw.quiet()
    assert [row["outcome"] for row in await gw.rows(2)] == ["ok", "client_closed"]


@BEHIND
async def test_nothing_is_held_when_all_have_ended(
    cuts: tuple[int, ...], upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    await left(gw, upstream, *cuts)
    assert gw.app is not None
    gateway = gw.app.gateway
    (track,) = gateway.current.tracks.values()
    assert (gateway.turnstile.inside, gateway.turnstile.held, gateway.current.users) == (0, 0, 0)
    assert track.in_flight.value == 0
    await settles(lambda: track.upstream._slots.take_at_once())
    assert not any(gateway.relay.agenda._pages.values())


@pytest.mark.parametrize("goes", ["short", "of all"])
async def test_an_attempt_begins_when_the_body_was_here(
    goes: str, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    joined = rides(monkeypatch, "join")
    if goes == "of all":
        nobody_boards(monkeypatch)
    client = await gw.connect()
    for _ in range(2):
        await client.request(CHAT, ASKED)
        await client.answer()
    waited: list[float] = []
    for _ in range(2):
        await client.request(CHAT, ASKED, cut=7)
        await settles(lambda: gw.app is not None and bool(gw.app.gateway.running))
        head_came = time.monotonic()
        await asyncio.sleep(0.05)
        waited.append(time.monotonic() - head_came)
        await client.send(orjson.dumps(ASKED)[7:])
        await client.answer()
    for row, seconds in zip((await gw.rows(4))[-2:], waited, strict=True):
        (attempt,) = row["attempts"]
        assert attempt["started_ms"] >= int(seconds * 1000) - 1
        assert attempt["started_ms"] + attempt["ttfb_ms"] <= row["ttfb_ms"]
        assert attempt["started_ms"] + attempt["duration_ms"] <= row["duration_ms"]
    assert [ride is not None for ride in joined] == ([True, True] if goes == "short" else [])


# -- what the way of all would not have let pass -----------------------------------------------------------------


async def asks(client: RawClient, document: Any, tongue: Tongue = CHAT) -> tuple[int, bytes]:
    await client.request(tongue, document)
    status, _, said = await client.answer()
    return status, said


async def test_a_body_beyond_the_limit_does_not_board(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream), server='max_body = "1KiB"')
    upstream.answers(lambda seen: good(CHAT))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    large = ASKED | {"messages": [{"role": "user", "content": "Say hello. " * 100}]}
    assert [(await asks(client, asked))[0] for asked in (ASKED, ASKED, large)] == [200, 200, 413]
    assert [ride is not None for ride in boarded] == [False, True, False]


async def test_who_is_on_trial_is_asked_once_at_a_time(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(chained("", upstream, second, CHAT))
    upstream.plays(good(CHAT), [SILENCE])
    second.answers(lambda seen: good(CHAT, "From the second."))
    boarded = rides(monkeypatch)
    client, other = await gw.connect(), await gw.connect()
    assert (await asks(client, CHAT.request("chain")))[0] == 200
    assert gw.app is not None
    world, long_ago = gw.app.gateway.current.world, gw.app.gateway.clock() - 1000
    (track,) = gw.app.gateway.current.tracks.values()
    for _ in range(world.health.limits.failures):
        world.health.failed(track.candidate, 0, UpstreamBroken("No."), long_ago)
    await client.request(CHAT, CHAT.request("chain"))
    await upstream.asked(2)
    assert b"From the second." in (await asks(other, CHAT.request("chain")))[1]
    assert [ride is not None for ride in boarded] == [False, False, False]


async def test_no_attempt_begins_behind_the_deadline_of_the_first(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(chained('answer = "200ms"', upstream, second, CHAT) + '[retry]\ndeadline = "100ms"\n')
    upstream.plays(good(CHAT), [SILENCE])
    second.plays(good(CHAT, "From the second."))
    boarded = rides(monkeypatch)
    client = await gw.connect()
    assert [(await asks(client, CHAT.request("chain")))[0] for _ in range(2)] == [200, 504]
    assert [ride is not None for ride in boarded] == [False, True]
    assert not second.seen


async def test_its_time_begins_before_it_is_looked_at(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    looked: list[float] = []

    def noted(*args: Any) -> Visitor:
        looked.append(time.monotonic())
        return visitor_of(*args)

    monkeypatch.setattr("proxy.server.express.boarding.visitor_of", noted)
    boarded = rides(monkeypatch)
    client = await gw.connect()
    for _ in range(2):
        await asks(client, ASKED)
    ride = boarded[1]
    assert ride is not None
    assert ride.started <= looked[0]


NESTED = {"past what one JSON writer takes": 300, "past what any takes": 1000}  # levels


@pytest.mark.parametrize("levels", NESTED.values(), ids=NESTED)
async def test_a_member_that_is_nested_past_all_sense_is_answered_as_on_the_way_of_all(
    levels: int, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, MESSAGES))
    upstream.answers(lambda seen: good(MESSAGES))
    client = await gw.connect()
    await asks(client, ASKED)
    whole = orjson.dumps(ASKED)[:-1] + b',"more":' + b"[" * levels + b"]" * levels + b"}"
    short = await asks(client, whole)
    nobody_boards(monkeypatch)
    of_all = await asks(client, whole)
    assert (short[0], OWN.sub(b"", short[1])) == (of_all[0], OWN.sub(b"", of_all[1]))


# -- what is kept ------------------------------------------------------------------------------------------------


async def test_names_that_only_a_pattern_covers_are_counted_together(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, more='models = ["any-*"]'))
    upstream.answers(lambda seen: good(CHAT))
    client = await gw.connect()
    for number in range(5):
        for _ in range(2):
            assert (await asks(client, CHAT.request(f"any-{number}")))[0] == 200
    assert gw.app is not None
    assert len(gw.app.gateway.current.tracks) == 5
    assert len(gw.app.gateway.express._tallies) == 1
    text = gw.app.metrics.render().decode()
    assert re.search(r'pointsman_requests_total\{surface="chat",model="other",provider="first",.*\} 10', text)


async def test_documents_of_many_or_long_names_are_not_remembered(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.answers(lambda seen: good(CHAT))
    client = await gw.connect()
    await asks(client, ASKED)
    many = ASKED | {f"m{number}": 0 for number in range(200)}
    before = len(outline._known)
    for number in range(3):
        assert (await asks(client, many | {f"n{number}": 0}))[0] == 200
        assert (await asks(client, ASKED | {f"{number}" * 3000: 0}))[0] == 200
    assert len(outline._known) == before


async def test_a_provider_s_limits_pass_where_ours_have_nothing_to_tell(home: Path, monkeypatch: Any) -> None:
    seen = []
    boarded = rides(monkeypatch)
    async with ScriptedUpstream() as upstream, gateway(keyed_table(upstream, {"parallel": 2}), home) as gw:
        upstream.answers(lambda seen: good(CHAT, x_ratelimit_limit_requests="5"))
        key = await make(gw, project="team")
        client = await gw.connect()
        for _ in range(2):
            await client.request(CHAT, ASKED, f"Authorization: {key.bearer['Authorization']}")
            _, headers, _ = await client.answer()
            seen.append(headers.get("x-ratelimit-limit-requests"))
    assert [ride is not None for ride in boarded] == [False, True]
    assert seen == ["5", "5"]
