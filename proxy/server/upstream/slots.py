"""The places of one provider: how many of its connections may be in use, who waits for one, and for how long.

A hanging provider holds its own places and nobody else's.
"""

from __future__ import annotations

import asyncio

from proxy.errors import Overloaded

RETRY_AFTER = 1.0  # seconds


class Slots:
    """At most `places` in use; at most `queue` wait. Whoever took one gives it back."""

    def __init__(self, places: int, queue: int) -> None:
        self._free = asyncio.Semaphore(places)
        self._queue = queue
        self.waiting = 0

    async def take(self, seconds: float) -> float:
        """Seconds that it took to get one. Raises Overloaded where none is free in time, or too many wait already."""
        if not self._free.locked():
            await self._free.acquire()  # does not wait
            return 0.0
        if self.waiting >= self._queue:
            raise Overloaded("Too many requests wait for the provider already.", retry_after=RETRY_AFTER)
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.waiting += 1
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await self._free.acquire()
        except TimeoutError as exc:
            raise Overloaded("All connections to the provider are in use.", retry_after=RETRY_AFTER) from exc
        finally:
            self.waiting -= 1
        return loop.time() - began

    def release(self) -> None:
        self._free.release()
