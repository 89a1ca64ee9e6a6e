"""Whether all that a table names exists, and whether aliases and profiles ever come round to themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from attrs import asdict

from proxy.errors import InvalidRequest
from proxy.routing import directive
from proxy.routing.names import DEEPEST, find_pattern, is_known, split_native
from proxy.routing.table import CAPABILITIES, ENDPOINTS, LABELS, NEEDS, Band, Table, TimeoutOverrides, Timeouts


def check_references(table: Table) -> Iterator[tuple[str, str]]:
    """(path, message) of each problem."""
    yield from _check_models(table)
    yield from _check_numbers(table)
    yield from _check_times(table)
    yield from _check_rules(table)
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
        ("server.concurrency", table.server.concurrency, 1),
        ("server.queue", table.server.queue, 0),
        ("server.reserve_output", table.server.reserve_output, 0),
        ("health.failures", table.health.failures, 1),
        ("health.volume", table.health.volume, 1),
        ("fetch.most", table.fetch.most, 1),
    ):
        if value < least:
            yield name, f"{least} or more is needed"
    for section in ("models", "projects"):
        for name, entry in getattr(table, section).items():
            for limit, value in (asdict(entry.limits) if entry.limits else {}).items():
                if value is not None and value < 1:
                    yield f"{section}.{name}.limits.{limit}", "1 or more is needed"
    for provider in table.providers.values():
        if provider.connections < 1:
            yield f"providers.{provider.name}.connections", "1 or more is needed"
        if provider.queue < 0:
            yield f"providers.{provider.name}.queue", "0 or more is needed"


def _check_times(table: Table) -> Iterator[tuple[str, str]]:
    """None of these may be nothing: the attempt would have failed before it began."""
    layers: list[tuple[str, Timeouts | TimeoutOverrides | None]] = [("timeouts", table.timeouts)]
    for section in ("providers", "models", "profiles", "projects"):
        layers += [(f"{section}.{name}.timeouts", it.timeouts) for name, it in getattr(table, section).items()]
    given = {f"{path}.{name}": value for path, layer in layers if layer for name, value in asdict(layer).items()}
    server, retry = table.server, table.retry
    given |= {"server.header_timeout": server.header_timeout, "server.body_timeout": server.body_timeout}
    given |= {"server.max_body": server.max_body, "retry.deadline": retry.deadline}
    given |= {"server.queue_wait": server.queue_wait, "server.body_memory": server.body_memory}
    given |= {"server.memory": server.memory, "retry.cost": retry.cost}
    given |= {"fetch.size": table.fetch.size, "fetch.time": table.fetch.time}
    limits = table.health
    given |= {"health.share": limits.share, "health.window": limits.window, "health.rest": limits.rest}
    for path, value in given.items():
        if path.endswith(".min_rate"):
            if value is not None and value < 0:
                yield path, "0 or more is needed"
        elif value == 0 and not path.endswith(".commit_after"):
            yield path, "more than nothing is needed"


def _check_rules(table: Table) -> Iterator[tuple[str, str]]:
    names: dict[str, int] = {}
    for number, rule in enumerate(table.rules):
        if names.setdefault(rule.name, number) != number:
            yield (
                f"rules[{number}].name",
                f"rules[{names[rule.name]}] has this name: the record could not tell them apart",
            )
        for project in rule.projects:
            if project not in table.projects:
                near = get_close_matches(project, table.projects, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield f"rules[{number}].projects", f"no project is called {project!r}{hint}"
        for key, band in (("tokens", rule.tokens), ("cost", rule.cost)):
            if band is not None and _is_empty(band):
                yield f"rules[{number}].{key}", "min is above max, so nothing ever matches"
        if rule.cost is not None and rule.use and not any(_is_model(entry, table) for entry in rule.use):
            yield (
                f"rules[{number}].cost",
                "it is that of the first model in `use`: name a model there, or an alias of one",
            )


def _is_model(text: str, table: Table) -> bool:
    """Whether an entry names a model, or an alias, rather than what chooses one."""
    try:
        entry = directive.parse(text, is_known(table, table.models))
    except InvalidRequest:
        return True  # reported already as unresolvable
    return entry.kind == "name" and (entry.name not in table.profiles or entry.name in table.models)


def _is_empty(band: Band) -> bool:
    return band.min is not None and band.max is not None and band.min > band.max


def _check_words(table: Table) -> Iterator[tuple[str, str]]:
    for name, profile in table.profiles.items():
        if profile.sort is not None and profile.sort not in directive.SORTS:
            yield f"profiles.{name}.sort", f"one of {', '.join(directive.SORTS)}"
    for number, rule in enumerate(table.rules):
        for need in rule.needs:
            if need not in NEEDS:
                hint = "; a class of the prompt belongs into classes" if need in LABELS else ""
                yield f"rules[{number}].needs", f"unknown {need!r}; known are {', '.join(sorted(NEEDS))}{hint}"
        for label in rule.classes:
            if label not in LABELS:
                yield f"rules[{number}].classes", f"unknown {label!r}; known are {', '.join(LABELS)}"
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
    known = is_known(table, table.models)
    try:
        entry = directive.parse(text, known)
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
    if known(entry.name) or find_pattern(entry.name, table.providers.values()):
        return None
    names = [*table.models, *table.aliases, *table.profiles]
    return None if split_native(entry.name, table.providers) else _absent("model", entry.name, names)


def _absent(what: str, name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    if name in names:
        return None
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    return f"no {what} is called {name!r}" + (f"; near: {', '.join(near)}" if near else "")


Node = tuple[str, str]  # the section and the name in it: an alias may be called what a profile is called


def _check_cycles(table: Table) -> Iterator[tuple[str, str]]:
    """Depth-first over what stands for something else, with a stack of its own: a chain may be thousands long. Each
    cycle is reported once, with its path printed, and so is what is too deep for a request to follow."""
    edges = _edges(table)
    depths: dict[Node, int] = {}
    for start in edges:
        trail: dict[Node, Iterator[Node]] = {}
        if start not in depths:
            trail[start] = iter(edges[start])
        while trail:
            node, following = next(reversed(trail.items()))
            child = next(following, None)
            if child is None:
                depths[node] = 1 + max((depths.get(below, 0) for below in edges[node]), default=0)
                if depths[node] == DEEPEST + 1:
                    yield _path_of(node), f"stands for more than {DEEPEST} names in a row: shorten it"
                del trail[node]
            elif child in trail:
                cycle = [*list(trail)[list(trail).index(child) :], child]
                yield _path_of(child), f"comes round to itself: {' -> '.join(map(_shown, cycle))}"
            elif child in edges and child not in depths:
                trail[child] = iter(edges[child])


def _edges(table: Table) -> dict[Node, list[Node]]:
    """What stands for something else, and the things of that kind that it stands for."""
    edges: dict[Node, list[Node]] = {}
    for path, text in _entries(table):
        if path.startswith("rules["):
            continue  # where a request enters: nothing stands for a rule
        try:
            node = _target(text, table)
        except InvalidRequest:
            continue  # reported already as unresolvable
        edges.setdefault(_node(path), []).extend([node] if node else [])
    return edges


def _target(text: str, table: Table) -> Node | None:
    """What an entry stands for, as a request would find it; None for a model."""
    entry = directive.parse(text, is_known(table, table.models))
    match entry.kind:
        case "auto":
            return "auto", "auto"
        case "industry":
            return "industries", entry.name
        case "profile":
            return "profiles", entry.name
        case "name" if entry.name in table.models:
            return None
        case "name" if entry.name in table.aliases:
            return "aliases", entry.name
        case "name" if entry.name in table.profiles:
            return "profiles", entry.name
    return None


def _node(path: str) -> Node:
    section, _, rest = path.partition(".")
    if section == "auto":
        return "auto", "auto"
    return section, rest.rpartition(".")[0] if section in ("industries", "profiles") else rest


def _shown(node: Node) -> str:
    section, name = node
    return {"industries": f"industry:{name}", "profiles": f"profile:{name}"}.get(section, name)


def _path_of(node: Node) -> str:
    section, name = node
    return {"industries": f"industries.{name}.models", "profiles": f"profiles.{name}.candidates", "auto": "auto"}.get(
        section, f"{section}.{name}"
    )
