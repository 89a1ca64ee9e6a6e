"""The embedded provider: an upstream inside this process, so that a machine without any key answers its first request.

It speaks openai-chat with real server-sent events, a word at a time, and says of itself that it is an echo. It never
stands in for a provider that fails: `routing` sees to that.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.errors import UpstreamTimeout
from proxy.server.upstream.exchange import Outgoing, Take, Through
from proxy.wire import json_text

PACE = 0.02  # seconds between words
LONGEST = 4_000  # characters of the question that are given back
CREATED = 1_700_000_000  # an echo has no birthday; a fixed one keeps answers equal


class EmbeddedReply:
    status = 200
    queued_s = 0.0

    def __init__(self, pieces: Iterator[bytes], media_type: str, pace: float) -> None:
        self.headers: Mapping[str, str] = {"content-type": media_type}
        self._pieces = deque(pieces)
        self._pace = pace
        self._expired = ""
        self._first = True

    async def chunk(self) -> bytes:
        if self._expired:
            raise UpstreamTimeout(self._expired)
        if not self._pieces:
            return b""
        if not self._first:
            await asyncio.sleep(self._pace)
        self._first = False
        return self._pieces.popleft()

    async def pour(self, take: Take, through: Through | None = None) -> bool:
        while data := await self.chunk():
            if not take(data):
                return False
        return True

    def narrow(self) -> None:
        """A word is narrow."""

    async def finish(self) -> bool:
        self.close()
        return False

    def close(self) -> None:
        self._pieces.clear()

    def expire(self, message: str) -> None:
        self._expired = message
        self.close()


class EmbeddedUpstream:
    """Answers with what the last user turn said."""

    def __init__(self, pace: float = PACE) -> None:
        self._pace = pace

    async def send(self, outgoing: Outgoing) -> EmbeddedReply:
        body = json_text.read(outgoing.body)
        question = _last_turn(body)
        answer = f"You said: {question}" if question else "You said nothing that I can read."
        usage = _usage(question, answer)
        if body.get("stream"):
            options = body.get("stream_options")
            wanted = isinstance(options, dict) and options.get("include_usage") is True
            return EmbeddedReply(_stream(answer, usage if wanted else None), "text/event-stream", self._pace)
        return EmbeddedReply(iter((_plain(answer, usage),)), "application/json", self._pace)

    async def close(self) -> None:
        """Holds nothing."""


def _last_turn(body: Mapping[str, Any]) -> str:
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content[:LONGEST]
            parts = content if isinstance(content, list) else []
            texts = [part.get("text") for part in parts if isinstance(part, dict)]
            return " ".join(text for text in texts if isinstance(text, str))[:LONGEST]
    return ""


def _usage(question: str, answer: str) -> dict[str, int]:
    """Words stand for tokens: an echo has no tokenizer."""
    read, written = len(question.split()), len(answer.split())
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _plain(answer: str, usage: dict[str, int]) -> bytes:
    message = {"role": "assistant", "content": answer}
    return json_text.write(
        {
            "id": "chatcmpl-echo",
            "object": "chat.completion",
            "created": CREATED,
            "model": "embedded/echo",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    )


def _stream(answer: str, usage: dict[str, int] | None) -> Iterator[bytes]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": "chatcmpl-echo", "object": "chat.completion.chunk", "created": CREATED, "model": "embedded/echo"}
        return b"data: " + json_text.write({**head, "choices": choices, **more}) + b"\n\n"

    def delta(content: dict[str, Any], finish: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": content, "finish_reason": finish}])

    yield delta({"role": "assistant", "content": ""})
    for word in re.findall(r"\s*\S+", answer):
        yield delta({"content": word})
    yield delta({}, "stop")
    if usage is not None:
        yield chunk([], usage=usage)
    yield b"data: [DONE]\n\n"
