"""Answers on their way to the client: one small interface, and its two implementations.

The plain one is aiohttp's StreamResponse, the executable specification and what HTTP/1.0 gets. The lean one renders the
head as bytes and writes to the client's transport itself: head and body of a plain answer in one write, one write for
each read of the provider, and no task waits for any of them unless the client is slower than the provider. aiohttp's
server has parsed the request and goes on with the connection afterwards; a test checks what is relied upon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from aiohttp.http import HttpVersion11
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from proxy.errors import ClientGone
from proxy.server.clients.inbound import Request

Headers = list[tuple[str, str]]
REASONS = {status.value: status.phrase for status in HTTPStatus}
FRAMING = ("content-length", "connection")  # of an answer: said here
GONE = "The client left."
UNSENT = 16 << 10  # bytes of a stream that the kernel does not take, past which the provider is held back
AT_ONCE = 32 << 10  # bytes of a write: of what a client does not take, what the kernel took of a piece is kept with it


class Stock:
    """Headers that one answer after the other has, and how they look on the wire."""

    __slots__ = ("lines", "pairs")

    def __init__(self, pairs: Headers) -> None:
        """Raises ValueError for a line end within a header."""
        self.pairs = pairs
        self.lines = _rendered(pairs)


def _rendered(headers: Headers) -> bytes:
    """Raises ValueError for a line end within a header: that would be another header."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header holds a line end")
    return text.encode("utf-8", "surrogateescape")


CLOSING = b"Connection: close\r\n"
NO_STOCK = Stock([])


class Downstream(Protocol):
    """One answer. `begun` says whether its head has left; `sent` counts bytes of the body."""

    begun: bool
    sent: int

    async def whole(self, status: int, headers: Headers, body: bytes, stock: Stock = NO_STOCK) -> StreamResponse:
        """All of an answer, its length known. Its headers are both kinds."""

    async def begin(self, status: int, headers: Headers, stock: Stock = NO_STOCK) -> None:
        """A head whose body follows by `put` and `end`. It leaves with the first bytes of the body at the latest, or
        with `drained`. Raises ClientGone, as all of these do."""

    def put(self, data: bytes) -> bool:
        """Takes bytes of the body; False where the client has to be waited for, in `drained`, before there are
        more."""

    @property
    def put_chunks(self) -> Callable[[bytes, int], bool] | None:
        """As `put`, of bytes that have their chunked framing already; and how many of them are the body's. None where
        the answer has no such framing of ours."""

    @property
    def full(self) -> bool:
        """Whether the client has to be waited for, before anything is put."""

    async def drained(self) -> None: ...

    async def end(self, data: bytes = b"") -> StreamResponse:
        """The last bytes of the body with the end. Gives what the handler gives to aiohttp."""

    def abort(self) -> StreamResponse:
        """Breaks the connection, so that nobody takes half an answer for a whole one. Once it has begun."""


def answer_to(request: Request, *, lean: bool) -> Downstream:
    if (lean and request.version == HttpVersion11) or not isinstance(request, BaseRequest):
        return LeanAnswer(request)
    return PlainAnswer(request)


class PlainAnswer:
    put_chunks = None
    full = False

    def __init__(self, request: BaseRequest) -> None:
        self.begun = False
        self.sent = 0
        self._request = request
        self._response: StreamResponse | None = None
        self._waiting: list[bytes] = []

    async def whole(self, status: int, headers: Headers, body: bytes, stock: Stock = NO_STOCK) -> StreamResponse:
        self.begun, self.sent = True, len(body)
        return Response(status=status, headers=[*headers, *stock.pairs], body=body)

    async def begin(self, status: int, headers: Headers, stock: Stock = NO_STOCK) -> None:
        self.begun = True
        self._response = StreamResponse(status=status, headers=[*headers, *stock.pairs])
        try:
            await self._response.prepare(self._request)
        except ConnectionError as exc:
            raise ClientGone(GONE) from exc

    def put(self, data: bytes) -> bool:
        self._waiting.append(data)
        self.sent += len(data)
        return False

    async def drained(self) -> None:
        assert self._response is not None
        waiting, self._waiting = self._waiting, []
        try:
            for data in waiting:
                await self._response.write(data)
        except (ConnectionError, RuntimeError) as exc:
            raise ClientGone(GONE) from exc

    async def end(self, data: bytes = b"") -> StreamResponse:
        if data:
            self.put(data)
        await self.drained()
        assert self._response is not None
        try:
            await self._response.write_eof()
        except (ConnectionError, RuntimeError) as exc:
            raise ClientGone(GONE) from exc
        return self._response

    def abort(self) -> StreamResponse:
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response or Response()


