"""The lean implementation: the provider's ClientSession lends a pooled connection, and what runs on it is ours.

The request's head leaves as bytes together with its body, the answer's is parsed once, and what comes is handed on
where it is received (`handler`): no task wakes up for it. Connecting, TLS, DNS, pooling and closing stay aiohttp's
(`session`). These three touch what aiohttp does not promise to keep; a test checks the shapes that they rely on.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp.connector import Connection

from proxy.errors import UpstreamBroken, UpstreamError, UpstreamTimeout
from proxy.server.turn import Turn
from proxy.server.upstream import width
from proxy.server.upstream.at_hand import AtHand
from proxy.server.upstream.exchange import Take, Through
from proxy.server.upstream.handler import Handler, Receiver
from proxy.server.upstream.plain import CUT, run_out
from proxy.server.upstream.slots import Slots
from proxy.wire.answer_head import BadHttp
from proxy.wire.head_shape import Head
from proxy.wire.http1 import Parser, whole

HIGH, LOW = 256 << 10, 64 << 10  # bytes that wait to be read, past which the provider is held back, and let go again
LARGE, FIRST = 16 << 10, 4 << 10  # of more bytes than that in a read, so many are parsed before anybody asks for more
NO_HTTP = "The provider's answer is not proper HTTP."
NO_ANSWER = "The provider closed the connection without an answer."
UNREAD = Parser()  # of answers of which nothing has come


class Stale(Exception):
    """A pooled connection was found closed: no byte of an answer came."""


class Waits(Protocol):
    def came(self) -> None:
        """The head is here, or all of the answer, or nothing comes any more. Raises nothing."""


class LeanReply:
    """One answer on a connection that is ours until its end. A reply whose answer went past it stays with its
    connection for the next request."""

    __slots__ = (
        "_begun", "_connection", "_direct", "_enough", "_error", "_fault", "_handler", "_home", "_narrow", "_ours",
        "_parts", "_paused", "_raw", "_size", "_slot", "_take", "_through", "_turn", "_waiter", "_who", "headers",
        "parser", "queued_s", "status",
    )  # fmt: skip

    status: int
    headers: dict[str, str]

    def __init__(
        self, connection: Connection, handler: Handler, turn: Turn, home: AtHand[Handler] | None = None
    ) -> None:
        """`home` takes the connection when it may serve again, in the pool's place."""
        self.queued_s = 0.0
        self._connection = connection
        self._handler = handler
        self._ours = True  # the connection, until the answer has ended or was given up
        self._slot: Slots | None = None
        self.parser = UNREAD  # see `parsing`
        self._parts: list[bytes] = []
        self._size = 0  # of these
        self._raw = b""  # what came behind them and is not parsed yet
        self._paused = False
        self._narrow = False
        self._take: Take | None = None
        self._through: Through | None = None
        self._direct: Through | None = None  # the same where a chunk has just ended: what passes is not even parsed
        self._enough = False  # the taker wants no more
        self._fault: BaseException | None = None  # what the taker raised
        self._waiter: asyncio.Future[None] | None = None
        self._who: Waits | None = None
        self._error: UpstreamError | None = None
        self._begun = False
        self._turn = turn
        self._home = home
        handler.reply = self

    # -- the connection's side -----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        direct = self._direct
        if direct is not None:
            try:
                passed, more = direct(data)
            except BaseException as exc:  # a fault in the taker is for whoever pours, not for the loop
                self._fault = exc
                self._stop()
                return
            if passed:
                data = data[passed:]
                if not more:
                    self._raw = data
                    self._stop()
                    return
                if not data:
                    return
        if not self._begun:
            self._begun = True
            came = whole(data) if self._take is None else None
            if came is not None:
                self.parser, body = came
                self._parts.append(body)
                self._ended()
                self._wake()
                return
            self.parsing()
        if self._take is not None:
            self._pass(data)
            return
        if self._raw:
            self._raw += data
        else:
            self._parse(data, FIRST if len(data) > LARGE else 0)
        if self._size + len(self._raw) > HIGH and self._ours:
            self._pause()
        if self.parser.head is not None:
            self._wake()

    def _pass(self, data: bytes) -> None:
        """To whoever pours."""
        parser, take, broken = self.parser, self._take, None
        assert take is not None
        try:
            body = parser.feed(data)
        except BadHttp as exc:
            body, broken = exc.body, exc
        try:
            if body and not take(body):
                self._stop()
        except BaseException as exc:  # as above
            self._fault = exc
            self._stop()
        if broken is not None:
            self.garbled(broken)
            return
        self._direct = self._through if self._take is not None and parser.at_border else None
        if parser.done:
            self._ended()
            self._wake()

    def _parse(self, data: bytes, enough: int = 0) -> None:
        """Into the parts that a reader finds; if `enough`, no further than shows how the answer begins."""
        parser, broken = self.parser, None
        try:
            body, at = parser.feed_some(data, enough)
        except BadHttp as exc:
            body, at, broken = exc.body, len(data), exc
        self._raw = data[at:]
        if body:
            self._parts.append(body)
            self._size += len(body)
        if broken is not None:
            self.garbled(broken)
        elif parser.done:
            self._ended()

    def garbled(self, exc: BadHttp) -> None:
        """What came before is somebody's already."""
        self._begun = True
        self._fail(UpstreamBroken(CUT if self.parser.head else NO_HTTP, detail=str(exc)))

    def _stop(self) -> None:
        """The taker has enough."""
        self._take, self._direct, self._enough = None, None, True
        if not self.parser.done:
            self._pause()
        self._wake()

    def parsing(self) -> Parser:
        """The parser of what comes; most answers come at once, and need none of their own."""
        if self.parser is UNREAD:
            self.parser = Parser()
        return self.parser

    def lend(self, receiver: Receiver) -> None:
        """What comes from now on is for somebody else to take, by way of `parser`, until it is given back."""
        self._handler.reply = receiver

    def direct(self) -> None:
        """To whom it is lent gets it by one call less, until it is given back: for a stream of many reads."""
        handler = self._handler
        if self._ours and handler.reply is not None and handler.ear is not handler.reply:
            handler.direct(handler.reply)

    def returned(self, who: Waits | None) -> None:
        """What comes is its own to take again, and nothing has come so far. `who` is told, once, as `came` tells."""
        self._who = who
        if self._ours:
            self._handler.reply = self

    def give_back(self, body: bytes) -> None:
        """`body` is what has come and is to be read."""
        self._begun = self.parser.begun
        if (head := self.parser.head) is not None:
            self.status, self.headers = head.status, head.headers
        if not self._ours:
            return
        self._handler.reply = self
        if self._handler.ear is not None:
            self._handler.direct(None)
        if body:
            self._parts.append(body)
            self._size += len(body)
        if self.parser.done:
            self._ended()

    def has_come(self, head: Head) -> None:
        """All of the answer, to whom it was lent, past the parser and without a byte behind it."""
        if self._ours:
            self._goes(head.reusable)

    def rests(self) -> None:
        """It `has_come`, and nobody knows it any more: it is as it was made, and may serve the next request."""
        if self._handler.transport is not None:  # or it was lost meanwhile, and would know who knows it
            self._handler.spare = self

    def serves(self, connection: Connection, slot: Slots) -> None:
        """The request that is asked on its handler now, by that connection and in that place."""
        self._connection, self._slot, self._ours = connection, slot, True
        handler = self._handler
        handler.spare, handler.reply = None, self

    def raises(self, exc: BaseException) -> None:
        """Where somebody pours, or asks for more than has come."""
        self._fault = exc

    def lost(self, exc: BaseException | None) -> None:
        if self._raw:
            self._parse(self._raw)
        if self.parser.done:
            self._wake()
        elif exc is None and self.parser.close():
            self._ended()
            self._wake()
        else:
            self._fail(UpstreamBroken(CUT if self.parser.head else NO_ANSWER, detail=f"{type(exc).__name__}: {exc}"))

    def _fail(self, error: UpstreamError) -> None:
        self._error = self._error or error
        self.close()
        self._wake()

    def _ended(self) -> None:
        """The connection serves again, or is closed where nobody can tell what would come next on it."""
        if self._paused:
            self._resume()
        head = self.parser.head
        self._goes(
            head is not None and head.reusable and not self.parser.surplus and (not self._narrow or self._widened())
        )

    def _goes(self, reusable: bool) -> None:
        handler, connection = self._handler, self._connection
        handler.reply = None
        if not reusable:
            connection.close()
        elif self._home is not None:
            self._home.put(connection, handler)
        else:
            connection.release()
        self._release()

    def holds(self, slot: Slots) -> None:
        """A place that is free again when the connection is."""
        if self._ours:
            self._slot = slot
        else:
            slot.release()

    def _release(self) -> None:
        self._ours = False
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _pause(self) -> None:
        transport = self._handler.transport
        if not self._paused and transport is not None:
            self._paused = True
            transport.pause_reading()

    def _resume(self) -> None:
        transport = self._handler.transport
        self._paused = False
        if transport is not None:
            transport.resume_reading()

    def narrow(self) -> None:
        transport = self._handler.transport
        if self._ours and not self._narrow and transport is not None:
            self._narrow = width.narrow(transport)

    def _widened(self) -> bool:
        transport = self._handler.transport
        return transport is not None and width.widen(transport)

    # -- the reader's side ---------------------------------------------------------------------------------------

    async def begin(self, request: bytes, body: bytes) -> Head:
        """Sends, and waits for the head. Raises Stale where the connection ended before any byte of an answer."""
        transport = self._handler.transport
        if transport is None or transport.is_closing():
            self.close()
            raise Stale
        if len(body) < LOW:
            self._turn.post(transport, request + body)
        else:
            transport.write(request)
            transport.write(body)
        return await self.head()

    async def came(self) -> None:
        """Waits until the head is here, or nothing comes any more."""
        while self.parser.head is None and self._error is None:
            await self._wait()

    def at_once(self) -> tuple[Head, bytes] | None:
        """The answer, if all of it came with its head; it can be read all the same."""
        parser, parts = self.parser, self._parts
        if not parser.done or parser.head is None or self._error is not None or len(parts) != 1:
            return None
        return parser.head, parts[0]

    async def head(self) -> Head:
        """See `begin`."""
        await self.came()
        if self.parser.head is None:
            assert self._error is not None
            if not self._begun and isinstance(self._error, UpstreamBroken):
                raise Stale from self._error
            raise self._error
        head = self.parser.head
        self.status, self.headers = head.status, head.headers
        return head

    async def chunk(self) -> bytes:
        while not self._parts:
            if (fault := self._error or self._fault) is not None:
                raise fault
            if self.parser.done:
                return b""
            if self._raw:
                self._parse(self._raw)
                continue
            if self._paused and self._ours:  # by a taker that had enough
                self._resume()
            await self._wait()
        if isinstance(self._error, UpstreamTimeout):
            raise self._error
        parts, self._parts, self._size = self._parts, [], 0
        if self._paused and self._ours:
            self._resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pour(self, take: Take, through: Through | None = None) -> bool:
        if self._fault is not None:
            raise self._fault
        if self._parts and not take(await self.chunk()):
            return False
        self._take, self._through, self._enough = take, through, False
        self._direct = through if self.parser.at_border else None
        try:
            if self._raw:
                raw, self._raw = self._raw, b""
                self.received(raw)
            if self._paused and self._ours and not self._enough:
                self._resume()
            while not (self._enough or self.parser.done or self._error):
                await self._wait()
        finally:
            self._take = self._through = self._direct = None
        if self._fault is not None:
            raise self._fault
        if self._error is not None and not self._enough:
            raise self._error
        return not self._enough

    async def finish(self) -> bool:
        if self.parser.done and not self._parts:
            return False
        return await run_out(self)

    def close(self) -> None:
        if not self._ours:
            return
        handler = self._handler
        handler.reply = None
        if handler.transport is not None:
            handler.transport.abort()  # what of the request has not left does not leave any more
        self._connection.close()
        self._release()

    def expire(self, message: str) -> None:
        self._error = UpstreamTimeout(message)
        self._parts.clear()
        self._raw = b""
        self.close()
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except BaseException:
            self.close()  # cancelled: nobody will read the rest
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        who, waiter = self._who, self._waiter
        if who is not None:
            self._who = None
            who.came()
        elif waiter is not None and not waiter.done():
            waiter.set_result(None)
