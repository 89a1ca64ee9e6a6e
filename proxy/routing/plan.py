"""From facts to a plan: an ordered chain, why it is so, and what was dropped at which step.

    expand -> policy -> needs -> credential -> price -> order -> health -> affinity

Each step is a function of its own, and says for each candidate that it drops why. The order is known before anything is
dropped, so candidates are judged from its head, one after the other, until the chain is full: a strategy over hundreds
of models judges a few. A plan with an empty chain carries the refusal that the client gets; it is a plan all the same,
so headers and the record can show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from attrs import asdict, evolve, field

from proxy import errors
from proxy.errors import GatewayError
from proxy.record import record
from proxy.routing.case import Case
from proxy.routing.classifier import Classified
from proxy.routing.directive import LONGEST, shown
from proxy.routing.draft import MOST, Draft, Dropped, Waiting
from proxy.routing.expansion import Expansion
from proxy.routing.facts import NO_PREFERENCES, Facts
from proxy.routing.names import Candidate
from proxy.routing.rules import first_match
from proxy.routing.steps import STEPS
from proxy.routing.strategies import SORTS
from proxy.routing.table import OFF, Table
from proxy.routing.world import NANOS, Dice, Pick, World, worst_nanos
from proxy.secret import hide_keys

MOST_TOLD = 64  # of those dropped; a count stands for the others
STEADY_STEPS = frozenset({"expand", "policy", "credential"})  # whom these drop, they drop for everybody who asks alike
MOST_DRAWS = 8  # recorded of one plan; only a shuffle among many equals throws more


@record
class Plan:
    """`first` is the first candidate after expansion and sort, however it fared: an answer from any other is a
    fallback. `leads` is who leads by table and request alone, before health and affinity have their say. `draws` are
    the dice as they fell: with them the same world makes the same plan again.

    `cooling` is 0, or the seconds until the chain's first recovers where every candidate is cooling.
    """

    requested: str
    intent: str
    reason: str
    chain: tuple[Pick, ...]
    first: Candidate | None
    judged: tuple[Dropped, ...]  # those that a step dropped; `dropped` has them all
    facts: Facts = field(repr=False)
    config: str = ""
    klass: Classified | None = None
    rule: str | None = None
    profile: str | None = None
    cooling: float = 0.0
    refusal: GatewayError | None = None
    unknown: tuple[tuple[str, str], ...] = ()
    leads: Candidate | None = None
    draws: tuple[float, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    pinned: Candidate | None = None  # leads because the conversation's cache is warm there
    beyond: tuple[Pick, ...] = ()  # never judged, or cut off: the chain was full before them
    told: dict[Any, Any] = field(factory=dict, eq=False, repr=False)  # how it was put into headers; see `respond`

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Built when asked for: behind a strategy there may be hundreds for whom the chain was full."""
        serving = {pick.candidate for pick in self.chain} | {gone.candidate for gone in self.judged}
        cut = dict.fromkeys(pick.candidate for pick in self.beyond if pick.candidate not in serving)
        return (*self.judged, *(Dropped(candidate, "cap", f"a chain holds {MOST} candidates") for candidate in cut))

    @property
    def emptied_by(self) -> str | None:
        """The step that left nobody; None for a plan with a chain."""
        if self.chain:
            return None
        return _last_step(self.judged)

    def as_json(self) -> dict[str, Any]:
        """The form of `POST /v1/route`, `explain --json` and the records. Built off the request's path."""
        dropped = [_dropped_json(dropped) for dropped in self.dropped] + [
            {"model": name, "provider": None, "step": "expand", "reason": why} for name, why in self.unknown
        ]
        return {
            "requested": self.requested,
            "intent": self.intent,
            "class": _class_json(self.klass),
            "reason": self.reason,
            "rule": self.rule,
            "profile": self.profile,
            "candidates": [_pick_json(pick, self.facts) for pick in self.chain],
            "leads": None if self.leads is None else asdict(self.leads),
            "dropped": dropped[:MOST_TOLD],
            "dropped_more": len(dropped[MOST_TOLD:]),
            "waiting": [_waiting_json(waiting) for waiting in self.waiting],
            "cooling": round(self.cooling, 3),
            "pinned": None if self.pinned is None else asdict(self.pinned),
            "needs": sorted(self.facts.shape.needs),
            "tokens_estimated": self.facts.tokens,
            "draws": list(self.draws[:MOST_DRAWS]),
            "config": self.config,
        }


def _class_json(klass: Classified | None) -> dict[str, Any] | None:
    if klass is None:
        return None
    return {
        "label": klass.label,
        "margin": round(klass.margin, 4),
        "features": [[name, round(weight, 3)] for name, weight in klass.features],
        "fallback": klass.fallback,
        "kept": klass.kept,
    }


