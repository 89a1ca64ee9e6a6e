"""Every recorded request put to a provider of every other dialect: all that it asks for arrives there, or the client is
told what does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from attrs import evolve, frozen

from .asking import READ, Asking, bare
from .recordings import ABSENT, EVERY, QUICK, Recording
from .serving import HEAD, Replay, Running, post, provider, running


@frozen
class Target:
    """Who is asked: the model's name decides what may be asked of it. `answer` is a recording for it to answer with."""

    dialect: str
    native: str
    base: str
    answer: str


TARGETS = {
    "chat": Target("openai-chat", "gpt-4o", "/v1", "oai-pa-stop-settings-openai"),
    "responses": Target("openai-responses", "gpt-4o", "/v1", "resp-pa-prompted-output-multiple"),
    "messages": Target("anthropic", "claude-sonnet-4-5", "", "ant-pa-memory-tool"),
    "gemini": Target("gemini", "gemini-3-pro", "", "gem-pa-stop-settings-google"),
    "gemini-2": Target("gemini", "gemini-2.5-flash", "", "gem-pa-stop-settings-google"),
    "ollama": Target("ollama", "qwen3", "", "oll-pr-generate-text-with-a-prompt-1"),
    "workers-ai": Target("workers-ai", "@cf/meta/llama-3.3-70b", "/v1", "oai-pa-stop-settings-openai"),
}
# What a dialect has no words for: a piece of the reason that the client is told, by target.
REFUSALS = {
    "chat": ("runs itself", "keeps responses"),
    "workers-ai": ("runs itself", "keeps responses"),
    "responses": ("takes no audio", "answers in text", "does not run it as its caller has it"),
    "messages": ("takes no audio", "answers in text only", "does not run", "keeps responses"),
    "gemini": ("does not run", "other voices", "keeps responses"),
    "gemini-2": ("does not run", "other voices", "keeps responses", "only where there are no tools", "not both"),
    "ollama": (
        "runs no tools", "text and pictures only", "fetches no pictures", "cannot be made to call", "text only",
        "keeps responses",
    ),
}  # fmt: skip
# How the client calls a member of an `Asking` that it is told was dropped.
WORDS = {
    "stop": ("stop", "stop_sequences"),
    "schema": ("response_format", "text.format"),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "max_tokens": ("max_completion_tokens", "max_tokens"),  # OpenAI answers 400 to fewer than 16
}


def has_request(recording: Recording) -> bool:
    asked = recording.request
    return recording.surface != "" and isinstance(asked, Mapping) and ("messages" in asked or "input" in asked)


def pairs() -> pytest.MarkDecorator:
    found = [
        pytest.param(one, name, id=f"{one.name}-{name}", marks=[] if one.name in QUICK else [pytest.mark.slow])
        for one in EVERY
        for name, target in TARGETS.items()
        if has_request(one) and one.spoken.replace("workers-ai", "openai-chat") != target.dialect
        and (one.surface, target.dialect) != ("chat", "workers-ai")
    ]  # fmt: skip
    missing = [pytest.param(None, "chat", marks=pytest.mark.skip(reason=ABSENT), id="none")]
    return pytest.mark.parametrize(("recording", "name"), found or missing)


@pytest.fixture(scope="module")
def asked(replay: Replay) -> Iterator[Running]:
    blocks = [
        provider(f"to-{name}", target.dialect, replay.case(target.answer) + target.base)
        for name, target in TARGETS.items()
    ]
    with running(HEAD + "\n".join(blocks)) as gateway:
        yield gateway


def expected(want: Asking, got: Asking, target: Target, dropped: list[str]) -> Asking:
    """What is asked, after what the target's format makes of it by itself."""
    for member, names in WORDS.items():
        if set(names) & set(dropped):
            want = evolve(want, **{member: getattr(got, member)})
    if target.dialect == "anthropic" and want.max_tokens is None:
        want = evolve(want, max_tokens=got.max_tokens)  # which that API insists on
    if target.dialect in ("ollama", "gemini") and want.choice == "auto" and got.choice is None:
        want = evolve(want, choice=None)  # Ollama knows no other; Gemini's is about functions alone
    if want.media != got.media:  # a document of text arrives as text, marked as what it is
        texts = [one for one in want.media if one not in got.media]
        said = "".join(text for _, text in got.said)
        assert all(f"{bare(text)}</document>" in said for text in texts)
        want = evolve(want, media=got.media, said=got.said)
    return evolve(want, stream=got.stream)


@pairs()
def test_a_request_arrives_whole_or_the_client_is_told(
    asked: Running, replay: Replay, recording: Recording, name: str, record_property: Callable[[str, object], None]
) -> None:
    target = TARGETS[name]
    assert recording.request is not None
    body: dict[str, Any] = {**recording.request, "model": f"to-{name}/{target.native}", "stream": False}
    body.pop("stream_options", None)
    mark = replay.mark()
    answer = post(asked.url, recording.surface, json.dumps(body).encode())
    if answer.status == 400:
        error = answer.json()["error"]
        assert any(words in error["message"] for words in REFUSALS[name]), error
        assert error.get("param") or error["details"]["param"]
        assert not replay.since(mark)
        record_property("refused", f"by {target.dialect}: {error['message']}")
        return
    assert answer.status == 200, answer.body
    (seen,) = replay.since(mark)
    want, got = READ[recording.spoken](body), READ[target.dialect](seen.json())
    dropped = answer.headers.get("x-nyuro-dropped", "").split(", ")
    assert got == expected(want, got, target, dropped)
