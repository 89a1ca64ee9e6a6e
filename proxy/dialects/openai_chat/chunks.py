"""Chunks of a streamed answer, as whoever reads or passes them has them."""

from __future__ import annotations

from typing import Any

from proxy.dialects.openai_chat.relatives import SOURCES, USAGE_BESIDE
from proxy.errors import UpstreamBroken
from proxy.wire import json_text
from proxy.wire.mould import Mould, around
from proxy.wire.sse import Frame

DONE = b"[DONE]"
_SAYING = frozenset({"error", *SOURCES, USAGE_BESIDE})  # members beside the choices that are read


def parse(frame: Frame) -> dict[str, Any]:
    """Raises UpstreamBroken on a frame that is not this dialect's."""
    try:
        chunk = json_text.read(frame.data)
    except ValueError as exc:
        raise UpstreamBroken("The provider sent an event that is not JSON.") from exc
    if not isinstance(chunk, dict):
        raise UpstreamBroken("The provider sent an event that is not a JSON object.")
    return chunk


def text_mould(raw: bytes) -> Mould | None:
    """Of a chunk that is a piece of the first choice's text and says nothing else."""
    made = around(raw, b'"content":"') or around(raw, b'"content": "')
    if made is None or not raw.startswith(b"data:"):
        return None
    mould, chunk = made
    match chunk:
        case {"choices": [{"index": 0, "delta": {"content": "x", **others}, "finish_reason": None, **choice}]} if (
            not others and choice.keys() <= {"logprobs"} and not choice.get("logprobs")
        ):
            says = not _SAYING.isdisjoint(chunk) or chunk.get("usage") or chunk.get("object") == "error"
            return None if says else mould
    return None
