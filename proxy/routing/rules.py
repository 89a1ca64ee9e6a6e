"""`[[rules]]`: conditions on facts that redirect a request before its own words are looked at. The first match wins.

A rule without `models` looks only at requests that leave the choice to the gateway (`auto`, tags, strategies,
profiles): who names a concrete model gets it. With `models` it looks at those names alone. A request that is bound to
one's own machines is led elsewhere by no rule that does not name it: a filter that a general rule may lift is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase

from proxy.catalog import ModelInfo
from proxy.routing import directive
from proxy.routing.case import Case
from proxy.routing.directive import Entry
from proxy.routing.facts import Facts
from proxy.routing.names import DEEPEST, is_known
from proxy.routing.table import Rule
from proxy.routing.world import NANOS, World, expected_nanos


def first_match(case: Case) -> Rule | None:
    facts, world = case.facts, case.world
    entries = _entries(facts, world)
    rules = world.table.rules
    return next((rule for rule in rules if _fits(rule, facts, world, entries) and _says(rule, case)), None)


def undecided(facts: Facts, world: World) -> Rule | None:
    """Of a recorded request: the first rule that only its words and headers, which are not kept, may still match."""
    entries = _entries(facts, world)
    first = next((rule for rule in world.table.rules if _fits(rule, facts, world, entries)), None)
    return None if first is None or not _goes_by_words(first) or _matched_then(first, facts) else first


def _fits(rule: Rule, facts: Facts, world: World, entries: Sequence[Entry]) -> bool:
    """All conditions but those on words, their class and headers."""
    shape = facts.shape
    return (
        _concerns(rule, entries, world)
        and (rule.tokens is None or rule.tokens.holds(facts.tokens))
        and (not rule.industries or not _tags(facts, entries).isdisjoint(rule.industries))
        and set(rule.needs) <= shape.needs
        and (not rule.projects or facts.project in rule.projects)
        and (not rule.endpoints or facts.endpoint in rule.endpoints)
        and (rule.cost is None or _costs(rule, facts, world))
    )


def _says(rule: Rule, case: Case) -> bool:
    """The conditions on words, their class and headers. Of a recorded request they hold for the rule that matched it
    then."""
    facts = case.facts
    if facts.past is not None and _goes_by_words(rule):
        return _matched_then(rule, facts)
    return (
        (not rule.keywords or _mentions(rule, facts.shape.turns))
        and all(_bears(facts, name.lower(), value) for name, value in rule.headers.items())
        and (not rule.classes or case.classified().label in rule.classes)
    )


def _goes_by_words(rule: Rule) -> bool:
    return bool(rule.keywords or rule.headers or rule.classes)


def _matched_then(rule: Rule, facts: Facts) -> bool:
    return facts.past is not None and facts.past.rule == rule.name


def _bears(facts: Facts, name: str, pattern: str) -> bool:
    """A header that is not there matches nothing, `*` included."""
    value = facts.headers.get(name)
    return value is not None and fnmatchcase(value, pattern)


def _concerns(rule: Rule, entries: Sequence[Entry], world: World) -> bool:
    bound = _bound_to_own(entries, world, 0)
    if rule.models:
        names = [name for entry in entries for name in _names(entry, world)]
        return any(
            name == pattern if bound else fnmatchcase(name, pattern) for name in names for pattern in rule.models
        )
    meaning = world.models.meaning(entries[0].name) if entries[0].kind == "name" else None
    return not bound and (entries[0].kind != "name" or (meaning is not None and meaning.by == "profile"))


def _bound_to_own(entries: Sequence[Entry], world: World, depth: int) -> bool:
    """Whether all that is asked for is `strategy:local`, or a name that stands for nothing else."""
    return depth <= DEEPEST and bool(entries) and all(_is_bound(entry, world, depth) for entry in entries)


def _is_bound(entry: Entry, world: World, depth: int) -> bool:
    if entry.kind == "strategy":
        return entry.name == "local"
    known = is_known(world.table, world.models.listed)
    targets = [directive.parse(target, known) for target in _targets(entry, world)]
    return _bound_to_own(targets, world, depth + 1)


def _targets(entry: Entry, world: World) -> Iterable[str]:
    """What a list, a profile or an alias names; nothing for a model."""
    table, name = world.table, entry.name
    if entry.kind == "industry" and name in table.industries:
        return table.industries[name].models
    if entry.kind == "profile" and name in table.profiles:
        return table.profiles[name].models
    meaning = world.models.meaning(name) if entry.kind == "name" else None
    return meaning.targets if meaning is not None else ()


def _entries(facts: Facts, world: World) -> list[Entry]:
    """Taken apart, so that neither a suffix nor a space keeps an entry from what it names."""
    known = is_known(world.table, world.models.listed)
    return [directive.parse(entry, known) for entry in facts.wanted]


def _names(entry: Entry, world: World) -> tuple[str, ...]:
    """As the client wrote it, as it is named, and the id of the model that it is another name for."""
    if entry.kind in directive.DIRECTIVES:
        return entry.text, f"{entry.kind}:{entry.name}"
    info = world.models.find(entry.name)
    return (entry.text, entry.name) if info is None else (entry.text, entry.name, info.id)


def _mentions(rule: Rule, turns: tuple[str, ...]) -> bool:
    """In the last turn, whatever the case; a bounded look."""
    last = turns[-1][:20_000].lower() if turns else ""
    return any(keyword.lower() in last for keyword in rule.keywords)


def _tags(facts: Facts, entries: Sequence[Entry]) -> set[str]:
    asked = {entry.name for entry in entries if entry.kind == "industry"}
    return asked | ({facts.industry} if facts.industry else set())


def _costs(rule: Rule, facts: Facts, world: World) -> bool:
    """Expected cost at the first priced model that the rule names, be it by an alias, a pattern or a suffix."""
    known = is_known(world.table, world.models.listed)
    for info in _models(rule.use, world, known, 0):
        if rule.cost is not None and (nanos := expected_nanos(info, facts)) is not None:
            return rule.cost.holds(Decimal(nanos) / NANOS)
    return False


def _models(entries: Iterable[str], world: World, known: Callable[[str], bool], depth: int) -> Iterator[ModelInfo]:
    for text in entries if depth <= DEEPEST else ():
        entry = directive.parse(text, known)
        meaning = world.models.meaning(entry.name) if entry.kind == "name" else None
        if meaning is None:
            continue
        if meaning.info is not None:
            yield meaning.info
        elif meaning.by == "alias":
            yield from _models(meaning.targets, world, known, depth + 1)
