"""The closed word lists of the dialect."""

from __future__ import annotations

from proxy import ir

NAME = "openai-responses"

# Top-level members that the gateway itself reads.
READS = frozenset(
    {
        "model", "models", "stream", "max_output_tokens", "tools", "tool_choice", "parallel_tool_calls", "input",
        "instructions", "provider", "sort", "max_price", "metadata", "user", "text", "reasoning", "prompt_cache_key",
        "store", "previous_response_id", "conversation", "background", "prompt",
    }
)  # fmt: skip
# Ours: they never reach a provider.
EXTENSIONS = frozenset({"models", "fallbacks", "route", "sort", "max_price", "provider"})

# Why an answer is incomplete. `max_messages` and `steered` end it early on the client's own wish.
INCOMPLETE: dict[str, ir.StopReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "filter",
    "max_messages": "pause",
    "steered": "pause",
}
REASONS: dict[ir.StopReason, str] = {
    "length": "max_output_tokens",
    "filter": "content_filter",
    "refusal": "content_filter",
}

# Tools that the provider runs, by the start of their type: web_search_preview_2025_03_11. Longest first.
_SERVER_TOOLS = {
    "code_interpreter": "code_execution",
    "web_search": "web_search",
    "computer": "computer",
}

LOGPROBS = "message.output_text.logprobs"  # a word of `include`
ENCRYPTED = "reasoning.encrypted_content"  # another
INSTRUCTIONS = "instructions"  # id of the turn that stood in this member and not in `input`
PING_TYPES = frozenset({"keepalive", "ping", "response.heartbeat"})


def server_kind(kind: str) -> str:
    return next((neutral for head, neutral in _SERVER_TOOLS.items() if kind.startswith(head)), kind)


def stop_of(status: str, reason: str, *, called: bool, refused: bool) -> ir.StopReason:
    """An answer is "completed" whether it ends in words, calls or a refusal: what was seen decides."""
    if status == "incomplete":
        return INCOMPLETE.get(reason, "unknown")
    if status != "completed":
        return "unknown"
    return "tool_call" if called else "refusal" if refused else "end"


def status_of(stop: ir.StopReason, *, refused: bool) -> tuple[str, str | None]:
    """The status of a whole answer and why it is incomplete. A refusal in the model's own words is complete."""
    if stop == "error":
        return "failed", None
    reason = None if stop == "refusal" and refused else REASONS.get(stop)
    return ("incomplete" if reason else "completed"), reason
