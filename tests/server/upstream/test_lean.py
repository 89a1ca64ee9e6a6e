"""What the lean exchange relies on in aiohttp beyond its documentation, and what is its own."""

from __future__ import annotations

import asyncio
import inspect

import aiohttp
import pytest
from aiohttp import connector
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from each import each
from gateway import settles
from upstream import CUT, GUARD_S, LAST, SILENCE, ScriptedUpstream, head, piece, plain, streamed, within

from proxy.errors import UpstreamBroken, UpstreamTimeout
from proxy.routing.table import Provider, Timeouts
from proxy.secret import Secret
from proxy.server.turn import Turn
from proxy.server.upstream import LeanUpstream, Outgoing, read_up_to
from proxy.server.upstream.handler import Handler
from proxy.server.upstream.lean import LeanReply
from proxy.server.upstream.plain import PlainReply

LOOPS = ("asyncio", "uvloop")
CHUNKED = head(200, "text/event-stream", Transfer_Encoding="chunked")


def outgoing() -> Outgoing:
    return Outgoing("/v1/chat", (("Content-Type", "application/json"),), b"{}", Timeouts())


def lean(upstream: ScriptedUpstream, **more: object) -> LeanUpstream:
    return LeanUpstream(Provider("p", ("openai-chat",), base_url=upstream.root, **more))  # type: ignore[arg-type]


async def begun(upstream: ScriptedUpstream) -> tuple[LeanUpstream, LeanReply]:
    client = lean(upstream)
    reply = await client.send(outgoing())
    assert isinstance(reply, LeanReply)
    return client, reply


def test_the_shapes_of_aiohttp_are_those_that_the_lean_exchange_was_written_for() -> None:
    assert aiohttp.__version__.startswith("3.14.")
    assert list(inspect.signature(connector.BaseConnector.connect).parameters) == ["self", "req", "traces", "timeout"]
    assert list(inspect.signature(ResponseHandler.__init__).parameters) == ["self", "loop"]
    assert {"loop", "session"} <= inspect.signature(ClientRequest.__init__).parameters.keys()
    for method in ("data_received", "connection_lost", "force_close"):
        assert callable(getattr(ResponseHandler, method))
    assert isinstance(vars(ResponseHandler)["should_close"], property)
    assert {"release", "close", "protocol"} <= vars(connector.Connection).keys()


async def test_the_connector_makes_the_connections_that_its_factory_names(upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(b"ok"))
    client, reply = await begun(upstream)
    assert isinstance(reply._handler, Handler)
    assert await read_up_to(10, reply) == (b"ok", True)
    await client.close()


async def test_behind_an_egress_proxy_the_plain_exchange_is_used(upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(b"ok"))
    client = lean(upstream, proxy=Secret(upstream.root))
    reply = await client.send(outgoing())
    assert isinstance(reply, PlainReply)
    assert await read_up_to(10, reply) == (b"ok", True)
    await client.close()


