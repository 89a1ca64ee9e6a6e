"""Frames that are alike but for a few values: what they have in common, and where one's own values stand.

A frame without a backslash is cut at its quotes: strings and what stands between them. All of it but the values is
compared with the frame that was there first, byte by byte; so what the two mean differs in these values alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.record import record
from proxy.wire.mould import BACKSLASH

_NUMBER = re.compile(rb"(\s*:\s*)(?:0|[1-9][0-9]{0,11})([^0-9]*)")  # no longer than what counts as a count
_MOST_DIGITS = 12
ZERO = b"0"[0]
_LONGEST = 48  # bytes of an identifier: longer ones may be cut
_MARKS = b"-_"  # in an identifier, beside letters and digits


@record
class Own:
    """Which members are a stream's own, by their names: identifiers, and numbers by what their names end with."""

    strings: frozenset[bytes]
    numbers: tuple[bytes, ...]


class Likeness:
    """Of all frames that are like the one that it was made of."""

    __slots__ = ("_holes", "_pieces", "digits")

    def __init__(self, raw: bytes, own: Own) -> None:
        pieces = raw.split(b'"')
        holes: list[tuple[int, bytes, bytes]] = []
        digits: list[bool] = []
        last = len(pieces) - 1
        for at in range(1, last, 2):
            name, behind = pieces[at], pieces[at + 1]
            if name in own.strings and behind.strip() == b":" and at + 2 < last and is_identifier(pieces[at + 2]):
                holes.append((at + 2, b"", b""))
                digits.append(False)
            elif name.endswith(own.numbers) and (found := _NUMBER.fullmatch(behind)) is not None:
                holes.append((at + 1, found[1], found[2]))
                digits.append(True)
        for at, _, _ in holes:
            pieces[at] = b""
        self._pieces = pieces
        self._holes = holes
        self.digits = tuple(digits)  # for each value, whether it is a number

    @property
    def key(self) -> bytes:
        """The same for all that are alike, and for no other."""
        return self.put([b"\0"] * len(self._holes))

    def values(self, raw: bytes) -> list[bytes] | None:
        """None where it is not like the others."""
        pieces = raw.split(b'"')
        if len(pieces) != len(self._pieces) or BACKSLASH in raw:
            return None
        values = []
        for at, before, behind in self._holes:
            piece = pieces[at]
            if before:
                value = piece[len(before) : len(piece) - len(behind)]
                if not (value.isdigit() and piece.startswith(before) and piece.endswith(behind)):
                    return None
                if len(value) > _MOST_DIGITS or (value[0] == ZERO and len(value) > 1):
                    return None
            elif is_identifier(piece):
                value = piece
            else:
                return None
            values.append(value)
            pieces[at] = b""
        return values if pieces == self._pieces else None

    def put(self, values: Sequence[bytes]) -> bytes:
        """The frame with these."""
        pieces = self._pieces.copy()
        for (at, before, behind), value in zip(self._holes, values, strict=True):
            pieces[at] = before + value + behind
        return b'"'.join(pieces)


def likeness(raw: bytes, own: Own) -> Likeness | None:
    """None where nothing in it is a stream's own, or where it may have been written otherwise."""
    if BACKSLASH in raw:
        return None
    made = Likeness(raw, own)
    return made if made.digits else None


def is_identifier(text: bytes) -> bool:
    """Whether every JSON writer writes it as it stands, and every dialect takes it for an id of its own."""
    return len(text) <= _LONGEST and text.translate(None, _MARKS).isalnum()
