"""The gateway under test: the real App on free loopback ports, and the real process.

A test gives the table as text and talks HTTP. What was decided is read from the ledger, as an operator would.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
from attrs import define, field, frozen
from canaries import leaks
from multidict import CIMultiDictProxy
from playbook import CHAT, Tongue
from upstream import GUARD_S, ScriptedUpstream

from proxy.app import App
from proxy.server import log as logging
from proxy.server.clients.connection import Connection
from proxy.server.clients.inbound import Content
from proxy.server.clients.listener import Listener
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.schema import open_reader, open_writer
from proxy.server.starting import LEDGER, make_state

SERVER = """
[server]
listen = ["127.0.0.1:0"]
admin = "127.0.0.1:0"
{server}
"""


@frozen
class Answer:
    """A whole answer as the client has it."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def __attrs_post_init__(self) -> None:
        makes_a_key = self.headers.get("Cache-Control") == "no-store"
        said = str(self.headers).encode() + (b"" if makes_a_key else self.body)
        assert not leaks(said), "a secret stands in an answer"

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["X-Request-Id"]


@define(eq=False)
class Running:
    """A gateway that serves."""

    base: str
    admin: str
    state: Path
    client: aiohttp.ClientSession = field(repr=False)
    config: Path
    app: App | None = None  # where it runs in this process
    connections: list[RawClient] = field(factory=list, repr=False)

    async def connect(self, *, limit: int = 1 << 16) -> RawClient:
        """A client of one connection; closed at the latest with the gateway."""
        opened = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        self.connections.append(opened)
        return opened

    async def close(self) -> None:
        for opened in self.connections:
            opened.leave()
            with suppress(OSError):
                await opened.writer.wait_closed()

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    async def post(
        self, path: str, document: Any, headers: Mapping[str, str] | None = None, *, base: str | None = None
    ) -> Answer:
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        sent = {"Content-Type": "application/json", **(headers or {})}
        async with self.client.post((base or self.base) + path, data=body, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        async with self.client.get(url, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def ask(self, tongue: Tongue = CHAT, model: str = "first", *, stream: bool = False, **more: Any) -> Answer:
        """One request, its answer read whole."""
        headers = more.pop("headers", None)
        return await self.post(tongue.path, tongue.request(model, stream=stream, **more), headers)

    async def rows(self, times: int = 1) -> list[dict[str, Any]]:
        """The newest so many decisions with their attempts, oldest first, once they are written."""
        async with asyncio.timeout(GUARD_S):
            while True:
                await self.settled()
                rows = await asyncio.to_thread(newest, self.state / LEDGER, times)
                if len(rows) == times:
                    return rows

    async def row(self, request_id: str | None = None) -> dict[str, Any]:
        """One decision, by its request's id or the newest."""
        if request_id is None:
            return (await self.rows())[0]
        decisions = Decisions(self.state / LEDGER)
        async with asyncio.timeout(GUARD_S):
            while (row := await asyncio.to_thread(decisions.one, request_id)) is None:
                await self.settled()
        return row

    async def settled(self) -> None:
        """What was recorded up to now is in the file."""
        if self.app is not None:
            assert await asyncio.to_thread(self.app.ledger.flush, GUARD_S)

    async def quiet(self) -> None:
        """Every request has ended, its clean-up included."""
        await settles(lambda: self.app is not None and not self.app.gateway.running)
        assert self.app is not None
        self.app.gateway.express.tidings.tell()

    async def over_socket(self, method: str, path: str, document: Any = None) -> Answer:
        """Through the admin socket in the state directory."""
        connector = aiohttp.UnixConnector(str(self.state / "admin.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://localhost{path}", json=document) as response,
        ):
            return Answer(response.status, response.headers, await response.read())


def listener_of(gw: Running) -> Listener:
    """Of the data paths."""
    assert gw.app is not None
    server = gw.app._listeners[0]
    assert isinstance(server, Listener)
    return server


def connection_of(gw: Running) -> Connection:
    """The only one that a client has open."""
    (connection,) = listener_of(gw).connections
    assert isinstance(connection, Connection)
    return connection


async def settles(holds: Callable[[], bool]) -> None:
    """Turns the loop until something is true that nothing tells of."""
    async with asyncio.timeout(GUARD_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0)


@frozen
class OneLook(Decisions):
    """Reads all by one connection: for each SQLite reads the schema anew, and the decision in a third of that time."""

    connection: sqlite3.Connection

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        yield self.connection
        if self.connection.in_transaction:
            self.connection.rollback()


def newest(ledger: Path, times: int) -> list[dict[str, Any]]:
    """As many of the newest decisions with their attempts as there are, oldest first."""
    with closing(open_reader(ledger)) as connection:
        decisions = OneLook(ledger, connection)
        found = [decisions.one(row["request_id"]) for row in decisions.page(Filter(), times).rows]
    return [row for row in reversed(found) if row is not None]


class Start(Protocol):
    """Starts a gateway; `server` is more keys of the table's [server]."""

    def __call__(self, table: str, server: str = "") -> Awaitable[Running]: ...


@asynccontextmanager
async def gateway(
    table: str, home: Path, *, log: logging.Log | None = None, server: str = ""
) -> AsyncIterator[Running]:
    """In this process. `table` is all of routes.toml but the listeners."""
    config, state = home / "routes.toml", home / "state"
    config.write_text(whole(table, server))
    if not state.exists():
        new_state(state)
    app = App(config, env={**os.environ, "STATE_DIRECTORY": str(state)}, log=log)
    await app.start()
    app.gateway.relay.dice = lambda: 0.0  # no jitter, so no waiting before a retry
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as client:
            base, admin = f"http://{app.addresses[0]}", f"http://{app.admin_addresses[0]}"
            running = Running(base, admin, state, client, config, app)
            yield running
            await running.close()
    finally:
        await app.stop(drain=0)


def new_state(state: Path) -> None:
    """The directory of a gateway that has served nobody yet."""
    make_state(state)
    os.close(os.open(state / LEDGER, os.O_CREAT | os.O_WRONLY, 0o600))
    (state / LEDGER).write_bytes(new_ledger())


@cache
def new_ledger() -> bytes:
    """A ledger without a row. Making one by all the steps of its schema takes as long as the rest of a start."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        open_writer(Path(made, LEDGER)).close()
        return Path(made, LEDGER).read_bytes()


def whole(table: str, server: str = "") -> str:
    return SERVER.format(server=server) + table


def provider(
    name: str,
    upstream: ScriptedUpstream | str,
    tongue: Tongue = CHAT,
    *,
    keys: Sequence[str] | None = ("canary-house-key-0001",),
    models: Mapping[str, str] | None = None,
    more: str = "",
) -> str:
    """A block of routes.toml, and one model of it that is named like the provider. `more` is more keys of the block;
    `models` maps names to more keys of theirs."""
    root = upstream if isinstance(upstream, str) else upstream.root
    credential = 'api_key = "none"' if keys is None else f"api_keys = {orjson.dumps(list(keys)).decode()}"
    blocks = [
        f'[models."{model}"]\nprovider = "{name}"\nnative = "native-of-{model}"\n{lines}\n'
        for model, lines in (models or {name: ""}).items()
    ]
    head = (
        f'[providers.{name}]\ndialects = ["{tongue.name}"]\nbase_url = "{root}{tongue.suffix}"\n{credential}\n{more}\n'
    )
    return head + "".join(blocks)


def chain(*models: str, name: str = "chain", more: str = "") -> str:
    """A profile that tries these in turn: `profile:chain`."""
    return f"[profiles.{name}]\ncandidates = {orjson.dumps(models).decode()}\n{more}\n"


def refused_port() -> int:
    """A port of this machine on which nobody listens."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# -- a client that does what no library would -------------------------------------------------------------------


@define(eq=False)
class RawClient:
    """One connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, tongue: Tongue, document: Any, *headers: str, cut: int | None = None) -> None:
        """A POST; `cut` sends only so many bytes of its body."""
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        lines = (f"POST {tongue.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers)
        head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode()
        await self.send(head + body[:cut])

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(GUARD_S):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        """All that comes up to the connection's end."""
        async with asyncio.timeout(GUARD_S):
            return await self.reader.read()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer that has a Content-Length."""
        head = await self.until(b"\r\n\r\n")
        first, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        async with asyncio.timeout(GUARD_S):
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    def leave(self) -> None:
        """Hangs up at once."""
        self.writer.transport.abort()


# -- the real process --------------------------------------------------------------------------------------------


@define(eq=False)
class Process:
    """`python -m proxy serve`, its log on a pipe."""

    child: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(factory=list)

    async def says(self, event: str) -> dict[str, Any]:
        """Reads the log up to the next line of that event."""
        assert self.child.stderr is not None
        async with asyncio.timeout(GUARD_S):
            while raw := await self.child.stderr.readline():
                assert not leaks(raw), "a secret stands in the log"
                line = orjson.loads(raw) if raw.startswith(b"{") else {"event": raw.decode()}
                self.lines.append(line)
                if line["event"] == event:
                    return line
        raise AssertionError(f"the process ended without saying {event}: {self.lines}")

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    async def ends(self) -> int:
        """Reads the log to its end; the exit code."""
        assert self.child.stderr is not None
        async with asyncio.timeout(GUARD_S):
            rest = await self.child.stderr.read()
            assert not leaks(rest), "a secret stands in the log"
            self.lines += [orjson.loads(raw) for raw in rest.splitlines() if raw.startswith(b"{")]
            return await self.child.wait()


@asynccontextmanager
async def process(table: str, home: Path, *, server: str = "") -> AsyncIterator[tuple[Running, Process]]:
    config, state = home / "routes.toml", home / "state"
    config.write_text(whole(table, server))
    child = await serve(config, state)
    try:
        told = await Process.says(child, "serving")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            running = Running(f"http://{told['listen'][0]}", f"http://{told['admin'][0]}", state, client, config)
            yield running, child
            await running.close()
    finally:
        if child.child.returncode is None:
            child.child.kill()
            _, rest = await child.child.communicate()
            assert not leaks(rest), "a secret stands in the log"


async def serve(config: Path, state: Path) -> Process:
    return Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "serve", "--config", str(config),
            env={**os.environ, "STATE_DIRECTORY": str(state)},
            cwd=Path(__file__).parents[1],
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
    )  # fmt: skip


PRINTABLE = re.compile(r"[\x20-\x7e]{1,1024}")


def has_come(content: Content, size: int) -> bool:
    return content.total_bytes >= size


async def sent_behind(
    gw: Running, client: RawClient, tongue: Tongue, document: Any, *cuts: int, headers: tuple[str, ...] = ()
) -> None:
    """A request whose body is cut there, as it comes in packets of its own: each when the one before has arrived."""
    whole = document if isinstance(document, bytes) else orjson.dumps(document)
    assert gw.app is not None
    calls = gw.app.gateway.calls
    before = set(calls)  # one may have had its answer, and wait for what its provider says behind it
    await client.request(tongue, whole, *headers, cut=cuts[0])
    await settles(lambda: bool(calls - before))
    (call,) = calls - before
    for since, until in pairwise((*cuts, len(whole))):
        await client.send(whole[since:until])
        await settles(partial(has_come, call.request.content, until))
