"""How much of a caller's limits is left, in the words of the surface's own SDKs.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
https://docs.anthropic.com/en/api/rate-limits#response-headers
"""

from __future__ import annotations

from datetime import UTC, datetime

from proxy.accounts.permit import Permit, tightest
from proxy.server.call import Call
from proxy.server.respond import Headers

THEIRS = ("x-ratelimit-", "anthropic-ratelimit-")  # a provider's, which speak of the house's account
KINDS, PARTS = ("requests", "tokens"), ("limit", "remaining", "reset")
OPENAI = {what: [f"x-ratelimit-{part}-{what}" for part in PARTS] for what in KINDS}
ANTHROPIC = {what: [f"anthropic-ratelimit-{what}-{part}" for part in PARTS] for what in KINDS}


def limit_headers(call: Call, *, refused: bool = False) -> Headers:
    """Of the limit that is closest to its end, where several hold; nothing for a caller without limits. What a request
    has reserved that is refused is as good as given back."""
    permit = call.permit
    if permit is None or not permit.standing.meters:
        return []
    given_back = permit.tokens if refused else 0
    return headers_of(permit, call.surface.dialect, call.clock(), call.now(), given_back)


def headers_of(permit: Permit, dialect: str, now: float, wall: float, given_back: int = 0) -> Headers:
    """In the names of that dialect; `wall` is the time of day."""
    requests, tokens = tightest(permit.standing.meters, now)
    names, said = (ANTHROPIC, _moment) if dialect == "anthropic" else (OPENAI, duration)
    headers: Headers = []
    if requests is not None:
        left, meter = requests
        reset = said(meter.requests.idle_in(now), wall)
        headers += zip(names["requests"], (str(meter.terms.rpm), str(left), reset), strict=True)
    if tokens is not None:
        left, meter = tokens
        if given_back:
            left = max(0, (meter.terms.tpm or 0) - meter.tokens.used - meter.reserved + given_back)
        reset = said(meter.tokens.idle_in(now), wall)
        headers += zip(names["tokens"], (str(meter.terms.tpm), str(left), reset), strict=True)
    return headers


def duration(seconds: float, wall: float = 0.0) -> str:
    """As OpenAI writes it, after Go: `1m0s`, `7s`, `120ms`. Whenever it is asked."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _moment(seconds: float, wall: float) -> str:
    """As Anthropic writes it."""
    return datetime.fromtimestamp(wall + seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
