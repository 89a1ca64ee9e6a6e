"""What the official SDKs make of bytes: the judge of every stream and answer that the gateway writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anthropic
import httpx2
import openai
from attrs import frozen


@frozen
class Reading:
    """An answer as a client's program sees it. `calls` are names and parsed arguments, in order."""

    text: str
    calls: tuple[tuple[str, Any], ...]
    stop: str | None
    usage: Mapping[str, int | None]
    thinking: str = ""


def _serving(body: bytes, content_type: str) -> httpx2.Client:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=body)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def read_messages_stream(body: bytes) -> Reading:
    with (
        _serving(body, "text/event-stream") as http,
        anthropic.Anthropic(api_key="k", max_retries=0, http_client=http) as client,
        client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        return of_message(stream.get_final_message().model_dump(warnings=False))


def read_message(body: bytes) -> Reading:
    with (
        _serving(body, "application/json") as http,
        anthropic.Anthropic(api_key="k", max_retries=0, http_client=http) as client,
    ):
        message = client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        return of_message(message.model_dump(warnings=False))


def of_message(message: dict[str, Any]) -> Reading:
    content, usage = message["content"], message["usage"]
    return Reading(
        text="".join(block["text"] for block in content if block["type"] == "text"),
        calls=tuple((block["name"], block["input"]) for block in content if block["type"] == "tool_use"),
        stop=message["stop_reason"],
        usage={
            "input": usage["input_tokens"],
            "cache_read": usage.get("cache_read_input_tokens"),
            "cache_write": usage.get("cache_creation_input_tokens"),
            "output": usage["output_tokens"],
        },
        thinking="".join(block["thinking"] for block in content if block["type"] == "thinking"),
    )


def read_chat_stream(body: bytes) -> Reading:
    """Chunks put together as the SDK's users do: by index; an error chunk raises openai.APIError."""
    text, stop, usage, calls = "", None, None, dict[int, list[str]]()
    with (
        _serving(body, "text/event-stream") as http,
        openai.OpenAI(api_key="k", max_retries=0, http_client=http) as client,
    ):
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += _text(choice.delta.content)
                stop = choice.finish_reason or stop
                for call in choice.delta.tool_calls or ():
                    held = calls.setdefault(call.index, ["", ""])
                    if call.function:
                        held[0] += call.function.name or ""
                        held[1] += call.function.arguments or ""
    found = tuple((name, json.loads(arguments or "{}")) for name, arguments in calls.values())
    return Reading(text, found, stop, _chat_usage(usage.model_dump(warnings=False) if usage else {}))


def read_chat_answer(body: bytes) -> Reading:
    with (
        _serving(body, "application/json") as http,
        openai.OpenAI(api_key="k", max_retries=0, http_client=http) as client,
    ):
        answer = client.chat.completions.create(model="m", messages=[]).model_dump(warnings=False)
    choice = answer["choices"][0]
    calls = choice["message"].get("tool_calls") or ()
    return Reading(
        text=_text(choice["message"]["content"]),
        calls=tuple((call["function"]["name"], json.loads(call["function"]["arguments"] or "{}")) for call in calls),
        stop=choice["finish_reason"],
        usage=_chat_usage(answer.get("usage") or {}),
    )


def _chat_usage(usage: dict[str, Any]) -> dict[str, int | None]:
    """As it is billed: xAI counts reasoning apart from its completion tokens, it and Azure report more cached tokens
    than the prompt has, Moonshot has them outside of the details."""
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or usage.get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if completion is not None and usage.get("total_tokens") == (prompt or 0) + completion + reasoning:
        completion += reasoning
    return {"input_total": prompt, "cache_read": min(cached, prompt or 0), "output": completion}


def _text(content: Any) -> str:
    """Mistral's content is a list where it thinks."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def read_response_stream(body: bytes) -> Reading:
    """Through the SDK's own accumulator, which demands the order of events; an `error` event raises openai.APIError."""
    with (
        _serving(body, "text/event-stream") as http,
        openai.OpenAI(api_key="k", max_retries=0, http_client=http) as client,
        client.responses.stream(model="m", input="x") as stream,
    ):
        final = None
        for event in stream:
            if event.type in ("response.completed", "response.incomplete", "response.failed"):
                final = event.response.model_dump(warnings=False)
    assert final is not None, "a stream ends in a terminal event"
    return of_response(final)


def read_response(body: bytes) -> Reading:
    with (
        _serving(body, "application/json") as http,
        openai.OpenAI(api_key="k", max_retries=0, http_client=http) as client,
    ):
        return of_response(client.responses.create(model="m", input="x").model_dump(warnings=False))


def of_response(response: dict[str, Any]) -> Reading:
    """`stop` is the status, or the reason of an incomplete one; calls are the client's own, custom ones with their
    text."""
    output, details = response["output"], response.get("incomplete_details") or {}
    content = [part for item in output if item["type"] == "message" for part in item["content"] or ()]
    thoughts = [item for item in output if item["type"] == "reasoning"]
    pieces = [piece for item in thoughts for piece in [*(item["summary"] or ()), *(item.get("content") or ())]]
    usage = response.get("usage") or {}
    return Reading(
        text="".join(part.get("text") or part.get("refusal") or "" for part in content),
        calls=tuple(
            (item["name"], json.loads(item["arguments"] or "{}") if "arguments" in item else item["input"])
            for item in output
            if item["type"] in ("function_call", "custom_tool_call")
        ),
        stop=details.get("reason") or response["status"],
        usage={
            "input_total": usage.get("input_tokens"),
            "cache_read": (usage.get("input_tokens_details") or {}).get("cached_tokens"),
            "output": usage.get("output_tokens"),
        },
        thinking="".join(piece["text"] for piece in pieces),
    )
