"""The places of one provider: how many of its connections may be in use, who waits for one, and for how long.

A hanging provider holds its own places and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from proxy.errors import Overloaded

RETRY_AFTER = 1.0  # seconds


class Slots:
    """At most `places` in use; at most `queue` wait. Whoever took one gives it back."""

    def __init__(self, places: int, queue: int) -> None:
        self._free = places
        self._queue = queue
        self._places: deque[asyncio.Future[None]] = deque()  # of those that wait

    @property
    def waiting(self) -> int:
        return sum(not place.done() for place in self._places)

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
        place = loop.create_future()
        self._places.append(place)
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await place
        except BaseException as exc:
            if place.done() and not place.cancelled():
                self.release()  # it came at the very moment that its owner went
            with suppress(ValueError):
                self._places.remove(place)
            if isinstance(exc, TimeoutError):
                raise Overloaded("All connections to the provider are in use.", retry_after=RETRY_AFTER) from exc
            raise
        return loop.time() - began

    def release(self) -> None:
        while self._places:
            place = self._places.popleft()
            if not place.done():
                place.set_result(None)  # it goes from hand to hand
                return
        self._free += 1
