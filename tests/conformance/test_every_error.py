"""Every recorded error on every surface: its status, its words and when to come back reach the client, in the words of
the surface; and as it came where the provider speaks them."""

from __future__ import annotations

import json

import pytest

from .recordings import ABSENT, EVERY, QUICK, Recording
from .serving import Running, post
from .test_every_pair import SURFACES, body_for

# About the house's credential or account: never the client's business.
OURS = {
    "ant-rl-error-handling-with-raises-appropriate-auth-error",
    "cfw-tx-native-account-limited-429",
    "resp-rl-context-context-chat-operations-uses-context-specific-api-ke",
}
ACCOUNT = "cfw-tx-no-route-400"  # its words name the account
STATUS_THERE = {"chat": {529: 503}, "messages": {}, "responses": {529: 503}}  # 529 is Anthropic's own word
TYPES = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}


def words_of(recording: Recording) -> str:
    parsed = json.loads(recording.body)
    error = parsed.get("error")
    return str(error["message"] if isinstance(error, dict) else error or parsed["errors"][0]["message"])


def when_again(recording: Recording) -> str | None:
    """Gemini tells it in the body."""
    delays = [
        detail["retryDelay"]
        for detail in json.loads(recording.body).get("error", {}).get("details", ())
        if recording.spoken == "gemini" and "retryDelay" in detail
    ]
    return delays[0].removesuffix("s") if delays else recording.headers.get("retry-after")


def pairs() -> pytest.MarkDecorator:
    found = [
        pytest.param(one, surface, id=f"{one.name}-{surface}", marks=[] if one.name in QUICK else [pytest.mark.slow])
        for one in EVERY
        for surface in SURFACES
        if not one.good
    ]
    missing = [pytest.param(None, "any", marks=pytest.mark.skip(reason=ABSENT), id="none")]
    return pytest.mark.parametrize(("recording", "surface"), found or missing)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pairs()
def test_an_error_says_on_every_surface_what_the_provider_said(
    gateway: Running, recording: Recording, surface: str, stream: bool
) -> None:
    answer = post(gateway.url, surface, body_for(recording, surface, stream=stream, cut=0))
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    if recording.name in OURS:
        assert answer.status == 502
        assert words_of(recording) not in error["message"]
        return
    assert answer.status == STATUS_THERE[surface].get(recording.status, recording.status)
    assert answer.headers.get("retry-after") == when_again(recording)
    if recording.name != ACCOUNT:
        assert words_of(recording) in error["message"]
    if surface == recording.surface and recording.spoken != "workers-ai":
        assert answer.body == recording.body
        return
    if surface == "messages":
        assert answer.json()["type"] == "error"
        assert error["type"] == TYPES.get(answer.status, "api_error")
    else:
        assert set(error) == {"message", "type", "param", "code"}
