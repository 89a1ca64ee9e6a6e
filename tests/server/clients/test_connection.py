"""The lean side of a client's connection, beside aiohttp's: what comes back for the same bytes, in whatever pieces."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler
from gateway import RawClient, Running, Start, connection_of, listener_of, provider, settles
from playbook import CHAT
from riding import answer, frames, nobody_boards
from upstream import SILENCE, Script, ScriptedUpstream, Seen, plain, streamed

from proxy.server.call import Call
from proxy.server.clients.connection import Connection
from proxy.server.clients.inbound import Request
from proxy.server.clients.ordinary import AHEAD, MOST_HEADS, Heads, OrdinaryRequest
from proxy.server.express.ride import Ride
from proxy.wire.request_head import END

LOOPS = ("uvloop",)
EXCHANGES = ("lean", "plain")
DOCUMENT = b'{"model":"first","messages":[{"role":"user","content":"Hi"}]}'


def asked(*lines: str, body: bytes = DOCUMENT, length: int | None = None) -> bytes:
    head = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines)
    size = len(body) if length is None else length
    return "\r\n".join((*head, f"Content-Length: {size}", "", "")).encode() + body


@pytest.fixture
async def running(upstream: ScriptedUpstream, start: Start) -> Running:
    upstream.plays(plain(CHAT.answer("Hi there")))
    return await start(provider("first", upstream), 'max_body = "2MiB"\nbody_timeout = "1s"')


async def answers(client: RawClient, count: int) -> list[int]:
    return [(await client.answer())[0] for _ in range(count)]


async def test_a_connection_is_lean_while_requests_are_ordinary(
    running: Running, exchange: str, upstream: ScriptedUpstream
) -> None:
    client = await running.connect()
    for _ in range(3):
        await client.send(asked())
        assert await answers(client, 1) == [200]
        assert connection_of(running).lean == (exchange == "lean")
    assert len(listener_of(running).heads) == (exchange == "lean")
    assert len(upstream.seen) == 3


CHUNKED = asked("Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(DOCUMENT), DOCUMENT)).replace(
    b"\r\nContent-Length: %d" % (len(DOCUMENT) + 11), b""
)
# What is sent, and whether it is known where the next request begins.
ODD = {
    "a body and an odd header": (asked("X-Odd:  two blanks"), True),
    "a body and a header of other letters": (asked("X-Odd: \u00e4"), True),
    "no body": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
    "a body of no bytes": (asked(body=b""), True),
    "a body that is waited for": (asked("Expect: 100-continue"), True),
    "a chunked body": (CHUNKED, False),
    "a line end in front": (b"\r\n" + asked(), True),
    "two line ends in front": (b"\r\n\r\n" + asked(), False),
}


@pytest.mark.parametrize(("raw", "returns"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
async def test_an_unusual_request_is_aiohttps_and_the_next_ordinary_one_is_not(
    running: Running, exchange: str, raw: bytes, returns: bool, cut: bool
) -> None:
    client = await running.connect()
    for turn in range(3):
        await client.send(asked())
        assert await answers(client, 1) == [200]
        assert connection_of(running).lean == (exchange == "lean" and (returns or not turn))
        for piece in (raw[:60], raw[60:]) if cut else (raw,):
            await client.send(piece)
            await asyncio.sleep(0)
        assert (await client.answer())[0] in (200, 400)
        assert not connection_of(running).lean


VERSIONS = ("HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("behind", [b"", asked()], ids=["alone", "and another behind it"])
async def test_another_version_of_http_is_refused_in_our_own(
    running: Running, upstream: ScriptedUpstream, version: str, behind: bytes
) -> None:
    for raw in (asked(), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        client = await running.connect()
        await client.send(raw.replace(b"HTTP/1.1", version.encode()) + behind)
        said = await client.rest()
        assert re.findall(rb"HTTP/[0-9.]+ \d+", said) == [b"HTTP/1.0 400"]
    assert not upstream.seen


UPGRADES = ("h2c", "websocket", "foo/2")


@pytest.mark.parametrize("protocol", UPGRADES)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_what_comes_behind_an_upgrade_is_answered_or_the_connection_ends(
    running: Running, upstream: ScriptedUpstream, exchange: str, protocol: str, chunked: bool
) -> None:
    """Never is a request read from its middle on: aiohttp's parser loses what one packet brings behind such a head."""
    lines = (
        f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n".encode()
    )
    first = (CHUNKED if chunked else asked()).replace(b"Content-Type", lines + b"Content-Type")
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nHost: hidden\r\nContent-Length: 0\r\n\r\n"
    body = b'{"model":"first","messages":[{"role":"user","content":"%b"}]}' % hidden.replace(b"\r\n", rb"\r\n")
    raw = first + asked(body=body + b"\n" * 20 + hidden, length=len(body) + 20 + len(hidden))
    stays = protocol == "websocket" or (exchange == "lean" and not chunked)
    for cut in (len(raw), len(raw) - len(hidden), len(first) + 9, len(first), len(first) - 5, len(first) - 99):
        asking, client = len(upstream.seen), await running.connect()
        await client.send(raw[:cut])
        await asyncio.sleep(0)
        await client.send(raw[cut:])
        assert await answers(client, 1) == [200]
        if stays:
            assert await answers(client, 1) == [400]  # what stands behind the object makes it no JSON
            client.leave()
        else:
            assert re.findall(rb"HTTP/1.1 \d+", await client.rest()) in ([], [b"HTTP/1.1 400"])
        assert len(upstream.seen) == asking + 1


