"""The scripted upstream: a provider on a loopback port that does exactly what a test says, byte by byte.

A script is a sequence of steps: bytes leave in one write each; an `asyncio.Event` is waited for; `Reached(event)` tells
the test that the script got there; the acts close, reset or fall silent. One script answers one request. The last one
is played for all further requests.

    upstream.plays([head(200), b"data: 1\\n\\n", go_on, CUT], [*plain(ANSWER)])

Whatever waits also ends when the gateway hangs up: `Seen.gone` says so.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Self, cast

import orjson
from attrs import define, field, frozen

GUARD_S = 20.0  # nothing waits that long unless it is broken


class Act(Enum):
    CUT = "FIN: the connection is closed"
    RESET = "RST: the connection is torn down"
    SILENCE = "nothing more comes, and the connection stays open"
    DEAF = "what the gateway sends is not read any more"


CUT, RESET, SILENCE, DEAF = Act.CUT, Act.RESET, Act.SILENCE, Act.DEAF


@frozen
class Reached:
    """Tells the test that all before it has been handed to the kernel, or is waiting for the gateway to read."""

    event: asyncio.Event


Step = bytes | float | asyncio.Event | Reached | Act  # a float: seconds until the next step
Script = Sequence[Step]


@define(eq=False)
class Seen:
    """One request as it came. `raw` is head and body."""

    raw: bytes
    method: str
    path: str
    headers: dict[str, str]  # lower-case names
    body: bytes
    connection: int  # which one, counted from 1
    gone: asyncio.Event = field(factory=asyncio.Event)  # the gateway hung up before its script ended
    gone_at: float = 0.0  # by the loop's clock

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class _Hung(Exception):
    """The gateway closed the connection."""


class Connection(asyncio.Protocol):
    """One connection of the gateway's."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self._changed = asyncio.Event()
        self._over = False  # the gateway said so, by FIN or RST
        self._current: Seen | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        upstream = self._upstream
        upstream.opened += 1
        upstream.transports.add(self._transport)
        self.number = upstream.opened
        upstream.told()
        if upstream.greeting is not None:
            self._act(upstream.greeting)
            return
        self._task = asyncio.ensure_future(self._serve())
        upstream.tasks.add(self._task)
        self._task.add_done_callback(upstream.tasks.discard)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self._hung_up()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.closed += 1
        self._upstream.transports.discard(self._transport)
        self._hung_up()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._upstream.blocked += 1
        self._upstream.told()

    def resume_writing(self) -> None:
        self._writable.set()

    def _hung_up(self) -> None:
        self._over = True
        if self._current is not None and not self._current.gone.is_set():
            self._current.gone_at = asyncio.get_running_loop().time()
            self._current.gone.set()
        self._changed.set()
        self._writable.set()
        self._upstream.told()

    # -- one request after the other -------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while True:
                seen = await self._request()
                self._current = seen
                script = self._upstream.took(seen)
                await self._play(script)
                self._current = None
        except _Hung:
            self._transport.close()

    async def _play(self, script: Script) -> None:
        for step in script:
            match step:
                case bytes():
                    await self._write(step)
                case float():
                    await asyncio.sleep(step)
                case asyncio.Event():
                    await self._until(step)
                case Reached(event):
                    event.set()
                case Act():
                    self._act(step)
                    if step is not DEAF:
                        await self._until(asyncio.Event())

    def _act(self, act: Act) -> None:
        match act:
            case Act.CUT:
                self._current = None  # it is us who hang up
                self._transport.close()
            case Act.RESET:
                self._current = None
                opened = self._transport.get_extra_info("socket")
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
            case Act.DEAF:
                self._transport.pause_reading()
            case Act.SILENCE:
                """Nothing is done."""

    async def _write(self, data: bytes) -> None:
        await asyncio.sleep(0)  # the loop hears of a hang-up in between
        if self._over or self._transport.is_closing():
            raise _Hung
        self._transport.write(data)
        self._upstream.sent += len(data)
        self._upstream.told()
        await self._writable.wait()

    async def _until(self, event: asyncio.Event) -> None:
        """The test's event, or the gateway's hanging up."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            while not event.is_set():
                if self._over:
                    raise _Hung
                self._changed.clear()
                changing = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait((waiting, changing), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changing.cancel()
        finally:
            waiting.cancel()

    async def _more(self) -> None:
        if self._over:
            raise _Hung
        self._changed.clear()
        await self._changed.wait()

    async def _request(self) -> Seen:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            await self._more()
        head = bytes(self._received[: end + 4])
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._upstream.heads += 1
        self._upstream.told()
        length = int(headers.get("content-length", "0"))
        if self._upstream.deaf:
            self._transport.pause_reading()
        while len(self._received) < end + 4 + length:
            await self._more()
        raw = bytes(self._received[: end + 4 + length])
        del self._received[: end + 4 + length]
        return Seen(raw, method, path, headers, raw[end + 4 :], self.number)


class ScriptedUpstream:
    """A provider. `base` is what stands in its `base_url`, for dialects whose SDKs end it in /v1 and those that do
    not."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.opened = self.closed = 0  # connections
        self.heads = 0  # requests whose head came
        self.blocked = 0  # times that a write found the gateway not reading
        self.sent = 0  # bytes handed over
        self.seen: list[Seen] = []
        self.greeting: Act | None = None  # done to every new connection, before a request is read
        self.deaf = False  # reads heads, and of bodies no more than came along
        self.tasks: set[asyncio.Task[None]] = set()
        self.transports: set[asyncio.Transport] = set()
        self._scripts: list[Script] = [plain({"error": {"message": "no script was given"}}, status=500)]
        self._chosen: Callable[[Seen], Script] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=1024, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for transport in list(self.transports):
            transport.abort()
        await self.until(lambda it: not it.open)
        wrong = [result for result in results if isinstance(result, Exception)]
        assert not wrong, f"the upstream itself failed: {wrong}"

    @property
    def root(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        return self.opened - self.closed

    def plays(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._chosen = None

    def answers(self, chosen: Callable[[Seen], Script]) -> None:
        """A script that depends on the request."""
        self._chosen = chosen

    def took(self, seen: Seen) -> Script:
        self.seen.append(seen)
        self.told()
        if self._chosen is not None:
            return self._chosen(seen)
        return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]

    def told(self) -> None:
        self._news.set()

    async def until(self, holds: Callable[[Self], bool]) -> None:
        """Waits for something to become true of the counters."""
        async with asyncio.timeout(GUARD_S):
            while not holds(self):
                self._news.clear()
                await self._news.wait()

    async def asked(self, times: int = 1) -> Seen:
        """The request of that number, once it is here whole."""
        await self.until(lambda it: len(it.seen) >= times)
        return self.seen[times - 1]


async def within(waiting: asyncio.Event) -> None:
    async with asyncio.timeout(GUARD_S):
        await waiting.wait()


# -- scripts -----------------------------------------------------------------------------------------------------

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


def head(status: int = 200, content_type: str = "application/json", **headers: Any) -> bytes:
    """A head; header names are written with underscores."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Whatever')}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def plain(
    document: Mapping[str, Any] | bytes, status: int = 200, content_type: str = "application/json", **headers: Any
) -> Script:
    """A whole answer in one write."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return [head(status, content_type, Content_Length=len(body), **headers) + body]


def piece(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"
STREAM_HEAD = head(200, "text/event-stream", Transfer_Encoding="chunked")


def streamed(steps: Iterable[Step], *, last: bool = True, stream_head: bytes = STREAM_HEAD) -> Script:
    """A chunked stream; each piece of bytes is a chunk of its own, and leaves in its own write."""
    body: list[Step] = [piece(step) if isinstance(step, bytes) else step for step in steps]
    return [stream_head, *body, *([LAST] if last else [])]
