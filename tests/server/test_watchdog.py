"""Every time limit of an attempt: over sockets with tiny limits, and the clock's own arithmetic on a clock of the
test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, evolve, field
from backlog import full_backlog
from gateway import Start, chain, provider
from playbook import MESSAGES, TONGUES, Tongue
from shares import product_of
from structlog.testing import capture_logs
from upstream import SILENCE, STREAM_HEAD, Script, ScriptedUpstream, head, piece, plain, streamed, within

from proxy.routing.table import Duration, Timeouts
from proxy.server import watchdog as watching
from proxy.server.watchdog import Agenda, Watchdog

LOOPS = ("uvloop",)
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)

# limit -> whether a stream is asked for, what the provider does
BEFORE: dict[str, tuple[str, bool, Callable[[Tongue], Script]]] = {
    "no head of a plain answer": ("answer", False, lambda t: [SILENCE]),
    "half a plain answer": ("answer", False, lambda t: [head(200, Content_Length=99) + b"{", SILENCE]),
    "half an error": ("answer", False, lambda t: [head(500, Content_Length=99) + b"{", SILENCE]),
    "no head of a stream": ("first_event", True, lambda t: [SILENCE]),
    "no event behind the head": ("first_event", True, lambda t: [STREAM_HEAD, SILENCE]),
    "no content behind the start": ("first_content", True, lambda t: [STREAM_HEAD, piece(t.start), SILENCE]),
    "no content among keep-alives": (
        "first_content", True, lambda t: [STREAM_HEAD, *[piece(t.keep_alive)] * 9, SILENCE],
    ),
    "silence behind the start": ("idle", True, lambda t: [STREAM_HEAD, piece(t.start), SILENCE]),
    "no end of the start": ("total", True, lambda t: [STREAM_HEAD, piece(t.start), SILENCE]),
}  # fmt: skip


@pytest.mark.parametrize(("before", "tongue"), product_of(BEFORE, TONGUES, fast=1, of=2))
async def test_before_content_a_limit_passes_on_to_the_next(
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
    start: Start,
    tongue: Tongue,
    before: tuple[str, bool, Callable[[Tongue], Script]],
) -> None:
    limit, stream, does = before
    limits = f'timeouts = {{ {limit} = "120ms" }}\n'
    table = provider("first", upstream, tongue, more=limits) + provider("alone", upstream, tongue, more=limits)
    gw = await start(table + provider("second", second, tongue) + chain("first", "second"))
    upstream.plays(does(tongue))
    second.plays(streamed(tongue.stream("in time")) if stream else plain(tongue.answer("in time")))
    answer = await gw.ask(tongue, "profile:chain", stream=stream)
    assert answer.status == 200
    assert b"in time" in answer.body
    await within(upstream.seen[0].gone)

    answer = await gw.ask(tongue, "alone", stream=stream)
    assert answer.status == 504
    error = answer.json["error"]
    assert error["type"] == ("timeout_error" if tongue is MESSAGES else "server_error")
    record = await gw.row(answer.request_id)
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["upstream_timeout"]
    await upstream.until(lambda it: it.open == 0)


AFTER = {"idle": "fell silent", "total": "longer than"}


@both_surfaces
@pytest.mark.parametrize("limit", AFTER)
async def test_after_content_a_limit_is_told_in_band(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, limit: str
) -> None:
    gw = await start(provider("first", upstream, tongue, more=f'timeouts = {{ {limit} = "120ms" }}'))
    upstream.plays([*streamed(tongue.stream("some")[:-2], last=False), SILENCE])
    answer = await gw.ask(tongue, stream=True)
    assert answer.status == 200
    assert tongue.read_stream(answer.body) == "some"
    assert AFTER[limit].encode() in answer.body
    assert tongue.end not in answer.body
    record = await gw.row(answer.request_id)
    assert (record["status"], record["outcome"]) == (200, "upstream_timeout")
    await upstream.until(lambda it: it.open == 0)


async def test_a_connection_that_does_not_come_about_passes_on(second: ScriptedUpstream, start: Start) -> None:
    tongue = TONGUES["chat"]
    with full_backlog() as port:
        limits = 'timeouts = { connect = "50ms" }'
        table = provider("first", f"http://127.0.0.1:{port}", more=limits) + provider("second", second)
        gw = await start(table + chain("first", "second"))
        second.plays(plain(tongue.answer("in time")))
        assert (await gw.ask(tongue, "profile:chain")).status == 200
        answer = await gw.ask(tongue, "first")
        assert answer.status == 504
        assert [attempt["outcome"] for attempt in (await gw.row(answer.request_id))["attempts"]] == ["upstream_timeout"]


LAYERS = {
    "of the table": '[timeouts]\nfirst_event = "120ms"\n',
    "of the model": '[models.m]\nprovider = "first"\ntimeouts = { first_event = "120ms" }\n',
    "of the profile": '[profiles.p]\ncandidates = ["first"]\ntimeouts = { first_event = "120ms" }\n',
}


@pytest.mark.parametrize("layer", LAYERS)
async def test_limits_may_stand_in_every_layer(upstream: ScriptedUpstream, start: Start, layer: str) -> None:
    gw = await start(provider("first", upstream) + LAYERS[layer])
    upstream.plays([SILENCE])
    model = {"of the table": "first", "of the model": "m", "of the profile": "profile:p"}[layer]
    assert (await gw.ask(TONGUES["chat"], model, stream=True)).status == 504


async def test_a_client_that_takes_nothing_is_given_up(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "STUCK_WRITE", 0.1)
    tongue = TONGUES["chat"]
    gw = await start(provider("first", upstream))
    upstream.plays([STREAM_HEAD, *[piece(tongue.text("z" * 60_000))] * 1000, SILENCE])
    client = await gw.connect()
    await client.request(tongue, tongue.request(stream=True))
    await within((await upstream.asked()).gone)
    assert upstream.sent < 60_000_000
    row = await gw.row()
    assert (row["status"], row["outcome"]) == (499, "client_closed")


# -- the arithmetic ----------------------------------------------------------------------------------------------


@define
class Timer:
    clock: Clock
    entry: tuple[float, Callable[[], Any]]

    def cancel(self) -> None:
        if self.entry in self.clock.due:
            self.clock.due.remove(self.entry)


@define
class Clock:
    """A loop as far as the watchdog sees one: it stands still between the test's moves."""

    now: float = 1000.0
    due: list[tuple[float, Callable[[], Any]]] = field(factory=list)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], Any]) -> Timer:
        self.due.append((when, callback))
        return Timer(self, (when, callback))

    def move(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and min(self.due, key=lambda e: e[0])[0] <= end:
            entry = min(self.due, key=lambda e: e[0])
            self.due.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = end

    def leap(self, seconds: float) -> None:
        """As a machine that slept meanwhile."""
        self.now += seconds
        self.move(0)


LIMITS = Timeouts(
    first_event=Duration(10), first_content=Duration(30), answer=Duration(60), idle=Duration(20), total=Duration(100)
)


@define
class Watched:
    clock: Clock = field(factory=Clock)
    told: list[str] = field(factory=list)
    limits: Timeouts = LIMITS
    plain: bool = False
    agenda: Agenda = field(init=False)

    @agenda.default
    def _agenda(self) -> Agenda:
        loop: Any = self.clock
        return Agenda(loop)

    def dog(self) -> Watchdog:
        return Watchdog(
            self.agenda, self.limits, self.told.append, lambda: self.told.append("abandoned"),
            plain=self.plain, started=self.clock.now,
        )  # fmt: skip


def test_a_fault_in_one_answers_end_keeps_no_other_from_its_own() -> None:
    watched = Watched()

    def breaks(_: str) -> None:
        raise RuntimeError("a fault of ours")

    for number in range(6):
        watched.dog()
        if number % 2:
            Watchdog(watched.agenda, LIMITS, breaks, lambda: None, plain=False, started=watched.clock.now)
    watched.clock.move(5)
    watched.dog()
    with capture_logs() as lines:
        watched.clock.move(10)
    assert watched.told == ["The provider sent no first event in time."] * 7
    assert [line["event"] for line in lines] == ["internal_error"] * 3


class Looker:
    """Notes when it is looked at, and does something then."""

    def __init__(self, agenda: Agenda, does: Callable[[], None] = lambda: None) -> None:
        self.agenda, self.does, self.looked = agenda, does, list[float]()

    def look(self, now: float) -> None:
        self.looked.append(now)
        self.does()


@pytest.mark.parametrize("late", [0, 10], ids=["one page after the other", "all at once"])
def test_who_is_struck_or_put_off_by_another_one_looked_at_is_looked_at_no_sooner(late: int) -> None:
    clock = Clock()
    loop: Any = clock
    agenda = Agenda(loop)
    struck, put_off, twice = Looker(agenda), Looker(agenda), Looker(agenda)

    def does() -> None:
        agenda.strike(struck)
        agenda.put(put_off, 1060)

    first = Looker(agenda, does)
    twice.does = lambda: agenda.put(twice, agenda.tick) if len(twice.looked) < 2 else None
    for who, when in ((struck, 1001.0), (put_off, 1001.0), (first, 1000.5), (twice, 1000.5)):
        agenda.put(who, when)
    clock.leap(late)
    clock.move(40)
    assert (len(struck.looked), len(put_off.looked), len(first.looked), len(twice.looked)) == (0, 0, 1, 2)
    clock.move(21)
    assert len(put_off.looked) == 1
    assert clock.due == []


def test_the_first_event_is_due_at_its_time() -> None:
    watched = Watched()
    watched.dog()
    watched.clock.move(9.9)
    assert watched.told == []
    watched.clock.move(0.2)
    assert watched.told == ["The provider sent no first event in time."]
    watched.clock.move(1000)
    assert len(watched.told) == 1
    assert watched.clock.due == []


def test_pieces_put_the_silence_off_but_not_the_content() -> None:
    watched = Watched()
    dog = watched.dog()
    for _ in range(6):
        watched.clock.move(4.9)
        dog.touch()
    assert watched.told == []
    watched.clock.move(5)
    assert watched.told == ["The provider sent no content in time."]


def test_content_in_time_leaves_only_silence_and_the_whole() -> None:
    watched = Watched()
    dog = watched.dog()
    dog.touch()
    dog.commit()
    for _ in range(5):
        watched.clock.move(19)
        dog.touch()
    assert watched.told == []
    watched.clock.move(6)
    assert watched.told == ["The answer took longer than a request may take."]


def test_silence_is_noticed_at_most_one_span_late() -> None:
    watched = Watched()
    dog = watched.dog()
    dog.touch()
    dog.commit()
    watched.clock.move(40)
    assert watched.told == ["The provider's stream fell silent."]


def test_a_limit_shorter_than_the_one_before_it_holds_too() -> None:
    watched = Watched(limits=evolve(LIMITS, first_event=Duration(60), first_content=Duration(5), idle=Duration(60)))
    dog = watched.dog()
    watched.clock.move(1)
    dog.touch()
    watched.clock.move(5)
    assert watched.told == ["The provider sent no content in time."]


def test_a_slow_client_is_not_the_providers_silence() -> None:
    watched = Watched()
    dog = watched.dog()
    dog.touch()
    dog.commit()
    dog.writing()
    watched.clock.move(watching.STUCK_WRITE - 1)
    dog.written()
    assert watched.told == []
    watched.clock.move(19)
    assert watched.told == []


def test_a_client_that_takes_nothing_for_a_minute_is_abandoned() -> None:
    watched = Watched()
    dog = watched.dog()
    dog.touch()
    dog.commit()
    dog.writing()
    watched.clock.move(2 * watching.STUCK_WRITE)
    assert watched.told == ["abandoned"]


def test_a_client_that_takes_a_byte_now_and_then_has_no_longer_than_the_total() -> None:
    watched = Watched(limits=evolve(LIMITS, total=Duration(50)))
    dog = watched.dog()
    dog.touch()
    dog.commit()
    watched.clock.move(9)
    dog.writing()
    watched.clock.move(40)
    assert watched.told == []
    watched.clock.move(2)
    assert watched.told == ["abandoned"]


def test_a_plain_answer_has_one_limit() -> None:
    watched = Watched(plain=True)
    dog = watched.dog()
    watched.clock.move(50)
    dog.touch()
    assert watched.told == []
    watched.clock.move(11)
    assert watched.told == ["The provider did not answer in time."]


SLOW = evolve(LIMITS, min_rate=100, first_content=Duration(90), answer=Duration(90))


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "stream"])
def test_an_answer_that_begins_and_then_trickles_is_given_up(plain: bool) -> None:
    watched = Watched(limits=SLOW, plain=plain)
    dog = watched.dog()
    watched.clock.move(9)  # a provider that thinks first is not slow
    for _ in range(4):
        dog.touch(100 * watching.SPAN)
        watched.clock.move(watching.SPAN)
    assert watched.told == []
    dog.touch(99 * watching.SPAN)
    watched.clock.move(watching.SPAN)
    assert watched.told == ["The provider's answer came too slowly."]


