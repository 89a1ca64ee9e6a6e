"""What a name stands for: exact id or alias, profile, directive, provider pattern, `provider/native-id`.

The first hit wins, in that order. Knows the table and the catalog; judges no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from heapq import nsmallest

from attrs import frozen

from proxy.routing.directive import DIRECTIVES, STRATEGIES
from proxy.routing.table import Provider, Table

DEEPEST = 8  # names that stand for names, one behind the other
MOST_COMPARED = 256  # names letter by letter: a client may ask for any name, and a list may have thousands


@frozen(cache_hash=True)
class Candidate:
    """One place a request can go. Equal candidates share health and latencies."""

    model: str  # the catalog's id
    provider: str
    native: str  # the provider's name for it, never the client's


def find_pattern(name: str, providers: Iterable[Provider]) -> tuple[Provider, str] | None:
    """The provider with the longest pattern that matches; of equal ones the first in the file."""
    best: tuple[Provider, str] | None = None
    for provider in providers:
        for pattern in provider.models:
            if (name == pattern or fnmatchcase(name, pattern)) and (best is None or len(pattern) > len(best[1])):
                best = (provider, pattern)
    return best


def split_native(name: str, providers: Mapping[str, Provider]) -> tuple[Provider, str] | None:
    """`provider/native-id`, where the head names a provider."""
    head, slash, native = name.partition("/")
    provider = providers.get(head)
    return (provider, native) if slash and native and provider is not None else None


def nearest(name: str, table: Table, models: Iterable[str], count: int = 3) -> list[str]:
    """The valid names that look most like `name`, for a 404 that helps; tags for a tag, profiles for a profile."""
    known = [
        *models,
        *table.aliases,
        "auto",
        *(f"strategy:{strategy}" for strategy in STRATEGIES),
        *(f"industry:{tag}" for tag in table.industries),
        *(f"profile:{profile}" for profile in table.profiles),
    ]
    head, colon, _ = name.partition(":")
    kind = f"{head}:" if colon and head in DIRECTIVES else ""
    kin = [entry for entry in known if kind and entry.startswith(kind)]
    found = _likeliest(name, kin, count)
    if len(found) < count:
        found += _likeliest(name, [entry for entry in known if entry not in found], count - len(found))
    return found


def _likeliest(name: str, known: Iterable[str], count: int) -> list[str]:
    """So many of them, however little they look like it."""
    folded, sought = {entry.lower(): entry for entry in known}, name.lower()[:128]
    pool = list(folded)
    if len(pool) > MOST_COMPARED:
        pool = nsmallest(
            MOST_COMPARED, pool, key=lambda entry: (entry[:1] != sought[:1], abs(len(entry) - len(sought)))
        )
    return [folded[match] for match in get_close_matches(sought, pool, n=count, cutoff=0.0)]


def is_known(table: Table, models: Mapping[str, object]) -> Callable[[str], bool]:
    """Whether a whole string is an id, an alias or a profile: then no character in it means anything else."""
    return lambda name: name in models or name in table.aliases or name in table.profiles