def _pick_json(pick: Pick, facts: Facts) -> dict[str, Any]:
    nanos = worst_nanos(pick.info, facts)
    return {
        "model": pick.candidate.model,
        "provider": pick.candidate.provider,
        "native": pick.candidate.native,
        "cost_max_usd": None if nanos is None else nanos / NANOS,
        "price_source": pick.info.price_source,
    }


def _dropped_json(dropped: Dropped) -> dict[str, Any]:
    return {
        "model": dropped.candidate.model,
        "provider": dropped.candidate.provider,
        "step": dropped.step,
        "reason": dropped.reason,
    }


def _waiting_json(waiting: Waiting) -> dict[str, Any]:
    return {
        "model": waiting.candidate.model,
        "provider": waiting.candidate.provider,
        "seconds": round(waiting.seconds, 3),
        "reason": waiting.reason,
    }


def resolve(facts: Facts, world: World, dice: Dice, now: float) -> Plan:
    """Pure in its arguments, but for what the world's memo saves. An empty chain is a plan with a refusal;
    InvalidRequest is raised for a malformed entry."""
    if (plan := _remembered(facts, world, now)) is not None:
        return plan
    table = world.table
    facts = _with_known_providers(facts, table)
    draws: list[float] = []
    case = Case(facts, world, _noting(dice, draws), now)
    rule = first_match(case) if table.rules else None
    expansion = Expansion(case)
    expansion.expand(rule.use if rule else facts.wanted)
    if expansion.unknown:
        facts = evolve(facts, wanted=tuple(map(hide_keys, facts.wanted)))  # for the record
    order = _sorted(expansion.picks, case)
    reasons = list(expansion.reasons)
    if rule is not None:
        reasons.insert(0, f"rule {rule.name}")
    if facts.sort is not None:
        reasons.append(f"{'each entry ' if facts.partitioned else ''}sorted by {facts.sort}")
    draft = Draft(case, byok_alone=_stays_byok(case, expansion))
    pinned = draft.pinned()
    draft.sift(order, pinned)
    draft.drop_fallbacks()
    first, leads = _first(order, draft.picks), draft.picks[0].candidate if draft.picks else None
    cooling = draft.put_resting_last()
    if leads is not None and not cooling and draft.picks[0].candidate != leads:
        reasons.append(f"{leads.model} is resting")
    warm = pinned if not cooling and draft.lead_with(pinned) else None
    if warm is not None and warm != leads:
        reasons.append("stays where the conversation's cache is warm")
    plan = Plan(
        requested=facts.requested,
        intent=expansion.intent or "unknown",
        reason="; ".join(reasons) or "nothing resolved",
        chain=tuple(draft.picks[:MOST]),
        first=first,
        judged=tuple(draft.dropped),
        facts=facts,
        config=table.revision,
        klass=case.klass,
        rule=rule.name if rule else None,
        profile=expansion.profile,
        cooling=cooling,
        refusal=None if draft.picks else _refusal(draft, expansion),
        unknown=tuple(expansion.unknown),
        leads=leads,
        draws=tuple(draws),
        waiting=tuple(draft.waiting),
        pinned=warm,
        beyond=(*draft.picks[MOST:], *draft.beyond),
    )
    if expansion.steady and not table.rules and plan.chain and world.health.is_quiet(now):
        _remember(plan, world)
    return plan


def _remember(plan: Plan, world: World) -> None:
    facts = plan.facts
    if plan.unknown or plan.beyond or plan.draws or plan.klass is not None or plan.pinned is not None:
        return
    if any(drop.step not in STEADY_STEPS for drop in plan.judged):
        return
    windows = [pick.info.context for pick in plan.chain if pick.info.context is not None]
    world.memo.keep(facts, evolve(plan, told={}), min(windows, default=None))


def _remembered(facts: Facts, world: World, now: float) -> Plan | None:
    """The plan of an earlier request for the same, with these facts in it. A pin that leads elsewhere is for the whole
    way."""
    plan: Plan | None = world.memo.find(facts)
    if plan is None or not world.health.is_quiet(now):
        return None
    pinned = None
    if facts.conversation is not None and facts.continues and (lifetime := world.table.routing.affinity) != OFF:
        pinned = world.affinity.pinned(facts.conversation, now, lifetime)
        if pinned is not None and pinned != plan.chain[0].candidate:
            return None
    return recalled(plan, facts, pinned)


def recalled(plan: Plan, facts: Facts, pinned: Candidate | None) -> Plan:
    """A plan that was kept, for another request."""
    return Plan(
        requested=plan.requested,
        intent=plan.intent,
        reason=plan.reason,
        chain=plan.chain,
        first=plan.first,
        judged=plan.judged,
        facts=facts,
        config=plan.config,
        leads=plan.leads,
        pinned=pinned,
        told=plan.told,
    )


