"""How large requests and answers are, as far as routing and bills have to know: read off members that nobody has judged
yet, so whatever is of no use is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MOST = 10**12  # of a number of tokens or answers: far beyond what any model gives, and no float's infinity


def size(value: Any) -> int:
    """Of a schema: that of its keys and strings, close enough for an estimate, and no dump is made."""
    total, stack = 0, [value]
    while stack:  # a stack, not recursion: nested a thousand deep is legal JSON
        match stack.pop():
            case str() as text:
                total += len(text) + 2
            case dict() as members:
                total += sum(len(name) + 3 for name in members)
                stack.extend(members.values())
            case list() as items:
                stack.extend(items)
            case _:
                total += 4
    return total if value else 0


def whole(value: Any) -> int | None:
    """A limit of one or more, however large it was written: one that counts for nothing would be no ceiling's."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        return None
    return int(min(value, MOST))


def counted(value: Any) -> int | None:
    """How many tokens a provider says there were; None, unknown, for what no count can be."""
    if value.__class__ is int:
        return value if 0 <= value <= MOST else None
    if value.__class__ is not float or not 0 <= value <= MOST or value != int(value):
        return None
    return int(value)


def dicts(items: Any) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())