async def test_who_is_held_back_and_leaves_takes_the_provider_along(
    upstream: ScriptedUpstream, running: Running
) -> None:
    """Nobody reads that connection: it is the kernel that is asked."""
    upstream.plays([SILENCE])
    for leaves in (RawClient.leave, lambda client: client.writer.close()):
        asking, client = len(upstream.seen), await running.connect()
        await client.send(asked())
        await upstream.asked(asking + 1)
        while not listener_of(running).unread:  # no more than that, or its end would wait for room in the kernel
            await client.send(asked() * 20)
            await asyncio.sleep(0)
        leaves(client)
        await upstream.until(lambda it: not it.open)
        await running.quiet()
        assert (await running.rows())[0]["outcome"] == "client_closed"
        await settles(lambda: not listener_of(running).unread)


BETWEEN = {
    "nothing": b"",
    "an unusual one": asked("X-Odd:  two blanks"),
    "one without a body": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("more", BETWEEN.values(), ids=BETWEEN)
async def test_requests_that_are_sent_ahead_are_answered_in_order(running: Running, more: bytes) -> None:
    client = await running.connect()
    await client.send(asked() * 3 + more + asked(body=b"{"))
    assert await answers(client, 5 if more else 4) == [200, 200, 200, *([200] if more else []), 400]


async def test_requests_may_be_cut_anywhere(running: Running) -> None:
    raw = asked() * 2
    for cut in range(1, len(raw), 7):
        client = await running.connect()
        await client.send(raw[:cut])
        await asyncio.sleep(0)
        await client.send(raw[cut:])
        assert await answers(client, 2) == [200, 200]
        client.leave()


async def test_what_is_sent_ahead_without_end_is_held_back(
    upstream: ScriptedUpstream, running: Running, exchange: str
) -> None:
    """Of aiohttp's side its own tests tell."""
    if exchange != "lean":
        pytest.skip("aiohttp's own")
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(CHAT.answer("late"))])
    client = await running.connect()
    padded, count = asked(body=DOCUMENT + b" " * (AHEAD // 4)), 80
    sending = asyncio.ensure_future(client.send(padded * count))
    await settles(lambda: bool(listener_of(running).connections) and connection_of(running)._held_back)
    ahead: list[int] = []

    def late(_: Seen) -> Script:
        ahead.append(len(connection_of(running)._ahead))
        return plain(CHAT.answer("late"))

    upstream.answers(late)
    go_on.set()
    assert await answers(client, count) == [200] * count
    await sending
    assert max(ahead) < AHEAD + (1 << 18)
    assert not connection_of(running)._held_back


BIG = b'{"model":"first","messages":[{"role":"user","content":"%b"}]}' % (b"x" * (1 << 20))


async def test_a_large_body_arrives_whole_and_is_counted_while_it_comes(
    running: Running, upstream: ScriptedUpstream
) -> None:
    assert running.app is not None
    turnstile = running.app.gateway.turnstile
    client = await running.connect()
    raw = asked(body=BIG)
    await client.send(raw[: len(raw) // 2])
    await settles(lambda: turnstile.held > len(BIG) // 4)
    await client.send(raw[len(raw) // 2 :])
    assert await answers(client, 1) == [200]
    assert upstream.seen[0].body == BIG.replace(b'"first"', b'"native-of-first"')
    await running.quiet()
    assert turnstile.held == 0


async def test_what_comes_of_a_body_behind_its_refusal_is_not_held(running: Running) -> None:
    client = await running.connect()
    raw = asked(body=BIG)
    await client.send(raw[: len(raw) // 2])
    assert (await client.answer())[0] == 408
    await client.send(raw[len(raw) // 2 :])
    assert await client.rest() == b""
    await running.quiet()
    assert running.app is not None
    assert running.app.gateway.turnstile.held == 0


async def test_a_body_that_fills_the_memory_for_bodies_is_refused_while_it_comes(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream), 'body_memory = "2MiB"')
    upstream.plays(plain(CHAT.answer("ok")))
    holder, client = await gw.connect(), await gw.connect()
    assert gw.app is not None
    await holder.send(asked(body=BIG)[:-5])
    await settles(lambda: gw.app is not None and gw.app.gateway.turnstile.held > len(BIG) - 100)
    await client.send(asked(body=BIG)[:-5])
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (503, "close")
    assert await client.rest() == b""
    await holder.send(BIG[-5:])
    assert await answers(holder, 1) == [200]


REFUSED = {
    "a body that is too large": (asked(body=b"{", length=3 << 20), 413),
    "a body that does not end": (asked(body=b"{", length=100), 408),
    "a compressed body": (asked("Content-Encoding: gzip", body=b"{", length=100), 415),
    "another media type": (asked().replace(b"application/json", b"application/text"), 415),
}


@pytest.mark.parametrize(("raw", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_before_its_body_has_come_closes(running: Running, raw: bytes, status: int) -> None:
    client = await running.connect()
    await client.send(raw)
    found, headers, _ = await client.answer()
    assert found == status
    if not raw.endswith(DOCUMENT):
        assert headers["connection"] == "close"
        client.writer.write_eof()
        assert await client.rest() == b""


async def test_a_client_that_still_sends_gets_its_refusal(running: Running) -> None:
    """A close with bytes unread would tear it away."""
    client = await running.connect()
    await client.send(asked(body=b"{" * (1 << 18), length=3 << 20))
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (413, "close")
    for _ in range(4):
        await client.send(b"{" * (1 << 16))


BROKEN_OFF = {
    "a size that is none": b"zz\r\n",
    "a chunk that is longer than it said": b"1\r\n}}}\r\n",
    "a trailer of 64 KiB": b"0\r\nX-A: " + b"a" * 65536 + b"\r\n\r\n",
    "5,000 trailers": b"0\r\n" + b"X-A: a\r\n" * 5000 + b"\r\n",
}


@pytest.mark.parametrize("rest", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_a_body_that_breaks_in_a_later_packet_is_refused_at_once(
    upstream: ScriptedUpstream, start: Start, rest: bytes
) -> None:
    running = await start(provider("first", upstream), 'body_timeout = "5m"')
    client = await running.connect()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head.encode() + b"1\r\n{\r\n")
    await settles(lambda: running.app is not None and running.app.gateway.running == 1)
    await client.send(rest)
    status, headers, body = await client.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert b"framing is broken" in body
    assert await client.rest() == b""
    assert (await running.row())["outcome"] == "invalid_request"
    assert upstream.seen == []


@pytest.mark.parametrize("phase", ["body", "first_byte", "stream"])
async def test_a_client_that_leaves_ends_its_request(upstream: ScriptedUpstream, running: Running, phase: str) -> None:
    said = CHAT.stream("one", "two")
    upstream.plays([SILENCE] if phase == "first_byte" else streamed([*said[:2], asyncio.Event()]))
    client = await running.connect()
    body = DOCUMENT.replace(b'{"model"', b'{"stream":true,"model"')
    await client.send(asked(body=body) if phase != "body" else asked(body=body[:9], length=99))
    if phase == "stream":
        await client.until(b"one")
    elif phase == "first_byte":
        await upstream.asked()
    else:
        await settles(lambda: running.app is not None and running.app.gateway.running == 1)
    client.leave()
    await running.quiet()
    row = await running.row()
    assert (row["status"], row["outcome"], row["gone_phase"]) == (499, "client_closed", phase)
    await settles(lambda: not listener_of(running).connections)


LEFT: dict[str, tuple[bool, Script]] = {
    "before an answer": (False, [SILENCE]),
    "before a stream": (True, [SILENCE]),
    "amid a stream": (True, streamed([*frames(CHAT)[:2], asyncio.Event()])),
}


@pytest.mark.parametrize("short", [True, False], ids=["on the short way", "on the way of all"])
@pytest.mark.parametrize(("stream", "script"), LEFT.values(), ids=LEFT)
async def test_nothing_of_a_client_that_leaves_is_left_to_the_collector(
    stream: bool, script: Script, short: bool, upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not short:
        nobody_boards(monkeypatch)
    gw = await start(provider("first", upstream))
    asks = CHAT.request("first", stream=stream)
    good = streamed(frames(CHAT)) if stream else plain(CHAT.answer("Hello."))
    upstream.answers(lambda seen: good if len(upstream.seen) <= 2 else script)
    client = await gw.connect()
    for _ in range(2):
        await client.request(CHAT, asks)
        await answer(client)
    await gw.quiet()
    gc.collect()
    gc.disable()
    try:
        await client.request(CHAT, asks)
        await settles(lambda: len(upstream.seen) == 3)
        if script != [SILENCE]:
            await client.until(b"Hello")
        client.leave()
        await gw.quiet()
        held = Connection, Ride, Call, OrdinaryRequest
        await settles(lambda: not any(isinstance(it, held) for it in gc.get_objects()))
    finally:
        gc.enable()


async def test_a_connection_that_has_served_is_closed_when_it_stays_idle(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream), 'keep_alive = "1s"')
    upstream.plays(plain(CHAT.answer("ok")))
    client = await gw.connect()
    await client.send(asked())
    assert await answers(client, 1) == [200]
    assert await client.rest() == b""


async def test_of_more_connections_than_there_may_be_an_idle_one_goes(
    upstream: ScriptedUpstream, running: Running
) -> None:
    upstream.plays([SILENCE])
    busy, idle = await running.connect(), await running.connect()
    await busy.send(asked())
    await upstream.asked()
    await settles(lambda: len(listener_of(running).connections) == 2)
    listener_of(running).most = 2
    await running.connect()
    assert await idle.rest() == b""
    assert not busy.reader.at_eof()


class Nowhere:
    def board(self, request: Request) -> None:
        """Nobody rides there."""

    async def serve(self, request: Request) -> web.StreamResponse:
        return web.Response()


def test_heads_without_end_do_not_fill_the_memory() -> None:
    heads = Heads({"/v1/chat/completions": Nowhere()})
    for number in range(MOST_HEADS + 3):
        assert heads.find(asked(f"X-Number: {number}")) is not None
    assert len(heads) == 3
    assert heads.find(asked(f"X-Long: {'a' * 5000}")) is not None
    assert len(heads) == 3


def test_equal_heads_are_one_whatever_their_length() -> None:
    heads = Heads({"/v1/chat/completions": Nowhere()})
    first, second = heads.find(asked()), heads.find(asked(body=b"{}"))
    assert first is not None
    assert second is not None
    assert first[0] is second[0]
    assert first[0].length(asked(body=b"{}").partition(END)[0]) == 2
    raw = asked(body=b"{}").partition(END)[0]
    others = [asked(length=0), asked(body=b"", length=10**10), asked("X-A: b"), asked()[:60], b""]
    for other in (*(it.partition(END)[0] for it in others), raw[1:], raw[:-1], raw + b"\r\nX-A: b"):
        assert first[0].length(other) is None


def test_the_shapes_of_aiohttp_are_those_that_the_connection_was_written_for() -> None:
    code = {name: inspect.getsource(getattr(RequestHandler, name)) for name in dir(RequestHandler) if name in USED}
    for name, fields in USED.items():
        found = set(re.findall(r"\bself\.(_\w+)", code[name]))
        assert found == fields, name
    assert set(re.findall(r"_current_request\.(\w+)", "".join(code.values()))) == {"_cancel"}
    assert "return self._paused" in inspect.getsource(vars(BaseProtocol)["writing_paused"].fget)
    assert vars(Connection)["writing_paused"] is vars(BaseProtocol)["_paused"]


USED = {
    "close": {"_close", "_waiter"},
    "force_close": {"_force_close", "_waiter"},
    "_process_keepalive": {
        "_keepalive_handle", "_force_close", "_keepalive", "_loop", "_next_keepalive_close_time", "_process_keepalive",
        "_waiter",
    },
    "shutdown": {
        "_force_close", "_keepalive_handle", "_request_in_progress", "_handler_waiter", "_loop", "_current_request",
        "_task_handler",
    },
}  # fmt: skip
