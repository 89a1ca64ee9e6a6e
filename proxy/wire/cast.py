"""Bodies that are alike but for a few values: one of them with holes in their place, into which others are poured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

Cast = tuple[tuple[bytes, ...], tuple[int, ...]]  # what stands before, between and behind the values; and their order


def cast_of(body: bytes, marks: Sequence[bytes]) -> Cast | None:
    """With a hole for each mark; None where one does not stand in it once, apart from the others."""
    if any(body.count(mark) != 1 for mark in marks):
        return None
    found = sorted((body.find(mark), number) for number, mark in enumerate(marks))
    pieces, at = [], 0
    for begins, number in found:
        if begins < at:
            return None
        pieces.append(body[at:begins])
        at = begins + len(marks[number])
    pieces.append(body[at:])
    return tuple(pieces), tuple(number for _, number in found)


def poured(cast: Cast, values: Sequence[bytes]) -> bytes:
    """`values` are in the order of the marks."""
    (first, *others), order = cast
    return b"".join((first, *chain.from_iterable(zip([values[number] for number in order], others, strict=True))))
