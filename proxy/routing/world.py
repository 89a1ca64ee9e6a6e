"""All that one resolution may look at besides the request: a table, its catalog, and what was observed."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from attrs import evolve, field

from proxy.catalog import ModelInfo, worst_case_nanos
from proxy.record import frozen
from proxy.routing.affinity import Affinity
from proxy.routing.facts import Facts
from proxy.routing.health import Health
from proxy.routing.latency import Latencies
from proxy.routing.memo import Memo
from proxy.routing.models import Models
from proxy.routing.names import Candidate
from proxy.routing.table import Table

EXPECTED_OUTPUT = 512  # tokens of an answer, where the request allows as many
NANOS = 1_000_000_000  # of a USD
ASSUMED_OUTPUT = 4096  # most tokens of an answer, where neither the request nor the catalog says


@frozen
class Pick:
    """A candidate on its way through the plan. `listed`: somebody wrote its name down; else a strategy found it."""

    candidate: Candidate
    info: ModelInfo
    listed: bool = True
    max_price: Decimal | None = None  # USD, from a suffix of the entry that named it, or from a profile
    asked_price: bool = False  # it is the request's own word

    @classmethod
    def of(cls, info: ModelInfo, *, listed: bool = True) -> Pick:
        return cls(Candidate(info.id, info.provider, info.native), info, listed)

    def capped(self, usd: Decimal, *, asked: bool = False) -> Pick:
        """Every ceiling on the way to it holds, so the lowest does."""
        lowest = usd if self.max_price is None else min(usd, self.max_price)
        return evolve(self, max_price=lowest, asked_price=asked or self.asked_price)


@frozen
class World:
    """Same world, facts, dice and clock: same plan."""

    table: Table
    models: Models
    health: Health = field(factory=Health)
    latencies: Latencies = field(factory=Latencies)
    affinity: Affinity = field(factory=Affinity)
    memo: Memo[Any] = field(init=False, factory=Memo, eq=False, repr=False)  # of plans
    _pools: dict[str, tuple[Pick, ...]] = field(init=False, factory=dict, eq=False, repr=False)  # by endpoint

    def pool(self, endpoint: str) -> tuple[Pick, ...]:
        """What a strategy chooses from: every listed model for the endpoint that could be called. A discovered one for
        which the table has a name of its own is there by that name alone."""
        found = self._pools.get(endpoint)
        if found is None:
            table, models = self.table, self.models
            named = {(info.provider, info.native) for id, info in models.listed.items() if id in table.models}
            serving = {name for name, it in table.providers.items() if it.enabled and endpoint in it.endpoints}
            found = self._pools[endpoint] = tuple(
                Pick.of(info, listed=False)
                for id, info in models.listed.items()
                if serves(info, endpoint)
                and info.provider in serving
                and not table.providers[info.provider].embedded
                and id not in models.gone
                and (id in table.models or (info.provider, info.native) not in named)
            )
        return found

    def wait(self, candidate: Candidate, now: float, *, byok: bool = False) -> float:
        """Seconds until it is fit, and one of its provider's credentials; 0 is now. With `byok` the caller's own is
        used."""
        health = self.health
        if health.is_quiet(now):
            return 0.0
        own, provider = health.cooling(candidate, now), self.table.providers[candidate.provider]
        if byok or not provider.credentials:
            return own
        return max(
            own, min(health.key_cooling(provider.name, index, now) for index in range(len(provider.credentials)))
        )

    @property
    def embedded(self) -> tuple[Pick, ...]:
        return tuple(
            Pick.of(info, listed=False)
            for info in self.models.listed.values()
            if (provider := self.table.providers[info.provider]).embedded and provider.enabled
        )


Dice = Callable[[], float]  # [0, 1)
# Of models that hold no conversations: what the names of those say that serve an endpoint. Nobody is chosen for others.
SERVING = {
    "embeddings": r"(?i)embed|minilm|\b(bge(?!.*rerank)|gte|e5)\b",
    "images": r"(?i)dall-e|image|imagen|diffusion|\b(flux|sdxl)\b",
}


def serves(info: ModelInfo, endpoint: str) -> bool:
    """Whether a model is one that the gateway may choose for an endpoint; who names it gets it all the same."""
    if endpoint == "chat":
        return info.chat
    pattern = SERVING.get(endpoint)
    return pattern is not None and not info.chat and re.search(pattern, f"{info.id} {info.native}") is not None


def expected_output(facts: Facts) -> int:
    """Tokens of a probable answer."""
    said = facts.shape.max_tokens
    return (EXPECTED_OUTPUT if said is None else min(said, EXPECTED_OUTPUT)) * facts.shape.n


def expected_nanos(info: ModelInfo, facts: Facts) -> int | None:
    """What this request will probably cost there; None without a price."""
    return worst_case_nanos(info.price, facts.tokens, expected_output(facts))


def most_output(info: ModelInfo, facts: Facts) -> int:
    """Tokens of the longest answer: what the request allows, else the model's cap, else an assumed one."""
    said = facts.shape.max_tokens
    cap = info.max_output or ASSUMED_OUTPUT
    return (min(said, info.max_output or said) if said is not None else cap) * facts.shape.n


def worst_nanos(info: ModelInfo, facts: Facts) -> int | None:
    return worst_case_nanos(info.price, facts.tokens, most_output(info, facts), facts.shape.cache_write)
