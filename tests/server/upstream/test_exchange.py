"""The contract between the relay and whatever carries its bytes, over all implementations.

An implementation joins by one line in OPENERS.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import pytest
from attrs import evolve
from backlog import full_backlog
from gateway import refused_port
from upstream import (
    CUT,
    LAST,
    RESET,
    SILENCE,
    Act,
    Reached,
    Script,
    ScriptedUpstream,
    head,
    piece,
    plain,
    streamed,
    within,
)

from proxy.errors import Overloaded, UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.routing.table import Duration, Provider, Timeouts
from proxy.server.upstream import LeanUpstream, Outgoing, PlainUpstream, Upstream, read_up_to, width

OPENERS: dict[str, Callable[[Provider], Upstream]] = {"plain": PlainUpstream, "lean": LeanUpstream}
BODY = b'{"model":"native"}'
LOOPS = ("asyncio", "uvloop")


@pytest.fixture(params=list(OPENERS.values()), ids=list(OPENERS))
def opener(request: pytest.FixtureRequest) -> Callable[[Provider], Upstream]:
    chosen: Callable[[Provider], Upstream] = request.param
    return chosen


@asynccontextmanager
async def opened(
    opener: Callable[[Provider], Upstream], root: str, *, connections: int = 256
) -> AsyncIterator[Upstream]:
    made = opener(Provider("p", ("openai-chat",), base_url=root, connections=connections))
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def client(opener: Callable[[Provider], Upstream], upstream: ScriptedUpstream) -> AsyncIterator[Upstream]:
    async with opened(opener, upstream.root) as made:
        yield made


def outgoing(body: bytes = BODY, *, connect: float = 5.0, queue: float = 10.0) -> Outgoing:
    headers = (("Content-Type", "application/json"), ("X-Mixed-Case", "kept"), ("Authorization", "Bearer k"))
    return Outgoing("/v1/chat", headers, body, evolve(Timeouts(), connect=Duration(connect), queue=Duration(queue)))


async def whole(client: Upstream) -> bytes:
    reply = await client.send(outgoing())
    body, complete = await read_up_to(1 << 20, reply)
    assert complete
    return body


# -- what is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000], ids=["empty", "a byte", "a window", "megabytes"])
async def test_the_body_arrives_as_it_is_with_its_length(
    client: Upstream, upstream: ScriptedUpstream, size: int
) -> None:
    upstream.plays(plain({}))
    body = b"x" * size
    reply = await client.send(outgoing(body))
    await read_up_to(100, reply)
    seen = await upstream.asked()
    assert seen.body == body
    assert seen.headers["content-length"] == str(size)
    assert "transfer-encoding" not in seen.headers


async def test_only_the_headers_given_are_sent(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain({}))
    await whole(client)
    seen = await upstream.asked()
    names = {line.partition(b":")[0] for line in seen.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert names - {b"Host", b"Connection", b"Content-Length"} == {b"Content-Type", b"X-Mixed-Case", b"Authorization"}
    assert (seen.method, seen.path) == ("POST", "/v1/chat")


# -- what comes --------------------------------------------------------------------------------------------------


async def test_the_head_is_had_before_the_body(client: Upstream, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays([head(201, "text/plain", Content_Length=2, X_One="1", x_two="2"), go_on, b"ok"])
    reply = await client.send(outgoing())
    assert reply.status == 201
    assert {**reply.headers}.items() >= {"content-type": "text/plain", "x-one": "1", "x-two": "2"}.items()
    assert reply.queued_s == 0
    go_on.set()
    assert await read_up_to(100, reply) == (b"ok", True)


async def test_of_a_header_that_stands_twice_the_last_one_counts(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 0\r\nX-A: 2\r\n\r\n"])
    reply = await client.send(outgoing())
    assert reply.headers["x-a"] == "2"
    assert await reply.chunk() == b""


async def test_a_chunk_is_had_before_the_next_one_is_sent(client: Upstream, upstream: ScriptedUpstream) -> None:
    one, two = asyncio.Event(), asyncio.Event()
    upstream.plays(streamed([b"first", one, b"second", two, b"third"]))
    reply = await client.send(outgoing())
    got = [await reply.chunk()]
    one.set()
    got.append(await reply.chunk())
    two.set()
    got.append(await reply.chunk())
    assert got == [b"first", b"second", b"third"]
    assert await reply.chunk() == b""
    assert await reply.chunk() == b""  # and so on


@pytest.mark.parametrize("step", [1, 2, 7])
async def test_bytes_do_not_depend_on_the_packets(client: Upstream, upstream: ScriptedUpstream, step: int) -> None:
    raw = b"".join(s for s in streamed([b"a\r\n", b"\r\n0\r\n\r\n", b"b" * 30]) if isinstance(s, bytes))
    upstream.plays([raw[at : at + step] for at in range(0, len(raw), step)])
    assert await whole(client) == b"a\r\n\r\n0\r\n\r\n" + b"b" * 30


async def test_reading_stops_a_little_beyond_its_limit(client: Upstream, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays(streamed([b"x" * 600, b"y" * 600, go_on, b"z"]))
    reply = await client.send(outgoing())
    body, complete = await read_up_to(1000, reply)
    assert (len(body), complete) == (1200, False)
    go_on.set()
    assert await read_up_to(1000, reply) == (b"z", True)


HEADS = {
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("before", HEADS.values(), ids=HEADS)
async def test_interim_answers_are_passed_over(client: Upstream, upstream: ScriptedUpstream, before: bytes) -> None:
    upstream.plays([before, *plain(b"ok")] if before else plain(b"ok"))
    assert await whole(client) == b"ok"


async def test_redirects_are_answers_and_not_followed(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([head(307, "", Location=f"{upstream.root}/elsewhere", Content_Length=0)])
    reply = await client.send(outgoing())
    assert (reply.status, await reply.chunk()) == (307, b"")
    assert len(upstream.seen) == 1


async def test_cookies_are_not_kept(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain({}, Set_Cookie="who=me; Path=/"))
    await whole(client)
    await whole(client)
    assert "cookie" not in upstream.seen[1].headers


async def test_a_compressed_answer_is_refused(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([head(200, Content_Encoding="gzip", Content_Length=1000) + b"\x1f\x8b", SILENCE])
    with pytest.raises(UpstreamBroken):
        await client.send(outgoing())
    await within((await upstream.asked()).gone)


# -- what goes wrong before a head -------------------------------------------------------------------------------

BEFORE: dict[str, tuple[Script, type[UpstreamError]]] = {
    "closed without a byte": ([CUT], UpstreamBroken),
    "reset without a byte": ([RESET], UpstreamBroken),
    "half a head, then closed": ([b"HTTP/1.1 200 OK\r\nContent-", CUT], UpstreamBroken),
    "half a head, then reset": ([b"HTTP/1.1 200 OK\r\nContent-", RESET], UpstreamBroken),
    "no HTTP at all": ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n", SILENCE], UpstreamBroken),
    "a bad status": ([b"HTTP/1.1 abc OK\r\n\r\n", SILENCE], UpstreamBroken),
    "a header without a colon": ([b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", SILENCE], UpstreamBroken),
    "a control byte in a header": (
        [b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", SILENCE],
        UpstreamBroken,
    ),
    "two lengths": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", SILENCE],
        UpstreamBroken,
    ),
    "a header of a megabyte": ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n", SILENCE], UpstreamBroken),
    "five thousand headers": (
        [b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(5000)) + b"\r\n", SILENCE],
        UpstreamBroken,
    ),
}


@pytest.mark.parametrize(("script", "kind"), BEFORE.values(), ids=BEFORE)
async def test_a_head_that_fails_is_an_upstream_error(
    client: Upstream, upstream: ScriptedUpstream, script: Script, kind: type[UpstreamError]
) -> None:
    upstream.plays(script)
    with pytest.raises(kind) as raised:
        await client.send(outgoing())
    assert type(raised.value) is kind
    assert upstream.root not in raised.value.message
    assert str(upstream.port) not in raised.value.message
    await upstream.until(lambda it: it.open == 0)


async def test_a_port_without_a_listener_is_unreachable(opener: Callable[[Provider], Upstream]) -> None:
    async with opened(opener, f"http://127.0.0.1:{refused_port()}") as client:
        with pytest.raises(UpstreamUnreachable):
            await client.send(outgoing())


async def test_a_name_without_an_address_is_unreachable(opener: Callable[[Provider], Upstream]) -> None:
    async with opened(opener, "http://no-such-host.invalid") as client:
        with pytest.raises(UpstreamUnreachable):
            await client.send(outgoing())


async def test_a_connection_torn_down_at_once_fails(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.greeting = RESET
    with pytest.raises((UpstreamUnreachable, UpstreamBroken)):
        await client.send(outgoing())


async def test_clear_text_on_a_tls_port_is_unreachable(
    opener: Callable[[Provider], Upstream], upstream: ScriptedUpstream
) -> None:
    upstream.greeting = CUT
    async with opened(opener, upstream.root.replace("http:", "https:")) as client:
        with pytest.raises(UpstreamUnreachable):
            await client.send(outgoing())


async def test_a_connection_that_does_not_come_about_times_out(opener: Callable[[Provider], Upstream]) -> None:
    with full_backlog() as port:
        async with opened(opener, f"http://127.0.0.1:{port}") as client:
            with pytest.raises(UpstreamTimeout):
                await client.send(outgoing(connect=0.05))


async def test_waiting_for_a_connection_can_be_cancelled(opener: Callable[[Provider], Upstream]) -> None:
    with full_backlog() as port:
        async with opened(opener, f"http://127.0.0.1:{port}") as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.send(outgoing())


# -- what goes wrong behind it -----------------------------------------------------------------------------------

CHUNKED = head(200, "text/event-stream", Transfer_Encoding="chunked")
BEHIND: dict[str, Script] = {
    "closed short of its length": [head(200, Content_Length=9) + b"half", CUT],
    "reset short of its length": [head(200, Content_Length=9) + b"half", RESET],
    "closed without the last chunk": [CHUNKED, piece(b"half"), CUT],
    "reset without the last chunk": [CHUNKED, piece(b"half"), RESET],
    "closed inside a chunk": [CHUNKED, b"f\r\nhalf", CUT],
    "a chunk size that is none": [CHUNKED + piece(b"half") + b"zz\r\nmore\r\n", SILENCE],
}


@pytest.mark.parametrize("script", BEHIND.values(), ids=BEHIND)
async def test_a_cut_body_is_broken_and_not_short(client: Upstream, upstream: ScriptedUpstream, script: Script) -> None:
    upstream.plays(script)
    with pytest.raises(UpstreamBroken):
        await whole(client)
    await upstream.until(lambda it: it.open == 0)


async def test_a_bad_chunk_in_a_later_packet_is_broken(client: Upstream, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays([CHUNKED, piece(b"half"), go_on, b"zz\r\nmore\r\n", SILENCE])
    reply = await client.send(outgoing())
    assert await reply.chunk() == b"half"
    go_on.set()
    with pytest.raises(UpstreamBroken):
        await reply.chunk()
    await within((await upstream.asked()).gone)


@pytest.mark.parametrize("good", [1, 2, 40])
async def test_what_came_before_a_bad_chunk_is_read_first(
    client: Upstream, upstream: ScriptedUpstream, good: int
) -> None:
    go_on = asyncio.Event()
    upstream.plays([CHUNKED, go_on, piece(b"half") * good + b"zz\r\nmore\r\n", SILENCE])
    reply, said = await client.send(outgoing()), b""
    go_on.set()
    with suppress(UpstreamBroken):
        while more := await reply.chunk():
            said += more
        raise AssertionError("it ended")
    assert said == b"half" * good
    await within((await upstream.asked()).gone)


async def test_a_body_without_a_length_ends_with_the_connection(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([head(200) + b"all of it", CUT])
    assert await whole(client) == b"all of it"


# -- giving up ---------------------------------------------------------------------------------------------------


async def test_a_closed_reply_closes_its_connection_at_once(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([*streamed([b"some"], last=False), SILENCE], plain(b"other"))
    reply = await client.send(outgoing())
    await reply.chunk()
    reply.close()
    reply.close()  # does no harm
    await within((await upstream.asked()).gone)
    assert await whole(client) == b"other"
    assert [seen.connection for seen in upstream.seen] == [1, 2]


async def test_a_reply_closed_unread_is_not_used_again(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([head(200, Content_Length=4), SILENCE], plain(b"other"))
    (await client.send(outgoing())).close()
    assert await whole(client) == b"other"
    assert [seen.connection for seen in upstream.seen] == [1, 2]


async def test_an_expired_reply_wakes_whoever_waits_for_it(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([*streamed([b"some"], last=False), SILENCE])
    reply = await client.send(outgoing())
    await reply.chunk()
    waiting = asyncio.ensure_future(reply.chunk())
    await asyncio.sleep(0)
    reply.expire("It took too long.")
    with pytest.raises(UpstreamTimeout, match=r"It took too long\."):
        await waiting
    with pytest.raises(UpstreamTimeout):
        await reply.chunk()
    await within((await upstream.asked()).gone)


async def test_a_reply_expired_between_two_reads_says_so(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([*streamed([b"some"], last=False), SILENCE])
    reply = await client.send(outgoing())
    await reply.chunk()
    reply.expire("It took too long.")
    with pytest.raises(UpstreamTimeout):
        await read_up_to(100, reply)


@pytest.mark.parametrize("where", ["the head", "the body"])
async def test_a_cancelled_wait_closes_the_connection(client: Upstream, upstream: ScriptedUpstream, where: str) -> None:
    upstream.plays([SILENCE] if where == "the head" else [head(200, Content_Length=9) + b"half", SILENCE])

    waiting = asyncio.ensure_future(whole(client))
    seen = await upstream.asked()
    if where == "the body":
        await upstream.until(lambda it: it.sent > 0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await within(seen.gone)
    await upstream.until(lambda it: it.open == 0)


async def test_a_cancelled_upload_closes_the_connection(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.deaf = True
    waiting = asyncio.ensure_future(client.send(outgoing(b"x" * (32 << 20))))
    await upstream.until(lambda it: it.heads == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for transport in upstream.transports:
        transport.resume_reading()
    await upstream.until(lambda it: it.open == 0)
    assert upstream.seen == []  # the body was not finished behind our back


# -- connections -------------------------------------------------------------------------------------------------


async def test_a_reply_read_to_its_end_gives_its_connection_back(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(b"one"), streamed([b"two"]), plain(b"three"))
    assert [await whole(client) for _ in range(3)] == [b"one", b"two", b"three"]
    assert [seen.connection for seen in upstream.seen] == [1, 1, 1]


async def test_an_answer_that_closes_is_not_used_again(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(b"one", Connection="close"), plain(b"two"))
    assert [await whole(client), await whole(client)] == [b"one", b"two"]
    assert [seen.connection for seen in upstream.seen] == [1, 2]


@pytest.mark.parametrize("end", [CUT, RESET], ids=["closed", "reset"])
async def test_a_pooled_connection_found_closed_costs_nothing(
    client: Upstream, upstream: ScriptedUpstream, end: Act
) -> None:
    upstream.plays(plain(b"one"), [end], plain(b"two"))
    assert await whole(client) == b"one"
    assert await whole(client) == b"two"  # the second request met a connection that was just being closed


async def test_a_pooled_connection_that_closes_on_a_request_it_had_time_to_read_is_a_failure(
    client: Upstream, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider may have worked on it, and bill it."""
    monkeypatch.setattr("proxy.server.upstream.plain.STALE_WITHIN", 0.05)
    upstream.plays(plain(b"one"), [0.1, CUT], plain(b"two"))
    assert await whole(client) == b"one"
    with pytest.raises(UpstreamBroken):
        await whole(client)
    assert len(upstream.seen) == 2


