"""Small writes of one turn of the event loop: together at its end, and the first at once where few are to be expected.

A write to a socket wakes up whoever waits at the other one, and that costs as much as the write itself. One that still
works on what came a moment before need not be woken: so what the requests of one turn have to say leaves in one go.
Between two pieces of Python's work the kernel's part also costs both their caches. Where a single request runs, nothing
waits. How many there will be is told by the turn before: a first piece that leaves by itself wakes somebody for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SMALL = 4 << 10  # bytes of a piece; of larger ones the copy counts, and who is written to may have to be waited for
MOST = 16  # pieces that wait for each other
CROWD = 4  # pieces of the turn before, from which on the first waits as well


class Outbox:
    """Of one side: each transport that is written to by `post` is written to by it alone, or after a `flush`."""

    __slots__ = ("_before", "_begun", "_pieces", "_soon", "_waiting")

    def __init__(self) -> None:
        self._soon: Callable[..., object] | None = None  # of the loop, from the first turn on: asking for it is dear
        self._begun = False  # this turn has had its first
        self._pieces = self._before = 0  # of this turn and of the one before
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def post(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """In the order of the calls. What waits while its transport closes is dropped."""
        waiting = self._waiting
        if len(data) > SMALL or len(waiting) >= MOST:
            self.flush()
            transport.write(data)
        elif not self._begun:
            self._begun = True
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_soon
            self._soon(self._end)
            self._pieces = 1
            if self._before >= CROWD:
                waiting.append((transport, data))
            else:
                transport.write(data)
        elif waiting and waiting[-1][0] is transport and len(waiting[-1][1]) <= SMALL:
            waiting[-1] = transport, waiting[-1][1] + data
        else:
            self._pieces += 1
            waiting.append((transport, data))

    def _end(self) -> None:
        self._begun, self._before = False, self._pieces
        if self._waiting:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