def test_after_the_commit_nobody_is_too_slow() -> None:
    watched = Watched(limits=SLOW)
    dog = watched.dog()
    dog.touch(1)
    dog.commit()
    watched.clock.move(3 * watching.SPAN)
    assert watched.told == []


def test_off_is_for_ever() -> None:
    off = Duration(float("inf"))
    limits = evolve(LIMITS, first_event=off, first_content=off, answer=off, idle=off, total=off)
    for plainly in (True, False):
        watched = Watched(limits=limits, plain=plainly)
        watched.dog()
        watched.clock.move(1000)
        watched.clock.leap(100_000)
        watched.clock.move(1000)
        assert watched.told == []


def test_cancelled_is_silent() -> None:
    watched = Watched()
    dog = watched.dog()
    dog.cancel()
    dog.cancel()
    watched.clock.move(1000)
    assert watched.told == []
    assert watched.clock.due == []


def test_many_answers_share_one_timer_and_each_is_met_at_the_end_of_its_tenth() -> None:
    watched = Watched()
    watched.dog()
    watched.clock.move(0.05)
    later = watched.dog()
    assert len(watched.clock.due) == 1
    watched.clock.move(9.94)
    assert watched.told == []
    watched.clock.move(0.02)
    assert len(watched.told) == 1
    watched.clock.move(0.1)
    assert len(watched.told) == 2
    later.cancel()
    assert watched.clock.due == []


def test_a_nearer_limit_sets_the_timer_anew() -> None:
    watched = Watched()
    watched.dog()
    watched.limits = evolve(LIMITS, first_event=Duration(1))
    watched.dog()
    watched.clock.move(1)
    assert watched.told == ["The provider sent no first event in time."]
    watched.clock.move(9)
    assert len(watched.told) == 2


def test_whoever_is_called_off_by_another_of_its_tenth_stays_silent() -> None:
    watched, dogs = Watched(), list[Watchdog]()

    def call_all_off(message: str) -> None:
        watched.told.append(message)
        for dog in dogs:
            dog.cancel()

    for _ in range(3):
        dogs.append(
            Watchdog(watched.agenda, LIMITS, call_all_off, lambda: None, plain=False, started=watched.clock.now)
        )
    watched.clock.move(100)
    assert len(watched.told) == 1


async def test_a_limit_is_met_on_a_real_loop() -> None:
    expired = asyncio.Event()
    Watchdog(
        Agenda.of_running_loop(),
        evolve(LIMITS, first_event=Duration(0.01)),
        lambda _: expired.set(),
        lambda: None,
        plain=False,
        started=asyncio.get_running_loop().time(),
    )
    await within(expired)
