"""How much of a caller's limits is left, in the words of the surface's own SDKs.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
https://docs.anthropic.com/en/api/rate-limits#response-headers
"""

from __future__ import annotations

from datetime import UTC, datetime

from proxy.accounts.permit import tightest
from proxy.server.call import Call
from proxy.server.respond import Headers

THEIRS = ("x-ratelimit-", "anthropic-ratelimit-")  # a provider's, which speak of the house's account


def limit_headers(call: Call) -> Headers:
    """Of the limit that is closest to its end, where several hold; nothing for a caller without limits."""
    permit = call.permit
    if permit is None or not permit.standing.meters:
        return []
    now = call.clock()
    of_requests, of_tokens = tightest(permit.standing.meters, now)
    headers: Headers = []
    if of_requests is not None:
        left, window = of_requests.requests_left(now) or 0, of_requests.requests
        headers += _three(call, "requests", of_requests.terms.rpm or 0, left, window.idle_in(now))
    if of_tokens is not None:
        left, window = of_tokens.tokens_left(now) or 0, of_tokens.tokens
        headers += _three(call, "tokens", of_tokens.terms.tpm or 0, left, window.idle_in(now))
    return headers


def _three(call: Call, what: str, limit: int, left: int, seconds: float) -> Headers:
    if call.dialect.name == "anthropic":
        start, end = f"anthropic-ratelimit-{what}-", ""
        when = datetime.fromtimestamp(call.now() + seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    else:
        start, end = "x-ratelimit-", f"-{what}"
        when = duration(seconds)
    return [(f"{start}limit{end}", str(limit)), (f"{start}remaining{end}", str(left)), (f"{start}reset{end}", when)]


def duration(seconds: float) -> str:
    """As OpenAI writes it, after Go: `1m0s`, `7s`, `120ms`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
