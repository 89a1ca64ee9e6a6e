"""Many at once on the short way and off it, with clients that leave and a provider that fails: whatever became of them,
nothing is held afterwards, and the books agree with the ledger."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import orjson
import pytest
from crowd import CROWDS, crowd
from gateway import RawClient, Running, Start, provider
from keyed import make
from playbook import CHAT, MESSAGES, Tongue
from riding import CALM, PLACES, frames, held_is_nothing, nobody_boards
from upstream import CUT, RESET, SILENCE, Script, ScriptedUpstream, Seen, head, plain, streamed

from proxy.server import billing
from proxy.server.express.boarding import Express
from proxy.server.express.ride import Ride
from proxy.server.gateway import Gateway
from proxy.server.ledger import Ledger
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.overload import Turnstile
from proxy.server.starting import LEDGER
from proxy.server.upstream.at_hand import AtHand
from proxy.server.upstream.slots import Slots

LOOPS = ("uvloop",)
CLIENTS, EACH = 12, 20
TABLE = f"""\
[timeouts]
answer = "300ms"
first_event = "300ms"
{CALM.format(parallel=CLIENTS)}"""


def script(tongue: Tongue, seen: Seen, dice: Random) -> Script:
    stream = b'"stream":true' in seen.body
    good = streamed(tongue.stream("Hello", " there.")) if stream else plain(tongue.answer("Hello."))
    half: Script = [head(Content_Length=1000) + b'{"a', CUT]
    no = plain(tongue.error("invalid_request_error", "No."), status=400)
    scripts: list[Script] = [good, [0.01, *good], [CUT], [RESET], [SILENCE], half, no]
    return dice.choices(scripts, (85, 5, 2, 2, 1, 2, 3))[0]


async def asks(gw: Running, key: str, dice: Random) -> None:
    """One request after the other; some are left before their end."""
    client = await gw.connect()
    for _ in range(EACH):
        asked = orjson.dumps(CHAT.request("first", stream=dice.random() < 0.4))
        cut = dice.randrange(len(asked)) if dice.random() < 0.5 else None
        await client.request(CHAT, asked, f"Authorization: {key}", cut=cut)
        if cut is not None:
            for _ in range(dice.randrange(10)):
                await asyncio.sleep(0)
            await client.send(asked[cut:])
        if dice.random() < 0.1:
            for _ in range(dice.randrange(30)):
                await asyncio.sleep(0)
            client.leave()
            client = await gw.connect()
        elif not await whole(client):
            client.leave()
            client = await gw.connect()


async def whole(client: RawClient) -> bool:
    """Whether an answer came, and the connection stays."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        first = (await client.until(b"\r\n\r\n")).lower()
        if b"chunked" in first:
            await client.until(b"\r\n0\r\n\r\n")
        else:
            await client.reader.readexactly(int(first.partition(b"content-length: ")[2].partition(b"\r")[0]))
        return b"connection: close" not in first
    return False


@pytest.mark.parametrize("crowded", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("theirs", [CHAT, pytest.param(MESSAGES, marks=pytest.mark.slow)], ids=["chat", "messages"])
async def test_nothing_is_held_whatever_became_of_them(
    theirs: Tongue, crowded: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    if crowded:
        crowd(monkeypatch)
    price = {"first": "price = { input = 2.5, output = 10 }"}
    gw = await start(TABLE + provider("first", upstream, theirs, models=price, more=f"connections = {PLACES}"))
    dice, boarded, board = Random(7), list[bool](), Express.board
    upstream.answers(lambda seen: script(theirs, seen, dice))

    def noted(self: Express, *args: Any) -> Ride | None:
        ride = board(self, *args)
        boarded.append(ride is not None)
        return ride

    monkeypatch.setattr(Express, "board", noted)
    key = (await make(gw, project="team")).bearer["Authorization"]
    await asyncio.gather(*(asks(gw, key, Random(number)) for number in range(CLIENTS)))
    assert sum(boarded) > EACH
    account = await held_is_nothing(gw)
    rows = await gw.rows(len(boarded))
    assert len(rows) == len(boarded)
    assert sum(row["charged_nanos"] for row in rows) == account.spent


WAYS = {"on the short way": True, "on the way of all": False}
GIVES_BACK = {
    "the place in the process": (Turnstile, "alight"),
    "the place at the provider": (Slots, "release"),
    "the provider's connection": (AtHand, "put"),
    "the row": (Ledger, "record"),
    "what it cost": (billing, "tokens_used"),
    "what is counted of it": (Gateway, "_count"),
}
RIDES_WITHOUT = ("tokens_used", "_count")


@pytest.mark.parametrize("crowded", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("short", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("owner", "gives_back"), GIVES_BACK.values(), ids=GIVES_BACK)
async def test_a_fault_of_ours_as_something_is_given_back_keeps_nothing_of_the_rest(
    owner: Any, gives_back: str, short: bool, stream: bool, crowded: bool, upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The fault comes when that is done."""
    if crowded:
        crowd(monkeypatch)
    price = {"first": "price = { input = 2.5, output = 10 }"}
    gw = await start(TABLE + provider("first", upstream, models=price, more=f"connections = {PLACES}"))
    good = streamed(frames(CHAT)) if stream else plain(CHAT.answer("Hello."))
    upstream.answers(lambda seen: good)
    key = (await make(gw, project="team")).bearer["Authorization"]
    works, faults = getattr(owner, gives_back), list[bool]()

    def fails(*given: Any) -> None:
        works(*given)
        faults.append(True)
        raise ZeroDivisionError

    if not short:
        nobody_boards(monkeypatch)
    for turn in range(3):
        client = await gw.connect()
        with monkeypatch.context() as patched:
            if turn == 1:
                patched.setattr(owner, gives_back, fails)
            await client.request(CHAT, CHAT.request("first", stream=stream), f"Authorization: {key}")
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await whole(client)
            await gw.quiet()
        client.leave()
    assert bool(faults) is not (short and gives_back in RIDES_WITHOUT)
    account = await held_is_nothing(gw)
    await gw.settled()
    rows = Decisions(gw.state / LEDGER).page(Filter(), 10).rows
    assert len(rows) == 3
    assert sum(row["charged_nanos"] for row in rows) == account.spent
