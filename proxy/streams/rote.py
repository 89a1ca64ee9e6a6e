"""Translated streams told by rote: what one before became, with holes for what is a stream's own.

Translated streams of one kind mostly go alike. So what has been learnt of them (`streams.lesson`) is a tree of scenes:
what may come next, what leaves for it, and which scene follows. A stream that goes by it is neither read nor written,
its usage apart. What came of it is kept, as far as it is not a run of text, so that reader and writer can catch up
where something comes that was never there before.
"""

from __future__ import annotations

import orjson

from proxy import ir
from proxy.dialects.dialect import Dialect, Voice, Words
from proxy.wire import mould
from proxy.wire.cast import Cast, poured
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.likeness import Likeness
from proxy.wire.mould import Mould, ends_early

MOST_MEMORIES = 64
MOST_STEPS = 128  # of a memory
MOST_SEEN = 64  # kinds of streams of which one came, and no second
MOST_FUTILE = 32  # lessons in a row of which nothing was learnt: few more are taken then
SELDOM = 16  # one in so many
USAGE = 1  # its place among the values: behind the voice's time, before the stream's own


class Step:
    """A frame that may come, and what follows from it."""

    __slots__ = ("cast", "committed", "done", "following", "out", "stop", "tells", "text", "usage")

    def __init__(self, out: bytes | Cast, following: Scene) -> None:
        self.out: bytes | None = out if isinstance(out, bytes) else None
        self.cast: Cast | None = None if isinstance(out, bytes) else out
        self.following = following
        self.committed = self.done = False
        self.stop: ir.StopReason | None = None
        self.tells = False  # usage
        self.usage: tuple[str, ...] | None = None  # what of it is written: the names of its members
        self.text: Text | None = None


class Text:
    """What follows from a piece of text: how the run that it begins is recast."""

    __slots__ = ("before", "behind", "chunked", "mould", "stem", "tail", "tail_of_all")

    def __init__(self, before: bytes, behind: bytes, stem: bytes | Cast, tail: bytes, *, alone: bool) -> None:
        """`alone`: the frames have no head of their own before that."""
        self.before, self.behind = before, behind
        self.stem = stem
        self.tail = tail
        self.mould = Mould(before, behind) if alone else None
        self.chunked = ChunkedRun(self.mould) if self.mould is not None else None


class Scene:
    """What may come next: frames that are always the same, frames with values, pieces of text; and `bare` ones, which
    do not begin as all frames of their stream."""

    __slots__ = ("bare", "fixed", "likes", "texts")

    def __init__(self) -> None:
        self.fixed: dict[bytes, Step] = {}
        self.bare: dict[bytes, Step] = {}
        self.likes: list[tuple[Likeness, Step]] = []
        self.texts: list[Step] = []


class Memory:
    """What was learnt of the streams of one dialect for the clients of another, who asked for the same model."""

    __slots__ = ("futile", "root", "seen", "steps")

    def __init__(self) -> None:
        self.root = Scene()
        self.steps = 0
        self.seen: set[int] = set()
        self.futile = 0

    def takes_lesson(self) -> bool:
        if self.futile < MOST_FUTILE:
            return True
        self.futile += 1
        return self.futile % SELDOM == 0


_memories: dict[tuple[str, str, bool, str], Memory] = {}


def memory_of(dialect: Dialect, spoken: Dialect, voice: Voice) -> Memory:
    key = dialect.name, spoken.name, voice.include_usage, voice.model
    memory = _memories.get(key)
    if memory is None:
        if len(_memories) >= MOST_MEMORIES:
            _memories.clear()
        memory = _memories[key] = Memory()
    return memory


class Rote:
    """One stream's way through the scenes."""

    __slots__ = ("_head", "_preamble", "_scene", "_usage_in", "_write_usage", "step", "usage", "values")

    step: Step  # the last

    def __init__(self, dialect: Dialect, words: Words, spoken: Dialect, voice: Voice, scene: Scene) -> None:
        self._scene = scene
        self._preamble = dialect.preamble
        self._usage_in = words.usage_in
        self._write_usage = spoken.write_usage
        self._head: bytes | None = None  # what all frames begin with
        self.values: list[bytes] = [b"%d" % voice.created, b""]  # the stream's own come behind them
        self.usage: ir.Usage | None = None

    def said(self, raw: bytes) -> bytes | None:
        """What leaves for a frame; None where it is not known."""
        rest, head, scene = raw, self._head, self._scene
        if head is None:
            self._head = self._preamble(raw) or b""
        elif raw.startswith(head):
            rest = raw[len(head) :]
        elif raw not in scene.bare:
            return None
        step = scene.fixed.get(rest) or scene.bare.get(raw)
        if step is None:
            for it in scene.texts:
                assert it.text is not None
                if rest.startswith(it.text.before) and rest.endswith(it.text.behind):
                    return self._text(rest, it)
            step = self._alike(rest, scene)
            if step is None:
                return None
        if (step.tells and not self._is_told(raw)) or (step.usage is not None and not self._is_put(step.usage)):
            return None
        self.step, self._scene = step, step.following
        return step.out if step.cast is None else poured(step.cast, self.values)

    def _text(self, rest: bytes, step: Step) -> bytes | None:
        assert step.text is not None
        text = rest[len(step.text.before) : -len(step.text.behind)]
        if ends_early(text):
            return None
        good, _ = mould.written([text])
        if not good:
            return None
        self.step, self._scene = step, step.following
        return step.out if step.cast is None else poured(step.cast, [*self.values, good[0]])

    def _alike(self, rest: bytes, scene: Scene) -> Step | None:
        for alike, step in scene.likes:
            values = alike.values(rest)
            if values is not None:
                self.values += values
                return step
        return None

    def _is_told(self, raw: bytes) -> bool:
        """The usage that a frame tells."""
        try:
            self.usage = self._usage_in(orjson.loads(raw[raw.find(b"{") :]), self.usage)
        except orjson.JSONDecodeError:
            return False
        return self.usage is not None

    def _is_put(self, names: tuple[str, ...]) -> bool:
        """The usage in the client's words, if these have the members that they are known with."""
        told = self._write_usage(self.usage) if self.usage is not None and self._write_usage is not None else None
        if told is None or tuple(told) != names:
            return False
        self.values[USAGE] = orjson.dumps(told)
        return True

    def run(self) -> tuple[Mould, ChunkedRun | None, tuple[bytes, bytes]]:
        """Of the text that came last: the run that it begins, and what stands around its texts when they leave."""
        text = self.step.text
        assert text is not None
        stem = text.stem if isinstance(text.stem, bytes) else poured(text.stem, self.values)
        made = text.mould or Mould((self._head or b"") + text.before, text.behind)
        return made, text.chunked, (stem, text.tail)
