"""Reasoning on messages: plain members of many names, and OpenRouter's `reasoning_details` with the proofs.

A client that keeps `reasoning_details`, as OpenRouter asks, hands signed thinking back to whoever minted it.
https://openrouter.ai/docs/use-cases/reasoning-tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.dialects.openai_chat.relatives import MINTED_BY, REASONING_FORMATS, REASONING_MEMBERS
from proxy.dialects.openai_chat.vocabulary import NAME


def read_reasoning(message: Mapping[str, Any]) -> tuple[ir.Thinking, ...]:
    """The thinking of a whole message. The first part keeps the members as they came, for this same dialect."""
    raw = {name: message[name] for name in REASONING_MEMBERS if message.get(name) is not None}
    if not raw:
        return ()
    details = raw.get("reasoning_details")
    plain = _plain(raw)
    if isinstance(details, list) and (known := _minted(details)):
        if not any(part.text or part.summary for part in known) and not known[0].redacted:
            known = (evolve(known[0], text=plain), *known[1:])  # the details held the proof alone
        return (evolve(known[0], raw=raw), *known[1:])
    return (ir.Thinking(plain or _text_of(details), dialect=NAME, raw=raw),)


def write_delta(dialect: str, text: str, index: int, *, summary: bool) -> list[dict[str, Any]]:
    """The same for a piece of a stream: a client joins the pieces of one index, and has the text that was signed."""
    form = REASONING_FORMATS.get(dialect)
    if form is None:
        return []
    kind = "summary" if summary else "text"
    return [{"type": f"reasoning.{kind}", kind: text, "format": form, "index": index}]


def write_details(thinking: ir.Thinking, index: int) -> list[dict[str, Any]]:
    """What proves the thinking, in OpenRouter's shape; nothing where there is no proof to keep."""
    form = REASONING_FORMATS.get(thinking.dialect)
    if form is None:
        return []
    tail = {"format": form, "index": index, **({"id": thinking.id} if thinking.id else {})}
    if thinking.redacted or thinking.encrypted:
        return [{"type": "reasoning.encrypted", "data": thinking.redacted or thinking.encrypted, **tail}]
    if thinking.signature:
        text = {"text": thinking.text} if thinking.text else {}
        return [{"type": "reasoning.text", **text, "signature": thinking.signature, **tail}]
    return []


def _minted(details: list[Any]) -> tuple[ir.Thinking, ...]:
    """Details with a known mint, those of one index joined: a client may hand back the deltas of a stream as they
    came. Empty if one of them is unknown: then they stay together, for this dialect alone."""
    parts: dict[Any, ir.Thinking] = {}
    for place, detail in enumerate(details):
        dialect = MINTED_BY.get(str(detail.get("format"))) if isinstance(detail, dict) else None
        if dialect is None:
            return ()
        index = detail.get("index")
        key = (detail.get("type") == "reasoning.encrypted", place if index is None else index)
        parts[key] = _joined(parts.get(key) or ir.Thinking(dialect=dialect), detail)
    return tuple(parts.values())


def _joined(part: ir.Thinking, detail: Mapping[str, Any]) -> ir.Thinking:
    def said(name: str) -> str:
        value = detail.get(name)
        return value if isinstance(value, str) else ""

    if detail.get("type") == "reasoning.encrypted":
        part = evolve(part, id=said("id") or part.id)
        data = said("data") or None
        return evolve(part, redacted=data) if part.dialect == "anthropic" else evolve(part, encrypted=data)
    if detail.get("type") == "reasoning.summary":
        return evolve(part, summary=("".join((*part.summary, said("summary"))),), id=said("id") or part.id)
    return evolve(
        part,
        text=part.text + said("text"),
        signature=said("signature") or part.signature,
        id=said("id") or part.id,
    )


def _plain(raw: Mapping[str, Any]) -> str:
    words: list[Any] = [raw.get(name) for name in REASONING_MEMBERS]
    return next((word for word in words if isinstance(word, str) and word), "")


def _text_of(details: Any) -> str:
    if not isinstance(details, list):
        return ""
    words = (detail.get("text") or detail.get("summary") for detail in details if isinstance(detail, dict))
    return "".join(word for word in words if isinstance(word, str))
