"""The corpora of hostile input, and a client and an upstream that speak them byte by byte.

Every case of a corpus is played at once against one real process, and what came of each is kept; the tests judge.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import field, frozen
from each import Test, each
from gateway import Process, Running, process

SHARED = Path(__file__).parents[2].parent / "shared" / "corpora"
WHOLE, SEVEN, ONE = 0, 7, 1  # bytes of a packet; 0: all at once
PIECES = {WHOLE: "whole", SEVEN: "by seven", ONE: "by one"}
PAUSED = 400  # packets; a case of more goes without a pause between them
MOST_PACKETS = 4000  # a case of more is not cut that small: it would take a good client for a slow one
LONGEST_S = 60.0
DRIP_S = 0.1
AT_ONCE = 16  # that send: with more, a slow machine takes a good client for a slow one

# Whatever waits ends soon, so a case is over when its connection is.
IMPATIENT = """
auth = "none"
keep_alive = "2s"
header_timeout = "3s"
body_timeout = "3s"
max_body = "1MiB"
"""


@frozen
class Case:
    """One line of a corpus."""

    name: str
    raw: bytes = field(repr=False)
    more: Mapping[str, Any] = field(repr=False)

    @property
    def expected(self) -> str:
        return str(self.more["expectation"])


def load(file: str) -> tuple[Case, ...]:
    """Nothing where the corpora are not."""
    path = SHARED / file
    if not path.exists():
        return ()
    return tuple(_case(json.loads(line)) for line in path.read_text().splitlines())


def _case(line: Mapping[str, Any]) -> Case:
    raw = base64.b64decode(line.get("raw_base64") or line.get("bytes_base64") or "")
    return Case(line["name"], raw, line)


def each_case(cases: Sequence[Case]) -> Callable[[Test], Test]:
    return each("case", cases, ids=[case.name for case in cases])


def each_case_in_pieces(cases: Sequence[Case]) -> Callable[[Test], Test]:
    """Whole and in small packets."""
    found = in_pieces(cases)
    return each(("case", "size"), found, ids=[f"{case.name} {PIECES[size]}" for case, size in found])


def in_pieces(cases: Iterable[Case]) -> list[tuple[Case, int]]:
    return [(case, size) for case in cases for size in PIECES if not size or len(case.raw) / size <= MOST_PACKETS]


@asynccontextmanager
async def daemon(table: str, *, exchange: str = "lean") -> AsyncIterator[tuple[Running, Process]]:
    """The real process, told to be impatient."""
    with TemporaryDirectory(prefix="pm-") as home:
        async with process(table, Path(home), server=f'{IMPATIENT}\nexchange = "{exchange}"') as started:
            yield started


async def spoken(
    port: int, raw: bytes, size: int = WHOLE, room: AbstractAsyncContextManager[Any] | None = None
) -> bytes:
    """What comes back, up to the connection's end, for bytes that leave in packets of that size."""
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(LONGEST_S):
            async with room or nullcontext():
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                answer = asyncio.ensure_future(_all_of(client))
                await _sent(client, raw, size)
            return await answer


async def dripped(port: int, begun: bytes) -> bytes:
    """The same for a client that goes on with a byte now and then, for as long as it is let."""
    with socket.socket() as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, begun)
        answer = asyncio.ensure_future(_all_of(client))
        with suppress(ConnectionError):
            while not answer.done():
                await loop.sock_sendall(client, b"1")
                await asyncio.sleep(DRIP_S)
        return await answer


async def _sent(client: socket.socket, raw: bytes, size: int) -> None:
    pieces = [raw] if size == WHOLE else [raw[at : at + size] for at in range(0, len(raw), size)]
    try:
        for piece in pieces:
            await asyncio.get_running_loop().sock_sendall(client, piece)
            await asyncio.sleep(0.001 if 1 < len(pieces) <= PAUSED else 0)  # a packet of its own
    except ConnectionError:
        return  # it was refused before its end


async def _all_of(client: socket.socket) -> bytes:
    """A connection torn down counts as ended: what came before is read, which a stream's reader would drop."""
    parts = []
    with suppress(ConnectionError):
        while part := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
            parts.append(part)
    return b"".join(parts)


STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n")


def statuses(answer: bytes) -> list[int]:
    """Of every final answer in there."""
    return [status for found in STATUS.findall(answer) if (status := int(found)) >= 200]


async def all_spoken(port: int, jobs: Iterable[tuple[bytes, int]]) -> list[bytes]:
    room = asyncio.Semaphore(AT_ONCE)
    return list(await asyncio.gather(*(spoken(port, raw, size, room) for raw, size in jobs)))
