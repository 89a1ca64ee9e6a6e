"""All that one resolution may look at besides the request: a table, its catalog, and what was observed."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from attrs import field, frozen

from proxy.catalog import ModelInfo, worst_case_nanos
from proxy.routing.affinity import Affinity
from proxy.routing.facts import Facts
from proxy.routing.health import Health
from proxy.routing.latency import Latencies
from proxy.routing.models import Models
from proxy.routing.names import Candidate
from proxy.routing.table import Table

EXPECTED_OUTPUT = 512  # tokens of an answer, where the request allows as many
ASSUMED_OUTPUT = 4096  # most tokens of an answer, where neither the request nor the catalog says


@frozen
class Pick:
    """A candidate on its way through the plan. `listed`: somebody wrote its name down; else a strategy found it."""

    candidate: Candidate
    info: ModelInfo
    listed: bool = True
    max_price: Decimal | None = None  # USD, from a suffix of the entry that named it


@frozen
class World:
    """Same world, facts, dice and clock: same plan."""

    table: Table
    models: Models
    health: Health = field(factory=Health)
    latencies: Latencies = field(factory=Latencies)
    affinity: Affinity = field(factory=Affinity)


Dice = Callable[[], float]  # [0, 1)


def expected_nanos(info: ModelInfo, facts: Facts) -> int | None:
    """What this request will probably cost there; None without a price."""
    output = min(facts.shape.max_tokens or EXPECTED_OUTPUT, EXPECTED_OUTPUT) * facts.shape.n
    return worst_case_nanos(info.price, facts.tokens, output)


def most_output(info: ModelInfo, facts: Facts) -> int:
    """Tokens of the longest answer: what the request allows, else the model's cap, else an assumed one."""
    said = facts.shape.max_tokens
    cap = info.max_output or ASSUMED_OUTPUT
    return (min(said, info.max_output or said) if said is not None else cap) * facts.shape.n


def worst_nanos(info: ModelInfo, facts: Facts) -> int | None:
    return worst_case_nanos(info.price, facts.tokens, most_output(info, facts))
