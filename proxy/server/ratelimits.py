"""How much of a caller's limits is left, in the words of the surface's own SDKs.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
https://docs.anthropic.com/en/api/rate-limits#response-headers
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from proxy.accounts.limits import NEARLY, Meter
from proxy.accounts.permit import tightest
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
    return headers_of(permit.standing.meters, call.surface.dialect, call.clock(), call.now(), given_back)


def headers_of(meters: Sequence[Meter], dialect: str, now: float, wall: float, given_back: int = 0) -> Headers:
    """Of somebody who has these limits, in the names of that dialect; `wall` is the time of day."""
    lines = lines_of(meters, dialect, now, wall, given_back).decode().splitlines()
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def lines_of(meters: Sequence[Meter], dialect: str, now: float, wall: float, given_back: int = 0) -> bytes:
    """As `headers_of`, on the wire."""
    if len(meters) == 1:
        of_requests = of_tokens = meters[0]
        requests, tokens = of_requests.left(now)
    else:
        (requests, of_requests), (tokens, of_tokens) = tightest(meters, now)
    if given_back and tokens is not None:
        tokens = max(0, (of_tokens.terms.tpm or 0) - of_tokens.tokens.used - of_tokens.reserved + given_back)
    told = told_by(requests, of_requests, tokens, of_tokens, dialect, now, wall)
    return form_of(dialect, of_requests.terms.rpm, of_tokens.terms.tpm) % told


def told_by(
    requests: int | None, of_requests: Meter, tokens: int | None, of_tokens: Meter, dialect: str, now: float,
    wall: float,
) -> tuple[int | bytes, ...]:  # fmt: skip
    """What `form_of` has holes for: of either limit how much is left, and when it is whole again."""
    said = _moment if dialect == "anthropic" else duration
    if tokens is None:
        return () if requests is None else (requests, said(of_requests.requests.idle_in(now), wall))
    reset = said(of_tokens.tokens.idle_in(now), wall)
    if requests is None:
        return tokens, reset
    return requests, said(of_requests.requests.idle_in(now), wall), tokens, reset


@lru_cache(maxsize=256)
def form_of(dialect: str, rpm: int | None, tpm: int | None) -> bytes:
    lines = ""
    for what, most in zip(KINDS, (rpm, tpm), strict=True):
        if most is not None:
            limit, remaining, reset = (ANTHROPIC if dialect == "anthropic" else OPENAI)[what]
            lines += f"{limit}: {most}\r\n{remaining}: %d\r\n{reset}: %b\r\n"
    return lines.encode()


def duration(seconds: float, wall: float = 0.0) -> bytes:
    """As OpenAI writes it, after Go: `1m0s`, `7s`, `120ms`. Whenever it is asked."""
    if NEARLY <= seconds <= 60:
        return A_MINUTE  # as mostly: somebody has just been here
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    return IN_FULL.get(whole := round(seconds)) or _in_full(whole)


def _in_full(seconds: int) -> bytes:
    minutes, rest = divmod(seconds, 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest


IN_FULL = {seconds: _in_full(seconds) for seconds in range(62)}  # no window is longer
A_MINUTE = IN_FULL[60]


def _moment(seconds: float, wall: float) -> bytes:
    """As Anthropic writes it."""
    return _second(int(wall + seconds))


@lru_cache(maxsize=64)
def _second(wall: int) -> bytes:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z").encode()
