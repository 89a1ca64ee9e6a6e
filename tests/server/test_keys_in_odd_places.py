"""A provider repeats our key where nobody looks: in what is too long to be held or judged, and in what HTTP has beside
its bodies. Every answer is looked through for keys by itself; here are the halves of one, too."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
from faults.responses import SURFACES, asking, frames
from gateway import Answer, Running, Start, provider
from playbook import CHAT, Tongue
from shares import product_of
from upstream import CUT, LAST, STREAM_HEAD, Script, ScriptedUpstream, head, piece, plain, streamed

EXCHANGES = ("lean", "plain")
LOOPS = ("uvloop",)
KEY = "canary-house-key-0001"
HALF = b"canary-h"
BORDER = 64 << 10
every_surface = pytest.mark.parametrize("tongue", SURFACES, ids=lambda tongue: tongue.surface)


def serving(upstream: ScriptedUpstream, tongue: Tongue) -> str:
    return provider("first", upstream, tongue, keys=[KEY]) + "[retry]\ntries = 1\n"


async def asked(gw: Running, tongue: Tongue, *, stream: bool) -> Answer:
    answer = await gw.post(tongue.path, asking(tongue, "first", stream=stream))
    assert HALF not in answer.body
    assert HALF.decode() not in str(answer.headers)
    return answer


def in_two(raw: bytes, at: int) -> list[bytes]:
    return [piece(raw[:at]), piece(raw[at:])]


@every_surface
async def test_a_giant_error_tells_no_key(upstream: ScriptedUpstream, start: Start, tongue: Tongue) -> None:
    """Before content it is a failed attempt, behind it the end of the stream."""
    gw = await start(serving(upstream, tongue))
    said = frames(tongue, "Hi")
    begun = said[: said.index(tongue.text("Hi")) + 1]
    for place in (10, BORDER - 70, BORDER + 30_000):
        raw = tongue.error_frame("server_error", "y" * place + f" {KEY} " + "z" * 50_000)
        for at in (BORDER - 40, BORDER + 1, place + 60):
            upstream.plays([STREAM_HEAD, *map(piece, begun), *in_two(raw, at), LAST])
            answer = await asked(gw, tongue, stream=True)
            assert b"***" in answer.body
            assert (await gw.row(answer.request_id))["outcome"] == "upstream_failed"
            upstream.plays([STREAM_HEAD, piece(tongue.start), *in_two(raw, at), LAST])
            answer = await asked(gw, tongue, stream=True)
            assert (answer.status, b"***" in answer.body) == (500, True)


@pytest.mark.slow
@every_surface
async def test_a_line_of_ten_mebibytes_tells_no_key(upstream: ScriptedUpstream, start: Start, tongue: Tongue) -> None:
    gw = await start(serving(upstream, tongue))
    said = frames(tongue, "Hi", "y" * (5 << 20) + KEY + "z" * (5 << 20))
    upstream.plays(streamed(said))
    answer = await asked(gw, tongue, stream=True)
    assert answer.body == b"".join(said).replace(KEY.encode(), b"***")


def error_beyond_the_limit(tongue: Tongue) -> Script:
    return plain(tongue.error("server_error", "y" * (2 << 20) + KEY), 500)


def error_cut_within_the_key(tongue: Tongue) -> Script:
    raw = orjson.dumps(tongue.error("server_error", f"bad key {KEY}"))
    at = raw.index(KEY.encode()) + 12
    return [head(500, Content_Length=len(raw)) + raw[:at], CUT]


def error_at_the_limit_within_the_key(tongue: Tongue) -> Script:
    empty = orjson.dumps(tongue.error("server_error", ""))
    filler = "y" * ((1 << 20) - empty.index(b'""', 20) - 12)
    return plain(tongue.error("server_error", filler + KEY + "z" * 1000), 500)


def error_without_its_end(tongue: Tongue) -> Script:
    return [head(500, Transfer_Encoding="chunked"), piece(orjson.dumps(tongue.error("server_error", KEY))[:-9]), CUT]


def error_under_200_too_large_to_judge(tongue: Tongue) -> Script:
    return plain(tongue.error("server_error", "y" * (9 << 20) + KEY + "z" * 1000))


def error_under_200_with_its_letters_escaped(tongue: Tongue) -> Script:
    raw = orjson.dumps(tongue.error("server_error", "KEY" + "y" * (9 << 20) + "KEY"))
    return plain(raw.replace(b"KEY", KEY.replace("c", "\\u0063").replace("-", "\\u002D").encode()))


BODIES: dict[str, Callable[[Tongue], Script]] = {
    "an error of two mebibytes": error_beyond_the_limit,
    "an error cut within the key": error_cut_within_the_key,
    "an error whose limit cuts the key": error_at_the_limit_within_the_key,
    "an error without its end": error_without_its_end,
    "an error under 200 that is too large to judge": error_under_200_too_large_to_judge,
    "the same, with letters escaped": error_under_200_with_its_letters_escaped,
}


@pytest.mark.parametrize(
    ("tongue", "body"), product_of({tongue.surface: tongue for tongue in SURFACES}, BODIES, fast=1, of=2)
)
async def test_a_body_that_is_cut_or_too_large_tells_no_key(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, body: Callable[[Tongue], Script]
) -> None:
    gw = await start(serving(upstream, tongue))
    upstream.plays(body(tongue))
    answer = await asked(gw, tongue, stream=False)
    assert answer.status in (200, 500, 502)
    assert HALF.decode() not in str(await gw.row(answer.request_id))


def in_a_chunk_extension(tongue: Tongue, stream: bool) -> Script:
    raw = b"".join(frames(tongue, "Hi")) if stream else orjson.dumps(tongue.answer("Hi"))
    opening = STREAM_HEAD if stream else head(Transfer_Encoding="chunked")
    return [opening + b"%x;key=%b\r\n%b\r\n0;%b\r\n\r\n" % (len(raw), KEY.encode(), raw, KEY.encode())]


def in_extensions_of_a_run(tongue: Tongue, stream: bool) -> Script:
    if not stream:
        return in_a_chunk_extension(tongue, stream)
    texts = [b"%x;%b\r\n%b\r\n" % (len(frame), KEY.encode(), frame) for frame in map(tongue.text, "abcdefghij")]
    said = frames(tongue, "Hi")
    at = said.index(tongue.text("Hi"))
    return [STREAM_HEAD, *map(piece, said[:at]), *texts, b"".join(texts), *map(piece, said[at:]), LAST]


def in_a_trailer(tongue: Tongue, stream: bool) -> Script:
    raw = b"".join(frames(tongue, "Hi")) if stream else orjson.dumps(tongue.answer("Hi"))
    opening = STREAM_HEAD if stream else head(Transfer_Encoding="chunked")
    return [opening + piece(raw) + b"0\r\nX-Key: %b\r\n\r\n" % KEY.encode()]


def in_the_reason(tongue: Tongue, stream: bool) -> Script:
    script = streamed(frames(tongue, "Hi")) if stream else plain(tongue.answer("Hi"))
    first, *rest = script
    assert isinstance(first, bytes)
    return [first.replace(b"200 OK", b"200 " + KEY.encode()), *rest]


def in_the_reason_of_an_error(tongue: Tongue, stream: bool) -> Script:
    (error,) = plain(b"", 503)
    assert isinstance(error, bytes)
    return [error.replace(b" 503 ", b" 503 %b " % KEY.encode())]


def in_an_interim_head(tongue: Tongue, stream: bool) -> Script:
    script = streamed(frames(tongue, "Hi")) if stream else plain(tongue.answer("Hi"))
    return [
        b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\nX-Request-Id: %b\r\n\r\n" % (KEY.encode(), KEY.encode()),
        *script,
    ]


BESIDE: dict[str, Callable[[Tongue, bool], Script]] = {
    "a chunk's extension": in_a_chunk_extension,
    "extensions of a run": in_extensions_of_a_run,
    "a trailer": in_a_trailer,
    "the reason": in_the_reason,
    "the reason of an error": in_the_reason_of_an_error,
    "an interim head": in_an_interim_head,
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@every_surface
async def test_what_stands_beside_bodies_never_crosses(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, stream: bool, beside: Callable[[Tongue, bool], Script]
) -> None:
    """Nor when the next requests go the short way."""
    gw = await start(serving(upstream, tongue))
    client = await gw.connect()
    for _ in range(3):
        upstream.plays(beside(tongue, stream))
        answer = await asked(gw, tongue, stream=stream)
        assert answer.status in (200, 503)
        assert HALF.decode() not in str(await gw.row(answer.request_id))
    await client.request(tongue, asking(tongue, "first", stream=stream), "Connection: close")
    assert HALF not in await client.rest()  # a library may not show all that came


async def test_an_answer_too_large_to_judge_that_is_no_text_is_broken_off(
    upstream: ScriptedUpstream, start: Start
) -> None:
    """Where that shows before anything has left it is a failed attempt."""
    gw = await start(serving(upstream, CHAT))
    raw = orjson.dumps(CHAT.answer("y" * (9 << 20)))
    for at, status in ((1000, 502), (len(raw) - 200, 200), (len(raw), 200)):
        upstream.plays(plain(raw[:at] + b"\xc3" + raw[at + 1 :]))
        client = await gw.connect(limit=1 << 25)
        await client.request(CHAT, CHAT.request(), "Connection: close")
        got = await client.rest()
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert not got.endswith(LAST)
        assert (await gw.row())["outcome"] == "bad_upstream_response"


async def test_masking_in_a_large_answer_is_counted(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(serving(upstream, CHAT))
    raw = orjson.dumps(CHAT.answer("y" * (9 << 20) + KEY))
    upstream.plays(plain(raw))
    answer = await asked(gw, CHAT, stream=False)
    assert answer.body == raw.replace(KEY.encode(), b"***")
    page = (await gw.get(f"{gw.admin}/metrics")).body
    assert b'pointsman_stream_edits_total{kind="key_masked"} 1' in page
