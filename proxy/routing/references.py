"""Whether all that a table names exists, and whether aliases and profiles ever come round to themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from proxy.errors import InvalidRequest
from proxy.routing import directive
from proxy.routing.names import find_pattern, split_native
from proxy.routing.table import CAPABILITIES, ENDPOINTS, Table


def check_references(table: Table) -> Iterator[tuple[str, str]]:
    """(path, message) of each problem."""
    yield from _check_models(table)
    yield from _check_numbers(table)
    for path, entry in _entries(table):
        if problem := _unresolvable(entry, table):
            yield path, problem
    yield from _check_cycles(table)
    yield from _check_words(table)


def _check_models(table: Table) -> Iterator[tuple[str, str]]:
    for id, entry in table.models.items():
        path = f"models.{id}"
        if entry.provider not in table.providers:
            near = get_close_matches(entry.provider, table.providers, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"{path}.provider", f"no provider is called {entry.provider!r}{hint}"
        for capability in sorted((entry.capabilities or frozenset()) - CAPABILITIES):
            yield f"{path}.capabilities", f"unknown {capability!r}; known are {', '.join(sorted(CAPABILITIES))}"
        if id in table.aliases:
            yield f"aliases.{id}", "a model has this id already"
        if not id or len(id) > directive.LONGEST:
            yield path, f"an id has 1 to {directive.LONGEST} characters"


def _check_numbers(table: Table) -> Iterator[tuple[str, str]]:
    for id, entry in table.models.items():
        for name, value, top in (("quality", entry.quality, 100), ("reasoning", entry.reasoning, 100)):
            if value is not None and not 0 <= value <= top:
                yield f"models.{id}.{name}", f"a whole number from 0 to {top} is needed"
        for name, value in (("context", entry.context), ("max_output", entry.max_output)):
            if value is not None and value < 1:
                yield f"models.{id}.{name}", "tokens: one or more"
    for name, value, least in (
        ("retry.tries", table.retry.tries, 1),
        ("retry.attempts", table.retry.attempts, 1),
        ("server.ledger_days", table.server.ledger_days, 1),
    ):
        if value < least:
            yield name, f"{least} or more is needed"
    for provider in table.providers.values():
        if provider.connections < 1:
            yield f"providers.{provider.name}.connections", "1 or more is needed"


def _check_words(table: Table) -> Iterator[tuple[str, str]]:
    for name, profile in table.profiles.items():
        if profile.sort is not None and profile.sort not in directive.SORTS:
            yield f"profiles.{name}.sort", f"one of {', '.join(directive.SORTS)}"
    for number, rule in enumerate(table.rules):
        for need in rule.needs:
            if need not in CAPABILITIES:
                yield f"rules[{number}].needs", f"unknown {need!r}; known are {', '.join(sorted(CAPABILITIES))}"
        for endpoint in rule.endpoints:
            if endpoint not in ENDPOINTS:
                yield f"rules[{number}].endpoints", f"unknown {endpoint!r}; known are {', '.join(ENDPOINTS)}"
    for provider in table.providers.values():
        for endpoint in provider.endpoints:
            if endpoint not in ENDPOINTS:
                yield f"providers.{provider.name}.endpoints", f"unknown {endpoint!r}; known: {', '.join(ENDPOINTS)}"


def _entries(table: Table) -> Iterator[tuple[str, str]]:
    for name, targets in table.aliases.items():
        for target in targets:
            yield f"aliases.{name}", target
    for label, entries in table.auto.lists.items():
        for entry in entries:
            yield f"auto.{label}", entry
    for tag, industry in table.industries.items():
        if not industry.models:
            yield f"industries.{tag}.models", ""
        for entry in industry.models:
            yield f"industries.{tag}.models", entry
    for name, profile in table.profiles.items():
        if not profile.candidates:
            yield f"profiles.{name}.candidates", ""
        for candidate in profile.candidates:
            yield f"profiles.{name}.candidates", candidate.model
    for number, rule in enumerate(table.rules):
        if not rule.use:
            yield f"rules[{number}].use", ""
        for entry in rule.use:
            yield f"rules[{number}].use", entry


def _unresolvable(text: str, table: Table) -> str | None:
    """Why an entry can never resolve, or None."""
    if not text:
        return "name at least one model"
    try:
        entry = directive.parse(text, lambda name: name in table.models or name in table.aliases)
    except InvalidRequest as exc:
        return exc.message
    match entry.kind:
        case "auto":
            return None
        case "industry":
            return _absent("industry", entry.name, table.industries)
        case "strategy":
            return _absent("strategy", entry.name, directive.STRATEGIES)
        case "profile":
            return _absent("profile", entry.name, table.profiles)
    known = [*table.models, *table.aliases, *table.profiles]
    if entry.name in known or find_pattern(entry.name, table.providers.values()):
        return None
    return None if split_native(entry.name, table.providers) else _absent("model", entry.name, known)


def _absent(what: str, name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    if name in names:
        return None
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    return f"no {what} is called {name!r}" + (f"; near: {', '.join(near)}" if near else "")


def _check_cycles(table: Table) -> Iterator[tuple[str, str]]:
    """Depth-first over what stands for something else; a cycle is reported once, with its path printed."""
    edges = _edges(table)
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if node in trail:
            yield (*trail[trail.index(node) :], node)
        elif node not in done:
            for following in edges.get(node, ()):
                yield from visit(following, (*trail, node))
            done.add(node)

    for start in edges:
        for cycle in visit(start, ()):
            yield _path_of(cycle[0], table), f"comes round to itself: {' -> '.join(cycle)}"


def _edges(table: Table) -> dict[str, list[str]]:
    """Node -> the nodes its entries stand for. Directives are nodes of their own: auto lists may name profiles."""
    nodes: dict[str, list[str]] = {}

    def target(text: str) -> str:
        entry = directive.parse(text, lambda name: name in table.models or name in table.aliases)
        if entry.kind in ("industry", "profile"):
            return f"{entry.kind}:{entry.name}"
        if entry.kind == "name" and entry.name not in table.models and entry.name not in table.aliases:
            return f"profile:{entry.name}" if entry.name in table.profiles else entry.name
        return entry.name

    for path, text in _entries(table):
        try:
            nodes.setdefault(_node(path, table), []).append(target(text))
        except InvalidRequest:
            continue  # reported already as unresolvable
    return nodes


def _node(path: str, table: Table) -> str:
    section, _, rest = path.partition(".")
    match section:
        case "aliases":
            return rest
        case "auto":
            return "auto"
        case "industries" | "profiles":
            return f"{'industry' if section == 'industries' else 'profile'}:{rest.rpartition('.')[0]}"
    return path  # a rule: nothing points back at it


def _path_of(node: str, table: Table) -> str:
    kind, _, name = node.partition(":")
    match kind:
        case "industry":
            return f"industries.{name}.models"
        case "profile":
            return f"profiles.{name}.candidates"
        case "auto":
            return "auto"
    return f"aliases.{node}" if node in table.aliases else node
