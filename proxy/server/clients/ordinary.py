"""Ordinary requests without aiohttp's parser: the lean server side of the surfaces' paths.

A request is taken here where its head is all there, is one that `wire.request_head` knows to be read in one way by
everybody, and asks for a path in `Ways`. Its body may still be on its way. `connection.Connection` runs it,
and gives everything else to aiohttp, untouched and before anything was done about it: aiohttp's server is the
specification of this one, and what `[server] exchange = "plain"` puts in its place.

Heads that came before are known by their bytes but for the digits of Content-Length: most requests are not parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from aiohttp.http import HttpVersion, HttpVersion11
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_response import StreamResponse
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.errors import GatewayError
from proxy.server.clients.inbound import Content, Head, Request
from proxy.wire.parted import Parted
from proxy.wire.request_head import END, LONGEST, read_ordinary

if TYPE_CHECKING:
    from proxy.server.clients.connection import Connection
    from proxy.server.express.ride import Ride
    from proxy.server.turn import Turn

MOST_HEADS = 512  # that are known
LARGEST_HEAD = 4096  # bytes of one that is
MOST_DIGITS = 10
AHEAD = 1 << 16  # bytes that are taken from a client before somebody wants them
LEAST = 16 << 10  # bytes of a part of a body, in the mean: smaller ones take more to look at each than to put together


class Way(Protocol):
    """That the requests for one path go."""

    def board(self, request: Request) -> Ride | None:
        """Serves a request whose body is here, where its bytes and its answer's are received; None, and nothing was
        done, where that takes a task. Raises nothing."""

    def serve(self, request: Request) -> Awaitable[StreamResponse]:
        """All of it, or what is left of its ride."""


Ways = Mapping[str, Way]  # of POST, by path without query


class Known:
    """A head that came before."""

    __slots__ = ("_after", "_around", "_before", "head", "way")

    def __init__(self, before: bytes, after: bytes, head: Head, way: Way) -> None:
        self._before = before
        self._after = after.removesuffix(END)
        self._around = len(before) + len(self._after)
        self.head = head
        self.way = way

    def length(self, raw: bytes) -> int | None:
        """Of the body, if `raw`, up to its blank line, is this head."""
        # `startswith` and `find` would take longer: their arguments Python 3.11 reads by a format.
        digits = raw.removeprefix(self._before).removesuffix(self._after)
        size = len(digits)
        if size + self._around != len(raw) or size > MOST_DIGITS or not digits.isdigit() or digits[0] == 0x30:
            return None
        return int(digits)


class Heads:
    """Those of one listener."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self._known: dict[tuple[bytes, bytes], Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, data: bytes) -> tuple[Known, int, int] | None:
        """The head that `data` begins with, the length of its body and where that starts; None where it is no ordinary
        one, or not all of it."""
        end = data.find(END, 0, LONGEST) + len(END)
        if end < len(END):
            return None
        read = read_ordinary(data[:end])
        way = self.ways.get(read.raw_path.partition("?")[0]) if read is not None else None
        if read is None or way is None:
            return None
        same = read.before, read.after
        known = self._known.get(same)
        if known is None:
            head = Head(read.raw_path, CIMultiDictProxy(CIMultiDict(read.headers)))
            known = Known(read.before, read.after, head, way)
            if end <= LARGEST_HEAD:
                if len(self._known) >= MOST_HEADS:
                    self._known.clear()
                self._known[same] = known
        return known, read.length, end


