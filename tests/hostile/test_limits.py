"""Too much, too slowly, or without an end, from either side: a clean refusal, bounded memory, and others are served."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
import pytest_asyncio
from attrs import define, evolve, field
from gateway import Process, Running, process, provider
from playbook import CHAT, MESSAGES, Tongue
from upstream import CUT, LAST, STREAM_HEAD, Script, ScriptedUpstream, head, piece, plain

from .corpus import dripped, spoken, statuses

LOOPS = ("uvloop",)
pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1 << 20
ROOM_MIB = 48  # what a fault may cost in memory; the interpreter's own spread is within
OLLAMA = evolve(CHAT, name="ollama", suffix="")


@define
class Bed:
    """The real process in front of one provider that speaks what the test wants."""

    gw: Running
    child: Process
    upstream: ScriptedUpstream
    _before: int = field(default=0)

    def mark(self) -> None:
        """From here on memory is counted."""
        Path(f"/proc/{self.child.child.pid}/clear_refs").write_text("5")  # the peak is now what there is
        self._before = self._memory("VmRSS")

    def grown_mib(self) -> float:
        """The highest since the mark."""
        return (self._memory("VmHWM") - self._before) / 1024

    def _memory(self, line: str) -> int:
        status = Path(f"/proc/{self.child.child.pid}/status").read_text()
        return next(int(entry.split()[1]) for entry in status.splitlines() if entry.startswith(line))


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """256 KiB that are 256 MiB."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(256)), packer.flush()])


IMPATIENT = """
auth = "none"
keep_alive = "30s"
header_timeout = "1s"
body_timeout = "1s"
"""
TABLE = """
[timeouts]
answer = "3s"
first_event = "3s"
first_content = "3s"
[retry]
tries = 1
[health]
failures = 1_000_000
"""
ANY = 'models = ["x*"]'


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["lean", pytest.param("plain", marks=pytest.mark.slow)]
)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """Once for each exchange with providers."""
    with TemporaryDirectory(prefix="pm-") as home:
        async with ScriptedUpstream() as upstream:
            blocks = [provider(tongue.name, upstream, tongue, more=ANY) for tongue in (CHAT, MESSAGES, OLLAMA)]
            async with process(
                TABLE + "".join(blocks), Path(home), server=f'{IMPATIENT}exchange = "{request.param}"\n'
            ) as (gw, child):
                yield Bed(gw, child, upstream)


@pytest_asyncio.fixture(loop_scope="module")
async def bed(served: Bed) -> AsyncIterator[Bed]:
    served.mark()
    served.upstream.seen.clear()
    served.upstream.plays(plain(CHAT.answer("ok")))
    yield served
    assert (await served.gw.get(served.gw.base + "/healthz")).status == 200, "it lives"


# -- bombs -------------------------------------------------------------------------------------------------------


async def test_a_compressed_body_is_never_opened(bed: Bed, bomb: bytes) -> None:
    for coding in ("gzip", "deflate", "br", "gzip, gzip"):
        answer = await bed.gw.post(CHAT.path, bomb, {"Content-Encoding": coding})
        assert answer.status == 415
    assert bed.grown_mib() < ROOM_MIB


async def test_nor_is_a_compressed_answer(bed: Bed, bomb: bytes) -> None:
    for coding in ("gzip", "deflate", "br", "nonsense"):
        bed.upstream.plays(plain(bomb, Content_Encoding=coding))
        assert (await bed.gw.ask(CHAT, CHAT.name)).json["error"]["code"] == "bad_upstream_response"
    assert bed.grown_mib() < ROOM_MIB


# -- without an end ----------------------------------------------------------------------------------------------


def forever(data: bytes, times: int = 400) -> list[bytes]:
    return [data] * times


