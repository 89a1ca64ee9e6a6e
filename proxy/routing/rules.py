"""`[[rules]]`: conditions on facts that redirect a request before its own words are looked at. The first match wins.

A rule without `models` looks only at requests that leave the choice to the gateway (`auto`, tags, strategies,
profiles): who names a concrete model gets it. With `models` it looks at those names alone.
"""

from __future__ import annotations

from decimal import Decimal
from fnmatch import fnmatchcase

from proxy.routing import directive
from proxy.routing.facts import Facts
from proxy.routing.names import is_known
from proxy.routing.table import Rule
from proxy.routing.world import NANOS, World, expected_nanos


def first_match(facts: Facts, world: World) -> Rule | None:
    return next((rule for rule in world.table.rules if _matches(rule, facts, world)), None)


def undecided(facts: Facts, world: World) -> Rule | None:
    """Of a recorded request: the first rule that only its words and headers, which are not kept, may still match."""
    fitting = (rule for rule in world.table.rules if _fits(rule, facts, world))
    first = next(fitting, None)
    return None if first is None or _says(first, facts) else first


def _matches(rule: Rule, facts: Facts, world: World) -> bool:
    return _fits(rule, facts, world) and _says(rule, facts)


def _fits(rule: Rule, facts: Facts, world: World) -> bool:
    """All conditions but those on words and headers."""
    shape = facts.shape
    return (
        _concerns(rule, facts, world)
        and (rule.tokens is None or rule.tokens.holds(facts.tokens))
        and (not rule.industries or not _tags(facts).isdisjoint(rule.industries))
        and set(rule.needs) <= shape.needs
        and (not rule.projects or facts.project in rule.projects)
        and (not rule.endpoints or facts.endpoint in rule.endpoints)
        and (rule.cost is None or _costs(rule, facts, world))
    )


def _says(rule: Rule, facts: Facts) -> bool:
    """The conditions on words and headers. Of a recorded request they hold for the rule that matched it then."""
    if facts.past is not None and (rule.keywords or rule.headers):
        return facts.past.rule == rule.name
    return (not rule.keywords or _mentions(rule, facts.shape.turns)) and all(
        _bears(facts, name.lower(), value) for name, value in rule.headers.items()
    )


def _bears(facts: Facts, name: str, pattern: str) -> bool:
    """A header that is not there matches nothing, `*` included."""
    value = facts.headers.get(name)
    return value is not None and fnmatchcase(value, pattern)


def _concerns(rule: Rule, facts: Facts, world: World) -> bool:
    if rule.models:
        return any(fnmatchcase(entry, pattern) for entry in facts.wanted for pattern in rule.models)
    known = is_known(world.table, world.models.listed)
    entry = directive.parse(facts.wanted[0], known)
    return entry.kind != "name" or (entry.name in world.table.profiles and entry.name not in world.models.listed)


def _mentions(rule: Rule, turns: tuple[str, ...]) -> bool:
    """In the last turn, whatever the case; a bounded look."""
    last = turns[-1][:20_000].lower() if turns else ""
    return any(keyword.lower() in last for keyword in rule.keywords)


def _tags(facts: Facts) -> set[str]:
    asked = {entry.partition(":")[2] for entry in facts.wanted if entry.startswith("industry:")}
    return asked | ({facts.industry} if facts.industry else set())


def _costs(rule: Rule, facts: Facts, world: World) -> bool:
    """Expected cost at the first priced model that the rule would use."""
    for entry in rule.use:
        info = world.models.listed.get(entry)
        nanos = expected_nanos(info, facts) if info else None
        if nanos is not None and rule.cost is not None:
            return rule.cost.holds(Decimal(nanos) / NANOS)
    return False
