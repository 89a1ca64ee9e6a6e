"""Requests of one kind, one after the other, and what of them two ways through the gateway must have in common."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway import RawClient, Running, gateway, provider, sent_behind
from playbook import CHAT, MESSAGES, USAGE, Tongue, chunk
from shares import product_of
from upstream import GUARD_S, Script, ScriptedUpstream

from proxy.accounts.budget import Account
from proxy.server.express.boarding import Express
from proxy.server.express.ride import Ride
from proxy.server.upstream import plain as upstream

# What no two requests have in common: of a record, of an answer's head, of its body.
VARYING = {"request_id", "at_ms", "ttfb_ms", "duration_ms", "started_ms", "id", "config", "plan"}
DATED = {"date", "x-request-id", "request-id", "x-nyuro-config"}
OWN = re.compile(rb"req_[0-9a-f]{32}|(?<=\"created\":)[0-9]+")
PRICES = {"first": "price = { input = 2.5, output = 10 }", "second": "price = { input = 1, output = 4 }"}
HOPS: dict[str, tuple[Tongue, Tongue]] = {  # client, provider
    "chat": (CHAT, CHAT),
    "messages": (MESSAGES, MESSAGES),
    "chat put into messages": (CHAT, MESSAGES),
    "messages put into chat": (MESSAGES, CHAT),
}
QUICK = ("chat", "chat put into messages")
EACH_HOP = [pytest.param(hop, marks=() if name in QUICK else pytest.mark.slow, id=name) for name, hop in HOPS.items()]


def over_hops(*tables: Mapping[str, Any], of: int) -> list[Any]:
    """Each combination over each hop; of `of` neighbours over the quick ones one is not slow."""
    quick, others = ({name: HOPS[name] for name in HOPS if (name in QUICK) is wanted} for wanted in (True, False))
    return [*product_of(*tables, quick, fast=1, of=of), *product_of(*tables, others, fast=0, of=1)]


TOLD = chunk(None, usage=USAGE)  # the chunk that tells the usage of a chat

# Of a play of many requests: nobody rests for failures, none is tried again, and a team's limits hold without refusing.
CALM = """
[health]
failures = 100000
volume = 100000
[retry]
tries = 1
[projects.team]
budget = {{ limit = 1000, period = "monthly", alert = 0.8 }}
limits = {{ rpm = 100000, tpm = 100000000, parallel = {parallel} }}
"""

PLACES = 40  # connections to the provider, where what is held is asked for

KNOWN_BY = 4  # requests that say the same: of the next one the turns alone are looked at

Answer = tuple[Any, dict[str, str], bytes]  # status, headers, body


def frames(tongue: Tongue, *texts: str) -> list[bytes]:
    """A good stream that tells its usage."""
    said = tongue.stream(*(texts or ("Hello", " there.")))
    return [*said[:-1], TOLD, said[-1]] if tongue is CHAT else said


def rides(monkeypatch: pytest.MonkeyPatch, by: str = "board") -> list[Ride | None]:
    """What came of each request that asked to board, or to `join`."""
    seen: list[Ride | None] = []
    board = getattr(Express, by)

    def noted(self: Express, *args: Any) -> Ride | None:
        ride: Ride | None = board(self, *args)
        seen.append(ride)
        return ride

    monkeypatch.setattr(Express, by, noted)
    return seen


def nobody_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Express, "board", lambda self, request, surface: None)
    monkeypatch.setattr(Express, "join", lambda self, call, body: None)


async def same_either_way(
    monkeypatch: pytest.MonkeyPatch, home: Path, play: Callable[[Path], Awaitable[list[Any]]], by: str = "board"
) -> None:
    """What is played goes the short way from the second request on, and shows what it does where nobody boards. From
    the fourth on the request's setting is known, so what is of interest should come behind that."""
    monkeypatch.setattr(upstream, "LINGER", GUARD_S)  # or an end that is late on a busy machine costs the connection
    boarded = rides(monkeypatch, by)
    short = await play(home / "short")
    assert [ride is not None for ride in boarded] == [False, *[True] * (len(boarded) - 1)]
    nobody_boards(monkeypatch)
    assert short == await play(home / "of-all")


def chained(timeouts: str, first: ScriptedUpstream, second: ScriptedUpstream, tongue: Tongue) -> str:
    """Two providers of one dialect, and `chain`, which is the one and then the other."""
    houses = {"first": first, "second": second}
    blocks = [provider(name, it, tongue, models={name: PRICES[name]}) for name, it in houses.items()]
    return f'[timeouts]\n{timeouts}\n{"".join(blocks)}[aliases]\nchain = ["first", "second"]\n'


async def played(
    home: Path,
    timeouts: str,
    theirs: Tongue,
    scripts: Sequence[Script],
    from_second: Script,
    exchange: Callable[[Running, RawClient], Awaitable[Answer]],
) -> list[Any]:
    """One request for each of the first provider's scripts: what the client got, what the providers were asked, what
    the record says."""
    home.mkdir()
    async with (
        ScriptedUpstream() as first,
        ScriptedUpstream() as second,
        gateway(chained(timeouts, first, second, theirs), home) as gw,
    ):
        second.plays(from_second)
        client = await gw.connect()
        seen: list[Any] = []
        for script in scripts:
            first.plays(script)
            status, headers, said = await exchange(gw, client)
            kept = {name: value for name, value in headers.items() if name not in DATED}
            seen.append((status, kept, OWN.sub(b"", said)))
        alike = {"x-pointsman-hops": "", "host": ""}
        seen.append([(it.path, it.headers | alike, it.body) for it in (*first.seen, *second.seen)])
        seen.append([told(row) for row in await gw.rows(len(scripts))])
        return seen


def told(row: dict[str, Any]) -> dict[str, Any]:
    """Of a record what two of them have in common."""
    kept = {name: value for name, value in row.items() if name not in VARYING}
    kept["plan"] = row["plan"] and {name: value for name, value in row["plan"].items() if name != "config"}
    kept["attempts"] = [
        {name: value for name, value in attempt.items() if name not in VARYING} for attempt in row["attempts"]
    ]
    return kept


def asking(spoken: Tongue, asked: dict[str, Any], *cuts: int) -> Callable[[Running, RawClient], Awaitable[Answer]]:
    """A request and its answer; its body comes behind its head if there are cuts."""

    async def exchange(gw: Running, client: RawClient) -> Answer:
        await (sent_behind(gw, client, spoken, asked, *cuts) if cuts else client.request(spoken, asked))
        return await answer(client)

    return exchange


async def answer(client: RawClient) -> Answer:
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


async def held_is_nothing(gw: Running) -> Account:
    """The team's account."""
    await gw.quiet()
    assert gw.app is not None
    gateway = gw.app.gateway
    current, books = gateway.current, gateway.current.gate.books
    account, meter = books.accounts["project:team"], books.meters["project:team"]
    house: Any = current.upstreams["first"]
    assert (gateway.turnstile.inside, gateway.turnstile.held, current.users) == (0, 0, 0)
    assert (meter.running, meter.reserved, account.reserved) == (0, 0, 0)
    assert (house._slots._free, gateway.metrics.in_flight("first").value) == (PLACES, 0)
    assert not any(gateway.relay.agenda._pages.values())
    return account
