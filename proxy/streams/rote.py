"""Translated streams told by rote: what one before became, with holes for what is a stream's own.

Translated streams of one kind mostly go alike. So what has been learnt of them (`streams.lesson`) is a tree of scenes:
what may come next, what leaves for it, and which scene follows. A stream that goes by it is neither read nor written,
its usage apart. What came of it is kept, as far as it is not a run of text, so that reader and writer can catch up
where something comes that was never there before.
"""

from __future__ import annotations

import orjson

from proxy import ir
from proxy.dialects.dialect import Dialect, Voice
from proxy.streams.recital import Passage, Recital, Stage
from proxy.wire import mould
from proxy.wire.cast import Cast, poured
from proxy.wire.chunked_run import ChunkedRun
from proxy.wire.likeness import Likeness
from proxy.wire.mould import QUOTE, Mould, ends_early

MOST_MEMORIES = 64
MOST_STEPS = 128  # of a memory
MOST_PASSAGES = 64  # of a memory, since it was empty
MOST_READS = 8  # that may come next
MOST_SEEN = 64  # kinds of streams of which one came, and no second
MOST_FUTILE = 32  # lessons in a row of which nothing was learnt: few more are taken then
SELDOM = 16  # one in so many
DEAR = 8  # passages that came again save what it costs to learn one
USAGE = 1  # its place among the values: behind the voice's time, before the stream's own


class Step:
    """A frame that may come, and what follows from it."""

    __slots__ = ("committed", "done", "following", "form", "out", "pick", "stop", "tells", "text", "usage")

    def __init__(self, out: bytes | Cast) -> None:
        self.out: bytes = b""
        self.form: bytes | None = None  # with holes, for which `pick` takes of the values
        if isinstance(out, bytes):
            self.out = out
        else:
            self.form, self.pick = out
        self.following = Scene()
        self.committed = self.done = False
        self.stop: ir.StopReason | None = None
        self.tells = False  # usage
        self.usage: tuple[str, ...] | None = None  # what of it is written: the names of its members
        self.text: Text | None = None


class Text:
    """What follows from a piece of text: how the run that it begins is recast."""

    __slots__ = ("before", "behind", "chunked", "mould", "stem", "tail")

    def __init__(self, before: bytes, behind: bytes, stem: bytes | Cast, tail: bytes, *, alone: bool) -> None:
        """`alone`: the frames have no head of their own before that."""
        self.before, self.behind = before, behind
        self.stem = stem
        self.tail = tail
        self.mould = Mould(before, behind) if alone else None
        self.chunked = ChunkedRun(self.mould) if self.mould is not None else None


class Scene:
    """What may come next: frames that are always the same, frames with values, pieces of text."""

    __slots__ = ("fixed", "likes", "texts")

    def __init__(self) -> None:
        self.fixed: dict[bytes, Step] = {}
        self.likes: list[tuple[Likeness, Step]] = []
        self.texts: list[Step] = []


class Memory:
    """What was learnt of the streams of one dialect for the clients of another, who asked for the same model."""

    __slots__ = ("_passages", "futile", "root", "seen", "stage", "steps")

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.futile = 0
        self.forget()

    def forget(self) -> None:
        self.root = Scene()
        self.steps = 0
        self.stage = Stage(self.root)
        self._passages = 0

    def takes_lesson(self) -> bool:
        if self.futile < MOST_FUTILE:
            return True
        self.futile += 1
        return self.futile % SELDOM == 0

    def takes_passage(self, stage: Stage) -> bool:
        """Whether another read is learnt by heart there; see `streams.by_heart`."""
        most = MOST_READS * DEAR
        if stage.unmet + DEAR <= most:
            stage.unmet += DEAR
            return True
        stage.unmet += 1
        if stage.unmet < most + SELDOM:
            return False
        stage.unmet = most
        return True

    def add(self, stage: Stage, passage: Passage) -> None:
        if self._passages >= MOST_PASSAGES:
            self.stage, self._passages = Stage(self.root), 0
        del stage.passages[MOST_READS - 1 :]
        stage.passages.insert(0, passage)
        self._passages += 1


_memories: dict[tuple[str, str, bool, str], Memory] = {}


def memory_of(dialect: Dialect, spoken: Dialect, voice: Voice) -> Memory:
    key = dialect.name, spoken.name, voice.include_usage, voice.model
    memory = _memories.get(key)
    if memory is None:
        if len(_memories) >= MOST_MEMORIES:
            _memories.clear()
        memory = _memories[key] = Memory()
    return memory


