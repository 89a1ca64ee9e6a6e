"""The clock of one answer: it is looked at when its next deadline is due, and asks how long ago something happened.

Nothing is armed per chunk: `touch` notes a time, and whoever is looked at too early is put down for later. Nor is a
timer armed per answer: the deadlines of all of them stand in one `Agenda`, by tenths of a second, and each is met at
the end of its tenth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Protocol

import structlog

from proxy.routing.table import Timeouts

log = structlog.get_logger()
SPAN = 5  # seconds over which the rate of an answer is measured
STUCK_WRITE = 60.0  # seconds without a client taking a byte; then it is not reading
PAGES = 10.0  # of the agenda, in a second
NEVER = float("inf")


class Looks(Protocol):
    def look(self, now: float) -> None:
        """Its time has come."""


class Agenda:
    """Who is to be looked at when. A timer for each tenth, as long as anybody stands on a page.

    At the end of a tenth all are gone through, 50 us for a thousand. To keep those of a page together would take more:
    nearly all are struck long before it is turned.

    `tick` is when the present tenth ends, by the loop's clock: what may be noted by that, as when a slow stream was
    heard of, costs no look at a clock. It is kept while anybody stands on a page.
    """

    __slots__ = ("_loop", "_pages", "_timer", "_turning", "now", "tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time
        self.tick = 0.0
        self._pages: dict[Looks, int] = {}
        self._turning = 0  # the last page that the timer was set for
        self._timer: asyncio.TimerHandle | None = None

    def future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    @classmethod
    def of_running_loop(cls) -> Agenda:
        return cls(asyncio.get_running_loop())

    def put(self, who: Looks, when: float) -> None:
        """On that page, and on no other."""
        self._pages[who] = ceil(when * PAGES)
        if self._timer is None:
            self._set()

    def strike(self, who: Looks) -> None:
        self._pages.pop(who, None)

    def _set(self) -> None:
        page = max(int(self.now() * PAGES), self._turning) + 1
        self._turning, self.tick = page, page / PAGES
        self._timer = self._loop.call_at(self.tick, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = max(self.now(), self.tick)  # a timer's clock is coarser: it may be called a little before
        turned = max(int(now * PAGES), self._turning)
        pages = self._pages
        for who in sorted((who for who, page in pages.items() if page <= turned), key=pages.__getitem__):
            if pages.get(who, NEVER) > turned:
                continue  # called off by another one that was looked at just now
            del pages[who]
            try:
                who.look(now)
            except Exception as exc:  # a fault of ours in one answer's end is none of the others'
                log.exception("internal_error", error=type(exc).__name__)
        if self._pages and self._timer is None:
            self._set()


class Watchdog:
    """Watches one reply. `expire(message)` ends the wait for the provider, `abandon()` the wait for the client.

    `plain`: the whole answer is due within `answer`. Else the first event within `first_event`, the first content
    within `first_content`, later ones never further apart than `idle`, all of it within `total`. Until the commit,
    which of a plain answer is its end, every `SPAN` from the first byte on brings at least `min_rate` bytes a second.
    """

    __slots__ = (
        "_abandon", "_agenda", "_begun", "_came", "_committed", "_expire", "_last", "_plain", "_span", "_started",
        "_timeouts", "_writing", "now",
    )  # fmt: skip

    def __init__(
        self,
        agenda: Agenda,
        timeouts: Timeouts,
        expire: Callable[[str], None],
        abandon: Callable[[], None],
        *,
        plain: bool,
        started: float,
    ) -> None:
        self._agenda = agenda
        self.now = agenda.now
        self._timeouts = timeouts
        self._expire = expire
        self._abandon = abandon
        self._started = self._last = started
        self._plain = plain
        self._begun = False
        self._committed = False
        self._writing: float | None = None
        self._span = NEVER  # when the present one ends
        self._came = 0  # bytes in it
        due = timeouts.answer if plain else min(timeouts.first_event, timeouts.first_content, timeouts.total)
        agenda.put(self, started + min(due, timeouts.idle, STUCK_WRITE))

    def touch(self, size: int = 0) -> None:
        """Bytes came; `size` is how many, of interest until the commit."""
        self._last = self.now()
        if not self._begun and self._timeouts.min_rate:
            self._span = self._last + SPAN
            self.cancel()
            self._put_down(self._last)
        self._begun = True
        self._came += size

    def commit(self) -> None:
        self._committed = True

    def goes_on(self, last: float) -> None:
        """With an answer that others watched up to the commit and beyond, to whom something came last at that time."""
        self._begun = self._committed = True
        self._last = last

    def writing(self) -> None:
        self._writing = self.now()

    def written(self) -> None:
        """The time that a slow client took is not the provider's silence."""
        self._writing = None
        self._last = self.now()

    def cancel(self) -> None:
        self._agenda.strike(self)

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        if self._writing is not None:
            if now >= self._stuck(self._writing):
                self._abandon()
                return
        else:
            due, message = self._due()
            if now >= due:
                self._expire(message)
                return
            if now >= self._span:
                self._span, self._came = now + SPAN, 0
        self._put_down(now)

    def _stuck(self, since: float) -> float:
        """When a client that takes nothing just now is given up. One that takes a byte now and then has no longer than
        `total` for it."""
        due = since + STUCK_WRITE
        return due if self._plain else min(due, self._started + self._timeouts.total)

    def _due(self) -> tuple[float, str]:
        """The nearest deadline and what to say when it passes."""
        limits = self._timeouts
        candidates: list[tuple[float, str]] = []
        if not self._committed and self._came < limits.min_rate * SPAN:
            candidates.append((self._span, "The provider's answer came too slowly."))
        if self._plain:
            return min([*candidates, (self._started + limits.answer, "The provider did not answer in time.")])
        candidates += [(self._started + limits.total, "The answer took longer than a request may take.")]
        if not self._begun:
            candidates.append((self._started + limits.first_event, "The provider sent no first event in time."))
        elif not self._committed:
            candidates.append((self._started + limits.first_content, "The provider sent no content in time."))
        if self._begun:
            candidates.append((self._last + limits.idle, "The provider's stream fell silent."))
        return min(candidates)

    def _put_down(self, now: float) -> None:
        """For the nearest deadline there is now, and often enough to meet those that come into force meanwhile."""
        limits, started = self._timeouts, self._started
        nearest = now + min(limits.idle, STUCK_WRITE)
        if self._writing is not None:
            nearest = min(nearest, self._stuck(self._writing))
        elif self._plain:
            nearest = min(nearest, started + limits.answer)
        elif self._begun:
            nearest = min(nearest, self._due()[0])
        else:
            nearest = min(nearest, started + limits.first_event, started + limits.total)
        if not self._committed:
            nearest = min(nearest, self._span)
        content = started + limits.first_content  # in force with the first event, which puts nothing down anew
        if not self._plain and not self._committed and content > now:
            nearest = min(nearest, content)
        self._agenda.put(self, nearest)
