"""Connections of one provider that have just served, kept before its pool: the next request takes the last of them
without asking anybody.

aiohttp's pool stays what opens, counts and closes them. Whatever nobody has taken for `QUIET` seconds goes back there,
so between two busy moments all are where they were.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

MOST = 256  # connections
QUIET = 2.0  # seconds

H = TypeVar("H", bound=ResponseHandler)


class AtHand(Generic[H]):
    """Those that came last lie on top."""

    __slots__ = ("_closed", "_loop", "_pile", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pile: list[tuple[Connection, H, float]] = []  # and since when
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._pile)

    def put(self, connection: Connection, handler: H) -> None:
        """One whose answer has ended, and that may serve again."""
        if self._closed or len(self._pile) >= MOST:
            connection.release()
            return
        self._pile.append((connection, handler, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(QUIET, self._look)

    def take(self) -> tuple[Connection, H] | None:
        """One that is open, as far as anybody knows."""
        pile = self._pile
        while pile:
            connection, handler, _ = pile.pop()
            transport = handler.transport
            if transport is not None and not transport.is_closing():
                return connection, handler
            connection.close()
        return None

    def _look(self) -> None:
        self._timer = None
        before = self._loop.time() - QUIET
        kept = [entry for entry in self._pile if entry[2] > before]
        quiet = [entry for entry in self._pile if entry[2] <= before]
        self._pile = kept
        for connection, _, _ in quiet:
            connection.release()
        if kept:
            self._timer = self._loop.call_later(QUIET, self._look)

    def close(self) -> None:
        """All of them; what is put here from now on goes to the pool."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pile, self._pile = self._pile, []
        for connection, _, _ in pile:
            connection.close()