async def test_a_fresh_connection_found_closed_is_a_failure(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([CUT], plain(b"two"))
    with pytest.raises(UpstreamBroken):
        await whole(client)
    assert len(upstream.seen) == 1


async def test_finish_reads_what_is_left_and_pools(client: Upstream, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays([*streamed([b"data: [DONE]\n\n"], last=False), go_on, LAST], plain(b"two"))
    reply = await client.send(outgoing())
    await reply.chunk()
    finishing = asyncio.ensure_future(reply.finish())
    go_on.set()
    await finishing
    assert await whole(client) == b"two"
    assert [seen.connection for seen in upstream.seen] == [1, 1]


async def test_finish_does_not_follow_an_answer_that_goes_on(client: Upstream, upstream: ScriptedUpstream) -> None:
    async def endless() -> None:
        seen = await upstream.asked()
        await within(seen.gone)

    upstream.plays([CHUNKED, *[piece(b"x" * 4000)] * 5000, SILENCE])
    reply = await client.send(outgoing())
    await reply.chunk()
    await reply.finish()
    await endless()
    assert upstream.sent < 5000 * 4000


@pytest.mark.parametrize("when", ["with the first", "while it is pooled"])
async def test_a_second_answer_nobody_asked_for_is_nobodys(
    client: Upstream, upstream: ScriptedUpstream, when: str
) -> None:
    go_on, sent = asyncio.Event(), asyncio.Event()
    first, surplus = plain(b"one"), b"".join(s for s in plain(b"unasked") if isinstance(s, bytes))
    if when == "with the first":
        upstream.plays([b"".join(s for s in first if isinstance(s, bytes)) + surplus], plain(b"two"))
    else:
        upstream.plays([*first, go_on, surplus, Reached(sent)], plain(b"two"))
    assert await whole(client) == b"one"
    go_on.set()
    if when == "while it is pooled":
        await within(sent)
        for _ in range(5):  # what the kernel holds reaches whoever reads it
            await asyncio.sleep(0)
    assert await whole(client) == b"two"


async def test_no_more_connections_than_allowed_are_open(
    opener: Callable[[Provider], Upstream], upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.plays([go_on, *plain(b"ok")])
    async with opened(opener, upstream.root, connections=2) as client:
        replies = [asyncio.ensure_future(client.send(outgoing())) for _ in range(5)]
        await upstream.asked(2)
        assert upstream.opened == 2
        go_on.set()
        for sending in asyncio.as_completed(replies):
            reply = await sending
            assert await read_up_to(100, reply) == (b"ok", True)
        assert upstream.opened == 2


@pytest.mark.parametrize("how", ["close", "cancel", "failure"])
async def test_a_place_is_free_again_however_its_reply_ended(
    opener: Callable[[Provider], Upstream], upstream: ScriptedUpstream, how: str
) -> None:
    upstream.plays([CUT] if how == "failure" else [head(200, Content_Length=5), SILENCE], plain(b"ok"))
    async with opened(opener, upstream.root, connections=1) as client:
        if how == "failure":
            with pytest.raises(UpstreamBroken):
                await client.send(outgoing())
        else:
            reply = await client.send(outgoing())
            if how == "close":
                reply.close()
            else:
                reading = asyncio.ensure_future(reply.chunk())
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        assert await whole(client) == b"ok"


async def test_a_full_pool_is_not_waited_for_without_an_end(
    opener: Callable[[Provider], Upstream], upstream: ScriptedUpstream
) -> None:
    upstream.plays([SILENCE])
    async with opened(opener, upstream.root, connections=1) as client:
        holding = asyncio.ensure_future(client.send(outgoing()))
        await upstream.asked()
        with pytest.raises(Overloaded) as raised:
            await client.send(outgoing(queue=0.01))
        assert raised.value.retry_after
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_closing_ends_every_connection(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(b"one"))
    await whole(client)
    assert upstream.open == 1
    await client.close()
    await upstream.until(lambda it: it.open == 0)


async def test_reading_nothing_holds_the_provider_back(client: Upstream, upstream: ScriptedUpstream) -> None:
    upstream.plays([CHUNKED, *[piece(b"x" * 65536)] * 1000, LAST])
    reply = await client.send(outgoing())
    await upstream.until(lambda it: it.blocked > 0)
    assert upstream.sent < 1000 * 65536
    size = 0
    while chunk := await reply.chunk():
        size += len(chunk)
    assert size == 1000 * 65536


# -- width -------------------------------------------------------------------------------------------------------


@contextmanager
def calling(root: str) -> Iterator[socket.socket]:
    """The one socket of this process that is connected there."""
    port = int(root.rpartition(":")[2])
    with ExitStack() as stack:
        found = []
        for number in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):
                one = stack.enter_context(socket.socket(fileno=os.dup(number)))
                if one.family == socket.AF_INET and one.getpeername()[1] == port:
                    found.append(one)
        (one,) = found
        yield one


async def test_a_narrow_answer_is_whole_and_leaves_its_connection_as_it_was(
    client: Upstream, upstream: ScriptedUpstream
) -> None:
    answer, go_on = b"x" * (4 << 20), asyncio.Event()
    long: Script = [head(200, Content_Length=len(answer)) + answer[:10], go_on, answer[10:]]
    upstream.plays(plain(b"short"), long, plain(b"short"))
    await whole(client)
    reply = await client.send(outgoing())
    got = len(await reply.chunk())
    reply.narrow()
    reply.narrow()
    with calling(upstream.root) as there:
        assert there.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * width.NARROW
        go_on.set()
        while data := await reply.chunk():
            got += len(data)
        await reply.finish()
        assert got == len(answer)
        assert there.getsockopt(socket.SOL_SOCKET, width.SO_BUF_LOCK) == width.EITHER
    assert await whole(client) == b"short"
    assert upstream.opened == 1


async def test_a_connection_that_has_to_stay_narrow_is_not_used_again(
    client: Upstream, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.14."""
    monkeypatch.setattr(width, "SO_BUF_LOCK", 1_000)
    go_on = asyncio.Event()
    upstream.plays(streamed([b"a", go_on, b"b"]), plain(b"short"))
    reply = await client.send(outgoing())
    await reply.chunk()
    reply.narrow()
    go_on.set()
    while await reply.chunk():
        pass
    await reply.finish()
    assert await whole(client) == b"short"
    assert upstream.opened == 2
