"""Whole answers to the IR, and the check of them.

https://ai.google.dev/api/generate-content#generatecontentresponse
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import zip_longest
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.gemini.failure import broken_off, failure_of
from proxy.dialects.gemini.grounding import Grounding
from proxy.dialects.gemini.usage import usage_of
from proxy.dialects.gemini.vocabulary import BROKEN_OFF, NAME, native_stop, stop_reason
from proxy.errors import UpstreamBroken
from proxy.wire import json_text

_NO_WORD = re.compile(r"[^\w-]")
_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}  # as OpenAI calls them
# Parts in which the provider's own tools show their work.
_CALLS, _RESULTS = ("executableCode", "toolCall"), ("codeExecutionResult", "toolResponse")


def check_answer(parsed: Any) -> ir.Usage | None:
    """The usage of a good answer. A prompt that was blocked, and an output that is empty for a reason that is told, are
    good."""
    if failure := failure_of(parsed):
        raise failures.of_stream(failure)
    if not isinstance(parsed, dict):
        raise UpstreamBroken("The provider's answer is not a JSON object.")
    candidates = candidates_of(parsed)
    if not candidates and blocked(parsed) is None:
        raise UpstreamBroken("The provider's answer holds no candidates.")
    for candidate in candidates:
        reason = native_stop(candidate.get("finishReason"))
        if reason in BROKEN_OFF:
            raise failures.of_stream(broken_off(reason))
        if not any(map(has_output, parts_of(candidate))) and not reason:
            raise UpstreamBroken("The provider's answer holds no output and no finish reason.")
    return usage_of(parsed)


def decode_answer(parsed: Mapping[str, Any]) -> ir.Answer:
    usage = check_answer(parsed)
    start = read_start(parsed)
    choices = [_choice(candidate, start.id) for candidate in candidates_of(parsed)]
    if not choices:
        choices = [ir.Choice((), "filter", native_stop=blocked(parsed))]
    return ir.Answer(
        id=start.id,
        model=start.model,
        choices=tuple(choices),
        usage=usage or ir.Usage(),
        created=start.created,
        service_tier=start.service_tier,
    )


def read_start(answer: Mapping[str, Any]) -> ir.Start:
    usage = answer.get("usageMetadata")
    tier = usage.get("serviceTier") if isinstance(usage, dict) else None
    return ir.Start(
        id=_text(answer, "responseId"),
        model=_text(answer, "modelVersion"),
        created=_seconds(_text(answer, "createTime")),
        service_tier=_TIERS.get(tier) if isinstance(tier, str) else None,
    )


def candidates_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    candidates = answer.get("candidates")
    if candidates is None:
        return []
    if not isinstance(candidates, list) or not all(isinstance(candidate, dict) for candidate in candidates):
        raise UpstreamBroken("The provider's answer has candidates that are no array of objects.")
    return candidates


def parts_of(candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Blocked and cut answers have an empty content, or none."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    if parts is None:
        return []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UpstreamBroken("The provider's answer has parts that are no array of objects.")
    return parts


def has_output(part: Mapping[str, Any]) -> bool:
    return any(value for name, value in part.items() if name not in ("thought", "thoughtSignature"))


def blocked(answer: Mapping[str, Any]) -> str | None:
    """Why the prompt itself was refused."""
    feedback = answer.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return reason if isinstance(reason, str) and reason else None


def read_part(raw: Mapping[str, Any], call_id: str) -> ir.Part:
    """`call_id` is for a call that comes without one."""
    signature = signature_of(raw)
    if isinstance(text := raw.get("text"), str):
        if raw.get("thought") is True:
            return ir.Thinking(text, signature=signature, dialect=NAME)
        return ir.Text(text, signature=signature)
    if isinstance(call := raw.get("functionCall"), dict):
        if not _text(call, "name"):
            raise UpstreamBroken("The provider's answer holds a tool call without a name.")
        args = call.get("args")
        words = json_text.write(args if isinstance(args, dict) else {}).decode()
        return ir.ToolCall(_text(call, "id") or call_id, call["name"], words, signature=signature)
    if isinstance(data := raw.get("inlineData"), dict) and isinstance(data.get("data"), str):
        return _media(data, raw)
    if name := next((name for name in _CALLS if isinstance(raw.get(name), dict)), None):
        arguments = json_text.write(raw[name]).decode()
        return ir.ServerCall(_text(raw[name], "id"), _tool_name(raw[name]), arguments, raw, NAME)
    if name := next((name for name in _RESULTS if isinstance(raw.get(name), dict)), None):
        return ir.ServerResult(_text(raw[name], "id"), _tool_name(raw[name]), raw, NAME)
    return ir.Opaque(next((name for name in raw if name != "thoughtSignature"), "part"), raw, NAME)


def signature_of(raw: Mapping[str, Any]) -> str | None:
    return _text(raw, "thoughtSignature") or None


def made_up_id(answer_id: str, number: int) -> str:
    """For calls without an id: unlike any other of the conversation, as the answer's own id is, and of the characters
    that Anthropic takes. Of an answer without an id, whoever writes it makes one up."""
    return f"call_{_NO_WORD.sub('_', answer_id)[:48]}_{number}" if answer_id else ""


def logprobs_of(candidate: Mapping[str, Any]) -> dict[str, Any] | None:
    """In OpenAI's form, which the IR has."""
    result = candidate.get("logprobsResult")
    if not isinstance(result, dict):
        return None
    tokens, steps = _objects(result.get("chosenCandidates")), _objects(result.get("topCandidates"))
    nothing: dict[str, Any] = {}
    content = [
        {**_logprob(token), "top_logprobs": [_logprob(other) for other in _objects(step.get("candidates"))]}
        for token, step in zip_longest(tokens, steps[: len(tokens)], fillvalue=nothing)
    ]
    return {"content": content, "refusal": None} if content else None


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    said = _text(token, "token")
    return {"token": said, "logprob": token.get("logProbability", 0.0), "bytes": list(said.encode())}


