"""What requests of one kind go by, once one of the kind has been served: all that their bodies have no say in.

`track_of` looks at a request that went the way of all and was answered well, and says what the next one of its kind can
go by; None where a body, a clock or dice had a say in that. Tracks belong to a snapshot, so a reload begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from attrs import define, field

from proxy import ir
from proxy.accounts.books import Standing
from proxy.catalog.price import PICO_PER_NANO, Price, worst_case_line
from proxy.dialects.dialect import Dialect
from proxy.metrics import Metrics, Number
from proxy.routing.facts import NO_PREFERENCES, Facts
from proxy.routing.plan import Plan
from proxy.routing.world import Pick
from proxy.server import billing
from proxy.server.attempt import Opening
from proxy.server.call import Call, Surface
from proxy.server.credentials import Credential
from proxy.server.downstream import LeanAnswer, Stock
from proxy.server.heading import stock_of
from proxy.server.ordinary import OrdinaryRequest
from proxy.server.outgoing import Prepared
from proxy.server.respond import JSON
from proxy.server.upstream import LeanUpstream
from proxy.server.visitor import Visitor

MOST = 512  # tracks of a snapshot


@define(eq=False)
class Track:
    """`line`: the worst case in pico-USD, for each token that is read and besides; None where no budget asks for it."""

    facts: Facts = field(repr=False)  # of the request that it was learnt from
    standing: Standing = field(repr=False)
    plan: Plan = field(repr=False)
    pick: Pick
    credential: Credential = field(repr=False)
    upstream: LeanUpstream = field(repr=False)
    head: bytes = field(repr=False)  # of the provider's request, up to its length
    due: float  # seconds that an answer may take
    price: Price | None
    check: Callable[[Any], ir.Usage | None] = field(repr=False)  # the provider's answer, by its dialect
    scope: str  # of conversations
    window: int | None  # tokens that every candidate of the chain takes
    output: int  # tokens of output that are reserved of budgets
    writing: int  # and of limits
    line: tuple[int, int] | None
    in_flight: Number = field(repr=False)
    fallback: bool
    stock: Stock = field(repr=False)  # of the answer's head

    def nanos(self, tokens: int) -> int:
        """What an attempt may cost that reads so many tokens."""
        if self.line is None:
            return 0
        each, besides = self.line
        return -(-(tokens * each + besides) // PICO_PER_NANO)

    def facts_of(self, shape: ir.Shape, tokens: int, conversation: str | None, *, continues: bool) -> Facts:
        facts = self.facts
        return Facts(
            facts.surface,
            facts.dialect,
            facts.endpoint,
            facts.wanted,
            shape,
            tokens,
            headers=facts.headers,
            project=facts.project,
            conversation=conversation,
            continues=continues,
            priced_only=facts.priced_only,
        )


def kind_of(visitor: Visitor, surface: Surface, document: Mapping[str, Any], shape: ir.Shape) -> Hashable:
    """Requests of one kind differ in their texts alone."""
    return visitor, surface, document.get("model"), shape.needs, shape.max_tokens, shape.n, shape.cache_write


def learn(call: Call, opening: Opening, metrics: Metrics) -> None:
    """Of an answer that was delivered."""
    if not opening.whole or call.stream or call.operation is not None or not isinstance(call.request, OrdinaryRequest):
        return
    tracks = call.snapshot.tracks
    facts = call.facts
    assert facts is not None
    kind = kind_of(call.visitor, call.surface, {"model": facts.wanted[0]}, facts.shape)
    if kind in tracks:
        return
    track = track_of(call, opening, metrics)
    if track is not None:
        if len(tracks) >= MOST:
            tracks.clear()
        tracks[kind] = track


def track_of(call: Call, opening: Opening, metrics: Metrics) -> Track | None:
    facts, plan, permit, snapshot = call.facts, call.plan, call.permit, call.snapshot
    prepared, pick = opening.prepared, opening.pick
    upstream = snapshot.upstreams[pick.candidate.provider]
    timeouts = prepared.outgoing.timeouts
    if (
        facts is None or plan is None or permit is None or permit.model is not None
        or not isinstance(upstream, LeanUpstream) or not isinstance(call.answer, LeanAnswer)
        or not _asks_by_name_alone(call, facts) or not _passes(call, prepared)
        or timeouts.min_rate or timeouts.answer == float("inf") or upstream.goes_plain
        or opening.credential.index not in (None, 0)
    ):  # fmt: skip
        return None
    kept = snapshot.world.memo.kept(facts)
    if kept is None or kept.plan.chain != plan.chain or plan.chain[0] != pick or len(call.decision.attempts) != 1:
        return None
    price, standing = pick.info.price, permit.standing
    output = billing.output_reserved(pick, facts, snapshot.table.server.reserve_output)
    reserved = 0 if price is None or price.output is None else output
    line = worst_case_line(price, reserved, facts.shape.cache_write)
    if price is not None and standing.budgeted and line is None:
        return None  # it has steps
    fallback = call.decision.fallback_used
    return Track(
        facts=facts,
        standing=standing,
        plan=kept.plan,
        pick=pick,
        credential=opening.credential,
        upstream=upstream,
        head=upstream.head_of(prepared.outgoing),
        due=timeouts.answer,
        price=price,
        check=prepared.dialect.check_answer,
        scope="\0".join((standing.scope, *facts.wanted)),
        window=kept.window,
        output=output,
        writing=billing.writing_reserved(call, facts),
        line=line if standing.budgeted else None,
        in_flight=metrics.in_flight(pick.candidate.provider),
        fallback=fallback,
        stock=stock_of(call, pick.candidate, JSON, fallback=fallback),
    )


def _asks_by_name_alone(call: Call, facts: Facts) -> bool:
    """Neither a header nor a member of ours, nor a key that was brought, has a say in who answers."""
    visitor = call.visitor
    return (
        not visitor.steers
        and not visitor.hops
        and not call.byok
        and not call.locked
        and len(facts.wanted) == 1
        and facts.preferences is NO_PREFERENCES
        and facts.industry is None
        and not call.lost
    )


def _passes(call: Call, prepared: Prepared) -> bool:
    """Request and answer pass as they are but for the model's name."""
    dialect = prepared.dialect
    return (
        prepared.native
        and isinstance(dialect, Dialect)
        and prepared.operation is None
        and dialect.mend_request is None
        and dialect.mend_answer is None
        and dialect.runs_at is None
        and not prepared.dropped
    )
