"""The closed word lists of the dialect; what its providers make of it stands in `relatives`."""

from __future__ import annotations

from proxy import ir
from proxy.dialects.openai_chat.relatives import STOP_REASONS

NAME = "openai-chat"

FINISH_REASONS: dict[ir.StopReason, str] = {
    "end": "stop",
    "length": "length",
    "stop_sequence": "stop",
    "tool_call": "tool_calls",
    "filter": "content_filter",
    "refusal": "content_filter",
    "pause": "stop",
    "error": "stop",
    "unknown": "stop",
}

# How an answer was served: the words that both of OpenAI's APIs have. Groq's "on_demand" is none of them.
ANSWER_TIERS = frozenset({"auto", "default", "flex", "scale", "priority"})

# Top-level members that the gateway itself reads.
READS = frozenset(
    {
        "model", "models", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools", "functions",
        "tool_choice", "parallel_tool_calls", "messages", "provider", "sort", "max_price", "metadata", "user",
        "response_format", "reasoning", "reasoning_effort", "thinking", "modalities", "prompt_cache_key", "input",
        "prompt", "encoding_format",
    }
)  # fmt: skip
# Ours: they never reach a provider.
EXTENSIONS = frozenset({"models", "fallbacks", "route", "sort", "max_price", "provider"})


NUMBER = (int, float)
TYPES: dict[str, tuple[type, ...]] = {
    "max_tokens": NUMBER,
    "max_completion_tokens": NUMBER,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "n": NUMBER,
    "seed": NUMBER,
    "frequency_penalty": NUMBER,
    "presence_penalty": NUMBER,
    "stop": (str, list),
    "tools": (list,),
    "tool_choice": (str, dict),
    "parallel_tool_calls": (bool,),
    "response_format": (dict,),
    "stream_options": (dict,),
    "logit_bias": (dict,),
    "modalities": (list,),
    "user": (str,),
}


def stop_reason(native: str, *, called: bool, refused: bool) -> ir.StopReason:
    """A forced tool choice ends with "stop" in OpenAI's words, and a refusal too: what was seen decides."""
    stop = STOP_REASONS.get(native.lower(), "unknown")
    if stop in ("end", "unknown"):
        if called:
            return "tool_call"
        if refused:
            return "refusal"
    return stop


def finish_reason(stop: ir.StopReason, *, called: bool, refused: bool) -> str:
    if called and stop in ("end", "unknown"):
        return "tool_calls"
    if refused and stop == "refusal":
        return "stop"
    return FINISH_REASONS[stop]
