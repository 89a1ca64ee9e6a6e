"""The closed word lists of the dialect, and which model families take which member."""

from __future__ import annotations

import re

from proxy import ir

NAME = "openai-chat"

STOP_REASONS: dict[str, ir.StopReason] = {
    "stop": "end",
    "eos": "end",  # Together
    "end_turn": "end",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral: the window is full
    "tool_calls": "tool_call",
    "tool_use": "tool_call",
    "function_call": "tool_call",
    "content_filter": "filter",
}
# The provider broke off: OpenRouter and Mistral, DeepSeek.
BROKEN_OFF = frozenset({"error", "insufficient_system_resource"})

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

# OpenRouter's name for who can read a reasoning detail, by the dialect that minted it.
# https://openrouter.ai/docs/use-cases/reasoning-tokens
REASONING_FORMATS = {
    "anthropic": "anthropic-claude-v1",
    "openai-responses": "openai-responses-v1",
    "gemini": "google-gemini-v1",
}
MINTED_BY = {name: dialect for dialect, name in REASONING_FORMATS.items()}

_HEAD = r"(?:.*/)?"  # "openai/gpt-5" at OpenRouter, "@cf/openai/gpt-oss-20b" at Workers AI
OPENAI_REASONING = re.compile(_HEAD + r"(?:o\d|gpt-[5-9])")  # take max_completion_tokens, refuse a temperature
OPENAI = re.compile(_HEAD + r"(?:o\d|gpt-\d|chatgpt)")
TAKES_EFFORT = re.compile(_HEAD + r"(?:o\d|gpt-[5-9]|gpt-oss|grok-3-mini|gemini-[2-9]|magistral|mistral-small)")
TAKES_THINKING = re.compile(_HEAD + r"(?:zai-)?(?:glm-[4-9]|deepseek-|kimi-k2)", re.IGNORECASE)
TAKES_ENABLE_THINKING = re.compile(_HEAD + r"qwen", re.IGNORECASE)
SEARCHES = re.compile(_HEAD + r"gpt-[\w.-]*-search")  # the models that know web_search_options

# Where a model family wants to see its earlier reasoning. OpenAI's own models take none, Groq refuses unknown members.
REASONING_MEMBER = (
    (re.compile(_HEAD + r"gpt-oss"), "reasoning"),
    (re.compile(_HEAD + r"(?:zai-)?(?:deepseek|kimi|glm|qwen|minimax)", re.IGNORECASE), "reasoning_content"),
)

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


def takes_stream_options(provider: str) -> bool:
    """Usage is always asked for: the record needs it. Mistral refuses the member, and sends usage unasked."""
    return "mistral" not in provider


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