def _with_known_providers(facts: Facts, table: Table) -> Facts:
    """The caller's preferences with the table's own spelling, as OpenRouter takes any case. Raises InvalidRequest: a
    provider that is spelt wrong would be ignored, or would ignore nobody."""
    wishes = facts.preferences
    if wishes == NO_PREFERENCES:
        return facts
    spelt = {name.lower(): name for name in table.providers}

    def known(key: str, names: Iterable[str]) -> tuple[str, ...]:
        for name in names:
            if name.lower() not in spelt:
                near = get_close_matches(name[:LONGEST].lower(), table.providers, n=3, cutoff=0.4)
                hint = f"nearest: {', '.join(near)}" if near else f"known are {', '.join(table.providers)}"
                raise errors.InvalidRequest(
                    f"provider.{key}: no provider is called {shown(name)}; {hint}.", param=f"provider.{key}"
                )
        return tuple(spelt[name.lower()] if name not in table.providers else name for name in names)

    order, only, ignore = known("order", wishes.order), known("only", wishes.only), known("ignore", wishes.ignore)
    return evolve(facts, preferences=evolve(wishes, order=order, only=only, ignore=ignore))


def _noting(dice: Dice, draws: list[float]) -> Dice:
    def throw() -> float:
        draws.append(drawn := dice())
        return drawn

    return throw


def _sorted(picks: list[Pick], case: Case) -> list[Pick]:
    """Stable, and by each candidate alone: dropping some changes nothing between the others. By latency it is decided
    who leads, and those that are dropped have no say in it."""
    facts = case.facts
    if facts.sort is not None and not facts.partitioned:
        picks = SORTS[facts.sort](picks, case)
    if order := facts.preferences.order:
        rank = {name: position for position, name in enumerate(dict.fromkeys(order))}
        picks = sorted(picks, key=lambda pick: rank.get(pick.candidate.provider, len(rank)))
    return picks


def _first(order: Iterable[Pick], kept: Sequence[Pick]) -> Candidate | None:
    """A strategy chooses among those that can serve, so what it merely looked at and dropped was never the first."""
    head = kept[0] if kept else None
    return next((pick.candidate for pick in order if pick.listed or pick is head), None)


def _stays_byok(case: Case, expansion: Expansion) -> bool:
    """What is to be asked with the caller's own key, or its project's, does not go on at the house's expense, whether
    that candidate fails, rests or is passed over; unless the profile says so."""
    profile = case.world.table.profiles.get(expansion.profile or "")
    return bool(case.facts.byok) and not (profile is not None and profile.byok_fallback)


# -- nothing left ------------------------------------------------------------------------------------------------


def _refusal(draft: Draft, expansion: Expansion) -> GatewayError:
    """The error of the step that emptied the chain, with every candidate's reason."""
    if not draft.dropped:
        if expansion.unknown:
            return errors.UnknownModel(expansion.not_found(), param="model")
        facts = draft.case.facts
        lost = f"{facts.requested!r} resolves to no model of this gateway"
        if facts.endpoint != "chat":
            lost += f" that is known to serve {facts.endpoint}; name the model itself"
        return errors.UnknownModel(f"{lost}.", param="model")
    step = _last_step(draft.dropped)
    told = [f"{drop.candidate.model} ({drop.candidate.provider}): {drop.reason}" for drop in draft.dropped]
    told += [f"{shown(name)}: {why}" for name, why in expansion.unknown]
    more = len(told) - MOST
    reasons = "; ".join(told[:MOST]) + (f"; and {more} more" if more > 0 else "")
    kind, sentence = REFUSALS[step]
    told_near = f" Nearest: {', '.join(expansion.nearest(draft.case.facts.wanted[0]))}." if step == "expand" else ""
    return kind(f"{sentence} {reasons}.{told_near}", param="model")


def _last_step(dropped: Iterable[Dropped]) -> str:
    """The step that emptied the chain: the last one at which somebody fell."""
    fallen = {drop.step for drop in dropped}
    return next((step for step in reversed(STEPS) if step in fallen), "expand")


REFUSALS: dict[str, tuple[type[GatewayError], str]] = {
    "expand": (errors.UnknownModel, "No candidate exists:"),
    "policy": (errors.NotAllowed, "No candidate is allowed:"),
    "needs": (errors.NoCapableCandidate, "No candidate can handle this request:"),
    "credential": (errors.NotConfigured, "No candidate is configured; retrying will not help:"),
    "price": (errors.PriceCeiling, "Every candidate may cost more than the ceiling:"),
}
