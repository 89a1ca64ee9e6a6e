"""Why an answer ended, in the API's words and the IR's.

https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
"""

from __future__ import annotations

from proxy import ir

STOP_REASONS: dict[str, ir.StopReason] = {
    "end_turn": "end",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_call",
    "pause_turn": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "length",
}
_WORDS: dict[ir.StopReason, str] = {
    "end": "end_turn",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_call": "tool_use",
    "filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
}


def write_stop(stop: ir.StopReason, native: str | None, *, calls: bool, refused: bool) -> str:
    """The API's word. Its clients run tools on "tool_use" alone, and some providers say "stop" behind a tool call."""
    if native is not None and STOP_REASONS.get(native) == stop:
        return native
    if stop in ("end", "unknown"):
        if calls:
            return "tool_use"
        if refused:
            return "refusal"
    return _WORDS.get(stop, "end_turn")
