"""Every recording through every surface, whole and cut into pieces, as the official SDK of the surface reads it there:
what a program hears is what was recorded.

`meaning.py` reads both, what was recorded by hand, and what the SDK gives. The bytes that leave are looked at in
test_every_pair.py, and those of the same dialect in test_answer_bytes.py.
"""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from attrs import evolve

from .meaning import READ, Meaning, folded_response
from .recordings import EVERY, Recording, parametrized
from .sdks import ERRORS, ask
from .serving import Running
from .test_every_pair import SURFACES, expected, there

# Sent byte by byte, each byte is a read of the gateway's: longer ones are cut so in the tests of the dialects.
LONG = 70_000
NAMES = frozenset(recording.name for recording in EVERY)
each_surface = pytest.mark.parametrize("surface", SURFACES)


def body_for(recording: Recording, surface: str, split: int) -> dict[str, Any]:
    """A question, and the tools that the recording calls."""
    schema = {"type": "object", "properties": {}}
    names = sorted({name for _, name, _ in there(recording).calls}) if recording.good else []
    tail = f"-{split}" if split else ""
    asked: dict[str, Any] = {"model": f"{recording.provider}{tail}/{recording.name}"}
    turns = [{"role": "user", "content": "Go on."}]
    tools: list[dict[str, Any]]
    match surface:
        case "messages":
            tools = [{"name": name, "input_schema": schema} for name in names]
            asked |= {"messages": turns, "max_tokens": 512}
        case "chat":
            tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in names]
            asked |= {"messages": turns, **({"stream_options": {"include_usage": True}} if recording.stream else {})}
        case _:
            tools = [{"type": "function", "name": name, "parameters": schema} for name in names]
            asked["input"] = turns
    return asked | ({"tools": tools} if tools else {}) | ({"stream": True} if recording.stream else {})


def heard(gateway: Running, recording: Recording, surface: str, split: int) -> Meaning:
    told = ask(gateway.url, surface, body_for(recording, surface, split))
    means = READ[SURFACES[surface]](list(told.documents))
    if told.error is not None and surface == "responses":
        means = evolve(means, text=folded_response(told.documents)[0])  # no event at the end repeats what was said
    return evolve(means, failed=means.failed or told.error is not None)


def wanted(recording: Recording, surface: str) -> Meaning:
    said = there(recording)
    return said if recording.surface == surface else expected(said, surface)


def check(gateway: Running, recording: Recording, surface: str, split: int) -> None:
    """Ids of calls and proofs are those of the dialect: test_every_pair.py looks at them."""
    here, want = heard(gateway, recording, surface, split), wanted(recording, surface)
    assert [call[1:] for call in here.calls] == [call[1:] for call in want.calls]
    assert evolve(here, calls=(), proofs=()) == evolve(want, calls=(), proofs=())


def answers(recording: Recording) -> bool:
    """To its end, and not with a failure."""
    return recording.good and not there(recording).failed


def fails(recording: Recording) -> bool:
    return recording.good and there(recording).failed


@each_surface
@parametrized(answers, among=EVERY)
def test_an_answer_means_what_was_recorded(gateway: Running, recording: Recording, surface: str) -> None:
    check(gateway, recording, surface, 0)


@each_surface
@parametrized(answers, among=EVERY, quick=())
def test_it_means_the_same_cut_into_pieces_of_seven_bytes(gateway: Running, recording: Recording, surface: str) -> None:
    check(gateway, recording, surface, 7)


@each_surface
@parametrized(lambda recording: answers(recording) and len(recording.body) <= LONG, among=EVERY, quick=())
def test_it_means_the_same_byte_by_byte(gateway: Running, recording: Recording, surface: str) -> None:
    check(gateway, recording, surface, 1)


# -- what goes wrong -------------------------------------------------------------------------------------------------


@each_surface
@pytest.mark.parametrize("split", [0, pytest.param(1, marks=pytest.mark.slow), 7], ids=["whole", "by one", "by seven"])
@parametrized(fails, among=EVERY)
def test_a_stream_that_fails_or_breaks_off_is_an_error_behind_what_was_said(
    gateway: Running, recording: Recording, surface: str, split: int
) -> None:
    try:
        means = heard(gateway, recording, surface, split)
    except ERRORS:
        assert not there(recording).text, "what was said before the failure has to be heard"
        return
    assert means.failed
    assert means.text == there(recording).text


# Whose fault it is decides what a client is told: our key and our account are not its business.
OURS = {
    "cfw-tx-native-account-limited-429": "the account's quota is used up: the operator has to act",
    "cfw-tx-no-route-400": "Cloudflare's own envelope, of an address that the operator wrote",
}


@each_surface
@parametrized(lambda recording: not recording.good, among=EVERY, quick=NAMES)
def test_an_error_has_its_status_its_words_and_its_wait(gateway: Running, recording: Recording, surface: str) -> None:
    with pytest.raises(ERRORS) as raised:
        ask(gateway.url, surface, body_for(recording, surface, 0))
    error = raised.value
    assert isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
    told = error.response.json()["error"]["message"]
    if recording.status in (401, 403) or recording.name in OURS:
        assert error.status_code in (recording.status, 502)
        assert _message(recording) not in told or recording.surface == surface
        return
    status = {529: 529 if surface == "messages" else 503}.get(recording.status, recording.status)  # Anthropic's own
    assert (error.status_code, told) == (status, _message(recording))
    if "retry-after" in recording.headers:
        assert error.response.headers["retry-after"] == recording.headers["retry-after"]


def _message(recording: Recording) -> str:
    told = json.loads(recording.body)
    told = told[0] if isinstance(told, list) else told
    error = told.get("error") or told["errors"][0]
    return str(error if isinstance(error, str) else error["message"])
