"""Looks at a copy of the events of a passthrough."""

from __future__ import annotations

from typing import Any

from proxy import ir
from proxy.dialects.openai_responses.answer_reader import read_stop, says_something
from proxy.dialects.openai_responses.failure import failure_in
from proxy.dialects.openai_responses.stream_reader import DONE, parse
from proxy.dialects.openai_responses.usage import usage_of
from proxy.dialects.openai_responses.vocabulary import PING_TYPES
from proxy.record import define
from proxy.wire.sse import Frame

# Frames without one of these need no look once the stream has begun: usage, stop and errors stand in the terminal event
# alone. A quote within a text is escaped, so that no answer that writes about errors holds the last one.
PROBES = (b"response.completed", b"response.incomplete", b"response.failed", b'"error"')

_LIFECYCLE = PING_TYPES | {"response.created", "response.queued", "response.in_progress"}
_ENDS = {"response.completed": "completed", "response.incomplete": "incomplete"}
_CALLS = ("function_call", "custom_tool_call")


@define
class Tap:
    usage: ir.Usage | None = None
    stop: ir.StopReason | None = None
    model: str | None = None
    error: ir.Failure | None = None
    produced: bool = False
    _over: bool = False

    @property
    def plain(self) -> bool:
        return not self._over

    def look(self, frame: Frame) -> ir.Sight:
        """An unknown type counts as content: it may be some. What follows the end is nothing."""
        if self._over or frame.data.strip() == DONE:
            return ir.Sight.LIFECYCLE
        event, kind = parse(frame)
        response = event.get("response")
        if isinstance(response, dict):
            model = response.get("model")
            self.model = model if isinstance(model, str) and model else self.model
        if kind in _LIFECYCLE:
            return ir.Sight.LIFECYCLE
        if status := _ENDS.get(kind):
            self._end(response if isinstance(response, dict) else {}, status)
            return ir.Sight.END
        if failure := failure_in(event, kind):
            self.error, self._over = failure, True
            return ir.Sight.ERROR
        if _is_empty(event, kind):
            return ir.Sight.LIFECYCLE
        self.produced = True
        return ir.Sight.CONTENT

    def _end(self, response: dict[str, Any], status: str) -> None:
        self._over = True
        if (usage := usage_of(response)) is not None:
            self.usage = usage
        output = response.get("output")
        items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        content = [part for item in items if isinstance(parts := item.get("content"), list) for part in parts]
        self.stop, _ = read_stop(
            {**response, "status": status},
            called=any(item.get("type") in _CALLS for item in items),
            refused=any(isinstance(part, dict) and part.get("type") == "refusal" for part in content),
        )


def _is_empty(event: dict[str, Any], kind: str) -> bool:
    """Announcements of what is to come, and deltas without a word. What is encrypted in reasoning that has only been
    announced stands for nothing yet."""
    if kind == "response.output_item.added":
        item = event.get("item")
        if not isinstance(item, dict) or item.get("type") not in ("message", "reasoning"):
            return False
        return not says_something({**item, "encrypted_content": None})
    if kind == "response.output_item.done":
        return not says_something(event.get("item"))
    if kind.endswith("part.added"):
        part = event.get("part")
        return isinstance(part, dict) and not any(part.get(name) for name in ("text", "refusal"))
    return kind.endswith(".delta") and event.get("delta") == ""
