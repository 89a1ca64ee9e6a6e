"""Ordinary requests whose kind has been served before: a short way from the head to the record.

The first request of a kind goes the way that all can go (`server.gateway`). What it went by, and its body had no say
in, is kept as a track (`track`). The next one of its kind boards it, if everything about it is ordinary: a plain
answer is wanted of a conversation, nobody rests, no limit and no budget refuses, a connection is at hand. That is found
out before anything is done about it; whatever is not ordinary leaves the request to the way of all, untouched.

An answer that is good, and came in one, goes to the client and into the record from here. Any other turn, an error, a
slow answer, a broken one, a client that leaves, is the matter of the way of all again: `Ride.handed_over` is the
request as that way has it, with its first attempt under way. So one place fails over, and one tells errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy import ir
from proxy.accounts.budget import Alert
from proxy.accounts.keys import CHAT_SURFACES
from proxy.accounts.permit import Permit, alights, boards, fitted
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError
from proxy.routing.facts import estimated_tokens
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan
from proxy.routing.table import OFF
from proxy.server import billing, intake
from proxy.server.call import NOTHING, Call, Surface
from proxy.server.clients.downstream import CLOSES, STAYS, Left, post
from proxy.server.clients.inbound import Request
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.clients.visitor import visitor_of
from proxy.server.express.begun import Begun
from proxy.server.express.course import Course
from proxy.server.express.hearing import heard
from proxy.server.express.setting import Found, Talk, found_by, recalled
from proxy.server.express.tally import Tally
from proxy.server.identity import request_id
from proxy.server.ledger import Brief, Decision, Lease
from proxy.server.outgoing import with_body
from proxy.server.respond import cost_line
from proxy.server.snapshot import Snapshot
from proxy.server.upstream.lean import LeanReply
from proxy.wire import json_text, splice
from proxy.wire.head_shape import Head
from proxy.wire.splice import Parts, whole

if TYPE_CHECKING:
    from proxy.server.gateway import Gateway

LARGEST = 12 << 10  # bytes of an answer that a connection takes in one, whatever was set for it: see `UNSENT`
LARGE = 64 << 10  # bytes of a body whose copy counts
LATE = "The provider did not answer in time."  # as the watchdog says it

_lease, _brief = partial(tuple.__new__, Lease), partial(tuple.__new__, Brief)  # past half of a named tuple's own way


class Express:
    """One per gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._tallies: dict[tuple[str, str, str, str, bool], Tally] = {}
        gateway.metrics.folds.append(self._fold)

    def tally(self, surface: str, model: str, provider: str, intent: str, streamed: bool) -> Tally:
        """One for all that are counted under the same names: clients may ask for any that a pattern covers."""
        key = *self.gateway.metrics.bind(surface, model, provider, streamed).names, intent, streamed
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally(self.gateway.metrics, *key)
        return found

    def _fold(self) -> None:
        for tally in self._tallies.values():
            tally.fold()

    def board(self, request: Request, surface: Surface) -> Ride | None:
        """None, and nothing was done, for whatever is not ordinary."""
        gateway = self.gateway
        snapshot = gateway.current
        if not snapshot.tracks or surface.operation != "chat" or not isinstance(request, OrdinaryRequest):
            return None
        body = request.ready()
        if body is None or not gateway.own.empty:
            return None
        started, visitor = time.monotonic(), visitor_of(request, snapshot)
        found = recalled(snapshot.settings, visitor, body) or found_by(snapshot, visitor, surface, request, body)
        if found is None or len(body) > found.track.longest:
            return None
        at_ms = int(gateway.now() * 1000)
        if not found.track.admits(snapshot.gate):
            try:
                permit = intake.admit(request, visitor, snapshot.gate, at_ms, CHAT_SURFACES)
            except GatewayError:
                return None  # for the way of all to tell
            if permit.standing is not found.track.standing:
                return None
        ride = Ride(gateway, request, snapshot, found, body, at_ms, started)
        return ride if ride.departs() else None

    def join(self, call: Call) -> Ride | None:
        """As `board`, for one whose body came behind its head, as most clients send it: the way of all has admitted it
        meanwhile. What is left stays that way's."""
        request, snapshot, permit = call.request, call.snapshot, call.permit
        if not snapshot.tracks or call.operation is not None or not isinstance(request, OrdinaryRequest):
            return None
        if permit is None or not call.visitor.ordinary or not self.gateway.own.empty:
            return None
        visitor, body = call.visitor, call.body
        found = recalled(snapshot.settings, visitor, body) or found_by(snapshot, visitor, call.surface, request, body)
        if found is None or found.track.standing is not permit.standing or len(body) > found.track.longest:
            return None
        ride = Ride(self.gateway, request, snapshot, found, body, call.decision.at_ms, call.started, call)
        return ride if ride.departs() else None


