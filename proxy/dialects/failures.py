"""What a provider's failure means, by status, type and wording: one table for all dialects.

Sources: platform.openai.com/docs/guides/error-codes, docs.anthropic.com/en/api/errors,
ai.google.dev/gemini-api/docs/troubleshooting, developers.cloudflare.com/workers-ai/platform/errors, and recordings.
"""

from __future__ import annotations

from proxy import errors, ir
from proxy.dialects.dialect import Reading
from proxy.errors import Foreign, UpstreamError

RETRYABLE = frozenset({408, 409, 425, 500, 502, 503, 504, *range(520, 525)})

# An error inside a 200 has no status of its own: its type, code or gRPC name stands for one.
STATUS_OF_TYPE: dict[str, int] = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "api_error": 500,
    "server_error": 500,
    "internal": 500,
    "internal_server_error": 500,
    "unavailable": 503,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "overloaded_error": 529,
    "overloaded": 529,
}

CONTEXT_WORDS = (
    "context_length_exceeded",
    "maximum context length",
    "context length",
    "context window",
    "prompt is too long",
    "input is too long",
    "exceeds the maximum number of tokens",
    "input token count",
    "too many input tokens",
    "reduce the length of the messages",
    "exceeds the available context size",
)
POLICY_CODES = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
)
POLICY_WORDS = (
    "content management policy",
    "content policy",
    "safety system",
    "flagged by moderation",
    "usage policies",
)
# 5007 and 5028: Workers AI has no such model, or withdrew it; 5035: not on this account's plan, which is no fault of
# the key.
MODEL_CODES = frozenset({"5007", "5028", "5035", "model_not_found", "model_not_available", "invalid_model"})
MODEL_WORDS = (
    "model not found",
    "no such model",
    "unknown model",
    "is not found for api version",
    "does not exist or you do not have",
)
# Google answers 400 to a credential that it does not know.
KEY_CODES = frozenset({"api_key_invalid", "api_key_expired"})
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"})
# A provider's own words would send the client to look at its key, and some repeat parts of ours.
OUR_CREDENTIAL = (
    "The provider refused the credential that the gateway holds for it, or that account is out of money or quota: the "
    "gateway's operator has to see to it."
)
QUOTA_WORDS = ("exceeded your current quota", "credit balance is too low", "insufficient credits")


def status_of(failure: ir.Failure) -> int:
    """The status that an in-band failure would have had; 500 when it says nothing that we know."""
    if failure.status is not None and 400 <= failure.status <= 599:
        return failure.status
    for word in (failure.code or "", failure.kind):
        if word.isdigit() and 400 <= int(word) <= 599:
            return int(word)
        if status := STATUS_OF_TYPE.get(word.lower()):
            return status
    return 500


def of_stream(failure: ir.Failure, *, byok: bool = False) -> UpstreamError:
    """The error that an event inside a 200 stands for."""
    status = status_of(failure)
    reading = Reading(True, failure.message, failure.kind, failure.code or "", retry_after=failure.retry_after)
    return of_status(status, reading, Foreign(status, b""), byok=byok)


def of_status(
    status: int, reading: Reading, foreign: Foreign, *, byok: bool = False, retry_after: float | None = None
) -> UpstreamError:
    """The error class of an upstream's answer that is no success."""
    kind = _kind(status, reading, byok=byok)
    if kind is errors.UpstreamRefusedKey:
        message = OUR_CREDENTIAL
    else:
        message = reading.message or f"The provider answered with status {status}."
    if retry_after is None:
        retry_after = reading.retry_after
    return kind(message, param=reading.param, retry_after=retry_after, foreign=foreign, detail=f"status {status}")


def _kind(status: int, reading: Reading, *, byok: bool) -> type[UpstreamError]:
    code, message = reading.code.lower(), reading.message.lower()
    types = {code, reading.type.lower()}
    if status == 402 or (status in (403, 429) and _spent(types, message, reading)):
        return errors.CallerKeyRefused if byok else errors.UpstreamRefusedKey
    if types & MODEL_CODES:
        return errors.UpstreamUnknownModel
    if status in (400, 413, 422) and (_holds(message, CONTEXT_WORDS) or code in CONTEXT_WORDS):
        return errors.ContextTooLong
    if status in (400, 403, 422) and (types & POLICY_CODES or _holds(message, POLICY_WORDS)):
        return errors.ContentBlocked
    if status in (401, 403) or types & KEY_CODES:
        return errors.CallerKeyRefused if byok else errors.UpstreamRefusedKey
    if status == 429:
        return errors.UpstreamRateLimited
    if status == 529 or "overloaded_error" in types:
        return errors.UpstreamOverloaded
    if status in (404, 410) or (status == 400 and _holds(message, MODEL_WORDS)):
        return errors.UpstreamUnknownModel
    if status in RETRYABLE or status >= 500:
        return errors.UpstreamFailed
    if status < 400:
        return errors.UpstreamBroken
    return errors.UpstreamRejected


def _spent(types: set[str], message: str, reading: Reading) -> bool:
    """No money left, as against too many requests: Gemini calls both a quota, and says of one when it comes back."""
    return bool(types & QUOTA_CODES) or (reading.retry_after is None and _holds(message, QUOTA_WORDS))


def _holds(message: str, words: tuple[str, ...]) -> bool:
    return any(word in message for word in words)
