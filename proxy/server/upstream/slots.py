"""The places of one provider: how many of its connections may be in use, who waits for one, and for how long.

A hanging provider holds its own places and nobody else's.
"""

from __future__ import annotations

import asyncio

from proxy.errors import Overloaded
from proxy.server.waiting import Waiting

RETRY_AFTER = 1.0  # seconds


class Slots:
    """At most `places` in use; at most `queue` wait. Whoever took one gives it back."""

    def __init__(self, places: int, queue: int) -> None:
        self._free = places
        self._queue = queue
        self._waiting = Waiting()

    @property
    def waiting(self) -> int:
        return self._waiting.heads

    def take_at_once(self) -> bool:
        """`take` where one is free: then nobody waits."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def take(self, seconds: float) -> float:
        """Seconds that it took to get one. Raises Overloaded where none is free in time, or too many wait already."""
        if self.take_at_once():
            return 0.0
        if self.waiting >= self._queue:
            raise Overloaded("Too many requests wait for the provider already.", retry_after=RETRY_AFTER)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._waiting.get_place(seconds, self.release)
        except TimeoutError as exc:
            raise Overloaded("All connections to the provider are in use.", retry_after=RETRY_AFTER) from exc
        return loop.time() - began

    def release(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        handed_on = False
        try:
            handed_on = self._waiting.hand_on()
        finally:  # no fault takes a place with it
            if not handed_on:
                self._free += 1
