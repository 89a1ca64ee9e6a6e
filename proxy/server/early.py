"""`commit_after`: the head and keep-alive comments go out before there is content, so that no load balancer in between
gives up on a model that thinks for minutes.

The price is named in the docs: once the head has left, the candidate is chosen. What fails from then on is told
in-band.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp.web_response import StreamResponse

from proxy.errors import GatewayError, UpstreamError
from proxy.record import frozen
from proxy.routing.table import OFF
from proxy.routing.world import Pick
from proxy.server.attempt import Opening, open_answer
from proxy.server.call import Call
from proxy.server.clients.downstream import Headers, Stock
from proxy.server.heading import heading
from proxy.server.ledger import Attempt
from proxy.server.outgoing import Prepared
from proxy.server.respond import SSE, STREAM_HEADERS
from proxy.server.watchdog import Agenda

KEEP_ALIVE = b": keep-alive\n\n"
PACE = 10.0  # seconds between comments


@frozen
class AlreadyAnswered(Exception):
    """The failure was told inside the stream, whose head had left: nothing is left to answer."""

    response: StreamResponse
    error: UpstreamError


def open_or_commit(
    call: Call, pick: Pick, prepared: Prepared, attempt: Attempt, agenda: Agenda
) -> Coroutine[Any, Any, Opening]:
    """As `open_answer`, unless `commit_after` passes first: then the opening comes with its response begun.

    Raises AlreadyAnswered where the attempt fails after that.
    """
    after, opening = prepared.outgoing.timeouts.commit_after, open_answer(call, pick, prepared, attempt, agenda)
    return _in_time(call, pick, prepared, after, opening) if call.framed and after != OFF else opening


async def _in_time(
    call: Call, pick: Pick, prepared: Prepared, after: float, opens: Coroutine[Any, Any, Opening]
) -> Opening:
    opening = asyncio.ensure_future(opens)
    try:
        await asyncio.wait({opening}, timeout=max(0.0, after - call.elapsed_ms() / 1000))
        if opening.done():
            return await opening
        return await _committed(call, pick, prepared, opening)
    finally:
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening})


async def _committed(call: Call, pick: Pick, prepared: Prepared, opening: asyncio.Future[Opening]) -> Opening:
    answer = call.answer
    call.decision.status = 200
    await answer.begin(200, *_head(call, pick, prepared))
    while not opening.done():
        answer.put(KEEP_ALIVE)
        await answer.drained()
        await asyncio.wait({opening}, timeout=PACE)
    try:
        return await opening
    except UpstreamError as error:
        raise AlreadyAnswered(await tell(call, error), error) from error


async def tell(call: Call, error: GatewayError) -> StreamResponse:
    """In the stream, whose head has left and which has no content yet."""
    call.decision.outcome = error.code
    call.answer.put(call.dialect.codec().stream_encoder(call.voice()).fail(error))
    return await call.answer.end()


def _head(call: Call, pick: Pick, prepared: Prepared) -> tuple[Headers, Stock]:
    fallback = call.plan is not None and pick.candidate != call.plan.first
    dropped = prepared.dropped
    return heading(call, pick.candidate, SSE, fallback=fallback, passed=[], dropped=dropped, more=STREAM_HEADERS)
