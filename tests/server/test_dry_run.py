"""`POST /v1/route`: whose body it is, and what it answers to a body that no plan can be made of."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import Start, provider
from playbook import CHAT
from upstream import ScriptedUpstream

from proxy.server.endpoints import BY_NAME
from proxy.wire import json_text

TURNS = [{"role": "user", "content": "hi"}]
BLOCKS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
ODD = [{"role": [], "content": [2, {"type": {}}]}, {"role": "user", "content": 1}]
PARTS = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]

TOLD: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "turns": ({"messages": TURNS}, {}, "chat"),
    "turns with max_tokens": ({"messages": TURNS, "max_tokens": 9}, {}, "chat"),
    "OpenAI's parts": ({"messages": PARTS, "max_tokens": 9}, {}, "chat"),
    "text parts without max_tokens": ({"messages": BLOCKS}, {}, "chat"),
    "a turn of the system": (
        {"messages": [{"role": "system", "content": "x"}, *BLOCKS], "max_tokens": 9}, {}, "chat",
    ),
    "input": ({"input": "hi"}, {}, "responses"),
    "input beside messages": ({"input": "hi", "messages": TURNS}, {}, "chat"),
    "Anthropic's header": ({"messages": TURNS}, {"anthropic-version": "2023-06-01"}, "messages"),
    "a system prompt of its own": ({"messages": TURNS, "system": "x"}, {}, "messages"),
    "max_tokens and blocks": ({"messages": BLOCKS, "max_tokens": 9}, {}, "messages"),
    "turns that are none": ({"messages": ODD, "max_tokens": 9}, {}, "chat"),
    "items": ({"input": [{"role": "user", "content": "hi"}]}, {}, "responses"),
    "input of an embedding model": ({"model": "text-embedding-3-small", "input": "hi"}, {}, "embeddings"),
    "input of an alias of one": ({"model": "vectors", "input": "hi"}, {}, "embeddings"),
    "input of one behind another": ({"models": ["nomic-embed-text"], "input": "hi"}, {}, "embeddings"),
    "texts": ({"input": ["hi", "ho"]}, {}, "embeddings"),
    "token numbers": ({"input": [1, 2]}, {}, "embeddings"),
    "a form of vectors": ({"input": "hi", "encoding_format": "base64"}, {}, "embeddings"),
    "input of a moderation model": ({"model": "omni-moderation-latest", "input": ["hi"]}, {}, "moderations"),
    "a voice": ({"input": "hi", "voice": "alloy"}, {}, "audio"),
    "a prompt": ({"prompt": "hi"}, {}, "completions"),
    "a prompt of an image model": ({"model": "dall-e-3", "prompt": "hi"}, {}, "images"),
    "a size": ({"prompt": "hi", "size": "1024x1024"}, {}, "images"),
    "documents": ({"query": "hi", "documents": ["a"]}, {}, "rerank"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "surface"), TOLD.values(), ids=TOLD)
async def test_the_members_tell_the_surface(
    body: dict[str, Any], headers: dict[str, str], surface: str, upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + '[aliases]\nvectors = ["first/text-embedding-3-small"]\n')
    assert (await gw.post("/v1/route", {"model": "first", **body}, headers)).json["surface"] == surface
    named = await gw.post("/v1/route?surface=completions", {"model": "first", **body}, headers)
    assert named.json["surface"] == "completions"


async def test_a_dry_run_has_the_headers_of_its_plan(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    answer = await gw.post("/v1/route", CHAT.request())
    told = {name: answer.headers[f"X-Nyuro-{name}"] for name in ("Model", "Candidates", "Attempts", "Route-Reason")}
    assert told == {"Model": "none", "Candidates": "first", "Attempts": "0", "Route-Reason": "model first"}
    assert answer.headers["X-Nyuro-Config"] == answer.json["config"]
    assert not upstream.seen


async def test_a_surface_that_nobody_knows_is_refused(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    answer = await gw.post("/v1/route?surface=embedings", CHAT.request())
    assert answer.status == 400
    assert all(name in answer.json["error"]["message"] for name in BY_NAME)


FORM = "multipart/form-data; boundary=cut"


def form(*fields: tuple[str, str]) -> bytes:
    parts = [f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    return "".join((*parts, "--cut--\r\n")).encode()


@pytest.mark.parametrize("surface", ["audio", "images"])
async def test_a_form_is_planned_where_the_surface_takes_one(
    surface: str, upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, more='endpoints = ["audio", "images"]'))
    body = form(("model", "first"), ("file", "sound"))
    answer = await gw.post(f"/v1/route?surface={surface}", body, {"Content-Type": FORM})
    assert [pick["model"] for pick in answer.json["candidates"]] == ["first"]


@pytest.mark.parametrize("path", ["/v1/route", "/v1/route?surface=chat"])
async def test_a_form_is_refused_where_no_surface_takes_it(path: str, upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    assert (await gw.post(path, form(("model", "first")), {"Content-Type": FORM})).status == 415


async def test_half_a_character_in_a_name_is_an_answer_and_no_fault(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, more='models = ["p-*"]'))
    answer = await gw.post("/v1/route", rb'{"model": "p-\ud83d", "messages": [{"role": "user", "content": "hi"}]}')
    assert answer.status == 200
    assert b"p-\\ud83d" in answer.body
    unknown = rb'{"model": "no-\ud83d", "messages": [{"role": "user", "content": "hi"}]}'
    answer = await gw.post("/v1/route", unknown)
    assert (answer.status, json_text.read(answer.body)["error"]["code"]) == (200, "model_not_found")
