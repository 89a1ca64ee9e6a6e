"""200 calls at once against what holds three of them: some are answered, whole or streamed, some fail, before their
answer begins and in its middle, and some are left by their callers, all in a random order and all at the same time.

**What exactly three means.** A call holds its place from the moment it is let through until it is settled. What it was
charged then stays taken; the rest is given back. So of a budget, or of tokens per minute, that fit three calls

- at no moment more is taken than there is, by calls under way and by settled ones together;
- a call that fails, or is left, makes room for exactly one other, and one that was answered for none;
- in the end three were answered, no fewer and no more, as long as there were callers who tried.

Of requests at a time three are under way at most, and each that ends, however it ends, makes room for exactly one. Of
requests per minute three are let in, whatever becomes of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from attrs import define, field
from gateway import Running, Start, provider, settles
from keyed import Made, make
from ledger_sums import spent
from limited import inline, stopped
from playbook import CHAT, chunk
from shares import product_of
from upstream import CUT, RESET, SILENCE, Reached, Script, ScriptedUpstream, Seen, Step, plain, streamed

AT_ONCE, THREE = 200, 3
READS, WRITES = 3, 50  # tokens of a call: estimated, reserved, and used by one that is answered
PRICE = "price = { input = 0, output = 100 }"  # so that a call that wrote nothing costs nothing
USAGE = {"prompt_tokens": READS, "completion_tokens": WRITES, "total_tokens": READS + WRITES}
ROOM = 3.9  # calls: three fit, and what broken answers have taken, but no fourth
BATCH = 6  # callers that try again whenever there is room
HELLO = CHAT.text("Hello.")

Played = Callable[[], Script]
FATES: dict[
    str, tuple[int, bool, Played]
] = {  # how many callers, whether they ask for a stream, what is played to them
    "answered": (10, False, lambda: plain({**CHAT.answer("Hello."), "usage": USAGE})),
    "streamed": (10, True, lambda: streamed([CHAT.start, HELLO, CHAT.finish, chunk(None, usage=USAGE), CHAT.end])),
    "refused": (30, False, lambda: plain(CHAT.error("invalid_request_error", "No."), 400)),
    "refused stream": (25, True, lambda: plain(CHAT.error("server_error", "Down."), 503)),
    "torn down": (30, False, lambda: [RESET]),
    "cut before its content": (30, True, lambda: streamed([CHAT.start, CUT], last=False)),
    "cut after its content": (4, True, lambda: streamed([CHAT.start, HELLO, CUT], last=False)),
    "left while it waits": (30, False, lambda: [SILENCE]),
    "left while a stream waits": (27, True, lambda: streamed([CHAT.start, SILENCE], last=False)),
    "left in the middle": (4, True, lambda: streamed([CHAT.start, HELLO, SILENCE], last=False)),
}
assert sum(count for count, _, _ in FATES.values()) == AT_ONCE
ANSWERED = ("answered", "streamed")
KEPT_OUT = (402, 429)


@define(eq=False)
class Caller:
    number: int
    fate: str
    key: Made
    taken: asyncio.Event = field(factory=asyncio.Event)  # the provider has its call
    judged: asyncio.Event = field(factory=asyncio.Event)  # it is let through or not
    over: asyncio.Event = field(factory=asyncio.Event)  # the provider begins its last words, or the caller leaves
    status: int = 0
    body: bytes = b""


@define(eq=False)
class Crowd:
    """The callers, and what is seen of them on both sides of the gateway."""

    gw: Running
    rng: Random
    callers: list[Caller]
    holds: Callable[[], None]  # asserts what is to hold at every moment
    most: int = 0  # calls that certainly were under way at a time
    open: list[Caller] = field(factory=list)
    turned_away: list[Caller] = field(factory=list)
    tasks: list[asyncio.Task[None]] = field(factory=list)

    def played(self, seen: Seen) -> Script:
        caller = self.callers[int(seen.json["user"])]
        caller.taken.set()
        caller.judged.set()
        self.open = [other for other in self.open if not other.over.is_set()] + [caller]
        self.most = max(self.most, len(self.open))
        self.holds()
        turns: list[Step] = [0.0] * self.rng.randrange(30)
        last = [] if caller.fate.startswith("left") else [Reached(caller.over)]
        return [*turns, *last, *FATES[caller.fate][2]()]

    async def try_all(self, callers: Iterable[Caller]) -> None:
        """All at once; returns when each is let through or turned away."""
        trying = list(callers)
        for caller in trying:
            caller.judged.clear()
            caller.status = 0
            self.tasks.append(asyncio.ensure_future(self._call(caller)))
        await asyncio.gather(*(caller.judged.wait() for caller in trying))

    async def _call(self, caller: Caller) -> None:
        stream = FATES[caller.fate][1]
        client = await self.gw.connect()
        asked = CHAT.request("first", stream=stream, max_tokens=WRITES, user=str(caller.number))
        await client.request(CHAT, asked, f"Authorization: Bearer {caller.key.whole}", "Connection: close")
        if caller.fate.startswith("left while"):
            reading = asyncio.ensure_future(client.until(b"\r\n\r\n"))
            taking = asyncio.ensure_future(caller.taken.wait())
            await asyncio.wait((reading, taking), return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
            reading.cancel()
            (head,) = await asyncio.gather(reading, return_exceptions=True)
            caller.status = int(head.split()[1]) if isinstance(head, bytes) else 0
        else:
            caller.status = int((await client.until(b"\r\n\r\n")).split()[1])
            middle = caller.fate == "left in the middle" and caller.status == 200
            caller.body = await (client.until(b"Hello.") if middle else client.rest())
        caller.over.set()
        client.leave()
        if caller.status in KEPT_OUT:
            self.turned_away.append(caller)
        caller.judged.set()

    async def play(self, has_room: Callable[[], bool]) -> None:
        """All at once, and whoever is turned away again while there is room."""
        app = self.gw.app
        assert app is not None
        await self.try_all(self.callers)
        while True:
            await settles(lambda: has_room() or not app.gateway.running)
            if not self.turned_away or not has_room():
                break
            self.rng.shuffle(self.turned_away)
            again, self.turned_away = self.turned_away[:BATCH], self.turned_away[BATCH:]
            await self.try_all(again)
        await asyncio.gather(*self.tasks)
        await self.gw.quiet()

    def through(self) -> Counter[str]:
        """Fates of those who were let through."""
        away = set(map(id, self.turned_away))
        return Counter(caller.fate for caller in self.callers if id(caller) not in away)


def check_what_callers_got(crowd: Crowd) -> None:
    """Every caller has what its fate makes of a call, and nobody got another's answer."""
    away = set(map(id, crowd.turned_away))
    expected = {"answered": 200, "streamed": 200, "refused": 400, "refused stream": 503, "torn down": 502,
                "cut before its content": 502, "cut after its content": 200, "left in the middle": 200}  # fmt: skip
    for caller in crowd.callers:
        if id(caller) in away:
            assert not caller.taken.is_set()
        elif not caller.fate.startswith("left while"):
            assert caller.status == expected[caller.fate], (caller.fate, caller.body)
    for caller in crowd.callers:
        if caller.fate == "streamed" and caller.status == 200:
            assert b"[DONE]" in caller.body
        if caller.fate == "cut after its content" and caller.status == 200:
            assert b'"error"' in caller.body
            assert b"[DONE]" not in caller.body


