"""One client connection: lean for as long as each request is an ordinary one, aiohttp's from the first on that is not.

Lean requests run in the one task that aiohttp starts for a connection, one after the other. The fields of aiohttp's own
connection say of them what they say of its requests, so its timer, its shutdown and its cancellation hold for both.
`tests/server/test_connection.py` checks what is relied upon. What comes behind a request waits for its end.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.dialects import DIALECTS
from proxy.errors import ClientGone, GatewayError, Internal, InvalidRequest
from proxy.server.downstream import send
from proxy.server.identity import request_id
from proxy.server.ordinary import AHEAD, Body, Known, OrdinaryRequest
from proxy.server.respond import error_answer, id_headers

if TYPE_CHECKING:
    from proxy.server.listener import Listener

log = structlog.get_logger()


class Connection(RequestHandler):
    """Bad HTTP is answered in JSON and told in one log line, without the sender's bytes."""

    __slots__ = ("_ahead", "_arrived", "_body", "_held_back", "_known", "_listener", "head_since", "lean", "remote")

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
            self._parsed(data)
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
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self._loop.time()

    async def start(self) -> None:
        while self.lean:
            if self._force_close:
                return
            request = self._arrived
            if request is None:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            elif not await self._served(request):
                return
        await super().start()

    # -- lean ------------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        """`data` is the first since the request before, or since ever."""
        known = self._known
        match = known.match(data) if known is not None else None
        if known is None or match is None:
            found = self._listener.heads.find(data)
            if found is None:
                self._hand_over(data)
                return
            known, length, start = found
            self._known = known
        else:
            length, start = match
        end = start + length
        body = self._body = Body(self, data[start:end], length)
        if len(data) > end:
            self._ahead = data[end:]
        self.head_since = None
        self._request_count += 1
        self._arrived = OrdinaryRequest(known, length, body, self, self.remote, not self._listener.stopping)
        self._wake()

    def _hand_over(self, data: bytes) -> None:
        """To aiohttp, for good: where its parser has bytes, nobody else knows where the next request begins."""
        self.lean = False
        self._known = None
        self._wake()
        self._parsed(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _served(self, request: OrdinaryRequest) -> bool:
        """Whether the connection stays."""
        self._listener.requests_count += 1
        self._current_request = request  # type: ignore[assignment]  # all that is asked of it is `_cancel`
        self._arrived = None
        stays = False
        try:
            stays = await self._answered(request)
            if request.content.needs:
                await self._lingered(request.content)
                stays = stays and request.content.is_eof()
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
                self.transport.close()
            return False
        self._wait_for_the_next()
        return True

    async def _answered(self, request: OrdinaryRequest) -> bool:
        self._request_in_progress = True
        try:
            answer = await request.handler(request)
            if isinstance(answer, web.Response):
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
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            log.error("internal_error", error=type(exc).__name__ if exc else "unknown")
            error: GatewayError = Internal("Something went wrong inside the gateway.")
        else:
            log.warning("bad_http", error=type(exc).__name__ if exc else "unknown", status=status)
            error = InvalidRequest("The request is not proper HTTP.")
        answer = error_answer(error, DIALECTS["openai-chat"], identity := request_id())
        headers = [*answer.headers, *id_headers(identity, "openai-chat"), ("Connection", "close")]
        response = web.Response(status=status, headers=headers, body=answer.body)
        response.force_close()
        return response
