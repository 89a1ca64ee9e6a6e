"""Clients that read slowly, send slowly, or send nothing, and very many of them: rows C7 to C9, C11, C12."""

from __future__ import annotations

import asyncio
import resource
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from playbook import CHAT, Tongue
from upstream import GUARD_S, STREAM_HEAD, ScriptedUpstream, piece, plain

from faults import table
from faults.bench import Daemon, Misbehaving, block, daemon
from faults.responses import SURFACES, asking, frames

HERE = "tests/faults/test_crowds.py"
pytestmark = pytest.mark.slow
MIB = 1 << 20
SPARE = 2_000  # descriptors that this process and the daemon keep for other things
SIPPERS = 4  # on each surface
PROMPT_S = 0.1  # within which a client is served beside a crowd


@asynccontextmanager
async def serving(server: str = "", more: str = "") -> AsyncIterator[tuple[Daemon, Misbehaving]]:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        async with ScriptedUpstream() as upstream:
            provider = Misbehaving(upstream)
            blocks = []
            for tongue in SURFACES:
                slot = f"p-{tongue.surface}"
                provider.plays(slot, plain(tongue.answer("hello")))
                blocks.append(block(slot, provider.root(slot), tongue, more))
            async with daemon("".join(blocks), Path(made), server=server) as running:
                yield running, provider


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many as the machine allows are there while a test runs; how many connections that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard - SPARE
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def tell(number: str, done: str, saw: str, record: str, test: str) -> None:
    table.tell(number, done, saw, record, test=f"{HERE}::{test}")


def request(tongue: Tongue, *, stream: bool) -> bytes:
    body = orjson.dumps(asking(tongue, f"p-{tongue.surface}", stream=stream))
    start = f"POST {tongue.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def connected(running: Daemon, *, buffer: int = 0) -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    if buffer:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", running.port))
    return opened


async def ended(one: socket.socket) -> bytes:
    """What came until the gateway hung up."""
    received = b""
    try:
        while data := await asyncio.get_running_loop().sock_recv(one, 65536):
            received += data
    except ConnectionError:
        pass
    one.close()
    return received


async def served_promptly(running: Daemon) -> None:
    """In one round of ten: a busy machine may hold rounds up, a gateway that waits, every one."""
    for _ in range(10):
        began = asyncio.get_running_loop().time()
        for tongue in SURFACES:
            assert (await running.post(tongue, asking(tongue, f"p-{tongue.surface}", stream=False))).status == 200
        if asyncio.get_running_loop().time() - began < PROMPT_S * len(SURFACES):
            return
    raise AssertionError("a client waited for others")


# -- who does not read -------------------------------------------------------------------------------------------


async def test_a_client_that_takes_nothing_for_a_minute_is_given_up() -> None:
    """Row C7 in full; `tests/server/test_watchdog.py` shows it with a shorter minute."""
    async with serving() as (running, provider):
        deaf = []
        for tongue in SURFACES:
            flood = piece(tongue.text("x" * 60_000))
            provider.plays(f"p-{tongue.surface}", [STREAM_HEAD, *map(piece, frames(tongue, "a")[:2]), *[flood] * 5_000])
            one = await connected(running, buffer=4096)
            await asyncio.get_running_loop().sock_sendall(one, request(tongue, stream=True))
            deaf.append(one)
        await provider.upstream.asked(3)
        async with asyncio.timeout(120):
            while await running.metric("pointsman_requests_under_way"):  # noqa: ASYNC110
                await asyncio.sleep(1)
        rows = await running.records(3)
        assert {(row["status"], row["outcome"]) for row in rows} == {(499, "client_closed")}
        await provider.upstream.until(lambda it: not it.open)
        for one in deaf:
            one.close()
    test = "test_a_client_that_takes_nothing_for_a_minute_is_given_up"
    tell("C7", "stops reading", "the connection is cut after 60 s without progress", "499, `client_closed`", test)


async def test_a_client_that_reads_a_byte_now_and_then_is_held_to_the_total() -> None:
    async with serving(more='timeouts = { total = "3s" }') as (running, provider):
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        async def sipping(tongue: Tongue) -> None:
            one = await connected(running, buffer=4096)
            await loop.sock_sendall(one, request(tongue, stream=True))
            while not over.is_set():
                assert await loop.sock_recv(one, 1)
                await asyncio.sleep(0.2)
            one.close()

        await served_promptly(running)  # and has made what it keeps of each surface
        before = running.usage()[0]
        for tongue in SURFACES:
            flood = piece(tongue.text("x" * 16_000))
            provider.plays(f"p-{tongue.surface}", [STREAM_HEAD, *map(piece, frames(tongue, "a")[:2]), *[flood] * 9_000])
        slow = [asyncio.ensure_future(sipping(tongue)) for tongue in SURFACES * SIPPERS]
        await provider.upstream.until(lambda it: it.blocked >= len(slow))
        assert running.usage()[0] - before < 2 * MIB * len(slow)
        await provider.upstream.until(lambda it: not it.open)
        await running.until_metric("pointsman_requests_under_way", lambda value: value == 0)
        rows = (await running.records(len(SURFACES) + len(slow)))[: len(slow)]
        assert {row["outcome"] for row in rows} <= {"upstream_timeout", "client_closed"}
        over.set()
        await asyncio.gather(*slow)
    tell(
        "C8",
        "reads a byte five times a second of a stream without an end",
        "the provider is held back; `total` ends it",
        "200, `upstream_timeout`, or 499, `client_closed`",
        "test_a_client_that_reads_a_byte_now_and_then_is_held_to_the_total",
    )


