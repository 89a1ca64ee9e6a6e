"""Whole answers to the IR, and the check of those that pass through.

https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.openai_chat import answer_reader as chat
from proxy.dialects.openai_responses.failure import failure_of_response
from proxy.dialects.openai_responses.input_reader import read_citation
from proxy.dialects.openai_responses.usage import usage_of
from proxy.dialects.openai_responses.vocabulary import NAME, server_kind, stop_of
from proxy.errors import UpstreamBroken

# Where something is said in an item; an item of a type unknown to us always says something.
_SAYS = {"message": ("content",), "reasoning": ("summary", "content", "encrypted_content")}
_IMAGE_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "gif": "image/gif"}

UNSETTLED = ("in_progress", "queued")  # of a background response alone an answer


def check_answer(parsed: Any) -> ir.Usage | None:
    """The usage of a good answer. One without output is good if it says how it stands: a background response does."""
    output = _output(parsed)
    status = parsed.get("status")
    settled = isinstance(status, str) and (status not in UNSETTLED or parsed.get("background") is True)
    if not settled and not any(map(says_something, output)):
        raise UpstreamBroken("The provider's answer holds no output and no status.")
    return usage_of(parsed)


def decode_answer(parsed: Mapping[str, Any]) -> ir.Answer:
    output = _output(parsed)
    status = _text(parsed, "status") or "completed"
    if status not in ("completed", "incomplete"):
        raise UpstreamBroken(f"The provider's answer is {status}, and there is no way to wait for it.")
    if not output and not _text(parsed, "status"):
        raise UpstreamBroken("The provider's answer holds no output and no status.")
    parts = tuple(part for item in output for part in read_item(item))
    stop, native = read_stop(
        parsed,
        called=any(isinstance(part, ir.ToolCall) for part in parts),
        refused=any(isinstance(part, ir.Refusal) for part in parts),
    )
    created = parsed.get("created_at")
    return ir.Answer(
        id=_text(parsed, "id"),
        model=_text(parsed, "model"),
        choices=(ir.Choice(parts, stop, None, _logprobs(parsed), native),),
        usage=usage_of(parsed) or ir.Usage(),
        created=int(created) if isinstance(created, int | float) else None,
        service_tier=_text(parsed, "service_tier") or None,
    )


def read_stop(response: Mapping[str, Any], *, called: bool, refused: bool) -> tuple[ir.StopReason, str]:
    """Why it ended, in the IR's word and in the provider's own."""
    status, details = _text(response, "status") or "completed", response.get("incomplete_details")
    reason = _text(details, "reason") if isinstance(details, dict) else ""
    return stop_of(status, reason, called=called, refused=refused), reason or status


def read_item(item: Any) -> Iterator[ir.Part]:
    """The parts that a whole output item stands for."""
    if not isinstance(item, dict):
        raise UpstreamBroken("The provider's answer holds an output item that is not an object.")
    match item.get("type"):
        case "message":
            yield from (read_part(part) for part in _dicts(item, "content"))
        case "reasoning":
            yield read_reasoning(item)
        case "function_call" | "custom_tool_call":
            yield read_call(item)
        case kind:
            yield read_other(str(kind), item)


def read_part(part: Mapping[str, Any]) -> ir.Part:
    match part.get("type"):
        case "output_text" | "text":
            return ir.Text(_text(part, "text"), tuple(map(read_citation, _dicts(part, "annotations"))))
        case "refusal":
            return ir.Refusal(_text(part, "refusal"))
        case kind:
            return ir.Opaque(str(kind), part, NAME)


def read_reasoning(item: Mapping[str, Any]) -> ir.Thinking:
    return ir.Thinking(
        "".join(_text(piece, "text") for piece in _dicts(item, "content")),
        tuple(_text(piece, "text") for piece in _dicts(item, "summary")),
        encrypted=_text(item, "encrypted_content") or None,
        id=_text(item, "id") or None,
        dialect=NAME,
    )


def read_call(item: Mapping[str, Any]) -> ir.ToolCall:
    custom = item.get("type") == "custom_tool_call"
    name, ident = _text(item, "name"), _text(item, "call_id") or _text(item, "id")
    if not name:
        raise UpstreamBroken("The provider's answer holds a tool call without a name.")
    arguments = _text(item, "input") if custom else chat.words_of(item)
    return ir.ToolCall(ident, name, arguments, custom, item_id=_text(item, "id") or None)


def read_other(kind: str, item: Mapping[str, Any]) -> ir.Part:
    """What the provider's own tools did. A picture is more than that: other dialects can show it."""
    if kind == "image_generation_call" and (data := _text(item, "result")):
        return ir.Image(ir.Blob(data, _IMAGE_TYPES.get(_text(item, "output_format"), "image/png")))
    if kind.endswith("_call"):
        return ir.ServerCall(_text(item, "id"), server_kind(kind.removesuffix("_call")), "", item, NAME)
    if kind.endswith("_output"):
        return ir.ServerResult(_text(item, "call_id"), kind, item, NAME)
    return ir.Opaque(kind, item, NAME)


def says_something(item: Any) -> bool:
    """Whether an output item holds output, rather than the announcement of some."""
    if not isinstance(item, dict):
        return False
    members = _SAYS.get(str(item.get("type")))
    return members is None or any(_has_words(item.get(name)) for name in members)


def _has_words(value: Any) -> bool:
    if isinstance(value, list):
        return any(_text(piece, "text") or _text(piece, "refusal") for piece in value if isinstance(piece, dict))
    return bool(value)


def _output(parsed: Any) -> list[Any]:
    if not isinstance(parsed, dict):
        raise UpstreamBroken("The provider's answer is not a JSON object.")
    if failure := failure_of_response(parsed):
        raise failures.of_stream(failure)
    output = parsed.get("output")
    if not isinstance(output, list):
        raise UpstreamBroken("The provider's answer holds no output.")
    return output


def _logprobs(response: Mapping[str, Any]) -> Any:
    """Of all texts, in Chat's form, which is the IR's."""
    found = [
        entry
        for item in _dicts(response, "output")
        for part in _dicts(item, "content")
        for entry in _dicts(part, "logprobs")
    ]
    return {"content": found, "refusal": None} if found else None


def _dicts(source: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = source.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
