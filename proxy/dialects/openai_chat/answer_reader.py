"""Whole answers to the IR.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.answer_check import answered, check_answer, choices_of, message_of, native_stop
from proxy.dialects.openai_chat.media import image_of
from proxy.dialects.openai_chat.message_reader import read_signature
from proxy.dialects.openai_chat.reasoning import read_reasoning
from proxy.dialects.openai_chat.usage import usage_of
from proxy.dialects.openai_chat.vocabulary import NAME, stop_reason
from proxy.errors import UpstreamBroken
from proxy.wire import json_text

_KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"})
_NO_WORD = re.compile(r"[^\w-]")


def decode_answer(parsed: Mapping[str, Any]) -> ir.Answer:
    check_answer(parsed)
    answer = answered(parsed)
    ident = _text(answer, "id")
    choices = [_choice(choice, ident) for choice in choices_of(answer)]
    choices[0] = _with_sources(choices[0], answer)
    created = answer.get("created")
    return ir.Answer(
        id=ident,
        model=_text(answer, "model"),
        choices=tuple(choices),
        usage=usage_of(answer) or ir.Usage(),
        created=int(created) if isinstance(created, int | float) else None,
        service_tier=_text(answer, "service_tier") or None,
        fingerprint=_text(answer, "system_fingerprint") or None,
        extra={name: value for name, value in answer.items() if name not in _KNOWN},
    )


def call_id(answer_id: str, number: int) -> str:
    """For calls that come without one: unlike any other of the conversation, as the answer's own id is, and of the
    characters that Anthropic takes. Of an answer without an id, whoever writes it makes one up."""
    return f"call_{_NO_WORD.sub('_', answer_id)[:48]}_{number}" if answer_id else ""


def is_providers_own(call: Any) -> bool:
    """Whether a call is one of a tool that the provider runs itself: the client has nothing to do with it."""
    return (
        isinstance(call, dict)
        and call.get("type") not in (None, "", "function", "custom")
        and not (isinstance(call.get("function"), dict) or isinstance(call.get("custom"), dict))
    )


def citation(raw: Any) -> ir.Citation | None:
    """An `url_citation`; OpenRouter adds the cited text."""
    inner = raw.get("url_citation") if isinstance(raw, dict) else None
    if not isinstance(inner, dict):
        return None
    start, end = inner.get("start_index"), inner.get("end_index")
    known = isinstance(start, int) and isinstance(end, int) and end > start  # OpenRouter: 0 to 0 where unknown
    return ir.Citation(
        url=_text(inner, "url") or None,
        title=_text(inner, "title") or None,
        cited_text=_text(inner, "content") or None,
        start=start if known else None,
        end=end if known else None,
        raw=raw,
        dialect=NAME,
    )


def sources_of(answer: Mapping[str, Any]) -> list[ir.Citation]:
    """Perplexity's sources, which stand beside the choices: rich in `search_results`, plain URLs in `citations`."""
    results = answer.get("search_results")
    if isinstance(results, list) and results:
        return [
            ir.Citation(_text(raw, "url") or None, _text(raw, "title") or None, _text(raw, "snippet") or None)
            for raw in results
            if isinstance(raw, dict)
        ]
    urls = answer.get("citations")
    return [ir.Citation(url) for url in urls if isinstance(url, str)] if isinstance(urls, list) else []


def content_parts(content: Any) -> list[ir.Part]:
    """A string, or Mistral's list with thinking in it."""
    if isinstance(content, str):
        return [ir.Text(content)] if content else []
    parts: list[ir.Part] = []
    for item in content if isinstance(content, list) else []:
        if isinstance(item, str):
            parts.append(ir.Text(item))
        elif isinstance(item, dict):
            parts.append(_content_part(item))
    return parts


def thinking_text(item: Mapping[str, Any]) -> str:
    words = item.get("thinking")
    if isinstance(words, list):
        words = "".join(_text(word, "text") for word in words if isinstance(word, dict))
    return words if isinstance(words, str) else ""