class Left(StreamResponse):
    """Tells aiohttp that an answer has left already, and whether its connection stays."""

    def __init__(self, *, stays: bool) -> None:
        self._state = {}
        self._stays = stays

    @property
    def keep_alive(self) -> bool:
        return self._stays

    @property
    def prepared(self) -> bool:
        return True

    async def prepare(self, request: BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """It has ended."""


STAYS, CLOSES = Left(stays=True), Left(stays=False)


async def send(request: Request, response: Response) -> Left:
    """An answer that somebody has made, to a request that aiohttp does not know of."""
    headers = [pair for pair in response.headers.items() if pair[0].lower() not in FRAMING]
    body = response.body
    assert body is None or isinstance(body, bytes)
    return await LeanAnswer(request).whole(response.status, headers, body or b"")


def post(request: Request, transport: asyncio.Transport, data: bytes) -> None:
    if request.turn is None:
        transport.write(data)
    else:
        request.turn.post(transport, data)


class LeanAnswer:
    def __init__(self, request: Request) -> None:
        self.begun = False
        self.sent = 0
        self._request = request
        self._protocol = request.protocol
        self._head = b""  # until it leaves

    @property
    def full(self) -> bool:
        return self._protocol.writing_paused

    async def whole(self, status: int, headers: Headers, body: bytes, stock: Stock = NO_STOCK) -> Left:
        self.begun, self.sent = True, len(body)
        head = up_to_length(status, stock, headers, stays=self._request.keep_alive)
        self._write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        if self._protocol.writing_paused:  # or a client that asks on and reads nothing has all its answers held here
            await self.drained()
        return STAYS if self._request.keep_alive else CLOSES

    async def begin(self, status: int, headers: Headers, stock: Stock = NO_STOCK) -> None:
        self.begun = True
        head = up_to_length(status, stock, headers, stays=self._request.keep_alive)
        self._head = b"%bTransfer-Encoding: chunked\r\n\r\n" % head
        if self._protocol.transport is not None:
            self._protocol.transport.set_write_buffer_limits(UNSENT)

    def put(self, data: bytes) -> bool:
        size = len(data)
        self.sent += size
        if not self._head and size <= AT_ONCE:
            self._write(b"%x\r\n%b\r\n" % (size, data))
        elif size > AT_ONCE:
            for at in range(0, size, AT_ONCE):
                self._put(data[at : at + AT_ONCE])
        else:
            self._put(data)
        return not self._protocol.writing_paused

    def put_chunks(self, data: bytes, size: int) -> bool:
        self.sent += size
        if self._head:
            head, self._head = self._head, b""
            self._write(head)
        if len(data) > AT_ONCE:
            for at in range(0, len(data), AT_ONCE):
                self._write(data[at : at + AT_ONCE])
        else:
            self._write(data)
        return not self._protocol.writing_paused

    def _put(self, piece: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._write(b"%b%x\r\n%b\r\n" % (head, len(piece), piece))
        else:
            self._write(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def drained(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._write(head)
        self._flush()
        try:
            await self._protocol._drain_helper()
        except ConnectionError as exc:
            raise ClientGone(GONE) from exc

    async def end(self, data: bytes = b"") -> StreamResponse:
        head, self._head = self._head, b""
        self.sent += len(data)
        self._write(b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(data), data) if data else head + b"0\r\n\r\n")
        if self._protocol.writing_paused:
            await self.drained()
        return STAYS if self._request.keep_alive else CLOSES

    def abort(self) -> StreamResponse:
        self._flush()  # what was put before is the client's
        if self._request.transport is not None:
            self._request.transport.abort()
        return CLOSES

    def _flush(self) -> None:
        if self._request.turn is not None:
            self._request.turn.flush()

    def _write(self, data: bytes) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ClientGone(GONE)
        post(self._request, transport, data)


def up_to_length(status: int, stock: Stock, headers: Headers, *, stays: bool) -> bytes:
    """A head up to what says where the body ends."""
    start = start_line(status)
    return b"".join((start, stock.lines, _rendered(headers), date_line(int(time.time())), _ends(stays)))


_starts: dict[int, bytes] = {}
_today = (0, b"")


def _ends(stays: bool) -> bytes:
    return b"" if stays else CLOSING


def start_line(status: int) -> bytes:
    line = _starts.get(status)
    if line is None:
        line = _starts[status] = f"HTTP/1.1 {status} {REASONS.get(status, '')}\r\n".encode()
    return line


def date_line(second: int) -> bytes:
    global _today
    if _today[0] != second:
        _today = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
    return _today[1]