STREAMS = {"a plain answer": False, "a stream": True}
# what the provider says -> its steps, whether a stream is asked for, of which dialect
ENDLESS: dict[str, tuple[Script, bool, Tongue]] = {
    "a header": ([b"HTTP/1.1 200 OK\r\nX-A: ", *forever(b"a" * 65_536)], False, CHAT),
    "headers": ([b"HTTP/1.1 200 OK\r\n", *forever(b"X-A: a\r\n" * 8_192)], False, CHAT),
    "interim answers": (forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, 100), False, CHAT),
    "a line that is not ended": ([STREAM_HEAD, piece(b"data: "), *forever(piece(b"a" * 131_072))], True, CHAT),
    "a line in another dialect": ([STREAM_HEAD, piece(b"data: "), *forever(piece(b"a" * 131_072))], True, MESSAGES),
    "a record without its line end": (
        [head(200, "application/x-ndjson", Transfer_Encoding="chunked"), *forever(piece(b'{"a":"' + b"a" * 131_072))],
        True,
        OLLAMA,
    ),
    "comments": ([STREAM_HEAD, *forever(piece((b": still here" + b"." * 52 + b"\n\n") * 1_000))], True, CHAT),
    "lifecycle events": ([STREAM_HEAD, *forever(piece(CHAT.start * 500))], True, CHAT),
}


@pytest.mark.parametrize(("script", "stream", "tongue"), ENDLESS.values(), ids=ENDLESS)
async def test_what_a_provider_never_ends_ends_in_an_error_and_costs_little(
    bed: Bed, script: Script, stream: bool, tongue: Tongue
) -> None:
    bed.upstream.plays([*script, CUT])
    told = await spoken(bed.gw.port, _request(tongue.name, stream=stream))
    (status,) = statuses(told)
    assert status in (502, 504) or b'"error"' in told or not told.endswith(LAST), told[-300:]
    assert bed.grown_mib() < ROOM_MIB + 64  # one event of up to 32 MiB may be in hand, and its copy


def _request(model: str, *, stream: bool) -> bytes:
    body = orjson.dumps(CHAT.request(model, stream=stream))
    head_ = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head_.encode() + body


async def test_a_huge_plain_answer_flows_through(bed: Bed) -> None:
    size = 64 * MIB
    opening = orjson.dumps(CHAT.answer("x"))[:-2] + b',"padding":"'
    bed.upstream.plays([head(200, Content_Length=len(opening) + size + 2) + opening, *forever(b"a" * MIB, 64), b'"}'])
    answer = await bed.gw.ask(CHAT, CHAT.name)
    assert (answer.status, len(answer.body)) == (200, len(opening) + size + 2)
    assert bed.grown_mib() < ROOM_MIB


# -- too slowly --------------------------------------------------------------------------------------------------

SLOWLY: dict[str, tuple[bytes, list[int]]] = {
    "a head": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ", []),
    "a body": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{", [408]),
    "chunks": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0000",
        [408],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("begun", "told"), SLOWLY.values(), ids=SLOWLY)
async def test_who_sends_a_byte_now_and_then_is_cut_off_and_others_are_served(
    bed: Bed, begun: bytes, told: list[int]
) -> None:
    slow = [asyncio.ensure_future(dripped(bed.gw.port, begun)) for _ in range(200)]
    assert (await bed.gw.ask(CHAT, CHAT.name)).status == 200
    ends = await asyncio.gather(*slow)
    assert [statuses(end) for end in ends] == [told] * len(ends)
    assert len(bed.upstream.seen) == 1


@pytest.mark.parametrize("count", [500, pytest.param(8_000, marks=pytest.mark.slow)])
async def test_idle_connections_cost_little_and_others_are_served(bed: Bed, count: int) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", bed.gw.port) for _ in range(count)]
    try:
        assert [(await bed.gw.ask(CHAT, CHAT.name)).status for _ in range(50)] == [200] * 50
        assert bed.grown_mib() < ROOM_MIB + 200 * count / 10_000
    finally:
        for _, writer in idle:
            writer.transport.abort()


# -- many on one connection --------------------------------------------------------------------------------------


async def test_a_thousand_requests_in_one_packet_are_answered_in_order(bed: Bed) -> None:
    ask = b"GET /v1/models/none-%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    told = await spoken(bed.gw.port, b"".join(ask % number for number in range(1_000)) + last)
    found = statuses(told)
    assert set(found[:-1]) == {404}
    assert len(found) == 1_001
    places = [told.index(b"'none-%d'" % number) for number in range(1_000)]
    assert places == sorted(places)


@pytest.mark.slow
async def test_ten_thousand_requests_on_one_connection_cost_nothing(bed: Bed) -> None:
    for _ in range(10_000):
        assert (await bed.gw.ask(CHAT, CHAT.name)).status == 200
    assert bed.grown_mib() < ROOM_MIB


# -- what steers nothing -----------------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, bool]] = {
    "in capitals": ("APPLICATION/JSON", True),
    "with parameters of no sense": ("application/json;;;=;charset", True),
    "of another charset": ("application/json; charset=utf-16", True),  # JSON is UTF-8, whatever is said
    "of ten thousand letters": ("application/" + "x" * 7_000, False),
    "of two types": ("application/json, text/html", False),
    "of no type": ("/", False),
    "of letters beyond ASCII": ("application/j\xf6son", False),
}


