"""Every recording through every surface of another dialect: all that the provider said arrives, in types that the SDK
of the surface knows, and nothing is made up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from attrs import evolve
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from .meaning import READ, Meaning, Tokens, folded_response
from .recordings import ABSENT, EVERY, QUICK, Recording, documents, parametrized
from .sdks import openai_client
from .serving import Running, post

SURFACES = {"chat": "openai-chat", "messages": "anthropic", "responses": "openai-responses"}
TYPES: dict[tuple[str, bool], TypeAdapter[Any]] = {
    ("chat", True): TypeAdapter(ChatCompletionChunk),
    ("chat", False): TypeAdapter(ChatCompletion),
    ("messages", True): TypeAdapter(BetaRawMessageStreamEvent),
    ("messages", False): TypeAdapter(BetaMessage),
    ("responses", True): TypeAdapter(ResponseStreamEvent),
    ("responses", False): TypeAdapter(Response),
}
TERMINALS = ("response.completed", "response.incomplete", "response.failed")
# Breaks off without a reason, which is an error to every client.
CUT = "oc-openrouter-tx-comments-then-cut-multibyte"
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")


def body_for(recording: Recording, surface: str, *, stream: bool, cut: int) -> bytes:
    tail = f"-{cut}" if cut else ""
    asked: dict[str, Any] = {"model": f"{recording.provider}{tail}/{recording.name}", "stream": stream}
    if surface == "responses":
        return json.dumps({**asked, "input": "Go on."}).encode()
    asked["messages"] = [{"role": "user", "content": "Go on."}]
    if surface == "messages":
        asked["max_tokens"] = 512
    elif stream:
        asked["stream_options"] = {"include_usage": True}
    return json.dumps(asked).encode()


def there(recording: Recording) -> Meaning:
    """What the provider said, in its own words."""
    framing = "ndjson" if recording.spoken == "ollama" else "sse"
    said = READ[recording.spoken](documents(recording.body, stream=recording.stream, framing=framing))
    if recording.name == "cfw-oc-llama-3-1-8b-text":  # its last chunk says zero of everything
        assert said.tokens == Tokens(45, 0, 0, 2, 0)
    return evolve(said, failed=said.failed or recording.name == CUT)


def expected(said: Meaning, surface: str) -> Meaning:
    """The same as far as the surface has words for it; what it lacks is told in docs/dialects.md."""
    stop, tokens = said.stop, said.tokens
    if surface == "messages":
        calls = tuple((_NO_ID.sub(lambda found: f"_{ord(found[0]):x}", ident), *rest) for ident, *rest in said.calls)
        said = evolve(said, text=said.text + said.refusal, refusal="", images=(), audio="", calls=calls)
        stop = {"filter": "refusal"}.get(stop, stop)
        tokens = evolve(tokens, input=tokens.input or 0, output=tokens.output or 0)
    else:
        stop = "end" if stop == "pause" else "filter" if stop == "refusal" and not said.refusal else stop
        if surface == "responses":
            said = evolve(said, audio="")
    return evolve(said, stop=stop or "end", tokens=tokens)


def check(surface: str, said: Meaning, found: list[dict[str, Any]], *, stream: bool) -> None:
    for document in found:
        if document.get("type") not in ("ping", "error") and "error" not in (document if surface == "chat" else ()):
            TYPES[surface, stream].validate_json(json.dumps(document), strict=True)
    if surface == "responses" and stream:
        check_sequence(found)
    here = READ[SURFACES[surface]](found)
    assert here.failed == said.failed
    if said.failed:
        return
    want = expected(said, surface)
    assert all(ident for ident, _, _ in here.calls)
    assert len({ident for ident, _, _ in here.calls}) == len(here.calls)
    named = tuple(
        (ident or made_up, *rest) for (ident, *rest), (made_up, *_) in zip(want.calls, here.calls, strict=False)
    )
    want = evolve(want, calls=named if len(named) == len(want.calls) else want.calls)
    assert evolve(here, proofs=()) == evolve(want, proofs=())


def check_sequence(events: list[dict[str, Any]]) -> None:
    """Numbers without a gap, one terminal event, and that at the end; what was shown on the way is what it holds."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [kind for kind in kinds if kind in TERMINALS] == kinds[-1:]
    if kinds[-1] == "response.failed":
        return
    items = events[-1]["response"]["output"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.added"] != [] or not items
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert [item for _, item in sorted(done.items())] == items
    whole = READ["openai-responses"](events)
    text, thinking, refusal, arguments = folded_response(events)
    assert (text, thinking, refusal) == (whole.text, whole.thinking, whole.refusal)
    assert [json.loads(words or "{}") for words in arguments if words[:1] in ("", "{")] == [
        call[2] for call in whole.calls if isinstance(call[2], Mapping)
    ]


def pairs(*, stream: bool) -> pytest.MarkDecorator:
    """Good recordings with the surfaces on which they are translated. Most are slow, as elsewhere."""
    found = [
        pytest.param(one, surface, id=f"{one.name}-{surface}", marks=[] if one.name in QUICK else [pytest.mark.slow])
        for one in EVERY
        for surface in SURFACES
        if one.good and one.stream is stream and one.surface != surface
    ]
    missing = [pytest.param(None, "any", marks=pytest.mark.skip(reason=ABSENT), id="none")]
    return pytest.mark.parametrize(("recording", "surface"), found or missing)


@pytest.mark.parametrize("cut", [0, pytest.param(7, marks=pytest.mark.slow)], ids=["whole", "by seven"])
@pairs(stream=True)
def test_a_stream_says_on_every_surface_what_the_provider_said(
    gateway: Running, recording: Recording, surface: str, cut: int
) -> None:
    said = there(recording)
    answer = post(gateway.url, surface, body_for(recording, surface, stream=True, cut=cut))
    if answer.status != 200:  # it failed before it had said anything
        assert said.failed
        assert answer.status in (429, 502, 503)
        return
    check(surface, said, documents(answer.body, stream=True), stream=True)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pairs(stream=False)
def test_an_answer_says_on_every_surface_what_the_provider_said(
    gateway: Running, recording: Recording, surface: str, stream: bool
) -> None:
    """A document, also where the client asked for a stream."""
    answer = post(gateway.url, surface, body_for(recording, surface, stream=stream, cut=0))
    assert answer.status == 200, answer.body
    check(surface, there(recording), documents(answer.body, stream=stream), stream=stream)


@parametrized(lambda one: one.good and one.stream and one.surface != "responses" and not there(one).failed, among=EVERY)
def test_what_the_client_of_responses_puts_together_is_what_was_said(gateway: Running, recording: Recording) -> None:
    with (
        openai_client(gateway.url) as client,
        client.responses.stream(model=f"{recording.provider}/{recording.name}", input="Go on.") as stream,
    ):
        final = stream.get_final_response().model_dump(warnings=False)
    want = expected(there(recording), "responses")
    here = READ["openai-responses"]([final])
    assert (here.text, here.thinking, here.refusal) == (want.text, want.thinking, want.refusal)
    assert [call[1:] for call in here.calls] == [call[1:] for call in want.calls]
    assert (here.stop, here.tokens, here.sources) == (want.stop, want.tokens, want.sources)
