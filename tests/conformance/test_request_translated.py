"""A recorded request put to a provider of the other dialect: every word, call and tool of it arrives there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from .recordings import Recording, parametrized
from .sdks import KEY
from .serving import Replay, Running, post
from .test_sdk_translated import OTHER, calls_of

Body = Mapping[str, Any]
# Whoever answers: it is the request that is looked at.
ANSWERS = {"chat": ("chat", "oai-pa-stop-settings-openai"), "messages": ("messages", "ant-pa-memory-tool")}

# What the other dialect has no words for: name -> the reason that the client is told.
REFUSED: dict[str, str] = {
    "oai-en-audio-to-text": "takes no audio",
    "oai-en-text-to-audio": "answers in text only",
    "oc-bedrock-mantle-rl-audio-models-bedrock-mistral-voxtral-mini-3b-2507-can-unders": "takes no audio",
    **dict.fromkeys(
        (
            "ant-pa-advisor-tool-stream",
            "ant-pa-memory-tool",
            "ant-pa-native-tool-search-streaming",
            "ant-pa-pause-turn-web-search-streaming-vcr",
            "ant-pa-text-parts-ahead-of-built-in-tool-call",
            "ant-pa-to-deferred-capability-history-replay",
            "ant-pa-web-fetch-tool-stream",
            "ant-pa-web-search-tool",
        ),
        "is a tool that its provider runs itself",
    ),
}


@frozen
class Content:
    """`texts` without white space, in the order of the turns, system first: where paragraphs are joined is a matter of
    the dialect."""

    texts: str = field(repr=False)
    calls: tuple[tuple[str, Any], ...]
    results: tuple[str, ...] = field(repr=False)
    tools: tuple[str, ...]
    images: int


def of_chat(body: Body) -> Content:
    messages = body["messages"]
    system = [message for message in messages if message["role"] in ("system", "developer")]
    turns = [message for message in messages if message not in system]
    said = [message for message in (*system, *turns) if message["role"] != "tool"]
    functions = [call["function"] for message in turns for call in message.get("tool_calls") or ()]
    parts = [part for message in messages for part in _list(message.get("content"))]
    return Content(
        texts=_bare(text for message in said for text in _texts(message.get("content"))),
        calls=tuple((function["name"], json.loads(function["arguments"] or "{}")) for function in functions),
        results=tuple(_bare(_texts(turn["content"])) for turn in turns if turn["role"] == "tool"),
        tools=tuple(tool["function"]["name"] for tool in body.get("tools") or () if "function" in tool),
        images=sum(part.get("type") == "image_url" for part in parts),
    )


def of_messages(body: Body) -> Content:
    blocks = [block for message in body["messages"] for block in _blocks(message["content"])]
    results = [block for block in blocks if block["type"] == "tool_result"]
    inner = [part for result in results for part in _list(result.get("content"))]
    return Content(
        texts=_bare((*_texts(body.get("system")), *filter(None, map(_written, blocks)))),
        calls=tuple((block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"),
        results=tuple(_bare(_texts(result.get("content"))) for result in results),
        tools=tuple(tool["name"] for tool in body.get("tools") or () if "input_schema" in tool),
        images=sum(block["type"] == "image" for block in (*blocks, *inner)),
    )


READ = {"chat": of_chat, "messages": of_messages}


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _blocks(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _written(block: Mapping[str, Any]) -> str:
    """A document that is text arrives as text, marked as what it is."""
    if block["type"] == "document" and block["source"]["type"] == "text":
        return f'<document title="{block["title"]}">{block["source"]["data"]}</document>'
    return str(block["text"]) if block["type"] == "text" else ""


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in _list(content):
        if isinstance(part, dict) and part.get("type") == "text":
            yield part["text"]


def _bare(texts: Iterable[str]) -> str:
    return "".join("".join(texts).split())


def check(gateway: Running, replay: Replay, recording: Recording) -> None:
    provider, case = ANSWERS[OTHER[recording.surface]]
    body = {**recording.asked(), "model": f"{provider}/{case}"}
    body.pop("stream", None)
    body.pop("stream_options", None)
    mark = replay.mark()
    answer = post(gateway.url, recording.surface, json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}"})
    if recording.name in REFUSED:
        assert answer.status == 400
        assert REFUSED[recording.name] in answer.json()["error"]["message"]
        assert not replay.since(mark)
        return
    assert answer.status == 200, answer.body
    (seen,) = replay.since(mark)
    assert READ[OTHER[recording.surface]](seen.json()) == READ[recording.surface](body)


def has_request(recording: Recording) -> bool:
    return recording.request is not None and "messages" in recording.request


@calls_of("chat")
@parametrized(lambda recording: has_request(recording) and recording.surface == "chat")
def test_a_chat_request_arrives_whole_at_a_messages_provider(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    check(gateway, replay, recording)


@calls_of("messages")
@parametrized(lambda recording: has_request(recording) and recording.surface == "messages")
def test_a_messages_request_arrives_whole_at_a_chat_provider(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    check(gateway, replay, recording)


@calls_of("chat")
@parametrized(lambda recording: recording.name == "oai-tl-openai")
def test_several_answers_to_one_question_are_more_than_messages_can_say(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    mark = replay.mark()
    body = {**recording.asked(), "model": "/".join(ANSWERS["messages"]), "n": 2}
    answer = post(gateway.url, "chat", json.dumps(body).encode())
    assert (answer.status, answer.json()["error"]["param"], answer.json()["error"]["code"]) == (400, "n", "unsupported")
    assert not replay.since(mark)
