"""Frames that are alike but for a few values: what they have in common, and where one's own values stand.

A frame without a backslash is cut at its quotes: strings and what stands between them. All of another one but the
values is compared with it, byte by byte; so what the two mean differs in these values alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.record import record
from proxy.wire.mould import BACKSLASH

_NUMBER = re.compile(rb"(\s*:\s*)(?:0|[1-9][0-9]{0,11})([^0-9]*)")  # no longer than what counts as a count
_MOST_DIGITS = 12
ZERO = b"0"[0]
HOLE = b"\0"  # stands in no JSON
_LONGEST = 48  # bytes of an identifier: longer ones may be cut
_MARKS = b"-_"  # in an identifier, beside letters and digits


@record
class Own:
    """Which members are a stream's own, by their names: identifiers, and numbers by what their names end with."""

    strings: frozenset[bytes]
    numbers: tuple[bytes, ...]


class Likeness:
    """Of all frames that are like the one that it was made of."""

    __slots__ = ("_first", "_holes", "digits")

    def __init__(self, raw: bytes, own: Own) -> None:
        pieces = raw.split(b'"')
        digits: list[bool] = []
        last = len(pieces) - 1
        for at in range(1, last, 2):
            name, behind = pieces[at], pieces[at + 1]
            if name in own.strings and behind.strip() == b":" and at + 2 < last and is_identifier(pieces[at + 2]):
                pieces[at + 2] = HOLE
                digits.append(False)
            elif name.endswith(own.numbers) and (found := _NUMBER.fullmatch(behind)) is not None:
                pieces[at + 1] = b"%b%b%b" % (found[1], HOLE, found[2])
                digits.append(True)
        self.digits = tuple(digits)  # for each value, whether it is a number
        self._first, *between = b'"'.join(pieces).split(HOLE)
        self._holes = [(it[:1], it, is_number) for it, is_number in zip(between, digits, strict=True)]

    @property
    def key(self) -> bytes:
        """The same for all that are alike, and for no other."""
        return self.put([HOLE] * len(self._holes))

    def values(self, raw: bytes) -> list[bytes] | None:
        """None where it is not like the others."""
        at = len(self._first)
        if raw[:at] != self._first:
            return None
        values = []
        for mark, behind, is_number in self._holes:
            end = raw.find(mark, at)
            value = raw[at:end]
            if is_number:
                if not value.isdigit() or len(value) > _MOST_DIGITS or (value[0] == ZERO and len(value) > 1):
                    return None
            elif not is_identifier(value):
                return None
            at = end + len(behind)
            if raw[end:at] != behind:
                return None
            values.append(value)
        return values if at == len(raw) else None

    def put(self, values: Sequence[bytes]) -> bytes:
        """The frame with these."""
        out = [self._first]
        for (_, behind, _), value in zip(self._holes, values, strict=True):
            out += (value, behind)
        return b"".join(out)


def likeness(raw: bytes, own: Own) -> Likeness | None:
    """None where nothing in it is a stream's own, or where it may have been written otherwise."""
    if BACKSLASH in raw or HOLE in raw or raw[-1:] != b"\n":
        return None
    made = Likeness(raw, own)
    return made if made.digits else None


def is_identifier(text: bytes) -> bool:
    """Whether every JSON writer writes it as it stands, and every dialect takes it for an id of its own."""
    return len(text) <= _LONGEST and text.translate(None, _MARKS).isalnum()