class Body:
    """Bytes of a known length, as they come. What nobody has asked for yet is held back at the client."""

    __slots__ = ("_broken", "_hold", "_parts", "_paused", "_waiter", "needs", "total_bytes")

    protocol: RequestHandler
    needs: int
    total_bytes: int  # that have come
    _parts: list[bytes]
    _hold: Callable[[int], None] | None
    _waiter: asyncio.Future[None] | None
    _broken: GatewayError | None
    _paused: bool

    def feed(self, data: bytes) -> bytes:
        """Gives back what is not of this body."""
        size, needs, hold = len(data), self.needs, self._hold
        rest = b""
        if size > needs:
            data, rest = data[:needs], data[needs:]
            size = needs
        self.needs = needs = needs - size
        self.total_bytes += size
        if hold is not None:
            try:
                hold(size)
            except GatewayError as exc:  # for whoever waits to raise
                self.fail(exc)
        if self._broken is None:
            self._parts.append(data)
        waiter = self._waiter
        if waiter is None:
            if needs and self.total_bytes > AHEAD:
                self._paused = True
                self.protocol._pause_transport_reading()
        elif (not needs or hold is None) and not waiter.done():
            waiter.set_result(None)
        return rest

    def is_eof(self) -> bool:
        return not self.needs

    def ready(self) -> bytes | None:
        """All of it, if it has come; it can be read all the same."""
        if self.needs or not self._parts:
            return None
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def read_nowait(self) -> bytes:
        parts = self._parts
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return whole

    async def readany(self) -> bytes:
        while not self._parts and self.needs:
            await self._more()
        return self.read_nowait()

    async def arrives(self, hold: Callable[[int], None]) -> None:
        """All of it, which can be read then; `hold` is told of every piece as it comes, and raises where that is too
        much."""
        hold(self.total_bytes)
        self._hold = hold
        try:
            while self.needs and self._broken is None:
                await self._more()
        finally:
            self._hold = None  # what comes behind a refusal is nobody's to give back
        if self._broken is not None:
            raise self._broken

    def taken(self) -> bytes | Parted:
        """As `read_nowait`, in the parts in which it came where these are large."""
        parts = self._parts
        if len(parts) < 2 or len(parts) * LEAST > self.total_bytes:
            return self.read_nowait()
        self._parts = []
        return Parted(parts)

    async def _more(self) -> None:
        self._waiter = self.protocol._loop.create_future()
        if self._paused:
            self._paused = False
            self.protocol._resume_transport_reading()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def fail(self, error: GatewayError) -> None:
        """Whoever waits for all of it raises this."""
        self._broken, self._hold = error, None
        self._parts.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """The connection has: nothing more comes."""
        if self._waiter is not None:
            self._waiter.cancel()


class OrdinaryRequest(Body):
    """See `inbound.Request`. It is its own content: there is one object less to be made for each."""

    __slots__ = (
        "document", "head", "keep_alive", "known", "protocol", "ride", "tried", "turn",
    )  # fmt: skip

    protocol: Connection
    method = "POST"
    version: HttpVersion = HttpVersion11

    def __init__(
        self, known: Known, first: bytes, length: int, connection: Connection, keep_alive: bool, turn: Turn
    ) -> None:
        """`first` is what has come of a body of that length."""
        size = len(first)
        self._parts = [first] if first else []
        self._hold = self._waiter = self._broken = None
        self._paused = False
        self.total_bytes = size
        self.needs = length - size
        self.known = known
        self.head = known.head
        self.protocol = connection
        self.keep_alive = keep_alive
        self.turn = turn
        self.document: object = None
        self.tried = False
        self.ride: Ride | None = None

    @property
    def content(self) -> Content:
        return self

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self.head.headers

    @property
    def raw_path(self) -> str:
        return self.head.raw_path

    @property
    def content_length(self) -> int | None:
        return self.total_bytes + self.needs

    @property
    def remote(self) -> str | None:
        return self.protocol.remote

    @property
    def transport(self) -> asyncio.Transport | None:
        return self.protocol.transport

    def interrupt(self) -> None:
        """Ends the wait of whoever serves it, whatever is waited for."""
        if self.protocol._task_handler is not None:
            self.protocol._task_handler.cancel()

    def _cancel(self, exc: BaseException) -> None:
        """As aiohttp's connection asks of its requests when it ends."""
        self.end()
