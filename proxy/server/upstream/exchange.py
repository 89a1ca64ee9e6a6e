"""The interface between the relay and whatever carries its bytes. Tests run the same contract over all
implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import field

from proxy.record import record
from proxy.routing.table import Timeouts


@record
class Outgoing:
    """One request to one provider. `path` stands behind the provider's base URL; `rooted`, behind its host alone."""

    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    timeouts: Timeouts
    method: str = "POST"
    rooted: bool = False


def url_of(base_url: str, path: str, *, rooted: bool = False) -> str:
    """Ollama's own paths, /api/…, stand beside the /v1 that its base URL may end in, not behind it."""
    if rooted:
        scheme, border, rest = base_url.partition("://")
        return scheme + border + rest.partition("/")[0] + path
    return (base_url.removesuffix("/v1") if path.startswith("/api/") else base_url) + path


Take = Callable[[bytes], bool]  # whether it wants more
# Gets bytes as they came, from the beginning of a chunk of HTTP/1.1 on; how many of them it took, and whether it wants
# more. What it leaves is parsed.
Through = Callable[[bytes], tuple[int, bool]]


class Reply(Protocol):
    """One answer, its head read. `headers` has lower-case names; where a name stands twice the last one counts.

    Whoever has a reply reads it to its end or closes it. A closed reply's connection is never used again.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    queued_s: float  # seconds that the request waited for a free connection

    async def chunk(self) -> bytes:
        """The next bytes as they came, b"" at the end. Raises UpstreamBroken where the body is cut, UpstreamTimeout
        where the reply was expired."""

    async def pour(self, take: Take, through: Through | None = None) -> bool:
        """Hands the bytes of each read to `take`, where they are received if need be, until it says False or the body
        ends; whether it has. Raises like `chunk`, and what `take` raises. `through` is asked first, where a reply has
        such bytes."""

    def narrow(self) -> None:
        """Takes less with a read from now on, and has less of the answer wait in the kernel: for many answers at once
        that nobody may be reading."""

    async def finish(self) -> bool:
        """Reads what little may be left behind the last event, so that the connection can serve again; closes it where
        more comes than that. Whether anything but blank lines came."""

    def close(self) -> None:
        """Gives the answer up: the connection is closed at once and not pooled."""

    def expire(self, message: str) -> None:
        """Closes, and makes whoever waits in `chunk` raise UpstreamTimeout with the message."""


class Upstream(Protocol):
    """One provider. Raises UpstreamUnreachable, UpstreamTimeout or UpstreamBroken, and CancelledError as it comes."""

    async def send(self, outgoing: Outgoing) -> Reply: ...

    async def close(self) -> None: ...
