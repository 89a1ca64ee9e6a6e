"""Looks at a copy of a Messages stream that passes through: usage, stop reason, errors."""

from __future__ import annotations

from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.anthropic.faults import read_failure
from proxy.dialects.anthropic.stops import STOP_REASONS
from proxy.dialects.anthropic.stream_decoder import read_event
from proxy.dialects.anthropic.usage import read_usage
from proxy.record import define
from proxy.wire.sse import Frame

# After the commit only frames with one of these are parsed. A type stands in every event's data, so none is missed.
PROBES = (b"message_delta", b"message_start", b"message_stop", b'"error"')

_TEXTS = ("text", "thinking", "partial_json", "signature")


def preamble(raw: bytes) -> bytes:
    """Nothing in an event is the stream's own."""
    return b""


@define
class Tap:
    usage: ir.Usage | None = None
    stop: ir.StopReason | None = None
    model: str | None = None
    error: ir.Failure | None = None
    produced: bool = False
    _over: bool = field(default=False)

    @property
    def plain(self) -> bool:
        return not self._over

    def look(self, frame: Frame) -> ir.Sight:
        """Raises UpstreamBroken on what is no JSON object. An unknown type counts as content: it may be some."""
        if self._over:
            return ir.Sight.LIFECYCLE
        event = read_event(frame)
        match event["type"]:
            case "message_start":
                return self._start(event.get("message"))
            case "ping" | "content_block_stop":
                return ir.Sight.LIFECYCLE
            case "message_delta":
                return self._delta(event)
            case "message_stop":
                self._over = True
                return ir.Sight.END
            case "error":
                self.error, self._over = read_failure(event), True
                return ir.Sight.ERROR
            case _ if _is_empty(event):
                return ir.Sight.LIFECYCLE
        self.produced = True
        return ir.Sight.CONTENT

    def _start(self, message: Any) -> ir.Sight:
        if isinstance(message, dict):
            self._count(message)
            model = message.get("model")
            self.model = model if isinstance(model, str) else self.model
        return ir.Sight.LIFECYCLE

    def _delta(self, event: dict[str, Any]) -> ir.Sight:
        self._count(event)
        delta = event.get("delta")
        native = delta.get("stop_reason") if isinstance(delta, dict) else None
        if not isinstance(native, str):
            return ir.Sight.USAGE
        self.stop = STOP_REASONS.get(native, "unknown")
        return ir.Sight.FINISH

    def _count(self, holder: dict[str, Any]) -> None:
        if isinstance(raw := holder.get("usage"), dict):
            self.usage = (self.usage or ir.Usage()).merged(read_usage(raw, self.usage))


def _is_empty(event: dict[str, Any]) -> bool:
    """The start of a text or thinking block, and a delta without a word, are no content yet."""
    block, delta = event.get("content_block"), event.get("delta")
    if event["type"] == "content_block_start" and isinstance(block, dict):
        return block.get("type") in ("text", "thinking") and not any(block.get(name) for name in _TEXTS)
    if event["type"] == "content_block_delta" and isinstance(delta, dict):
        return any(name in delta for name in _TEXTS) and not any(delta.get(name) for name in _TEXTS)
    return False
