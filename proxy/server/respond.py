"""Errors and headers as HTTP: the one place that knows which status an error has.

An error of our own is written by the dialect of the surface that was called. A provider's error passes with status and
body unchanged where it is that dialect's own error JSON and holds no secret of ours and no internal host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from proxy import errors
from proxy.accounts.budget import usd
from proxy.dialects.dialect import Dialect
from proxy.errors import GatewayError
from proxy.record import frozen
from proxy.routing.plan import Plan
from proxy.secret import hide_keys
from proxy.wire import json_text
from proxy.wire.headers import answer_headers, join_capped, printable

Headers = list[tuple[str, str]]
JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
OURS = ("retry-after", "retry-after-ms", "x-should-retry")  # said in our own words on an error
STREAM_HEADERS: Headers = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]  # no proxy may collect events
SERVER = "pointsman"  # and no version: it would only help who looks for an old one
LONGEST_RETRY = 3600.0  # seconds; the Anthropic SDK sleeps as told, however long

STATUS: dict[type[GatewayError], int] = {
    errors.InvalidRequest: 400,
    errors.InvalidJson: 400,
    errors.MissingModel: 400,
    errors.UnknownModel: 404,
    errors.UnknownPath: 404,
    errors.WrongMethod: 405,
    errors.WrongMediaType: 415,
    errors.BodyTooLarge: 413,
    errors.BodyTimeout: 408,
    errors.Unsupported: 400,
    errors.NoCapableCandidate: 400,
    errors.PriceCeiling: 400,
    errors.ClientGone: 499,
    errors.Unauthenticated: 401,
    errors.NotAllowed: 403,
    errors.BudgetSpent: 402,
    errors.LimitReached: 429,
    errors.NotConfigured: 503,
    errors.AllCooling: 503,
    errors.Overloaded: 503,
    errors.LoopDetected: 508,
    errors.Internal: 500,
    errors.UpstreamUnreachable: 502,
    errors.UpstreamTimeout: 504,
    errors.UpstreamBroken: 502,
    errors.UpstreamFailed: 502,
    errors.UpstreamOverloaded: 529,
    errors.UpstreamRateLimited: 429,
    errors.UpstreamRefusedKey: 502,
    errors.CallerKeyRefused: 401,
    errors.UpstreamRejected: 400,
    errors.UpstreamUnknownModel: 404,
    errors.ContextTooLong: 400,
    errors.ContentBlocked: 400,
}

# The provider's own status is kept for these where it answered with one.
KEEPS_STATUS = (
    errors.UpstreamFailed,
    errors.UpstreamOverloaded,
    errors.UpstreamRateLimited,
    errors.UpstreamRejected,
    errors.CallerKeyRefused,
)
OVERLOADED = {"anthropic": 529}  # 529 is Anthropic's own; everybody else's word for it is 503


@frozen
class ErrorAnswer:
    status: int
    headers: Headers
    body: bytes


def status_of(error: GatewayError, dialect: Dialect) -> int:
    status = STATUS[type(error)]
    foreign = error.foreign
    if foreign is not None and isinstance(error, KEEPS_STATUS) and 400 <= foreign.status <= 599:
        status = foreign.status
    if status == 529:
        return OVERLOADED.get(dialect.name, 503)
    return status


def error_answer(error: GatewayError, dialect: Dialect, request_id: str, *, tried: bool = False) -> ErrorAnswer:
    """`tried`: candidates were tried and all failed, so the client's own retries would only multiply them."""
    status = status_of(error, dialect)
    headers: Headers = [("Content-Type", JSON)]
    if error.retry_after is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(min(error.retry_after, LONGEST_RETRY))))))
    if not error.retry_helps or (tried and error.retry_after is None):
        headers.append(("x-should-retry", "false"))
    foreign = error.foreign
    if foreign is not None:
        headers += [
            pair
            for pair in answer_headers(foreign.headers.items(), foreign.dialect == dialect.speaks)
            if pair[0] not in OURS
        ]
    if foreign is not None and foreign.body and foreign.dialect == dialect.speaks and status == foreign.status:
        return ErrorAnswer(status, headers, foreign.body)
    error.message = hide_keys(error.message)
    return ErrorAnswer(status, headers, json_text.write(dialect.write_error(error, status, request_id)))


def plan_headers(prefix: str, plan: Plan, *, answered: str, provider: str, attempts: int, fallback: bool) -> Headers:
    """What was decided, on every answer for which a plan exists. Values are printable ASCII, at most 1 KiB each."""
    key = prefix, answered, provider, attempts, fallback
    headers: Headers | None = plan.told.get(key)
    if headers is None:
        headers = plan.told[key] = [
            (f"{prefix}Model", printable(answered)),
            (f"{prefix}Route-Reason", printable(plan.reason)),
            (f"{prefix}Fallback-Used", "true" if fallback else "false"),
            (f"{prefix}Candidates", join_capped(pick.candidate.model for pick in plan.chain)),
            (f"{prefix}Provider", printable(provider)),
            (f"{prefix}Attempts", str(attempts)),
            (f"{prefix}Config", plan.config),
        ]
    return headers


def dropped_header(prefix: str, dropped: Iterable[str]) -> Headers:
    """What a translation could not carry."""
    value = join_capped(dropped)
    return [(f"{prefix}Dropped", value)] if value else []


def cost_header(prefix: str, nanos: int | None) -> Headers:
    """USD as a plain decimal; nothing where the cost is unknown."""
    return [] if nanos is None else [(f"{prefix}Cost", usd(nanos))]


def cost_line(prefix: str, nanos: int | None) -> bytes:
    """As `cost_header`, on the wire."""
    return b"" if nanos is None else f"{prefix}Cost: {usd(nanos)}\r\n".encode()


def id_headers(request_id: str, dialect: str) -> Headers:
    ids: Headers = [("X-Request-Id", request_id), ("Server", SERVER)]
    return [*ids, ("request-id", request_id)] if dialect == "anthropic" else ids


def content_type_of(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
