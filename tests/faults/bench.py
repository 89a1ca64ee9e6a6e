"""The test bench: the real daemon, a provider that misbehaves as told, and a client that notes every byte.

A fault is served by a provider of its own in the table, so that what is learnt of one says nothing of another; all of
them are one scripted upstream, which tells them apart by the first part of the path.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field, frozen
from gateway import whole
from playbook import Tongue
from upstream import GUARD_S, Script, ScriptedUpstream, Seen

from proxy.server.ledger.query import Decisions, Filter
from proxy.server.starting import LEDGER

START_S = 6 * GUARD_S  # a table of hundreds of providers, on a machine that is busy
ROOT = Path(__file__).parents[2]
HOUSE_KEY = "canary-house-key-5ad1f0c2"
CALLER_KEY = "canary-caller-key-77b0e1d9"
CANARIES = (HOUSE_KEY, CALLER_KEY)
# More keys of [server] for every daemon here: the same suite over another implementation of the upstream.
SETTING = os.environ.get("POINTSMAN_FAULTS_SERVER", "")


@frozen
class Got:
    """What a client saw. `whole`: the transfer came to its proper end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@define(eq=False)
class Daemon:
    """`python -m proxy serve`, its log in a file."""

    child: asyncio.subprocess.Process
    log: Path
    state: Path
    config: Path
    base: str = ""
    admin: str = ""

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(raw) for raw in self.log.read_bytes().split(b"\n")[:-1] if raw.startswith(b"{")]

    async def says(self, event: str, times: int = 1, *, guard: float = GUARD_S) -> dict[str, Any]:
        """Waits for so many lines of an event; the last of them."""
        async with asyncio.timeout(guard):
            while True:
                found = [line for line in self.lines() if line.get("event") == event]
                if len(found) >= times:
                    return found[times - 1]
                if self.child.returncode is not None:
                    raise AssertionError(f"the process ended without saying {event}: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    async def ends(self) -> int:
        async with asyncio.timeout(GUARD_S):
            return await self.child.wait()

    async def post(self, tongue: Tongue, document: Any, headers: Mapping[str, str] | None = None) -> Got:
        """As clients ask that keep their connection."""
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
        return await self.raw(
            "\r\n".join(
                [
                    f"POST {tongue.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
                    f"Content-Length: {len(body)}", *lines, "", "",
                ]
            ).encode() + body,
            kept=True,
        )  # fmt: skip

    async def get(self, path: str, *, admin: bool = False) -> Got:
        port = int((self.admin if admin else self.base).rpartition(":")[2])
        return await self.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), port)

    async def raw(self, sent: bytes, port: int | None = None, *, kept: bool = False) -> Got:
        """Sends, and reads to the connection's end; where it is `kept`, to the answer's."""
        async with asyncio.timeout(GUARD_S * 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
            try:
                writer.write(sent)
                await writer.drain()
                received = await _received(reader, _has_ended if kept else lambda so_far: False)
            finally:
                writer.transport.abort()
        return parsed(received)

    async def record(self, request_id: str) -> dict[str, Any]:
        """The decision with its attempts, once it is written."""
        decisions = Decisions(self.state / LEDGER)
        async with asyncio.timeout(GUARD_S):
            while (row := await asyncio.to_thread(decisions.one, request_id)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return row

    async def records(self, times: int) -> list[dict[str, Any]]:
        """The newest so many decisions without their attempts, once all that ended are written."""
        await self.until_metric("pointsman_requests_under_way", lambda value: value == 0)
        await self.until_metric("pointsman_ledger_queued", lambda value: value == 0)
        decisions = Decisions(self.state / LEDGER)
        async with asyncio.timeout(GUARD_S):
            while len(page := (await asyncio.to_thread(decisions.page, Filter(), 1000)).rows) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return page[:times]

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = (await self.get("/metrics", admin=True)).body.decode()
        values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    async def until_metric(self, name: str, holds: Callable[[float], bool]) -> None:
        async with asyncio.timeout(GUARD_S):
            while not holds(await self.metric(name)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def usage(self) -> tuple[int, int, int]:
        """Bytes of memory, open descriptors and sockets of the process."""
        proc = Path(f"/proc/{self.child.pid}")
        links = []
        for entry in (proc / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                links.append(os.readlink(entry))
        resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident, len(links), sum(link.startswith("socket:") for link in links)

    @contextmanager
    def peaking(self) -> Iterator[Callable[[], int]]:
        """Gives the bytes of memory by which the process has, at some time since, been larger than it was."""
        status = Path(f"/proc/{self.child.pid}/status")

        def peak() -> int:
            found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
            assert found
            return int(found[1]) << 10

        status.with_name("clear_refs").write_text("5")
        before = peak()
        yield lambda: peak() - before


async def _received(reader: asyncio.StreamReader, enough: Callable[[bytearray], bool]) -> bytes:
    received = bytearray()
    with suppress(ConnectionError):
        while not enough(received) and (data := await reader.read(1 << 16)):
            received += data
    return bytes(received)


def _has_ended(received: bytearray) -> bool:
    """Whether that is an answer up to its end."""
    head = bytes(received[: received.find(b"\r\n\r\n") + 4])
    if not head:
        return False
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
    return len(received) >= len(head) + int(length[1]) if length else received.endswith(b"\r\n0\r\n\r\n")


def parsed(received: bytes) -> Got:
    """One answer; status 0 where none came."""
    while received.startswith(b"HTTP/1.1 1"):
        received = received.partition(b"\r\n\r\n")[2]
    head, border, body = received.partition(b"\r\n\r\n")
    if not border:
        return Got(0, {}, b"", whole=False)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, complete = _dechunked(body)
    else:
        complete = len(body) == int(headers.get("content-length", len(body)))
    return Got(int(first.split()[1]), headers, body, complete)


def _dechunked(data: bytes) -> tuple[bytes, bool]:
    out: list[bytes] = []
    at = 0
    while (border := data.find(b"\r\n", at)) >= 0:
        length, at = int(data[at:border], 16), border + 2
        if length == 0:
            return b"".join(out), data[at:] == b"\r\n"
        out.append(data[at : at + length])
        at += length + 2
        if at > len(data):
            break
    return b"".join(out), False


async def checked(config: Path) -> str:
    """What `check` says of a table that it refuses."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "check", str(config)),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await child.communicate()
    assert child.returncode == 1
    return said.decode()


@asynccontextmanager
async def daemon(
    table: str, home: Path, *, server: str = "", env: Mapping[str, str] | None = None
) -> AsyncIterator[Daemon]:
    """Serving; killed at the end where it has not ended by itself."""
    config = home / "routes.toml"
    config.write_text(whole(table, SETTING + "\n" + server))
    started = await launched(config, home / "state", home / "log", env)
    try:
        told = await started.says("serving", guard=START_S)
        started.base, started.admin = f"http://{told['listen'][0]}", f"http://{told['admin'][0]}"
        yield started
    finally:
        if started.child.returncode is None:
            started.child.kill()
            await started.child.wait()


async def launched(config: Path, state: Path, log: Path, env: Mapping[str, str] | None = None) -> Daemon:
    with log.open("wb") as stream:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "serve", "--config", str(config),
            env={**os.environ, "STATE_DIRECTORY": str(state), **(env or {})},
            cwd=ROOT, stderr=stream,
        )  # fmt: skip
    return Daemon(child, log, state, config)


@define(eq=False)
class Misbehaving:
    """One upstream that is many providers: the first part of a path says whose script is played."""

    upstream: ScriptedUpstream
    scripts: dict[str, list[Script]] = field(factory=dict)
    seen: dict[str, list[Seen]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.upstream.answers(self._chosen)

    def _chosen(self, seen: Seen) -> Script:
        slot = seen.path.split("/")[1]
        self.seen.setdefault(slot, []).append(seen)
        scripts = self.scripts[slot]
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    def plays(self, slot: str, *scripts: Script) -> None:
        self.scripts[slot] = list(scripts)

    def asked(self, slot: str) -> int:
        return len(self.seen.get(slot, ()))

    def root(self, slot: str) -> str:
        return f"{self.upstream.root}/{slot}"


def block(name: str, root: str, tongue: Tongue, more: str = "", *, key: str = HOUSE_KEY) -> str:
    """A provider and its one model, both of that name."""
    return (
        f'[providers.{name}]\ndialects = ["{tongue.name}"]\nbase_url = "{root}{tongue.suffix}"\n'
        f'api_key = "{key}"\n{more}\n[models."{name}"]\nprovider = "{name}"\nnative = "native-{name}"\n'
    )


def holds_canary(data: bytes, canaries: Iterable[str] = CANARIES) -> list[str]:
    return [canary for canary in canaries if canary.encode() in data]
