"""Token counts in disjoint classes.

`promptTokenCount` holds the cached tokens; what the provider's own tools brought in is counted apart from it, and so
are thoughts from `candidatesTokenCount`. https://ai.google.dev/api/generate-content#UsageMetadata
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.measure import counted


def read_usage(raw: Any) -> ir.Usage:
    """Absurd numbers are unknown, never an error. A total without output counts says that there was none."""
    if not isinstance(raw, dict):
        return ir.Usage()
    prompt, cached = counted(raw.get("promptTokenCount")), counted(raw.get("cachedContentTokenCount"))
    if prompt is not None and cached is not None:
        cached = min(cached, prompt)
    brought_in = counted(raw.get("toolUsePromptTokenCount")) or 0
    said, thoughts = counted(raw.get("candidatesTokenCount")), counted(raw.get("thoughtsTokenCount"))
    output = None if said is None and thoughts is None else (said or 0) + (thoughts or 0)
    if output is None and prompt is not None and counted(raw.get("totalTokenCount")) == prompt + brought_in:
        output = 0
    return ir.Usage(
        input=None if prompt is None else prompt - (cached or 0) + brought_in,
        cache_read=cached,
        output=output,
        reasoning=thoughts,
        audio_input=_of_audio(raw.get("promptTokensDetails")),
        audio_output=_of_audio(raw.get("candidatesTokensDetails")),
    )


def usage_of(answer: Mapping[str, Any]) -> ir.Usage | None:
    """None where nothing is told: Vertex sends chunks whose usage names the kind of traffic alone."""
    usage = read_usage(answer.get("usageMetadata"))
    return None if usage.input is None and usage.output is None else usage


def _of_audio(details: Any) -> int | None:
    for entry in details if isinstance(details, list) else ():
        if isinstance(entry, dict) and entry.get("modality") == "AUDIO":
            return counted(entry.get("tokenCount"))
    return None
