"""A provider's session as the lean exchange has it: aiohttp's connections, those at hand, and the tries of an exchange.

Connecting, TLS, DNS and the pool stay aiohttp's. What runs on a connection is `lean`'s.
"""

from __future__ import annotations

import asyncio
import functools

import aiohttp
from aiohttp import ClientTimeout
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from proxy.errors import UpstreamBroken
from proxy.routing.table import Provider
from proxy.server.turn import Turn
from proxy.server.upstream.at_hand import QUIET, AtHand
from proxy.server.upstream.exchange import Outgoing, Reply
from proxy.server.upstream.handler import Handler
from proxy.server.upstream.lean import NO_ANSWER, LeanReply, Stale
from proxy.server.upstream.plain import KEEP_ALIVE, STALE_TRIES, PlainUpstream, finite, too_soon, unsent
from proxy.server.upstream.rendering import rendered
from proxy.wire.splice import Parts

LARGEST = 64 << 10  # bytes of a body that is put together with its head
HEADS = 512  # request heads that are kept rendered
Place = tuple[Connection, Handler]


class LeanUpstream(PlainUpstream):
    """A provider's session as the plain one has it. Requests through an egress proxy take the plain way."""

    keep_alive = KEEP_ALIVE - QUIET  # in the pool, where a connection comes when it has been idle so long at hand

    def __init__(self, provider: Provider) -> None:
        super().__init__(provider)
        connector, loop = self._session.connector, asyncio.get_running_loop()
        assert isinstance(connector, aiohttp.TCPConnector)
        self._connector = connector
        self._connector._factory = functools.partial(Handler, loop)  # type: ignore[assignment]  # what aiohttp builds for itself
        self._at_hand: AtHand[Handler] = AtHand(loop)
        self._turn = Turn.of_running_loop()
        self._request: ClientRequest | None = None
        self._heads: dict[tuple[str, bool, str, tuple[tuple[str, str], ...]], bytes] = {}
        base = URL(provider.base_url)
        self.goes_plain = self._proxy is not None or base.user is not None or base.scheme not in ("http", "https")

    async def send(self, outgoing: Outgoing) -> Reply:
        if self.goes_plain:
            return await super().send(outgoing)
        return await self._sent_within(STALE_TRIES, outgoing)

    def place(self) -> Place | None:
        """A connection at hand for which there is a place; `asked` comes next, or `leaves`. None where that takes
        waiting."""
        slots = self._slots
        if slots._free <= 0:  # as `take_at_once` asks
            return None
        found = self._at_hand.take()
        if found is not None:
            slots._free -= 1
        return found

    def leaves(self, place: Place) -> None:
        """Nothing was asked."""
        self._slots.release()
        self._at_hand.put(*place)

    def drops(self, place: Place) -> None:
        """Something may have been asked, and nobody waits for an answer."""
        connection, handler = place
        self._slots.release()
        if handler.transport is not None:
            handler.transport.abort()
        connection.close()

    def asked(self, place: Place, head: bytes, size: int, body: Parts) -> LeanReply:
        """Sends a request whose head ends before the digits of that size. A large one is not put together."""
        connection, handler = place
        transport = handler.transport
        assert transport is not None  # or it was not at hand
        if size > LARGEST:
            self._turn.flush()
            transport.writelines((b"%b%d\r\n\r\n" % (head, size), *body))
        else:
            self._turn.post(transport, b"".join([head, b"%d\r\n\r\n" % size, *body]))
        reply = handler.spare or LeanReply(connection, handler, self._turn, self._at_hand)
        reply.serves(connection, self._slots)
        return reply

    async def resumed(self, reply: LeanReply, began: float, outgoing: Outgoing) -> Reply:
        """As `send`, of an exchange that `begin` began then."""
        try:
            await reply.head()
        except Stale as stale:
            if not too_soon(asyncio.get_running_loop().time() - began):
                raise UpstreamBroken(NO_ANSWER, detail=str(stale.__cause__)) from stale
            return await self._sent_within(STALE_TRIES - 1, outgoing)
        return _as_it_is(reply)

    async def _sent_within(self, tries: int, outgoing: Outgoing) -> LeanReply:
        queued_s = await self._slots.take(outgoing.timeouts.queue)
        try:
            reply = await self._exchanged(outgoing, tries)
        except BaseException:
            self._slots.release()
            raise
        reply.queued_s = queued_s
        reply.holds(self._slots)
        return _as_it_is(reply)

    async def _exchanged(self, outgoing: Outgoing, tries: int) -> LeanReply:
        """A pooled connection that its provider closed meanwhile costs nothing but another try, as on the plain way."""
        request, clock = self._rendered(outgoing), asyncio.get_running_loop().time
        for last in (*[False] * tries, True):
            connection, handler, reused = await self._acquired(outgoing.timeouts.connect)
            if handler.ear is not None:
                handler.direct(None)  # past one that would give it all back
            reply, began = LeanReply(connection, handler, self._turn, self._at_hand), clock()
            try:
                await reply.begin(request, outgoing.body)
            except Stale as stale:
                if last or not reused or not too_soon(clock() - began):
                    raise UpstreamBroken(NO_ANSWER, detail=str(stale.__cause__)) from stale
            else:
                return reply
        raise AssertionError("unreachable: the last try returns or raises")

    async def close(self) -> None:
        self._at_hand.close()
        await super().close()

    async def _acquired(self, connect: float) -> tuple[Connection, Handler, bool]:
        """A connection, new or pooled, and whether it has been used before."""
        if (found := self._at_hand.take()) is not None:
            return *found, True
        if self._request is None:
            loop = asyncio.get_running_loop()
            self._request = ClientRequest("POST", URL(self._provider.base_url), loop=loop, session=self._session)
        try:
            while True:
                connection = await aiohttp.TCPConnector.connect(
                    self._connector, self._request, [], _timeout(finite(connect))
                )
                handler = connection.protocol
                assert isinstance(handler, Handler)
                if not handler.should_close:
                    break
                connection.close()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            raise unsent(exc) from exc
        reused, handler.used = handler.used, True
        return connection, handler, reused

    def _rendered(self, outgoing: Outgoing) -> bytes:
        """The request's head."""
        head = self.head_of(outgoing)
        return b"%b%d\r\n\r\n" % (head, len(outgoing.body)) if outgoing.method == "POST" else head + b"\r\n"

    def head_of(self, outgoing: Outgoing) -> bytes:
        """The request's head, up to the digits of its length."""
        key = outgoing.method, outgoing.rooted, outgoing.path, outgoing.headers
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= HEADS:
                self._heads.clear()
            head = self._heads[key] = rendered(self._url(outgoing.path, outgoing.rooted), outgoing)
        return head


def _as_it_is(reply: LeanReply) -> LeanReply:
    """Raises UpstreamBroken where the answer is compressed."""
    coding = reply.headers.get("content-encoding")
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        reply.close()
        raise UpstreamBroken("The provider compressed its answer although it was asked not to.")
    return reply


@functools.lru_cache(maxsize=64)
def _timeout(connect: float | None) -> ClientTimeout:
    return ClientTimeout(total=None, connect=connect)