def words_of(called: Mapping[str, Any]) -> str:
    """What a tool was called with; a few servers send the object itself."""
    words = called.get("arguments", called.get("input"))
    return json_text.write(words).decode() if isinstance(words, dict) else words if isinstance(words, str) else ""


def _choice(choice: Mapping[str, Any], answer_id: str) -> ir.Choice:
    message = message_of(choice)
    parts: list[ir.Part] = [*read_reasoning(_without_empty(message)), *content_parts(message.get("content"))]
    cited = tuple(found for raw in _list(message.get("annotations")) if (found := citation(raw)))
    parts = _cited(parts, cited)
    refusal = _text(message, "refusal")
    if refusal:
        parts.append(ir.Refusal(refusal))
    if audio := _audio(message.get("audio")):
        parts.append(audio)
    parts += (image for raw in _list(message.get("images")) if (image := image_of(raw)))
    calls = _calls(message, answer_id)
    reason = native_stop(choice)
    stop = stop_reason(reason, called=bool(calls), refused=bool(refusal))
    matched = choice.get("stop_reason")  # vLLM: the stop sequence that it met, or a token's number
    if stop == "end" and isinstance(matched, str) and matched:
        return ir.Choice((*parts, *calls), "stop_sequence", matched, choice.get("logprobs"), reason or None)
    return ir.Choice((*parts, *calls), stop, None, choice.get("logprobs"), reason or None)


def _calls(message: Mapping[str, Any], answer_id: str) -> list[ir.ToolCall]:
    calls: list[ir.ToolCall] = []
    for raw in _list(message.get("tool_calls")):
        if is_providers_own(raw):
            continue
        custom = isinstance(raw, dict) and isinstance(raw.get("custom"), dict)
        called = raw.get("custom" if custom else "function") if isinstance(raw, dict) else None
        if not isinstance(called, dict) or not _text(called, "name"):
            raise UpstreamBroken("The provider's answer holds a tool call without a name.")
        ident = _text(raw, "id") or call_id(answer_id, len(calls))
        calls.append(ir.ToolCall(ident, called["name"], words_of(called), custom, signature=read_signature(raw)))
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and _text(legacy, "name"):
        calls.append(ir.ToolCall(call_id(answer_id, len(calls)), legacy["name"], words_of(legacy)))
    return calls


def _audio(raw: Any) -> ir.Audio | None:
    if not isinstance(raw, dict) or not (_text(raw, "data") or _text(raw, "transcript")):
        return None
    expires = raw.get("expires_at")
    return ir.Audio(
        ir.Blob(_text(raw, "data")) if raw.get("data") else None,
        transcript=_text(raw, "transcript") or None,
        id=_text(raw, "id") or None,
        expires_at=expires if isinstance(expires, int) else None,
    )


def _with_sources(choice: ir.Choice, answer: Mapping[str, Any]) -> ir.Choice:
    sources = tuple(sources_of(answer))
    if not sources:
        return choice
    parts = tuple(_cited(list(choice.parts), sources))
    return ir.Choice(parts, choice.stop, choice.stop_sequence, choice.logprobs, choice.native_stop)


def _cited(parts: list[ir.Part], citations: tuple[ir.Citation, ...]) -> list[ir.Part]:
    """The first text carries them: positions count from its start, since the content was one string."""
    if not citations:
        return parts
    for place, part in enumerate(parts):
        if isinstance(part, ir.Text):
            parts[place] = ir.Text(part.text, part.citations + citations)
            return parts
    return [*parts, ir.Text("", citations)]


def _content_part(item: dict[str, Any]) -> ir.Part:
    match item.get("type"):
        case "text":
            return ir.Text(_text(item, "text"))
        case "thinking":
            return ir.Thinking(thinking_text(item), dialect=NAME, raw=item)
        case "refusal":
            return ir.Refusal(_text(item, "refusal"))
        case "image_url" if image := image_of(item):
            return image
        case kind:
            return ir.Opaque(str(kind), item, NAME)


def _without_empty(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
