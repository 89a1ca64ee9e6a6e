"""Errors in this dialect. As a body they are Chat's; in a stream an `error` event and `response.failed`.

https://platform.openai.com/docs/api-reference/responses-streaming/error
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.failure import failure_of, read_error, write_error, write_in_band
from proxy.errors import GatewayError

__all__ = ["failure_in", "failure_of_response", "read_error", "response_error", "write_error", "write_event"]

# Codes of a failed response that find fault with the request; the others have a status of their own by their name.
_REQUEST_FAULTS = ("invalid_", "image_", "empty_image", "unsupported_image", "failed_to_download", "context_length")
_POLICIES = {"image_content_policy_violation": "content_policy_violation", "bio_policy": "content_policy_violation"}
# Codes that the SDK types know and clients act on; all else is the server's fault.
_CODES = {
    "rate_limit_exceeded": "rate_limit_exceeded",
    "upstream_rate_limited": "rate_limit_exceeded",
    "insufficient_quota": "insufficient_quota",
    "context_length_exceeded": "context_length_exceeded",
}


def failure_in(event: Mapping[str, Any], kind: str) -> ir.Failure | None:
    """The failure that a stream's event tells of: an `error` event, its members bare or wrapped, `response.failed`, or
    the bare error object of a server that knows Chat's way alone."""
    if kind == "response.failed":
        response = event.get("response")
        return failure_of_response({**(response if isinstance(response, dict) else {}), "status": "failed"})
    if kind != "error" and not event.get("error"):
        return None
    return _judged(failure_of(event) or failure_of({"error": {**event, "type": event.get("code")}}))


def failure_of_response(response: Mapping[str, Any]) -> ir.Failure | None:
    """The failure of a whole response: an error object instead of it, or within it."""
    failure = _judged(failure_of(response))
    if failure is None and response.get("status") in ("failed", "cancelled"):
        return ir.Failure("server_error", f"The provider's answer is {response['status']}, and it does not say why.")
    return failure


def write_event(error: GatewayError, number: int) -> dict[str, Any]:
    """The `error` event. The documentation has its members bare, the wire has them wrapped, which is what the SDKs
    raise on: both stand here."""
    wrapped: dict[str, Any] = write_in_band(error)["error"]
    bare = {name: wrapped[name] for name in ("code", "message", "param")}
    return {"type": "error", **bare, "error": wrapped, "sequence_number": number}


def response_error(error: GatewayError) -> dict[str, Any]:
    """`error` of a failed response. Its codes are a closed list; the gateway's own code stands in the event before."""
    return {"code": _CODES.get(error.code, "server_error"), "message": error.message}


def _judged(failure: ir.Failure | None) -> ir.Failure | None:
    """With the status that the code of a failed response stands for."""
    if failure is None or failure.status is not None or not failure.code:
        return failure
    code = _POLICIES.get(failure.code, failure.code)
    if code != failure.code or code.startswith(_REQUEST_FAULTS):
        return ir.Failure(failure.kind, failure.message, 400, code)
    return failure
