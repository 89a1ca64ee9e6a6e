"""Each SDK on the surface of its own dialect: what it reads through the gateway is what it reads from the provider, and
what stands in the recording."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve

from .recordings import ABSENT, RECORDINGS, Recording, message_said, named, parametrized, said_in
from .sdks import (
    Heard,
    anthropic_client,
    ask,
    ask_async,
    async_anthropic_client,
    async_openai_client,
    final_completion,
    final_message,
    hear_async,
    is_for_sdk,
)
from .serving import Replay, Running

CUT = "oc-openrouter-tx-comments-then-cut-multibyte"  # without the gateway an SDK takes the bare end for success


def whole(recording: Recording) -> bool:
    return is_for_sdk(recording) and recording.name != CUT


def request_for(recording: Recording) -> dict[str, Any]:
    """As recorded, and asking for usage: some providers sent it unasked, which a gateway that asks cannot tell."""
    body = recording.asked()
    if recording.surface == "chat" and recording.stream:
        body["stream_options"] = {"include_usage": True}
    return body


def first_message(heard: Heard) -> Heard:
    """Up to the terminator: two recordings have a second message behind it, which the gateway drops."""
    stops = [number for number, event in enumerate(heard.documents) if event.get("type") == "message_stop"]
    return evolve(heard, documents=heard.documents[: stops[0] + 1]) if stops else heard


@parametrized(whole)
def test_the_blocking_client_reads_what_the_provider_said(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    body = request_for(recording)
    there = ask(replay.url, recording.surface, {**body, "model": recording.name})
    here = ask(gateway.url, recording.surface, {**body, "model": f"{recording.provider}/{recording.name}"})
    assert here.all() == first_message(there).all()
    assert here.said() == said_in(recording)


@parametrized(whole)
async def test_the_async_client_reads_what_the_provider_said(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    body = request_for(recording)
    there = await ask_async(replay.url, recording.surface, {**body, "model": recording.name})
    here = await ask_async(gateway.url, recording.surface, {**body, "model": f"{recording.provider}/{recording.name}"})
    assert here.all() == first_message(there).all()
    assert here.said() == said_in(recording)


@parametrized(lambda recording: whole(recording) and recording.surface == "messages" and recording.stream)
def test_what_the_client_puts_together_of_a_stream_is_what_was_said(gateway: Running, recording: Recording) -> None:
    body = recording.asked(model=f"messages/{recording.name}")
    assert final_message(gateway.url, body) == said_in(recording)


@parametrized(lambda recording: recording.name == CUT)
def test_an_answer_that_breaks_off_is_an_error_to_the_client(gateway: Running, recording: Recording) -> None:
    heard = ask(gateway.url, "chat", recording.asked(model=f"chat/{recording.name}"))
    assert heard.error is not None
    assert heard.said().text == "亚"


def test_the_beta_client_says_which_betas_it_means(gateway: Running, replay: Replay) -> None:
    """Its path has a query, its betas are a header, and both reach a provider that speaks Messages."""
    recording = named("ant-pa-memory-tool")
    body = recording.asked(model=f"messages/{recording.name}")
    mark = replay.mark()
    with anthropic_client(gateway.url) as client:
        message = client.beta.messages.create(
            model=body["model"], max_tokens=64, messages=body["messages"], betas=["context-management-2025-06-27"]
        )
    assert message_said(message.model_dump(warnings=False)) == said_in(recording)
    (seen,) = replay.since(mark)
    assert seen.headers["anthropic-beta"] == "context-management-2025-06-27"
    assert seen.headers["anthropic-version"] == client.default_headers["anthropic-version"]


@parametrized(lambda recording: recording.name == "oai-oc-streams-tool-call")
def test_what_the_openai_client_puts_together_of_a_stream_is_what_was_said(
    gateway: Running, recording: Recording
) -> None:
    body = recording.asked(model=f"chat/{recording.name}")
    assert final_completion(gateway.url, body) == said_in(recording)


AT_ONCE = 120


async def test_many_at_once_get_each_their_own_answer(gateway: Running) -> None:
    """All through one client of each kind, and so over a few connections; the providers send seven bytes at a time."""
    several = [recording for recording in RECORDINGS if whole(recording) and len(recording.body) < 6_000]
    asked = [several[number % len(several)] for number in range(AT_ONCE if several else 0)]
    if not asked:
        pytest.skip(ABSENT)
    async with async_openai_client(gateway.url) as gpt, async_anthropic_client(gateway.url) as claude:

        async def one(recording: Recording) -> Heard:
            body = request_for(recording) | {"model": f"{recording.provider}-7/{recording.name}"}
            return await hear_async(gpt if recording.surface == "chat" else claude, recording.surface, body)

        heard = await asyncio.gather(*map(one, asked))
    for recording, one_heard in zip(asked, heard, strict=True):
        assert one_heard.said() == said_in(recording)