class Ride:
    """One request under way."""

    __slots__ = (
        "_permit", "amount", "at_ms", "began", "body", "call", "conversation", "course", "cut", "found", "gateway",
        "nanos", "page", "pinned", "raised", "reply", "request", "request_id", "sent", "size", "snapshot", "started",
        "started_ms", "tokens", "track",
    )  # fmt: skip

    amount: int  # of tokens that are reserved of limits
    nanos: int  # and of budgets, when the provider was asked
    reply: LeanReply
    request_id: str
    sent: bytes | Parts  # the body that the provider got; a large one in parts
    page: int | None  # of the agenda

    def __init__(
        self, gateway: Gateway, request: OrdinaryRequest, snapshot: Snapshot, found: Found, body: bytes, at_ms: int,
        started: float, call: Call | None = None,
    ) -> None:  # fmt: skip
        """`call` has admitted the request, and takes it back where the ride cannot go on."""
        self.gateway = gateway
        self.request = request
        self.snapshot = snapshot
        self.found: Found | None = found  # until nobody else will be asked
        self.track = found.track
        self.body = body
        self.size = len(body)
        self.at_ms = at_ms
        self.started = started
        self.started_ms = 0  # when the provider was asked, from then on
        self.call = call
        self.pinned: Candidate | None = None
        self.raised: BaseException | None = None  # what ended the wait for the answer
        self.cut: GatewayError | None = None  # see `Call.cut`
        self.course: Course | None = None  # of a stream
        self._permit: Permit | None = None  # see `permit`

    def departs(self) -> bool:
        """Asks the provider, if nothing is in the way; else nothing was done."""
        track, found, now = self.track, self.found, self.gateway.clock()
        assert found is not None
        _, talk, setting, _, written, _, _, _, light = found  # by name each would take longer
        chars, media, _, _, turns = talk
        text = light or self.body
        tokens = self.tokens = estimated_tokens(chars, 0 if text.isascii() else intake.wide(text), media)
        if track.window is not None and tokens + track.most > track.window:
            return False
        health = self.snapshot.world.health
        if not health.is_calm(now) and (
            not health.is_quiet(now) or health.on_trial(track.candidate, track.credential.index)
        ):
            return False
        goes_on = (turns > 1 or track.session is not None) and track.lifetime != OFF
        if goes_on and not self._is_at_home(talk, now):
            return False
        if setting is not None and track.hop is None:
            sent: bytes | Parts | None = setting.lead[0] + written + setting.lead[1]
        else:
            sent = self._put(found)
        reply = track.upstream.begin() if sent is not None else None
        if sent is None or reply is None:
            return False
        if not self._has_leave(now):
            reply.unused()
            return False
        self.reply = reply
        self.sent, self.request.document = sent, None
        if isinstance(sent, bytes):
            reply.write(track.head, sent)
        else:
            reply.write_parts(track.head, sent)
        self._begun()
        if not goes_on:
            self.conversation = talk.conversation(track.scope, track.session)  # no pin could be looked for
        return True

    def _put(self, found: Found) -> bytes | Parts | None:
        """The body for the provider; None where more than a look is needed."""
        track, body = self.track, self.body
        if track.hop is not None:
            try:
                return track.hop.asked(found.said(), found.beside)
            except (ValueError, GatewayError):
                return None  # for the way of all to tell
        asks = track.streamed is not None and track.streamed.asked_usage
        if found.members is not None:
            parts = splice.rewritten(body, found.members, model=track.native, include_usage=asks)
            return parts if len(body) > LARGE else b"".join(parts)
        renamed = splice.renamed(body, track.native)
        return splice.asking_usage(renamed) if asks and renamed is not None else renamed

    def _is_at_home(self, talk: Talk, now: float) -> bool:
        """Whether no pin of the conversation leads elsewhere."""
        track = self.track
        conversation = self.conversation = talk.conversation(track.scope, track.session)
        if conversation is not None:
            self.pinned = self.snapshot.world.affinity.pinned(conversation, now, track.lifetime)
        return self.pinned is None or self.pinned == track.candidate

    def _has_leave(self, now: float) -> bool:
        """Takes of limits, budgets and places what it needs, or nothing."""
        track, turnstile, size, tokens = self.track, self.gateway.turnstile, len(self.body), self.tokens
        if self.call is not None:
            return self._goes_on(self.call, now)
        if not turnstile.board(size):
            return False
        amount = self.amount = fitted(tokens, track.writing, track.standing.tpm)
        nanos = self.nanos = track.nanos(tokens)
        if boards(track.standing, amount, nanos, now, self.at_ms):
            return True
        turnstile.release(size)
        turnstile.leave()
        return False

    def _goes_on(self, call: Call, now: float) -> bool:
        """As `_has_leave`, beside what was taken before the body was here."""
        gateway, track, tokens, permit = self.gateway, self.track, self.tokens, call.permit
        if permit is None or not gateway.turnstile.enters_at_once():
            return False
        now_ms = int(gateway.now() * 1000)
        if not permit.goes_on(tokens, track.writing, track.nanos(tokens), now, now_ms):
            gateway.turnstile.leave()
            return False
        self._permit, self.nanos, call.inside = permit, permit.nanos, True
        return True

    @property
    def permit(self) -> Permit:
        """Made once somebody asks for more than to give back what was taken."""
        permit = self._permit
        if permit is None:
            track = self.track
            asked = self.tokens, track.writing
            permit = self._permit = Permit(
                track.standing, self.at_ms, True, False, self.amount, self.nanos, None, 0, asked
            )
        return permit

    def alights(self, charged: int, tokens: int, now: float) -> tuple[Alert, ...]:
        """See `Permit.settle`."""
        if self._permit is not None:
            return self._permit.settle(charged, tokens, now)
        return alights(self.track.standing, self.amount, self.nanos, self.at_ms, charged, tokens, now)

    def _begun(self) -> None:
        gateway, track, call, at_ms = self.gateway, self.track, self.call, self.at_ms
        if call is None:
            self.request_id = request_id()
            self.snapshot.users += 1
            gateway.calls.add(self)
        else:
            self.request_id = call.request_id
            self.started_ms, at_ms = call.elapsed_ms(), int(gateway.now() * 1000)
        track.in_flight.value += 1
        agenda = gateway.relay.agenda
        began = self.began = agenda.now()
        self.page = None if track.streamed is not None else agenda.put(self, began + track.due)
        if track.leased is not None:
            self.lease(track.leased, self.nanos, at_ms)

    def lease(self, whose: tuple[str, str | None], nanos: int, now_ms: int) -> None:
        """Notes what is reserved of budgets."""
        key_id, project = whose
        self.gateway.ledger.lease(_lease((self.request_id, key_id, project, nanos, now_ms + billing.LEASE_MS)))

    def forget(self) -> None:
        """Nobody else will be asked."""
        self.body, self.found, self.sent = b"", None, b""
        self.request.read_nowait()

    # -- the answer ------------------------------------------------------------------------------------------

    async def answered(self) -> Left | None:
        """None where the way of all has to go on."""
        if self.track.streamed is not None:
            self.course = course = Course(self)
            if self.call is not None:
                self.call.course = course
            return await course.run()
        try:
            await self.reply.coming()
            told = self.reply.at_once()
            good = self._judged(*told) if told is not None else None
        except BaseException as exc:
            self.raised = exc
            self.reply.close()
            return None
        return None if good is None else self._delivered(*good)

    def off_course(self) -> Course | None:
        """Neither knows the other any more: as a ring they would wait for the collector."""
        course, self.course = self.course, None
        if self.call is not None:
            self.call.course = None
        return course

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        self.reply.expire(LATE)

    def interrupt(self) -> None:
        """See `Call.interrupt`."""
        self.request.interrupt()

    def _judged(self, head: Head, body: bytes) -> tuple[bytes, bytes, ir.Usage, int | None] | None:
        """Of a good answer: its body for the client, the provider's headers that pass, usage and cost; None for any
        other."""
        protocol, track = self.request.protocol, self.track
        passed = track.passed if track.heard is head else heard(track, head, self.snapshot.scrubber)
        if passed is None or len(body) > LARGEST or protocol.writing_paused:
            return None  # the client may have to be waited for
        if protocol.transport is None or protocol.transport.is_closing():
            return None
        try:
            parsed = json_text.read(body)
            usage = track.check(parsed)
            if usage is None:
                return None  # what it cost is for others to guess
            if track.hop is not None:
                body = track.hop.back.answered(parsed, usage, self.at_ms // 1000, self._voice)
        except (ValueError, GatewayError):
            return None
        if len(body) > LARGEST:
            return None
        cost = track.price.cost_nanos(usage) if track.price is not None else None
        if cost is None and track.price is not None:
            return None
        return body, passed, usage, cost

    def _voice(self) -> Voice:
        """See `Call.voice`."""
        return Voice(self.request_id, self.track.facts.wanted[0], self.at_ms // 1000, False, self.asked())

    def asked(self) -> Mapping[str, Any]:
        """The request's document, as long as it is kept; without the data of media that was not read."""
        return NOTHING if self.found is None else self.found.said()

    def _delivered(self, body: bytes, passed: bytes, usage: ir.Usage, cost: int | None) -> Left:
        gateway, track, request, identity = self.gateway, self.track, self.request, self.request_id
        transport = request.protocol.transport
        agenda = gateway.relay.agenda
        if self.page is not None:
            agenda.strike(self, self.page)
        duration, now, stays = time.monotonic() - self.started, gateway.clock(), request.keep_alive
        overhead = duration - (agenda.now() - self.began)
        told = cost_line(track.prefix, cost)
        said = track.letterhead.whole(identity, passed, now, gateway.now(), told, body, stays)
        assert transport is not None  # or it was not judged to be deliverable
        post(request, transport, said)
        charged, read, took_ms = min(cost or 0, billing.MOST_CHARGED), usage.input_total, int(duration * 1000)
        brief = _brief((
            track, identity, self.at_ms, self.tokens, self.conversation, self.pinned is not None, usage, cost, charged,
            took_ms, took_ms, len(body), track.upstream_id, self.started_ms,
        ))  # fmt: skip
        self._learnt(now, took_ms - self.started_ms)
        track.in_flight.value -= 1
        if self.call is not None:
            self.call.recorded = True
        gateway.ended(self.call or self, self.snapshot, self.size, True)
        for alert in self.alights(charged, (read or 0) + (usage.output or 0), now):
            gateway.alerts.tell(alert)
        track.tally.add(duration, overhead, usage, cost)
        client = track.visitor.client(request.remote or None, self.snapshot.proxies)
        gateway.tell_brief(track, brief, read, client)
        gateway.ledger.record(brief)
        return STAYS if stays else CLOSES

    def _learnt(self, now: float, ttfb_ms: int) -> None:
        """See `Relay` and `Gateway`: what a good answer says of its candidate."""
        track, world = self.track, self.snapshot.world
        candidate = track.candidate
        world.health.answered(candidate, track.credential.index, now)
        world.latencies.note(candidate, ttfb_ms, now, True)
        if self.conversation is not None and track.pins:
            world.affinity.pin(self.conversation, candidate, now)

    def handed_over(self) -> tuple[Call, Plan]:
        """The request for the way of all: admitted, read and planned, its first attempt under way."""
        gateway, track = self.gateway, self.track
        if self.page is not None:
            gateway.relay.agenda.strike(self, self.page)
        track.in_flight.value -= 1
        call = self.call or self._as_call()
        call.body, found = self.body, self.found
        if found is not None:
            call.document = found.said() if found.light is None else json_text.read(self.body)
            call.members, call.once = found.members, found.setting is None and found.members is None
        call.decision.requested = track.requested
        if track.standing.budgeted:
            call.output_reserved = track.output
        plan = track.plan_for(self.tokens, self.conversation, warm=self.pinned is not None)
        call.plan = call.decision.plan = plan
        call.facts = plan.facts
        call.begun = Begun(track.upstream, self.reply, track.credential, self.began, self.started_ms, self.raised)
        if track.streamed is not None:
            call.asks_stream(True)
            call.track, call.warm, call.wants_usage = track, self.pinned is not None, track.wants_usage
            call.begun.prepared = with_body(track.streamed, whole(self.sent))
            if (course := self.off_course()) is not None:
                call.begun.opening = course.opening(call, plan.chain[0])
        return call, plan

    def _as_call(self) -> Call:
        gateway, track, standing = self.gateway, self.track, self.track.standing
        decision = Decision(
            self.request_id, self.at_ms, track.surface.name, client_request_id=track.visitor.client_id,
            project=standing.project, key_id=standing.key_id, config=self.snapshot.table.revision,
        )  # fmt: skip
        call = Call(
            track.surface, self.request, track.visitor, self.request_id, self.snapshot, decision, self.started,
            clock=gateway.clock, now=gateway.now, lease=gateway.ledger.lease, task=asyncio.current_task(),
        )  # fmt: skip
        gateway.calls.discard(self)
        gateway.calls.add(call)
        call.permit, call.held, call.inside, call.cut = self.permit, self.size, True, self.cut
        return call
