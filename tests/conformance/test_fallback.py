"""Recordings in a row: a provider that fails first, one that fails for good, one that breaks off in the middle."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

from .conftest import Start
from .recordings import data_of, frames, named, said_in
from .sdks import anthropic_client, ask, ask_async, openai_client
from .serving import SSE, Replay, post, provider

CHAT, MESSAGES = "oai-oc-streams-tool-call", "ant-tl-tools-streaming"
PLAIN_CHAT, PLAIN_MESSAGES = "oai-pa-stop-settings-openai", "ant-pa-mixed-tools-no-output"
OVERLOADED, LIMITED, UNKNOWN = (
    "ant-tx-overloaded-529",
    "oai-tx-rate-limit-429-tpm",
    "oc-groq-pa-model-name-suggestion-groq",
)
REFUSED, BAD = "ant-rl-error-handling-with-raises-appropriate-auth-error", "oai-tl-vision-base64"
LIMITED_AT_ONCE = "oc-openrouter-pa-openrouter-errors-raised"
BROKEN = "oc-openrouter-tx-comments-then-cut-multibyte"
DIALECTS = {"ant": "anthropic", "oai": "openai-chat", "oc-": "openai-chat", "cfw": "workers-ai"}


def block(name: str, replay: Replay, case: str) -> str:
    return provider(name, DIALECTS[case[:3]], replay.case(case))


def table(replay: Replay, first: str, second: str, more: str = "") -> str:
    """Two providers behind one name."""
    chain = '[profiles.chain]\ncandidates = ["first/m", "second/m"]\n'
    return more + block("first", replay, first) + block("second", replay, second) + chain


def body_for(surface: str, *, stream: bool, model: str = "profile:chain") -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    if surface == "messages":
        body["max_tokens"] = 64
    elif stream:
        body["stream_options"] = {"include_usage": True}
    return {**body, **({"stream": True} if stream else {})}


# what the first candidate does, how it is recorded
FAILURES = {
    "is overloaded": (OVERLOADED, "upstream_overloaded"),
    "limits the rate": (LIMITED, "upstream_rate_limited"),
    "does not know the model": (UNKNOWN, "upstream_model_not_found"),
    "refuses our key": (REFUSED, "upstream_credentials"),
    "closes before its first event": (f"{CHAT};cut=0", "bad_upstream_response"),
    "resets before its first event": (f"{CHAT};cut=0;rst=1", "bad_upstream_response"),
    "closes before its first word": (f"{CHAT};cut=60", "bad_upstream_response"),
    "resets before its first word": (f"{MESSAGES};cut=100;rst=1", "bad_upstream_response"),
}


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["streamed", "plain"])
@pytest.mark.parametrize("surface", ["chat", pytest.param("messages", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("case", "outcome"), FAILURES.values(), ids=FAILURES)
def test_when_the_first_fails_the_second_answers(
    start: Start, replay: Replay, case: str, outcome: str, surface: str, stream: bool
) -> None:
    good = named((CHAT if stream else PLAIN_CHAT) if surface == "chat" else (MESSAGES if stream else PLAIN_MESSAGES))
    gateway = start(table(replay, case, good.name))
    heard = ask(gateway.url, surface, body_for(surface, stream=stream))
    assert heard.said() == said_in(good)
    (row,) = gateway.rows()
    assert (row["provider"], row["fallback_used"], row["status"]) == ("second", True, 200)
    *failed, last = row["attempts"]
    assert {attempt["outcome"] for attempt in failed} == {outcome}
    assert {attempt["provider"] for attempt in failed} == {"first"}
    assert (last["provider"], last["outcome"]) == ("second", "ok")


@pytest.mark.parametrize("surface", ["chat", "messages"])
async def test_the_second_answers_in_the_clients_words_whoever_it_is(
    start: Start, replay: Replay, surface: str
) -> None:
    other = named(MESSAGES if surface == "chat" else CHAT)
    first = OVERLOADED if surface == "messages" else LIMITED
    gateway = start(table(replay, first, other.name))
    said = (await ask_async(gateway.url, surface, body_for(surface, stream=True))).said()
    assert (said.text, said.calls, said.usage) == (said_in(other).text, said_in(other).calls, said_in(other).usage)


def test_the_answer_says_that_it_is_not_from_the_first(start: Start, replay: Replay) -> None:
    good = named(PLAIN_CHAT)
    gateway = start(table(replay, OVERLOADED, good.name))
    answer = post(gateway.url, "chat", json.dumps(body_for("chat", stream=False)).encode())
    assert (answer.status, answer.body) == (200, good.body)
    names = ("model", "provider", "fallback-used", "attempts", "candidates")
    told = [answer.headers[f"x-nyuro-{name}"] for name in names]
    assert told == ["second/m", "second", "true", "2", "first/m,second/m"]


def test_a_request_that_is_itself_at_fault_goes_nowhere_else(start: Start, replay: Replay) -> None:
    bad = named(BAD)
    gateway = start(table(replay, BAD, PLAIN_CHAT))
    with openai_client(gateway.url) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="profile:chain", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.response.content == bad.body
    assert [len(row["attempts"]) for row in gateway.rows()] == [1]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_a_candidate_that_recovers_is_asked_again(start: Start, replay: Replay, stream: bool) -> None:
    """Nobody else is there, and it names no time: a moment later it is asked again."""
    good = named(CHAT if stream else PLAIN_CHAT)
    gateway = start(
        "[retry]\ntries = 2\n" + provider("only", "openai-chat", replay.case(f"{LIMITED_AT_ONCE},{good.name}"))
    )
    heard = ask(gateway.url, "chat", body_for("chat", stream=stream, model="only/m"))
    assert heard.said() == said_in(good)
    (row,) = gateway.rows()
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["upstream_rate_limited", "ok"]


# -- behind the point of no return -----------------------------------------------------------------------------------


def cut_behind(name: str, words: int) -> int:
    """Bytes of a recording up to the middle of the frame behind its first so many frames."""
    found = frames(named(name).body)
    return sum(map(len, found[:words])) + len(found[words]) // 2


@pytest.mark.parametrize("how", ["", ";rst=1"], ids=["closed", "reset"])
@pytest.mark.parametrize(("surface", "name"), [("chat", CHAT), ("messages", MESSAGES)])
def test_a_stream_that_breaks_off_passes_up_to_its_last_whole_event_and_says_so(
    start: Start, replay: Replay, surface: str, name: str, how: str
) -> None:
    case, whole = named(name), 5
    gateway = start(table(replay, f"{name};cut={cut_behind(name, whole)}{how}", name))
    answer = post(gateway.url, surface, json.dumps(body_for(surface, stream=True)).encode())
    *passed, told = frames(answer.body)
    assert (answer.status, answer.cut) == (200, False)
    assert passed == frames(case.body)[:whole]
    error = json.loads(data_of(told))
    assert error["error"]["message"]
    assert error.get("type") == ("error" if surface == "messages" else None)
    assert b"[DONE]" not in answer.body
    assert b"message_stop" not in answer.body
    (row,) = gateway.rows()
    assert (row["status"], row["outcome"], len(row["attempts"])) == (200, "bad_upstream_response", 1)


@pytest.mark.parametrize("surface", ["chat", "messages"])
@pytest.mark.parametrize("name", [CHAT, MESSAGES])
@pytest.mark.parametrize("how", [pytest.param("", marks=pytest.mark.slow), ";rst=1"], ids=["closed", "reset"])
async def test_an_sdk_raises_where_a_stream_breaks_off(
    start: Start, replay: Replay, surface: str, name: str, how: str
) -> None:
    gateway = start(table(replay, f"{name};cut={cut_behind(name, 6)}{how}", name))
    body = body_for(surface, stream=True)
    for heard in (ask(gateway.url, surface, body), await ask_async(gateway.url, surface, body)):
        assert isinstance(heard.error, openai.APIError if surface == "chat" else anthropic.APIStatusError)
        assert "cut" in str(heard.error)
    assert [row["fallback_used"] for row in gateway.rows()] == [False, False]


@pytest.mark.parametrize("surface", ["chat", "messages"])
def test_a_plain_answer_that_breaks_off_is_no_answer(start: Start, replay: Replay, surface: str) -> None:
    gateway = start(block("only", replay, f"{PLAIN_CHAT};cut=300;rst=1"))
    answer = post(gateway.url, surface, json.dumps(body_for(surface, stream=False, model="only/m")).encode())
    assert answer.status == 502
    assert "message" in answer.json()["error"]


# -- when nobody answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", ["chat", "messages"])
def test_a_stream_that_nobody_answers_has_a_real_status(start: Start, replay: Replay, surface: str) -> None:
    gateway = start(table(replay, OVERLOADED, f"{BROKEN};cut=10"))
    answer = post(gateway.url, surface, json.dumps(body_for(surface, stream=True)).encode())
    assert answer.status == 502
    assert not answer.headers["content-type"].startswith(SSE)
    assert answer.headers["x-nyuro-model"] == "none"


def test_the_retries_of_an_sdk_do_not_multiply_ours(start: Start, replay: Replay) -> None:
    """Two candidates, each tried once, by a client that would ask three times."""
    gateway = start(table(replay, OVERLOADED, OVERLOADED, "[retry]\ntries = 2\n"))
    mark = replay.mark()
    with (
        anthropic_client(gateway.url, max_retries=2) as client,
        pytest.raises(anthropic._exceptions.OverloadedError),
    ):
        client.messages.create(model="profile:chain", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
    assert len(replay.since(mark)) == 2


def test_a_limited_rate_is_told_with_its_wait(start: Start, replay: Replay) -> None:
    gateway = start("[retry]\ntries = 1\n" + block("only", replay, LIMITED))
    with openai_client(gateway.url) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="only/m", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.response.headers["retry-after"] == "27"
    assert "x-should-retry" not in caught.value.response.headers
