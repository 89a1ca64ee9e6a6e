"""Errors in the Messages API's words, both ways.

https://platform.claude.com/docs/en/api/errors
"""

from __future__ import annotations

from typing import Any

from proxy import errors, ir
from proxy.dialects.dialect import Reading
from proxy.errors import GatewayError

# The names that the SDKs turn into classes.
_TYPE_OF_STATUS: dict[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# A stream has no status left to say it with.
_TYPE_OF_ERROR: dict[type[GatewayError], str] = {
    errors.Unauthenticated: "authentication_error",
    errors.CallerKeyRefused: "authentication_error",
    errors.BudgetSpent: "billing_error",
    errors.PolicyError: "permission_error",
    errors.LimitReached: "rate_limit_error",
    errors.UpstreamRateLimited: "rate_limit_error",
    errors.UnknownModel: "not_found_error",
    errors.UnknownPath: "not_found_error",
    errors.UpstreamUnknownModel: "not_found_error",
    errors.BodyTooLarge: "request_too_large",
    errors.BodyTimeout: "timeout_error",
    errors.UpstreamTimeout: "timeout_error",
    errors.UpstreamOverloaded: "overloaded_error",
    errors.Overloaded: "overloaded_error",
    errors.AllCooling: "overloaded_error",
    errors.UpstreamRejected: "invalid_request_error",
    errors.ClientError: "invalid_request_error",
}


def read_error(parsed: Any) -> Reading:
    """`own` only for the whole envelope: its SDKs read the type out of it."""
    if not isinstance(parsed, dict):
        return Reading(False)
    error = parsed.get("error")
    if not isinstance(error, dict):
        return Reading(False, message=error if isinstance(error, str) else "")
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    own = parsed.get("type") == "error" and isinstance(error.get("type"), str)
    return Reading(own, _text(error.get("message")), _text(error.get("type")), _text(code))


def read_failure(parsed: Any) -> ir.Failure:
    """The failure that an error object under a 200 tells of."""
    reading = read_error(parsed)
    message = reading.message or "The provider reported an error without a message."
    return ir.Failure(reading.type or "api_error", message, code=reading.code or None)


def write_error(error: GatewayError, status: int, request_id: str) -> dict[str, Any]:
    """Our own error as the SDKs read it; `details.error_code` is the error's public code."""
    fallback = "invalid_request_error" if 400 <= status < 500 else "api_error"
    return _envelope(error, _TYPE_OF_STATUS.get(status, fallback), request_id)


def write_failure(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The same for the middle of a stream, where the class of the error stands for its status."""
    kind = next((_TYPE_OF_ERROR[cls] for cls in type(error).__mro__ if cls in _TYPE_OF_ERROR), "api_error")
    return _envelope(error, kind, request_id)


def _envelope(error: GatewayError, kind: str, request_id: str) -> dict[str, Any]:
    details = {"error_code": error.code} | ({"param": error.param} if error.param else {})
    body = {"type": kind, "message": error.message, "details": details}
    return {"type": "error", "error": body, "request_id": request_id}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
