"""Pictures that a request names by URL, for providers that take nothing but bytes.

The one place where an address comes from a request. It is off unless `[fetch]` says otherwise, and then guarded:
https, no redirect, no credential and no cookie; the address that is connected to is judged, not a look-up before it, so
that no name can change its mind in between; so much of so many, in so much time. A client learns whether it worked and
not why an address did not answer: it could map the inside with that.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import ClientTimeout
from attrs import evolve
from yarl import URL

from proxy import ir
from proxy.errors import Unsupported
from proxy.record import frozen
from proxy.routing.table import Fetch
from proxy.server.upstream import tls
from proxy.wire.addresses import Network, address_of, is_public, is_within

KINDS = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/heic", "image/heif"})
LONGEST_URL = 2048  # characters
HEADERS = {"User-Agent": "pointsman", "Accept": "image/*", "Accept-Encoding": "identity"}
SILENT = "it cannot be had from there"


@frozen
class _Refused(Exception):
    """Why a picture is not fetched, in words for the client; `detail` is for the record."""

    reason: str
    detail: str = ""


def urls_in(request: ir.Request) -> tuple[str, ...]:
    """Of its pictures, each once."""
    images = (part for message in request.messages for part in _parts(message.parts) if isinstance(part, ir.Image))
    found = (image.source.url for image in images if isinstance(image.source, ir.Url))
    return tuple(dict.fromkeys(url for url in found if url.startswith(("https://", "http://"))))


def _parts(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        yield part
        if isinstance(part, ir.ToolResult):
            yield from _parts(part.content)


def with_pictures(request: ir.Request, found: Mapping[str, ir.Blob]) -> ir.Request:
    """The request with the bytes in the place of the URLs."""
    messages = tuple(
        evolve(message, parts=tuple(_with_bytes(part, found) for part in message.parts)) for message in request.messages
    )
    return evolve(request, messages=messages)


def _with_bytes(part: Any, found: Mapping[str, ir.Blob]) -> Any:
    match part:
        case ir.Image(source=ir.Url(url)) if url in found:
            return evolve(part, source=found[url])
        case ir.ToolResult():
            return evolve(part, content=tuple(_with_bytes(inner, found) for inner in part.content))
    return part


async def fetched(urls: tuple[str, ...], settings: Fetch) -> dict[str, ir.Blob]:
    """All of them or none. Raises Unsupported: another candidate may take the URLs as they are."""
    if len(urls) > settings.most:
        raise Unsupported(f"The request names {len(urls)} pictures by URL; {settings.most} are fetched at most.")
    guard = _Guard(settings)
    found: dict[str, ir.Blob] = {}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=4, force_close=True, socket_factory=guard.socket, ssl=tls.system()),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
        headers=HEADERS,
    ) as session:
        for number, url in enumerate(urls, 1):
            try:
                async with asyncio.timeout(settings.time):
                    found[url] = await _fetched(session, guard, url)
            except (_Refused, TimeoutError) as exc:
                refused = exc if isinstance(exc, _Refused) else _Refused("it took too long")
                raise Unsupported(
                    f"Picture {number} of {len(urls)} could not be fetched: {refused.reason}; send its bytes as a "
                    "data: URL.",
                    detail=refused.detail,
                ) from exc
    return found


async def _fetched(session: aiohttp.ClientSession, guard: _Guard, url: str) -> ir.Blob:
    guard.check(url)
    try:
        async with session.get(URL(url, encoded=True), allow_redirects=False) as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            coding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if response.status != 200:
                raise _Refused(SILENT, f"status {response.status}")
            if kind not in KINDS or coding != "identity":
                raise _Refused("what is there is no picture of a known kind")
            data = await _read(response, guard.settings.size)
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise _Refused(SILENT, f"{type(exc).__name__}: {exc}") from exc
    return ir.Blob(base64.b64encode(data).decode(), kind)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            raise _Refused(f"it has more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


class _Guard:
    """Judges a URL before, and every address at the moment when it is connected to."""

    def __init__(self, settings: Fetch) -> None:
        self.settings = settings
        self._networks: tuple[Network, ...] = tuple(map(ip_network, settings.networks))
        self._clear = False  # the URL under way is http, not https

    def check(self, url: str) -> None:
        """Raises _Refused."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            wellformed = len(url) <= LONGEST_URL and url.isascii() and url.isprintable() and (parts.port or 1) > 0
        except ValueError:
            host, wellformed = "", False
        if not wellformed or not host or "@" in parts.netloc:
            raise _Refused("its URL is none of a picture")
        if parts.scheme != "https" and not self._networks:
            raise _Refused("its URL is not https")
        if self.settings.hosts and not any(_names(pattern, host) for pattern in self.settings.hosts):
            raise _Refused("its host is none that pictures are fetched from")
        self._clear = parts.scheme != "https"

    def socket(self, info: Any) -> socket.socket:
        """Called by aiohttp with each address in turn, a literal one included. Raises OSError."""
        family, kind, protocol, _, target = info
        address = address_of(str(target[0]))
        if not (is_within(address, self._networks) or (is_public(address) and not self._clear)):
            raise OSError(errno.EACCES, "an address that pictures are not fetched from")
        return socket.socket(family, kind, protocol)


def _names(pattern: str, host: str) -> bool:
    """`*.example.com` is whatever ends in it, and not example.com itself."""
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
