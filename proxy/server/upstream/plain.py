"""The plain implementation: aiohttp's ClientSession, one per provider. The executable specification for any leaner
one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp import ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.routing.table import Provider
from proxy.server.upstream import tls, width
from proxy.server.upstream.exchange import Outgoing, Reply, Take, Through, url_of
from proxy.server.upstream.resolver import OwnThread
from proxy.server.upstream.slots import Slots

STALE_TRIES = 3  # pooled connections that turn out closed, before a failure counts
STALE_WITHIN = 5.0  # seconds in which they do: a provider that closes later had the request, and may have worked on it
LINGER = 1.0  # seconds that an answer may take to end once its last event is here
MOST_SURPLUS = 4  # reads
MOST_UNREAD = 16  # answers on one connection that nobody has looked at yet, interim ones included
KEEP_ALIVE = 30.0  # seconds an idle connection is kept
AT_ONCE = 1 << 20  # bytes
_reused: ContextVar[bool] = ContextVar("reused", default=False)  # of this task's last connection
CUT = "The provider's answer was cut off."


async def run_out(reply: Reply) -> bool:
    """Reads a reply to its end, or closes one that goes on. Whether there was more than blanks."""
    found, reads = False, 0
    try:
        async with asyncio.timeout(LINGER):
            while data := await reply.chunk():
                found, reads = found or not data.isspace(), reads + 1
                if reads > MOST_SURPLUS:
                    reply.close()
                    break
    except (UpstreamError, TimeoutError):
        reply.close()
    return found


async def read_up_to(limit: int, reply: Reply) -> tuple[bytes, bool]:
    """The body up to its end, or a little more than `limit` bytes of it; and whether that is all. Raises like
    `Reply.chunk`."""
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        data = await reply.chunk()
        if not data:
            return b"".join(parts), True
        parts.append(data)
        size += len(data)
    return b"".join(parts), False


class PlainReply:
    """An aiohttp response as the relay wants it: raw bytes, no decoding."""

    def __init__(self, response: aiohttp.ClientResponse, slot: Slots, queued_s: float) -> None:
        self.queued_s = queued_s
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._slot: Slots | None = slot
        self._expired = ""
        self._narrow: asyncio.BaseTransport | None = None
        protocol = response.connection.protocol if response.connection is not None else None
        self._lost = protocol.closed if protocol is not None else None
        if self._lost is not None:
            self._lost.add_done_callback(self._connection_lost)

    async def chunk(self) -> bytes:
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as exc:
            self.close()
            raise self._failed(exc) from exc
        except BaseException:
            self.close()  # cancelled: nobody will read the rest
            raise
        if self._expired:
            raise UpstreamTimeout(self._expired)
        if not data:
            self._free()
        return data

    async def pour(self, take: Take, through: Through | None = None) -> bool:
        while data := await self.chunk():
            if not take(data):
                return False
        return True

    def narrow(self) -> None:
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        if self._narrow is None and transport is not None and width.narrow(transport):
            self._narrow = transport

    async def finish(self) -> bool:
        return await run_out(self)

    def close(self) -> None:
        self._response.close()
        self._free()

    def expire(self, message: str) -> None:
        self._expired = message
        self.close()

    def _connection_lost(self, lost: asyncio.Future[None]) -> None:
        """aiohttp closes a connection over a malformed chunk, and forgets to tell whoever waits for the next one."""
        lost.exception()
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    def _free(self) -> None:
        if self._lost is not None:
            self._lost.remove_done_callback(self._connection_lost)
        if self._narrow is not None and not (self._narrow.is_closing() or width.widen(self._narrow)):
            self._narrow.close()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _failed(self, exc: BaseException) -> UpstreamError:
        if self._expired:
            return UpstreamTimeout(self._expired)
        return UpstreamBroken(CUT, detail=f"{type(exc).__name__}: {exc}")


class PlainUpstream:
    """One provider's session: its connections, TLS settings, DNS cache and limits."""

    keep_alive = KEEP_ALIVE

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._slots = Slots(provider.connections, provider.queue)
        self._proxy = provider.proxy.reveal() if provider.proxy else None
        self._urls: dict[tuple[str, bool], URL] = {}
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0,  # the slots are the limit: their queue can be measured and bounded
                ssl=tls.context_of(provider) or (True if _is_clear(provider) else tls.system()),
                keepalive_timeout=self.keep_alive,
                resolver=OwnThread(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trust_env=False,
        )

    async def send(self, outgoing: Outgoing) -> Reply:
        queued_s = await self._slots.take(outgoing.timeouts.queue)
        try:
            response = await self._sent(outgoing)
        except BaseException:
            self._slots.release()
            raise
        reply = PlainReply(response, self._slots, queued_s)
        coding = reply.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            reply.close()
            raise UpstreamBroken("The provider compressed its answer although it was asked not to.")
        return reply

    async def close(self) -> None:
        await self._session.close()

    async def _sent(self, outgoing: Outgoing) -> aiohttp.ClientResponse:
        """A pooled connection that its provider closed meanwhile costs nothing but another try: no byte of an answer
        came, and there was no time to work on one."""
        clock = asyncio.get_running_loop().time
        for last in (*[False] * STALE_TRIES, True):
            _reused.set(False)
            began = clock()
            try:
                return await self._session.request(
                    outgoing.method,
                    self._url(outgoing.path, outgoing.rooted),
                    data=_payload(outgoing.body) if outgoing.method == "POST" else None,
                    headers=outgoing.headers,
                    allow_redirects=False,
                    timeout=ClientTimeout(total=None, connect=finite(outgoing.timeouts.connect)),
                    proxy=self._proxy,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
                stale = _reused.get() and too_soon(clock() - began)
                if last or not stale or isinstance(exc, aiohttp.ClientConnectorError):
                    raise unsent(exc) from exc
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
                raise unsent(exc) from exc
        raise AssertionError("unreachable: the last try returns or raises")

    def _url(self, path: str, rooted: bool) -> URL:
        url = self._urls.get((path, rooted))
        if url is None:
            if len(self._urls) > 256:
                self._urls.clear()
            url = URL(url_of(self._provider.base_url, path, rooted=rooted), encoded=True)
            self._urls[path, rooted] = url
        return url


def _payload(body: bytes) -> bytes | io.BytesIO:
    """A large body goes in pieces: written at once it would hold up the loop, and aiohttp warns of it."""
    return io.BytesIO(body) if len(body) > AT_ONCE else body


class _Protocol(ResponseHandler):
    """Gives a provider up that sends interim answers without an end: aiohttp would read every one of them."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self._buffer) > MOST_UNREAD:
            self._buffer.clear()
            self.set_exception(HttpProcessingError(message="too many answers to one request"))
            if self.transport is not None:
                self.transport.close()


class _Connector(aiohttp.TCPConnector):
    """Tells whether the connection that a request got has been used before."""

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol = connection.protocol
            assert protocol is not None
            if not protocol.should_close:
                break
            connection.close()  # it spoke while nobody asked: what it said is no answer to this request
        _reused.set(protocol in self._used)
        self._used.add(protocol)
        return connection

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._factory: Any = partial(_Protocol, loop=self._loop)
        self._used: WeakSet[Any] = WeakSet()


def too_soon(seconds: float) -> bool:
    """Whether a connection that closed so long after it was used again, without an answer, did not close over that."""
    return seconds < STALE_WITHIN


def finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


def unsent(exc: BaseException) -> UpstreamError:
    """What went wrong before a head came. The text of the exception may name hosts: it is for the record only."""
    detail = f"{type(exc).__name__}: {exc}"
    match exc:
        case aiohttp.ConnectionTimeoutError() | aiohttp.SocketTimeoutError() | TimeoutError():
            return UpstreamTimeout("The provider did not accept a connection in time.", detail=detail)
        case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return UpstreamUnreachable("The provider could not be reached.", detail=detail)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
            return UpstreamBroken("The provider closed the connection without an answer.", detail=detail)
    return UpstreamBroken("The provider's answer is not proper HTTP.", detail=detail)


def _is_clear(provider: Provider) -> bool:
    """Nobody on the way there speaks TLS, so that no authority is asked."""
    proxy = provider.proxy.reveal() if provider.proxy else "http:"
    return all(url.lower().startswith("http:") for url in (provider.base_url, proxy))