async def test_poured_bytes_are_taken_as_they_come(upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays(streamed([b"one", go_on, b"two"]))
    client, reply = await begun(upstream)
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        go_on.set()
        return True

    assert await reply.pour(take)
    assert b"".join(taken) == b"onetwo"
    await client.close()


class Lent:
    """Takes an answer in its reply's place."""

    def __init__(self, reply: LeanReply) -> None:
        self.reply = reply
        self.got: asyncio.Queue[bytes | None] = asyncio.Queue()

    def received(self, data: bytes) -> None:
        self.got.put_nowait(self.reply.parser.feed(data))

    def lost(self, exc: BaseException | None) -> None:
        self.reply.give_back(b"")
        self.reply.lost(exc)
        self.got.put_nowait(None)


async def test_what_is_lent_directly_comes_past_its_handler_until_it_is_given_back(upstream: ScriptedUpstream) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    upstream.plays(streamed([b"one", first, b"two", second, b"three"]))
    client, reply = await begun(upstream)
    handler, lent = reply._handler, Lent(reply)
    reply.lend(lent)
    reply.direct()
    handler.reply = None  # it would close a connection that speaks while nobody asks
    first.set()
    got = b""
    while b"two" not in got:
        got += await lent.got.get() or b""
    handler.reply = lent
    reply.give_back(b"")
    second.set()
    body, ended = await read_up_to(100, reply)
    assert (body[-5:], ended) == (b"three", True)
    assert lent.got.empty()
    upstream.plays(plain(b"ok"))
    again = await client.send(outgoing())
    assert isinstance(again, LeanReply)
    assert again._handler is handler
    assert await read_up_to(10, again) == (b"ok", True)
    await client.close()


async def test_who_is_lent_an_answer_directly_is_told_of_its_end(upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays(streamed([b"one", go_on, CUT]))
    client, reply = await begun(upstream)
    lent = Lent(reply)
    reply.lend(lent)
    reply.direct()
    go_on.set()
    while await lent.got.get() is not None:
        pass
    assert reply._handler.ear is None
    with pytest.raises(UpstreamBroken):
        await read_up_to(100, reply)
    await client.close()


async def test_a_taker_that_wants_no_more_holds_the_provider_back(upstream: ScriptedUpstream) -> None:
    upstream.plays([CHUNKED, *[piece(b"x" * 65536)] * 1000, LAST])
    client, reply = await begun(upstream)
    assert not await reply.pour(lambda data: False)
    await upstream.until(lambda it: it.blocked > 0)
    assert upstream.sent < 1000 * 65536
    size = 0

    def count(data: bytes) -> bool:
        nonlocal size
        size += len(data)
        return True

    assert await reply.pour(count)
    assert size > 990 * 65536
    await client.close()


async def test_what_comes_behind_a_taker_that_had_enough_is_read_all_the_same(upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays(streamed([b"one", go_on, b"two"]))
    client, reply = await begun(upstream)
    assert not await reply.pour(lambda data: False)
    go_on.set()
    assert await asyncio.wait_for(reply.chunk(), GUARD_S) == b"two"
    assert not await reply.finish()
    assert reply.parser.done
    await client.close()


async def test_a_connection_serves_again_though_its_end_came_behind_the_last_that_was_taken(
    upstream: ScriptedUpstream,
) -> None:
    go_on = asyncio.Event()
    upstream.plays([CHUNKED, piece(b"one"), go_on, LAST], plain(b"ok"))
    client, reply = await begun(upstream)
    handler = reply._handler
    assert not await reply.pour(lambda data: False)
    asyncio.get_running_loop().call_soon(go_on.set)
    assert not await reply.finish()
    again = await client.send(outgoing())
    assert isinstance(again, LeanReply)
    assert again._handler is handler
    assert await read_up_to(10, again) == (b"ok", True)
    await client.close()


async def test_what_a_taker_raises_is_raised_where_it_was_poured(upstream: ScriptedUpstream) -> None:
    upstream.plays([*streamed([b"one"], last=False), SILENCE])
    client, reply = await begun(upstream)
    error = UpstreamBroken("It cannot be read.")

    def fail(data: bytes) -> bool:
        raise error

    with pytest.raises(UpstreamBroken) as raised:
        await reply.pour(fail)
    assert raised.value is error
    reply.close()
    await within((await upstream.asked()).gone)
    await client.close()


@pytest.mark.parametrize("how", ["cut", "expired", "cancelled"])
async def test_pouring_ends_however_the_answer_does(upstream: ScriptedUpstream, how: str) -> None:
    go_on = asyncio.Event()
    upstream.plays([*streamed([b"one"], last=False), go_on, CUT if how == "cut" else SILENCE])
    client, reply = await begun(upstream)
    pouring = asyncio.ensure_future(reply.pour(lambda data: True))
    await asyncio.sleep(0)
    kind: type[BaseException] = UpstreamBroken
    match how:
        case "cut":
            go_on.set()
        case "expired":
            reply.expire("It took too long.")
            kind = UpstreamTimeout
        case _:
            pouring.cancel()
            kind = asyncio.CancelledError
    with pytest.raises(kind):
        await pouring
    await upstream.until(lambda it: it.open == 0)
    await client.close()


async def test_a_pooled_connection_that_speaks_unasked_is_not_used_again(upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays([*plain(b"one"), go_on, b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked"], plain(b"two"))
    client, reply = await begun(upstream)
    handler = reply._handler
    assert await read_up_to(10, reply) == (b"one", True)
    go_on.set()
    await settles(lambda: handler.should_close)
    second = await client.send(outgoing())
    assert await read_up_to(10, second) == (b"two", True)
    assert upstream.opened == 2
    await client.close()


async def test_a_header_with_a_line_end_does_not_leave(upstream: ScriptedUpstream) -> None:
    client = lean(upstream)
    bad = Outgoing("/v1/chat", (("X-A", "1\r\nX-B: 2"),), b"{}", Timeouts())
    with pytest.raises(UpstreamBroken):
        await client.send(bad)
    assert upstream.seen == []
    await client.close()


# -- what leaves unparsed ----------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [b"data: %d\n\n" % number * 40 for number in range(400)]  # more than is parsed at once before anybody asks


class Wire:
    """A connection that is none: what comes on it is told by the test."""

    def __init__(self) -> None:
        self.reply: LeanReply | None = None
        self.ear = None
        self.transport = self
        self.paused = False
        self.ended = ""

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.ended = "aborted"

    def release(self) -> None:
        self.ended = "released"

    def close(self) -> None:
        self.ended = self.ended or "closed"


@each("size", [700, 5_000, 30_000, 1 << 20])
@each("ahead", [0, 1, 3, 99])
@each("patience", [1, 3, 1 << 30], ids=["stops at each", "stops now and then", "never stops"])
@each("greed", [0, 1, 400], ids=["none", "one at a time", "all"])
async def test_what_goes_through_and_what_is_parsed_are_the_body(
    size: int, ahead: int, patience: int, greed: int
) -> None:
    """`ahead`: so many reads come before anybody pours."""
    wire = Wire()
    reply = LeanReply(wire, wire, Turn())  # type: ignore[arg-type]
    raw = HEAD + b"".join(map(piece, EVENTS)) + LAST
    reads = [raw[at : at + size] for at in range(0, len(raw), size)]
    got: list[bytes] = []

    def wants_more() -> bool:
        return len(got) % patience != 0

    def take(body: bytes) -> bool:
        got.append(body)
        return wants_more()

    def through(data: bytes) -> tuple[int, bool]:
        passed = 0
        for _ in range(greed):
            line, _, behind = data[passed:].partition(b"\r\n")
            length = int(line, 16) if line and behind else 0
            if not length or len(behind) < length + 2:
                break
            got.append(behind[:length])
            passed += len(line) + length + 4
        return passed, wants_more()

    for data in reads[: ahead + 1]:
        reply.received(data)
    ended = False
    rest = iter(reads[ahead + 1 :])
    while not ended:
        pouring = asyncio.ensure_future(reply.pour(take, through))
        await asyncio.sleep(0)
        while not pouring.done() and (more := next(rest, None)) is not None:
            assert not wire.paused
            reply.received(more)
            await asyncio.sleep(0)
        ended = await pouring
    assert b"".join(got) == b"".join(EVENTS)
    assert wire.ended == "released"


async def test_an_answer_that_came_at_once_is_whole_though_its_connection_is_lost() -> None:
    wire = Wire()
    reply = LeanReply(wire, wire, Turn())  # type: ignore[arg-type]
    reply.received(HEAD + b"".join(map(piece, EVENTS)) + LAST)
    reply.lost(None)
    assert await read_up_to(1 << 30, reply) == (b"".join(EVENTS), True)


async def test_an_answer_that_came_at_once_and_is_cut_is_told_as_cut_behind_what_came() -> None:
    wire = Wire()
    reply = LeanReply(wire, wire, Turn())  # type: ignore[arg-type]
    reply.received(HEAD + b"".join(map(piece, EVENTS)))
    reply.lost(None)
    assert await reply.chunk() == b"".join(EVENTS)
    with pytest.raises(UpstreamBroken):
        await reply.chunk()
