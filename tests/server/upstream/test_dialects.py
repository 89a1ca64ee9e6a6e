"""Providers that speak a dialect which no client does: where they are asked, with what, and what the client reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from attrs import frozen
from gateway import Running, Start, chain
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import Script, ScriptedUpstream, head, plain, streamed

EXCHANGES = ("lean", "plain")
LOOPS = ("uvloop",)
KEY = "canary-house-key-0001"
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def gemini_answer(text: str) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}
    return {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


def ollama_answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"message": message, "done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 2}


@frozen
class Provider:
    """How one is asked, and how it answers."""

    suffixes: tuple[str, ...]  # of base URLs that mean the same place
    paths: Mapping[bool, str]  # by whether a stream is asked for
    credential: tuple[str, str]
    answer: Callable[[str], dict[str, Any]]
    frame: Callable[[str], bytes]
    content_type: str

    def says(self, text: str, *, stream: bool) -> Script:
        if not stream:
            return plain(self.answer(text))
        return streamed([self.frame(text)], stream_head=head(200, self.content_type, Transfer_Encoding="chunked"))


PROVIDERS = {
    "gemini": Provider(
        ("", "/v1beta"),
        {
            False: "/v1beta/models/gemini-2.5-flash:generateContent",
            True: "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        },
        ("x-goog-api-key", KEY),
        gemini_answer,
        lambda text: b"data: %b\r\n\r\n" % orjson.dumps(gemini_answer(text)),
        "text/event-stream",
    ),
    "ollama": Provider(
        ("", "/v1", "/api"),
        dict.fromkeys((False, True), "/api/chat"),
        ("authorization", f"Bearer {KEY}"),
        ollama_answer,
        lambda text: orjson.dumps(ollama_answer(text)) + b"\n",
        "application/x-ndjson",
    ),
}
each_place = pytest.mark.parametrize(
    ("name", "suffix"), [(name, suffix) for name, told in PROVIDERS.items() for suffix in told.suffixes]
)


def table(name: str, base_url: str, more: str = "") -> str:
    return f"""
[providers.{name}]
dialects = ["{name}"]
base_url = "{base_url}"
api_keys = ["{KEY}"]
{more}
[models.first]
provider = "{name}"
native = "gemini-2.5-flash"
"""


async def asked(gateway: Running, tongue: Tongue, *, stream: bool) -> str:
    answer = await gateway.ask(tongue, stream=stream)
    assert answer.status == 200, answer
    said: str = tongue.read_stream(answer.body) if stream else tongue.read_text(answer.json)
    return said


@each_place
@both_surfaces
@both_ways
async def test_a_provider_is_asked_in_its_own_words(
    start: Start, upstream: ScriptedUpstream, name: str, suffix: str, tongue: Tongue, stream: bool
) -> None:
    told = PROVIDERS[name]
    gw = await start(table(name, upstream.root + suffix))
    upstream.plays(told.says("Bonjour.", stream=stream))
    assert await asked(gw, tongue, stream=stream) == "Bonjour."
    seen, row = await upstream.asked(), await gw.row()
    assert seen.path == told.paths[stream]
    header, value = told.credential
    assert seen.headers[header] == value
    assert KEY not in seen.path
    assert (row["usage"]["input"], row["usage"]["output"]) == (7, 2)


async def test_a_server_of_ones_own_may_be_named_either_way(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(table("ollama", upstream.root, more="local = true"))
    upstream.plays(plain(ollama_answer("Bonjour.")))
    assert await asked(gw, CHAT, stream=False) == "Bonjour."
    assert (await upstream.asked()).path == "/api/chat"


async def test_vertex_has_its_version_in_the_middle(start: Start, upstream: ScriptedUpstream) -> None:
    place = "/v1beta1/projects/p/locations/l/publishers/google"
    gw = await start(table("gemini", upstream.root + place))
    upstream.plays(plain(gemini_answer("Bonjour.")))
    assert await asked(gw, MESSAGES, stream=False) == "Bonjour."
    assert (await upstream.asked()).path == f"{place}/models/gemini-2.5-flash:generateContent"


@both_surfaces
async def test_the_time_to_wait_that_a_body_tells_reaches_the_client(
    start: Start, upstream: ScriptedUpstream, tongue: Tongue
) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "480s"}  # past any deadline
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Your current quota is used up."}
    gw = await start(table("gemini", upstream.root))
    upstream.plays(plain({"error": error | {"details": [retry]}}, status=429))
    answer = await gw.ask(tongue)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "480")
    assert (await gw.row())["attempts"][0]["outcome"] == "upstream_rate_limited"


def picture(tongue: Tongue, url: str) -> list[dict[str, Any]]:
    """A message of nothing but a picture at that address."""
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    if tongue is MESSAGES:
        part = {"type": "image", "source": {"type": "url", "url": url}}
    return [{"role": "user", "content": [part]}]


@both_surfaces
@both_ways
async def test_another_answers_for_one_that_cannot_be_asked(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream, tongue: Tongue, stream: bool
) -> None:
    """A picture that Ollama would have to fetch; Gemini does."""
    remote = table("gemini", second.root).replace("[models.first]", "[models.second]")
    gw = await start(table("ollama", upstream.root) + remote + chain("first", "second"))
    second.plays(PROVIDERS["gemini"].says("A cat.", stream=stream))
    address = "https://example.org/a.png"
    answer = await gw.ask(tongue, "profile:chain", stream=stream, messages=picture(tongue, address))
    assert answer.status == 200, answer
    assert answer.headers["X-Nyuro-Model"] == "second"
    sent = (await second.asked()).json
    assert sent["contents"][0]["parts"] == [{"fileData": {"fileUri": address, "mimeType": "image/png"}}]
    assert not upstream.seen


@both_surfaces
async def test_a_client_is_told_what_nobody_can_be_asked(
    start: Start, upstream: ScriptedUpstream, tongue: Tongue
) -> None:
    gw = await start(table("ollama", upstream.root))
    answer = await gw.ask(tongue, messages=picture(tongue, "http://example.org/a"))
    assert answer.status == 400
    assert "data: URL" in answer.json["error"]["message"]
