"""Errors of the API: `{"error": {"code", "message", "status", "details"}}`, also as the one entry of an array.

https://ai.google.dev/gemini-api/docs/troubleshooting · https://cloud.google.com/apis/design/errors#error_model
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.dialect import Reading

_DAY = 86_400.0
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")  # google.protobuf.Duration as JSON has it


def read_error(parsed: Any) -> Reading:
    """`type` is the gRPC status, `code` the reason where an ErrorInfo gives one."""
    error = _error(parsed)
    if error is None or not isinstance(error.get("message"), str):
        return Reading(False)
    failure = _failure(error)
    return Reading(True, failure.message, failure.kind, failure.code or "", retry_after=failure.retry_after)


def failure_of(parsed: Any) -> ir.Failure | None:
    """The failure that a chunk or a 200 answer tells of, if it does."""
    error = _error(parsed)
    return None if error is None else _failure(error)


def broken_off(reason: str) -> ir.Failure:
    """Asked again, the model may well do better: so it counts as a fault of the server."""
    return ir.Failure("server_error", f"The provider broke off its answer ({reason}).", code=reason)


def _error(parsed: Any) -> Mapping[str, Any] | None:
    if isinstance(parsed, list):
        parsed = next((entry for entry in parsed if isinstance(entry, dict) and "error" in entry), None)
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else None


def _failure(error: Mapping[str, Any]) -> ir.Failure:
    code, status, message = error.get("code"), error.get("status"), error.get("message")
    details = error.get("details")
    found = [entry for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
    return ir.Failure(
        kind=status if isinstance(status, str) and status else "api_error",
        message=message
        if isinstance(message, str) and message
        else "The provider reported an error without a message.",
        status=code if isinstance(code, int) and not isinstance(code, bool) else None,
        code=next((reason for entry in found if isinstance(reason := entry.get("reason"), str)), None),
        retry_after=next((wait for entry in found if (wait := _wait(entry.get("retryDelay"))) is not None), None),
    )


def _wait(delay: Any) -> float | None:
    found = _SECONDS.fullmatch(delay) if isinstance(delay, str) else None
    return min(float(found[1]), _DAY) if found else None
