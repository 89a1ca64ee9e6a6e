from __future__ import annotations

from typing import Any

import pytest
from each import each

from proxy.dialects import DIALECTS, coherence
from proxy.errors import InvalidRequest

CHAT, MESSAGES, RESPONSES = "openai-chat", "anthropic", "openai-responses"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "c", "name": "f", "input": {}}


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, *messages]}


def messages(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}, *turns]}


def image(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


# Dialect, request, and the place of what is wrong; None where nothing is.
REQUESTS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "a result of a call, in chat": (
        CHAT, chat({"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": ""}),
        None,
    ),
    "a result of no call, in chat": (
        CHAT, chat({"role": "tool", "tool_call_id": "z", "content": "x"}), "messages[1].content"
    ),
    "a result before its call, in chat": (
        CHAT, chat({"role": "tool", "tool_call_id": "c", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}),
        "messages[1].content",
    ),
    "a result of a call, in messages": (
        MESSAGES,
        messages(
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [image("aGk=")]}]},
        ),
        None,
    ),
    "a result of no call, in messages": (
        MESSAGES, messages({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "z", "content": "x"}]}),
        "messages[1].content[0]",
    ),
    "a result of no call, in responses": (
        RESPONSES, {"input": [{"type": "function_call_output", "call_id": "z", "output": "x"}]}, "input[0]"
    ),
    "a picture that is none, in messages": (
        MESSAGES, messages({"role": "user", "content": [image("@@@@")]}), "messages[1].content[0]"
    ),
    "no picture at all in a result": (
        MESSAGES,
        messages(
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [image("a b=c")]}]},
        ),
        "messages[2].content[0].content[0]",
    ),
    "a picture that is none, in chat": (
        CHAT,
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,@"}}]}),
        "messages[1].content[0]",
    ),
    "a picture that is none, in responses": (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,@"}]}]},
        "input[0].content[0]",
    ),
    "sound that is none": (
        CHAT,
        chat({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "é", "format": "wav"}}]}),
        "messages[1].content[0]",
    ),
    "base64 with line breaks and without padding": (
        MESSAGES, messages({"role": "user", "content": [image("aG\nk")]}), None
    ),
    "base64 for addresses": (MESSAGES, messages({"role": "user", "content": [image("_-_-")]}), None),
}  # fmt: skip


@each(("dialect", "body", "place"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_no_provider_would_take_is_refused_with_the_place(
    dialect: str, body: dict[str, Any], place: str | None
) -> None:
    request = DIALECTS[dialect].codec().decode_request({"model": "m", **body})
    if place is None:
        coherence.check(request)
        return
    with pytest.raises(InvalidRequest) as refused:
        coherence.check(request)
    assert refused.value.param == place


def test_it_takes_no_time_to_see_that_a_large_file_is_base64() -> None:
    """One pass without a way back."""
    coherence.check(
        DIALECTS[MESSAGES]
        .codec()
        .decode_request({"model": "m", **messages({"role": "user", "content": [image("A" * 20_000_000)]})})
    )


@pytest.mark.parametrize("cap", [10**30, -(10**30), 1e300])
def test_a_huge_number_is_refused_on_messages_too(cap: float) -> None:
    with pytest.raises(InvalidRequest) as refused:
        DIALECTS[MESSAGES].codec().decode_request({"model": "m", **messages(), "max_tokens": cap})
    assert refused.value.param == "max_tokens"
