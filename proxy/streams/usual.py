"""How the streams of one kind usually begin and end, as they stand on the wire.

Two streams of a kind begin alike but for an id and a time, and end alike but for what they took in tokens. What the
last one was found to be (`streams.familiar`) the next one is, if it has the same bytes around such values: shown by
putting it together again and comparing. One that has not goes the way of the last one, and is learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from attrs import evolve

from proxy import ir
from proxy.dialects.dialect import Dialect
from proxy.streams.familiar import MOST_AT_ONCE, UNTOUCHED, USAGE_REMOVED, says
from proxy.wire.head_shape import Head
from proxy.wire.mould import PLAIN

MOST_ENDINGS = 16  # of a kind: one for each length
TOO_MANY = 10**12  # of tokens: of a count of as many digits, not all is read
LARGEST = 4 << 10  # bytes of a read that is learnt from
MOST_FUTILE, SELDOM = 64, 16  # endings learnt in vain, behind which one in so many is
TRIED = (123_456, 7_891), (3, 20)  # what was asked and what was written, to show what a usage hangs on
ZERO = b"0"[0]
LAST_CHUNK = b"0\r\n\r\n"
# What leaves of a stream that came in one read, chunks and all, how much of that is the body's, and what it took.
Whole = tuple[bytes, int, ir.Usage, Mapping[str, int]]


class Opening:
    """A first read, from the answer's head on, or from what stands behind that: one chunk and in it one frame of those
    that stand before a text. And how the first text came."""

    __slots__ = (
        "_between", "_first", "_id", "_last", "_preamble", "_time", "at", "before", "behind", "head", "least",
        "length", "size",
    )  # fmt: skip

    def __init__(
        self, head: Head | None, data: bytes, at: int, spans: tuple[int, int, int, int], preamble: int
    ) -> None:
        """`at` is where the chunk begins in `data`; `spans`, where in its frame an id and a time begin and end; None is
        the head of one that differs each time."""
        self.head, self.at = head, at
        frame = data.find(b"\n", at) + 1
        self.size = len(data) - frame - 2  # bytes of the body
        self.before = self.behind = b""  # what stands around the text of a frame, behind the preamble; with its chunk's
        self.least = 0  # end, which does not count here
        id_at, id_end, time_at, time_end = (frame + it for it in spans)
        self.length = len(data)
        self._first, self._between, self._last = data[:id_at], data[id_end:time_at], data[time_end:]
        self._id, self._time = slice(id_at, id_end), slice(time_at, time_end)
        self._preamble = slice(frame, frame + preamble)

    def preamble(self, data: bytes) -> bytes | None:
        """What all frames of a stream begin with whose first read this is; None where it is another one."""
        if len(data) != self.length:
            return None
        id, time = data[self._id], data[self._time]
        if (
            b"".join((self._first, id, self._between, time, self._last)) == data
            and id.translate(PLAIN) == id and time.isdigit() and time[0] != ZERO
        ):  # fmt: skip
            return data[self._preamble]
        return None


class Ending:
    """The last read of an answer, each of its frames a chunk, but for three counts."""

    __slots__ = (
        "_around", "_behind", "_cut", "_first", "_head", "_like", "_second", "_turned", "_until", "edits", "size",
    )  # fmt: skip

    edits: Mapping[str, int]

    def __init__(
        self,
        around: list[bytes],
        between: tuple[bytes, bytes],
        behind: bytes,
        head: int,
        like: ir.Usage,
        *,
        turned: bool,
    ) -> None:
        """`around` are the preambles, of so many bytes, up to the first count; `turned`: the sum stands before what was
        written."""
        self._around = around
        self._first, self._second = between
        self._behind, self._until, self._head = behind, -len(behind), head
        self._like, self._turned = like, turned
        self.size, self.edits = 0, UNTOUCHED  # bytes of the body that leave
        self._cut: tuple[int, int] | None = None  # the chunk that does not

    def usage(self, data: bytes, front: bytes, head: bytes) -> ir.Usage | None:
        """What a stream took whose frames begin with `head`; None where `data` is not `front` and this end."""
        said, first, second = head.join(self._around), self._first, self._second
        before, _, rest = data[len(front) + len(said) : self._until].partition(first)
        between, _, behind = rest.partition(second)
        try:
            counts = asked, middle, last = int(before), int(between), int(behind)
        except ValueError:
            return None
        # A number that is written in any other way, with a zero before it or a sign, is not what comes out here.
        told = b"%b%b%d%b%d%b%d%b" % (front, said, asked, first, middle, second, last, self._behind)
        if told != data or len(head) != self._head or min(counts) <= 0 or max(counts) >= TOO_MANY:
            return None
        like, written = self._like, last if self._turned else middle
        return ir.Usage(
            asked, like.cache_read, like.cache_write_5m, like.cache_write_1h, written, like.reasoning,
            like.audio_input, like.audio_output,
        )  # fmt: skip

    def cut(self, begin: int, end: int) -> None:
        """The chunk between them, which tells the usage, is nothing that the client asked for."""
        self._cut, self.edits = (begin, end), USAGE_REMOVED

    def leaves(self, data: bytes, at: int) -> bytes:
        """What the client gets, where this end begins `at` there."""
        cut = self._cut
        return data if cut is None else data[: at + cut[0]] + data[at + cut[1] :]

    def holds(self, dialect: Dialect, rest: bytes, spans: list[tuple[int, int]]) -> bool:
        """Whether usage hangs on these counts as it does here: with others the dialect finds as much."""
        (first, first_end), (second, second_end), (third, third_end) = spans
        for asked, written in TRIED:
            counts = (asked, asked + written, written) if self._turned else (asked, written, asked + written)
            middle, before_last = rest[first_end:second], rest[second_end:third]
            told = b"%b%d%b%d%b%d%b" % (
                rest[:first], counts[0], middle, counts[1], before_last, counts[2], rest[third_end:],
            )  # fmt: skip
            if dialect.usage_alone(told) != evolve(self._like, input=asked, output=written):
                return False
        return True


class Usual:
    """What is known of the streams of a kind."""

    __slots__ = ("endings", "futile", "opening")

    def __init__(self) -> None:
        self.opening: Opening | None = None  # the last, if it may come again
        self.endings: dict[int, Ending] = {}  # by how many bytes they have
        self.futile = 0  # ends that came in a row, and none of them again

    def whole(self, opening: Opening, data: bytes) -> Whole | None:
        """A stream that came in one read, from what `opening` begins with on; None where it did not begin so, or ends
        as none did before, or has other things between than texts."""
        start = data[: opening.length]
        preamble = opening.preamble(start)
        if preamble is None:
            return None
        before, behind = preamble + opening.before, opening.behind
        _, *parts = data[opening.length :].split(before, MOST_AT_ONCE)
        front, size, least = start, opening.size, opening.least
        for part in parts:
            text = part.partition(b'"')[0]
            if not says(text):
                return None
            said = least + len(text)
            front = b"%b%x\r\n%b%b%b" % (front, said, before, text, behind)
            size += said
        ending = self.endings.get(len(data) - len(front)) if parts else None
        usage = ending.usage(data, front, preamble) if ending is not None else None
        if ending is None or usage is None:
            return None
        self.futile = 0
        return ending.leaves(data, len(front))[opening.at :], size + ending.size, usage, ending.edits

    def tires(self) -> bool:
        """Whether so many were learnt from in vain that the next one, whose end has come, is not."""
        self.futile += 1
        return self.futile > MOST_FUTILE and self.futile % SELDOM > 0

    def learn_opening(
        self, dialect: Dialect, head: Head | None, data: bytes, at: int, preamble: bytes, shape: tuple[bytes, bytes]
    ) -> None:
        """Of a stream whose first frames were known, the first of them in a read of its own; `shape` is what stands
        around a text, behind the preamble."""
        spans = dialect.own_at(preamble)
        if spans is None or len(data) > LARGEST:
            return
        opening = Opening(head, data, at, (*spans[0], *spans[1]), len(preamble))
        if opening.preamble(data) == preamble:
            opening.before, opening.behind = shape[0], shape[1] + b"\r\n"
            opening.least = len(preamble) + len(shape[0]) + len(shape[1])
            self.opening = opening

    def learn_ending(
        self, dialect: Dialect, data: bytes, frames: list[bytes], head: bytes, usage: ir.Usage, *, strips: bool
    ) -> None:
        """Of a stream that ended well with these frames and told that usage in one of them; `data` are their chunks."""
        known = self.endings.get(len(data))
        if len(data) > LARGEST or (known is not None and known.usage(data, b"", head) == usage):
            return  # of one that is known, it was the beginning that differed
        ending = _ending(dialect, frames, head, usage, strips=strips)
        if ending is not None and ending.usage(data, b"", head) == usage:
            if len(self.endings) >= MOST_ENDINGS:
                self.endings.clear()
            self.endings[len(data)] = ending


def _ending(dialect: Dialect, frames: list[bytes], head: bytes, usage: ir.Usage, *, strips: bool) -> Ending | None:
    *told, last = frames
    if not told or not all(raw.startswith(head) for raw in told):
        return None
    rest = told[-1][len(head) :]
    spans = dialect.counts_at(rest)
    if spans is None or spans[0] != min(spans):
        return None
    first, second, third = sorted(spans)
    around = [b"%x\r\n" % len(told[0])]
    around += [b"%b\r\n%x\r\n" % (raw[len(head) :], len(after)) for raw, after in pairwise(told)]
    around.append(rest[: first[0]])
    between = rest[first[1] : second[0]], rest[second[1] : third[0]]
    end = b"%x\r\n%b\r\n%b" % (len(last), last, LAST_CHUNK)
    behind = b"%b\r\n%b" % (rest[third[1] :], end)
    ending = Ending(around, between, behind, len(head), usage, turned=spans[2] == second)
    ending.size = sum(map(len, frames))
    if strips:
        ending.size -= len(told[-1])
        size = sum(len(raw) + len(b"%x\r\n\r\n" % len(raw)) for raw in told)
        own = len(told[-1]) + len(b"%x\r\n\r\n" % len(told[-1]))
        ending.cut(size - own, size)
    return ending if ending.holds(dialect, rest, [first, second, third]) else None
