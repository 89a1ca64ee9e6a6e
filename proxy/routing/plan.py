"""From facts to a plan: an ordered chain, why it is so, and what was dropped at which step.

    expand -> policy -> needs -> credential -> price -> order -> health -> affinity

Each step is a function of its own, in that order, and says for each candidate that it drops why. A plan with an
empty chain carries the refusal that the client gets; it is a plan all the same, so headers and the record can show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from attrs import define, field, frozen

from proxy import errors
from proxy.catalog import ModelInfo
from proxy.errors import GatewayError
from proxy.routing.classifier import Classified
from proxy.routing.expansion import Expansion
from proxy.routing.facts import Ceiling, Facts
from proxy.routing.names import Candidate
from proxy.routing.rules import first_match
from proxy.routing.strategies import SORTS
from proxy.routing.table import Provider
from proxy.routing.world import Dice, Pick, World, most_output, worst_nanos

MOST = 16  # candidates of one chain
NANOS = 1_000_000_000


@frozen
class Dropped:
    candidate: Candidate
    step: str  # expand, policy, needs, credential, price, cap
    reason: str


@frozen
class Plan:
    """`first` is the first candidate after expansion and sort, however it fared: an answer from any other is a
    fallback.

    `cooling` is 0, or the seconds until the chain's first recovers where every candidate is cooling.
    """

    requested: str
    intent: str
    reason: str
    chain: tuple[Pick, ...]
    first: Candidate | None
    dropped: tuple[Dropped, ...]
    facts: Facts = field(repr=False)
    config: str = ""
    klass: Classified | None = None
    rule: str | None = None
    profile: str | None = None
    cooling: float = 0.0
    refusal: GatewayError | None = None
    unknown: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The form of `POST /v1/route`, `explain --json` and the records. Built off the request's path."""
        return {
            "requested": self.requested,
            "intent": self.intent,
            "class": _class_json(self.klass),
            "reason": self.reason,
            "rule": self.rule,
            "profile": self.profile,
            "candidates": [_pick_json(pick, self.facts) for pick in self.chain],
            "dropped": [_dropped_json(dropped) for dropped in self.dropped]
            + [{"model": name, "provider": None, "step": "expand", "reason": why} for name, why in self.unknown],
            "needs": sorted(self.facts.shape.needs),
            "tokens_estimated": self.facts.tokens,
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


@define
class _Draft:
    """The chain on its way through the steps."""

    facts: Facts
    world: World
    picks: list[Pick]
    dropped: list[Dropped] = field(factory=list)

    def keep(self, step: str, why_not: Callable[[Pick], str | None]) -> None:
        """Drops each pick for which `why_not` has a reason."""
        kept = []
        for pick in self.picks:
            reason = why_not(pick)
            if reason is None:
                kept.append(pick)
            else:
                self.dropped.append(Dropped(pick.candidate, step, reason))
        self.picks = kept

    def provider(self, pick: Pick) -> Provider:
        return self.world.table.providers[pick.candidate.provider]


def resolve(facts: Facts, world: World, dice: Dice, now: float) -> Plan:
    """Pure in its arguments. An empty chain is a plan with a refusal; InvalidRequest is raised for a malformed
    entry."""
    table = world.table
    rule = first_match(facts, world) if table.rules else None
    expansion = Expansion(facts, world, dice, now)
    expansion.expand(rule.use if rule else facts.wanted)
    draft = _Draft(facts, world, _unique(expansion.picks))
    whole = _sorted(draft.picks, facts, world, now)  # before anything is dropped: its head tells what a fallback is
    reasons = list(expansion.reasons)
    if rule is not None:
        reasons.insert(0, f"rule {rule.name}")
    if facts.sort is not None:
        reasons.append(f"sorted by {facts.sort}")
    for step in (_policy, _needs, _credential, _price):
        step(draft)
    draft.picks = _sorted(draft.picks, facts, world, now)
    _fallbacks(draft)
    first = _first(whole, draft.dropped)
    cooling = _health(draft, now)
    if not cooling and _pin(draft, now):
        reasons.append("stays where the conversation's cache is warm")
    draft.keep("cap", _beyond_cap(draft))
    return Plan(
        requested=facts.requested,
        intent=expansion.intent or "unknown",
        reason="; ".join(reasons) or "nothing resolved",
        chain=tuple(draft.picks),
        first=first,
        dropped=tuple(draft.dropped),
        facts=facts,
        config=table.revision,
        klass=expansion.klass,
        rule=rule.name if rule else None,
        profile=expansion.profile,
        cooling=cooling,
        refusal=None if draft.picks else _refusal(draft, expansion),
        unknown=tuple(expansion.unknown),
    )


def _unique(picks: list[Pick]) -> list[Pick]:
    return list({(pick.candidate.provider, pick.candidate.model): pick for pick in reversed(picks)}.values())[::-1]


def _first(whole: list[Pick], dropped: list[Dropped]) -> Candidate | None:
    """A strategy chooses among those that can serve, so what it merely looked at and dropped was never the first."""
    gone = {drop.candidate for drop in dropped}
    return next((pick.candidate for pick in whole if pick.listed or pick.candidate not in gone), None)


# -- the steps ---------------------------------------------------------------------------------------------------


def _policy(draft: _Draft) -> None:
    wishes = draft.facts.preferences

    def why_not(pick: Pick) -> str | None:
        name = pick.candidate.provider
        if wishes.only and name not in wishes.only:
            return "not among provider.only"
        if name in wishes.ignore:
            return "among provider.ignore"
        return None if draft.provider(pick).enabled else "the provider is disabled"

    if wishes.only or wishes.ignore or not all(p.enabled for p in draft.world.table.providers.values()):
        draft.keep("policy", why_not)


def _needs(draft: _Draft) -> None:
    facts = draft.facts
    asked = facts.shape.max_tokens or 0

    def why_not(pick: Pick) -> str | None:
        info = pick.info
        if facts.endpoint not in draft.provider(pick).endpoints:
            return f"the provider does not serve {facts.endpoint}"
        if info.capabilities is not None and (lacks := facts.shape.needs - info.capabilities):
            return f"lacks {', '.join(sorted(lacks))}"
        if info.context is not None and facts.tokens + asked > info.context:
            return f"needs {facts.tokens + asked} tokens, the window holds {info.context}"
        if info.id in draft.world.models.gone:
            return "its provider no longer lists it"
        return None

    draft.keep("needs", why_not)


def _credential(draft: _Draft) -> None:
    byok = draft.facts.byok

    def why_not(pick: Pick) -> str | None:
        provider = draft.provider(pick)
        if provider.missing:
            return provider.missing
        return None if provider.keyless or provider.credentials or provider.name in byok else provider.missing_key

    draft.keep("credential", why_not)


def _price(draft: _Draft) -> None:
    facts = draft.facts
    if facts.ceiling is None and not any(pick.max_price is not None for pick in draft.picks):
        return

    def why_not(pick: Pick) -> str | None:
        ceiling = facts.ceiling
        totals = [usd for usd in (pick.max_price, ceiling.total if ceiling else None) if usd is not None]
        if totals and (reason := _too_dear(pick.info, facts, min(totals))):
            return reason
        return _rate_too_dear(pick.info, ceiling) if ceiling else None

    draft.keep("price", why_not)


def _too_dear(info: ModelInfo, facts: Facts, usd: Decimal) -> str | None:
    nanos = worst_nanos(info, facts)
    if nanos is None:
        return f"its price is unknown, and the ceiling is {usd} USD"
    if nanos <= usd * NANOS:
        return None
    assumed = (
        "" if facts.shape.max_tokens is not None else f" (max_tokens is not given: {most_output(info, facts)} assumed)"
    )
    return f"may cost {Decimal(nanos) / NANOS:f} USD, the ceiling is {usd}{assumed}"


def _rate_too_dear(info: ModelInfo, ceiling: Ceiling) -> str | None:
    for word, limit, rate in (
        ("prompt", ceiling.prompt, info.price.input if info.price else None),
        ("completion", ceiling.completion, info.price.output if info.price else None),
    ):
        if limit is None:
            continue
        if rate is None:
            return f"its {word} price is unknown, and the ceiling is {limit} USD per million tokens"
        if rate > limit * 1_000_000:
            return f"costs {Decimal(rate) / 1_000_000:f} USD per million {word} tokens, the ceiling is {limit}"
    return None


def _sorted(picks: list[Pick], facts: Facts, world: World, now: float) -> list[Pick]:
    if facts.sort is not None:
        picks = SORTS[facts.sort](picks, facts, world, now)
    if order := facts.preferences.order:
        rank = {name: position for position, name in enumerate(order)}
        picks = sorted(picks, key=lambda pick: rank.get(pick.candidate.provider, len(rank)))
    return picks


def _fallbacks(draft: _Draft) -> None:
    if not draft.facts.preferences.allow_fallbacks and draft.picks:
        head = draft.picks[0]
        draft.keep("policy", lambda pick: None if pick is head else "provider.allow_fallbacks is false")


def _health(draft: _Draft, now: float) -> float:
    """Cooling candidates go last, not away. Where all cool, the one that recovers first leads."""
    waits = {id(pick): _wait(draft, pick, now) for pick in draft.picks}
    if not any(waits.values()):
        return 0.0
    fit = [pick for pick in draft.picks if not waits[id(pick)]]
    cooling = [pick for pick in draft.picks if waits[id(pick)]]
    if not fit:
        cooling.sort(key=lambda pick: waits[id(pick)])
    draft.picks = fit + cooling
    return 0.0 if fit else waits[id(cooling[0])]


def _wait(draft: _Draft, pick: Pick, now: float) -> float:
    health, provider = draft.world.health, draft.provider(pick)
    own = health.cooling(pick.candidate, now)
    if provider.credentials and provider.name not in draft.facts.byok:
        keys = min(health.key_cooling(provider.name, index, now) for index in range(len(provider.credentials)))
        return max(own, keys)
    return own


def _pin(draft: _Draft, now: float) -> bool:
    """Moves the conversation's pinned candidate to the front. A new conversation has no claim on another's cache."""
    facts, lifetime = draft.facts, draft.world.table.routing.affinity
    if facts.conversation is None or not facts.continues or lifetime == float("inf") or len(draft.picks) < 2:
        return False
    pinned = draft.world.affinity.pinned(facts.conversation, now, lifetime)
    for position, pick in enumerate(draft.picks):
        if pick.candidate == pinned and position and not _wait(draft, pick, now):
            draft.picks.insert(0, draft.picks.pop(position))
            return True
    return False


def _beyond_cap(draft: _Draft) -> Callable[[Pick], str | None]:
    places: Iterator[int] = iter(range(len(draft.picks)))
    return lambda pick: None if next(places) < MOST else f"a chain holds {MOST} candidates"


# -- nothing left ------------------------------------------------------------------------------------------------


def _refusal(draft: _Draft, expansion: Expansion) -> GatewayError:
    """The error of the step that emptied the chain, with every candidate's reason."""
    if not draft.dropped:
        if expansion.unknown:
            return errors.UnknownModel(expansion.not_found(), param="model")
        return errors.UnknownModel(f"{draft.facts.requested!r} resolves to no model of this gateway.", param="model")
    step = draft.dropped[-1].step
    listed = "; ".join(
        f"{drop.candidate.model} ({drop.candidate.provider}): {drop.reason}" for drop in draft.dropped[:MOST]
    )
    more = len(draft.dropped) - MOST
    reasons = listed + (f"; and {more} more" if more > 0 else "")
    kind, sentence = REFUSALS[step]
    return kind(f"{sentence} {reasons}.", param="model")


REFUSALS: dict[str, tuple[type[GatewayError], str]] = {
    "policy": (errors.NotAllowed, "No candidate is allowed:"),
    "needs": (errors.NoCapableCandidate, "No candidate can handle this request:"),
    "credential": (errors.NotConfigured, "No candidate is configured; retrying will not help:"),
    "price": (errors.PriceCeiling, "Every candidate may cost more than the ceiling:"),
}
