"""Where a client of Responses meets a provider that speaks it, bytes pass both ways, the `[DONE]` of some included."""

from __future__ import annotations

import json

import pytest

from .recordings import EVERY, Recording, parametrized
from .serving import Replay, Running, post

FAILS = "resp-pr-stream-rate-limited-1"  # before it has said a word: the status tells it


def passes(recording: Recording) -> bool:
    return recording.surface == "responses" and recording.good and recording.name != FAILS


def body_for(recording: Recording, model: str) -> bytes:
    body = recording.request if recording.request is not None else {"input": "Go on.", "stream": recording.stream}
    return json.dumps({**body, "model": model}, indent=1).encode()


@pytest.mark.parametrize("cut", [0, pytest.param(1, marks=pytest.mark.slow), 7], ids=["whole", "by one", "by seven"])
@parametrized(passes, among=EVERY)
def test_requests_and_answers_pass_byte_for_byte(
    gateway: Running, replays: dict[int, Replay], recording: Recording, cut: int
) -> None:
    model = f"responses{f'-{cut}' if cut else ''}/{recording.name}"
    mark = replays[cut].mark()
    answer = post(gateway.url, "responses", body_for(recording, model))
    assert (answer.status, answer.cut) == (200, False)
    assert answer.body == recording.body
    (seen,) = replays[cut].since(mark)
    assert seen.body == body_for(recording, recording.name)


@parametrized(lambda recording: recording.name == FAILS, among=EVERY)
def test_a_failure_before_the_first_word_has_its_status(gateway: Running, recording: Recording) -> None:
    answer = post(gateway.url, "responses", body_for(recording, f"responses/{recording.name}"))
    assert answer.status == 429
    assert "Request too large" in answer.json()["error"]["message"]