def _choice(candidate: Mapping[str, Any], answer_id: str) -> ir.Choice:
    parts: list[ir.Part] = []
    grounding, starts = Grounding(), []
    for at, raw in enumerate(parts_of(candidate)):
        part = read_part(raw, made_up_id(answer_id, at))
        starts.append(grounding.bytes)
        if isinstance(part, ir.Text):
            grounding.add(part.text)
        _join(parts, part)
    parts = _cited(parts, tuple(grounding.citations(candidate, starts)))
    native = native_stop(candidate.get("finishReason"))
    stop = stop_reason(native, called=any(isinstance(part, ir.ToolCall) for part in parts))
    return ir.Choice(tuple(parts), stop, logprobs=logprobs_of(candidate), native_stop=native or None)


def _join(parts: list[ir.Part], part: ir.Part) -> None:
    """One text may come in pieces, as a stream cuts it; the proof of it stands on the last one, which may be empty."""
    match parts[-1] if parts else None, part:
        case ir.Text() as said, ir.Text() as more:
            parts[-1] = evolve(said, text=said.text + more.text, signature=more.signature or said.signature)
        case ir.Thinking() as said, ir.Thinking() as more:
            parts[-1] = evolve(said, text=said.text + more.text, signature=more.signature or said.signature)
        case _, ir.Text(text="") | ir.Thinking(text=""):
            return
        case _:
            parts.append(part)


def _cited(parts: list[ir.Part], citations: tuple[ir.Citation, ...]) -> list[ir.Part]:
    """The first text carries them all: their places count from the start of the answer."""
    if not citations:
        return parts
    for at, part in enumerate(parts):
        if isinstance(part, ir.Text):
            return [*parts[:at], evolve(part, citations=citations), *parts[at + 1 :]]
    return [*parts, ir.Text("", citations)]


def _media(data: Mapping[str, Any], raw: Mapping[str, Any]) -> ir.Part:
    kind = _text(data, "mimeType")
    blob = ir.Blob(data["data"], kind or None)
    match kind.partition("/")[0]:
        case "image":
            return ir.Image(blob)
        case "audio":
            return ir.Audio(blob, kind.partition("/")[2].partition(";")[0])
        case "video":
            return ir.Video(blob)
    return ir.Opaque("inlineData", raw, NAME)


def _tool_name(call: Mapping[str, Any]) -> str:
    return _text(call, "toolType").lower() or "code_execution"


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _seconds(moment: str) -> int | None:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except (ValueError, OverflowError):
        return None


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
