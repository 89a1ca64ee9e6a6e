"""From what a request names to candidates in order: aliases, lists, profiles, classes and strategies resolved.

Recursive over what stands for something else; the table was checked for cycles when it was loaded, and a bound on the
depth holds for what no check can see.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field

from proxy.record import define
from proxy.routing import directive
from proxy.routing.affinity import STABLE_DIGITS
from proxy.routing.case import Case
from proxy.routing.classifier import Classified
from proxy.routing.directive import Entry
from proxy.routing.facts import Facts
from proxy.routing.names import DEEPEST, is_known, nearest
from proxy.routing.strategies import SORTS, STRATEGIES, draw
from proxy.routing.table import Profile
from proxy.routing.world import Pick, World, serves
from proxy.secret import hide_keys

MOST_TWICE = 256  # picks of one entry among which doubles are left for the plan to pass over
MOST_NAMED = 16  # unknown entries in a sentence
EMBEDDED_REASON = "no provider is configured, so the embedded one joins"


@define
class Expansion:
    """The picks of one request and how they came about. `unknown` are the entries that stand for nothing, less what
    looks like a key."""

    case: Case
    picks: list[Pick] = field(factory=list)
    reasons: list[str] = field(factory=list)
    intent: str = ""
    profile: str | None = None
    unknown: list[tuple[str, str]] = field(factory=list)  # entry, why
    steady: bool = True  # names alone were resolved: whoever asks for the same gets the same
    _known: dict[tuple[str, str, bool, bool], list[Pick]] = field(factory=dict, repr=False)  # what was expanded before

    @property
    def facts(self) -> Facts:
        return self.case.facts

    @property
    def world(self) -> World:
        return self.case.world

    def expand(self, entries: Iterable[str]) -> None:
        """Appends what the entries stand for, in order. Raises InvalidRequest for a suffix with a bad value."""
        facts = self.facts
        for entry in entries:
            picks = self._entry(entry, 0)
            self.picks += SORTS[facts.sort](picks, self.case) if facts.sort and facts.partitioned else picks

    # -- one entry -------------------------------------------------------------------------------------------

    def _entry(self, text: str, depth: int) -> list[Pick]:
        if depth > DEEPEST:
            return self._unknown(text, "stands for something that stands for something, too deep to follow")
        entry = directive.parse(text, is_known(self.world.table, self.world.models.listed))
        key = (entry.kind, entry.name, depth == 0, entry.max_price is None)
        picks = self._known.get(key)
        if picks is None:
            found = self._stands_for(entry, depth)
            picks = self._known[key] = found if entry.kind == "strategy" else _distinct(found)
        if entry.sort is not None or entry.max_price is not None:
            self.steady = False
        if entry.sort is not None:
            picks = SORTS[entry.sort](picks, self.case)
            self._say(depth, f"sorted by {entry.sort}")
        if entry.max_price is not None:
            picks = [pick.capped(entry.max_price, asked=depth == 0) for pick in picks]
        return picks

    def _stands_for(self, entry: Entry, depth: int) -> list[Pick]:
        match entry.kind:
            case "auto":
                return self._auto(depth)
            case "industry":
                return self._industry(entry.name, depth)
            case "strategy":
                return self._strategy(entry.name, depth)
            case "profile":
                return self._profile(entry, depth)
        return self._name(entry, depth)

    def _name(self, entry: Entry, depth: int) -> list[Pick]:
        meaning = self.world.models.meaning(entry.name)
        if meaning is None:
            return self._unknown(entry.name, "no model, alias, profile or pattern has this name")
        if meaning.by == "profile":
            return self._profile(entry, depth)
        self._say(depth, meaning.why, meaning.by)
        if meaning.info is not None:
            return [Pick.of(meaning.info)]
        return [pick for target in meaning.targets for pick in self._entry(target, depth + 1)]

    # -- what stands for a list ------------------------------------------------------------------------------

    def _auto(self, depth: int) -> list[Pick]:
        self.steady = False
        auto, klass = self.world.table.auto, self.case.classified()
        label = klass.label
        reason = f"{_cues(klass)} -> {label} list"
        if label not in auto.lists:
            reason, label = f"{reason}, which the table lacks -> chat list", "chat"
        self._say(depth, reason, "auto")
        finds = self._own_finds(label)
        if finds:
            self._say(depth, "then what own machines have")
        picks = self._all(auto.lists.get(label, ()), depth) + finds
        endpoint = self.facts.endpoint
        return picks if endpoint == "chat" else [pick for pick in picks if serves(pick.info, endpoint)]

    def _own_finds(self, label: str) -> list[Pick]:
        """Behind the list: what was discovered on one's own machines, the specialists of the class first. What others
        sell is for the table to choose."""
        models = self.world.models
        finds = [
            pick for pick in self.world.pool(self.facts.endpoint) if pick.info.local and models.is_discovered(pick.info)
        ]

        def rank(pick: Pick) -> tuple[bool, int]:
            return label not in (pick.info.capabilities or ()), -(pick.info.quality or 0)

        return sorted(finds, key=rank)

    def _industry(self, tag: str, depth: int) -> list[Pick]:
        industry = self.world.table.industries.get(tag)
        if industry is None:
            tags = ", ".join(sorted(self.world.table.industries))
            return self._unknown(f"industry:{tag}", f"no such tag; the tags are {tags or 'none'}")
        self._say(depth, f"industry {tag} -> its list", "industry")
        return self._all(industry.models, depth)

    def _strategy(self, name: str, depth: int) -> list[Pick]:
        self.steady = False
        strategy = STRATEGIES.get(name)
        if strategy is None:
            return self._unknown(f"strategy:{name}", f"no such strategy; they are {', '.join(STRATEGIES)}")
        self._say(depth, STRATEGY_REASONS[name], "strategy")
        pool = [*self.world.pool(self.facts.endpoint), *self._embedded()]
        return strategy(pool, self.case)

    def _profile(self, entry: Entry, depth: int) -> list[Pick]:
        self.steady = False
        name = entry.name
        profile = self.world.table.profiles.get(name)
        if profile is None:
            names = ", ".join(sorted(self.world.table.profiles))
            return self._unknown(f"profile:{name}", f"no such profile; they are {names or 'none'}")
        self._say(depth, f"profile {name}", "profile")
        if self.profile is None:
            self.profile = name
        picks = self._all([model for group in _groups(profile) for model in self._drawn(profile, group, depth)], depth)
        if profile.sort is not None:
            picks = SORTS[profile.sort](picks, self.case)
            self._say(depth, f"sorted by {profile.sort}")
        if profile.max_price is not None and entry.max_price is None and self.facts.ceiling is None:
            picks = [pick.capped(profile.max_price) for pick in picks]  # a default: the request's own word wins
        return picks

    def _drawn(self, profile: Profile, group: list[tuple[str, int | None]], depth: int) -> list[str]:
        """The draw is among those that can serve: what the others weigh is shared out."""
        if group[0][1] is None:
            return [entry for entry, _ in group]
        dice = self.case.dice
        if profile.sticky and self.facts.conversation:
            share = int(self.facts.conversation[:STABLE_DIGITS], 16) / 16**STABLE_DIGITS
            dice = lambda: share  # noqa: E731 - the conversation is the dice
        weights = [(weight or 0) if self._serves(entry, depth) else 0 for entry, weight in group]
        order = draw(weights, dice)
        self.reasons.append(f"drew {group[order[0]][0]} by weight")
        return [group[position][0] for position in order]

    def _serves(self, entry: str, depth: int) -> bool:
        return any(self.case.objection(pick) is None for pick in self._entry(entry, depth + 1))

    def _all(self, entries: Iterable[str], depth: int) -> list[Pick]:
        picks = [pick for entry in entries for pick in self._entry(entry, depth + 1)]
        return picks + self._embedded()

    def _embedded(self) -> list[Pick]:
        """First-run aid: never while another provider could be called, so it never stands in for one that fails."""
        table, byok = self.world.table, self.facts.byok
        if not table.first_run or not byok.isdisjoint(table.providers):
            return []
        found = [pick for pick in self.world.embedded if pick.info.id not in self.world.models.gone]
        if found and EMBEDDED_REASON not in self.reasons:
            self.reasons.append(EMBEDDED_REASON)
        return found

    # -- saying what was done --------------------------------------------------------------------------------

    def _say(self, depth: int, reason: str, intent: str = "") -> None:
        if depth == 0:
            if reason not in self.reasons:
                self.reasons.append(reason)
            self.intent = self.intent or intent

    def _unknown(self, name: str, why: str) -> list[Pick]:
        self.unknown.append((hide_keys(name), why))
        return []

    def not_found(self) -> str:
        """The sentence of the 404: of the first that is unknown, and which others are."""
        name, why = self.unknown[0]
        near = self.nearest(name)
        others = ", ".join(directive.shown(other) for other, _ in self.unknown[1:MOST_NAMED])
        also = f" Neither does: {others}." if others else ""
        return f"The model {directive.shown(name)} does not exist: {why}. Nearest: {', '.join(near)}.{also}"

    def nearest(self, name: str) -> list[str]:
        """The names most like it that stand for something."""
        models = self.world.models
        return nearest(name, self.world.table, (id for id in models.listed if id not in models.gone))


STRATEGY_REASONS = {
    "cost": "strategy cost: cheapest that can handle it",
    "quality": "strategy quality: strongest reasoner",
    "latency": "strategy latency: fastest first token",
    "local": "strategy local: own machines only",
}


def _distinct(picks: list[Pick]) -> list[Pick]:
    """Lists of lists may name the same few a million times over; what was expanded once comes as the same objects. A
    strategy names nobody twice."""
    return picks if len(picks) <= MOST_TWICE else list({id(pick): pick for pick in picks}.values())


def _cues(klass: Classified) -> str:
    if klass.fallback:
        return "no clear class"
    if klass.kept:
        return f"conversation stays {klass.label}"
    return f"detected {klass.label} cues"


def _groups(profile: Profile) -> list[list[tuple[str, int | None]]]:
    """Weighted neighbours make one group; each other candidate stands alone."""
    groups: list[list[tuple[str, int | None]]] = []
    for candidate in profile.candidates:
        if groups and candidate.weight is not None and groups[-1][-1][1] is not None:
            groups[-1].append((candidate.model, candidate.weight))
        else:
            groups.append([(candidate.model, candidate.weight)])
    return groups
