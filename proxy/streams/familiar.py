"""Frames that come in one stream after the other, known by their bytes instead of being parsed each time.

The beginning of a stream's frames is its own (its id, its time), and told by the dialect's `preamble`. What stands
behind it others have said before: the role, a finish, a ping. What such a rest was found to mean is remembered for the
process, where the meaning hung on nothing but the bytes. Of pieces of text, which differ in their text alone, the mould
is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from proxy import ir
from proxy.dialects.dialect import Dialect, Tap
from proxy.ir import Sight
from proxy.wire.mould import QUOTE, Mould, ends_early, length
from proxy.wire.sse import CR, holds_comment, is_text, raw_frames

MOST_SAYINGS = 256  # that are remembered of a dialect
LONGEST_SAYING = 512  # bytes
MOST_SHAPES = 8  # of pieces of text
MOST_AT_ONCE = 16  # frames of a stream that came in one read
UNTOUCHED: Mapping[str, int] = {}  # see `Stream.edits`
USAGE_REMOVED: Mapping[str, int] = {"usage_removed": 1}
REMEMBERED = (Sight.LIFECYCLE, Sight.FINISH, Sight.END)


class _Memory:
    """What was learnt of one dialect."""

    __slots__ = ("sayings", "shapes")

    def __init__(self) -> None:
        self.sayings: dict[bytes, tuple[Sight, ir.StopReason | None]] = {}
        self.shapes: dict[tuple[bytes, bytes], None] = {}  # what stands before a text, and behind it

    def shape_of(self, rest: bytes) -> tuple[bytes, bytes] | None:
        """The shape of a frame that says a piece of text."""
        for before, behind in self.shapes:
            text = rest.removeprefix(before).removesuffix(behind)
            is_one = len(text) + len(before) + len(behind) == len(rest) and QUOTE not in text
            if is_one and says(text):
                return before, behind
        return None


_memories: dict[str, _Memory] = {}


class Glance:
    """Looks at the frames of one stream in its tap's place. Whatever it knows, the tap is told."""

    __slots__ = ("_dialect", "_head", "_memory", "_tap", "_tries", "mould")

    def __init__(self, dialect: Dialect, tap: Tap) -> None:
        self._tap = tap
        self._dialect = dialect
        self._head: bytes | None = None  # what all frames begin with, once one has come that told it
        self._tries = 2  # to tell it: what comes first may be a comment
        self._memory = _memories.get(dialect.name) or _memories.setdefault(dialect.name, _Memory())
        self.mould: Mould | None = None  # of the piece of text that came last

    def at(self, raw: bytes) -> Sight | None:
        """What a frame means; None where the tap has to look."""
        tap, head = self._tap, self._head
        if head is None and self._tries:
            self._tries -= 1
            head = self._head = self._dialect.preamble(raw)
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

    def _text(self, head: bytes, rest: bytes) -> Sight | None:
        shape = self._memory.shape_of(rest)
        if shape is None:
            return None
        self._tap.produced = True
        self.mould = Mould(head + shape[0], shape[1])
        return Sight.CONTENT

    def learn(self, raw: bytes, sight: Sight, usage: ir.Usage | None) -> None:
        """`raw` was plain so far, and the tap found it to mean that; it knew of that usage before."""
        tap, head = self._tap, self._head
        if sight not in REMEMBERED or tap.usage is not usage or not (tap.plain or sight is Sight.END):
            return
        if head is None or not raw.startswith(head) or len(raw) - len(head) > LONGEST_SAYING:
            return
        if CR in raw or holds_comment(raw) or not raw.endswith(b"\n\n"):
            return  # it would take another look each time
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


def says(text: bytes) -> bool:
    """Whether that is the inside of a JSON string, and not nothing; it has no quote."""
    if length(text):
        return True
    try:
        return bool(orjson.loads(b'"%b"' % text))
    except orjson.JSONDecodeError:
        return False


class AtOnce:
    """What is to be known of a stream each of whose frames was known, but for the one that told its usage."""

    __slots__ = ("edits", "out", "usage")

    def __init__(self, out: bytes, usage: ir.Usage | None, edits: Mapping[str, int] = UNTOUCHED) -> None:
        self.out = out  # what leaves
        self.usage = usage
        self.edits = edits


def at_once(dialect: Dialect, chunks: list[bytes], *, strip_usage: bool) -> AtOnce | None:
    """What of a stream leaves that came in one read, in these chunks; None for one of which more than that has to be
    asked."""
    memory = _memories.get(dialect.name)
    frames = chunks if len(chunks) > 1 else raw_frames(chunks[0])
    if memory is None or not 1 < len(frames) <= MOST_AT_ONCE:
        return None
    head = dialect.preamble(frames[0])
    return _ended(dialect, memory, head, frames, False, strip_usage) if head is not None and head.isascii() else None


