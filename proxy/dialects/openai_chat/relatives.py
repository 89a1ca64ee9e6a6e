"""The accents of all who speak this dialect: what a provider or a model family does its own way, as data in one place.

docs/dialects.md tells of them. A new relative with another word for something is a word here.
"""

from __future__ import annotations

import re

from proxy import ir

# -- answers -----------------------------------------------------------------------------------------------------

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

# Where the thinking stands in a message or a delta: DeepSeek, xAI, Moonshot, Z.ai, Alibaba and vLLM; Groq, Cerebras,
# Together and Ollama; OpenRouter, with the proofs. Mistral has it among the parts of the content.
REASONING_MEMBERS = ("reasoning_content", "reasoning", "reasoning_details")

# Where an answer's sources stand beside its choices: Perplexity, rich and as plain URLs; the latter xAI's, too.
SOURCES = ("search_results", "citations")
# Whose sources may stand in a chunk behind the finish reason: xAI's models, Perplexity's.
CITES_LATE = re.compile(r"(?:.*/)?(?:grok|sonar)")

# Where a usage says what was read from a cache, if not in `prompt_tokens_details`: DeepSeek; Moonshot and Together.
CACHED = ("prompt_cache_hit_tokens", "cached_tokens")

# Where a chunk has its usage, if not in `usage`: Groq.
USAGE_BESIDE = "x_groq"

# OpenRouter's name for who can read a reasoning detail, by the dialect that minted it.
# https://openrouter.ai/docs/use-cases/reasoning-tokens
REASONING_FORMATS = {
    "anthropic": "anthropic-claude-v1",
    "openai-responses": "openai-responses-v1",
    "gemini": "google-gemini-v1",
}
MINTED_BY = {name: dialect for dialect, name in REASONING_FORMATS.items()}

# -- requests ----------------------------------------------------------------------------------------------------

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


def takes_stream_options(provider: str) -> bool:
    """Usage is always asked for: the record needs it. Mistral refuses the member, and sends usage unasked."""
    return "mistral" not in provider
