"""Members of a request that no reader reads, by their path: what is not understood is named, never lost in silence.

A grammar says what is read of an object: its members, each with the grammar of its value, or None for a value that is
taken as it is. The grammar of an array is that of its objects. Where it has ELSE, other readers see to the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.record import frozen

_STEP = re.compile(r"[^.\[\]]+")


@frozen
class OneOf:
    """Objects told apart by their `type`. One of a kind that is not listed is kept whole by whoever reads it."""

    kinds: Mapping[str, Mapping[str, Any]]
    untyped: str = ""  # the kind of an object without a type


Grammar = Mapping[str, Any] | OneOf  # values: a Grammar or None
ELSE = "…"


def members(*names: str, **inner: Grammar) -> Mapping[str, Any]:
    return dict.fromkeys(("type", *names)) | inner


def unread(value: Any, grammar: Grammar | None, at: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each member that the grammar does not know. What is null or empty says nothing."""
    if grammar is None:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unread(item, grammar, f"{at}[{index}]")
    if not isinstance(value, dict):
        return
    if isinstance(grammar, OneOf):
        found = grammar.kinds.get(str(value.get("type") or grammar.untyped))
        if found is None:
            return
        grammar = found
    for name, inner in value.items():
        path = f"{at}.{name}" if at else name
        if name in grammar:
            yield from unread(inner, grammar[name], path)
        elif ELSE not in grammar and inner not in (None, [], {}):
            yield path, inner


def put_back(body: dict[str, Any], path: str, value: Any) -> bool:
    """Sets a member at "tools[0].defer_loading"; False where the way there does not exist."""
    *way, last = _STEP.findall(path)
    place: Any = body
    for depth, step in enumerate(way):
        if isinstance(place, dict):
            place = place.setdefault(step, {}) if depth == 0 and len(way) == 1 else place.get(step)
        elif isinstance(place, list) and step.isdigit() and int(step) < len(place):
            place = place[int(step)]
        else:
            return False
    if not isinstance(place, dict):
        return False
    place[last] = value
    return True