class Familiar:
    """One stream of the client's dialect, as far as each frame of it is known, up to its text and behind it. It keeps
    nothing of them: whoever asks holds what came up to the first text, and later whatever is none, by which a
    `Passthrough` knows as much."""

    __slots__ = ("_dialect", "_head", "_memory", "_strips_usage", "_usage", "before", "behind")

    def __init__(self, dialect: Dialect, memory: _Memory, *, strip_usage: bool) -> None:
        self._dialect = dialect
        self._memory = memory
        self._strips_usage = strip_usage
        self._usage: ir.Usage | None = None
        self._head: bytes | None = None  # what all frames begin with, once one has come
        self.before = self.behind = b""  # what stands around the text of a frame, once one has come

    def begins(self, frames: list[bytes]) -> bool:
        """Whether these may come next, before a text or with the first ones: their texts are all alike."""
        head, memory = self._head, self._memory
        if head is None:
            head = self._head = self._dialect.preamble(frames[0])
            if head is None or not head.isascii():
                return False
        shape = None
        for raw in frames:
            rest = raw.removeprefix(head)
            if len(rest) + len(head) != len(raw):
                return False
            said = memory.sayings.get(rest) if shape is None else None
            if said is not None:
                if said[0] is not Sight.LIFECYCLE:
                    return False
                continue
            found = memory.shape_of(rest)
            if found is None or (shape is not None and found != shape):
                return False
            shape = found
        if shape is not None:
            self.before, self.behind = head + shape[0], shape[1]
        return True

    def meets(self, head: bytes, before: bytes, behind: bytes) -> None:
        """One that began as others did: what its frames begin with, and what stands around their texts, if one came."""
        self._head, self.before, self.behind = head, before, behind

    @property
    def preamble(self) -> bytes:
        """What all frames begin with, once one has come."""
        return self._head or b""

    @property
    def has_told(self) -> bool:
        """Its usage, in a read of its own."""
        return self._usage is not None

    def goes_on(self, frames: list[bytes]) -> bool:
        """Whether these are texts like that one; they may be empty."""
        before, behind = self.before, self.behind
        around = len(before) + len(behind)
        for raw in frames:
            text = raw.removeprefix(before).removesuffix(behind)
            if len(text) + around != len(raw) or ends_early(text) or not (text.isascii() or is_text(text)):
                return False
        return True

    def nears_its_end(self, frames: list[bytes]) -> bytes | None:
        """What leaves of other frames behind a text, of which the last is not the stream's; None where one of them is
        not known."""
        assert self._head is not None
        known = _known(self._dialect, self._memory, self._head, frames)
        if known is None:
            return None
        _, _, usage, tells = known
        if usage is not None:
            if self._usage is not None:
                return None
            self._usage = usage
            if self._strips_usage:
                frames = frames[:tells] + frames[tells + 1 :]
        return b"".join(frames)

    def ends(self, frames: list[bytes]) -> AtOnce | None:
        """What leaves of the frames with which it ends, behind a text; None where one of them is not known."""
        assert self._head is not None
        strips, before = self._strips_usage, self._usage
        ended = _ended(self._dialect, self._memory, self._head, frames, True, strips)
        if ended is None or before is None:
            return ended
        return AtOnce(ended.out, before, USAGE_REMOVED if strips else UNTOUCHED) if ended.usage is None else None


def familiar(dialect: Dialect, *, strip_usage: bool) -> Familiar | None:
    """A stream that may be one; None where none is known for certain to end."""
    memory = _memories.get(dialect.name)
    if memory is None or not dialect.terminator or dialect.farewell:
        return None
    return Familiar(dialect, memory, strip_usage=strip_usage)


def _ended(
    dialect: Dialect, memory: _Memory, head: bytes, frames: list[bytes], spoke: bool, strip_usage: bool
) -> AtOnce | None:
    """The last frames of a stream, which had some text if it `spoke`."""
    terminator = dialect.terminator
    if not terminator or dialect.farewell or frames[-1] != terminator:
        return None
    known = _known(dialect, memory, head, frames[:-1])
    if known is None:
        return None
    stop, speaks, usage, tells = known
    if stop is None and not speaks and not spoke:
        return None
    if usage is not None and strip_usage:
        return AtOnce(b"".join(frames[:tells] + frames[tells + 1 :]), usage, USAGE_REMOVED)
    return AtOnce(b"".join(frames), usage)


# What frames that are known say together: why they stop, whether some text, a usage, and which of them tells that.
_Known = tuple[ir.StopReason | None, bool, ir.Usage | None, int]


def _known(dialect: Dialect, memory: _Memory, head: bytes, frames: list[bytes]) -> _Known | None:
    """None where one of them is not known. Each begins with `head`; at most one tells the usage, and nothing else."""
    stop, speaks, usage, tells, sayings = None, False, None, 0, memory.sayings
    for number, raw in enumerate(frames):
        rest = raw.removeprefix(head)
        if len(rest) + len(head) != len(raw):
            return None
        said = sayings.get(rest)
        if said is not None:
            if said[0] is Sight.END:
                return None
            stop = said[1] or stop
        elif memory.shape_of(rest) is not None:
            speaks = True
        elif usage is None and (usage := dialect.usage_alone(rest)) is not None:
            tells = number
        else:
            return None
    return stop, speaks, usage, tells