TABLE = "[retry]\ntries = 1\n[health]\nfailures = 100000\nvolume = 100000\n"


async def crowd_of(
    start: Start, upstream: ScriptedUpstream, seed: int, of_model: str = "", of_project: str = "", **wanted: Any
) -> Crowd:
    """`wanted` is the one key's; without it four keys share the project."""
    rng = Random(seed)
    models = {"first": f"{PRICE}\n{of_model}"}
    gw = await start(provider("first", upstream, models=models) + TABLE + f"[projects.x]\n{of_project}\n")
    stopped(gw)
    keys = [await make(gw, f"k{n}", project="x", **wanted) for n in range(1 if wanted else 4)]
    fates = [fate for fate, (count, _, _) in FATES.items() for _ in range(count)]
    rng.shuffle(fates)
    callers = [Caller(number, fate, rng.choice(keys)) for number, fate in enumerate(fates)]
    crowd = Crowd(gw, rng, callers, lambda: None)
    upstream.answers(crowd.played)
    return crowd


SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))]
CALL = WRITES * 100_000  # nano-USD
LIMIT = {"limit": f"{ROOM * CALL / 1e9:.9f}"}
OF_PROJECT = f"budget = {{ limit = {ROOM * CALL / 1e9:.9f} }}"
BUDGETS: dict[str, tuple[str, dict[str, Any]]] = {  # of the project, of the key
    "a key": ("", {"budget": LIMIT}),
    "a project with several keys": (OF_PROJECT, {}),
    "a key within its project's": ("budget = { limit = 1 }", {"budget": LIMIT}),
    "a project within its key's": (OF_PROJECT, {"budget": {"limit": 1}}),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("of_project", "wanted"), BUDGETS.values(), ids=BUDGETS)
