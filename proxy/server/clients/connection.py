"""One client connection: lean while its requests are ordinary ones, aiohttp's from one on that is not.

Lean requests run in the one task that aiohttp starts for a connection, one after the other; one that rides
(`ordinary.Way`) runs while that task sleeps, which is woken, or cancelled, where anything is left for it to do. The
fields of aiohttp's own connection say of them what they say of its requests, so its timer, its shutdown and its
cancellation hold for all. `tests/server/clients/test_connection.py` checks what is relied upon. What comes behind a
request waits for its end.

A connection comes back from aiohttp where its parser certainly stands between two requests (`place`), or else never.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from proxy.dialects import DIALECTS
from proxy.errors import ClientGone, GatewayError, Internal, InvalidRequest
from proxy.server.clients.downstream import Left, send
from proxy.server.clients.ordinary import AHEAD, Body, Known, OrdinaryRequest
from proxy.server.clients.place import Place, changes
from proxy.server.identity import request_id
from proxy.server.respond import error_answer, id_headers
from proxy.server.turn import REQUESTS
from proxy.wire.request_head import END

if TYPE_CHECKING:
    from proxy.server.clients.listener import Listener

log = structlog.get_logger()
VERSIONS = (HttpVersion11, HttpVersion10)


class Connection(RequestHandler):
    """Bad HTTP is answered in JSON and told in one log line, without the sender's bytes."""

    __slots__ = (
        "_ahead",
        "_arrived",
        "_body",
        "_held_back",
        "_known",
        "_listener",
        "_place",
        "_rests",
        "_returns",
        "_riding",
        "head_since",
        "lean",
        "remote",
    )

    def __init__(self, listener: Listener, *, lean: bool, **more: Any) -> None:
        super().__init__(listener, **more)
        self._listener = listener
        self.lean = lean
        self.remote: str | None = None  # the peer's address
        self.head_since: float | None = None  # when the head began that is still incomplete
        self._known: Known | None = None  # the head of the lean request before
        self._arrived: OrdinaryRequest | None = None  # and not begun yet
        self._body: Body | None = None  # of the lean request that has arrived or runs
        self._ahead = b""  # what came behind it
        self._held_back = False
        self._place = Place() if lean else None  # of aiohttp's parser, where it is known
        self._returns = False  # from aiohttp, just now
        self._rests = False  # see `rests`
        self._riding: OrdinaryRequest | None = None  # while the task sleeps

    writing_paused = vars(BaseProtocol)["_paused"]  # the slot itself, which is told without a call

    @property
    def idle(self) -> bool:
        return self._current_request is None and self._arrived is None and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.head_since = self._loop.time()
        peer = transport.get_extra_info("peername")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else peer or None
        super().connection_made(transport)
        self._listener.make_room()

    def data_received(self, data: bytes) -> None:
        if not self.lean:
            if not (data and self._waits() and self._return(data)):
                self._parsed(data)
            return
        if not data:  # as aiohttp has it told that reading goes on
            return
        body = self._body
        if body is None:
            if not (self._force_close or self._close):
                self._begin(data)
            return
        if body.needs:
            data = body.feed(data)
        if data:
            self._ahead += data
            if len(self._ahead) > AHEAD and not self._held_back:
                self._held_back = True
                self._pause_transport_reading()

    def _parsed(self, data: bytes) -> None:
        place = self._place
        if place is None or not data:
            count = self._request_count
            super().data_received(data)
            self._judge(self._request_count - count)
            data = b""
        while data:
            piece, data = place.cut(data) if place is not None else (data, b"")
            count = self._request_count
            super().data_received(piece)
            told = self._request_count - count
            if place is not None and (told != place.head_ended or (told and not place.follows(self._messages[-1][0]))):
                self._place = place = None
            self._judge(told)
        if self._messages or self._current_request is not None:
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self._loop.time()

    def _judge(self, told: int) -> None:
        """The requests of which aiohttp's parser has just told. It takes HTTP/2.0 for a version that can be answered,
        and loses what comes in one packet with an upgrade that it does not know, unless that was cut off: the next
        bytes would be read from amid a request, so there are none."""
        for at in range(-told, 0):
            message, payload = self._messages[at]
            if not isinstance(message, RawRequestMessage):
                self._break_off_body(at)
                continue
            if message.version not in VERSIONS:
                self._messages[at] = (_ErrInfo(400, BadHttpMessage("another version of HTTP"), ""), EMPTY_PAYLOAD)
            elif message.upgrade and self._place is None and not changes(message):
                self._messages[at] = (message._replace(should_close=True), payload)

    def _break_off_body(self, at: int) -> None:
        """The parser gave up at that place in the row of requests. aiohttp tells whoever comes next, and forgets those
        who still wait for the rest of a body."""
        if at > -len(self._messages):
            content = self._messages[at - 1][1]
        elif self._current_request is not None:
            content = self._current_request.content
        else:
            return
        if not content.is_eof():
            content.set_exception(BadHttpMessage("the body broke off"))

    def close(self) -> None:
        self._board()  # what has arrived is served, though its task still sleeps
        super().close()

    def _process_keepalive(self) -> None:
        if self._arrived is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None  # another one is set behind the answer

    def force_close(self) -> None:
        self._listener.turn.flush()  # whatever was said before is the client's
        super().force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.unread.discard(self)
        super().connection_lost(exc)

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        if self.transport is not None:
            self._listener.unread.add(self)

    def _resume_transport_reading(self) -> None:
        self._listener.unread.discard(self)
        super()._resume_transport_reading()

    async def start(self) -> None:
        try:
            while await self._lean_ones():
                try:
                    await super().start()
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if not self._returns or task is None or task.cancelling():
                        raise
                    self._returns = False
                else:
                    return
        except asyncio.CancelledError as exc:
            exc.__traceback__ = None  # its frames have all of the request, which has the task, which keeps this
            raise
        finally:
            self._body = self._arrived = None  # know their connection: the ring would wait for the collector

    async def _lean_ones(self) -> bool:
        """Until aiohttp takes over; False where the connection ends."""
        while self.lean:
            if self._force_close:
                return False
            request, fault = self._arrived, None
            if request is None:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                except BaseException as exc:
                    if self._riding is None:
                        raise
                    fault = exc
                finally:
                    self._waiter = None
                request, self._riding = self._riding, None
            if request is not None and not await self._served(request, fault):
                return False
        return True

    # -- lean ------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        """`data` is the first since the request before, or since ever."""
        known = self._known
        if known is not None:
            raw, end, body = data.partition(END)
            if end and (length := known.length(raw)) is not None:
                self._take(known, length, body)
                return
        found = self._listener.heads.find(data)
        if found is None:
            self._hand_over(data)
            return
        self._known, length, start = found
        self._take(self._known, length, data[start:])

    def _take(self, known: Known, length: int, first: bytes) -> None:
        """`first` is what has come behind its head."""
        if len(first) > length:
            first, self._ahead = first[:length], first[length:]
        self.head_since = None
        self._request_count += 1
        listener = self._listener
        listener.requests_count += 1
        self._body = request = OrdinaryRequest(known, first, length, self, not listener.stopping, listener.turn)
        self._arrived = request
        waiter = self._waiter
        if waiter is None or request.needs or self._rests or waiter.done():
            self._wake()
        elif not listener.turn.later(REQUESTS, self._board):
            self._board()

    def _board(self) -> None:
        """Sees whether the request that has arrived may ride, unless the task has been woken meanwhile, which sees to
        it."""
        request, waiter = self._arrived, self._waiter
        if request is None or request.tried or waiter is None or waiter.done():
            return
        request.tried = True
        ride = request.known.way.board(request)
        if ride is None:
            self._wake()
            return
        request.ride, ride.waiter = ride, waiter
        self._arrived, self._riding = None, request
        self._waiter, self._request_in_progress = None, True
        self._current_request = request  # type: ignore[assignment]  # as in `_served`

    def _hand_over(self, data: bytes) -> None:
        self._listener.turn.flush()  # from here on aiohttp writes
        self.lean = False
        self._wake()
        self._parsed(data)

    def _waits(self) -> bool:
        """Whether aiohttp, and its parser, do nothing but wait for a request."""
        if self._place is None or not self._place.between() or self._messages or self._close or self._force_close:
            return False
        return self._waiter is not None and not self._waiter.done()

    def _return(self, data: bytes) -> bool:
        """From aiohttp, whose task ends in a cancelled wait, if this is an ordinary request."""
        found = self._listener.heads.find(data)
        if found is None or self._waiter is None:
            return False
        self._returns = self.lean = True
        self._waiter.cancel()
        self._known, length, start = found
        self._take(self._known, length, data[start:])
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _served(self, request: OrdinaryRequest, fault: BaseException | None) -> bool:
        """Whether the connection stays. `fault` is what ended the sleep of the task while the request rode."""
        self._current_request = request  # type: ignore[assignment]  # all that is asked of it is `_cancel`
        self._arrived = None
        stays = False
        try:
            stays = await self._answered(request, fault)
            if self._rests:
                self._rests, self._waiter = False, None
                return not self._force_close
            if request.needs:
                await self._lingered(request)
                stays = stays and request.is_eof()
        except ClientGone:
            self.force_close()
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception as exc:  # half an answer may have left
            log.exception("internal_error", error=type(exc).__name__)
            self.force_close()
        if self._force_close:
            return False
        if not stays or self._close:
            self._task_handler = None
            if self.transport is not None:
                self._listener.turn.flush()
                self.transport.close()
            return False
        self._wait_for_the_next()
        return True

    def rests(self, request: OrdinaryRequest, waiter: asyncio.Future[None]) -> bool:
        """Whether the next request may be waited for by the task that sleeps in `waiter`: all of this one's answer has
        left. If it rode, the task knows nothing of it; else it wakes up once for both: each time costs the loop one
        more look at all sockets."""
        if self._ahead or request.needs or self._force_close or self._close or self._handler_waiter is not None:
            return False
        self._rests, self._waiter = request.ride is None, waiter
        self._riding = request.ride = None
        self._current_request = None
        self._request_in_progress = False
        self._wait_for_the_next()
        return True

    async def _answered(self, request: OrdinaryRequest, fault: BaseException | None) -> bool:
        self._request_in_progress = True
        try:
            if fault is not None and request.ride is not None:
                request.ride.interrupted(fault)
            answer = await request.known.way.serve(request)
            if answer.__class__ is not Left and isinstance(answer, Response):  # whose class is slow to tell
                request.keep_alive = request.keep_alive and answer.keep_alive is not False
                answer = await send(request, answer)
            return bool(answer.keep_alive)
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)

    async def _lingered(self, body: Body) -> None:
        """A close would take the answer away from a client that still sends: what it sends is read for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                while not body.is_eof():
                    await body.readany()

    def _wait_for_the_next(self) -> None:
        self._keepalive = True
        self._next_keepalive_close_time = close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)
        self._body = None
        if self._ahead:
            data, self._ahead = self._ahead, b""
            self._begin(data)
        if self._held_back and len(self._ahead) <= AHEAD:
            self._held_back = False
            if not (self._buffer_paused or self._reading_paused):  # by aiohttp, where the rest is its own now
                self._resume_transport_reading()

    # -- what goes wrong -------------------------------------------------------------------------------------

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        if status >= 500:
            log.error("internal_error", error=type(exc).__name__ if exc else "unknown")
            error: GatewayError = Internal("Something went wrong inside the gateway.")
        else:
            log.warning("bad_http", error=type(exc).__name__ if exc else "unknown", status=status)
            error = InvalidRequest("The request is not proper HTTP.")
        answer = error_answer(error, DIALECTS["openai-chat"], identity := request_id())
        headers = [*answer.headers, *id_headers(identity, "openai-chat"), ("Connection", "close")]
        response = Response(status=status, headers=headers, body=answer.body)
        response.force_close()
        return response
