"""What wakes a thread of the process's own: a bell that anybody rings, and that one thread hears."""

from __future__ import annotations

import threading
from contextlib import suppress


class Bell:
    """Rung before it is heard, it is heard at once; rung twice, once. A wait that ends by its time is one call, which a
    `threading.Condition` makes of twenty, for a lock of each wait's own."""

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        with suppress(RuntimeError):  # it rings already
            self._silent.release()

    def heard(self, seconds: float = -1.0) -> bool:
        """Waits for it, for so long at most. -1 is for ever."""
        return self._silent.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