@pytest.mark.parametrize(("kind", "taken"), KINDS.values(), ids=KINDS)
async def test_a_content_type(bed: Bed, kind: str, taken: bool) -> None:
    body = orjson.dumps(CHAT.request(CHAT.name))
    lines = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    told = await spoken(bed.gw.port, lines.encode("latin-1") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert statuses(told) == ([200] if taken else [415])


INJECTED = "x\r\nX-Injected: 1\r\n\r\n<script>\x00\x1b[31m\u2028\U0001f600" + "y" * 100
PLACES: dict[str, dict[str, Any]] = {
    "model": {"model": INJECTED},
    "models": {"model": "x", "models": [INJECTED]},
    "metadata": {"model": "x", "metadata": {"industry": INJECTED}},
    "header": {"model": "x"},
}


@pytest.mark.parametrize("place", PLACES)
async def test_no_name_of_a_clients_making_becomes_a_header(bed: Bed, place: str) -> None:
    """A pattern takes any name as it is, and sends it on in the body alone."""
    headers = {"X-Nyuro-Models": "x\x9b31m\xff"} if place == "header" else {}
    answer = await bed.gw.post(CHAT.path, {**CHAT.request(), **PLACES[place]}, headers)
    assert answer.status == 200
    assert "X-Injected" not in answer.headers
    for name, value in answer.headers.items():
        assert value.isprintable(), name
    (seen,) = bed.upstream.seen
    assert "x-injected" not in seen.headers
    assert seen.raw.count(b"\r\n\r\n") == 1


HOP_BY_HOP = (
    "Connection: keep-alive, Anthropic-Beta, X-Named", "Keep-Alive: timeout=9", "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic theirs", "TE: trailers", "Trailer: X-T", "Upgrade: h2c", "HTTP2-Settings: AAMA",
    "X-Named: theirs", "Anthropic-Beta: named-by-connection", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4",
    "Via: 1.1 x", "X-Real-IP: 1.2.3.4", "Cookie: theirs=1", "Authorization: Bearer theirs", "X-Api-Key: theirs",
    "Api-Key: theirs", "X-Goog-Api-Key: theirs", "OpenAI-Organization: theirs", "X-Nyuro-Model: theirs",
    "Expect: 100-continue", "Referer: http://theirs/", "Origin: http://theirs", "Traceparent: 00-theirs",
)  # fmt: skip


@pytest.mark.parametrize("tongue", [CHAT, MESSAGES], ids=["chat", "messages"])
async def test_nothing_of_a_hop_and_no_credential_crosses(bed: Bed, tongue: Tongue) -> None:
    named: dict[str, Any] = {
        "Connection": "X-RateLimit-Limit-Requests, close",
        "X_RateLimit_Limit_Requests": "9",
        "Keep_Alive": "t=1",
    }
    secret: dict[str, Any] = {
        "Set_Cookie": "theirs=1",
        "X_Nyuro_Model": "theirs",
        "Www_Authenticate": "theirs",
        "Server": "theirs",
    }
    bed.upstream.plays(plain(tongue.answer("ok"), **named, **secret))
    client = await bed.gw.connect()
    await client.request(tongue, tongue.request(tongue.name), *HOP_BY_HOP)
    if (told := await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100"):
        told = await client.until(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 200")
    assert b"theirs" not in told
    assert b"x-ratelimit" not in told.lower()
    sent = bed.upstream.seen[-1].headers
    assert "theirs" not in str(sent)
    assert "1.2.3.4" not in str(sent)
    crossed = sent.keys() & {line.partition(":")[0].lower() for line in HOP_BY_HOP}
    assert crossed <= {"authorization", "x-api-key"}  # the house's own
    assert sent["host"] == f"127.0.0.1:{bed.upstream.port}"
