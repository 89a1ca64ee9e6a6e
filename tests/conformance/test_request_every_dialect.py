"""A recorded request put to a provider of every other dialect: each word, call, result, tool and picture of it arrives
there, or it is refused for a reason that names the member, and nobody is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
from attrs import field, frozen

from .recordings import NATIVE, Recording, parametrized
from .serving import Replay, Running, post

Body = Mapping[str, Any]
# Whoever answers: it is the request that is looked at.
ANSWERS = {
    "chat": ("chat", "oai-pa-stop-settings-openai"),
    "messages": ("messages", "ant-pa-memory-tool"),
    "responses": ("responses", "resp-pa-prompted-output-multiple"),
    "gemini": ("gemini", "gem-pa-model-safety-settings"),
    "ollama": ("ollama", "oll-tl-ollama-chat-tool-calls-legacy"),
}
# What some dialect has no words for. A refusal has to be for one of these.
REASONS = (
    "takes no audio",
    "have other voices",
    "is a tool that its provider runs itself",
    "runs no tools of its own",
    "does not run",
    "answers in text",
    "only where there are no tools",
    "cannot read this image from its URL",
    "cannot be made to call a tool",
    "takes text and pictures only",
    "fetches no pictures",
    "send the earlier turns themselves",
)


@frozen
class Said:
    """`texts` without white space, system first: how paragraphs are joined is a matter of the dialect. `results` in the
    order of the turns; `tools` are those of the client, and `images` counted wherever they stand."""

    texts: str = field(repr=False)
    calls: tuple[tuple[str, Any], ...]
    results: tuple[str, ...] = field(repr=False)
    tools: tuple[str, ...]
    images: int


def bare(texts: Iterable[str]) -> str:
    return "".join("".join(texts).split())


def parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [] if content is None else [{"type": "text", "text": content}]


def texts(content: Any) -> Iterator[str]:
    for part in parts(content):
        if part.get("type") in ("text", "input_text", "output_text"):
            yield part["text"]
        elif part.get("type") == "refusal":
            yield part["refusal"]
        elif part.get("type") == "document" and part["source"]["type"] == "text":
            title = f' title="{part["title"]}"' if part.get("title") else ""
            yield f"<document{title}>{part['source']['data']}</document>"


def images(content: Any) -> int:
    return sum(part.get("type") in ("image", "image_url", "input_image") for part in parts(content))


def of_chat(body: Body) -> Said:
    """Ollama's words, too, which are nearly the same."""
    turns = sorted(body["messages"], key=lambda turn: turn["role"] not in ("system", "developer"))
    functions = [call["function"] for turn in turns for call in turn.get("tool_calls") or ()]
    return Said(
        texts=bare(text for turn in turns if turn["role"] != "tool" for text in texts(turn.get("content"))),
        calls=tuple((it["name"], _parsed(it["arguments"])) for it in functions),
        results=tuple(bare(texts(turn["content"])) for turn in turns if turn["role"] == "tool"),
        tools=tuple(
            tool[kind]["name"] for tool in body.get("tools") or () for kind in ("function", "custom") if kind in tool
        ),
        images=sum(images(turn.get("content")) + len(turn.get("images") or ()) for turn in turns),
    )


def of_messages(body: Body) -> Said:
    blocks = [block for turn in body["messages"] for block in parts(turn["content"])]
    results = [block for block in blocks if block["type"] == "tool_result"]
    return Said(
        texts=bare((*texts(body.get("system")), *texts(blocks))),
        calls=tuple((block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"),
        results=tuple(bare(texts(result.get("content"))) for result in results),
        tools=tuple(tool["name"] for tool in body.get("tools") or () if "input_schema" in tool),
        images=images(blocks) + sum(images(result.get("content")) for result in results),
    )


def of_responses(body: Body) -> Said:
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    turns = sorted(
        (item for item in items if "role" in item), key=lambda turn: turn["role"] not in ("system", "developer")
    )
    calls = [item for item in items if item.get("type") in ("function_call", "custom_tool_call")]
    results = [item["output"] for item in items if str(item.get("type")).endswith("call_output")]
    return Said(
        texts=bare((body.get("instructions") or "", *(text for turn in turns for text in texts(turn["content"])))),
        calls=tuple((call["name"], _parsed(call.get("arguments") or call.get("input"))) for call in calls),
        results=tuple(bare(texts(result)) for result in results),
        tools=tuple(tool["name"] for tool in body.get("tools") or () if tool["type"] in ("function", "custom")),
        images=sum(map(images, (*(turn["content"] for turn in turns), *results))),
    )


def of_gemini(body: Body) -> Said:
    found = [part for turn in body["contents"] for part in turn["parts"]]
    answers = [part["functionResponse"] for part in found if "functionResponse" in part]
    calls = [part["functionCall"] for part in found if "functionCall" in part]
    declared = [tool for tools in body.get("tools") or () for tool in tools.get("functionDeclarations") or ()]
    instructions = [part["text"] for part in (body.get("systemInstruction") or {}).get("parts") or ()]
    shown = [*found, *(part for answer in answers for part in answer.get("parts") or ())]
    media = [part.get("inlineData") or part.get("fileData") or {} for part in shown]
    return Said(
        texts=bare((*instructions, *(part["text"] for part in found if "text" in part and not part.get("thought")))),
        calls=tuple((call["name"], call.get("args") or {}) for call in calls),
        results=tuple(bare(map(_response, answers)) for answers in [[answer] for answer in answers]),
        tools=tuple(tool["name"] for tool in declared),
        images=sum(str(one.get("mimeType")).startswith("image/") for one in media),
    )


def _response(answer: Body) -> str:
    (said,) = answer["response"].values() if len(answer["response"]) == 1 else [answer["response"]]
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _parsed(arguments: Any) -> Any:
    return arguments if isinstance(arguments, dict) else json.loads(arguments or "{}")


READ: dict[str, Callable[[Body], Said]] = {
    "chat": of_chat, "ollama": of_chat, "messages": of_messages, "responses": of_responses, "gemini": of_gemini,
}  # fmt: skip


def asks(recording: Recording) -> bool:
    return recording.request is not None and ("messages" in recording.request or "input" in recording.request)


@pytest.mark.parametrize("upstream", ANSWERS)
@parametrized(asks, among=NATIVE)
def test_a_request_arrives_whole_or_is_refused(
    gateway: Running, replay: Replay, recording: Recording, upstream: str
) -> None:
    body = {**recording.asked(), "model": "/".join(ANSWERS[upstream])}
    body.pop("stream", None)
    body.pop("stream_options", None)
    mark = replay.mark()
    answer = post(gateway.url, recording.surface, json.dumps(body).encode())
    if answer.status == 400:
        error = answer.json()["error"]
        code, param = error.get("code"), error.get("param")
        if recording.surface == "messages":
            code, param = error["details"]["error_code"], error["details"]["param"]
        assert upstream != recording.surface, "its own dialect takes whatever there is"
        assert code == "unsupported", error
        assert param
        assert any(reason in error["message"] for reason in REASONS), error["message"]
        assert not replay.since(mark)
        return
    assert answer.status == 200, answer.body
    (seen,) = replay.since(mark)
    assert READ[upstream](seen.json()) == READ[recording.surface](body)
