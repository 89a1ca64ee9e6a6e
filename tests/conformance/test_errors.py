"""What a provider refuses, and what the gateway refuses by itself, as bytes and as the exceptions of the SDKs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import anthropic
import openai
import pytest

from .conftest import Start
from .recordings import Recording, parametrized
from .sdks import ERRORS, Error, anthropic_client, ask, ask_async, create, openai_client
from .serving import HEAD, Replay, Running, post, provider, running
from .test_sdk_translated import OTHER, calls_of

OUR_KEY = "ant-rl-error-handling-with-raises-appropriate-auth-error"
QUOTA = "cfw-tx-native-account-limited-429"


def is_error(recording: Recording) -> bool:
    return not recording.good


def passes(recording: Recording) -> bool:
    """An error in the dialect's own JSON, and not about our credential."""
    return is_error(recording) and recording.name != OUR_KEY and recording.dialect != "workers-ai"


def body_for(recording: Recording, surface: str, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": f"{recording.provider}/{recording.name}",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    return {
        **body,
        **({"max_tokens": 64} if surface == "messages" else {}),
        **({"stream": True} if stream else {}),
    }


def raised(url: str, surface: str, body: Mapping[str, Any]) -> Error:
    with pytest.raises(ERRORS) as caught:
        ask(url, surface, body)
    assert isinstance(caught.value, ERRORS)
    return caught.value


# -- as it was recorded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@parametrized(passes)
def test_a_providers_error_passes_with_its_status_and_its_body(
    gateway: Running, recording: Recording, stream: bool
) -> None:
    body = json.dumps(body_for(recording, recording.surface, stream=stream)).encode()
    answer = post(gateway.url, recording.surface, body)
    assert (answer.status, answer.body) == (recording.status, recording.body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == recording.headers.get("retry-after")
    assert answer.headers.get("x-should-retry") == (None if "retry-after" in recording.headers else "false")
    assert answer.headers["x-nyuro-model"] == "none"
    ours = answer.headers["x-request-id"]
    assert ours.startswith("req_")
    assert answer.headers.get("request-id") == (ours if recording.surface == "messages" else None)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@parametrized(passes)
async def test_the_sdk_raises_what_it_raises_without_the_gateway(
    gateway: Running, replay: Replay, recording: Recording, stream: bool
) -> None:
    body = body_for(recording, recording.surface, stream=stream)
    there = raised(replay.url, recording.surface, {**body, "model": recording.name})
    here = raised(gateway.url, recording.surface, body)
    with pytest.raises(type(there)) as caught:
        await ask_async(gateway.url, recording.surface, body)
    for error in (here, caught.value):
        assert type(error) is type(there)
        assert (str(error), error.body) == (str(there), there.body)
        assert isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
        assert error.request_id is not None
        assert error.request_id.startswith("req_01")


STATUS_THERE: dict[str, dict[int, int]] = {"messages": {}, "chat": {529: 503}}  # 529 is Anthropic's own word
CLASSES: dict[str, dict[int, type[Error]]] = {
    "chat": {
        400: openai.BadRequestError,
        404: openai.NotFoundError,
        429: openai.RateLimitError,
        502: openai.InternalServerError,
        503: openai.InternalServerError,
    },
    "messages": {
        400: anthropic.BadRequestError,
        404: anthropic.NotFoundError,
        429: anthropic.RateLimitError,
        502: anthropic.InternalServerError,
        529: anthropic._exceptions.OverloadedError,
    },
}
TYPES = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}


def message_of(recording: Recording) -> str:
    parsed = json.loads(recording.body)
    return str(parsed["error"]["message"] if "error" in parsed else parsed["errors"][0]["message"])


def check_translated(gateway: Running, recording: Recording, stream: bool) -> None:
    surface = OTHER[recording.surface]
    body = body_for(recording, surface, stream=stream)
    error = raised(gateway.url, surface, body)
    status = STATUS_THERE[surface].get(recording.status, recording.status)
    assert isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
    assert error.status_code == status
    assert type(error) is CLASSES[surface][status]
    assert message_of(recording) in str(error)
    assert error.response.headers.get("retry-after") == recording.headers.get("retry-after")
    if surface == "messages":
        assert error.response.json()["error"]["type"] == TYPES[status]


@calls_of("messages")
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@parametrized(lambda recording: passes(recording) and recording.surface == "chat")
def test_a_chat_providers_error_in_the_words_of_messages(gateway: Running, recording: Recording, stream: bool) -> None:
    check_translated(gateway, recording, stream)


@calls_of("chat")
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@parametrized(lambda recording: passes(recording) and recording.surface == "messages")
def test_a_messages_providers_error_in_the_words_of_chat(gateway: Running, recording: Recording, stream: bool) -> None:
    check_translated(gateway, recording, stream)


# -- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", ["messages", "chat"])
@parametrized(lambda recording: recording.name == OUR_KEY)
def test_a_refusal_of_our_key_is_never_the_clients(
    gateway: Running, replay: Replay, recording: Recording, surface: str
) -> None:
    mark = replay.mark()
    body = body_for(recording, surface)
    answer = post(gateway.url, surface, json.dumps(body).encode())
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "false"
    assert b"invalid x-api-key" not in answer.body
    error = raised(gateway.url, surface, body)
    assert type(error) in (openai.InternalServerError, anthropic.InternalServerError)
    assert len(replay.since(mark)) == 2