def recital_of(dialect: Dialect, spoken: Dialect, model: str, include_usage: bool, created: int) -> Recital | None:
    """Of a stream that began in that second, if others did, for a client who asked for that."""
    memory = _memories.get((dialect.name, spoken.name, include_usage, model))
    return Recital(memory, created) if memory is not None else None


class Rote:
    """One stream's way through the scenes."""

    __slots__ = ("_dialect", "_head", "_scene", "_spoken", "_telling", "_usage", "_values", "lost", "script", "step")

    def __init__(self, dialect: Dialect, spoken: Dialect, voice: Voice, scene: Scene) -> None:
        self._dialect = dialect
        self._spoken = spoken
        self._head = b""  # what all frames begin with, once one has come
        self._scene = scene
        self._values: list[bytes] = [b"%d" % voice.created, b""]  # the stream's own come behind them
        self.script: list[bytes | int] = []  # what came: frames, and how many characters of text behind one
        self.step: Step | None = None  # the last
        self._usage: ir.Usage | None = None
        self._telling: list[bytes] = []  # frames whose usage has not been read, which can wait for the first bytes
        self.lost = False  # what comes next is not known

    def tell(self, block: bytes, at: int, out: list[bytes]) -> int:
        """Of the frames from `at` on what leaves for them; up to a text, to the end of the stream or of the block, or
        to what is not known. Where that is."""
        head, scene, script, end = self._head, self._scene, self.script, len(block)
        while at < end:
            border = block.find(b"\n\n", at) + 2
            raw = rest = block[at:border]
            if head:
                if raw.startswith(head):
                    rest = raw[len(head) :]
                elif raw[:1] == b'"':  # as what stands behind a head
                    self.lost = True
                    break
            elif not script:
                head = self._head = self._dialect.preamble(raw) or b""
            step = (scene.fixed and scene.fixed.get(rest)) or self._found(scene, rest)
            if step is not None and step.tells:
                self._telling.append(raw)
            if step is None or (step.usage is not None and not self._is_put(step.usage)):
                self.lost = True
                break
            at = border
            script.append(raw)
            self.step, scene = step, step.following
            if step.form is not None:
                out.append(step.form % step.pick(self._values))
            elif step.out:
                out.append(step.out)
            if step.text is not None:
                self._values.pop()
                break
            if step.done:
                break
        self._scene = scene
        return at

    def _found(self, scene: Scene, rest: bytes) -> Step | None:
        """What a frame is that has values of its own, which are then among the others."""
        for step in scene.texts:
            text = step.text
            if text is not None and rest.startswith(text.before) and rest.endswith(text.behind):
                said = rest[len(text.before) : -len(text.behind)]
                if QUOTE in said or not mould.length(said):
                    good = mould.written([said])[0] if not ends_early(said) else []
                    if not good:
                        return None
                    said = good[0]
                self._values.append(said)
                return step
        for alike, step in scene.likes:
            values = alike.values(rest)
            if values is not None:
                return step if self._keeps(values, alike.digits) else None
        return None

    def _keeps(self, values: list[bytes], digits: tuple[bool, ...]) -> bool:
        """False for an id that came before: it may be the same thing that goes on, where another was begun."""
        for value, is_number in zip(values, digits, strict=True):
            if not is_number and value in self._values:
                return False
            self._values.append(value)
        return True

    @property
    def usage(self) -> ir.Usage | None:
        words = self._dialect.words
        while self._telling and words is not None:
            raw = self._telling.pop(0)
            self._usage = words.usage_in(orjson.loads(raw[raw.find(b"{") :]), self._usage)
        return self._usage

    def _is_put(self, names: tuple[str, ...]) -> bool:
        """The usage in the client's words, if these have the members that they are known with."""
        usage, write = self.usage, self._spoken.write_usage
        told = write(usage) if usage is not None and write is not None else None
        if told is None or tuple(told) != names:
            return False
        self._values[USAGE] = orjson.dumps(told)
        return True

    def run(self, text: Text) -> tuple[Mould, ChunkedRun | None, tuple[bytes, bytes]]:
        """That such a text begins, and what stands around its texts when they leave."""
        stem = text.stem if isinstance(text.stem, bytes) else poured(text.stem, self._values)
        return text.mould or Mould(self._head + text.before, text.behind), text.chunked, (stem, text.tail)
