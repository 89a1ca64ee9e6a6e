"""Token counts: OpenAI's totals taken apart into disjoint classes, and put together again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.dialect import Span
from proxy.dialects.measure import MOST, counted
from proxy.dialects.openai_chat.relatives import CACHED, USAGE_BESIDE
from proxy.wire import json_text
from proxy.wire.sse import CR, LF

_NOTHING: dict[str, Any] = {}
_ALONE = b'"choices":[],"usage":', b'"choices": [], "usage": '  # as JSON writers have it
TOLD = b'_tokens"'  # how the members of every usage end: see `tap.PROBES`
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
# As most servers write these: without the digits -> a form, and where in it the completion's stand.
_FORMS = {
    b'{"prompt_tokens":,"completion_tokens":,"total_tokens":}': (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}', 1,
    ),
    b'{"prompt_tokens":,"total_tokens":,"completion_tokens":}': (
        b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}', 2,
    ),
}  # fmt: skip
_COUNTS = tuple(
    re.compile(rb'"%b": ?([1-9][0-9]*)(?=[,}])' % name)
    for name in (b"prompt_tokens", b"completion_tokens", b"total_tokens")
)
_NUMBER = re.compile(rb"[0-9][-+.0-9A-Za-z]*")
_DIGITS = b"0123456789"
_APART = bytes(byte if byte in _DIGITS else 32 for byte in range(256))


def read_usage(usage: Any) -> ir.Usage:
    """`prompt_tokens` holds cached and written tokens. Absurd numbers are unknown, never an error.

    xAI counts reasoning apart from `completion_tokens`: seen by its total. It and Azure also report more cached tokens
    than the prompt has, which cannot be billed: they are capped.
    """
    if not isinstance(usage, dict):
        return ir.Usage()
    asked, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (asked.__class__ is int is completion.__class__ and 0 <= asked <= MOST and 0 <= completion <= MOST):
        asked, completion = counted(asked), counted(completion)
    if _PLAIN.issuperset(usage):  # nothing to take apart
        return ir.Usage(asked, None, None, None, completion)
    prompt_details, completion_details = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached, written, heard = _of_prompt(usage, prompt_details if isinstance(prompt_details, dict) else _NOTHING)
    fresh = asked
    if fresh is not None and asked is not None:
        if cached:
            cached = min(cached, asked)
            fresh = asked - cached
        if written:
            written = min(written, fresh)
            fresh -= written
    reasoning = spoken = None
    if isinstance(completion_details, dict):
        reasoning = counted(completion_details.get("reasoning_tokens"))
        spoken = counted(completion_details.get("audio_tokens"))
    if (
        reasoning
        and completion is not None
        and counted(usage.get("total_tokens")) == (asked or 0) + completion + reasoning
    ):
        completion += reasoning
    return ir.Usage(
        fresh,
        cached,
        written,
        None,
        completion,
        reasoning and _capped(reasoning, completion),
        heard and _capped(heard, fresh),
        spoken and _capped(spoken, completion),
    )


def _of_prompt(usage: dict[str, Any], details: dict[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Tokens that were cached, written to the cache, and of sound."""
    cached = counted(details.get("cached_tokens"))
    if cached is None:
        for name in CACHED:
            if name in usage and (cached := counted(usage[name])) is not None:
                break
    if not details:
        return cached, None, None
    return cached, counted(details.get("cache_write_tokens")), counted(details.get("audio_tokens"))


def usage_of(answer: Mapping[str, Any]) -> ir.Usage | None:
    """The usage of an answer or a chunk."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        beside = answer.get(USAGE_BESIDE)
        usage = beside.get("usage") if isinstance(beside, dict) else None
    return read_usage(usage) if isinstance(usage, dict) else None


def usage_alone(rest: bytes) -> ir.Usage | None:
    """Of a raw chunk from its choices on: the usage, if it has nothing but that."""
    for before in _ALONE:
        told = rest.removeprefix(before)
        if len(told) < len(rest) and told[-3:] == b"}\n\n" and LF not in (usage := told[:-3]) and CR not in usage:
            try:
                if (plain := _read_plain(usage)) is not None:
                    return plain
                if TOLD not in usage:
                    return None
                return read_usage(found) if isinstance(found := json_text.read(usage), dict) else None
            except ValueError:
                return None
    return None


def counts_at(rest: bytes) -> tuple[Span, Span, Span] | None:
    """Of what `usage_alone` reads: where the prompt's count stands, the completion's and the total. None where another
    number is more than nothing, and might have to be taken from one of these."""
    found = [list(count.finditer(rest)) for count in _COUNTS]
    if [*map(len, found)] != [1, 1, 1]:
        return None
    asked, completion, total = (it[0].span(1) for it in found)
    others = {it[0] for it in _NUMBER.finditer(rest) if it.start() not in (asked[0], completion[0], total[0])}
    return (asked, completion, total) if others <= {b"0"} else None


def _read_plain(usage: bytes) -> ir.Usage | None:
    """As `read_usage` has it, without parsing; shown to be right by being written again."""
    form, at = _FORMS.get(usage.translate(None, _DIGITS), (b"", 0))
    if not form or len(numbers := tuple(map(int, usage.translate(_APART).split()))) != 3 or form % numbers != usage:
        return None
    asked, completion = numbers[0], numbers[at]
    return ir.Usage(asked, None, None, None, completion) if asked <= MOST and completion <= MOST else None


def usage_in(chunk: Mapping[str, Any], before: ir.Usage | None) -> ir.Usage | None:
    """What is known behind a chunk that tells some."""
    usage = usage_of(chunk)
    return usage if before is None or usage is None else before.merged(usage)


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


def _capped(count: int | None, most: int | None) -> int | None:
    return count if count is None or most is None else min(count, most)
