"""Answers whose heads differ each time, as providers' do: on the short way the client and the record get of them what
they get on the way of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from gateway import Start, provider
from playbook import CHAT, Tongue
from riding import asking, frames, over_hops, played, same_either_way
from upstream import Script, ScriptedUpstream, piece

from proxy.server.express.hearing import MOST
from proxy.wire.head_shape import ENOUGH

LOOPS = ("uvloop",)
LIKE_OTHERS = ENOUGH + 3  # answers until what passes of their heads is poured

HEAD = """HTTP/1.1 200 OK
Date: Thu, 14 Aug 2025 01:16:{n:02} GMT
{framing}
Connection: keep-alive
openai-processing-ms: {n}
openai-organization: the-house
x-ratelimit-limit-tokens: 200000
x-ratelimit-remaining-tokens: {left}
anthropic-ratelimit-tokens-remaining: {left}
x-request-id: req_fa83d58286{n:08}
retry-after: {n}
set-cookie: __cf_bm={n}; path=/
CF-RAY: 96ec9ab00c{n:06}-KUL
server: cloudflare"""


def head_of(framing: str, n: int) -> bytes:
    return HEAD.format(framing=framing, n=n, left=199_999 - n).replace("\n", "\r\n").encode() + b"\r\n\r\n"


def whole(tongue: Tongue, n: int) -> Script:
    body = orjson.dumps(tongue.answer("Hello." + "." * n))
    return [head_of(f"Content-Type: application/json\nContent-Length: {len(body)}", n) + body]


def streamed(tongue: Tongue, n: int) -> Script:
    lead = head_of("Content-Type: text/event-stream\nTransfer-Encoding: chunked", n)
    return [lead + b"".join(map(piece, frames(tongue))) + b"0\r\n\r\n"]


def slow(tongue: Tongue, n: int) -> Script:
    lead = head_of("Content-Type: text/event-stream\nTransfer-Encoding: chunked", n)
    return [lead, *(step for frame in frames(tongue) for step in (0.01, piece(frame))), b"0\r\n\r\n"]


ANSWERS: dict[str, Callable[[Tongue, int], Script]] = {
    "plain": whole, "a stream at once": streamed, "a slow stream": slow,
}  # fmt: skip
CHANGES: dict[str, tuple[bytes, bytes]] = {
    "as the others": (b"", b""),
    "a key of ours as its id": (b"req_fa83", b"req_canary-house-key-0001"),
    "a key of ours among what passes": (b"openai-processing-ms: ", b"openai-processing-ms: canary-house-key-0001"),
    "a key of ours in what does not": (b"__cf_bm=", b"canary-house-key-0001"),
    "a long id": (b"req_fa83", b"req_" + b"x" * 300),
    "an id that is none": (b"req_fa83", b"req\x0bfa83"),
    "an id in other letters": (b"req_fa83", "req_\u00e4".encode()),
    "another line": (b"server: ", b"openai-version: 2020-10-01\r\nserver: "),
    "a limit that changes": (b"200000", b"300000"),
    "values between blanks": (b"openai-processing-ms: ", b"openai-processing-ms: \t "),
    "a mark in it": (b"req_fa83", b"(value 1)"),
    "another type": (b"Content-Type: ", b"Content-Type: x-"),
    "an encoding": (b"server: ", b"content-encoding: gzip\r\nserver: "),
    "a connection that names a header": (b"keep-alive", b"x-request-id"),
    "a second length": (b"server: ", b"content-length: 3\r\nserver: "),
}


@pytest.mark.parametrize(("change", "make", "hop"), over_hops(CHANGES, ANSWERS, of=4))
async def test_the_short_way_shows_what_the_way_of_all_would(
    change: tuple[bytes, bytes], make: Callable[[Tongue, int], Script], hop: tuple[Tongue, Tongue], home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spoken, theirs = hop
    scripts = [make(theirs, n) for n in range(10, 11 + LIKE_OTHERS)]
    first, *rest = scripts[-1]
    assert isinstance(first, bytes)
    scripts[-1] = [first.replace(*change, 1), *rest]
    asked = spoken.request("chain") | ({} if make is whole else {"stream": True})

    exchange = asking(spoken, asked)
    await same_either_way(monkeypatch, home, lambda home: played(home, "", theirs, scripts, scripts[0], exchange))


async def test_what_passes_of_the_heads_of_a_few_shapes_is_kept(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    client = await gw.connect()
    for n in range(10, 10 + 4 * (MOST + 2)):
        (first,) = whole(CHAT, n)
        assert isinstance(first, bytes)
        upstream.plays([first.replace(b"server: ", b"x-a: 1\r\n" * (n % (MOST + 2)) + b"server: ")])
        await client.request(CHAT, CHAT.request("first"))
        _, headers, _ = await client.answer()
        assert headers["x-upstream-request-id"] == f"req_fa83d58286{n:08}"
        assert headers["openai-processing-ms"] == str(n)
    assert gw.app is not None
    (track,) = gw.app.gateway.current.tracks.values()
    assert 0 < len(track.passing) <= MOST
