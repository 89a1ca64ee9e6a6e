"""The official SDKs, each as a program would use it: blocking and not, whole and streamed."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import anthropic
import openai
from attrs import evolve, frozen
from pydantic import BaseModel

from .recordings import Recording, Said, completion_said, fold_chat, fold_messages, message_said

KEY = "sk-of-nobody"
TIMEOUT_S = 60.0
Error = openai.APIError | anthropic.APIError
ERRORS = (openai.APIError, anthropic.APIError)


@frozen
class Heard:
    """All that an SDK gave out: one document of a plain answer, the events of a stream; and what it raised then."""

    documents: tuple[Mapping[str, Any], ...]
    stream: bool
    surface: str
    error: Error | None = None

    def said(self) -> Said:
        if self.surface == "chat":
            said = fold_chat(self.documents) if self.stream else completion_said(self.documents[0])
        else:
            said = fold_messages(self.documents) if self.stream else message_said(self.documents[0])
        return evolve(said, failed=self.error is not None)

    def all(self) -> tuple[Any, ...]:
        """For comparing: the error by its class and text."""
        return (self.documents, type(self.error), str(self.error))


TLS = ssl.create_default_context()  # made once: each client would load the machine's certificates for nothing


def openai_client(url: str, **options: Any) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(verify=TLS)
    return openai.OpenAI(
        **{
            "base_url": f"{url}/v1",
            "api_key": KEY,
            "max_retries": 0,
            "timeout": TIMEOUT_S,
            "http_client": http,
            **options,
        }
    )


def anthropic_client(url: str, **options: Any) -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(verify=TLS)
    return anthropic.Anthropic(
        **{"base_url": url, "api_key": KEY, "max_retries": 0, "timeout": TIMEOUT_S, "http_client": http, **options}
    )


def async_openai_client(url: str) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(verify=TLS)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S, http_client=http)


def async_anthropic_client(url: str) -> anthropic.AsyncAnthropic:
    http = anthropic.DefaultAsyncHttpxClient(verify=TLS)
    return anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0, timeout=TIMEOUT_S, http_client=http)


def _arguments(body: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """What the SDK's method names itself, and the rest as a program hands on what the SDK does not know."""
    named = {name: body[name] for name in known if name in body}
    return {**named, "extra_body": {name: value for name, value in body.items() if name not in known}}


def _chat(body: Mapping[str, Any]) -> dict[str, Any]:
    return _arguments(body, "model", "messages", "stream")


def _messages(body: Mapping[str, Any]) -> dict[str, Any]:
    return _arguments(body, "model", "messages", "max_tokens", "stream")


def dumped(found: Iterable[BaseModel]) -> tuple[Mapping[str, Any], ...]:
    return tuple(one.model_dump(warnings=False) for one in found)


def ask(url: str, surface: str, body: Mapping[str, Any]) -> Heard:
    """With the blocking client. Raises the SDK's error where no answer has begun."""
    with anthropic_client(url) if surface == "messages" else openai_client(url) as client:
        answer = create(client, body)
        if body.get("stream") is not True:
            return Heard(dumped([answer]), False, surface)
        found: list[BaseModel] = []
        try:
            found.extend(answer)
        except ERRORS as error:
            return Heard(dumped(found), True, surface, error)
    return Heard(dumped(found), True, surface)


async def ask_async(url: str, surface: str, body: Mapping[str, Any]) -> Heard:
    """The same with the client for asyncio."""
    async with async_openai_client(url) if surface == "chat" else async_anthropic_client(url) as client:
        return await hear_async(client, surface, body)


async def hear_async(client: Any, surface: str, body: Mapping[str, Any]) -> Heard:
    answer = await create(client, body)
    if body.get("stream") is not True:
        return Heard(dumped([answer]), False, surface)
    found: list[BaseModel] = []
    try:
        async for event in answer:
            found.append(event)
    except ERRORS as error:
        return Heard(dumped(found), True, surface, error)
    return Heard(dumped(found), True, surface)


def create(client: Any, body: Mapping[str, Any]) -> Any:
    """The answer, the stream, or what the async clients give to wait for."""
    if isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        if "input" in body:
            return client.responses.create(**_arguments(body, "model", "input", "stream"))
        return client.chat.completions.create(**_chat(body))
    return client.messages.create(**_messages(body))


def final_message(url: str, body: Mapping[str, Any]) -> Said:
    """What `messages.stream` puts together by itself."""
    arguments = _messages({name: value for name, value in body.items() if name != "stream"})
    with anthropic_client(url) as claude, claude.messages.stream(**arguments) as stream:
        return message_said(stream.get_final_message().model_dump(warnings=False))


def final_completion(url: str, body: Mapping[str, Any]) -> Said:
    """What `chat.completions.stream` puts together by itself."""
    arguments = _chat({name: value for name, value in body.items() if name != "stream"})
    with openai_client(url) as gpt, gpt.chat.completions.stream(**arguments) as stream:
        for _ in stream:
            continue  # it accumulates what passes
        return completion_said(stream.current_completion_snapshot.model_dump(warnings=False))


def is_for_sdk(recording: Recording) -> bool:
    """Good answers that hold something a program reads, in words that an SDK has."""
    return recording.good and recording.name != "cfw-tx-native-stream-documented"
