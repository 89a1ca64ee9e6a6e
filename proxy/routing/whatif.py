"""What another table would do with the decisions of the past: one move per request, and the sum of all.

A decision is compared by who leads its chain before health and affinity have their say, since neither is recorded.
Money is in nano-USD, by the other table's prices for both sides; None is unknown, and never counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from attrs import asdict, evolve, field

from proxy import ir
from proxy.catalog import ModelInfo
from proxy.errors import GatewayError
from proxy.record import define, frozen
from proxy.routing.facts import Facts
from proxy.routing.latency import Latencies
from proxy.routing.models import Models
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan
from proxy.routing.recorded import leading
from proxy.routing.rules import undecided
from proxy.routing.table import Provider, Table
from proxy.routing.world import World, expected_nanos

Row = Mapping[str, Any]
# `open`: the order goes by observed times, which are not replayed, and whoever led may lead again.
Fate = Literal["refused", "moves", "rescued", "open", "stays"]
FATES: tuple[Fate, ...] = ("refused", "moves", "rescued", "open", "stays")
MOST_GROUPS = 5_000  # a client may ask for any name; further ones share a group for each fate
OTHERS = "(others)"
EXAMPLES = 3  # request ids of a group
REASON = 500  # characters


def with_all_keys(table: Table) -> Table:
    """As if every variable and every key that the table names were set; what is disabled stays so."""

    def assumed(provider: Provider) -> Provider:
        return evolve(provider, missing="", missing_key="", keyless=provider.keyless or not provider.credentials)

    return evolve(table, providers={name: assumed(provider) for name, provider in table.providers.items()})


@define
class Unmeasured(Latencies):
    """Knows nobody's times, and whether somebody wanted them."""

    asked: bool = False

    def expected_ms(self, candidates: Sequence[Candidate], now: float, *, whole: bool) -> list[float]:
        self.asked = True
        return super().expected_ms(candidates, now, whole=whole)

    def tokens_per_s(self, candidate: Candidate) -> float | None:
        self.asked = True
        return None


@frozen
class Move:
    """What becomes of one request. `was` and `now` are None where nobody could serve it."""

    request_id: str
    requested: str
    fate: Fate
    was: Candidate | None
    now: Candidate | None
    served: bool  # somebody answered it then
    step: str | None = None  # the one that refuses it now
    reason: str = ""  # the refusal's sentence
    loses: frozenset[str] = frozenset()  # capabilities that it needed, and `now` lacks
    without: frozenset[str] = frozenset()  # those that `was` has and `now` lacks, and nobody asked for
    lacks: frozenset[str] = frozenset()  # needed ones for whose lack it is refused
    before: int | None = None  # expected cost at `was`
    after: int | None = None  # and at `now`
    recorded: int | None = None  # what it did cost, whoever served it
    guessed: bool = False  # its class was not recorded: the table's safe one is assumed
    undecided: str | None = None  # the rule that may match by words that are not recorded


def compare(row: Row, facts: Facts, outcome: Plan | GatewayError, world: World, present: Models | None = None) -> Move:
    """`row` as it was recorded, `facts` made of it, and what `resolve` gave for them in the other table's `world`.
    Models that the other table does not name are looked up in `present`, the catalog in force."""
    plan = outcome if isinstance(outcome, Plan) else None
    was, now = leading(row), plan.leads if plan else None
    fate = _fate(was, now, plan, world)
    if fate == "open":
        now = was
    old, new = _info(was, world.models, present), _info(now, world.models)
    before, after = _costs(old, new, facts, row["usage"])
    refusal = outcome.refusal if isinstance(outcome, Plan) else outcome
    rule = undecided(facts, world) if plan and world.table.rules else None
    return Move(
        request_id=row["request_id"],
        requested=row["requested"],
        fate=fate,
        was=was,
        now=now,
        served=row["model"] is not None,
        step=None if now else (plan.emptied_by if plan else "expand"),
        reason=refusal.message[:REASON] if refusal else "",
        loses=_missing(facts.shape.needs, new) if was else frozenset(),
        without=_missing(old.capabilities - facts.shape.needs, new) if old and old.capabilities else frozenset(),
        lacks=_lacks(plan, facts, world.models) if plan and now is None else frozenset(),
        before=before,
        after=after,
        recorded=row["cost_nanos"],
        guessed=plan is not None and plan.klass is not None and not (facts.past and facts.past.klass),
        undecided=rule.name if rule else None,
    )


def _fate(was: Candidate | None, now: Candidate | None, plan: Plan | None, world: World) -> Fate:
    if was == now:
        return "stays"
    if was is None or plan is None or now is None:
        return "refused" if now is None else "rescued"
    unsure = isinstance(world.latencies, Unmeasured) and world.latencies.asked
    return "open" if unsure and was in (pick.candidate for pick in plan.chain) else "moves"


def _info(candidate: Candidate | None, *catalogs: Models | None) -> ModelInfo | None:
    """As the first catalog has it that names it, else as one describes it that has its provider; else None."""
    if candidate is None:
        return None
    known = [models for models in catalogs if models is not None and candidate.provider in models.table.providers]
    for models in known:
        info = models.listed.get(candidate.model)
        if info is not None and (info.provider, info.native) == (candidate.provider, candidate.native):
            return info
    # By its native name: its id may mean something else by now, and what is described is remembered by id.
    return known[0].describe(candidate.native, candidate.provider, candidate.native) if known else None


