"""Projects: from what a table says of each and of its parents to what holds for it.

A project can only narrow what its parents allow. Of everything else its own word wins over theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from proxy.routing.sections import ProjectSection
from proxy.routing.table import Project, Table, merged

LONGEST_NAME = 128  # characters
# What no default can stand in for: the caller's own word, or nobody's.
NOT_DEFAULTS = frozenset(
    {
        "authorization", "x-api-key", "cookie", "host", "connection", "content-type", "content-length",
        "content-encoding", "transfer-encoding", "expect", "x-request-id", "x-pointsman-hops",
    }
)  # fmt: skip


def effective(sections: Mapping[str, ProjectSection], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, Project]:
    """Every project with what it has from its parents. One that comes round to itself is left as far as it goes:
    `problems` tells of it."""
    made: dict[str, Project] = {}
    for name in sections:
        project = Project(name)
        for ancestor in reversed(_lineage(name, sections)):
            project = _narrowed(project, name, sections[ancestor], aliases)
        made[name] = project
    return made


def _lineage(name: str, sections: Mapping[str, ProjectSection]) -> list[str]:
    """The project, its parent, and so on."""
    line = [name]
    while (parent := sections[line[-1]].parent) in sections and parent not in line:
        assert parent is not None
        line.append(parent)
    return line


def _narrowed(above: Project, name: str, own: ProjectSection, aliases: Mapping[str, tuple[str, ...]]) -> Project:
    providers = above.providers
    if own.providers is not None:
        said = frozenset(own.providers)
        providers = said if providers is None else providers & said
    models = above.models
    if own.models is not None:
        models = (*models, tuple(dict.fromkeys(target for entry in own.models for target in _targets(entry, aliases))))
    return Project(
        name=name,
        parent=own.parent,
        providers=providers,
        models=models,
        disabled=(*above.disabled, *own.disabled),
        local_only=above.local_only or own.local_only,
        profile=own.profile or above.profile,
        max_price=above.max_price if own.max_price is None else own.max_price,
        timeouts=merged(above.timeouts, own.timeouts),
        headers={**above.headers, **{key.lower(): value for key, value in own.headers.items()}},
        budget=own.budget or above.budget,
        limits=above.limits if own.limits is None else own.limits,
    )


def _targets(entry: str, aliases: Mapping[str, tuple[str, ...]], seen: tuple[str, ...] = ()) -> Iterator[str]:
    """An alias stands for its models."""
    yield entry
    if entry in aliases and entry not in seen:
        for target in aliases[entry]:
            yield from _targets(target, aliases, (*seen, entry))


# -- what is wrong with them -------------------------------------------------------------------------------------


def problems(sections: Mapping[str, ProjectSection], table: Table) -> Iterator[tuple[str, str]]:
    """(path, message) of each."""
    for name, section in sections.items():
        path = f"projects.{name}"
        if not (name.strip() and name.isprintable() and len(name) <= LONGEST_NAME):
            yield path, f"a name of 1 to {LONGEST_NAME} printable characters is needed"
        if section.parent is not None and section.parent not in sections:
            yield f"{path}.parent", _unknown("project", section.parent, sections)
        for provider in section.providers or ():
            if provider not in table.providers:
                yield f"{path}.providers", _unknown("provider", provider, table.providers)
        for entry in (*(section.models or ()), *section.disabled):
            if "*" in entry[:-1]:
                yield path, f'{entry!r}: a pattern is exact, or ends in its only "*"'
        if section.profile is not None and section.profile not in table.profiles:
            yield f"{path}.profile", _unknown("profile", section.profile, table.profiles)
        yield from _headers(path, section, f"{table.server.header_prefix}key-".lower())
    yield from _circles(sections)


def _headers(path: str, section: ProjectSection, keys: str) -> Iterator[tuple[str, str]]:
    for header, value in section.headers.items():
        if header.lower() in NOT_DEFAULTS or header.lower().startswith(keys):
            yield f"{path}.headers.{header}", "no default can stand in for this header"
        elif not (header.isascii() and header.replace("-", "").replace("_", "").isalnum() and value.isprintable()):
            yield f"{path}.headers.{header}", "no header has such a name or such a value"


def _circles(sections: Mapping[str, ProjectSection]) -> Iterator[tuple[str, str]]:
    told: set[str] = set()
    for name in sections:
        line = _lineage(name, sections)
        last = sections[line[-1]].parent
        if last is not None and last in line and not told.intersection(line):
            told.update(line)
            round_ = line[line.index(last) :]
            yield f"projects.{round_[0]}.parent", f"comes round to itself: {' -> '.join((*round_, round_[0]))}"


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {what} is called {name!r}{hint}"
