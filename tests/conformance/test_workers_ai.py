"""Workers AI's own words, which no SDK speaks, mended into chat's; everything else of it passes as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Start
from .meaning import READ
from .recordings import Recording, data_of, documents, events, frames, parametrized
from .sdks import ask, ask_async
from .serving import Replay, Running, post, provider

NATIVE = "cfw-tx-native-stream-documented"
TEXT = "New York is located in the"


def native(recording: Recording) -> bool:
    return recording.name == NATIVE


def body_for(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Where is New York?"}], "stream": True, **more}


@pytest.mark.parametrize("split", [0, 1, 7], ids=["whole", "by one", "by seven"])
@parametrized(native)
def test_a_native_stream_becomes_chunks_of_a_chat(gateway: Running, recording: Recording, split: int) -> None:
    tail = f"-{split}" if split else ""
    answer = post(gateway.url, "chat", json.dumps(body_for(f"workers-ai{tail}/{recording.name}")).encode())
    *chunks, done = frames(answer.body)
    assert done == b"data: [DONE]\n\n"
    assert len(chunks) == len(events(recording.body))
    for chunk, there in zip(map(json.loads, map(data_of, chunks)), events(recording.body), strict=True):
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["choices"] == [{"index": 0, "delta": {"content": there["response"]}, "finish_reason": None}]


@pytest.mark.parametrize("surface", ["chat", "messages"])
@parametrized(native)
async def test_both_sdks_read_a_native_stream(gateway: Running, recording: Recording, surface: str) -> None:
    body = body_for(f"workers-ai/{recording.name}", max_tokens=99)
    for heard in (ask(gateway.url, surface, body), await ask_async(gateway.url, surface, body)):
        assert (heard.said().text, heard.error) == (TEXT, None)
        assert heard.said().stop == (None if surface == "chat" else "end_turn")


# What stands in `content` -> what its models take.
CONTENTS: dict[str, tuple[Any, Any]] = {
    "a string stays": ("Hi", "Hi"),
    "texts become one": ([{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}], "Hi\n\nthere"),
    "nothing becomes an empty one": (None, ""),
}


@pytest.mark.parametrize(("content", "arrived"), CONTENTS.values(), ids=CONTENTS)
@parametrized(lambda recording: recording.name == "cfw-oc-llama-3-1-8b-text")
def test_a_models_content_is_a_string(
    gateway: Running, replay: Replay, recording: Recording, content: Any, arrived: Any
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    mark = replay.mark()
    body = body_for(f"workers-ai/{recording.name}", messages=messages, x_big=0)
    raw = json.dumps(body).replace('"x_big": 0', '"x_big": 12345678901234567')
    assert post(gateway.url, "chat", raw.encode()).status == 200
    (seen,) = replay.since(mark)
    there = seen.json()
    assert [message["content"] for message in there["messages"]] == ["Hi", arrived]
    assert there["x_big"] == 12345678901234567
    assert there["model"] == recording.name


@pytest.mark.parametrize("surface", ["chat", "messages", "responses"])
@parametrized(native)
def test_the_native_api_is_asked_under_the_models_name(
    start: Start, replay: Replay, recording: Recording, surface: str
) -> None:
    """Where the base URL is that of `/ai/run`."""
    gateway = start(provider("cf", "workers-ai", f"{replay.url}/client/v4/accounts/ACCOUNT/ai/run"))
    mark = replay.mark()
    body: dict[str, Any] = {"model": f"cf/@cf/{recording.name}", "stream": True}
    if surface == "responses":
        body["input"] = "Where is New York?"
    else:
        body |= {"messages": [{"role": "user", "content": "Where is New York?"}], "max_tokens": 99}
    answer = post(gateway.url, surface, json.dumps(body).encode())
    assert answer.status == 200
    (seen,) = replay.since(mark)
    assert seen.path == f"/client/v4/accounts/ACCOUNT/ai/run/@cf/{recording.name}"
    assert seen.json()["messages"] == [{"role": "user", "content": "Where is New York?"}]
    assert not seen.json().keys() & {"model", "stream_options", "input"}
    said = READ[{"chat": "openai-chat", "messages": "anthropic", "responses": "openai-responses"}[surface]]
    assert said(documents(answer.body, stream=True)).text == TEXT


def test_the_native_api_is_for_conversations(start: Start, replay: Replay) -> None:
    table = provider("cf", "workers-ai", f"{replay.url}/ai/run") + 'endpoints = ["embeddings"]\n'
    answer = post(start(table).url, "embeddings", b'{"model": "cf/@cf/x", "input": "Hi"}')
    assert (answer.status, answer.json()["error"]["code"]) == (400, "unsupported")
