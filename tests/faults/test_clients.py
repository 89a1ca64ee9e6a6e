"""What clients do wrong: rows C1 to C23."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from attrs import define
from playbook import CHAT, Tongue
from upstream import SILENCE, STREAM_HEAD, Script, ScriptedUpstream, piece, plain, streamed

from faults import table
from faults.bench import Daemon, Misbehaving, block, daemon, parsed
from faults.responses import SURFACES, asking, frames

HERE = "tests/faults/test_clients.py"
pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMITS = 'header_timeout = "1s"\nbody_timeout = "1s"\nkeep_alive = "2s"\nmax_body = "1MiB"\n'
DEADLINE_S = 1.0  # from a client's leaving to the provider's end of it
SLOTS = [f"{kind}-{tongue.surface}" for kind in ("ok", "hangs", "stops", "last", "bad") for tongue in SURFACES]


@define(eq=False)
class Bed:
    daemon: Daemon
    provider: Misbehaving

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.daemon.port)

    async def begun(self, tongue: Tongue, model: str, *, stream: bool, lines: str = "") -> asyncio.StreamWriter:
        """A request that is sent; its answer is not read."""

        body = orjson.dumps(asking(tongue, model, stream=stream))
        writer = (await self.connect())[1]
        writer.write(request(tongue, body, lines=lines))
        return writer

    async def gone(self, slot: str, times: int) -> float:
        """So many requests of that provider were given up by the gateway; when the last of them was."""
        await self.provider.upstream.until(lambda _: len(self.provider.seen.get(slot, ())) >= times)
        async with asyncio.timeout(20):
            for seen in self.provider.seen[slot]:
                await seen.gone.wait()
        return max(seen.gone_at for seen in self.provider.seen[slot])

    async def leave(self, slot: str, writers: list[asyncio.StreamWriter], times: int) -> float:
        """All of these clients at once; seconds until the provider saw the end of so many requests."""
        left = asyncio.get_running_loop().time()
        for writer in writers:
            writer.transport.abort()
        return await self.gone(slot, times) - left

    async def idle(self) -> None:
        await self.daemon.until_metric("pointsman_requests_under_way", lambda value: value == 0)


def request(tongue: Tongue, body: bytes, *, lines: str = "", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    start = f"POST {tongue.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lines}"
    return f"{start}Content-Length: {size}\r\n\r\n".encode() + body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[Bed]:
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-")))
        provider = Misbehaving(await stack.enter_async_context(ScriptedUpstream()))
        blocks = []
        for tongue in SURFACES:
            scripts: dict[str, Script] = {
                "ok": plain(tongue.answer("hello")),
                "hangs": [SILENCE],
                "stops": [STREAM_HEAD, *map(piece, frames(tongue, "one", "two")[:-3]), SILENCE],
                "last": [SILENCE],
                "bad": plain(tongue.error("server_error", "no"), 500),
            }
            for kind, script in scripts.items():
                slot = f"{kind}-{tongue.surface}"
                provider.plays(slot, script)
                blocks.append(block(slot, provider.root(slot), tongue, "connections = 600"))
            chained = f'["bad-{tongue.surface}", "hangs-{tongue.surface}", "ok-{tongue.surface}"]'
            blocks.append(f"[profiles.chain-{tongue.surface}]\ncandidates = {chained}\n")
        running = await stack.enter_async_context(daemon("\n".join(blocks), home, server=LIMITS))
        yield Bed(running, provider)


async def phases(bed: Bed, count: int) -> dict[str, int]:
    rows = await bed.daemon.records(count)
    found: dict[str, int] = {}
    for row in rows[:count]:
        assert (row["status"], row["outcome"]) == (499, "client_closed"), row
        found[str(row["gone_phase"])] = found.get(str(row["gone_phase"]), 0) + 1
    return found


def reached(bed: Bed, slot: str, times: int) -> Callable[[ScriptedUpstream], bool]:
    return lambda _: bed.provider.asked(slot) >= times


def tell(number: str, done: str, saw: str, record: str, test: str) -> None:
    table.tell(number, done, saw, record, test=f"{HERE}::{test}")


async def in_time(leaving: Callable[[], Awaitable[float]]) -> None:
    """Holds the deadline in one round of five: a busy machine may hold rounds up, a gateway that waits, every one."""
    took: list[float] = []
    while not took or took[-1] > DEADLINE_S:
        assert len(took) < 5, took
        took.append(await leaving())


# -- leaving -----------------------------------------------------------------------------------------------------


async def test_who_leaves_before_the_body_is_complete_asks_nobody(bed: Bed) -> None:
    before = bed.provider.upstream.heads
    for tongue in SURFACES:
        writer = (await bed.connect())[1]
        writer.write(request(tongue, b'{"model"', length=100))
        await bed.daemon.until_metric("pointsman_client_connections", lambda value: value >= 1)
        writer.transport.abort()
    assert await phases(bed, 3) == {"body": 3}
    assert bed.provider.upstream.heads == before
    tell(
        "C1",
        "leaves within the body",
        "-",
        "499, `client_closed`, phase body; nobody was asked",
        "test_who_leaves_before_the_body_is_complete_asks_nobody",
    )


@pytest.mark.parametrize("times", [20, pytest.param(500, marks=pytest.mark.slow)])
async def test_who_leaves_while_waiting_takes_the_provider_along(bed: Bed, times: int) -> None:
    async def leaving(tongue: Tongue, stream: bool) -> float:
        slot = f"hangs-{tongue.surface}"
        bed.provider.seen.pop(slot, None)
        writers = [await bed.begun(tongue, slot, stream=stream) for _ in range(times)]
        await bed.provider.upstream.until(reached(bed, slot, times))
        took = await bed.leave(slot, writers, times)
        await bed.idle()
        assert set(await phases(bed, times)) <= {"first_byte", "connect", "queue", "plain"}
        return took

    for stream in (False, True):
        for tongue in SURFACES:
            await in_time(partial(leaving, tongue, stream))
    tell(
        "C2",
        "leaves before the first byte, plain and stream; 500 at once",
        "-",
        "499, `client_closed`; the provider's connection is closed within 1 s, by its own clock",
        "test_who_leaves_while_waiting_takes_the_provider_along",
    )


@pytest.mark.parametrize("times", [20, pytest.param(500, marks=pytest.mark.slow)])
async def test_who_leaves_a_stream_takes_the_provider_along(bed: Bed, times: int) -> None:
    async def leaving(tongue: Tongue) -> float:
        slot = f"stops-{tongue.surface}"
        bed.provider.seen.pop(slot, None)
        opened = [await bed.begun(tongue, slot, stream=True) for _ in range(times)]
        await bed.provider.upstream.until(reached(bed, slot, len(opened)))
        await asyncio.sleep(0.2)  # the words are on their way
        took = await bed.leave(slot, opened, len(opened))
        await bed.idle()
        assert set(await phases(bed, len(opened))) <= {"stream", "first_byte"}
        return took

    for tongue in SURFACES:
        await in_time(partial(leaving, tongue))
    tell(
        "C3",
        "leaves in the middle of a stream; 500 at once",
        "the words so far",
        "499, `client_closed`, tokens so far; the provider's connection is closed within 1 s, by its own clock",
        "test_who_leaves_a_stream_takes_the_provider_along",
    )


async def test_who_leaves_while_a_fallback_is_tried_ends_the_chain(bed: Bed) -> None:
    for tongue in SURFACES:
        slot, last = f"hangs-{tongue.surface}", f"ok-{tongue.surface}"
        bed.provider.seen.pop(slot, None)
        asked = bed.provider.asked(last)
        writer = await bed.begun(tongue, f"profile:chain-{tongue.surface}", stream=False)
        await bed.provider.upstream.until(reached(bed, slot, 1))
        writer.transport.abort()
        await bed.gone(slot, 1)
        await bed.idle()
        assert bed.provider.asked(last) == asked
        row = (await bed.daemon.records(1))[0]
        assert (row["status"], row["attempt_count"]) == (499, 3)
    tell(
        "C4",
        "leaves while the second candidate is tried",
        "-",
        "499, `client_closed`; the third was not asked",
        "test_who_leaves_while_a_fallback_is_tried_ends_the_chain",
    )


async def test_who_leaves_as_the_answer_ends_has_its_row(bed: Bed) -> None:
    """Whoever of the two is faster: the client is gone, or has all."""
    for tongue in SURFACES:
        for stream in (False, True):
            slot, go_on = f"last-{tongue.surface}", asyncio.Event()
            answer = streamed(frames(tongue, "one", "two")) if stream else plain(tongue.answer("hello"))
            bed.provider.plays(slot, [go_on, *answer])
            bed.provider.seen.pop(slot, None)
            names = [f"{slot}-{stream}-{number}" for number in range(50)]
            writers = [
                await bed.begun(tongue, slot, stream=stream, lines=f"X-Request-Id: {name}\r\n") for name in names
            ]
            await bed.provider.upstream.until(reached(bed, slot, len(names)))
            go_on.set()
            for number, writer in enumerate(writers):
                if number % 2:
                    await asyncio.sleep(0)
                writer.transport.abort()
            await bed.idle()
            rows = await bed.daemon.records(len(names))
            assert sorted(row["client_request_id"] for row in rows) == sorted(names)
            assert {(row["status"], row["outcome"]) for row in rows} <= ENDS
            assert all(row["attempt_count"] == 1 and row["duration_ms"] >= 0 for row in rows)
    tell(
        "C5",
        "leaves while the answer, and its row, are written, plain and stream",
        "-",
        "one row each: 200, `ok`; 200 or 499, `client_closed`",
        "test_who_leaves_as_the_answer_ends_has_its_row",
    )


ENDS = {(200, "ok"), (499, "client_closed"), (200, "client_closed")}


async def test_a_half_close_counts_as_leaving(bed: Bed) -> None:
    slot = "hangs-chat"
    bed.provider.seen.pop(slot, None)
    writer = await bed.begun(CHAT, slot, stream=False)
    await bed.provider.upstream.until(reached(bed, slot, 1))
    writer.write_eof()
    await bed.gone(slot, 1)
    writer.transport.abort()
    tell(
        "C6",
        "FIN while it waits",
        "the connection is closed",
        "499, `client_closed`",
        "test_a_half_close_counts_as_leaving",
    )


# -- slow, and silent --------------------------------------------------------------------------------------------


async def slowly(bed: Bed, sent: bytes, pause: float) -> bytes:
    reader, writer = await bed.connect()
    for byte in sent:
        try:
            writer.write(bytes([byte]))
            await writer.drain()
        except ConnectionError:
            break
        if reader.at_eof():
            break
        await asyncio.sleep(pause)
    try:
        return await reader.read()
    except ConnectionError:
        return b""  # it was closed while a byte was on its way
    finally:
        writer.transport.abort()


async def test_slow_heads_and_bodies_end_at_their_time_and_hold_up_nobody(bed: Bed) -> None:
    head_bytes = request(CHAT, b"")[:-4]
    slow_heads = [asyncio.ensure_future(slowly(bed, head_bytes, 0.1)) for _ in range(50)]
    reader, writer = await bed.connect()
    writer.write(request(CHAT, b'{"model"', length=1000))
    assert (await bed.daemon.post(CHAT, asking(CHAT, "ok-chat", stream=False))).status == 200
    late = parsed(await reader.read())
    writer.transport.abort()
    assert (late.status, late.json["error"]["code"]) == (408, "body_timeout")
    assert set(await asyncio.gather(*slow_heads)) == {b""}
    test = "test_slow_heads_and_bodies_end_at_their_time_and_hold_up_nobody"
    tell("C10", "a body that does not come", "408, `body_timeout`, and close", "408, `body_timeout`", test)


@pytest.mark.slow
async def test_a_broken_chunk_in_a_later_packet_ends_the_request(bed: Bed) -> None:
    reader, writer = await bed.connect()
    writer.write(f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode())
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    await asyncio.sleep(0.1)
    writer.write(b"zz\r\n")
    got = parsed(await reader.read())
    writer.transport.abort()
    assert (got.status, got.headers["connection"]) == (400, "close")
    tell(
        "C10b",
        "a malformed chunk in a later packet",
        "400, `invalid_request`, and close",
        "400, `invalid_request`",
        "test_a_broken_chunk_in_a_later_packet_ends_the_request",
    )


# -- what is sent ------------------------------------------------------------------------------------------------

CHUNKED = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
OVERSIZED = {
    "a request line of 64 KiB": b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header of 64 KiB": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 65536 + b"\r\n\r\n",
    "5,000 headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: a\r\n" * 5000 + b"\r\n",
    "a trailer of 64 KiB": CHUNKED + b"1\r\n{\r\n0\r\nX-A: " + b"a" * 65536 + b"\r\n\r\n",
    "5,000 trailers": CHUNKED + b"1\r\n{\r\n0\r\n" + b"X-A: a\r\n" * 5000 + b"\r\n",
}


async def test_a_head_beyond_its_limits_is_refused(bed: Bed) -> None:
    for sent in OVERSIZED.values():
        got = await bed.daemon.raw(sent)
        assert got.status in (400, 414, 431)
        assert "error" in got.json
        assert got.headers["x-request-id"]
    tell(
        "C13",
        "; ".join(OVERSIZED),
        "400, and close",
        "no row; for trailers 400, `invalid_request`",
        "test_a_head_beyond_its_limits_is_refused",
    )


@pytest.mark.slow
async def test_a_body_beyond_its_limit_is_refused_before_it_is_read(bed: Bed) -> None:
    for tongue in SURFACES:
        declared = await bed.daemon.raw(request(tongue, b"", length=1 << 30))
        start = f"POST {tongue.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        endless = b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 40
        chunked = await bed.daemon.raw(start.encode() + endless)
        for got in (declared, chunked):
            assert (got.status, got.headers["connection"]) == (413, "close")
            assert b"body_too_large" in got.body
    tell(
        "C14",
        "1 GiB declared; chunks without an end",
        "413, `body_too_large`, and close",
        "413, `body_too_large`",
        "test_a_body_beyond_its_limit_is_refused_before_it_is_read",
    )


async def test_a_compressed_body_is_refused(bed: Bed) -> None:
    before = bed.daemon.usage()[0]
    bomb = gzip.compress(b"x" * (64 << 20))
    got = await bed.daemon.raw(request(CHAT, bomb, lines="Content-Encoding: gzip\r\nConnection: close\r\n"))
    assert (got.status, got.json["error"]["code"]) == (415, "unsupported_media_type")
    assert bed.daemon.usage()[0] - before < 32 << 20
    tell(
        "C15",
        "a gzip bomb",
        "415, `unsupported_media_type`",
        "415, `unsupported_media_type`",
        "test_a_compressed_body_is_refused",
    )


async def test_framing_that_two_parsers_read_differently_is_refused(bed: Bed) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for bad in (
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +3\r\n",
    ):
        sent = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\n".encode() + bad + b"\r\nabc" + smuggled
        reader, writer = await bed.connect()
        writer.write(sent)
        received = await reader.read()
        writer.transport.abort()
        assert received.count(b"HTTP/1.") == 1
        assert parsed(received).status in (400, 501)
    tell(
        "C16",
        "two lengths, two codings, a signed length; more in tests/hostile",
        "400, one answer, and close",
        "no row",
        "test_framing_that_two_parsers_read_differently_is_refused",
    )


async def test_pipelined_requests_are_answered_in_order(bed: Bed) -> None:
    reader, writer = await bed.connect()
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    writer.write(one * 999 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    received = await reader.read()
    writer.transport.abort()
    assert received.count(b"HTTP/1.1 200 OK") == 1000
    tell(
        "C17",
        "1,000 requests in one packet",
        "1,000 answers, in order",
        "no row (health)",
        "test_pipelined_requests_are_answered_in_order",
    )


@pytest.mark.parametrize("times", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_many_requests_on_one_connection_leave_nothing_behind(bed: Bed, times: int) -> None:
    reader, writer = await bed.connect()
    before = bed.daemon.usage()[0]
    for _ in range(times):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    assert bed.daemon.usage()[0] - before < 8 << 20
    writer.transport.abort()
    tell(
        "C18",
        "10,000 requests on one connection",
        "each its answer; memory stays",
        "no row (health)",
        "test_many_requests_on_one_connection_leave_nothing_behind",
    )


METHODS = {"TRACE": 405, "OPTIONS": 405, "DELETE": 405, "BREW": 400, "GET": 405}


async def test_methods_upgrades_and_expectations(bed: Bed) -> None:
    for method, status in METHODS.items():
        got = await bed.daemon.raw(
            f"{method} {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert got.status == status, method
        if status == 405:
            assert got.headers["allow"] == "POST"
    got = await bed.daemon.raw(b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert 400 <= got.status < 500
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert (await bed.daemon.raw(upgrade)).status in (200, 400)
    reader, writer = await bed.connect()
    body = b'{"model":"ok-chat","messages":[{"role":"user","content":"a"}]}'
    writer.write(request(CHAT, body, lines="Expect: 100-continue\r\nConnection: close\r\n")[: -len(body)])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert parsed(await reader.read()).status == 200
    writer.transport.abort()
    tell(
        "C19",
        "TRACE, OPTIONS, CONNECT, others; Upgrade; Expect: 100-continue",
        "405 with Allow, or 400; no upgrade; 100, then the answer",
        "200, `ok`",
        "test_methods_upgrades_and_expectations",
    )


async def test_a_content_type_that_is_not_json_is_refused_and_none_is_json(bed: Bed) -> None:
    body = b'{"model":"ok-chat","messages":[{"role":"user","content":"a"}]}'
    for kind, status in {
        "text/plain": 415,
        "application/x-www-form-urlencoded": 415,
        "application/json; charset=x": 200,
        "": 200,
    }.items():
        sent = request(CHAT, body, lines="Connection: close\r\n")
        sent = sent.replace(
            b"Content-Type: application/json\r\n", f"Content-Type: {kind}\r\n".encode() if kind else b""
        )
        assert (await bed.daemon.raw(sent)).status == status, kind
    tell(
        "C20",
        "text/plain, a form; none",
        "415; read as JSON",
        "415, `unsupported_media_type`; 200, `ok`",
        "test_a_content_type_that_is_not_json_is_refused_and_none_is_json",
    )


@pytest.mark.slow
async def test_a_gateway_that_is_its_own_provider_is_cut() -> None:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        home = Path(made)
        async with daemon(block("self", "http://127.0.0.1:1", CHAT), home) as running:
            table_text = running.config.read_text().replace("http://127.0.0.1:1/v1", f"{running.base}/v1")
            running.config.write_text(table_text)
            await running.says("table_loaded")
            got = await running.post(CHAT, asking(CHAT, "self", stream=False))
            assert got.status in (502, 508)
            rows = await running.records(2)
            assert len(rows) <= 5
    tell(
        "C23",
        "a provider whose base_url is the gateway",
        "508 or 502, after one inner request",
        "502 and 508",
        "test_a_gateway_that_is_its_own_provider_is_cut",
    )


async def test_it_is_idle_afterwards(bed: Bed) -> None:
    await bed.idle()
    await bed.daemon.until_metric("pointsman_in_flight", lambda value: value == 0)
