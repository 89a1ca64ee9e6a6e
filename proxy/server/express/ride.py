"""Ordinary requests whose kind has been served before: a short way from the head to the record.

The first request of a kind goes the way that all can go (`server.gateway`). What it went by, and its body had no say
in, is kept as a track (`track`). The next one of its kind boards it (`boarding`), if everything about it is ordinary:
it is a conversation's, nobody rests, no limit and no budget refuses, a connection is at hand. That is found out before
anything is done about it; whatever is not ordinary leaves the request to the way of all, untouched.

An answer that is good, and came in one, goes to the client and into the record from here. Any other turn, an error, a
slow answer, a broken one, a client that leaves, is the matter of the way of all again: `Ride.handed_over` is the
request as that way has it, with its first attempt under way. So one place fails over, and one tells errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from proxy import ir
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError
from proxy.routing.plan import Plan
from proxy.server.call import NOTHING, Call
from proxy.server.clients.downstream import CLOSES, STAYS, Left
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.express.begun import Begun
from proxy.server.express.course import Course
from proxy.server.express.departure import LATE, NOTHING_TAKEN
from proxy.server.express.fare import Fare, settle
from proxy.server.express.hearing import heard
from proxy.server.express.setting import Document, Found, Talk, said
from proxy.server.ledger import Decision
from proxy.server.outgoing import with_body
from proxy.server.respond import cost_line
from proxy.server.snapshot import Snapshot
from proxy.server.turn import ANSWERS, SETTLING
from proxy.server.upstream.lean import LeanReply
from proxy.wire import json_text
from proxy.wire.head_shape import Head
from proxy.wire.http1 import whole as whole_answer
from proxy.wire.parted import Parted
from proxy.wire.parted import whole as whole_body
from proxy.wire.splice import Parts, whole

if TYPE_CHECKING:
    from proxy.server.gateway import Gateway

LARGEST = 12 << 10  # bytes of an answer that a connection takes in one, whatever was set for it: see `UNSENT`
Good = tuple[bytes, bytes, ir.Usage, int | None]  # an answer: its body for the client, headers that pass, usage, cost
# Of one that has left: its size, usage and cost, how long it took, how much of that was not the provider's, and when;
# the provider's name for it; whether it went past the reply, which then is as it was made.
Ended = tuple[int, ir.Usage, int | None, float, float, float, str | None, bool]


class Ride(Fare):
    """One request under way."""

    __slots__ = (
        "began", "body", "course", "cut", "ended", "found", "left", "raised", "reply", "sent", "settling", "stage",
        "unread", "waiter",
    )  # fmt: skip

    began: float  # by the agenda's clock
    reply: LeanReply
    sent: Parts  # the body that the provider got
    ended: Ended

    def __init__(
        self, gateway: Gateway, request: OrdinaryRequest, snapshot: Snapshot, found: Found, body: bytes | Parted,
        at_ms: int, started: float, call: Call | None = None,
    ) -> None:  # fmt: skip
        self.gateway = gateway
        self.request = request
        self.snapshot = snapshot
        self.found: Found | None = found  # until nobody else will be asked
        self.track = found[0]
        self.stage = NOTHING_TAKEN  # see `departure`
        self.body = body
        self.size = len(body)
        self.at_ms = at_ms
        self.started = started
        self.started_ms = 0
        self.call = call
        self.pinned = None
        self.raised: BaseException | None = None  # what ended the wait for the answer, or the telling of it
        self.unread = b""  # of the answer, until this turn of the loop ends
        self.left: Left | None = None  # once all of the answer has,
        self.settling: Callable[[], None] | None = None  # and what is to be done about it when its turn comes
        self.waiter: asyncio.Future[None] | None = None  # of the task that sleeps meanwhile
        self.cut: GatewayError | None = None  # see `Call.cut`
        self.course: Course | None = None  # of a stream
        self._permit = None

    def recognizes(self, talk: Talk) -> str | None:
        _, _, system, first, _ = talk
        track = self.track
        conversation = self.conversation = track.conversations.key(track.session, system[:2000], first[:2000])
        return conversation

    def forget(self) -> None:
        """Nobody else will be asked."""
        self.body, self.found, self.sent = b"", None, ()
        self.request.read_nowait()
        if self.call is not None:
            self.call.forget()

    # -- the answer ------------------------------------------------------------------------------------------

    async def answered(self) -> Left | None:
        """For the task: None where the way of all has to go on."""
        if self.waiter is None:
            self.waiter = self.gateway.relay.agenda.future()
            try:
                await self.waiter
            except BaseException as exc:
                self.interrupted(exc)
        if self.left is not None and self.raised is not None:
            self._broken_off(self.raised)
            return None
        return self.left if self.course is None else await self.course.finished()

    def _broken_off(self, fault: BaseException) -> None:
        """A fault of ours came when the answer had left, or may have: no other one may follow. Raises it, where the way
        of all has nothing to settle, or can do so by the request's call."""
        call, course = self.call, self.off_course()
        if course is not None:
            course.ends()
        if call is None:
            if self not in self.gateway.calls:
                raise fault
            return  # `handed_over` comes next
        call.answer.begun = True
        if not call.recorded:
            self._gives_way()
        raise fault

    def interrupted(self, exc: BaseException) -> None:
        """The task's sleep ended in that: the client has left, or the gateway ends what is under way. Raises it where
        all has been done."""
        self.settles()
        if self.course is not None:
            self.course.interrupted(exc)
        elif self.left is not None:
            raise exc
        else:
            self.raised = exc
            self.unread = b""
            self.reply.returned(None)
            self.reply.close()

    def received(self, data: bytes) -> None:
        """Of the provider, first of all. In a crowd it is read with what came to others in this turn of the loop."""
        if self.unread:
            data, self.unread = self.unread + data, b""
        if len(data) <= LARGEST and self.request.turn.later(ANSWERS, self.reads):
            self.unread = data
        else:
            self._read(data)

    def reads(self) -> None:
        try:
            data, self.unread = self.unread, b""
            if data:
                self._read(data)
        except BaseException as exc:
            self.fails(exc)

    def _read(self, data: bytes) -> None:
        """Mostly a good answer from its first byte to its last."""
        came = whole_answer(data)
        if came is None or (head := came[0].head) is None:
            self.reply.returned(self)
            self.reply.received(data)
            return
        try:
            good = self._judged(head, came[1])
            if good is not None:
                self._delivered(good, head)
                return
        except BaseException as exc:
            self.fails(exc)
        else:
            self.reply.returned(None)
            self.reply.received(data)
            self.wakes()

    def lost(self, exc: BaseException | None) -> None:
        if self.unread:
            self.reads()
        else:
            self.reply.returned(self)
        if self.left is None:
            self.reply.lost(exc)

    def came(self) -> None:
        """See `LeanReply.returned`."""
        try:
            told = self.reply.at_once()
            good = self._judged(*told) if told is not None else None
            if good is not None:
                self._delivered(good)
                return
        except BaseException as exc:
            self.fails(exc)
        else:
            self.wakes()

    def fails(self, exc: BaseException) -> None:
        """A fault of ours is for whoever serves the request, not for the loop."""
        self.raised = exc
        self.reply.close()
        self.wakes()

    def ends(self) -> None:
        """All of the answer has left. The task sleeps on, if its connection waits for another request."""
        request, waiter = self.request, self.waiter
        if waiter is None or waiter.done():
            return
        knows = request.ride is self or self.call is not None
        if not (knows and self.left is STAYS and request.protocol.rests(request, waiter)):
            waiter.set_result(None)

    def wakes(self) -> None:
        """The task, for what is left to do."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def off_course(self) -> Course | None:
        """Neither knows the other any more: as a ring they would wait for the collector."""
        course, self.course = self.course, None
        if self.call is not None:
            self.call.course = None
        return course

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        if self.unread:  # in time
            self.gateway.relay.agenda.put(self, now)
            return
        self.reply.expire(LATE)
        self.wakes()

    def interrupt(self) -> None:
        """See `Call.interrupt`."""
        self.request.interrupt()

    def _judged(self, head: Head, body: bytes) -> Good | None:
        """None for an answer that is not good."""
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
        return NOTHING if self.found is None else said(self.found)

    def _delivered(self, good: Good, head: Head | None = None) -> None:
        """`head` is that of an answer that went past the reply, which is told once it has left."""
        body, passed, usage, cost = good
        gateway, track, request = self.gateway, self.track, self.request
        transport = request.protocol.transport
        agenda = gateway.relay.agenda
        duration, now, stays = time.monotonic() - self.started, gateway.clock(), request.keep_alive
        overhead = duration - (agenda.now() - self.began)
        told = cost_line(track.prefix, cost)
        answer = track.letterhead.whole(self.request_id, passed, now, gateway.now(), told, body, stays)
        assert transport is not None  # or it was not judged to be deliverable
        self.left = STAYS if stays else CLOSES
        request.turn.post(transport, answer)
        if head is not None:
            self.reply.has_come(head)
        agenda.strike(self)
        self.ended = len(body), usage, cost, duration, overhead, now, track.upstream_id, head is not None
        self.settles_soon(self._settles)

    def settles_soon(self, settle: Callable[[], None]) -> None:
        """In a crowd, with others whose answers left in this turn of the loop."""
        self.settling = settle
        if not self.request.turn.later(SETTLING, self.settles):
            self.settles()

    def settles(self) -> None:
        """What follows from an answer that has left, once. A fault is for whoever serves the request; the provider's
        connection has been given back."""
        try:
            settle, self.settling = self.settling, None
            if settle is not None:
                settle()
        except BaseException as exc:
            self.raised = exc
            self.wakes()

    def _settles(self) -> None:
        size, usage, cost, duration, overhead, now, upstream_id, past = self.ended
        track, took_ms = self.track, int(duration * 1000)
        self.snapshot.world.health.answered(track.candidate, track.credential.index, now)
        track.times.add(took_ms - self.started_ms, now)
        settle(self, usage, cost, size, upstream_id, took_ms, took_ms, duration, overhead, now)
        if self.call is not None:
            self.forget()  # its task may wait for the connection's next request
        self.ends()
        if past:
            self.reply.rests()

    def handed_over(self) -> tuple[Call, Plan]:
        """The request for the way of all: admitted, read and planned, its first attempt under way."""
        track = self.track
        self._gives_way()
        call = self.call or self._as_call()
        call.answer.begun = call.answer.begun or self.left is not None
        call.body, found = whole_body(self.body), self.found
        if found is not None:
            _, _, known, _, _ = found
            call.document = said(found)
            if isinstance(known, Document):
                call.once = known.members is None
                if known.light is None:
                    call.members = known.members
                else:
                    call.document = json_text.read(call.body)
        call.decision.requested = track.requested
        if track.standing.budgeted:
            call.output_reserved = track.output
        plan = track.plan_for(self.tokens, self.recognized(), warm=self.pinned is not None)
        call.plan = call.decision.plan = plan
        call.facts = plan.facts
        call.begun = Begun(track.upstream, self.reply, track.credential, self.began, self.started_ms, self.raised)
        if track.streamed is not None:
            call.asks_stream(True)
            call.track, call.warm, call.wants_usage = track, self.pinned is not None, track.wants_usage
            call.begun.prepared = with_body(track.streamed, whole(self.sent))
            if (course := self.off_course()) is not None:
                call.begun.opening = course.opening(call, plan.chain[0])
        self.body, self.found, self.sent = b"", None, ()  # the call has them, and forgets them sooner
        return call, plan

    def _gives_way(self) -> None:
        """Neither waited for nor under way here any more."""
        self.gateway.relay.agenda.strike(self)
        self.track.in_flight.value -= 1

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
