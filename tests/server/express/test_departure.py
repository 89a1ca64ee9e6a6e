"""Faults of ours as a request departs: what was taken for it is given back once, whichever step fails."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import RawClient, Running, Start, provider, sent_behind
from keyed import make
from playbook import CHAT
from riding import CALM, PLACES, answer, frames, held_is_nothing
from shares import product_of
from upstream import Script, ScriptedUpstream, plain, streamed

from proxy.accounts.limits import Meter
from proxy.server.express import departure
from proxy.server.express.course import Course
from proxy.server.express.fare import Fare
from proxy.server.express.ride import Ride
from proxy.server.express.strangers import Strangers
from proxy.server.ledger import Ledger
from proxy.server.overload import Turnstile
from proxy.server.upstream.lean import LeanReply
from proxy.server.upstream.session import LeanUpstream
from proxy.server.watchdog import Agenda

LOOPS = ("uvloop",)
GOOD: dict[bool, Script] = {False: plain(CHAT.answer("Hello.")), True: streamed(frames(CHAT))}
# Of those that take something the fault comes before they do, of the others also when all is done.
STEPS: dict[str, tuple[Any, str, bool]] = {
    "before a place at the provider": (LeanUpstream, "place", False),
    "before a place in the process": (Turnstile, "board", False),
    "before leave of a limit": (Meter, "boards", False),
    "before the provider is asked": (LeanUpstream, "asked", False),
    "before a page of the agenda": (Agenda, "put", False),
    "before it has begun": (departure, "_begun", False),
    "when it has begun": (departure, "_begun", True),
    "before a note of what is reserved": (Ledger, "lease", False),
    "behind a note of what is reserved": (Ledger, "lease", True),
    "before the course of a stream": (Course, "of", False),
    "before a course has the stream": (Course, "serves", False),
    "before the answer is for it": (LeanReply, "lend", False),
    "when the answer is for it": (LeanReply, "lend", True),
    "before its conversation is known": (Ride, "recognizes", False),
    "before its conversation is to be known": (Strangers, "add", False),
    "when its conversation is to be known": (Strangers, "add", True),
}
OF_BOTH = ("board", "boards", "put")  # the way of all has taken these, or another one comes first, behind a head
BEFORE_ALL = ("place",)  # nothing was taken, and the way of all has no fault
OF_STREAMS = ("of", "serves", "add")
KINDS = {"plain": False, "streamed": True}
BODIES = {"body with its head": False, "body behind its head": True}


def is_taken(at: tuple[Any, str, bool], stream: bool, behind: bool) -> bool:
    """Whether such a departure takes that step."""
    return (stream or at[1] not in OF_STREAMS) and not (behind and at[1] in OF_BOTH)


CASES = [case for case in product_of(STEPS, KINDS, BODIES, fast=1, of=3) if is_taken(*case.values)]


class Rider:
    """A client of a team with limits and a budget, whose requests ride."""

    def __init__(self, gw: Running, client: RawClient, key: str, *, stream: bool, behind: bool) -> None:
        self._gw, self._client, self._key = gw, client, f"Authorization: {key}"
        self._asked, self._behind = CHAT.request("first", stream=stream), behind

    async def asks(self) -> bytes:
        """The first line of the answer."""
        if self._behind:
            await sent_behind(self._gw, self._client, CHAT, self._asked, 0, headers=(self._key,))
        else:
            await self._client.request(CHAT, self._asked, self._key)
        status: bytes = (await answer(self._client))[0]
        return status


async def rider(start: Start, upstream: ScriptedUpstream, *, stream: bool, behind: bool) -> tuple[Running, Rider]:
    price = {"first": "price = { input = 2.5, output = 10 }"}
    gw = await start(
        CALM.format(parallel=4) + provider("first", upstream, models=price, more=f"connections = {PLACES}")
    )
    upstream.answers(lambda seen: GOOD[stream])
    key = (await make(gw, project="team")).bearer["Authorization"]
    found = Rider(gw, await gw.connect(), key, stream=stream, behind=behind)
    for _ in range(2):
        assert b" 200 " in await found.asks()
    return gw, found


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, done: bool) -> list[bool]:
    """Whether it has."""
    works, faults = getattr(owner, name), list[bool]()

    def fails(*given: Any) -> Any:
        if faults:
            return works(*given)
        faults.append(True)
        if done:
            works(*given)
        raise ZeroDivisionError

    monkeypatch.setattr(owner, name, fails)
    return faults


@pytest.mark.parametrize(("at", "stream", "behind"), CASES)
async def test_a_fault_of_ours_is_answered_and_keeps_nothing(
    at: tuple[Any, str, bool], stream: bool, behind: bool, upstream: ScriptedUpstream, start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By the way of all where that has not let it in yet, and else by saying so."""
    owner, step, done = at
    gw, client = await rider(start, upstream, stream=stream, behind=behind)
    faults, before = fails_once(monkeypatch, owner, step, done=done), len(upstream.seen)
    status = await client.asks()
    told = behind and step not in BEFORE_ALL and not (stream and step == "recognizes")
    assert (b" 500 " if told else b" 200 ") in status
    assert faults
    await held_is_nothing(gw)
    assert len(upstream.seen) - before <= 2
    assert b" 200 " in await client.asks()
    account = await held_is_nothing(gw)
    rows = await gw.rows(4)
    assert gw.app is not None
    assert sum(lease[3] for lease in gw.app.ledger._leases.values()) == 0
    assert sum(row["charged_nanos"] for row in rows) == account.spent


@pytest.mark.parametrize("behind", BODIES.values(), ids=BODIES)
async def test_a_fault_of_ours_as_one_is_refused_gives_its_place_back_once(
    behind: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw, client = await rider(start, upstream, stream=False, behind=behind)
    with monkeypatch.context() as patched:
        patched.setattr(Fare, "_has_leave", lambda self, now: False)
        faults = fails_once(patched, LeanUpstream, "leaves", done=True)
        assert b" 200 " in await client.asks()
    assert faults
    await held_is_nothing(gw)
