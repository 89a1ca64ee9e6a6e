"""Errors in this dialect: reading those of providers, writing our own.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import errors, ir
from proxy.dialects.dialect import Reading
from proxy.errors import GatewayError

_TYPES = {402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}


def read_error(parsed: Any) -> Reading:
    """`{"error": {"message": …}}`, and what compatible providers write in its place: `{"error": "…"}` (xAI, Hugging
    Face), `{"message": …}` (Mistral, Cerebras, vLLM), FastAPI's `{"detail": …}`. Their own clients read those, and so
    they pass as they are."""
    if not isinstance(parsed, dict):
        return Reading(False)
    error = parsed.get("error")
    if isinstance(error, dict):
        own = isinstance(error.get("message"), str)
        return Reading(own, _text(error, "message"), _text(error, "type"), _code(error), _text(error, "param") or None)
    if isinstance(error, str) and error:
        return Reading(True, error, _text(parsed, "type"), _code(parsed))
    message = _text(parsed, "message") or _detail(parsed.get("detail"))
    return Reading(bool(message), message, _text(parsed, "type"), _code(parsed), _text(parsed, "param") or None)


def failure_of(parsed: Mapping[str, Any]) -> ir.Failure | None:
    """The failure that a chunk or a 200 answer tells of, if it does."""
    error = parsed.get("error")
    if not error and parsed.get("object") == "error":
        error = parsed
    if isinstance(error, dict):
        message = _text(error, "message") or "The provider reported an error without a message."
        return ir.Failure(_text(error, "type") or "api_error", message, _status(error), _code(error) or None)
    if error:
        return ir.Failure("api_error", error if isinstance(error, str) else "The provider reported an error.")
    return None


def failure_in(chunk: Mapping[str, Any], event: bytes) -> ir.Failure | None:
    """The same of a stream's frame: `event: error` may hold the error without its wrapping."""
    return failure_of(chunk) or (failure_of({"error": chunk}) if event == b"error" else None)


def write_error(error: GatewayError, status: int, request_id: str) -> dict[str, Any]:
    """The request id stands in the header `x-request-id`, where the SDKs look for it."""
    return {"error": _body(error, status)}


def write_in_band(error: GatewayError) -> dict[str, Any]:
    """For a stream: its status has gone out, so only the class of the error tells the type."""
    return {"error": _body(error, 400 if error.source in ("client", "policy") else 500)}


def _body(error: GatewayError, status: int) -> dict[str, Any]:
    return {"message": error.message, "type": _type(error, status), "param": error.param, "code": error.code}


def _type(error: GatewayError, status: int) -> str:
    if isinstance(error, errors.BudgetSpent):
        return "insufficient_quota"
    if isinstance(error, errors.LimitReached | errors.UpstreamRateLimited):
        return "rate_limit_error"
    return _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def _status(error: Mapping[str, Any]) -> int | None:
    for name in ("status_code", "status", "code"):
        value = error.get(name)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    return None


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""


def _code(source: Mapping[str, Any]) -> str:
    value = source.get("code")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _detail(detail: Any) -> str:
    if isinstance(detail, list):
        detail = next((_text(item, "msg") for item in detail if isinstance(item, dict)), "")
    return detail if isinstance(detail, str) else ""
