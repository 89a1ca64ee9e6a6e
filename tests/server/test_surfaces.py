"""Every path that is no conversation: as the official SDKs use it, byte by byte, and when it fails."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from attrs import frozen
from gateway import Running, Start, chain, provider
from pages import PAGES, rows, section, spans
from playbook import CHAT, MESSAGES, USAGE
from shares import product_of
from upstream import CUT, LAST, Script, ScriptedUpstream, head, piece, plain, streamed, within

from proxy.dialects import DIALECTS
from proxy.server.endpoints import SURFACES

ALL = 'endpoints = ["chat", "completions", "embeddings", "images", "audio", "moderations", "rerank"]\n'
PRICE = "price = { input = 2, output = 4 }"
VECTOR = [0.5, -1.0, 3.25]
PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
SOUND = b"ID3\x04\x00\xff\xfb\x90\x00<html" + bytes(range(256)) * 40


def vectors(*embeddings: Any, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(embeddings)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "data": data, "model": "native-1", "usage": usage, **more}


def completion(text: str, reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "native-1", "choices": [choice], **more}


def frame(document: Any) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


COMPLETED = completion("upon", usage=USAGE)
PICTURE = {
    "created": 1,
    "data": [{"b64_json": "aGk="}],
    "usage": {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12, "input_tokens_details": {"text_tokens": 3}},
}
HEARD = {"text": "hello", "usage": {"type": "tokens", "input_tokens": 4, "output_tokens": 2, "total_tokens": 6}}
VERDICT = {"flagged": False, "categories": {}, "category_scores": {}}
JUDGED = {"id": "modr-1", "model": "omni-moderation-latest", "results": [VERDICT]}
RANKED = {"results": [{"index": 0, "relevance_score": 0.9}], "usage": {"total_tokens": 8}}


@frozen
class Case:
    """A path, a request that it takes, a good answer and what the record then counts."""

    path: str
    request: dict[str, Any]
    answer: Any
    tokens: tuple[int | None, int | None] = (None, None)
    content_type: str = "application/json"
    cost: str | None = None

    @property
    def body(self) -> bytes:
        return self.answer if isinstance(self.answer, bytes) else orjson.dumps(self.answer)


SPEECH = Case("/v1/audio/speech", {"input": "hi", "voice": "alloy"}, SOUND, content_type="audio/mpeg")
CASES = {
    "completions": Case("/v1/completions", {"prompt": "Once"}, COMPLETED, (7, 2), cost="0.000022"),
    "embeddings": Case("/v1/embeddings", {"input": [1, 2]}, vectors(VECTOR), (5, 0), cost="0.00001"),
    "embeddings by their alias": Case("/ai/embeddings", {"input": "x"}, vectors(VECTOR), (5, 0), cost="0.00001"),
    "images": Case("/v1/images/generations", {"prompt": "a cat"}, PICTURE, (3, 9), cost="0.000042"),
    "speech": SPEECH,
    "moderations": Case("/v1/moderations", {"input": "x"}, JUDGED),
    "rerank": Case("/v1/rerank", {"query": "x", "documents": ["y"]}, RANKED, (8, 0), cost="0.000016"),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def table(upstream: ScriptedUpstream, second: ScriptedUpstream | None = None) -> str:
    """Two candidates in a row: `profile:chain`. One try each, so that a failure goes on at once."""
    blocks = [provider("first", upstream, models={"first": PRICE}, more=ALL)]
    if second is not None:
        blocks += [provider("second", second, models={"second": PRICE}, more=ALL), chain("first", "second")]
    return "[retry]\ntries = 1\n" + "".join(blocks)


@pytest.fixture
async def sdk() -> AsyncIterator[Any]:
    """Makes OpenAI's client of a gateway."""
    async with openai.DefaultAsyncHttpxClient(verify=False) as http:
        yield lambda running: openai.AsyncOpenAI(
            base_url=f"{running.base}/v1", api_key="sk-of-nobody", max_retries=0, http_client=http
        )


# -- what the page says ------------------------------------------------------------------------------------------


