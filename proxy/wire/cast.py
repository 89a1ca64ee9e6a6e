"""Bodies that are alike but for a few values: one of them with holes in their place, into which others are poured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

# A form with a hole for each value; and what picks these, in the order in which the holes stand, of those in the order
# of the marks.
Cast = tuple[bytes, Callable[[Sequence[bytes]], Any]]


def cast_of(body: bytes, marks: Sequence[bytes]) -> Cast | None:
    """With a hole for each mark, of which there is one at least; None where one does not stand in it once, apart from
    the others."""
    if any(body.count(mark) != 1 for mark in marks):
        return None
    found = sorted((body.find(mark), number) for number, mark in enumerate(marks))
    form, at = b"", 0
    for begins, number in found:
        if begins < at:
            return None
        form += body[at:begins].replace(b"%", b"%%") + b"%b"
        at = begins + len(marks[number])
    return form + body[at:].replace(b"%", b"%%"), itemgetter(*(number for _, number in found))


def form_of(body: bytes, marks: Sequence[bytes]) -> bytes | Cast:
    """With a hole wherever a mark stands, the longest where several begin; the body itself where none does."""
    sought = sorted(filter(None, marks), key=len, reverse=True)
    pieces = re.split(b"(" + b"|".join(map(re.escape, sought)) + b")", body)
    if len(pieces) == 1:
        return body
    form = b"%b".join(piece.replace(b"%", b"%%") for piece in pieces[::2])
    return form, itemgetter(*map(marks.index, pieces[1::2]))


def poured(cast: Cast, values: Sequence[bytes]) -> bytes:
    """`values` are in the order of the marks."""
    form, pick = cast
    body: bytes = form % pick(values)
    return body
