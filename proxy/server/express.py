"""Ordinary requests whose kind has been served before: a short way from the head to the record.

The first request of a kind goes the way that all can go (`server.gateway`). What it went by, and its body had no say
in, is kept as a track (`server.track`). The next one of its kind boards it, if everything about it is ordinary: a plain
answer is wanted of a conversation, nobody rests, no limit and no budget refuses, a connection is at hand. That is found
out before anything is done about it; whatever is not ordinary leaves the request to the way of all, untouched.

An answer that is good, and came in one, goes to the client and into the record from here. Any other turn, an error, a
slow answer, a broken one, a client that leaves, is the matter of the way of all again: `Ride.handed_over` is the
request as that way has it, with its first attempt under way. So one place fails over, and one tells errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from proxy import ir
from proxy.accounts.keys import CHAT_SURFACES
from proxy.accounts.permit import Permit
from proxy.dialects.dialect import Dialect
from proxy.errors import GatewayError
from proxy.routing import facts as reading
from proxy.routing.affinity import conversation_key
from proxy.routing.facts import EXTENSIONS, Facts
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan, recalled
from proxy.routing.table import OFF
from proxy.server import billing, intake
from proxy.server.attempt import upstream_id
from proxy.server.begun import Begun
from proxy.server.call import Call, Surface
from proxy.server.downstream import Headers, Left, write_whole
from proxy.server.identity import request_id
from proxy.server.inbound import Request
from proxy.server.ledger import Attempt, Decision, Lease
from proxy.server.ordinary import OrdinaryRequest
from proxy.server.ratelimits import THEIRS, headers_of
from proxy.server.respond import JSON, cost_header
from proxy.server.snapshot import Snapshot
from proxy.server.track import Track, kind_of
from proxy.server.upstream.lean import LeanReply
from proxy.server.visitor import Visitor, visitor_of
from proxy.wire import json_text, splice
from proxy.wire.headers import answer_headers
from proxy.wire.http1 import Head

if TYPE_CHECKING:
    from proxy.server.gateway import Gateway

MOST_FORMS = 1024
LARGEST = 12 << 10  # bytes of an answer that a connection takes in one, whatever was set for it: see `UNSENT`
LATE = "The provider did not answer in time."  # as the watchdog says it
# Members that have a say in who answers, or how.
TELLING = EXTENSIONS | {"metadata", "prompt_cache_key", "input"}
_forms: dict[Hashable, bool] = {}


def is_ordinary(document: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether the members are of the right types, and none has a say but the model's and those of the shape."""
    form = dialect.name, *document, *map(type, document.values())
    found = _forms.get(form)
    if found is None:
        found = TELLING.isdisjoint(document) and "model" in document and _fits(document, dialect)
        if len(_forms) >= MOST_FORMS:
            _forms.clear()
        _forms[form] = found
    return found and document.get("stream") is not True


def _fits(document: Mapping[str, Any], dialect: Dialect) -> bool:
    try:
        intake.check_types(document, dialect.types)
    except GatewayError:
        return False
    return document["model"].__class__ is str and document.get("stream").__class__ in (bool, type(None))