def test_every_path_is_told_as_it_is_and_no_other() -> None:
    told = {spans(row["path"])[0]: row for row in rows(section(PAGES["docs/surfaces.md"], "## The paths"))}
    surfaces = {path: it for path, it in SURFACES.items() if it.operation != "chat"}
    assert told.keys() == surfaces.keys()
    for path, surface in surfaces.items():
        row, operation = told[path], DIALECTS[surface.dialect].operations[surface.operation]
        assert spans(row["endpoint"]) == [surface.endpoint]
        assert row["request"] == ("form or JSON" if surface.form else "JSON")
        assert row["answer"] == ("anything" if operation.opaque else "JSON")
        streams = "read" if operation.framed else "flows" if surface.endpoint in ("images", "audio") else "-"
        assert row["stream"] == streams
        assert ("floats" in row["what is edited"]) == (operation.mend_answer is not None and path.startswith("/v1/"))


# -- bytes, headers, records -------------------------------------------------------------------------------------


@each_case
async def test_an_answer_passes_byte_for_byte_and_is_recorded(
    case: Case, start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(case.body, content_type=case.content_type, x_request_id="id-there"))
    running = await start(table(upstream))
    raw = orjson.dumps({"big": 2**63, **case.request, "model": "first", "models": ["first"], "sort": "price"})
    answer = await running.post(case.path, raw)
    assert (answer.status, answer.body) == (200, case.body)
    assert answer.headers["Content-Type"] == case.content_type
    assert answer.headers["X-Nyuro-Model"] == "first"
    assert answer.headers["x-upstream-request-id"] == "id-there"
    assert answer.headers.get("X-Nyuro-Cost") == case.cost
    seen = await upstream.asked()
    assert seen.path == case.path.replace("/ai/", "/v1/")
    expected = {"big": 2**63, **case.request, "model": "native-of-first"}
    assert seen.json == expected
    assert seen.body == orjson.dumps(expected), "in the order that it came"
    row = await running.row(answer.request_id)
    assert (row["surface"], row["outcome"], row["status"]) == (SURFACES[case.path].name, "ok", 200)
    usage = row["usage"] or {}
    assert (usage.get("input"), usage.get("output")) == case.tokens
    assert row["bytes_committed"] == len(case.body)


@each_case
async def test_what_a_surface_learns_says_nothing_of_a_conversation(
    case: Case, start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(case.body, content_type=case.content_type))
    running = await start(table(upstream, upstream))
    headers = {"X-Session-Id": "s-1"}
    assert (await running.post(case.path, {**case.request, "model": "profile:chain"}, headers)).status == 200
    await running.quiet()
    assert running.app is not None
    world = running.app.gateway.current.world
    assert world.latencies.get("first", "first") is None
    assert len(world.affinity) == 0


async def test_the_dry_run_speaks_of_any_surface(start: Start, upstream: ScriptedUpstream) -> None:
    running = await start(table(upstream))
    plan = (await running.post("/v1/route?surface=embeddings", {"model": "first", "input": "four"})).json
    assert [candidate["model"] for candidate in plan["candidates"]] == ["first"]
    assert (plan["tokens_estimated"], plan["candidates"][0]["cost_max_usd"]) == (1, 2e-6)
    assert not upstream.seen


async def test_a_window_and_capabilities_are_those_of_a_conversation(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(vectors(VECTOR)))
    block = provider("first", upstream, models={"first": "context = 4\ncapabilities = []"}, more=ALL)
    running = await start(block)
    answer = await running.post("/v1/embeddings", {"model": "first", "input": ["a long text of its own"] * 9})
    assert answer.status == 200


# -- failures ----------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Script, str]] = {
    "429": (plain(CHAT.error("rate_limit_error", "No."), 429), "upstream_rate_limited"),
    "503": (plain(CHAT.error("server_error", "No."), 503), "upstream_failed"),
    "401 of our key": (plain(CHAT.error("invalid_api_key", "No."), 401), "upstream_credentials"),
    "a page under 200": (plain(b"<html>Log in</html>", content_type="text/html"), "bad_upstream_response"),
    "a page by another name": (plain(b"\n<!DOCTYPE html>", content_type="audio/mpeg"), "bad_upstream_response"),
    "broken JSON": (plain(b'{"data": '), "bad_upstream_response"),
    "an error under 200": (plain(CHAT.error("server_error", "No.")), "upstream_failed"),
    "nothing": (plain(b"", content_type="audio/mpeg"), "bad_upstream_response"),
    "nothing at all": ([CUT], "bad_upstream_response"),
}


