"""Small writes of one turn of the event loop: together at its end where many come, and at once where few do.

A write to a socket wakes up whoever waits at the other one, and that costs as much as the write itself. One that still
works on what came a moment before need not be woken: so what the requests of one turn have to say leaves in one go.
Between two pieces of Python's work the kernel's part also costs both their caches. Where few requests run, nothing
waits, and the loop is not asked for a word at the turn's end, which would cost it one more look at all sockets. How
many pieces there are is told by the turn before, in a crowd, and else by how many came within a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SMALL = 4 << 10  # bytes of a piece; of larger ones the copy counts, and who is written to may have to be waited for
MOST = 16  # pieces that wait for each other
CROWD = 4  # pieces of a moment, or of the turn before, from which on they wait for each other
MOMENT = 0.0005  # seconds; the loop knows no less than twice that


class Outbox:
    """Of one side: each transport that is written to by `post` is written to by it alone, or after a `flush`."""

    __slots__ = ("_begun", "_clock", "_crowded", "_moment", "_pieces", "_soon", "_waiting")

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """Of the running loop, and by its clock unless another one is given."""
        loop = asyncio.get_running_loop()
        self._clock = clock or loop.time
        self._soon = loop.call_soon
        self._begun = False  # pieces wait for this turn's end
        self._crowded = False  # the last turn that had an end
        self._moment = 0.0  # when it began
        self._pieces = 0  # in it, or of this turn
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def post(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """In the order of the calls. What waits while its transport closes is dropped."""
        if not self._begun:
            if not self._crowded:
                clock = self._clock  # fetched by itself: called at once, a slot is sought as a method first
                now = clock()
                if now - self._moment >= MOMENT:
                    self._moment, self._pieces = now, 1
                    transport.write(data)
                    return
                self._pieces = pieces = self._pieces + 1
                if pieces < CROWD:
                    transport.write(data)
                    return
            self._begun, self._pieces = True, 0
            self._soon(self._end)
        waiting = self._waiting
        if len(data) > SMALL or len(waiting) >= MOST:
            self.flush()
            transport.write(data)
        elif waiting and waiting[-1][0] is transport and len(waiting[-1][1]) <= SMALL:
            waiting[-1] = transport, waiting[-1][1] + data
        else:
            self._pieces += 1
            waiting.append((transport, data))

    def _end(self) -> None:
        self._begun, self._crowded = False, self._pieces >= CROWD
        self.flush()

    def flush(self) -> None:
        waiting = self._waiting
        if not waiting:
            return
        self._waiting = []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
