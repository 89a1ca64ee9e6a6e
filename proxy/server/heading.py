"""The head of an answer that a candidate gave: what was decided, what limits leave, what the provider said."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.routing.names import Candidate
from proxy.server.call import Call
from proxy.server.clients.downstream import Headers, Stock
from proxy.server.ratelimits import THEIRS, limit_headers
from proxy.server.respond import JSON, SERVER, SSE, dropped_header, plan_headers

OWN_TYPES = frozenset({JSON, SSE})


def heading(
    call: Call,
    candidate: Candidate,
    content_type: str,
    *,
    fallback: bool,
    passed: Headers,
    dropped: Sequence[str],
    more: Headers,
) -> tuple[Headers, Stock]:
    """`passed` are the provider's own words. Where we say the same they give way."""
    identity = call.request_id
    headers = [("X-Request-Id", identity)]
    if content_type not in OWN_TYPES:
        headers.append(("Content-Type", content_type))
    if call.surface.dialect == "anthropic":
        headers.append(("request-id", identity))
    limits = limit_headers(call)
    if passed:
        ours = ("retry-after", "x-should-retry", *(THEIRS if limits else ()))
        headers += [pair for pair in passed if not pair[0].startswith(ours)]
    headers += limits
    if dropped:
        headers += dropped_header(call.prefix, dropped)
    headers += more
    return headers, stock_of(call, candidate, content_type, fallback=fallback)


def stock_of(call: Call, candidate: Candidate, content_type: str, *, fallback: bool) -> Stock:
    """What was decided, and what is sent: the same for all who get this plan and this answer to it."""
    plan, attempts = call.plan, len(call.decision.attempts)
    assert plan is not None
    own_type = content_type if content_type in OWN_TYPES else ""
    key = candidate.provider, candidate.model, attempts, fallback, own_type
    stock: Stock | None = plan.told.get(key)
    if stock is None:
        told = plan_headers(
            call.prefix,
            plan,
            answered=candidate.model,
            provider=candidate.provider,
            attempts=attempts,
            fallback=fallback,
        )
        kind = [("Content-Type", own_type)] if own_type else []
        stock = plan.told[key] = Stock([*kind, ("Server", SERVER), *told])
    return stock
