"""What requests of one kind go by, once one of the kind has been served: all that their bodies have no say in.

`learn` looks at a request that went the way of all and was answered well, and keeps what the next one of its kind can
go by; nothing where a body, a clock or dice had a say in that. Tracks belong to a snapshot, so a reload begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.accounts.admission import Gate
from proxy.accounts.books import Standing
from proxy.catalog.price import Price, worst_case_line
from proxy.dialects import DIALECTS, Dialect
from proxy.metrics import Number
from proxy.record import define
from proxy.routing.affinity import Conversations
from proxy.routing.facts import NO_PREFERENCES, Facts
from proxy.routing.latency import Notes
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan, recalled
from proxy.routing.table import OFF, Timeouts
from proxy.server import billing
from proxy.server.attempt import Opening
from proxy.server.call import Call, Surface
from proxy.server.clients.downstream import LeanAnswer
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.clients.visitor import Visitor
from proxy.server.credentials import Credential
from proxy.server.express.hearing import Passing
from proxy.server.express.hop import Hop
from proxy.server.express.letterhead import Letterhead
from proxy.server.express.tally import Tally
from proxy.server.flow import GREAT
from proxy.server.heading import OWN_TYPES, stock_of
from proxy.server.ledger import Attempt, Brief, Decision
from proxy.server.outgoing import Prepared, target_of, with_body
from proxy.server.ratelimits import THEIRS
from proxy.server.respond import JSON, SSE, content_type_of
from proxy.server.upstream import LeanUpstream
from proxy.server.watchdog import STUCK_WRITE
from proxy.streams import Usual
from proxy.wire.head_shape import Head, Shape
from proxy.wire.headers import printable

MakesTally = Callable[[str, str, str, str, bool], Tally]
MOST = 512  # tracks of a snapshot
EVENTS = "text/event-stream"
OURS = ("retry-after", "x-should-retry")  # see `heading`


@define(eq=False)
class Track:
    """`facts` are those of the request that it was learnt from, less its words."""

    visitor: Visitor = field(repr=False)
    surface: Surface
    standing: Standing = field(repr=False)
    facts: Facts = field(repr=False)
    plan: Plan = field(repr=False)
    requested: str
    window: int | None  # tokens that every candidate of the chain takes
    most: int  # tokens of output that are asked for
    longest: int  # bytes of a body
    candidate: Candidate
    credential: Credential = field(repr=False)
    upstream: LeanUpstream = field(repr=False)
    head: bytes = field(repr=False)  # of the provider's request, up to its length
    due: float  # seconds that an answer may take
    check: Callable[[Any], ir.Usage | None] = field(repr=False)  # the provider's answer, by its dialect
    price: Price | None
    price_source: str | None
    line: tuple[int, int] | None  # the worst case in pico-USD, for each token read and besides; None: nobody asks
    output: int  # tokens of output that are reserved of budgets
    writing: int  # and of limits
    fallback: bool
    in_flight: Number = field(repr=False)
    tally: Tally = field(repr=False)
    times: Notes = field(repr=False)
    letterhead: Letterhead = field(repr=False)
    prefix: str  # of our headers
    revision: str  # of the table
    lifetime: float  # of pins
    streamed: Prepared | None = field(repr=False)  # the request for a stream, less its body; None: no stream is wanted
    hop: Hop | None = field(repr=False)  # None: both speak the same dialect
    content_type: str = JSON  # of the provider's answer
    wants_usage: bool = False  # the client, of a stream
    rows: Any = field(default=None, init=False, repr=False)  # see `ledger.Kind`
    heard: Head | None = field(default=None, init=False, repr=False)  # the last answer's head,
    passed: bytes | None = field(default=None, init=False, repr=False)  # what of it passes: see `hearing`
    upstream_id: str | None = field(default=None, init=False)  # and how the provider calls it
    usual: Usual = field(factory=Usual, init=False, repr=False)  # how its streams begin and end
    passing: dict[Shape, Passing] = field(factory=dict, init=False, repr=False)  # the same of all heads of a shape
    spoken: Dialect = field(init=False, repr=False)  # by the client
    native: str = field(init=False)
    session: str | None = field(init=False)
    conversations: Conversations = field(init=False, repr=False)
    pins: bool = field(init=False)
    lasts: bool = field(init=False)  # the caller's key
    leased: tuple[str, str | None] | None = field(init=False)  # whose budgets: key and project
    withheld: tuple[str, ...] = field(init=False)  # how headers of the provider's begin that do not pass
    most_bytes: int = field(init=False)  # of a stream before there is anything to see to
    first_due: float = field(init=False)  # seconds until a stream has to be looked at that has not begun well
    limits_of_stream: tuple[float, float] = field(init=False)  # seconds of silence, and in all

    def __attrs_post_init__(self) -> None:
        standing = self.standing
        self.spoken = DIALECTS[self.surface.dialect]
        self.native, self.session = self.candidate.native, self.visitor.session
        self.conversations = Conversations("\0".join((standing.scope, *self.facts.wanted)))
        self.lasts = standing.key is not None and standing.key.lasts
        self.pins = len(self.plan.chain) > 1 and self.lifetime != OFF
        terms = [meter.terms for meter in standing.meters]
        limited = any(it.rpm is not None or it.tpm is not None for it in terms)
        self.withheld = (*OURS, *THEIRS) if limited else OURS
        self.most_bytes = min(billing.bytes_of(self.output if standing.budgeted else 0), GREAT)
        limits = self.streamed.outgoing.timeouts if self.streamed is not None else Timeouts()
        self.first_due = min(limits.first_event, limits.first_content, limits.total, limits.idle, STUCK_WRITE)
        self.limits_of_stream = limits.idle, limits.total
        self.leased = (standing.key_id, standing.project) if standing.budgeted and standing.key_id is not None else None

    def admits(self, gate: Gate) -> bool:
        """Whether its key is known to open still, without a look: it is the very same one, and never ends."""
        key = self.standing.key
        return key is not None and self.lasts and gate.ring.by_id.get(key.id) is key

    def plan_for(self, tokens: int, conversation: str | None, *, warm: bool) -> Plan:
        facts = evolve(self.facts, tokens=tokens, conversation=conversation)
        return recalled(self.plan, facts, self.candidate if warm else None)

    # -- the record ------------------------------------------------------------------------------------------

    def decision(self, brief: Brief) -> Decision:
        candidate, standing, usage, cost = self.candidate, self.standing, brief.usage, brief.cost_nanos
        attempt = Attempt(
            1, candidate.model, candidate.provider, candidate.native, brief.started_ms,
            brief.duration_ms - brief.started_ms, brief.ttfb_ms - brief.started_ms, status=200,
            upstream_request_id=brief.upstream_request_id, usage=usage, cost_nanos=cost,
            bytes_out=brief.bytes_committed,
        )  # fmt: skip
        plan = self.plan_for(brief.tokens, brief.conversation, warm=brief.warm)
        return Decision(
            brief.request_id, brief.at_ms, self.surface.name, self.requested, self.visitor.client_id,
            self.streamed is not None,
            standing.project, standing.key_id, self.revision, plan, plan.facts, 200, "ok", candidate.model,
            candidate.provider, candidate.native, self.fallback, [attempt], usage, cost, brief.charged_nanos,
            price_source=self.price_source, ttfb_ms=brief.ttfb_ms, duration_ms=brief.duration_ms, queue_ms=0,
            bytes_committed=brief.bytes_committed,
        )  # fmt: skip

    def brief_of(self, call: Call) -> Brief | None:
        """Of a stream that went by this; None where more is to be said of it."""
        d, usage, facts = call.decision, call.decision.usage, call.facts
        if (
            usage is None or facts is None or d.ttfb_ms is None or d.status != 200 or d.outcome != "ok" or d.queue_ms
            or d.estimated or d.dropped or d.gone_phase is not None or d.fallback_used is not self.fallback
            or len(d.attempts) > 1 or d.attempts[0].status != 200 or d.attempts[0].outcome != "ok"
            or (d.cost_nanos is None and self.price is not None)
        ):  # fmt: skip
            return None
        return Brief(
            self, d.request_id, d.at_ms, facts.tokens, facts.conversation, call.warm, usage, d.cost_nanos,
            d.charged_nanos, d.ttfb_ms, d.duration_ms or 0, d.bytes_committed, d.attempts[0].upstream_request_id,
            d.attempts[0].started_ms,
        )  # fmt: skip

    def told(self, brief: Brief, read: int | None, client: str | None) -> dict[str, object]:
        """See `gateway.log_fields`."""
        return {
            "client": client,
            "request_id": brief.request_id,
            "surface": self.surface.name,
            "model": self.candidate.model,
            "provider": self.candidate.provider,
            "attempts": 1,
            "status": 200,
            "outcome": "ok",
            "ttfb_ms": brief.ttfb_ms,
            "duration_ms": brief.duration_ms,
            "input_tokens": read,
            "output_tokens": brief.usage.output,
            "cost_nanos": brief.cost_nanos,
            "key_id": self.standing.key_id,
            "project": self.standing.project,
        }


def wants_of(document: Mapping[str, Any]) -> str | None:
    """A plain answer, a stream, or one that tells its usage; None where that takes a closer look."""
    if not document.get("stream"):
        return "plain"
    if "stream_options" not in document:
        return "stream"
    options = document["stream_options"]
    return "stream and usage" if options.__class__ is dict and options.get("include_usage") is True else None


def kind_of(visitor: Visitor, surface: Surface, model: str, shape: ir.Shape, wants: str) -> Hashable:
    """Requests of one kind differ in their texts alone."""
    return visitor, surface, model, shape.needs, shape.max_tokens, shape.n, shape.cache_write, wants


def learn(call: Call, opening: Opening, tally: MakesTally, in_flight: Number) -> None:
    """Of an answer that was delivered whole."""
    tracks, facts = call.snapshot.tracks, call.facts
    if facts is None or call.operation is not None or not isinstance(call.request, OrdinaryRequest):
        return
    if call.track is not None or (call.stream and opening.stream is None):
        return  # it is known, or came as a document
    wants = ("stream and usage" if call.wants_usage else "stream") if call.stream else "plain"
    kind = kind_of(call.visitor, call.surface, facts.wanted[0], facts.shape, wants)
    known = tracks.get(kind)
    if known is not None and call.permit is not None and known.standing is call.permit.standing:
        return
    if (track := _track_of(call, opening, facts, tally, in_flight)) is None:
        return
    if len(tracks) >= MOST:
        tracks.clear()
    tracks[kind] = track
    call.snapshot.settings.clear()  # they lead to the one before


def _track_of(call: Call, opening: Opening, facts: Facts, tally: MakesTally, in_flight: Number) -> Track | None:
    plan, permit, snapshot, prepared = call.plan, call.permit, call.snapshot, opening.prepared
    upstream, timeouts = snapshot.upstreams[opening.pick.candidate.provider], prepared.outgoing.timeouts
    if plan is None or permit is None or permit.model is not None or opening.credential.index not in (None, 0):
        return None
    if not isinstance(upstream, LeanUpstream) or upstream.goes_plain or not isinstance(call.answer, LeanAnswer):
        return None
    if timeouts.min_rate or not _is_by_name_alone(call, facts) or not (_passes(prepared) or _is_put(call, prepared)):
        return None
    if (timeouts.commit_after != OFF) if call.stream else (timeouts.answer == OFF):
        return None
    kept = snapshot.world.memo.kept(facts)
    if (
        kept is None
        or kept.plan.chain != plan.chain
        or plan.chain[0] != opening.pick
        or len(call.decision.attempts) > 1
    ):
        return None
    candidate, info, server = opening.pick.candidate, opening.pick.info, snapshot.table.server
    output = billing.output_reserved(opening.pick, facts, server.reserve_output)
    priced = info.price is not None and info.price.output is not None
    line = worst_case_line(info.price, output if priced else 0, facts.shape.cache_write)
    fallback, types = call.decision.fallback_used, _content_types(call, opening)
    if types is None or (permit.standing.budgeted and line is None):
        return None  # nothing that one line could tell
    return Track(
        visitor=call.visitor,
        surface=call.surface,
        standing=permit.standing,
        facts=_without_words(facts),
        plan=kept.plan,
        requested=call.decision.requested,
        window=kept.window,
        most=facts.shape.max_tokens or 0,
        longest=server.max_body,
        candidate=candidate,
        credential=opening.credential,
        upstream=upstream,
        head=upstream.head_of(prepared.outgoing),
        due=timeouts.answer,
        check=prepared.dialect.check_answer,
        price=info.price,
        price_source=info.price_source,
        line=line if permit.standing.budgeted else None,
        output=output,
        writing=billing.writing_reserved(call, facts),
        fallback=fallback,
        in_flight=in_flight,
        tally=tally(call.surface.name, candidate.model, candidate.provider, plan.intent, call.stream),
        times=snapshot.world.latencies.notes(candidate, whole=not call.stream),
        letterhead=_letterhead(call, candidate, types[1], permit.standing, fallback=fallback),
        content_type=types[0],
        wants_usage=call.wants_usage,
        prefix=call.prefix,
        revision=snapshot.table.revision,
        lifetime=snapshot.table.routing.affinity,
        streamed=with_body(prepared, b"") if call.stream else None,
        hop=None if prepared.native else Hop(call.dialect, prepared.dialect, target_of(opening.pick)),
    )


def _letterhead(
    call: Call, candidate: Candidate, content_type: str, standing: Standing, *, fallback: bool
) -> Letterhead:
    stock = stock_of(call, candidate, content_type, fallback=fallback)
    kind_line = "" if content_type in OWN_TYPES else f"Content-Type: {content_type}\r\n"
    return Letterhead(stock, kind_line, call.surface.dialect, standing.meters, streamed=call.stream)


def _content_types(call: Call, opening: Opening) -> tuple[str, str] | None:
    """The provider's and the client's; None for a stream of a provider that says something else."""
    if not call.stream:
        return JSON, JSON
    theirs = opening.headers.get("content-type", "")
    if content_type_of(opening.headers) != EVENTS or theirs != printable(theirs):
        return None
    return theirs, theirs if opening.prepared.native else SSE


def _without_words(facts: Facts) -> Facts:
    return evolve(facts, shape=evolve(facts.shape, turns=(), system=""), conversation=None)


def _is_by_name_alone(call: Call, facts: Facts) -> bool:
    """Neither a header nor a member of ours, nor a key that was brought, has a say in who answers."""
    visitor = call.visitor
    return (
        not visitor.steers
        and not visitor.hops
        and not call.byok
        and not call.locked
        and not call.lost
        and len(facts.wanted) == 1
        and facts.preferences is NO_PREFERENCES
        and facts.industry is None
    )


def _is_put(call: Call, prepared: Prepared) -> bool:
    """The request was put into other words, none of which got lost or went into a header."""
    if prepared.native or prepared.dropped or prepared.dialect.runs_at is not None:
        return False
    return any(way.headers is prepared.outgoing.headers for way in call.snapshot.ways.values())


def _passes(prepared: Prepared) -> bool:
    """Request and answer pass as they are, but for the model's name."""
    dialect = prepared.dialect
    return (
        prepared.native
        and isinstance(dialect, Dialect)
        and prepared.operation is None
        and dialect.mend_request is None
        and dialect.mend_answer is None
        and dialect.mend_frame is None
        and dialect.runs_at is None
        and not prepared.dropped
    )
