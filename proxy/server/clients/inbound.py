"""A request as the gateway sees it, whoever took it off the wire: aiohttp's parser, or `ordinary` for those that
are entirely ordinary.

A client's requests mostly have equal heads but for Content-Length. So what follows from a head alone is asked of
`Head`, which keeps it: `request.head.under(snapshot, read)` calls `read(head, snapshot)` once for as long as that head
comes again on that snapshot, and gives what it gave. Of a request that came through aiohttp the head is new each time,
and `read` is simply called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import ReferenceType, ref

from aiohttp.http import HttpVersion
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDictProxy

if TYPE_CHECKING:
    from proxy.server.express.ride import Ride
    from proxy.server.turn import Turn

S = TypeVar("S")
T = TypeVar("T")


class Head:
    """`headers` are those of the request. Whether Content-Length is among them is left open: it is the request's."""

    __slots__ = ("_known", "_snapshot", "headers", "raw_path")

    def __init__(self, raw_path: str, headers: CIMultiDictProxy[str]) -> None:
        self.raw_path = raw_path  # with its query
        self.headers = headers
        self._known: dict[Callable[[Any, Any], Any], Any] = {}
        self._snapshot: ReferenceType[Any] | None = None

    def under(self, snapshot: S, read: Callable[[Head, S], T]) -> T:
        """What `read` makes of this head under that snapshot. `read` depends on nothing else, and what it gives is
        changed by nobody: other requests have it as well. What it raises is raised, and not kept."""
        last = self._snapshot
        if last is None or last() is not snapshot:
            self._snapshot, self._known = ref(snapshot), {}
        found: T | None = self._known.get(read)
        if found is None:
            found = self._known[read] = read(self, snapshot)
        return found


class Content(Protocol):
    """The body, as it comes."""

    total_bytes: int

    def is_eof(self) -> bool:
        """Whether all of it has come."""

    def read_nowait(self) -> bytes: ...

    async def readany(self) -> bytes:
        """What has come since, at least one byte; nothing at the end."""


class Request(Protocol):
    """What the gateway asks of a request. aiohttp's has it, and more."""

    @property
    def head(self) -> Head: ...
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def content(self) -> Content: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def keep_alive(self) -> bool:
        """Whether the connection may stay once this is answered."""

    @property
    def remote(self) -> str | None:
        """The peer's address; None or empty over a Unix socket."""

    @property
    def protocol(self) -> RequestHandler: ...
    @property
    def transport(self) -> asyncio.Transport | None:
        """None once the client has gone."""

    @property
    def turn(self) -> Turn | None:
        """By which alone the connection is written to; None where aiohttp writes as well."""

    document: object  # that its body is, where somebody has read it and has not taken it away
    tried: bool  # whether it can be served without a task, and if it is, or was up to here,
    ride: Ride | None


class PlainRequest(BaseRequest):
    """aiohttp's, with a head."""

    turn = None
    document: object = None
    tried = False
    ride: Ride | None = None

    @property
    def head(self) -> Head:
        found: Head | None = self._cache.get("head")
        if found is None:
            found = self._cache["head"] = Head(self.raw_path, self.headers)
        return found
