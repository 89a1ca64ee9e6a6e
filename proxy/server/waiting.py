"""Who waits for a place, in the order in which they came: a place that is given back goes from hand to hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class Waiting(deque["asyncio.Future[None]"]):
    """Those that wait; some that were given a place may stand in it a moment longer."""

    @property
    def heads(self) -> int:
        return sum(not place.done() for place in self)

    async def get_place(self, seconds: float, give_back: Callable[[], None]) -> None:
        """Raises TimeoutError. A place that comes at the very moment that its owner goes is given back."""
        place = asyncio.get_running_loop().create_future()
        self.append(place)
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await place
        except BaseException:
            if place.done() and not place.cancelled():
                give_back()
            with suppress(ValueError):
                self.remove(place)
            raise

    def hand_on(self) -> bool:
        """Gives a place to who has waited longest; False where nobody waits."""
        while self:
            place = self.popleft()
            if not place.done():
                place.set_result(None)
                return True
        return False
