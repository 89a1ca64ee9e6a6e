"""OpenAI's Responses in the words of the playbook."""

from __future__ import annotations

from typing import Any

import orjson
from playbook import CHAT, MESSAGES, Tongue

MESSAGE = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
PLACE = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _response(text: str | None, status: str = "completed") -> dict[str, Any]:
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "native-1",
        "output": [] if text is None else [{**MESSAGE, "content": [_part(text)]}],
        "usage": None if text is None else usage, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip


def _event(kind: str, **members: Any) -> bytes:
    data = orjson.dumps({"type": kind, "sequence_number": 1, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _read_stream(stream: bytes) -> str:
    lines = (line for line in stream.splitlines() if line.startswith(b"data: "))
    events = [orjson.loads(line.removeprefix(b"data: ")) for line in lines]
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


RESPONSES = Tongue(
    name="openai-responses",
    surface="responses",
    path="/v1/responses",
    suffix="/v1",
    id_header="x-request-id",
    start=_event("response.created", response=_response(None, "in_progress")),
    keep_alive=b": still here\n\n",
    opening=_event("response.output_item.added", output_index=0, item={**MESSAGE, "content": []})
    + _event("response.content_part.added", **PLACE, part=_part("")),
    closing=_event("response.output_text.done", **PLACE, text="onetwo")
    + _event("response.content_part.done", **PLACE, part=_part("onetwo"))
    + _event("response.output_item.done", output_index=0, item={**MESSAGE, "content": [_part("onetwo")]}),
    finish=b"",
    end=_event("response.completed", response=_response("onetwo")),
    text=lambda text: _event("response.output_text.delta", **PLACE, delta=text),
    answer=_response,
    error=_error,
    error_frame=lambda kind, message: _event("error", code=kind, message=message, param=None),
    read_text=lambda answer: str(answer["output"][0]["content"][0]["text"]),
    read_stream=_read_stream,
)
SURFACES = (CHAT, MESSAGES, RESPONSES)


def frames(tongue: Tongue, *texts: str) -> list[bytes]:
    """A whole stream, frame by frame."""
    return [frame for frame in tongue.stream(*texts) if frame]


def asking(tongue: Tongue, model: str, *, stream: bool, **more: Any) -> dict[str, Any]:
    if tongue is RESPONSES:
        asked: dict[str, Any] = {"model": model, "input": "Say hello.", "max_output_tokens": 16}
        return asked | ({"stream": True} if stream else {}) | more
    return tongue.request(model, stream=stream, **more)


def terminator(tongue: Tongue) -> bytes:
    """What a whole stream alone may end in."""
    return {"chat": b"[DONE]", "messages": b"message_stop", "responses": b"response.completed"}[tongue.surface]
