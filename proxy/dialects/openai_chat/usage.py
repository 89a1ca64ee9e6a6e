"""Token counts: OpenAI's totals taken apart into disjoint classes, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.relatives import CACHED, USAGE_BESIDE

_MOST = 10**12  # more tokens than any answer has; beyond it the number is noise


def read_usage(usage: Any) -> ir.Usage:
    """`prompt_tokens` holds cached and written tokens. Absurd numbers are unknown, never an error.

    xAI counts reasoning apart from `completion_tokens`: seen by its total. It and Azure also report more cached tokens
    than the prompt has, which cannot be billed: they are capped.
    """
    if not isinstance(usage, dict):
        return ir.Usage()
    prompt_details, completion_details = (
        _dict(usage, "prompt_tokens_details"),
        _dict(usage, "completion_tokens_details"),
    )
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached, written = _cached(usage, prompt_details), _count(prompt_details, "cache_write_tokens")
    if prompt is not None:
        cached = _capped(cached, prompt)
        written = _capped(written, prompt - (cached or 0))
        prompt -= (cached or 0) + (written or 0)
    reasoning = _count(completion_details, "reasoning_tokens")
    total = _count(usage, "total_tokens")
    if completion is not None and reasoning and total == (_count(usage, "prompt_tokens") or 0) + completion + reasoning:
        completion += reasoning
    return ir.Usage(
        input=prompt,
        cache_read=cached,
        cache_write_5m=written,
        output=completion,
        reasoning=_capped(reasoning, completion),
        audio_input=_capped(_count(prompt_details, "audio_tokens"), prompt),
        audio_output=_capped(_count(completion_details, "audio_tokens"), completion),
    )


def usage_of(answer: Mapping[str, Any]) -> ir.Usage | None:
    """The usage of an answer or a chunk."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        beside = answer.get(USAGE_BESIDE)
        usage = beside.get("usage") if isinstance(beside, dict) else None
    return read_usage(usage) if isinstance(usage, dict) else None


def write_usage(usage: ir.Usage) -> dict[str, Any] | None:
    """None where a total is unknown: a made-up zero would be booked as a fact."""
    prompt, completion = usage.input_total, usage.output
    if prompt is None or completion is None:
        return None
    written = (usage.cache_write_5m or 0) + (usage.cache_write_1h or 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read or 0,
            **({"cache_write_tokens": written} if written else {}),
            **({"audio_tokens": usage.audio_input} if usage.audio_input is not None else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning or 0,
            **({"audio_tokens": usage.audio_output} if usage.audio_output is not None else {}),
        },
    }


def _cached(usage: dict[str, Any], details: dict[str, Any]) -> int | None:
    for source, name in ((details, "cached_tokens"), *((usage, name) for name in CACHED)):
        if (count := _count(source, name)) is not None:
            return count
    return None


def _dict(source: dict[str, Any], name: str) -> dict[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _count(source: dict[str, Any], name: str) -> int | None:
    value = source.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= _MOST and value == int(value) else None


def _capped(count: int | None, most: int | None) -> int | None:
    return count if count is None or most is None else min(count, most)
