"""The usage of a stream as sums of numbers that stand in its frames, and so do those that are written of it.

Which these are is told by marks: the usage is read, and written, with numbers in the place of the stream's own that
tell by their sum which of them are in it. Where it hangs on which number is the larger, marks in another order tell
otherwise, and nothing is learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import astuple

from proxy import ir
from proxy.dialects.dialect import Dialect
from proxy.wire import json_text

MOST_NUMBERS = 8
RISING, FALLING = 100_003, 100_019  # what marks are multiples of; smaller numbers are the frames' own
NAMELESS = b"x"  # in the place of an identifier

Part = bytes | int  # what stands there, or the place of a value among a stream's own
Sum = int | tuple[int, ...] | None  # a number that is always the same, or the places of those that make it

_NUMBER = re.compile(rb"([0-9]+)")
_FIELDS = len(astuple(ir.Usage()))


class Sums:
    """`fields` is how `ir.Usage` has them; `written` the usage in the client's words: what stands around its sums, and
    these."""

    __slots__ = ("fields", "written")

    def __init__(self, fields: Sequence[Sum], written: Sequence[bytes | tuple[int, ...]]) -> None:
        self.fields = fields
        self.written = written


def sums_of(
    dialect: Dialect, spoken: Dialect, told: Sequence[Sequence[Part]], numbers: Mapping[int, bytes]
) -> Sums | None:
    """Of what is told by frames of these parts, which have these numbers at their places; None where it is no sum."""
    places = sorted(numbers)
    if len(places) > MOST_NUMBERS:
        return None
    rising = {RISING * 3**at: place for at, place in enumerate(places)}
    falling = {FALLING * 3**at: place for at, place in enumerate(reversed(places))}
    own = _known(dialect, spoken, told, numbers)
    up = _known(dialect, spoken, told, {place: b"%d" % mark for mark, place in rising.items()})
    down = _known(dialect, spoken, told, {place: b"%d" % mark for mark, place in falling.items()})
    if not own or not len(own) == len(up) == len(down):
        return None
    found: list[bytes | Sum] = []
    for value, high, low in zip(own, up, down, strict=True):
        if isinstance(value, int) and isinstance(high, int) and isinstance(low, int):
            places_of = _places(high, rising, RISING)
            if places_of is None or places_of != _places(low, falling, FALLING):
                return None
            if value != (high if not places_of else sum(int(numbers[place]) for place in places_of)):
                return None
            found.append(places_of or value)
        elif value == high == low:
            found.append(value)
        else:
            return None
    fields = [it for it in found[:_FIELDS] if not isinstance(it, bytes)]
    return Sums(
        fields, [it if isinstance(it, bytes | tuple) else b"%d" % it for it in found[_FIELDS:] if it is not None]
    )


def _known(
    dialect: Dialect, spoken: Dialect, told: Sequence[Sequence[Part]], numbers: Mapping[int, bytes]
) -> list[bytes | int | None]:
    """The usage, member by member, and what is written of it: what stands around its numbers, and these."""
    usage: ir.Usage | None = None
    assert dialect.words is not None
    for parts in told:
        raw = b"".join([part if isinstance(part, bytes) else numbers.get(part, NAMELESS) for part in parts])
        usage = dialect.words.usage_in(json_text.read(raw[raw.find(b"{") :]), usage)
    if usage is None:
        return []
    written = spoken.write_usage(usage) if spoken.write_usage is not None else None
    pieces = _NUMBER.split(json_text.write(written)) if written else []
    return [*astuple(usage), *(int(piece) if piece.isdigit() else piece for piece in pieces)]


def _places(mark: int, marks: Mapping[int, int], unit: int) -> tuple[int, ...] | None:
    """Of those that were added up to this; none of a number that is the frames' own."""
    if mark < unit:
        return ()
    found = []
    for part, place in marks.items():
        times = mark // part % 3
        if times == 1:
            found.append(place)
            mark -= part
        elif times:
            return None
    return tuple(sorted(found)) if not mark else None
