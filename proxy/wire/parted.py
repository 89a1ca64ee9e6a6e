"""A large text in the parts in which it came, by its positions in the whole: nothing else that is done about a megabyte
takes as long as to put it together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate


class Parted:
    """At least one part, none of them empty."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self._ends = [*accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._ends[-1]

    def since(self, start: int) -> Iterator[tuple[bytes, int]]:
        """Each part that has something of the text from there on, and where in the part that begins."""
        number = bisect_right(self._ends, start)
        at = start - self._ends[number - 1] if number else start
        for part in self._parts[number:]:
            yield part, at
            at = 0

    def between(self, start: int, end: int) -> Iterator[memoryview]:
        """The text from one position to another, without a copy."""
        left = end - start
        for part, at in self.since(start):
            if left <= 0:
                return
            view = memoryview(part)[at : at + left]
            left -= len(view)
            yield view

    def copy(self, start: int, end: int) -> bytes:
        number = bisect_right(self._ends, start)
        if number < len(self._ends) and end <= self._ends[number]:  # as nearly always
            before = self._ends[number - 1] if number else 0
            return self._parts[number][start - before : end - before]
        return b"".join(self.between(start, end))

    def whole(self) -> bytes:
        """As one piece, of which it consists from then on."""
        if len(self._parts) > 1:
            self._parts, self._ends = [b"".join(self._parts)], self._ends[-1:]
        return self._parts[0]


def whole(text: bytes | Parted) -> bytes:
    return text if isinstance(text, bytes) else text.whole()
