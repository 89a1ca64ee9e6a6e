"""From an opening to the client: the head goes out here, and from then on a failure can only be told in-band.

No failover, no HTTP status, no other model behind this point. Whatever happens is written into the call's decision.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp.web_response import StreamResponse

from proxy.errors import ClientGone, GatewayError, UpstreamBroken, UpstreamError
from proxy.server import billing
from proxy.server.attempt import Opening
from proxy.server.call import Call
from proxy.server.clients.downstream import Headers, Stock
from proxy.server.flow import Flow
from proxy.server.heading import heading
from proxy.server.respond import SSE, STREAM_HEADERS, content_type_of, cost_header
from proxy.server.upstream import Reply
from proxy.streams import Stream
from proxy.wire.headers import answer_headers, printable

JSON = "application/json"
LAST_WORDS = 0.5  # seconds
LARGEST = 1 << 30  # bytes of an answer that flows unread; what is longer is cut
OCTETS = "application/octet-stream"


async def deliver(call: Call, opening: Opening) -> StreamResponse:
    """Raises ClientGone where nobody is left to read."""
    _decided(call, opening)
    try:
        if opening.stream is not None:
            return await _deliver_stream(call, opening, opening.stream)
        if call.answer.begun:
            return await _deliver_late(call, opening)
        if not opening.whole:
            return await _deliver_large(call, opening)
        return await _deliver_whole(call, opening)
    finally:
        opening.watchdog.cancel()
        call.decision.bytes_committed = opening.attempt.bytes_out
        opening.attempt.duration_ms = call.elapsed_ms() - opening.attempt.started_ms


def _decided(call: Call, opening: Opening) -> None:
    decision, pick, plan = call.decision, opening.pick, call.plan
    candidate, first = pick.candidate, plan.first if plan is not None else None
    decision.model, decision.provider, decision.native = candidate.model, candidate.provider, candidate.native
    decision.fallback_used = first is not None and candidate is not first and candidate != first
    decision.dropped, decision.byok = opening.prepared.dropped, opening.attempt.byok
    decision.price_source = pick.info.price_source
    if call.first_byte_s is None:  # else a part of it has left
        call.first_byte_s = time.monotonic() - call.started
        decision.ttfb_ms = int(call.first_byte_s * 1000)


def _head(call: Call, opening: Opening, content_type: str, more: Headers) -> tuple[Headers, Stock]:
    prepared = opening.prepared
    return heading(
        call,
        opening.pick.candidate,
        content_type,
        fallback=call.decision.fallback_used,
        passed=answer_headers(opening.headers.items(), prepared.native),
        dropped=prepared.dropped,
        more=more,
    )


def _content_type(opening: Opening, ours: str) -> str:
    """The provider's own, unless it repeats a key or is more than a header may hold."""
    theirs = opening.headers.get("content-type", ours)
    return theirs if theirs == ours or theirs == printable(theirs) else ours


def _status(opening: Opening) -> int:
    return opening.reply.status if opening.prepared.native else 200


# -- plain answers -----------------------------------------------------------------------------------------------


async def _deliver_whole(call: Call, opening: Opening) -> StreamResponse:
    """Head and body in one write. A stream that came as a document leaves as one, too."""
    billing.account(call, opening, opening.usage)
    decision = call.decision
    if call.framed:
        headers, stock = _head(call, opening, SSE, [])
    else:
        content_type = _content_type(opening, JSON)
        if content_type != JSON and content_type_of(opening.headers) != JSON:
            content_type = JSON
        headers, stock = _head(call, opening, content_type, cost_header(call.prefix, decision.cost_nanos))
    decision.status = _status(opening)
    opening.attempt.bytes_out = len(opening.body)
    await opening.reply.finish()
    opening.watchdog.cancel()  # from here on it is the client that is waited for
    return await call.answer.whole(decision.status, headers, opening.body, stock)


async def _deliver_late(call: Call, opening: Opening) -> StreamResponse:
    """A document that came for a stream whose head has left already."""
    billing.account(call, opening, opening.usage)
    flow = Flow(call, opening)
    flow.take(opening.body)
    opening.body = b""
    await flow.drained()
    await opening.reply.finish()
    return await call.answer.end()


