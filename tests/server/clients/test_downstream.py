"""How answers leave: over both ways, and what the lean one relies on in aiohttp."""

from __future__ import annotations

import inspect
import re

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler
from gateway import Start, provider
from playbook import CHAT
from upstream import ScriptedUpstream, plain, streamed

from proxy.server.clients.downstream import AT_ONCE, CLOSES, STAYS

EXCHANGES = ("lean", "plain")
STREAM = CHAT.stream("Hi ", "there")


def asked(version: str, *lines: str, stream: bool = False) -> bytes:
    body = b'{"model":"first","messages":[{"role":"user","content":"Hi"}]%b}' % (b',"stream":true' if stream else b"")
    head = [f"POST /v1/chat/completions HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join((*head, "", "")).encode() + body


WAYS = {
    "of today": ("1.1", (), b"HTTP/1.1 200 OK\r\n", False),
    "that is the last on its connection": ("1.1", ("Connection: close",), b"HTTP/1.1 200 OK\r\n", True),
    "of old": ("1.0", (), b"HTTP/1.0 200 OK\r\n", True),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(("version", "lines", "start_line", "closes"), WAYS.values(), ids=WAYS)
async def test_a_request_is_answered_in_its_own_http(
    upstream: ScriptedUpstream,
    start: Start,
    version: str,
    lines: tuple[str, ...],
    start_line: bytes,
    closes: bool,
    stream: bool,
) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(streamed(STREAM) if stream else plain(CHAT.answer("Hi there")))
    client = await gw.connect()
    for _ in range(1 if closes else 3):
        client.writer.write(asked(version, *lines, stream=stream))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(start_line)
        assert head.lower().count(b"\r\ndate:") == 1
        assert (b"\r\nconnection: close\r\n" in head.lower()) == (closes and version == "1.1")
        if closes:
            body = await client.reader.read()
        elif stream:
            body = await client.reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await client.reader.readexactly(length)
        assert b"there" in body
        assert (b"[DONE]" in body) == stream
        assert (b"\r\ntransfer-encoding: chunked\r\n" in head.lower()) == (stream and version == "1.1")


async def test_head_and_body_of_a_plain_answer_arrive_together(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("Hi there")))
    client = await gw.connect()
    client.writer.write(asked("1.1"))
    came = await client.reader.read(1 << 16)
    assert came.count(b"\r\n\r\n") == 1
    assert came.endswith(b"}")


async def test_a_stream_that_came_at_once_leaves_at_once(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(streamed([b"".join(STREAM)]))
    client = await gw.connect()
    client.writer.write(asked("1.1", stream=True))
    came = await client.reader.read(1 << 16)
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert came.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_large_event_leaves_in_pieces_and_whole(
    upstream: ScriptedUpstream, start: Start, exchange: str
) -> None:
    gw = await start(provider("first", upstream))
    text = "x" * (3 * AT_ONCE)
    upstream.plays(streamed(CHAT.stream("Hi", text)))
    client = await gw.connect()
    client.writer.write(asked("1.1", stream=True))
    await client.reader.readuntil(b"\r\n\r\n")
    body, largest = b"", 0
    while size := int(await client.reader.readline(), 16):
        body += await client.reader.readexactly(size)
        largest = max(largest, size)
        await client.reader.readline()
    assert CHAT.read_stream(body) == "Hi" + text
    assert largest <= AT_ONCE or exchange == "plain"


def test_the_shapes_of_aiohttp_are_those_that_the_lean_answer_was_written_for() -> None:
    assert isinstance(vars(BaseProtocol)["writing_paused"], property)
    assert inspect.iscoroutinefunction(BaseProtocol._drain_helper)
    code = inspect.getsource(RequestHandler.finish_response) + inspect.getsource(RequestHandler.start)
    used = {name for name in re.findall(r"\bresp\.(\w+)", code) if hasattr(web.StreamResponse, name)}
    assert used == {"prepare", "write_eof", "keep_alive"}  # all that aiohttp asks of an answer


async def test_an_answer_that_has_left_says_so() -> None:
    assert [(left.keep_alive, left.prepared) for left in (STAYS, CLOSES)] == [(True, True), (False, True)]
    await STAYS.write_eof()
