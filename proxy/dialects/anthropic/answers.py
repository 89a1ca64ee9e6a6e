"""Whole answers of the Messages API, both ways.

https://platform.claude.com/docs/en/api/messages/create
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.anthropic.blocks import NAME, BlockReader
from proxy.dialects.anthropic.faults import read_failure
from proxy.dialects.anthropic.stops import STOP_REASONS, write_stop
from proxy.dialects.anthropic.turns import call_id
from proxy.dialects.anthropic.usage import read_usage, write_usage
from proxy.dialects.dialect import Parted, Voice
from proxy.errors import InvalidRequest, UpstreamBroken
from proxy.wire import json_text

# The API's words for how an answer was served, and the IR's. OpenAI has none for a batch.
_TIERS = {"standard": "default", "priority": "priority"}
_NATIVE_TIERS = {tier: native for native, tier in _TIERS.items()}
_OWN = ("container", "context_management", "diagnostics", "stop_details")
_OWN_COUNTS = ("server_tool_use", "iterations", "inference_geo", "speed")
_TOLD_OF_USAGE = ("service_tier", *_OWN_COUNTS)  # beside its tokens


def check_answer(parsed: Any) -> ir.Usage | None:
    """The usage of an answer that passes through; None where it has none.

    Raises UpstreamBroken for what is no message of this API or holds nothing without saying why it stopped, and what
    an error object under a 200 stands for.
    """
    if not isinstance(parsed, dict):
        raise UpstreamBroken("The provider's answer is not a message of the Messages API.")
    if parsed.get("type") == "error" or isinstance(parsed.get("error"), dict):
        raise failures.of_stream(read_failure(parsed))
    if not isinstance(parsed.get("content"), list):
        raise UpstreamBroken("The provider's answer has no content.")
    if not parsed["content"] and not isinstance(parsed.get("stop_reason"), str):
        raise UpstreamBroken("The provider's answer is empty and gives no stop reason.")
    return read_usage(parsed["usage"]) if isinstance(parsed.get("usage"), dict) else None


def check_count(parsed: Any) -> ir.Usage | None:
    """The answer of count_tokens, which bills nothing: https://platform.claude.com/docs/en/build-with-claude/token-counting"""
    if isinstance(parsed, dict) and (parsed.get("type") == "error" or isinstance(parsed.get("error"), dict)):
        raise failures.of_stream(read_failure(parsed))
    if not isinstance(parsed, dict) or not isinstance(parsed.get("input_tokens"), int):
        raise UpstreamBroken("The provider's answer is no count of tokens.")
    return ir.Usage(input=0, output=0)


def decode_answer(body: Mapping[str, Any]) -> ir.Answer:
    """A message. What only this API says of it (`container`, counts of searches) stands in `extra`."""
    usage = check_answer(body)
    try:
        parts = BlockReader().content(body["content"], "content")
    except InvalidRequest as exc:
        raise UpstreamBroken(f"The provider's answer cannot be read: {exc.message}") from exc
    native, sequence = body.get("stop_reason"), body.get("stop_sequence")
    native = native if isinstance(native, str) else None
    choice = ir.Choice(
        parts,
        STOP_REASONS.get(native or "", "unknown"),
        stop_sequence=sequence if isinstance(sequence, str) else None,
        native_stop=native,
    )
    counts = body["usage"] if usage is not None else {}
    extra = {name: body[name] for name in _OWN if body.get(name) is not None}
    if more := {name: counts[name] for name in _OWN_COUNTS if counts.get(name) is not None}:
        extra["usage"] = more
    return ir.Answer(
        id=str(body.get("id") or ""),
        model=str(body.get("model") or ""),
        choices=(choice,),
        usage=usage or ir.Usage(),
        service_tier=read_tier(counts),
        extra=extra,
    )


def parted_answer(parsed: Mapping[str, Any]) -> Parted | None:
    """See `Parted`."""
    content, usage, ident = parsed.get("content"), parsed.get("usage"), parsed.get("id")
    if content.__class__ is not list or len(content) != 1 or usage.__class__ is not dict or ident.__class__ is not str:
        return None
    block = content[0]
    if block.__class__ is not dict or block.get("type") != "text" or block.get("citations") or not ident:
        return None
    text = block.get("text")
    if text.__class__ is not str or not text:
        return None
    counts = {name: usage[name] for name in _TOLD_OF_USAGE if name in usage}
    return {**parsed, "id": None, "content": {**block, "text": None}, "usage": counts}, ident, text