async def test_a_budget_that_fits_three_answers_three_whatever_becomes_of_the_others(
    of_project: str, wanted: dict[str, Any], seed: int, start: Start, upstream: ScriptedUpstream
) -> None:
    crowd = await crowd_of(start, upstream, seed, of_project=of_project, **wanted)
    gw = crowd.gw
    assert gw.app is not None
    books = gw.app.books
    most = round(ROOM * CALL)

    def within_the_limit() -> None:
        for account in books.accounts.values():
            assert account.terms is None or account.spent + account.reserved <= account.terms.limit_nanos

    crowd.holds = within_the_limit
    await crowd.play(lambda: all(account.holds(CALL) for account in books.accounts.values()))
    check_what_callers_got(crowd)
    through = crowd.through()
    assert sum(through[fate] for fate in ANSWERED) == THREE, through
    assert crowd.most == THREE
    assert crowd.turned_away
    assert sum(through.values()) > THREE + BATCH  # many failed or left, and others took their places
    await gw.settled()
    kept = spent(gw.state)  # which are the sums over the rows
    assert set(kept) == {"project:x", *(f"key:{caller.key.id}" for caller in crowd.callers)} or not wanted
    for name, account in books.accounts.items():
        assert (account.spent, account.reserved) == (kept[name], 0)
    assert THREE * CALL <= kept["project:x"] <= most


LIMITS = {
    "tokens per minute": {"tpm": int(ROOM * (READS + WRITES))},
    "requests at a time": {"parallel": THREE},
    "requests per minute": {"rpm": THREE},
}
SCOPES = {f"of a {scope}": scope for scope in ("key", "project", "model")}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("limit", "scope"), product_of(LIMITS, SCOPES, fast=1, of=3))
async def test_a_limit_of_three_holds_whatever_becomes_of_a_call(
    limit: dict[str, int], scope: str, seed: int, start: Start, upstream: ScriptedUpstream
) -> None:
    of_model, of_project = (inline(limit) if scope == one else "" for one in ("model", "project"))
    wanted = {"limits": limit} if scope == "key" else {}
    crowd = await crowd_of(start, upstream, seed, of_model, of_project, **wanted)
    gw = crowd.gw
    assert gw.app is not None
    meters, clock = gw.app.books.meters, gw.app.gateway.clock
    if of_model:
        gw.app.gateway.current.gate.model_meter("first")

    def within_the_limit() -> None:
        for meter in meters.values():
            terms = meter.terms
            assert terms.parallel is None or meter.running <= terms.parallel
            assert terms.tpm is None or meter.tokens.used + meter.reserved <= terms.tpm
            assert terms.rpm is None or meter.requests.used <= terms.rpm

    def has_room() -> bool:
        return all(
            meter.refusal(clock()) is None and meter.token_refusal(READS + WRITES, clock()) is None
            for meter in meters.values()
        )

    crowd.holds = within_the_limit
    await crowd.play(has_room)
    check_what_callers_got(crowd)
    through = crowd.through()
    (meter,) = meters.values()
    assert (meter.running, meter.reserved) == (0, 0)
    assert crowd.most == THREE
    if meter.terms.rpm is not None:
        assert sum(through.values()) == THREE
    elif meter.terms.parallel is not None:
        assert through == {fate: count for fate, (count, _, _) in FATES.items()}
    else:
        assert sum(through[fate] for fate in ANSWERED) == THREE, through
        assert sum(through.values()) > THREE + BATCH
        assert THREE * (READS + WRITES) <= meter.tokens.used <= int(ROOM * (READS + WRITES))
