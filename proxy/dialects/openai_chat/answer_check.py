"""Whole answers, judged: all that is asked of one that passes through.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Parted
from proxy.dialects.openai_chat.failure import failure_of
from proxy.dialects.openai_chat.relatives import BROKEN_OFF
from proxy.dialects.openai_chat.usage import read_usage, usage_of
from proxy.errors import UpstreamBroken

_OUTPUT = (
    "content", "reasoning", "reasoning_content", "reasoning_details", "refusal", "tool_calls", "function_call", "audio",
    "images", "annotations",
)  # fmt: skip
_USUAL = ("stop", "length", "tool_calls")  # finish reasons that say all is well


def check_answer(parsed: Any) -> ir.Usage | None:
    """The usage of a good answer, to a conversation or a completion. An output that is empty for a reason that is told
    is good."""
    if _is_usual(parsed):
        usage = parsed.get("usage")
        return read_usage(usage) if usage.__class__ is dict else usage_of(parsed)
    answer = answered(parsed)
    for choice in choices_of(answer):
        if native_stop(choice) or choice.get("text"):
            continue
        message = message_of(choice)
        if not any(has_output(message.get(name)) for name in _OUTPUT):
            raise UpstreamBroken("The provider's answer holds no output and no finish reason.")
    return usage_of(answer)


def _is_usual(parsed: Any) -> bool:
    """As nearly all are: one choice that ended well, and no word of an error."""
    if parsed.__class__ is not dict or "error" in parsed or parsed.get("object") != "chat.completion":
        return False
    choices = parsed.get("choices")
    if choices.__class__ is not list or len(choices) != 1 or (choice := choices[0]).__class__ is not dict:
        return False
    return choice.get("finish_reason") in _USUAL and "error" not in choice


def parted_answer(parsed: Mapping[str, Any]) -> Parted | None:
    """See `Parted`."""
    choices, ident = parsed.get("choices"), parsed.get("id")
    if choices.__class__ is not list or len(choices) != 1 or ident.__class__ is not str or not ident:
        return None
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if message is None or text.__class__ is not str or not text:
        return None
    said = {**choice, "message": {**message, "content": None}}
    return {**parsed, "id": None, "created": None, "usage": None, "choices": said}, ident, text


def choice_failure(choice: Mapping[str, Any]) -> ir.Failure | None:
    """OpenRouter's, for a provider that failed in the middle: the error stands in the choice."""
    error = choice.get("error")
    return failure_of({"error": error}) if isinstance(error, dict) else None


def native_stop(choice: Mapping[str, Any]) -> str:
    """The provider's own word; "" where there is none: Snowflake sends an empty string. Raises where it says that the
    answer was broken off."""
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else ""
    if reason.lower() in BROKEN_OFF:
        raise failures.of_stream(broken_off(reason))
    return reason


def broken_off(reason: str) -> ir.Failure:
    return ir.Failure("server_error", f"The provider broke off its answer ({reason}).", code=reason)


def has_output(value: Any) -> bool:
    """Whether a member of a message says anything. Snowflake fills in every member, with empty strings inside."""
    if isinstance(value, dict):
        return any(isinstance(inner, str) and inner for inner in value.values())
    return bool(value)


def answered(parsed: Any) -> Mapping[str, Any]:
    """The object of an answer that tells of no failure."""
    if not isinstance(parsed, dict):
        raise UpstreamBroken("The provider's answer is not a JSON object.")
    if ("error" in parsed or parsed.get("object") == "error") and (failure := failure_of(parsed)):
        raise failures.of_stream(failure)
    return parsed


def choices_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UpstreamBroken("The provider's answer holds no choices.")
    for choice in choices:
        if not isinstance(choice, dict):
            raise UpstreamBroken("The provider's answer holds no choices.")
    for choice in choices:
        if "error" in choice and (failure := choice_failure(choice)):
            raise failures.of_stream(failure)
    return choices


def message_of(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {}
