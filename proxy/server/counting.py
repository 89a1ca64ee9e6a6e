"""Counting a request's tokens: asked of a provider that counts, else estimated here, and then nobody is called.

Who comes first in the chain decides. Candidates of a dialect without a count are estimated, and so is a server that
speaks Messages and has no such path.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from itertools import takewhile

from aiohttp.web_response import StreamResponse
from attrs import evolve

from proxy.dialects import Dialect
from proxy.errors import UpstreamError
from proxy.routing.plan import Plan
from proxy.routing.world import Pick
from proxy.server.call import Call
from proxy.server.heading import heading
from proxy.server.outgoing import choose_dialect
from proxy.server.respond import JSON
from proxy.wire import json_text

NO_SUCH_PATH = frozenset({404, 405})
Ask = Callable[[Call, Plan], Awaitable[StreamResponse]]


async def count(call: Call, plan: Plan, ask: Ask) -> StreamResponse:
    """Raises what the last candidate that counts failed with, where nobody stands behind it."""
    asked = tuple(takewhile(lambda pick: _counts(call, pick), plan.chain))
    behind = plan.chain[len(asked) :]
    if not asked:
        return await _estimated(call, plan, behind[0])
    try:
        return await ask(call, evolve(plan, chain=asked))
    except UpstreamError as error:
        if _has_no_path(error):
            return await _estimated(call, plan, asked[-1])
        if not behind or not error.try_next:
            raise
    return await _estimated(call, plan, behind[0])


def _counts(call: Call, pick: Pick) -> bool:
    dialect = choose_dialect(call.snapshot.table.providers[pick.candidate.provider], call.dialect)
    return isinstance(dialect, Dialect) and call.surface.operation in dialect.operations


def _has_no_path(error: UpstreamError) -> bool:
    """As against an unknown model, of which it speaks in the dialect's own words."""
    foreign = error.foreign
    return foreign is not None and foreign.status in NO_SUCH_PATH and not foreign.body


async def _estimated(call: Call, plan: Plan, pick: Pick) -> StreamResponse:
    decision, candidate = call.decision, pick.candidate
    assert call.facts is not None
    plan = call.plan = decision.plan = evolve(plan, reason=f"{plan.reason}; estimated, nobody counted", told={})
    decision.model, decision.provider, decision.native = candidate.model, candidate.provider, candidate.native
    decision.fallback_used = candidate != plan.first
    decision.cost_nanos = decision.charged_nanos = 0
    call.first_byte_s = time.monotonic() - call.started
    body = json_text.write({"input_tokens": call.facts.tokens})
    fallback = decision.fallback_used
    headers, stock = heading(call, candidate, JSON, fallback=fallback, passed=[], dropped=(), more=[])
    decision.status, decision.bytes_committed = 200, len(body)
    return await call.answer.whole(200, headers, body, stock)
