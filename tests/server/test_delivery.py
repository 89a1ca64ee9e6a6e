"""The commit rule and what follows: before content a failure falls back in silence, after it the client is told
in-band, in its own dialect, with its own end; and bytes that pass are the provider's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from gateway import RawClient, Running, Start, chain, provider
from playbook import CHAT, MESSAGES, TONGUES, Tongue, chunk
from upstream import (
    CUT,
    LAST,
    RESET,
    SILENCE,
    STREAM_HEAD,
    Reached,
    Script,
    ScriptedUpstream,
    Step,
    head,
    piece,
    plain,
    streamed,
    within,
)

EXCHANGES = ("lean", "plain")
LOOPS = ("uvloop",)
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
PAIRS = {f"{ours} by {theirs}": (TONGUES[ours], TONGUES[theirs]) for ours in TONGUES for theirs in TONGUES}
all_pairs = pytest.mark.parametrize(("tongue", "theirs"), PAIRS.values(), ids=PAIRS)

USAGE_ONLY = {
    "chat": chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}),
    "messages": b"",
}


async def two(start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream, theirs: Tongue) -> Running:
    second.plays(streamed(theirs.stream("from the second")))
    return await start(
        provider("first", upstream, theirs) + provider("second", second, theirs) + chain("first", "second")
    )


async def begun(gw: Running, tongue: Tongue, model: str = "first") -> RawClient:
    """A client whose stream request is on its way."""
    client = await gw.connect()
    await client.request(tongue, tongue.request(model, stream=True), "Connection: close")
    return client


def body_of(raw: bytes) -> bytes:
    """A chunked body that has come whole; AssertionError where it has not."""
    out, rest = b"", raw
    while True:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            assert rest == b"\r\n"
            return out
        out, rest = out + rest[:count], rest[count + 2 :]


# -- what is held ------------------------------------------------------------------------------------------------

HELD: dict[str, Callable[[Tongue], list[bytes]]] = {
    "nothing": lambda t: [],
    "the start": lambda t: [t.start],
    "the start, keep-alives": lambda t: [t.keep_alive, t.start, t.keep_alive, t.keep_alive],
    "an empty text": lambda t: [t.start, *([t.opening] if t.opening else []), t.text("")],
    "usage alone": lambda t: [t.start, *([USAGE_ONLY[t.surface]] if USAGE_ONLY[t.surface] else [])],
    "sixty keep-alives": lambda t: [t.start, *[t.keep_alive] * 60],
}
ENDS: dict[str, Callable[[Tongue], list[Step]]] = {
    "an error": lambda t: [t.error_frame("overloaded_error", "Busy."), SILENCE],
    "a cut": lambda t: [CUT],
    "a reset": lambda t: [RESET],
    "garbage": lambda t: [b"data: {{{\n\n", SILENCE],
    "an end without a reason": lambda t: [t.end],
}


UNSEEN = {f"{held}, then an error": (HELD[held], ENDS["an error"]) for held in HELD} | {
    f"the start, then {end}": (HELD["the start"], ENDS[end]) for end in ENDS
}


@all_pairs
@pytest.mark.parametrize(("held", "end"), UNSEEN.values(), ids=UNSEEN)
async def test_before_content_a_failure_falls_back_unseen(
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
    start: Start,
    tongue: Tongue,
    theirs: Tongue,
    held: Callable[[Tongue], list[bytes]],
    end: Callable[[Tongue], list[Step]],
) -> None:
    gw = await two(start, upstream, second, theirs)
    upstream.plays(streamed([*held(theirs), *end(theirs)]))
    answer = await gw.ask(tongue, "profile:chain", stream=True)
    assert answer.status == 200
    assert tongue.read_stream(answer.body) == "from the second"
    assert b"Busy" not in answer.body
    assert answer.body.count(b"message_start" if tongue is MESSAGES else b'"role"') == (2 if tongue is MESSAGES else 1)
    assert answer.headers["X-Nyuro-Model"] == "second"


@all_pairs
async def test_headers_wait_for_content_and_content_for_nothing(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue
) -> None:
    go_on, more = asyncio.Event(), asyncio.Event()
    held, sent = asyncio.Event(), asyncio.Event()
    opening = [theirs.opening] if theirs.opening else []
    upstream.plays(
        streamed(
            [theirs.start, theirs.keep_alive, *opening, Reached(held), go_on, theirs.text("one"), Reached(sent), more,
             theirs.text("two"), *([theirs.closing] if theirs.closing else []), theirs.finish, theirs.end]
        )
    )  # fmt: skip
    gw = await start(provider("first", upstream, theirs))
    client = await begun(gw, tongue)
    await within(held)
    reading = asyncio.ensure_future(client.until(b"\r\n\r\n"))
    await asyncio.sleep(0)
    assert not reading.done()
    go_on.set()
    assert (await reading).startswith(b"HTTP/1.1 200 ")
    first = await client.until(b"one")
    assert b"two" not in first
    more.set()
    assert b"two" in await client.rest()


@both_surfaces
async def test_bytes_of_the_same_dialect_pass_as_they_are(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    odd = [b": a comment\r\n\r\n", b'id: 7\nretry: 10\nevent: novel\ndata: {"type": "novel","x":1e2}\n\n']
    frames = [odd[0], *tongue.stream("Hel", "lo \u00e9\U0001f600")]
    frames.insert(-2, odd[1])
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(streamed(frames))
    answer = await gw.ask(tongue, stream=True)
    assert answer.body == b"".join(frames)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert "Content-Length" not in answer.headers


@all_pairs
@pytest.mark.parametrize("step", [1, 5, 64])
async def test_a_stream_does_not_depend_on_its_packets(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue, step: int
) -> None:
    whole = b"".join(theirs.stream("Gr\u00fc\u00dfe ", "\U0001f600", " \u4f60\u597d"))
    gw = await start(provider("first", upstream, theirs))
    upstream.plays(streamed([whole[at : at + step] for at in range(0, len(whole), step)]))
    answer = await gw.ask(tongue, stream=True)
    assert tongue.read_stream(answer.body) == "Gr\u00fc\u00dfe \U0001f600 \u4f60\u597d"
    assert answer.body.endswith(tongue.end)


# -- the bound on what is held -----------------------------------------------------------------------------------

MANY: dict[str, tuple[int, bytes]] = {
    "65 lifecycle events": (65, b""),
    "256 KiB of them": (5, b": " + b"x" * 60_000 + b"\n\n"),
}


@pytest.mark.parametrize(("count", "frame"), MANY.values(), ids=MANY)
@both_surfaces
async def test_the_held_buffer_is_bounded(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, count: int, frame: bytes
) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(streamed([*[frame or tongue.keep_alive] * count, SILENCE]))
    client = await begun(gw, tongue)
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    client.leave()


# -- after the commit --------------------------------------------------------------------------------------------

AFTER: dict[str, Callable[[Tongue], Script]] = {
    "an error event": lambda t: [piece(t.error_frame("overloaded_error", "Busy.")), SILENCE],
    "a cut": lambda t: [CUT],
    "a reset": lambda t: [RESET],
    "an end without a finish": lambda t: [LAST],
    "a cut in a frame": lambda t: [piece(t.text("unfinished")[:-9]), CUT],
    "an end in a frame": lambda t: [piece(t.text("unfinished")[:-9]), LAST],
    "an end in a character": lambda t: [piece(t.text("unfinished \U0001f600").partition(b"\x9f")[0]), LAST],
    "a malformed chunk": lambda t: [b"zz\r\n", SILENCE],
}


def last_error(tongue: Tongue, stream: bytes) -> dict[str, Any]:
    """The error event that ends a stream, which says nothing else after it."""
    frames = [frame for frame in stream.split(b"\n\n") if frame.strip()]
    if tongue is MESSAGES:
        assert frames[-1].startswith(b"event: error\n")
    error = orjson.loads(frames[-1].partition(b"data: ")[2])["error"]
    assert error["message"]
    assert error["type"]
    assert tongue.end not in stream
    return dict(error)


@all_pairs
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
async def test_after_content_a_failure_is_told_in_band(
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
    start: Start,
    tongue: Tongue,
    theirs: Tongue,
    after: Callable[[Tongue], Script],
) -> None:
    gw = await two(start, upstream, second, theirs)
    go_on = asyncio.Event()
    begin = [theirs.start, *([theirs.opening] if theirs.opening else []), theirs.text("some")]
    script = after(theirs)
    upstream.plays([*streamed(begin, last=False), go_on, *script])
    client = await begun(gw, tongue, "profile:chain")
    head_ = await client.until(b"\r\n\r\n")
    assert head_.startswith(b"HTTP/1.1 200 ")
    text = await client.until(b"some")
    go_on.set()
    stream = body_of(text + await client.rest())
    assert tongue.read_stream(stream) == "some"
    last_error(tongue, stream)
    assert second.seen == []
    record = await gw.row()
    assert record["status"] == 200
    assert record["outcome"] in ("bad_upstream_response", "upstream_overloaded")
    assert [attempt["outcome"] for attempt in record["attempts"]] == [record["outcome"]]
    if script[-1] is not LAST:
        await upstream.until(lambda it: it.open == 0)


@both_surfaces
async def test_an_error_in_the_providers_last_frame_reaches_the_client_whole(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    error = tongue.error_frame("overloaded_error", "Busy.").removesuffix(b"\n\n")
    upstream.plays(streamed([*tongue.stream("some")[:-2], error]))
    answer = await gw.ask(tongue, stream=True)
    assert answer.body.endswith(error + b"\n\n")  # a client dispatches no event without its blank line


@pytest.mark.parametrize("end", [CUT, RESET], ids=["cut", "reset"])
async def test_half_a_giant_frame_ends_in_a_broken_transfer(
    upstream: ScriptedUpstream, start: Start, end: Step
) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(streamed([*CHAT.stream("some")[:2], CHAT.text("y" * 300_000)[:-20], end]))
    client = await begun(gw, CHAT)
    head_, body = await client.until(b"\r\n\r\n"), b""
    with pytest.raises((ConnectionError, AssertionError, ValueError)):  # noqa: PT012  whichever comes first
        body = await client.rest()
        body_of(body)
    assert head_.startswith(b"HTTP/1.1 200 ")


async def test_a_giant_frame_passes_whole(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    frames = CHAT.stream("y" * (10 << 20))
    upstream.plays(streamed(frames))
    answer = await gw.ask(CHAT, stream=True)
    assert answer.body == b"".join(frames)
    assert (await gw.row(answer.request_id))["outcome"] == "ok"


# -- how a good one ends -----------------------------------------------------------------------------------------


@all_pairs
async def test_a_missing_terminator_is_added_behind_a_finish(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue
) -> None:
    gw = await start(provider("first", upstream, theirs))
    upstream.plays(streamed(theirs.stream("whole")[:-1]))
    answer = await gw.ask(tongue, stream=True)
    assert tongue.read_stream(answer.body) == "whole"
    assert answer.body.endswith(tongue.end)
    assert answer.body.count(tongue.end) == 1
    assert (await gw.row(answer.request_id))["outcome"] == "ok"


@all_pairs
async def test_what_comes_behind_the_terminator_is_dropped(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue
) -> None:
    gw = await start(provider("first", upstream, theirs))
    surplus = [theirs.text("more"), theirs.error_frame("server_error", "Late.")]
    upstream.plays(
        streamed([*theirs.stream("whole"), *surplus]), streamed([b"".join([*theirs.stream("whole"), *surplus])])
    )
    for _ in range(2):
        answer = await gw.ask(tongue, stream=True)
        assert tongue.read_stream(answer.body) == "whole"
        assert answer.body.endswith(tongue.end)
        assert (await gw.row(answer.request_id))["outcome"] == "ok"


@all_pairs
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_no_output_with_a_reason_is_a_success(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue, stream: bool
) -> None:
    gw = await start(provider("first", upstream, theirs))
    document = theirs.answer("")
    if theirs is MESSAGES:
        document["content"] = []
    upstream.plays(streamed([theirs.start, theirs.finish, theirs.end]) if stream else plain(document))
    answer = await gw.ask(tongue, stream=stream)
    assert answer.status == 200
    assert (await gw.row(answer.request_id))["outcome"] == "ok"


async def test_a_client_that_leaves_once_it_has_all_is_no_client_gone(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    go_on = asyncio.Event()
    upstream.plays([*streamed(CHAT.stream("all"), last=False), go_on, LAST])
    client = await begun(gw, CHAT)
    await client.until(b"[DONE]\n\n\r\n0\r\n\r\n")
    client.leave()
    record = await gw.row()
    assert (record["status"], record["outcome"], record["gone_phase"]) == (200, "ok", None)


# -- usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", [True, False, None])
async def test_usage_is_always_known_and_shown_to_whom_it_was_promised(
    upstream: ScriptedUpstream, start: Start, asks: bool | None
) -> None:
    gw = await start(provider("first", upstream))
    usage = chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})
    frames = CHAT.stream("some")
    upstream.plays(streamed([*frames[:-1], usage, frames[-1]]))
    more: dict[str, Any] = {} if asks is None else {"stream_options": {"include_usage": asks}}
    answer = await gw.ask(CHAT, stream=True, **more)
    assert (usage in answer.body) == (asks is True)
    assert (await upstream.asked()).json["stream_options"] == {"include_usage": True}
    record = await gw.row(answer.request_id)
    assert record["usage"]["input"] == 7
    assert record["usage"]["output"] == 2


# -- the wrong kind of answer ------------------------------------------------------------------------------------


@all_pairs
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", ""])
async def test_a_document_for_a_stream_becomes_one(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue, content_type: str
) -> None:
    gw = await start(provider("first", upstream, theirs))
    upstream.plays(plain(theirs.answer("a document"), content_type=content_type))
    answer = await gw.ask(tongue, stream=True)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert tongue.read_stream(answer.body) == "a document"
    assert answer.body.endswith(tongue.end)


@all_pairs
async def test_a_stream_for_a_document_is_a_broken_answer(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue
) -> None:
    gw = await two(start, upstream, second, theirs)
    upstream.plays(streamed(theirs.stream("a stream")))
    second.plays(plain(theirs.answer("a document")))
    answer = await gw.ask(tongue, "profile:chain")
    assert tongue.read_text(answer.json) == "a document"


@both_surfaces
async def test_good_json_under_a_wrong_type_is_judged_by_its_content(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(plain(tongue.answer("fine"), content_type="text/html"))
    answer = await gw.ask(tongue)
    assert tongue.read_text(answer.json) == "fine"
    assert answer.headers["Content-Type"] == "application/json"


PARAMETERS = {
    "a charset passes": ("charset=utf-8", True),
    "a key does not": ("x=canary-house-key-0001", False),
    "nor what is no ASCII": ("x=\xe9", False),
    "nor what is longer than a header may be": ("x=" + "y" * 2000, False),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("parameter", "passes"), PARAMETERS.values(), ids=PARAMETERS)
async def test_what_stands_behind_the_content_type(
    upstream: ScriptedUpstream, start: Start, parameter: str, passes: bool, stream: bool
) -> None:
    kind = "text/event-stream" if stream else "application/json"
    theirs = f"{kind}; {parameter}"
    begun = head(200, theirs, Transfer_Encoding="chunked")
    upstream.plays(
        streamed(CHAT.stream("Hi"), stream_head=begun) if stream else plain(CHAT.answer("Hi"), content_type=theirs)
    )
    gw = await start(provider("first", upstream))
    answer = await gw.ask(stream=stream)
    assert answer.status == 200
    ours = "text/event-stream; charset=utf-8" if stream else "application/json"
    assert answer.headers["Content-Type"] == (theirs if passes else ours)


@both_surfaces
async def test_a_stream_under_a_wrong_type_is_judged_by_its_content(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(streamed(tongue.stream("fine"), stream_head=head(200, "text/plain", Transfer_Encoding="chunked")))
    answer = await gw.ask(tongue, stream=True)
    assert tongue.read_stream(answer.body) == "fine"
    assert answer.headers["Content-Type"].startswith("text/event-stream")


# -- plain answers -----------------------------------------------------------------------------------------------


@both_surfaces
async def test_a_plain_answer_of_the_same_dialect_passes_byte_for_byte(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    body = orjson.dumps(tongue.answer("x"), option=orjson.OPT_INDENT_2).replace(
        b'"native-1"', b'"\\u006eative-1", "big": 1e400'
    )
    upstream.plays(plain(body.replace(b"1e400", b"12345678901234567890123")))
    answer = await gw.ask(tongue)
    assert answer.body == body.replace(b"1e400", b"12345678901234567890123")


async def test_an_answer_too_large_to_judge_flows(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    document = orjson.dumps(CHAT.answer("y" * (9 << 20)))
    upstream.plays(plain(document))
    answer = await gw.ask(CHAT)
    assert answer.body == document
    record = await gw.row(answer.request_id)
    assert (record["status"], record["outcome"], record["bytes_committed"]) == (200, "ok", len(document))


async def test_an_answer_too_large_to_judge_that_is_cut_ends_in_a_broken_transfer(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    document = orjson.dumps(CHAT.answer("y" * (9 << 20)))
    upstream.plays([head(200, Content_Length=len(document)), document[:-10], CUT])
    client = await gw.connect(limit=1 << 25)
    await client.request(CHAT, CHAT.request(), "Connection: close")
    await client.until(b"\r\n\r\n")
    with pytest.raises((ConnectionError, AssertionError, ValueError)):
        body_of(await client.rest())
    record = await gw.row()
    assert record["outcome"] == "bad_upstream_response"


async def test_the_price_of_a_plain_answer_is_told(upstream: ScriptedUpstream, start: Start) -> None:
    models = {"first": "price = { input = 1, output = 2 }"}
    gw = await start(provider("first", upstream, models=models))
    upstream.plays(plain(CHAT.answer("ok")))
    answer = await gw.ask(CHAT)
    assert answer.headers["X-Nyuro-Cost"] == "0.000011"
    assert (await gw.row(answer.request_id))["cost_nanos"] == 11_000


# -- back-pressure -----------------------------------------------------------------------------------------------


@all_pairs
async def test_a_client_that_stops_reading_stops_the_provider(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, theirs: Tongue
) -> None:
    gw = await start(provider("first", upstream, theirs))
    begin = [theirs.start, *([theirs.opening] if theirs.opening else [])]
    text = theirs.text("z" * 16_000)
    upstream.plays([STREAM_HEAD, *map(piece, begin), *[piece(text)] * 4000, SILENCE])
    client = await gw.connect()
    await client.request(tongue, tongue.request(stream=True))
    await client.until(b"\r\n\r\n")
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    before = -1
    while upstream.sent > before or not upstream.blocked:  # until a whole request besides moves nothing here
        before = upstream.sent
        for _ in range(20):
            assert (await gw.get(gw.base + "/healthz")).status == 200
    assert upstream.sent < 4000 * 16_000
    client.leave()
    await within((await upstream.asked()).gone)
    assert upstream.sent <= before + 1_000_000