class Express:
    """One per gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def board(self, request: Request, surface: Surface) -> Ride | None:
        """None, and nothing was done, for whatever is not ordinary."""
        gateway = self.gateway
        snapshot = gateway.current
        if not snapshot.tracks or surface.operation != "chat" or not isinstance(request, OrdinaryRequest):
            return None
        body = request.content.ready()
        if body is None or len(body) > splice.SHORT or not gateway.own.empty:
            return None
        visitor, dialect = visitor_of(request, snapshot), surface.spoken
        try:
            document = orjson.loads(body)
            if document.__class__ is not dict or not is_ordinary(document, dialect):
                return None
            intake.check_turns(document, dialect.name)
            shape = dialect.read_shape(document)
            track: Track | None = snapshot.tracks.get(kind_of(visitor, surface, document, shape))
            if track is None or not splice.each_once(body, document, intake.read_here(dialect.reads)):
                return None
            at_ms = int(gateway.now() * 1000)
            permit = intake.admit(request, visitor, snapshot.gate, at_ms, CHAT_SURFACES)
        except (ValueError, GatewayError):
            return None  # for the way of all to tell
        if permit.standing is not track.standing:
            return None
        ride = Ride(self, request, surface, snapshot, visitor, track, permit, body, document, shape, at_ms)
        return ride if ride.departs() else None


class Ride:
    """One request under way."""

    __slots__ = (
        "at_ms",
        "began",
        "body",
        "continues",
        "conversation",
        "cut",
        "document",
        "express",
        "page",
        "permit",
        "pinned",
        "raised",
        "reply",
        "request",
        "request_id",
        "shape",
        "snapshot",
        "started",
        "surface",
        "tokens",
        "track",
        "visitor",
    )  # fmt: skip

    reply: LeanReply

    def __init__(
        self, express: Express, request: OrdinaryRequest, surface: Surface, snapshot: Snapshot, visitor: Visitor,
        track: Track, permit: Permit, body: bytes, document: Mapping[str, Any], shape: ir.Shape, at_ms: int,
    ) -> None:  # fmt: skip
        self.express = express
        self.request = request
        self.surface = surface
        self.snapshot = snapshot
        self.visitor = visitor
        self.track = track
        self.permit = permit
        self.body = body
        self.document = document
        self.shape = shape
        self.at_ms = at_ms
        self.started = time.monotonic()
        self.pinned: Candidate | None = None
        self.raised: BaseException | None = None  # what ended the wait for the answer
        self.cut: GatewayError | None = None  # see `Call.cut`

    def departs(self) -> bool:
        """Asks the provider, if nothing is in the way; else nothing was done."""
        track, world, now = self.track, self.snapshot.world, self.express.gateway.clock()
        shape, body = self.shape, self.body
        if not world.health.is_quiet(now):
            return False
        tokens = self.tokens = reading.estimate_tokens(shape, 0 if body.isascii() else intake.wide(body))
        if track.window is not None and tokens + (shape.max_tokens or 0) > track.window:
            return False
        session, turns = self.visitor.session, shape.turns
        self.continues = session is not None or len(turns) > 1
        self.conversation = conversation_key(
            track.scope, session, shape.system[:2000], turns[0][:2000] if turns else ""
        )
        if self.continues and not self._is_at_home(now):
            return False
        renamed = splice.renamed(body, track.pick.candidate.native)
        reply = track.upstream.begin() if renamed is not None else None
        if renamed is None or reply is None:
            return False
        if not self._has_leave(tokens, now):
            reply.unused()
            return False
        self.reply = reply
        reply.write(track.head, renamed)
        self._begun()
        return True

    def _is_at_home(self, now: float) -> bool:
        """Whether no pin of the conversation leads elsewhere."""
        world, conversation = self.snapshot.world, self.conversation
        lifetime = world.table.routing.affinity
        if conversation is not None and lifetime != OFF:
            self.pinned = world.affinity.pinned(conversation, now, lifetime)
        return self.pinned is None or self.pinned == self.track.pick.candidate

    def _has_leave(self, tokens: int, now: float) -> bool:
        """Takes of limits, budgets and places what it needs, or nothing."""
        track, turnstile, size = self.track, self.express.gateway.turnstile, len(self.body)
        if not turnstile.board(size):
            return False
        if not self.permit.board(tokens, track.writing, track.nanos(tokens), now, self.at_ms):
            turnstile.release(size)
            turnstile.leave()
            return False
        return True

    def _begun(self) -> None:
        gateway, standing = self.express.gateway, self.track.standing
        self.request_id = request_id()
        self.snapshot.users += 1
        gateway.calls.add(self)
        self.track.in_flight.value += 1
        agenda = gateway.relay.agenda
        self.began = began = agenda.now()
        self.page = agenda.put(self, began + self.track.due)
        if standing.budgeted and standing.key_id is not None:
            until = self.at_ms + billing.LEASE_MS
            gateway.ledger.lease(Lease(self.request_id, standing.key_id, standing.project, self.permit.nanos, until))

    # -- the answer ------------------------------------------------------------------------------------------

    async def answered(self) -> Left | None:
        """None where the way of all has to go on."""
        try:
            await self.reply.came()
            told = self.reply.at_once()
            good = self._judged(*told) if told is not None else None
        except BaseException as exc:
            self.raised = exc
            return None
        return None if told is None or good is None else self._delivered(*told, *good)

    def look(self, now: float) -> None:
        """Its time on the agenda has come."""
        self.reply.expire(LATE)

    def interrupt(self) -> None:
        """See `Call.interrupt`."""
        self.request.interrupt()

    def _judged(self, head: Head, body: bytes) -> tuple[ir.Usage, int | None] | None:
        """Usage and cost of a good answer that may leave as it is; None for any other."""
        headers, protocol = head.headers, self.request.protocol
        if head.status != 200 or headers.get("content-type") != JSON or "content-encoding" in headers:
            return None
        if len(body) > LARGEST or protocol.writing_paused:
            return None  # the client may have to be waited for
        if protocol.transport is None or protocol.transport.is_closing():
            return None
        if self.snapshot.scrubber.knows("\n".join(headers.values())):
            return None
        try:
            usage = self.track.check(json_text.read(body))
        except (ValueError, GatewayError):
            return None
        if usage is None:
            return None  # what it cost is for others to guess
        price = self.track.price
        cost = price.cost_nanos(usage) if price is not None else None
        return None if cost is None and price is not None else (usage, cost)

    def _delivered(self, head: Head, body: bytes, usage: ir.Usage, cost: int | None) -> Left:
        gateway, track = self.express.gateway, self.track
        agenda = gateway.relay.agenda
        agenda.strike(self, self.page)
        waited, first_byte_s = agenda.now() - self.began, time.monotonic() - self.started
        left = write_whole(self.request, track.stock, self._headers(head.headers, cost), body)
        ended = time.monotonic()
        decision = self._decision(head.headers, len(body), usage, cost, int(first_byte_s * 1000), ended)
        now = gateway.clock()
        self._learnt(now, decision.ttfb_ms)
        self._released()
        charged = decision.charged_nanos
        for alert in self.permit.settle(charged, (usage.input_total or 0) + (usage.output or 0), now):
            gateway.alerts.tell(alert)
        client = self.visitor.client(self.request.remote or None, self.snapshot.proxies)
        gateway.count(decision, client, track.plan.intent, ended - self.started, first_byte_s - waited)
        gateway.ledger.record(decision)
        return left

    def _headers(self, theirs: Mapping[str, str], cost: int | None) -> Headers:
        """Beside those that the track knows."""
        headers = [("X-Request-Id", self.request_id)]
        if self.surface.dialect == "anthropic":
            headers.append(("request-id", self.request_id))
        gateway, meters = self.express.gateway, self.track.standing.meters
        limits = headers_of(self.permit, self.surface.dialect, gateway.clock(), gateway.now()) if meters else []
        if passed := answer_headers(theirs.items(), True):
            ours = ("retry-after", "x-should-retry", *(THEIRS if limits else ()))
            headers += [pair for pair in passed if not pair[0].startswith(ours)]
        headers += limits
        headers += cost_header(self.snapshot.table.server.header_prefix, cost)
        return headers

    # -- the record ------------------------------------------------------------------------------------------

    def _decision(
        self, theirs: Mapping[str, str], size: int, usage: ir.Usage, cost: int | None, ttfb_ms: int, ended: float
    ) -> Decision:
        track, candidate, standing = self.track, self.track.pick.candidate, self.track.standing
        duration_ms = int((ended - self.started) * 1000)
        attempt = Attempt(
            1, candidate.model, candidate.provider, candidate.native, 0, duration_ms, ttfb_ms,
            status=200, upstream_request_id=upstream_id(theirs), usage=usage, cost_nanos=cost, bytes_out=size,
        )  # fmt: skip
        facts = self._facts()
        return Decision(
            self.request_id, self.at_ms, self.surface.name, facts.wanted[0][:billing.LONGEST_MODEL],
            self.visitor.client_id, False, standing.project, standing.key_id, self.snapshot.table.revision,
            recalled(track.plan, facts, self.pinned), facts, 200, "ok", candidate.model, candidate.provider,
            candidate.native, track.fallback, [attempt], usage, cost, min(cost or 0, billing.MOST_CHARGED),
            price_source=track.pick.info.price_source, ttfb_ms=ttfb_ms, duration_ms=duration_ms, queue_ms=0,
            bytes_committed=size,
        )  # fmt: skip

    def _facts(self) -> Facts:
        return self.track.facts_of(self.shape, self.tokens, self.conversation, continues=self.continues)

    def _learnt(self, now: float, ttfb_ms: int | None) -> None:
        """See `Relay` and `Gateway`: what a good answer says of its candidate."""
        track, world, metrics = self.track, self.snapshot.world, self.express.gateway.metrics
        candidate = track.pick.candidate
        world.health.asked(candidate.provider)
        world.health.succeeded(candidate, track.credential.index, now)
        world.latencies.observe(candidate, ttfb_ms or 0, now, whole=True)
        metrics.queued(candidate.provider, 0.0)
        if self.conversation and len(track.plan.chain) > 1 and world.table.routing.affinity != OFF:
            world.affinity.pin(self.conversation, candidate, now)

    def _released(self) -> None:
        self.track.in_flight.value -= 1
        self.express.gateway.ended(self, self.snapshot, len(self.body), inside=True)

    def handed_over(self) -> tuple[Call, Plan]:
        """The request for the way of all: admitted, read and planned, its first attempt under way."""
        gateway, track, standing = self.express.gateway, self.track, self.track.standing
        gateway.relay.agenda.strike(self, self.page)
        track.in_flight.value -= 1
        decision = Decision(
            self.request_id, self.at_ms, self.surface.name, client_request_id=self.visitor.client_id,
            config=self.snapshot.table.revision, project=standing.project, key_id=standing.key_id,
        )  # fmt: skip
        call = Call(
            self.surface, self.request, self.visitor, self.request_id, self.snapshot, decision, self.started,
            clock=gateway.clock, now=gateway.now, lease=gateway.ledger.lease, task=asyncio.current_task(),
        )  # fmt: skip
        gateway.calls.discard(self)
        gateway.calls.add(call)
        call.permit, call.body, call.document, call.once = self.permit, self.body, self.document, True
        call.held, call.inside, call.cut = len(self.body), True, self.cut
        if standing.budgeted:
            call.output_reserved = track.output
        facts = call.facts = self._facts()
        decision.requested = facts.requested[: billing.LONGEST_MODEL]
        plan = call.plan = decision.plan = recalled(track.plan, facts, self.pinned)
        call.begun = Begun(track.upstream, self.reply, track.credential, self.began, 0, self.raised)
        return call, plan
