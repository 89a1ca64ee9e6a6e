"""One request from its head to its record: admit, read, plan, relay, deliver; and in the one `finally`, settle.

Everything long-lived that a request needs is in a `Gateway`, built once by the app.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog
from aiohttp.web_response import Response, StreamResponse
from attrs import field

from proxy.accounts.keys import ALL_SURFACES, CHAT_SURFACES
from proxy.accounts.vault import OwnKeys
from proxy.errors import ClientGone, GatewayError, Internal, InvalidRequest, Overloaded
from proxy.metrics import Metrics
from proxy.record import define
from proxy.routing.facts import read_stream
from proxy.routing.latency import pace
from proxy.routing.plan import Plan, resolve
from proxy.routing.table import OFF
from proxy.secret import hide_keys, hide_own
from proxy.server import billing, counting, early, intake, restated
from proxy.server.alerts import Alerts
from proxy.server.attempt import Opening
from proxy.server.call import Call, Surface
from proxy.server.clients.inbound import Request
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.clients.visitor import FORM, visitor_of
from proxy.server.delivery import deliver
from proxy.server.express.boarding import Express
from proxy.server.express.ride import Ride
from proxy.server.express.track import Track, learn
from proxy.server.identity import request_id
from proxy.server.ledger import Attempt, Brief, Decision, Ledger
from proxy.server.overload import CLOSED, Turnstile
from proxy.server.ratelimits import THEIRS, limit_headers
from proxy.server.relay import Relay
from proxy.server.respond import error_answer, id_headers, plan_headers
from proxy.server.snapshot import Snapshot
from proxy.streams import Stream
from proxy.wire.parted import Parted, whole

log = structlog.get_logger()


@define(eq=False)
class Gateway:
    """`current` is the snapshot that new requests take; a reload replaces it."""

    current: Snapshot
    relay: Relay
    ledger: Ledger
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    dice: Callable[[], float] = field(kw_only=True)
    tell: Callable[[dict[str, object]], None] = lambda fields: log.info("request_done", **fields)  # one line a request
    tell_brief: Callable[[Track, Brief, int | None, str | None], None] = lambda track, brief, read, client: log.info(
        "request_done", **track.told(brief, read, client)
    )
    turnstile: Turnstile = field(factory=Turnstile)
    alerts: Alerts = field(factory=Alerts)
    own: OwnKeys = field(factory=OwnKeys)  # providers' keys of projects
    calls: set[Call | Ride] = field(factory=set)  # under way
    _open: dict[Call, Opening] = field(factory=dict)  # answers under way
    express: Express = field(init=False)
    _idle: asyncio.Event | None = None  # set whenever the last request has ended, once somebody waits for it

    @express.default
    def _its_own(self) -> Express:
        return Express(self)

    @property
    def running(self) -> int:
        return len(self.calls)

    async def serve(self, request: Request, surface: Surface) -> StreamResponse:
        """Never raises but for cancellation: whatever goes wrong is answered in the surface's own words."""
        ride = request.ride if request.tried else self.express.board(request, surface)
        if ride is not None:
            request.ride = None
            if (left := await ride.answered()) is not None:
                return left
        call, plan = (self._begin(request, surface), None) if ride is None else ride.handed_over()
        try:
            return await (self._answered(call) if plan is None else self._relayed(call, plan))
        except early.AlreadyAnswered as answered:
            return answered.response
        except GatewayError as error:
            return self._refused(call, error)
        except asyncio.CancelledError:
            if call.cut is not None and not call.recorded and call.interrupted():
                return await self._cut_off(call, call.cut)
            if not call.delivered:
                self._left(call)
            raise
        except Exception:
            log.exception("internal_error", request_id=call.request_id, surface=surface.name)
            if call.answer.begun:
                call.answer.abort()  # half an answer has left: only a broken connection tells that it is half
            return self._refused(call, Internal("Something went wrong inside the gateway."))
        finally:
            self._finish(call)

    def _begin(self, request: Request, surface: Surface) -> Call:
        snapshot = self.current
        snapshot.users += 1
        visitor, identity = visitor_of(request, snapshot), request_id()
        decision = Decision(
            identity,
            int(self.now() * 1000),
            surface.name,
            client_request_id=visitor.client_id,
            config=snapshot.table.revision,
        )
        call = Call(
            surface, request, visitor, identity, snapshot, decision,
            clock=self.clock, now=self.now, lease=self.ledger.lease, task=asyncio.current_task(),
        )  # fmt: skip
        self.calls.add(call)
        return call

    async def _answered(self, call: Call) -> StreamResponse:
        surface = call.surface
        self._admit(call)
        if (ride := await self._joined(call)) is not None:
            return await self._ridden(ride)
        call.phase = "queue"
        if not self.turnstile.enters_at_once():
            await self.turnstile.enter()
        call.inside = True
        plan = self.plan(call)
        if surface.endpoint == "chat":
            intake.check_types(call.document, call.dialect.types)
            intake.check_turns(call.document, call.dialect.name)
        if plan.refusal is not None:
            raise plan.refusal
        billing.take_tokens(call, plan.facts)
        if surface.operation == "count_tokens":
            return await counting.count(call, plan, self._relayed)
        return await self._relayed(call, plan)

    async def _joined(self, call: Call) -> Ride | None:
        """Takes the body, which is nobody's but the call's then, or the ride's: they forget it before they end."""
        body = intake.ready_body(call.request, call.visitor, call.snapshot.table.server.max_body)
        if body is not None:
            self._hold(call, len(body))
            call.body = body
            return None
        came = await self._awaited_body(call)
        ride = self.express.join(call, came)
        if ride is None:
            call.body = whole(came)
        return ride

    async def _ridden(self, ride: Ride) -> StreamResponse:
        if (left := await ride.answered()) is not None:
            return left
        return await self._relayed(*ride.handed_over())

    def _admit(self, call: Call) -> None:
        """What can be said before the body is read."""
        visitor, snapshot, decision = call.visitor, call.snapshot, call.decision
        scopes = CHAT_SURFACES if call.surface.endpoint == "chat" else ALL_SURFACES
        permit = call.permit = intake.admit(call.request, visitor, snapshot.gate, decision.at_ms, scopes)
        standing = permit.standing
        decision.key_id, decision.project = standing.key_id, standing.project
        visitor.belongs_to(standing, snapshot.table)
        permit.enter(self.clock())
        if visitor.hops:
            visitor.check_hops(self.relay.instance)
        self.turnstile.check()

    async def _awaited_body(self, call: Call) -> bytes | Parted:
        server, request, visitor = call.snapshot.table.server, call.request, call.visitor
        hold = partial(self._hold, call)
        if visitor.ordinary and not visitor.expects and isinstance(request, OrdinaryRequest) and request.needs:
            return await intake.await_body(request, server.max_body, server.body_timeout, hold, self.relay.agenda)
        return await intake.read_body(
            call.request, server.max_body, server.body_timeout, form=call.surface.form, hold=hold
        )

    def _hold(self, call: Call, size: int) -> None:
        self.turnstile.hold(size)
        call.held += size

    async def _relayed(self, call: Call, plan: Plan) -> StreamResponse:
        begun, opening = call.begun, None
        if begun is not None and begun.opening is not None:
            call.begun, opening = None, begun.opening
        if opening is None:
            opening = await self.relay.first_answer(call, plan)
        call.forget()
        opening.forget()
        self._open[call] = opening
        try:
            response = await deliver(call, opening)
            if opening.whole and opening.in_flight is not None:
                learn(call, opening, self.express.tally, opening.in_flight)
            return response
        finally:
            del self._open[call]
            self._learn(call, opening)

    def plan(self, call: Call) -> Plan:
        """Reads the body that the call holds, and resolves it. Raises what is wrong with the request."""
        call.phase = "queue"
        decision, visitor = call.decision, call.visitor
        form = intake.parse_form(call.body, call.request.headers) if visitor.media_type == FORM else None
        if form is not None:
            call.form, call.document = form
        else:
            call.document, call.members = intake.parse(call.body, call.dialect.reads, call.request.document)
            call.request.document = None
            call.once = call.members is None
            if "input" in call.document and restated.is_misplaced(call):
                restated.restate(call)
        if "stream" in call.document:
            call.asks_stream(read_stream(call.document))
        call.byok = visitor.brought()
        if not self.own.empty:
            self._take_stored(call)
        requested = str(call.document.get("model") or "")[: billing.LONGEST_MODEL]
        if hide_own(requested) != requested:
            raise InvalidRequest("model holds a key of this gateway, and no model's name.", param="model")
        try:
            facts = intake.read_facts(call)
            plan = call.plan = decision.plan = resolve(facts, call.snapshot.world, self.dice, self.clock())
        except GatewayError:
            decision.requested = hide_keys(requested)
            raise
        call.facts, decision.requested = plan.facts, plan.requested[: billing.LONGEST_MODEL]
        return plan

    def _take_stored(self, call: Call) -> None:
        """Keys that the caller's project stores, where it brings none of its own."""
        project = call.decision.project
        if stored := self.own.of(project):
            call.stored = frozenset(stored.keys() - call.byok.keys())
            call.byok = {**stored, **call.byok}
        if locked := self.own.locked(project):
            call.locked = locked.difference(call.byok)

    async def drained(self, seconds: float) -> bool:
        """Waits until no request runs, for so long at most."""
        if not self.calls:
            return True
        idle = self._idle = self._idle or asyncio.Event()
        idle.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await idle.wait()
        return not self.calls

    def cut(self) -> None:
        """Ends every request under way: it is told so in its own stream, or by the answer that it has not had yet. What
        still comes on their connections is refused."""
        self.turnstile.closed = True
        for call in list(self.calls):
            opening = self._open.get(call) if isinstance(call, Call) else None
            course = call.course if call.course is not None and call.course.committed else None
            begun = opening.reply if opening is not None else course
            if begun is not None:
                call.cut = Overloaded("The gateway is shutting down; the answer was cut off.", retry_after=1.0)
                begun.expire(call.cut.message)
            else:
                call.cut = Overloaded(CLOSED, retry_after=1.0)
                call.interrupt()

    # -- how it ended ----------------------------------------------------------------------------------------

    def _refused(self, call: Call, error: GatewayError) -> StreamResponse:
        decision, plan = call.decision, call.plan
        if isinstance(error, ClientGone) or call.request.transport is None:
            self._left(call)
            return Response(status=499)
        tried = bool(decision.attempts)
        answer = error_answer(error, call.dialect, call.request_id, tried=tried)
        decision.status, decision.outcome = answer.status, error.code
        limits = limit_headers(call, refused=True)
        theirs = THEIRS if limits else ()
        headers = [pair for pair in answer.headers if not pair[0].startswith(theirs)]
        headers += [*limits, *id_headers(call.request_id, call.dialect.name)]
        if plan is not None:
            headers += plan_headers(
                call.prefix, plan, answered="none", provider="none", attempts=len(decision.attempts), fallback=False
            )
        response = Response(status=answer.status, headers=headers, body=answer.body)
        if not call.request.content.is_eof():
            response.force_close()  # the rest of the body is not worth reading
        return response

    async def _cut_off(self, call: Call, error: GatewayError) -> StreamResponse:
        """Nobody has answered so far."""
        if call.answer.begun:
            with suppress(ClientGone):
                return await early.tell(call, error)
        response = self._refused(call, error)
        response.force_close()
        return response

    def _left(self, call: Call) -> None:
        decision = call.decision
        decision.status, decision.outcome, decision.gone_phase = 499, "client_closed", call.phase
        if decision.attempts and decision.attempts[-1].outcome == "ok":
            decision.attempts[-1].outcome = "client_closed"

    def _learn(self, call: Call, opening: Opening) -> None:
        """What a finished answer says of its candidate: a late failure counts, a warm cache is remembered."""
        if opening.in_flight is not None:
            opening.in_flight.value -= 1
        if edits := opening.edits if opening.stream is None else opening.stream.edits:
            for kind, count in edits.items():
                self.metrics.stream_edited(kind, count)
        world, candidate = call.snapshot.world, opening.pick.candidate
        if (rate := tokens_per_s(opening.stream, opening.attempt)) is not None:
            world.latencies.observe_rate(candidate, rate)
        if call.late_failure is not None:
            world.health.failed(candidate, opening.credential.index, call.late_failure, self.clock())
        elif call.operation is not None or world.table.routing.affinity == OFF:
            return
        elif call.facts is not None and call.facts.conversation and call.plan is not None and len(call.plan.chain) > 1:
            world.affinity.pin(call.facts.conversation, candidate, self.clock())

    def _finish(self, call: Call) -> None:
        """The one place where a request ends that went the way of all. Awaits nothing: a cancelled request is settled
        like any other."""
        if call.recorded:
            return
        duration = time.monotonic() - call.started
        call.decision.duration_ms = int(duration * 1000)
        try:  # whatever may be at fault in one of these, nobody waits for what the request had, and its row is written
            self.ended(call, call.snapshot, call.held, call.inside)
        finally:
            try:
                alerts = billing.settle(call, self.clock())
            finally:
                self._record(call, duration)
        for alert in alerts:
            self.alerts.tell(alert)

    def _record(self, call: Call, duration: float) -> None:
        """And what else is told of it."""
        decision, track = call.decision, call.track
        if call.permit is None:
            self.metrics.not_admitted(decision.outcome)
            return  # no row, so that nobody can fill the ledger from outside
        overhead = (call.first_byte_s or duration) - call.upstream_wait
        peer = call.request.remote or None
        if track is not None and (brief := track.brief_of(call)) is not None:
            self.ledger.record(brief)
            usage, read = brief.usage, brief.usage.input_total
            counted = duration, overhead, usage, read, brief.cost_nanos, brief.ttfb_ms
            self.express.tidings.add((track, brief, read, counted, peer, call.snapshot.proxies))
            return
        decision.facts = call.facts
        self.ledger.record(decision)
        self.express.tidings.tell()  # first, of those that ended before
        intent = call.plan.intent if call.plan is not None else "none"
        client = call.visitor.client(peer, call.snapshot.proxies)
        self._count(decision, client, intent, duration, overhead)

    def ended(self, call: Call | Ride, snapshot: Snapshot, held: int, inside: bool) -> None:
        """Gives back what a request had of the process."""
        snapshot.users -= 1
        self.calls.discard(call)
        if not self.calls and self._idle is not None:
            self._idle.set()
        if inside:  # last: it lets others in
            self.turnstile.alight(held)
        else:
            self.turnstile.release(held)

    def _count(self, decision: Decision, client: str | None, intent: str, duration: float, overhead: float) -> None:
        self.metrics.request_done(
            surface=decision.surface,
            model=decision.model,
            provider=decision.provider,
            intent=intent,
            status=decision.status,
            outcome=decision.outcome,
            duration_s=duration,
            overhead_s=overhead,
            ttft_s=None if decision.ttfb_ms is None else decision.ttfb_ms / 1000,
            usage=decision.usage,
            cost_nanos=decision.cost_nanos,
            streamed=decision.stream,
            byok=decision.byok,
        )
        for attempt in decision.attempts:
            self.metrics.attempt_done(provider=attempt.provider, outcome=attempt.outcome)
        if decision.gone_phase is not None:
            self.metrics.client_gone(decision.gone_phase)
        self.tell(log_fields(decision, client))


def tokens_per_s(stream: Stream | None, attempt: Attempt) -> float | None:
    """Of a stream that came to its end."""
    if stream is None or not stream.done or stream.failure is not None or attempt.usage is None:
        return None
    return pace(attempt.usage.output, attempt.duration_ms - (attempt.ttfb_ms or 0))


def log_fields(decision: Decision, client: str | None) -> dict[str, object]:
    """One line per request, in the words of the record. No prompt, answer, key or credential."""
    usage = decision.usage
    return {
        "client": client,
        "request_id": decision.request_id,
        "surface": decision.surface,
        "model": decision.model or "none",
        "provider": decision.provider or "none",
        "attempts": len(decision.attempts),
        "status": decision.status,
        "outcome": decision.outcome,
        "ttfb_ms": decision.ttfb_ms,
        "duration_ms": decision.duration_ms,
        "input_tokens": usage.input_total if usage else None,
        "output_tokens": usage.output if usage else None,
        "cost_nanos": decision.cost_nanos,
        "key_id": decision.key_id,
        "project": decision.project,
    }
