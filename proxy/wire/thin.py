"""JSON with the middles of its long strings left out: it has the same borders, and is soon scanned.

A pattern runs over a string some forty times slower than a search for its closing quote does, and of a request with a
picture nearly all is one string.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import orjson

from proxy.wire.parted import Parted

STEP = 4096  # bytes without a quote, from which on the middle of what stands between two is left out
PIECE = 128 << 10  # bytes that are looked at at a time: they are written down for it, in room for eight times as many
KEPT = 32  # bytes that stay at either end of it
WORD = 8
_OUTSIDE = b" \t\n\r[]{},:0123456789+-.eEtrufalsn"  # all that may stand between strings


class Cuts:
    """Where something is left out. `place` maps a position in the thin text to the one in the whole."""

    def __init__(self, at: list[int], sizes: list[int]) -> None:
        self.at = at  # ascending, in the thin text
        self._before = [0, *accumulate(sizes)]

    def __bool__(self) -> bool:
        return bool(self.at)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Where what is left out begins and ends, in the whole."""
        for number, at in enumerate(self.at):
            yield at + self._before[number], at + self._before[number + 1]

    def place(self, position: int) -> int:
        return position + self._before[bisect_left(self.at, position)]


Thin = tuple[bytes, Cuts]  # what is left of a text, and what is not


def thinned(text: bytes, step: int = STEP, kept: int = KEPT) -> Thin:
    """`text` is JSON; of anything else what is left may be anything shorter. Looks at the last quote of every `step`
    bytes: only where there is none, the one behind is searched for."""
    pieces: list[bytes] = []
    places: list[int] = []
    sizes: list[int] = []
    begun = at = length = 0  # `at` stands behind a quote
    while at + step < len(text):
        quote = text.rfind(b'"', at, at + step)
        if quote < 0:
            quote = text.find(b'"', at + step)
            if quote < 0:
                break
            if _is_string(text, at, quote, kept):
                pieces.append(text[begun : at + kept])
                length += at + kept - begun
                begun = quote - kept
                places.append(length)
                sizes.append(begun - at - kept)
        at = quote + 1
    return (b"".join((*pieces, text[begun:])), Cuts(places, sizes)) if pieces else (text, Cuts([], []))


class Light(NamedTuple):
    """A large body that is little else than long strings, as pictures are, and what `thinned` leaves of such: the body
    is JSON if that is."""

    body: Parted
    text: bytes
    cuts: Cuts


def lightened(body: Parted) -> Light | None:
    """None for a body that is not light. What is left out, and whatever stands in its string, is looked at on the way:
    of neither, nor of the outcome, it matters where the body came in parts."""
    size = len(body)
    pieces: list[bytes] = []
    places: list[int] = []
    sizes: list[int] = []
    begun = at = length = 0
    while at + STEP < size and (length + at - begun) * 4 < size:
        window = body.copy(at, at + STEP)
        quote = window.rfind(b'"')
        if quote >= 0:
            at += quote + 1
        elif not window[:KEPT].translate(None, _OUTSIDE):
            at += STEP  # it may be in a string or in none
        else:
            end = _end_of_plain(body, at)
            if end is None:
                return None
            pieces.append(body.copy(begun, at + KEPT))
            length += at + KEPT - begun
            begun = end - KEPT
            places.append(length)
            sizes.append(begun - at - KEPT)
            at = end + 1
    if (length + size - begun) * 4 >= size:
        return None
    return Light(body, b"".join((*pieces, body.copy(begun, size))), Cuts(places, sizes))


def _end_of_plain(body: Parted, at: int) -> int | None:
    """Where the string that is begun at `at` has its closing quote; None where something before it is not ASCII, is an
    escape, or must not stand in a string at all. Each piece is looked at while the search has it at hand."""
    longest = STEP  # of the first one, which tells most strings that are no picture's
    for part, since in body.since(at):
        view = memoryview(part)
        while since < len(part):
            # A piece that begins where a word of memory does is looked at and copied in one pass, any other in two.
            until = min(since + longest & -WORD, len(part))
            quote = part.find(b'"', since, until)
            end = until if quote < 0 else quote
            if not _says_itself(view[since:end]):
                return None
            at += end - since
            if quote >= 0:
                return at
            since, longest = until, PIECE
    return None


def _says_itself(text: memoryview) -> bool:
    """Whether this is ASCII, and what it stands for if it is within a JSON string."""
    try:
        piece = str(text, "utf-8")  # sooner told than what is "ascii"
    except UnicodeDecodeError:
        return False
    # But for its quotes it is written as it stands.
    return piece.isascii() and len(orjson.dumps(piece)) == len(piece) + 2


def stretched(thin: bytes, cuts: Cuts) -> bytes:
    """The thin text with another letter in each place where something is left out: two readings of it that are equal
    take no notice of what is left out."""
    pieces: list[bytes] = []
    begun = 0
    for at in cuts.at:
        pieces += (thin[begun:at], b"A")
        begun = at
    return b"".join((*pieces, thin[begun:]))


def _is_string(text: bytes, start: int, end: int, kept: int) -> bool:
    """Whether what stands between two quotes is surely inside a string: something in it could not stand outside. And
    the backslashes before the second one stay together, since they tell what that one is."""
    return bool(text[start : start + kept].translate(None, _OUTSIDE)) and bool(text[end - kept : end].strip(b"\\"))
