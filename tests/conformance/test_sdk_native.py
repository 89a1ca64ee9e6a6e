"""Each SDK on the surface of its own dialect: what it reads through the gateway is what it reads from the provider, and
what stands in the recording."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from .recordings import Recording, parametrized, said_in
from .sdks import Heard, ask, ask_async, final_message, is_for_sdk
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
