"""Tokens as the Messages API counts them: cached ones stand apart from `input_tokens`.

https://platform.claude.com/docs/en/build-with-claude/prompt-caching#tracking-cache-performance
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.measure import counted


def read_usage(raw: Any, earlier: ir.Usage | None = None) -> ir.Usage:
    """A `usage` object in disjoint classes; absurd values (null, negative, text, 1e30, fractions) are unknown.

    message_delta repeats only the sum of what was written to the cache: the hour's share is then what `earlier`
    (message_start) said, the rest is the five minutes'.
    """
    if not isinstance(raw, dict):
        return ir.Usage()
    written = counted(raw.get("cache_creation_input_tokens"))
    split = raw.get("cache_creation")
    if isinstance(split, dict):
        short, hour = counted(split.get("ephemeral_5m_input_tokens")), counted(split.get("ephemeral_1h_input_tokens"))
    else:
        short, hour = None, (earlier.cache_write_1h if earlier else None)
    if written is not None and (short is None or short + (hour or 0) != written):
        short = max(written - (hour or 0), 0)
    details = raw.get("output_tokens_details")
    return ir.Usage(  # by place: this is read twice for each stream
        counted(raw.get("input_tokens")),
        counted(raw.get("cache_read_input_tokens")),
        short,
        hour,
        counted(raw.get("output_tokens")),
        counted(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )


def usage_in(event: Mapping[str, Any], before: ir.Usage | None) -> ir.Usage:
    """What is known behind a message_start or a message_delta that tells some."""
    message = event.get("message")
    usage = read_usage((message if isinstance(message, dict) else event).get("usage"), before)
    return usage if before is None else before.merged(usage)


def write_usage(usage: ir.Usage) -> dict[str, Any]:
    """For `message` and `message_delta` alike. `input_tokens` and `output_tokens` are obligatory: unknown becomes 0."""
    short, hour = usage.cache_write_5m, usage.cache_write_1h
    written: dict[str, Any] = {"input_tokens": usage.input or 0}
    if short is not None or hour is not None:
        written["cache_creation_input_tokens"] = (short or 0) + (hour or 0)
    if hour is not None:
        written["cache_creation"] = {"ephemeral_5m_input_tokens": short or 0, "ephemeral_1h_input_tokens": hour}
    if usage.cache_read is not None:
        written["cache_read_input_tokens"] = usage.cache_read
    written["output_tokens"] = usage.output or 0
    if usage.reasoning is not None:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return written