@parametrized(lambda recording: recording.name == OUR_KEY)
def test_a_refusal_of_the_callers_own_key_is_the_callers(start: Start, replay: Replay, recording: Recording) -> None:
    gateway = start(provider("messages", "anthropic", replay.url, key="sk-of-the-house"))
    body = body_for(recording, "messages")
    mark = replay.mark()
    answer = post(gateway.url, "messages", json.dumps(body).encode(), {"X-Nyuro-Key-messages": "sk-of-the-caller"})
    assert (answer.status, answer.body) == (401, recording.body)
    assert answer.headers["x-should-retry"] == "false"
    (seen,) = replay.since(mark)
    assert seen.headers["x-api-key"] == "sk-of-the-caller"
    assert "sk-of-the-house" not in str(dict(seen.headers))
    with (
        anthropic_client(gateway.url, default_headers={"X-Nyuro-Key-messages": "sk-of-the-caller"}) as client,
        pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"),
    ):
        client.messages.create(**body)


@parametrized(lambda recording: recording.dialect == "workers-ai" and is_error(recording))
def test_an_error_in_nobodys_json_is_told_in_our_own_words(gateway: Running, recording: Recording) -> None:
    for surface in ("chat", "messages"):
        answer = post(gateway.url, surface, json.dumps(body_for(recording, surface)).encode())
        quota = recording.name == QUOTA  # of the account that the key belongs to: the operator's to mend
        assert answer.status == (502 if quota else recording.status)
        assert (
            answer.json()["error"]["type"]
            == {
                ("chat", True): "server_error",
                ("chat", False): "invalid_request_error",
                ("messages", True): "api_error",
                ("messages", False): "invalid_request_error",
            }[surface, quota]
        )


# -- the gateway's own -----------------------------------------------------------------------------------------------

OWN = """
[providers.absent]
dialects = ["openai-chat"]
base_url = "http://127.0.0.1:9/v1"
api_key = "${THIS_VARIABLE_IS_NOT_SET}"
"""
# what is sent, headers, the status, classes of both SDKs, the code, whether a retry can help
REFUSALS: dict[str, tuple[dict[str, Any], dict[str, str], int, str, str, str]] = {
    "a model nobody knows": (
        {"model": "no-such-model"}, {}, 404, "NotFoundError", "NotFoundError", "model_not_found"
    ),
    "no model": ({"model": ""}, {}, 400, "BadRequestError", "BadRequestError", "missing_model"),
    "a price nobody is known to keep": (
        {"model": "there/m", "max_price": 1e-9}, {}, 400, "BadRequestError", "BadRequestError", "price_ceiling"
    ),
    "a page calls": (
        {"model": "there/m"}, {"Origin": "http://example.org"}, 401, "AuthenticationError",
        "AuthenticationError", "invalid_api_key"
    ),
    "a provider without its key": (
        {"model": "absent/m"}, {}, 503, "InternalServerError", "ServiceUnavailableError", "provider_not_configured"
    ),
    "a stream that is neither": (
        {"model": "there/m", "stream": "yes"}, {}, 400, "BadRequestError", "BadRequestError", "invalid_request"
    ),
    "too large": (
        {"model": "there/m", "filler": "x" * 70_000}, {}, 413, "APIStatusError", "ContentTooLargeError",
        "body_too_large"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def refusing(replay: Replay) -> Iterator[Running]:
    there = provider("there", "openai-chat", f"{replay.url}/v1")
    with running(f'{HEAD}max_body = "64KiB"\n{OWN}{there}') as gateway:
        yield gateway


@pytest.mark.parametrize("surface", ["chat", "messages"])
@pytest.mark.parametrize(("body", "headers", "status", "gpt", "claude", "code"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_of_the_gateways_own(
    refusing: Running,
    replay: Replay,
    surface: str,
    body: dict[str, Any],
    headers: dict[str, str],
    status: int,
    gpt: str,
    claude: str,
    code: str,
) -> None:
    """The SDK raises its own class for it, and does not ask again."""
    sent = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64, **body}
    rows = len(refusing.rows())
    mark = replay.mark()
    error = _raised(refusing, surface, sent, headers)
    assert error.status_code == status
    assert type(error).__name__ == (gpt if surface == "chat" else claude)
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id == error.response.headers["x-request-id"]
    told = error.body["code"] if surface == "chat" else error.body["error"]["details"]["error_code"]
    assert told == code
    assert not replay.since(mark)
    if status != 401:  # who is not admitted leaves no row
        assert [row["status"] for row in refusing.rows()[rows:]] == [status]


def _raised(gateway: Running, surface: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """With the retries that the SDKs make by themselves."""
    client: Any = openai_client if surface == "chat" else anthropic_client
    with client(gateway.url, max_retries=2, default_headers=headers) as sdk, pytest.raises(ERRORS) as caught:
        create(sdk, body)
    return caught.value


@parametrized(lambda recording: recording.status in (400, 404, 401, 529))
def test_an_sdk_does_not_ask_again_where_a_retry_cannot_help(
    gateway: Running, replay: Replay, recording: Recording
) -> None:
    """`x-should-retry: false` also where the status alone would make the SDK try twice more."""
    mark = replay.mark()
    error = _raised(gateway, recording.surface, body_for(recording, recording.surface), {})
    assert error.response.headers["x-should-retry"] == "false"
    assert len(replay.since(mark)) == 1