def _costs(
    old: ModelInfo | None, new: ModelInfo | None, facts: Facts, usage: Row | None
) -> tuple[int | None, int | None]:
    """Both by what the answer took where that is known and priced, else both by the estimate."""
    if usage is not None:
        counted = ir.Usage(**usage)
        before, after = (info.price.cost_nanos(counted) if info and info.price else None for info in (old, new))
        if (old is None or before is not None) and (new is None or after is not None):
            return before, after
    return (
        None if old is None else expected_nanos(old, facts),
        None if new is None else expected_nanos(new, facts),
    )


def _missing(wanted: frozenset[str], new: ModelInfo | None) -> frozenset[str]:
    """What the new candidate is known not to have; nothing where nobody knows."""
    return wanted - new.capabilities if new is not None and new.capabilities is not None else frozenset()


def _lacks(plan: Plan, facts: Facts, models: Models) -> frozenset[str]:
    lacking: set[str] = set()
    for gone in plan.dropped:
        info = _info(gone.candidate, models) if gone.step == "needs" else None
        if info is not None and info.capabilities is not None:
            lacking |= facts.shape.needs - info.capabilities
    return frozenset(lacking)


# -- the sum of all ----------------------------------------------------------------------------------------------

Key = tuple[str, Candidate | None, Candidate | None, Fate, str | None]


@define
class Group:
    """Requests that asked for the same and fare the same. `before` and `after` are of those `priced` on both sides."""

    requested: str
    was: Candidate | None
    now: Candidate | None
    fate: Fate
    step: str | None
    count: int = 0
    served: int = 0
    losing: int = 0  # requests that lose a capability, or are refused for one
    priced: int = 0
    before: int = 0
    after: int = 0
    costed: int = 0  # requests whose cost was recorded
    recorded: int = 0
    loses: set[str] = field(factory=set)
    without: set[str] = field(factory=set)
    lacks: set[str] = field(factory=set)
    reason: str = ""
    examples: list[str] = field(factory=list)

    def add(self, move: Move) -> None:
        self.count += 1
        self.served += move.served
        self.losing += bool(move.loses or move.lacks)
        self.loses |= move.loses
        self.without |= move.without
        self.lacks |= move.lacks
        self.reason = self.reason or move.reason
        if move.before is not None and move.after is not None:
            self.priced += 1
            self.before += move.before
            self.after += move.after
        if move.recorded is not None:
            self.costed += 1
            self.recorded += move.recorded
        if len(self.examples) < EXAMPLES:
            self.examples.append(move.request_id)

    def as_json(self) -> dict[str, Any]:
        return {
            "requested": self.requested,
            "fate": self.fate,
            "was": None if self.was is None else asdict(self.was),
            "now": None if self.now is None else asdict(self.now),
            "requests": self.count,
            "served": self.served,
            "step": self.step,
            "reason": self.reason or None,
            "losing": self.losing,
            "loses": sorted(self.loses),
            "without": sorted(self.without),
            "lacks": sorted(self.lacks),
            "cost": cost_json([self]),
            "examples": self.examples,
        }


@define
class Report:
    """All moves, grouped. Memory is bounded however many there are."""

    groups: dict[Key, Group] = field(factory=dict)
    skipped: dict[str, int] = field(factory=dict)  # rows that could not be planned again, by the reason
    guessed: int = 0
    undecided: dict[str, int] = field(factory=dict)  # requests by the rule that may match them

    def add(self, move: Move) -> None:
        key: Key = (move.requested, move.was, move.now, move.fate, move.step)
        if key not in self.groups and len(self.groups) >= MOST_GROUPS:
            key = (OTHERS, None, None, move.fate, move.step)
        group = self.groups.get(key) or self.groups.setdefault(key, Group(*key))
        group.add(move)
        self.guessed += move.guessed
        if move.undecided is not None:
            self.undecided[move.undecided] = self.undecided.get(move.undecided, 0) + 1

    def skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def of(self, fate: Fate) -> list[Group]:
        """The largest first."""
        found = [group for group in self.groups.values() if group.fate == fate]
        return sorted(found, key=lambda group: (-group.count, group.requested))

    def count(self, fate: Fate) -> int:
        return sum(group.count for group in self.of(fate))

    @property
    def replayed(self) -> int:
        return sum(group.count for group in self.groups.values())

    @property
    def denied(self) -> int:
        """Requests that somebody served, and that would be refused."""
        return sum(group.served for group in self.of("refused"))

    @property
    def losing(self) -> int:
        return sum(group.losing for group in self.groups.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "replayed": self.replayed,
            "skipped": self.skipped,
            "fates": {fate: self.count(fate) for fate in FATES},
            "denied": self.denied,
            "losing": self.losing,
            "cost": cost_json(self.groups.values()),
            "class_guessed": self.guessed,
            "rules_undecided": self.undecided,
            "groups": [group.as_json() for fate in FATES for group in self.of(fate)],
        }


def cost_json(groups: Iterable[Group]) -> dict[str, int | None]:
    """Before, after and their difference are of the requests `priced` on both sides; null where there is none."""
    listed = list(groups)
    priced, costed = sum(group.priced for group in listed), sum(group.costed for group in listed)
    before, after = sum(group.before for group in listed), sum(group.after for group in listed)
    return {
        "priced": priced,
        "before_nanos": before if priced else None,
        "after_nanos": after if priced else None,
        "delta_nanos": after - before if priced else None,
        "costed": costed,
        "recorded_nanos": sum(group.recorded for group in listed) if costed else None,
    }