# -- who does not send -------------------------------------------------------------------------------------------


async def crowd(running: Daemon, count: int) -> list[socket.socket]:
    opened = [await connected(running) for _ in range(count)]
    await running.until_metric("pointsman_client_connections", lambda value: value >= count)
    return opened


async def hung_up_on(crowd: list[socket.socket]) -> None:
    """Each of them, without a word."""
    async with asyncio.timeout(GUARD_S * 3):
        assert set(await asyncio.gather(*map(ended, crowd))) == {b""}


async def test_heads_that_come_a_byte_at_a_time_end_at_their_time_and_hold_up_nobody(descriptors: int) -> None:
    count = min(5_000, descriptors)
    async with serving('header_timeout = "15s"\n') as (running, _):
        slow = await crowd(running, count)
        begun = request(CHAT, stream=False)[:60]
        alive = set(slow)

        async def dripping() -> None:
            for byte in begun:
                for one in list(alive):
                    try:
                        one.send(bytes([byte]))
                    except (ConnectionError, BlockingIOError):
                        alive.discard(one)
                await asyncio.sleep(1.0)

        drip = asyncio.ensure_future(dripping())
        await served_promptly(running)
        await hung_up_on(slow)
        drip.cancel()
        await asyncio.gather(drip, return_exceptions=True)
        await running.until_metric("pointsman_client_connections", lambda value: value <= 1)
        await served_promptly(running)
    tell(
        "C9",
        "5,000 heads, a byte at a time",
        "closed at `header_timeout`; others are served",
        "no row",
        "test_heads_that_come_a_byte_at_a_time_end_at_their_time_and_hold_up_nobody",
    )


async def test_silent_connections_are_closed_and_others_served(descriptors: int) -> None:
    count = min(10_000, descriptors)
    async with serving('header_timeout = "25s"\n') as (running, _):
        before = running.usage()[0]
        silent = await crowd(running, count)
        assert running.usage()[0] - before < 200 * MIB
        await served_promptly(running)
        await hung_up_on(silent)
        await served_promptly(running)
        assert {row["outcome"] for row in await running.records(6)} == {"ok"}
    tell(
        "C11",
        "10,000 connections that send nothing",
        "closed at `header_timeout`; under 200 MiB; others are served",
        "no row",
        "test_silent_connections_are_closed_and_others_served",
    )


# -- when there is no descriptor left ----------------------------------------------------------------------------


def busy(running: Daemon) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{running.child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_when_descriptors_run_out_streams_go_on_and_it_recovers() -> None:
    async with serving() as (running, provider):
        loop, go_on = asyncio.get_running_loop(), asyncio.Event()
        streams = []
        for tongue in SURFACES:
            words = frames(tongue, "one", "two")
            at = words.index(tongue.text("one")) + 1
            ending = [*map(piece, words[at:]), b"0\r\n\r\n"]
            provider.plays(f"p-{tongue.surface}", [STREAM_HEAD, *map(piece, words[:at]), go_on, *ending])
            streams.append(
                asyncio.ensure_future(running.post(tongue, asking(tongue, f"p-{tongue.surface}", stream=True)))
            )
        await provider.upstream.asked(len(SURFACES))
        open_now = running.usage()[1]
        limit = open_now + 20
        resource.prlimit(running.child.pid, resource.RLIMIT_NOFILE, (limit, limit))
        many = [await connected(running) for _ in range(200)]
        used, since = busy(running), loop.time()
        await asyncio.sleep(2)
        assert busy(running) - used < 0.5 * (loop.time() - since)  # it waits, and does not turn
        go_on.set()
        for tongue, stream in zip(SURFACES, streams, strict=True):
            assert tongue.read_stream((await stream).body) == "onetwo"
        for one in many:
            one.close()
        while running.usage()[1] > open_now:  # noqa: ASYNC110  # until the process knows that they are closed
            await asyncio.sleep(0.01)
        for tongue in SURFACES:
            provider.plays(f"p-{tongue.surface}", plain(tongue.answer("hello")))
            got = await running.post(tongue, asking(tongue, f"p-{tongue.surface}", stream=False))
            assert tongue.read_text(got.json) == "hello"
        assert {row["outcome"] for row in await running.records(6)} == {"ok"}
    tell(
        "C12",
        "200 connections, with 20 descriptors left",
        "streams under way go on, without a busy loop; once some closed, all are served",
        "200, `ok`",
        "test_when_descriptors_run_out_streams_go_on_and_it_recovers",
    )
