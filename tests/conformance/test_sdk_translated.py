"""Each SDK against providers of the other dialect: the same text, calls, stop reason and usage as in the recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from attrs import evolve

from .recordings import Recording, Said, parametrized, said_in
from .sdks import ask, ask_async, final_completion, final_message
from .serving import Running

F = TypeVar("F", bound=Callable[..., Any])

STOPS = {
    "messages": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"},
    "chat": {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",  # chat has no word for it: a client that cannot resume takes what there is
        "max_tokens": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    },
}
OTHER = {"chat": "messages", "messages": "chat"}

# What the other dialect cannot say, or what a provider's recording does not say: name -> changed expectation, reason.
EXCEPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "cfw-oc-llama-3-1-8b-text": (
        {"usage": {"input": 45, "cached": 0, "output": 2}},
        "Cloudflare counts in the last chunk but one; its own last chunk says zero of everything",
    ),
}


def calls_of(surface: str) -> Callable[[F], F]:
    """Tells the report which surface is called: not the one that the recording speaks."""

    def told(function: F) -> F:
        function.surface = surface  # type: ignore[attr-defined]
        return function

    return told


def request_for(recording: Recording, surface: str, *, stream: bool) -> dict[str, Any]:
    """In the client's words: a question, and the tools that the recording calls."""
    names = sorted({name for name, _ in said_in(recording).calls})
    schema = {"type": "object", "properties": {}}
    body: dict[str, Any] = {
        "model": f"{recording.provider}/{recording.name}",
        "messages": [{"role": "user", "content": "Go on."}],
    }
    if surface == "messages":
        tools: list[dict[str, Any]] = [{"name": name, "input_schema": schema} for name in names]
        body["max_tokens"] = 512
    else:
        tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in names]
        if stream:
            body["stream_options"] = {"include_usage": True}
    return {**body, **({"tools": tools} if tools else {}), **({"stream": True} if stream else {})}


def translated(recording: Recording, surface: str) -> Said:
    """What the recording says, in the words of the other surface."""
    said = said_in(recording)
    stop = STOPS[surface].get(said.stop or "stop", said.stop)
    if surface == "messages" and said.calls and said.stop == "stop":
        stop = "tool_use"  # a forced call ends with "stop" in OpenAI's words
    usage = said.usage
    if usage is None and surface == "messages":
        usage = {"input": 0, "cached": 0, "output": 0}  # Messages always counts; nothing told is nothing counted
    changed, _ = EXCEPTIONS.get(recording.name, ({}, ""))
    return evolve(said, **{"stop": stop, "usage": usage, **changed})


def streams(recording: Recording) -> bool:
    return recording.good and recording.stream


def speaks_chat(recording: Recording) -> bool:
    return recording.good and recording.surface == "chat" and ends_well(recording)


def speaks_messages(recording: Recording) -> bool:
    return recording.good and recording.surface == "messages"


def ends_well(recording: Recording) -> bool:
    """With its terminator, if not with a reason: then all was said."""
    said = said_in(recording)
    return not said.failed and (said.stop is not None or not recording.stream or b"[DONE]" in recording.body)


def check(gateway: Running, recording: Recording, surface: str, *, stream: bool) -> None:
    heard = ask(gateway.url, surface, request_for(recording, surface, stream=stream))
    assert heard.error is None
    assert heard.said() == translated(recording, surface)


@calls_of("messages")
@parametrized(speaks_chat)
def test_the_anthropic_client_reads_what_a_chat_provider_said(gateway: Running, recording: Recording) -> None:
    check(gateway, recording, "messages", stream=recording.stream)


@calls_of("messages")
@parametrized(lambda recording: speaks_chat(recording) and recording.stream)
def test_what_the_anthropic_client_puts_together_is_what_a_chat_provider_said(
    gateway: Running, recording: Recording
) -> None:
    body = request_for(recording, "messages", stream=True)
    assert final_message(gateway.url, body) == translated(recording, "messages")


@calls_of("chat")
@parametrized(speaks_messages)
def test_the_openai_client_reads_what_a_messages_provider_said(gateway: Running, recording: Recording) -> None:
    check(gateway, recording, "chat", stream=recording.stream)


@calls_of("chat")
@parametrized(lambda recording: speaks_messages(recording) and recording.stream)
def test_what_the_openai_client_puts_together_is_what_a_messages_provider_said(
    gateway: Running, recording: Recording
) -> None:
    body = request_for(recording, "chat", stream=True)
    assert final_completion(gateway.url, body) == translated(recording, "chat")


@calls_of("messages")
@parametrized(speaks_chat)
async def test_the_async_anthropic_client_reads_what_a_chat_provider_said(
    gateway: Running, recording: Recording
) -> None:
    heard = await ask_async(gateway.url, "messages", request_for(recording, "messages", stream=recording.stream))
    assert heard.said() == translated(recording, "messages")


@calls_of("chat")
@parametrized(speaks_messages)
async def test_the_async_openai_client_reads_what_a_messages_provider_said(
    gateway: Running, recording: Recording
) -> None:
    heard = await ask_async(gateway.url, "chat", request_for(recording, "chat", stream=recording.stream))
    assert heard.said() == translated(recording, "chat")


# -- a document where a stream was asked for -------------------------------------------------------------------------


@calls_of("messages")
@parametrized(lambda recording: speaks_chat(recording) and not recording.stream)
def test_the_anthropic_client_that_streams_reads_a_whole_chat_answer(gateway: Running, recording: Recording) -> None:
    check(gateway, recording, "messages", stream=True)


@calls_of("chat")
@parametrized(lambda recording: speaks_messages(recording) and not recording.stream)
def test_the_openai_client_that_streams_reads_a_whole_message(gateway: Running, recording: Recording) -> None:
    check(gateway, recording, "chat", stream=True)


@parametrized(lambda recording: recording.good and not recording.stream)
def test_a_client_that_streams_reads_a_whole_answer_of_its_own_dialect(gateway: Running, recording: Recording) -> None:
    surface, said = recording.surface, said_in(recording)
    heard = ask(gateway.url, surface, request_for(recording, surface, stream=True))
    assert heard.said() == evolve(said, stop=said.stop or "stop")  # Snowflake's is "", with which no stream can end


# -- errors within a stream ------------------------------------------------------------------------------------------


@calls_of("messages")
@pytest.mark.parametrize("client", ["blocking", "async"])
@parametrized(lambda recording: recording.surface == "chat" and streams(recording) and not ends_well(recording))
async def test_a_stream_that_fails_is_an_error_to_the_anthropic_client(
    gateway: Running, recording: Recording, client: str
) -> None:
    body = request_for(recording, "messages", stream=True)
    heard = (
        ask(gateway.url, "messages", body) if client == "blocking" else await ask_async(gateway.url, "messages", body)
    )
    assert heard.error is not None
    assert heard.said().text == said_in(recording).text
    assert not any(event["type"] == "message_stop" for event in heard.documents)
