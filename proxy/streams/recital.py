"""Translated streams each of whose reads came in others as well, but for what is a stream's own.

Where a stream is told by rote (`streams.rote`), frame by frame, a read of it may be one step: it is taken as it stands
on the wire, its values are cut out by one pattern that passes over all between them, and shown to be right by putting
the read together again. How such a passage is learnt is in `streams.by_heart`. A stream that goes by passages has no
reader, no writer and no `Translation`; one is asked for what others did not have, and is told what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proxy import ir
from proxy.streams.runs import Retelling
from proxy.wire import mould
from proxy.wire.chunked_run import ChunkedRun

if TYPE_CHECKING:
    from proxy.streams.rote import Memory, Scene, Text
    from proxy.streams.sums import Part

Pick = Callable[[Sequence[bytes]], Any]


class Stage:
    """Where a stream stands between two reads, and what may come next. What its values are hangs on its way here."""

    __slots__ = ("made", "numbers", "passages", "places", "scene", "stem", "text", "told", "unmet")

    def __init__(self, scene: Scene) -> None:
        self.passages: list[Passage] = []
        self.scene = scene
        self.places: list[Part] = [0, b""]  # where the values of `Rote` are among a stream's own; or they themselves
        self.made = 1  # values of a stream so far
        self.numbers: frozenset[int] = frozenset()  # which of them are numbers
        self.told: list[list[Part]] = []  # frames that told usage
        self.text: Text | None = None  # of the run that may go on
        self.stem: list[Part] = []  # what stands before a text of that when it leaves
        self.unmet = 0  # what it cost to learn passages here, less what those saved that came again


class Passage:
    """A read: `cut` finds its values, `form` puts it together again from them. What leaves for it is `out`, with holes
    for what `pick` takes of the stream's values, if that is not None."""

    __slots__ = (
        "chunked", "committed", "counted", "cut", "done", "following", "form", "ids", "opening", "out", "pick", "sizes",
        "sums", "usage",
    )  # fmt: skip

    cut: Callable[[bytes], Any]
    form: bytes
    sizes: Sequence[tuple[int, int, slice]]  # where the size of a chunk is that has values, what it is without, these
    ids: Sequence[int]  # which of a stream's values, its own among them, are identifiers that it brings
    sums: Sequence[Pick]  # of numbers, that are values as well, behind its own
    out: bytes
    pick: Pick | None
    committed: bool
    done: bool
    usage: list[int | None] | None  # as `ir.Usage` has it, known behind the passage, but for
    counted: Sequence[tuple[int, int]]  # members that are values
    chunked: ChunkedRun | None  # of the run that goes on behind it
    opening: tuple[bytes, Pick | None, bytes]  # what stands around a text of that, as `out` and `pick`, and behind it
    following: Stage


class Recital:
    """One stream's way through the passages."""

    __slots__ = ("_around", "_found", "memory", "out", "retelling", "script", "stage", "usage", "values")

    _found: list[bytes]  # the values, with those of the passage that was found,
    out: bytes  # what leaves for that,
    usage: ir.Usage | None  # and what is known behind it, if the stream ends with it
    _around: tuple[bytes, bytes]  # what stands around a text of the run that goes on

    def __init__(self, memory: Memory, created: int) -> None:
        self.memory = memory
        self.stage = memory.stage
        self.values = [b"%d" % created]
        self.script: list[bytes | int] = []  # the reads, and how many characters of text left behind one
        self.retelling: Retelling | None = None  # of the run that goes on

    def finds(self, data: bytes) -> Passage | None:
        """The passage that `data` is. Nothing goes on by that yet."""
        stage = self.stage
        for passage in stage.passages:
            if self.is_at(passage, data):
                if stage.unmet:
                    stage.unmet -= 1
                return passage
        return None

    def is_at(self, passage: Passage, data: bytes) -> bool:
        match = passage.cut(data)
        if match is None or passage.form % (own := match.groups()) != data:
            return False
        for at, size, within in passage.sizes:
            if int(own[at], 16) != size + len(b"".join(own[within])):
                return False
        values = [*self.values, *own]
        for place in passage.ids:  # one that came before may be the same thing that goes on, where another was begun
            if values.index(values[place]) < place:
                return False
        for places in passage.sums:
            values.append(b"%d" % sum(map(int, places(values))))
        self._found = values
        pick = passage.pick
        self.out = passage.out if pick is None else passage.out % pick(values)
        if passage.usage is not None:
            members = passage.usage.copy()
            for member, place in passage.counted:
                members[member] = int(values[place])
            self.usage = ir.Usage(*members)
        return True

    def goes_on(self, passage: Passage, data: bytes) -> None:
        """By that, which was found last."""
        retelling = self.retelling
        if retelling is not None:
            self.retelling = None
            if retelling.chars:
                self.script.append(retelling.chars)
        self.script.append(data)
        self.values, self.stage = self._found, passage.following
        if passage.chunked is not None:
            head, pick, tail = passage.opening
            self._around = around = (head if pick is None else head % pick(self.values)), tail
            self.retelling = Retelling(passage.chunked, around)

    def missed(self) -> list[bytes | int]:
        """By a stream that is to go on with it: see `script`."""
        chars = self.retelling.chars if self.retelling is not None else 0
        return [*self.script, chars] if chars else self.script

    def says(self, data: bytes, most: int) -> bytes:
        """What leaves for chunks of the run that goes on, if `data` is that and `most` bytes are enough; nothing for
        anything else."""
        text, retelling = self.stage.text, self.retelling
        if text is None or text.chunked is None or retelling is None:
            return b""
        texts, end = text.chunked.texts(data)
        good, chars = mould.written(texts)
        if not good or len(good) < len(texts) or end < len(data):
            return b""
        head, tail = self._around
        out = b"".join((head, (tail + head).join(good), tail))
        if len(out) > most:
            return b""
        retelling.chars += chars
        return out
