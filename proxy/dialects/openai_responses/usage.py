"""Token counts. They are Chat's under other names, so Chat's reading of absurd ones holds here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat import usage as chat

_NAMES = {
    "input_tokens": "prompt_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens": "completion_tokens",
    "output_tokens_details": "completion_tokens_details",
    "total_tokens": "total_tokens",
}


def read_usage(usage: Any) -> ir.Usage:
    """`input_tokens` holds cached and written tokens, `output_tokens` reasoning. What is absurd is unknown."""
    if not isinstance(usage, dict):
        return ir.Usage()
    return chat.read_usage({name: usage.get(here) for here, name in _NAMES.items()})


def usage_of(response: Mapping[str, Any]) -> ir.Usage | None:
    usage = response.get("usage")
    return read_usage(usage) if isinstance(usage, dict) else None


def write_usage(usage: ir.Usage) -> dict[str, Any] | None:
    """None where a total is unknown: a made-up zero would be booked as a fact. The SDKs want every detail."""
    read, said = usage.input_total, usage.output
    if read is None or said is None:
        return None
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read or 0,
            "cache_write_tokens": (usage.cache_write_5m or 0) + (usage.cache_write_1h or 0),
        },
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": read + said,
    }
