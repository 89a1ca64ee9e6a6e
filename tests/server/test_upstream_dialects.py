"""Providers that speak a dialect which no client does: where they are asked, with what, and what the client reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from attrs import frozen
from gateway import Running, Start, chain
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import ScriptedUpstream, head, plain, streamed

from proxy.dialects import DIALECTS, UPSTREAMS
from proxy.errors import UpstreamError

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
    answer: Any
    frame: Any
    content_type: str


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
    start: Start, name: str, suffix: str, tongue: Tongue, stream: bool
) -> None:
    told = PROVIDERS[name]
    async with ScriptedUpstream() as upstream:
        gateway = await start(table(name, upstream.root + suffix))
        upstream.plays(
            streamed(
                [told.frame("Bonjour.")], stream_head=head(200, told.content_type, **{"Transfer-Encoding": "chunked"})
            )
            if stream
            else plain(told.answer("Bonjour."))
        )
        assert await asked(gateway, tongue, stream=stream) == "Bonjour."
        seen = await upstream.asked()
        row = await gateway.row()
    assert seen.path == told.paths[stream]
    header, value = told.credential
    assert seen.headers[header] == value
    assert KEY not in seen.path
    assert (row["input_tokens"], row["output_tokens"]) == (7, 2)


async def test_a_server_of_ones_own_may_be_named_either_way(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        gateway = await start(table("ollama", upstream.root, more="local = true"))
        upstream.plays(plain(ollama_answer("Bonjour.")))
        assert await asked(gateway, CHAT, stream=False) == "Bonjour."
        assert (await upstream.asked()).path == "/api/chat"


async def test_vertex_has_its_version_in_the_middle(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        gateway = await start(table("gemini", f"{upstream.root}/v1beta1/projects/p/locations/l/publishers/google"))
        upstream.plays(plain(gemini_answer("Bonjour.")))
        assert await asked(gateway, MESSAGES, stream=False) == "Bonjour."
        path = (await upstream.asked()).path
    assert path == "/v1beta1/projects/p/locations/l/publishers/google/models/gemini-2.5-flash:generateContent"


@both_surfaces
async def test_the_time_to_wait_that_a_body_tells_reaches_the_client(start: Start, tongue: Tongue) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48s"}]
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota.",
             "details": details}  # fmt: skip
    async with ScriptedUpstream() as upstream:
        gateway = await start(table("gemini", upstream.root) + '[retry]\ndeadline = "1s"\n')
        upstream.plays(plain({"error": error}, status=429))
        answer = await gateway.ask(tongue)
        row = await gateway.row()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "48")
    assert row["attempts"][0]["outcome"] == "upstream_rate_limited"


@both_surfaces
@both_ways
async def test_another_answers_for_one_that_cannot_be_asked(start: Start, tongue: Tongue, stream: bool) -> None:
    """A picture that Ollama would have to fetch; Gemini takes its address."""
    address = "https://example.org/a.png"
    picture: dict[str, Any] = {"type": "image_url", "image_url": {"url": address}}
    if tongue is MESSAGES:
        picture = {"type": "image", "source": {"type": "url", "url": address}}
    async with ScriptedUpstream() as local, ScriptedUpstream() as remote:
        second = table("gemini", remote.root).replace("[models.first]", "[models.second]")
        gateway = await start(table("ollama", local.root) + second + chain("first", "second"))
        told = PROVIDERS["gemini"]
        remote.plays(streamed([told.frame("A cat.")]) if stream else plain(told.answer("A cat.")))
        answer = await gateway.ask(
            tongue, "profile:chain", stream=stream, messages=[{"role": "user", "content": [picture]}]
        )
        sent = (await remote.asked()).json
    assert answer.status == 200, answer
    assert sent["contents"][0]["parts"] == [{"fileData": {"fileUri": address, "mimeType": "image/png"}}]


@both_surfaces
async def test_a_client_is_told_what_nobody_can_say(start: Start, tongue: Tongue) -> None:
    picture: dict[str, Any] = {"type": "image_url", "image_url": {"url": "http://example.org/a"}}
    if tongue is MESSAGES:
        picture = {"type": "image", "source": {"type": "url", "url": "http://example.org/a"}}
    async with ScriptedUpstream() as upstream:
        gateway = await start(table("ollama", upstream.root))
        answer = await gateway.ask(tongue, messages=[{"role": "user", "content": [picture]}])
    assert answer.status == 400
    assert "data: URL" in answer.json["error"]["message"]


# -- the registry --------------------------------------------------------------------------------------------------

each_upstream = pytest.mark.parametrize("name", UPSTREAMS)


@each_upstream
def test_an_upstream_is_named_as_it_names_itself(name: str) -> None:
    upstream = UPSTREAMS[name]
    assert upstream.name == name
    assert upstream.speaks in UPSTREAMS
    assert (name in DIALECTS) == hasattr(upstream, "decode_request"), "who can be read can be a surface's"


@each_upstream
def test_the_key_stands_once_in_the_credential_and_nowhere_else(name: str) -> None:
    upstream = UPSTREAMS[name]
    ((header, value),) = upstream.credential(KEY)
    assert value in (KEY, f"Bearer {KEY}")
    assert KEY not in header
    assert header.lower() not in {fixed.lower() for fixed, _ in upstream.fixed_headers}


@each_upstream
@pytest.mark.parametrize("nonsense", [None, 1, "x", [], [1], {}, {"error": None}, {"error": 3}])
def test_nobodys_json_is_neither_an_error_nor_an_answer(name: str, nonsense: Any) -> None:
    assert not UPSTREAMS[name].read_error(nonsense).own
    with pytest.raises(UpstreamError):
        UPSTREAMS[name].check_answer(nonsense)
