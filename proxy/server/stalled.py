"""Clients that take nothing of what was written for them: their connections are broken off.

One look over all connections, now and then, at how much of their answers the kernel has not taken yet: what stays the
same, and is not nothing, has no reader. A stream to a provider has a nearer clock of its own, in `server.watchdog`;
this one is for whole answers, lists and error texts, and for whatever was left when its request ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from aiohttp.web_protocol import RequestHandler

from proxy.server.watchdog import STUCK_WRITE

LOOK = 5.0  # seconds between two looks
Connections = Callable[[], Iterable[RequestHandler]]


class Stalled:
    """What was unsent at the last look, and since when."""

    def __init__(self, connections: Connections, *, patience: float = STUCK_WRITE) -> None:
        self._connections = connections
        self._patience = patience
        self._unsent: WeakKeyDictionary[asyncio.WriteTransport, tuple[int, float]] = WeakKeyDictionary()

    async def run(self) -> None:
        """For ever."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(LOOK, self._patience / 4))
            self.look(clock())

    def look(self, now: float) -> None:
        for connection in list(self._connections()):
            transport = connection.transport
            if transport is None:
                continue
            unsent = transport.get_write_buffer_size()
            before, since = self._unsent.get(transport, (0, now))
            if not unsent:
                self._unsent.pop(transport, None)
            elif unsent != before:
                self._unsent[transport] = (unsent, now)
            elif now - since >= self._patience:
                transport.abort()
