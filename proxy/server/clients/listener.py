"""aiohttp's server without its Application: a table of paths, and errors in the surface's own words.

A path is matched as it stands: nothing is decoded, folded or redirected, so that no two spellings mean the same.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import structlog
from aiohttp import StreamReader
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.dialects import DIALECTS
from proxy.errors import GatewayError, UnknownPath, WrongMethod
from proxy.server.clients.connection import Connection
from proxy.server.clients.inbound import PlainRequest
from proxy.server.clients.ordinary import Heads, Ways
from proxy.server.daemon import BACKLOG
from proxy.server.identity import request_id
from proxy.server.respond import SERVER, error_answer, id_headers
from proxy.server.turn import Turn
from proxy.wire import json_text

log = structlog.get_logger()

ABSOLUTE = ("http://", "https://")
WARMING = {"HEAD"}  # the methods of a path that clients only warm their connection up with
NEAR = 0.75  # how much of a path has to be right for another to be meant
LONGEST_NEAR = 60  # characters that are compared: no path of ours is longer
BASE_URLS = "a base URL ends in /v1 for OpenAI's SDKs, and without it for Anthropic's"
ELSEWHERE = "clients are served where `listen` in [server] says"
Handler = Callable[[PlainRequest], Awaitable[StreamResponse]]
Paths = Mapping[str, Mapping[str, Handler]]  # path -> method -> handler; a path that ends in /* takes what is behind it


class Listener(Server):
    """All connections of one or more sockets."""

    def __init__(
        self,
        paths: Paths,
        *,
        keep_alive: float,
        handler_cancellation: bool = True,
        ordinary: Ways | None = None,
        lean: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ordinary` are the paths that ordinary requests are served on without aiohttp's parser, as long as `lean`
        says so when their connection is made."""
        self.heads = Heads(ordinary or {})
        self.turn = Turn.of_running_loop()
        self._lean = lean if ordinary else lambda: False
        self._exact = {path: methods for path, methods in paths.items() if not path.endswith("/*")}
        self._below = {path[:-1]: methods for path, methods in paths.items() if path.endswith("/*")}
        self.most: float = float("inf")  # connections
        self.turned_away = 0  # connections closed for want of room
        self.unread: set[RequestHandler] = set()  # connections whose clients are held back
        self.stopping = False
        self._servers: list[asyncio.Server] = []
        super().__init__(
            self._dispatch,
            request_factory=self._made,
            keepalive_timeout=keep_alive,
            handler_cancellation=handler_cancellation,
            access_log=None,
            auto_decompress=False,
            lingering_time=2.0,
        )

    def __call__(self) -> RequestHandler:
        return Connection(self, lean=self._lean(), loop=asyncio.get_running_loop(), **self._kwargs)

    def _made(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> PlainRequest:
        """While it is stopping, each answer says that its connection closes, so that nobody uses it again."""
        said = message._replace(should_close=True) if self.stopping else message
        if said.path[:8].lower().startswith(ABSOLUTE):
            said = _in_origin_form(said)
        return PlainRequest(said, payload, protocol, writer, task, self._loop)

    async def listen(self, sockets: Iterable[socket.socket]) -> None:
        for opened in sockets:
            self._servers.append(await asyncio.get_running_loop().create_server(self, sock=opened, backlog=BACKLOG))

    def accept_no_more(self) -> None:
        """From now on each answer says that its connection closes."""
        self.stopping = True
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self, seconds: float) -> None:
        """Ends every connection: what runs has so long to notice."""
        self.accept_no_more()
        await asyncio.sleep(0)  # what has just come begins, and is ended like the rest
        self.pre_shutdown()
        await self.shutdown(seconds)

    def make_room(self) -> None:
        """Of more connections than there may be, one that is idle goes, or else the newest: descriptors for providers
        and the ledger are never used up by clients."""
        if len(self._connections) <= self.most:
            return
        idle = (it for it in self._connections if isinstance(it, Connection) and it.idle)
        next(idle, next(reversed(self._connections))).force_close()
        self.turned_away += 1

    def hang_up_on_idle(self) -> None:
        """aiohttp's `pre_shutdown` would leave them open and not listen to them any more, nor to bodies on their way.
        Whoever is served meanwhile may ask once more: the answer says that the connection closes."""
        for connection in list(self._connections):
            if isinstance(connection, Connection) and connection.idle:
                connection.force_close()

    async def close_slow_heads(self, seconds: float) -> None:
        """For ever: ends connections that take longer than that to send a head. aiohttp has one clock for idle
        connections and half-sent heads; a reader of half a head is worth less patience than an idle client."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, seconds / 4))
            self._close_slower(loop.time() - seconds)

    def _close_slower(self, limit: float) -> None:
        """By itself, for what sleeps between two looks would keep the last connection that was looked at."""
        for connection in list(self.connections):
            if isinstance(connection, Connection) and (connection.head_since or limit) < limit:
                connection.force_close()

    async def _dispatch(self, request: BaseRequest) -> StreamResponse:
        assert isinstance(request, PlainRequest)
        path = raw_path(request)
        methods = self._exact.get(path) or self._found_below(path)
        if methods is None or (methods.keys() == WARMING and request.method not in WARMING):
            hint = self._near(path)
            return refusal(request, UnknownPath(f"{request.method} {_shown(path)} is not served here; {hint}"))
        handler = methods.get(request.method)
        if handler is None and request.method == "HEAD":
            handler = methods.get("GET")
        if handler is None:
            allowed = ", ".join(methods)
            response = refusal(request, WrongMethod(f"{_shown(path)} takes {allowed}."))
            response.headers["Allow"] = allowed
            return response
        return await handler(request)

    def _near(self, path: str) -> str:
        served = [known for known, methods in self._exact.items() if methods.keys() != WARMING]
        head = f"{path.rstrip('/')}/"
        below = [known for known in served if known.startswith(head) and head.count("/") > 2]
        near = below or get_close_matches(path[:LONGEST_NEAR], served, n=1, cutoff=NEAR)
        if near:
            return f"did you mean {', '.join(self._exact[near[0]])} {near[0]}?"
        return f"{BASE_URLS if '/v1/models' in self._exact else ELSEWHERE}."

    def _found_below(self, path: str) -> Mapping[str, Handler] | None:
        return next((methods for start, methods in self._below.items() if path.startswith(start)), None)


def _in_origin_form(message: RawRequestMessage) -> RawRequestMessage:
    """A target may name scheme and host. That host counts, whatever Host says: RFC 9112, 3.2.2."""
    rest = message.path.partition("://")[2]
    end = next((at for at, char in enumerate(rest) if char in "/?"), len(rest))
    authority, path = rest[:end].rpartition("@")[2], rest[end:]
    path = path if path.startswith("/") else f"/{path}"
    headers = CIMultiDict(message.headers)
    headers["Host"] = authority
    return message._replace(path=path, url=URL(path, encoded=True), headers=CIMultiDictProxy(headers))


def raw_path(request: PlainRequest) -> str:
    """As the client sent it, less its query."""
    return request.raw_path.partition("?")[0]


def dialect_of(request: PlainRequest) -> str:
    """Whose words an error on no particular surface is written in."""
    anthropic = raw_path(request).startswith("/v1/messages") or "anthropic-version" in request.headers
    return "anthropic" if anthropic else "openai-chat"


def refusal(request: PlainRequest, error: GatewayError) -> Response:
    """An error before, or beside, any surface."""
    name = dialect_of(request)
    identity = request_id()
    answer = error_answer(error, DIALECTS[name], identity)
    response = Response(status=answer.status, headers=[*answer.headers, *id_headers(identity, name)], body=answer.body)
    if not request.content.is_eof():
        response.force_close()
    return response


def json_response(document: Any, status: int = 200) -> Response:
    headers = {"Content-Type": "application/json", "Server": SERVER, "X-Request-Id": request_id()}
    return Response(status=status, body=json_text.write(document), headers=headers)


def _shown(path: str) -> str:
    return path[:100].encode("ascii", "backslashreplace").decode()
