"""The steps of a plan that drop candidates: expand, policy, needs, credential, price.

Each looks at the request once and gives a judge of candidates, or None where it has no say. A judge gives the reason
against a candidate, in words for the client.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from proxy.catalog import ModelInfo
from proxy.dialects import UPSTREAMS
from proxy.routing import directive
from proxy.routing.facts import Ceiling, Facts
from proxy.routing.names import DEEPEST, is_known
from proxy.routing.table import Provider
from proxy.routing.world import NANOS, Pick, World, most_output, worst_nanos

Judge = Callable[[Pick], str | None]  # why not, or None


def _expand(facts: Facts, world: World) -> Judge | None:
    gone = world.models.gone
    return (lambda pick: "its provider does not list it" if pick.info.id in gone else None) if gone else None


def _policy(facts: Facts, world: World) -> Judge | None:
    wishes, providers = facts.preferences, world.table.providers
    project = world.table.projects.get(facts.project) if facts.project is not None else None
    if facts.project is not None and project is None:  # only of a recorded request: no key of it is let in
        return lambda pick: f"the table has no project {facts.project}"
    enabled = all(provider.enabled for provider in providers.values())
    if not wishes.only and not wishes.ignore and enabled and project is None and not facts.priced_only:
        return None

    def judge(pick: Pick) -> str | None:
        name = pick.candidate.provider
        if wishes.only and name not in wishes.only:
            return "not among provider.only"
        if name in wishes.ignore:
            return "among provider.ignore"
        if not providers[name].enabled:
            return "the provider is disabled"
        if facts.priced_only and pick.info.price is None and name not in facts.byok:
            return "its price is unknown, and a budget counts what has a price"
        if project is None:
            return None
        return project.objection(providers[name], world.models.names(pick.info))

    return judge


def _needs(facts: Facts, world: World) -> Judge:
    providers = world.table.providers
    needs, endpoint = facts.shape.needs, facts.endpoint
    tokens = facts.tokens + (facts.shape.max_tokens or 0)
    longest = facts.shape.max_tokens
    alone = _named_alone(facts, world)
    # Elsewhere the window is that of each input by itself; and what is too long for it is counted all the same.
    must_fit = endpoint == "chat" and facts.surface != "count_tokens"

    def judge(pick: Pick) -> str | None:
        info = pick.info
        if reason := _cannot_serve(providers[pick.candidate.provider], facts):
            return reason
        waived = (
            info.id == alone
        )  # a guess is no reason to refuse a name; and its provider says best how much is too much
        had = None if waived and info.guessed else info.capabilities
        if needs and had is not None and (lacks := needs - had):
            return f"lacks {', '.join(sorted(lacks))}"
        window = None if waived and info.context_guessed else info.context
        if must_fit and window is not None and tokens > window:
            return f"needs {tokens} tokens, the window holds {window}"
        if longest and not waived and info.max_output is not None and longest > info.max_output:
            return f"asked for up to {longest} tokens, it writes {info.max_output}"
        return None

    return judge


def _named_alone(facts: Facts, world: World) -> str | None:
    """The id of the model that a request names and no other, be it by an alias or with a suffix."""
    known = is_known(world.table, world.models.listed)
    names = facts.wanted
    for _ in range(DEEPEST + 1):
        if len(names) != 1 or (entry := directive.parse(names[0], known)).kind != "name":
            return None
        meaning = world.models.meaning(entry.name)
        if meaning is None or meaning.by == "profile":
            return None
        if meaning.info is not None:
            return meaning.info.id
        names = meaning.targets
    return None


def _cannot_serve(provider: Provider, facts: Facts) -> str | None:
    """A conversation is translated where need be; of the other endpoints only bytes pass."""
    endpoint = facts.endpoint
    if endpoint not in provider.endpoints:
        return f"the provider does not serve {endpoint}"
    if endpoint == "chat" or any(UPSTREAMS[name].speaks == facts.dialect for name in provider.dialects):
        return None
    return f"the provider has no {endpoint} endpoint in a dialect this surface speaks"


def _credential(facts: Facts, world: World) -> Judge:
    providers, byok = world.table.providers, facts.byok

    def judge(pick: Pick) -> str | None:
        provider = providers[pick.candidate.provider]
        if provider.missing:
            return provider.missing
        if provider.name in facts.locked:
            return "the key that the project stored for it cannot be read"
        return None if provider.keyless or provider.credentials or provider.name in byok else provider.missing_key

    return judge


def _price(facts: Facts, world: World) -> Judge:
    ceiling = facts.ceiling
    total = ceiling.total if ceiling else None

    def judge(pick: Pick) -> str | None:
        if ceiling is None and pick.max_price is None:
            return None
        default = None if pick.asked_price and facts.default_ceiling else total
        totals = [usd for usd in (pick.max_price, default) if usd is not None]
        if totals and (reason := _too_dear(pick.info, facts, min(totals))):
            return reason
        return _rate_too_dear(pick.info, ceiling) if ceiling else None

    return judge


def _too_dear(info: ModelInfo, facts: Facts, usd: Decimal) -> str | None:
    nanos = worst_nanos(info, facts)
    if nanos is None:
        return f"its price is unknown, and the ceiling is {usd:f} USD"
    if nanos <= usd * NANOS:
        return None
    assumed = (
        "" if facts.shape.max_tokens is not None else f" (max_tokens is not given: {most_output(info, facts)} assumed)"
    )
    return f"may cost {Decimal(nanos) / NANOS:f} USD, the ceiling is {usd:f}{assumed}"


def _rate_too_dear(info: ModelInfo, ceiling: Ceiling) -> str | None:
    for word, limit, rate in (
        ("prompt", ceiling.prompt, info.price.input if info.price else None),
        ("completion", ceiling.completion, info.price.output if info.price else None),
    ):
        if limit is None:
            continue
        if rate is None:
            return f"its {word} price is unknown, and the ceiling is {limit:f} USD per million tokens"
        if rate > limit * 1_000_000:
            return f"costs {Decimal(rate) / 1_000_000:f} USD per million {word} tokens, the ceiling is {limit:f}"
    return None


STEPS: dict[str, Callable[[Facts, World], Judge | None]] = {
    "expand": _expand,
    "policy": _policy,
    "needs": _needs,
    "credential": _credential,
    "price": _price,
}
