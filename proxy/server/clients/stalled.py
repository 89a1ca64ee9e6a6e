"""Clients that take nothing of what was written for them: their connections are broken off.

One look over all connections, now and then, at how much of their answers the kernel has not taken yet: what stays the
same, and is not nothing, has no reader. A stream to a provider has a nearer clock of its own, in `server.watchdog`;
this one is for whole answers, lists and error texts, and for whatever was left when its request ended.

And clients that have sent so much ahead that they are not read: it is the kernel that knows when they leave.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Collection, Iterable
from weakref import WeakKeyDictionary

from aiohttp.web_protocol import RequestHandler

from proxy.server.watchdog import STUCK_WRITE

LOOK = 5.0  # seconds between two looks
LISTEN = 0.25  # and at who is not read
LEAVING = getattr(select, "POLLRDHUP", select.POLLHUP)  # an end or a reset, whatever waits before it
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


async def hang_up_on_leavers(unread: Callable[[], Collection[RequestHandler]]) -> None:
    """For ever: ends connections that are not read and whose clients have hung up. A half-close counts, as it does
    where it is read. One that waits behind what the kernel has no room for is not known to anybody."""
    while True:
        await asyncio.sleep(LISTEN)
        if unread():
            _hang_up(unread())


def _hang_up(unread: Collection[RequestHandler]) -> None:
    for connection in _leaving(unread):
        if connection.transport is not None:
            connection.transport.abort()


def _leaving(connections: Iterable[RequestHandler]) -> list[RequestHandler]:
    poll, by_descriptor = select.poll(), {}
    for connection in connections:
        socket = None if connection.transport is None else connection.transport.get_extra_info("socket")
        if socket is not None and (descriptor := socket.fileno()) >= 0:
            by_descriptor[descriptor] = connection
            poll.register(descriptor, LEAVING)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]
