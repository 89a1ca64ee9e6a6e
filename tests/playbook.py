"""What clients and providers say in tests: the same short conversation in the words of both dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from attrs import frozen

Frames = list[bytes]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def chunk(delta: Mapping[str, Any] | None, finish: str | None = None, **members: Any) -> bytes:
    """One SSE frame of a chat stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "native-1"}
    return b"data: " + orjson.dumps({**head, "choices": choices, **members}) + b"\n\n"


def event(kind: str, **members: Any) -> bytes:
    """One SSE frame of a Messages stream."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


@frozen
class Tongue:
    """One dialect: what its clients send, what its providers answer, and how its answers are read."""

    name: str  # of the dialect
    surface: str
    path: str
    suffix: str  # what a provider's base_url has behind its root
    id_header: str
    start: bytes  # the lifecycle frame that begins a stream
    keep_alive: bytes
    finish: bytes
    end: bytes
    opening: bytes  # what stands between start and the first text; may be nothing
    closing: bytes  # what stands between the last text and the finish; may be nothing
    text: Callable[[str], bytes]
    answer: Callable[[str], dict[str, Any]]
    error: Callable[[str, str], dict[str, Any]]  # type, message
    error_frame: Callable[[str, str], bytes]
    read_text: Callable[[Any], str]  # of a whole answer
    read_stream: Callable[[bytes], str]  # of a whole stream

    def request(self, model: str = "first", *, stream: bool = False, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Say hello."}]
        sent: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 16}
        return sent | ({"stream": True} if stream else {}) | more

    def stream(self, *texts: str) -> Frames:
        """A whole stream, frame by frame."""
        middle = [self.opening, *map(self.text, texts), self.closing]
        return [self.start, *(frame for frame in middle if frame), self.finish, self.end]


def _chat_answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "native-1"}
    return {**head, "choices": [choice], "usage": USAGE}


def _message(text: str | None) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "native-1",
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": None if text is None else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 0 if text is None else 2},
    }


def _chat_error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _messages_error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _data(stream: bytes) -> list[Any]:
    lines = (line for line in stream.splitlines() if line.startswith(b"data: ") and line != b"data: [DONE]")
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]


def _chat_text(stream: bytes) -> str:
    choices = [choice for piece in _data(stream) for choice in piece.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _messages_text(stream: bytes) -> str:
    return "".join(piece["delta"].get("text", "") for piece in _data(stream) if piece["type"] == "content_block_delta")


CHAT = Tongue(
    name="openai-chat",
    surface="chat",
    path="/v1/chat/completions",
    suffix="/v1",
    id_header="x-request-id",
    start=chunk({"role": "assistant", "content": ""}),
    keep_alive=b": still here\n\n",
    opening=b"",
    closing=b"",
    finish=chunk({}, "stop"),
    end=b"data: [DONE]\n\n",
    text=lambda text: chunk({"content": text}),
    answer=_chat_answer,
    error=_chat_error,
    error_frame=lambda kind, message: b"data: " + orjson.dumps(_chat_error(kind, message)) + b"\n\n",
    read_text=lambda answer: str(answer["choices"][0]["message"]["content"]),
    read_stream=_chat_text,
)

MESSAGES = Tongue(
    name="anthropic",
    surface="messages",
    path="/v1/messages",
    suffix="",
    id_header="request-id",
    start=event("message_start", message=_message(None)),
    keep_alive=event("ping"),
    opening=event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    closing=event("content_block_stop", index=0),
    finish=event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2}),
    end=event("message_stop"),
    text=lambda text: event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
    answer=_message,
    error=_messages_error,
    error_frame=lambda kind, message: b"event: error\ndata: " + orjson.dumps(_messages_error(kind, message)) + b"\n\n",
    read_text=lambda answer: str(answer["content"][0]["text"]),
    read_stream=_messages_text,
)

TONGUES = {tongue.surface: tongue for tongue in (CHAT, MESSAGES)}