async def _deliver_large(call: Call, opening: Opening) -> StreamResponse:
    """Too large to judge, or nothing that could be: it flows as it comes. A cut upstream becomes a cut connection,
    never a short answer."""
    content_type = _content_type(opening, OCTETS) if opening.opaque else JSON
    more = STREAM_HEADERS if content_type_of({"content-type": content_type}) == "text/event-stream" else []
    answer, reply, flow = call.answer, opening.reply, Flow(call, opening)
    call.decision.status, unjudged = _status(opening), opening.unjudged

    def within(chunk: bytes) -> bool:
        return flow.take(chunk if unjudged is None else unjudged.feed(chunk)) and opening.attempt.bytes_out <= LARGEST

    try:
        await answer.begin(call.decision.status, *_head(call, opening, content_type, more))
        flow.take(opening.body)
        opening.body = b""
        await flow.drained()
        while not await reply.pour(within):
            await flow.drained()
            if opening.attempt.bytes_out > LARGEST:
                raise UpstreamBroken("The provider's answer has no end.")
        if unjudged is not None:
            flow.take(unjudged.close())
            opening.edits = unjudged.edits
        await flow.drained()
        return await answer.end()
    except UpstreamError as broken:
        _failed(call, opening, call.cut or broken)
        return answer.abort()
    finally:
        billing.account(call, opening, None)
        reply.close()


# -- streams -----------------------------------------------------------------------------------------------------


async def _deliver_stream(call: Call, opening: Opening, stream: Stream) -> StreamResponse:
    call.phase = "stream"
    native = opening.prepared.native and content_type_of(opening.reply.headers) == "text/event-stream"
    content_type = _content_type(opening, SSE) if native else SSE
    answer, flow = call.answer, Flow(call, opening)
    call.decision.status = 200 if answer.begun else _status(opening)
    try:
        if not answer.begun:
            await answer.begin(call.decision.status, *_head(call, opening, content_type, STREAM_HEADERS))
        await _pump(opening, stream, flow)
    except UpstreamError as broken:
        error = call.cut or broken
        _failed(call, opening, error)
        opening.reply.close()
        if stream.torn:
            return answer.abort()
        flow.take(stream.fail(error))
    except (ClientGone, asyncio.CancelledError):
        opening.reply.close()
        raise
    except BaseException:  # a fault of ours: no second answer may follow half a first one
        opening.reply.close()
        answer.abort()
        raise
    finally:
        if stream.failure is not None:
            _failed(call, opening, stream.failure)
        billing.account(call, opening, stream.usage)
    return await _ended(call, opening, stream, flow)


async def _pump(opening: Opening, stream: Stream, flow: Flow) -> None:
    """What one read brings leaves in one write, where it is received. A client that does not take it holds the provider
    back."""
    reply, feed, take = opening.reply, stream.feed, flow.take_from

    def pass_on(chunk: bytes) -> bool:
        return take(stream, feed(chunk))

    first, opening.first = opening.first, b""
    if first:  # else nothing was heard of the provider
        take(stream, first)
    del first  # not kept for as long as the stream takes
    while not stream.done:
        await flow.drained()
        if stream.failure is None:
            ended = await reply.pour(pass_on, flow.through(stream))
        else:
            ended = not (words := await _last_words(reply))
            pass_on(words)
        if ended:
            take(stream, stream.close())
            break
    while stream.farewell:
        words = await _last_words(reply)
        flow.take(stream.feed(words) if words else stream.close())
        if not words:
            break
    await flow.drained()


async def _last_words(reply: Reply) -> bytes:
    """What a provider says behind its own error, a terminal event perhaps, or behind its end: it passes if it comes at
    once."""
    try:
        async with asyncio.timeout(LAST_WORDS):
            return await reply.chunk()
    except (TimeoutError, UpstreamError):
        return b""


async def _ended(call: Call, opening: Opening, stream: Stream, flow: Flow) -> StreamResponse:
    try:
        await flow.drained()
        response = await call.answer.end(flow.last)
    except ClientGone:
        opening.reply.close()
        raise
    call.delivered = True
    if stream.failure is None and opening.attempt.outcome == "ok":
        if await opening.reply.finish():
            stream.edits["surplus_dropped"] = 1  # once for a stream, however many reads it came in
    else:
        opening.reply.close()
    return response


# -- the record --------------------------------------------------------------------------------------------------


def _failed(call: Call, opening: Opening, error: GatewayError) -> None:
    opening.attempt.outcome, opening.attempt.detail = error.code, call.told(error)
    call.decision.outcome = error.code
    call.late_failure = error
