"""The clock of one answer: a single timer that looks, when it fires, at how long ago something happened.

Nothing is armed per chunk: `touch` notes a time, and a timer that finds that it came too early sets itself anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.routing.table import Timeouts

SPAN = 5  # seconds over which the rate of an answer is measured
STUCK_WRITE = 60.0  # seconds without a client taking a byte; then it is not reading


class Watchdog:
    """Watches one reply. `expire(message)` ends the wait for the provider, `abandon()` the wait for the client.

    `plain`: the whole answer is due within `answer`. Else the first event within `first_event`, the first content
    within `first_content`, later ones never further apart than `idle`, all of it within `total`. Until the commit,
    which of a plain answer is its end, every `SPAN` from the first byte on brings at least `min_rate` bytes a second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        expire: Callable[[str], None],
        abandon: Callable[[], None],
        *,
        plain: bool,
        started: float,
    ) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._expire = expire
        self._abandon = abandon
        self._started = started
        self._plain = plain
        self._last = loop.time()
        self._begun = False
        self._committed = False
        self._writing: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._span = float("inf")  # when the present one ends
        self._came = 0  # bytes in it
        self._arm()

    def touch(self, size: int = 0) -> None:
        """Bytes came; `size` is how many, of interest until the commit."""
        self._last = self._loop.time()
        if not self._begun and self._timeouts.min_rate:
            self._span = self._last + SPAN
            self.cancel()
            self._arm()
        self._begun = True
        self._came += size

    def commit(self) -> None:
        self._committed = True

    def writing(self) -> None:
        self._writing = self._loop.time()

    def written(self) -> None:
        """The time that a slow client took is not the provider's silence."""
        self._writing = None
        self._last = self._loop.time()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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

    def _stuck(self) -> float:
        """When a client that takes nothing just now is given up. One that reads a byte now and then has no longer than
        `total` for it."""
        assert self._writing is not None
        due = self._writing + STUCK_WRITE
        return due if self._plain else min(due, self._started + self._timeouts.total)

    def _arm(self) -> None:
        """For the nearest deadline there is now, and often enough to meet those that come into force meanwhile."""
        now = self._loop.time()
        due = self._stuck() if self._writing is not None else self._due()[0]
        nearest = min(due, now + self._timeouts.idle, now + STUCK_WRITE)
        if not self._committed:
            nearest = min(nearest, self._span)
        content = self._started + self._timeouts.first_content  # in force with the first event, which moves no timer
        if not self._plain and not self._committed and content > now:
            nearest = min(nearest, content)
        self._timer = self._loop.call_at(nearest, self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        if self._writing is not None:
            if now >= self._stuck():
                self._abandon()
                return
        else:
            due, message = self._due()
            if now >= due:
                self._expire(message)
                return
            if now >= self._span:
                self._span, self._came = now + SPAN, 0
        self._arm()