def read_tier(usage: Mapping[str, Any]) -> str | None:
    tier = usage.get("service_tier")
    return _TIERS.get(tier) if isinstance(tier, str) else None


def encode_answer(answer: ir.Answer, voice: Voice) -> Mapping[str, Any]:
    """A message; of several choices the first, since no client of this API can ask for more.

    Images, audio and blocks of another provider's own tools have no place in it and stay out. Thinking that another
    provider showed has no signature: its clients must not get one that the API would refuse.
    """
    choice = answer.choices[0] if answer.choices else ir.Choice((), "unknown")
    written = (write_part(part, choice, voice, at) for at, part in enumerate(choice.parts))
    usage = write_usage(answer.usage)
    if tier := _NATIVE_TIERS.get(answer.service_tier or ""):
        usage["service_tier"] = tier
    counts = answer.extra.get("usage")
    if isinstance(counts, dict):
        usage |= {name: counts[name] for name in _OWN_COUNTS if name in counts}
    return {
        "id": message_id(answer.id, voice),
        "type": "message",
        "role": "assistant",
        "model": answer.model or voice.model,
        "content": [block for block in written if block is not None],
        "stop_reason": write_stop(
            choice.stop,
            choice.native_stop,
            calls=any(isinstance(part, ir.ToolCall) for part in choice.parts),
            refused=any(isinstance(part, ir.Refusal) for part in choice.parts),
        ),
        "stop_sequence": choice.stop_sequence,
        **{name: answer.extra[name] for name in _OWN if name in answer.extra},
        "usage": usage,
    }


def message_id(native: str, voice: Voice) -> str:
    return native or f"msg_{voice.request_id}"


def write_part(part: ir.Part, choice: ir.Choice, voice: Voice, at: int) -> dict[str, Any] | None:
    """The block of a part of an answer; None where there is nothing to show."""
    match part:
        case ir.Text(text) if text:
            citations = [write_citation(citation) for citation in part.citations]
            return {"type": "text", "text": text} | ({"citations": citations} if citations else {})
        case ir.Refusal(text) if text:
            return {"type": "text", "text": text}
        case ir.Thinking(redacted=str(data), dialect="anthropic"):
            return {"type": "redacted_thinking", "data": data}
        case ir.Thinking():
            text, signature = part.text or "\n\n".join(part.summary), own_signature(part) or ""
            return {"type": "thinking", "thinking": text, "signature": signature} if text or signature else None
        case ir.ToolCall():
            return _call(part, choice, voice, at)
        case ir.ServerCall(raw=raw) | ir.ServerResult(raw=raw) | ir.Opaque(raw=raw) if part.dialect == NAME:
            return dict(raw)
        case _:
            return None


def _call(part: ir.ToolCall, choice: ir.Choice, voice: Voice, at: int) -> dict[str, Any] | None:
    try:
        given = json_text.read(part.arguments) if part.arguments.strip() else {}
    except ValueError as exc:
        if choice.stop == "length":  # cut off in the middle of its arguments: max_tokens tells the client
            return None
        raise UpstreamBroken(f"The model called {part.name} with arguments that are no JSON.") from exc
    if not isinstance(given, dict):
        raise UpstreamBroken(f"The model called {part.name} with arguments that are no JSON object.")
    return {"type": "tool_use", "id": tool_id(part.id, voice, at), "name": part.name, "input": given}


def tool_id(native: str, voice: Voice, at: int) -> str:
    """Without an id no result could be sent for the call; some providers give none."""
    return call_id(native) or f"toolu_{voice.request_id}_{at}"


def own_signature(part: ir.Thinking) -> str | None:
    return part.signature if part.dialect == NAME else None


def write_citation(citation: ir.Citation) -> dict[str, Any]:
    """Another provider's citation becomes a search result, the only kind that has a URL and needs no document."""
    if citation.dialect == NAME:
        return dict(citation.raw)
    return {
        "type": "web_search_result_location",
        "url": citation.url or "",
        "title": citation.title,
        "cited_text": citation.cited_text or "",
        "encrypted_index": "",
    }