@pytest.mark.parametrize(("case", "failure"), product_of(CASES, FAILURES, fast=1, of=3))
async def test_a_failed_attempt_goes_on_to_the_next_candidate(
    case: Case, failure: tuple[Script, str], start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    script, outcome = failure
    upstream.plays(script)
    second.plays(plain(case.body, content_type=case.content_type))
    running = await start(table(upstream, second))
    answer = await running.post(case.path, {**case.request, "model": "profile:chain"})
    assert (answer.status, answer.body) == (200, case.body)
    assert (answer.headers["X-Nyuro-Model"], answer.headers["X-Nyuro-Fallback-Used"]) == ("second", "true")
    row = await running.row(answer.request_id)
    assert [attempt["outcome"] for attempt in row["attempts"]] == [outcome, "ok"]


@each_case
async def test_the_providers_own_words_about_a_bad_request_reach_the_client(
    case: Case, start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    error = orjson.dumps(CHAT.error("invalid_request_error", "No such voice."))
    upstream.plays(plain(error, 400))
    answer = await (await start(table(upstream, second))).post(case.path, {**case.request, "model": "profile:chain"})
    assert (answer.status, answer.body) == (400, error)
    assert not second.seen


JSON_CASES = {name: case for name, case in CASES.items() if not isinstance(case.answer, bytes)}


@pytest.mark.parametrize("case", JSON_CASES.values(), ids=JSON_CASES)
async def test_json_of_another_endpoint_is_no_answer(case: Case, start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain({"id": "x", "object": "something"}))
    answer = await (await start(table(upstream))).post(case.path, {**case.request, "model": "first"})
    assert (answer.status, answer.json["error"]["code"]) == (502, "bad_upstream_response")


SAID = "what the plan says of a candidate that cannot"


async def test_who_cannot_serve_an_endpoint_is_passed_over_and_the_plan_says_why(
    start: Start, upstream: ScriptedUpstream
) -> None:
    blocks = (provider("chats", upstream), provider("other", upstream, MESSAGES, more=ALL))
    running = await start("".join(blocks) + chain("chats", "other"))
    answer = await running.post("/v1/embeddings", {"model": "profile:chain", "input": "x"})
    assert (answer.status, answer.json["error"]["code"]) == (400, "no_capable_model")
    told = [spans(row[SAID])[0] for row in rows(PAGES["docs/surfaces.md"], SAID)]
    assert len(told) == 2
    assert all(reason in answer.json["error"]["message"] for reason in told)
    assert not upstream.seen


# -- what flows --------------------------------------------------------------------------------------------------


async def test_sound_leaves_as_it_comes(start: Start, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    start_of_it = head(200, "audio/mpeg", Transfer_Encoding="chunked")
    upstream.plays([start_of_it, piece(SOUND[:100]), go_on, piece(SOUND[100:]), LAST])
    running = await start(table(upstream))
    sent = {"model": "first", **SPEECH.request}
    async with running.client.post(running.base + SPEECH.path, json=sent) as response:
        assert await response.content.readexactly(100) == SOUND[:100]
        go_on.set()
        assert await response.content.read() == SOUND[100:]
    assert (await running.row())["outcome"] == "ok"
    assert (await running.post(SPEECH.path, sent)).body == SOUND
    assert upstream.opened == 1, "its connection serves again"


async def test_a_cut_sound_is_a_cut_connection(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays([head(200, "audio/mpeg", Content_Length=len(SOUND)) + SOUND[:100], CUT])
    running = await start(table(upstream))
    sent = {"model": "first", **SPEECH.request}
    with pytest.raises(aiohttp.ClientPayloadError):
        await running.post(SPEECH.path, sent)
    row = await running.row()
    assert (row["outcome"], row["attempts"][0]["outcome"]) == ("bad_upstream_response",) * 2


async def test_a_client_that_leaves_frees_the_provider(start: Start, upstream: ScriptedUpstream) -> None:
    never = asyncio.Event()
    upstream.plays([head(200, "audio/mpeg", Transfer_Encoding="chunked"), piece(SOUND), never])
    running = await start(table(upstream))
    async with running.client.post(running.base + SPEECH.path, json={"model": "first", **SPEECH.request}) as response:
        await response.content.readexactly(len(SOUND))
        response.close()
    await within((await upstream.asked()).gone)
    assert (await running.row())["outcome"] == "client_closed"


async def test_events_that_nobody_reads_flow_as_they_are(start: Start, upstream: ScriptedUpstream) -> None:
    events = b"event: image_generation.partial_image\ndata: {}\n\nevent: image_generation.completed\ndata: {}\n\n"
    upstream.plays(streamed([events[:50], events[50:]]))
    running = await start(table(upstream))
    answer = await running.post("/v1/images/generations", {"model": "first", "prompt": "a cat", "stream": True})
    assert (answer.status, answer.body) == (200, events)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "stream_options" not in (await upstream.asked()).json


async def test_a_picture_that_comes_whole_where_a_stream_was_asked_is_judged(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(PICTURE))
    running = await start(table(upstream))
    answer = await running.post("/v1/images/generations", {"model": "first", "prompt": "a cat", "stream": True})
    assert (answer.headers["Content-Type"], answer.json) == ("application/json", PICTURE)
    assert answer.headers["X-Nyuro-Cost"] == "0.000042"


# -- forms -------------------------------------------------------------------------------------------------------

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(*parts: tuple[str, bytes], end: bytes = b"--b0undary--\r\n") -> bytes:
    one = b"--b0undary\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n"
    return b"".join(one % (name.encode(), value) for name, value in parts) + end


FILE = ('name="file"; filename="a.mp3"', SOUND + b'\r\n--b0undar\r\nname="model"\r\n\r\nfirst')


async def test_of_a_form_only_the_models_name_changes(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(HEARD))
    running = await start(table(upstream))
    sent = form(FILE, ('name="model"', b"first"), ('name="provider"', b"theirs"))
    answer = await running.post("/v1/audio/transcriptions", sent, {"Content-Type": FORM})
    assert (answer.status, answer.json) == (200, HEARD)
    seen = await upstream.asked()
    assert seen.body == form(FILE, ('name="model"', b"native-of-first"), ('name="provider"', b"theirs"))
    assert (seen.headers["content-type"], seen.headers["accept"]) == (FORM, "*/*")
    row = await running.row()
    assert (row["surface"], row["usage"]["input"], row["cost_nanos"]) == ("audio", 4, 16_000)


async def test_a_form_takes_routing_members_as_headers(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain(b"", 503))
    second.plays(plain(HEARD))
    running = await start(table(upstream, second))
    headers = {"Content-Type": FORM, "X-Nyuro-Models": "second"}
    answer = await running.post("/v1/audio/translations", form(('name="model"', b"first"), FILE), headers)
    assert answer.headers["X-Nyuro-Model"] == "second"
    assert b"native-of-second" in (await second.asked()).body


MODEL = ('name="model"', b"first")
EDITS = "/v1/images/edits"
FORMS: dict[str, tuple[str, bytes, str, int]] = {
    "without a boundary": ("multipart/form-data", form(FILE), EDITS, 400),
    "with another boundary": ("multipart/form-data; boundary=other", form(FILE), EDITS, 400),
    "cut off": (FORM, form(FILE, MODEL, end=b""), EDITS, 400),
    "without a model": (FORM, form(FILE), EDITS, 400),
    "with two models": (FORM, form(MODEL, MODEL), EDITS, 400),
    "with a part that has no name": (FORM, form(MODEL, ("name=model", b"x")), EDITS, 400),
    "where JSON is due": (FORM, form(MODEL), "/v1/embeddings", 415),
    "of another kind": ("multipart/mixed; boundary=b0undary", form(MODEL), EDITS, 415),
}


@pytest.mark.parametrize(("content_type", "body", "path", "status"), FORMS.values(), ids=FORMS)
async def test_a_form_that_cannot_be_read_is_refused(
    content_type: str, body: bytes, path: str, status: int, start: Start, upstream: ScriptedUpstream
) -> None:
    answer = await (await start(table(upstream))).post(path, body, {"Content-Type": content_type})
    assert answer.status == status
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert not upstream.seen


TEXTS = {"text": b"hello\n", "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", "silence": b""}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_transcription_may_be_text(text: bytes, start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(text, content_type="text/plain; charset=utf-8"))
    running = await start(table(upstream))
    sent = form(('name="model"', b"first"), ('name="response_format"', b"text"), FILE)
    answer = await running.post("/v1/audio/transcriptions", sent, {"Content-Type": FORM})
    assert (answer.status, answer.body) == (200, text)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


# -- vectors -----------------------------------------------------------------------------------------------------


async def test_floats_are_encoded_where_base64_was_asked(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(vectors(VECTOR, "AAAA", more=1)))
    running = await start(table(upstream))
    answer = await running.post("/v1/embeddings", {"model": "first", "input": "x", "encoding_format": "base64"})
    assert answer.json == vectors(PACKED, "AAAA", more=1)
    assert 'pointsman_stream_edits_total{kind="vectors_encoded"} 1' in await metrics(running)


async def test_base64_that_came_is_not_written_anew(start: Start, upstream: ScriptedUpstream) -> None:
    raw = orjson.dumps(vectors(PACKED)).replace(b",", b" , ")
    upstream.plays(plain(raw))
    running = await start(table(upstream))
    answer = await running.post("/v1/embeddings", {"model": "first", "input": "x", "encoding_format": "base64"})
    assert answer.body == raw
    assert "vectors_encoded" not in await metrics(running)


async def test_many_vectors_are_encoded_too(start: Start, upstream: ScriptedUpstream) -> None:
    """More than a plain answer is judged by elsewhere."""
    many = [[0.123456789] * 1_000] * 800
    upstream.plays(plain(vectors(*many)))
    running = await start(table(upstream))
    answer = await running.post("/v1/embeddings", {"model": "first", "input": "x", "encoding_format": "base64"})
    assert len(upstream.seen) == 1
    assert upstream.sent > 8 << 20
    found = {item["embedding"] for item in answer.json["data"]}
    assert found == {base64.b64encode(struct.pack("<1000f", *many[0])).decode()}


async def metrics(running: Running) -> str:
    await running.quiet()
    page: bytes = (await running.get(f"{running.admin}/metrics")).body
    return page.decode()


# -- completions that stream -------------------------------------------------------------------------------------

TEXT_STREAM = [frame(completion("upon", None)), frame(completion(" a time", "stop"))]
TEXT_USAGE = frame({**completion(""), "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


async def test_a_streamed_completion_passes_without_the_usage_that_nobody_asked_for(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streamed([*TEXT_STREAM, TEXT_USAGE, DONE]))
    running = await start(table(upstream))
    answer = await running.post("/v1/completions", {"model": "first", "prompt": "Once", "stream": True})
    assert answer.body == b"".join([*TEXT_STREAM, DONE])
    assert (await upstream.asked()).json["stream_options"] == {"include_usage": True}
    row = await running.row()
    assert (row["usage"]["input"], row["usage"]["output"], row["cost_nanos"]) == (7, 2, 22_000)


async def test_a_streamed_completion_fails_over_until_there_is_text(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(streamed([frame(completion("", None)), frame(CHAT.error("server_error", "No."))]))
    second.plays(streamed([*TEXT_STREAM, DONE]))
    running = await start(table(upstream, second))
    answer = await running.post("/v1/completions", {"model": "profile:chain", "prompt": "Once", "stream": True})
    assert answer.headers["X-Nyuro-Model"] == "second"
    assert answer.body == b"".join([*TEXT_STREAM, DONE])


async def test_a_streamed_completion_that_is_cut_says_so(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays([*streamed(TEXT_STREAM[:1], last=False), CUT])
    running = await start(table(upstream))
    answer = await running.post("/v1/completions", {"model": "first", "prompt": "Once", "stream": True})
    assert answer.body.startswith(TEXT_STREAM[0] + b'data: {"error":')
    assert (await running.row())["outcome"] == "bad_upstream_response"


async def test_a_completion_that_comes_whole_leaves_as_a_stream(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(completion("upon", usage=USAGE)))
    running = await start(table(upstream))
    answer = await running.post("/v1/completions", {"model": "first", "prompt": "Once", "stream": True})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.body == frame(completion("upon", usage=USAGE)) + DONE


# -- OpenAI's SDK ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comes", [VECTOR, PACKED], ids=["floats", "base64"])
async def test_the_sdk_gets_its_vectors_whatever_the_provider_makes_of_base64(
    comes: Any, start: Start, upstream: ScriptedUpstream, sdk: Any
) -> None:
    upstream.plays(plain(vectors(comes)))
    client = sdk(await start(table(upstream)))
    made = await client.embeddings.create(model="first", input="x", dimensions=3)
    assert made.data[0].embedding == VECTOR
    seen = (await upstream.asked()).json
    assert seen == {"input": "x", "model": "native-of-first", "dimensions": 3, "encoding_format": "base64"}


async def test_the_sdk_gets_floats_where_it_asks_for_them(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    upstream.plays(plain(vectors(VECTOR)))
    client = sdk(await start(table(upstream)))
    made = await client.embeddings.create(model="first", input=[[1, 2], [3]], encoding_format="float")
    assert made.data[0].embedding == VECTOR
    assert (await upstream.asked()).json["input"] == [[1, 2], [3]]


async def test_the_sdk_draws(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    upstream.plays(plain(PICTURE))
    client = sdk(await start(table(upstream)))
    drawn = await client.images.generate(model="first", prompt="a cat")
    assert drawn.data[0].b64_json == "aGk="
    edited = await client.images.edit(model="first", prompt="a dog", image=("cat.png", SOUND, "image/png"))
    assert edited.usage.output_tokens == 9
    seen = await upstream.asked(2)
    assert seen.path == "/v1/images/edits"
    assert SOUND in seen.body
    assert b"native-of-first" in seen.body


async def test_the_sdk_hears(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    upstream.plays(plain(HEARD), plain(HEARD), plain(b"hello", content_type="text/plain"))
    client = sdk(await start(table(upstream)))
    file = ("a.mp3", SOUND, "audio/mpeg")
    assert (await client.audio.transcriptions.create(model="first", file=file)).text == "hello"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert (await client.audio.translations.create(model="first", file=file)).text == "hello"
    assert await client.audio.transcriptions.create(model="first", file=file, response_format="text") == "hello"
    assert {seen.path for seen in upstream.seen} == {"/v1/audio/transcriptions", "/v1/audio/translations"}
    assert all(SOUND in seen.body and b"native-of-first" in seen.body for seen in upstream.seen)


async def test_the_sdk_hears_piece_by_piece(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    done = {"type": "transcript.text.done", "text": "hello"}
    upstream.plays(streamed([frame({"type": "transcript.text.delta", "delta": "hello"}), frame(done)]))
    client = sdk(await start(table(upstream)))
    file = ("a.mp3", SOUND, "audio/mpeg")
    stream = await client.audio.transcriptions.create(model="first", file=file, stream=True)
    assert [event.type async for event in stream] == ["transcript.text.delta", "transcript.text.done"]
    assert (await upstream.asked()).headers["accept"] == "text/event-stream"


async def test_the_sdk_speaks(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    upstream.plays(plain(SOUND, content_type="audio/mpeg"))
    client = sdk(await start(table(upstream)))
    spoken = await client.audio.speech.create(model="first", input="hi", voice="alloy")
    assert spoken.content == SOUND


async def test_the_sdk_has_a_text_judged_without_naming_a_model(
    start: Start, upstream: ScriptedUpstream, sdk: Any
) -> None:
    upstream.plays(plain(JUDGED))
    client = sdk(await start(table(upstream) + '[aliases]\nomni-moderation-latest = "first"\n'))
    assert not (await client.moderations.create(input="x")).results[0].flagged
    assert (await upstream.asked()).json == {"input": "x", "model": "native-of-first"}


async def test_the_sdk_completes(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    upstream.plays(plain(completion("upon", usage=USAGE)), streamed([*TEXT_STREAM, TEXT_USAGE, DONE]))
    client = sdk(await start(table(upstream)))
    assert (await client.completions.create(model="first", prompt="Once")).choices[0].text == "upon"
    stream = await client.completions.create(model="first", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "upon a time"


async def test_the_sdk_knows_our_errors(start: Start, upstream: ScriptedUpstream, sdk: Any) -> None:
    client = sdk(await start(table(upstream)))
    with pytest.raises(openai.NotFoundError) as raised:
        await client.embeddings.create(model="no-such-model", input="x")
    assert raised.value.code == "model_not_found"
