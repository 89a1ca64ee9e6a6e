"""Frames that come in one stream after the other, known by their bytes instead of being parsed each time.

The beginning of a stream's frames is its own (its id, its time), and told by the dialect's `preamble`. What stands
behind it others have said before: the role, a finish, a ping. What such a rest was found to mean is remembered for the
process, where the meaning hung on nothing but the bytes. Of pieces of text, which differ in their text alone, the mould
is remembered.
"""

from __future__ import annotations

import orjson

from proxy import ir
from proxy.dialects.dialect import Dialect, Tap
from proxy.ir import Sight
from proxy.wire.mould import QUOTE, Mould
from proxy.wire.sse import read_frame

MOST_SAYINGS = 256  # that are remembered of a dialect
LONGEST_SAYING = 512  # bytes
MOST_SHAPES = 8  # of pieces of text
REMEMBERED = (Sight.LIFECYCLE, Sight.FINISH, Sight.END)


class _Memory:
    """What was learnt of one dialect."""

    __slots__ = ("sayings", "shapes")

    def __init__(self) -> None:
        self.sayings: dict[bytes, tuple[Sight, ir.StopReason | None]] = {}
        self.shapes: dict[tuple[bytes, bytes], None] = {}  # what stands before a text, and behind it


_memories: dict[str, _Memory] = {}


class Glance:
    """Looks at the frames of one stream in its tap's place. Whatever it knows, the tap is told."""

    __slots__ = ("_head", "_memory", "_preamble", "_tap", "_tries", "mould")

    def __init__(self, dialect: Dialect, tap: Tap) -> None:
        self._tap = tap
        self._preamble = dialect.preamble
        self._head: bytes | None = None  # what all frames begin with, once one has come that told it
        self._tries = 2  # to tell it: what comes first may be a comment
        self._memory = _memories.get(dialect.name) or _memories.setdefault(dialect.name, _Memory())
        self.mould: Mould | None = None  # of the piece of text that came last

    def at(self, raw: bytes) -> Sight | None:
        """What a frame means; None where the tap has to look."""
        tap, head = self._tap, self._head
        if head is None and self._tries:
            self._tries -= 1
            head = self._head = self._preamble(raw)
        if head is None or not tap.plain or not raw.startswith(head):
            return None
        rest = raw[len(head) :]
        said = self._memory.sayings.get(rest)
        if said is None:
            return self._text(head, rest)
        sight, stop = said
        if stop is not None:
            tap.stop = stop
        return sight

    def whole(self, frames: list[bytes]) -> int | None:
        """Of all frames of a stream but its terminator, of which each is known, up to one that tells the usage: which
        one that is, or -1. None for any other stream; of that nobody knows what the tap has seen."""
        tap, head = self._tap, self._preamble(frames[0])
        if head is None:
            return None
        told = -1
        sayings = self._memory.sayings
        for number, raw in enumerate(frames):
            if not raw.startswith(head):
                return None
            rest = raw[len(head) :]
            said = sayings.get(rest)
            if said is None:
                if self._is_text(rest):
                    tap.produced = True
                elif told < 0:
                    told = number
                else:
                    return None
            elif said[0] is Sight.END:
                return None
            elif said[1] is not None:
                tap.stop = said[1]
        if told >= 0:
            frame = read_frame(frames[told])
            if frame is None or tap.look(frame) is not Sight.USAGE:
                return None
        return told if tap.plain and (tap.produced or tap.stop is not None) else None

    def _is_text(self, rest: bytes) -> bool:
        for before, behind in self._memory.shapes:
            if rest.startswith(before) and rest.endswith(behind):
                text = rest[len(before) : -len(behind)]
                return QUOTE not in text and _says(text)
        return False

    def _text(self, head: bytes, rest: bytes) -> Sight | None:
        for before, behind in self._memory.shapes:
            if rest.startswith(before) and rest.endswith(behind):
                text = rest[len(before) : -len(behind)]
                if QUOTE not in text and _says(text):
                    self._tap.produced = True
                    self.mould = Mould(head + before, behind)
                    return Sight.CONTENT
        return None

    def learn(self, raw: bytes, sight: Sight, usage: ir.Usage | None) -> None:
        """`raw` was plain so far, and the tap found it to mean that; it knew of that usage before."""
        tap, head = self._tap, self._head
        if sight not in REMEMBERED or tap.usage is not usage or not (tap.plain or sight is Sight.END):
            return
        if head is None or not raw.startswith(head) or len(raw) - len(head) > LONGEST_SAYING:
            return
        sayings = self._memory.sayings
        if len(sayings) >= MOST_SAYINGS:
            sayings.clear()
        sayings[raw[len(head) :]] = sight, tap.stop if sight is Sight.FINISH else None

    def learn_text(self, mould: Mould) -> None:
        head, shapes = self._head, self._memory.shapes
        if head is not None and mould.head.startswith(head):
            if len(shapes) >= MOST_SHAPES:
                shapes.clear()
            shapes[mould.head[len(head) :], mould.tail] = None


def _says(text: bytes) -> bool:
    """Whether that is the inside of a JSON string, and not nothing."""
    try:
        return bool(orjson.loads(b'"%b"' % text))
    except orjson.JSONDecodeError:
        return False
