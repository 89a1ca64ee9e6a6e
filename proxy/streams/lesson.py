"""How a translated stream is learnt, so that the next ones can be told by rote (`streams.rote`).

Of a good stream the frames are kept, its runs of text apart. If another one came that was alike but for what is a
stream's own, the frames are read and written once more, with marks in the place of that: where these come out is where
the values of others belong. That it is so is shown by pouring in the values of the stream at hand, which has to come
out as it did when it was read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, field

from proxy import ir
from proxy.dialects.dialect import Dialect, Voice, Words
from proxy.record import define
from proxy.streams.rote import MOST_SEEN, MOST_STEPS, USAGE, Memory, Scene, Step, Text
from proxy.wire import json_text
from proxy.wire.cast import Cast, form_of, poured
from proxy.wire.likeness import Likeness, likeness
from proxy.wire.mould import Mould, written
from proxy.wire.sse import CR

if TYPE_CHECKING:
    from proxy.streams.translation import Translation

MOST_FRAMES = 48  # of a stream that is worth it, its runs apart
MOST_BYTES = 8 << 10  # of these
LONGEST = 1024  # bytes of a frame
MOST_ALIKE = 8  # that may come next
REQUEST, TEXT, NEXT_TEXT = "RequestMark", b"TextMark", b"NextMark"
TIME = 4_102_444_807
NUMBER = 700_000_001  # the first mark of its kind; each is a number of its own
FAR = 600_000_000  # characters of text behind each of the marks: no stream at hand has as many


@define
class Heard:
    """A frame: what it is like, what it has of its own, and what left for it, if that has to be shown."""

    raw: bytes
    rest: bytes  # behind what all frames of its stream begin with
    out: bytes | None
    bare: bool = False  # it does not begin with that
    alike: Likeness | None = None
    mould: Mould | None = None
    values: list[bytes] = field(factory=list)

    def goes_on(self, before: Heard) -> bool:
        """With the run that `before` begins: some dialects' readers see it by the second text only."""
        mould, its = self.mould, before.mould
        return mould is not None and its is not None and mould.head == its.head and mould.tail == its.tail

    @property
    def key(self) -> bytes:
        if self.mould is not None:
            return b"text"
        return self.rest if self.alike is None else self.alike.key


@define
class Lesson:
    """One stream's. `begin` begins another one, which is read and written."""

    _dialect: Dialect
    _spoken: Dialect
    _voice: Voice
    _memory: Memory
    _begin: Callable[[Voice], Translation]
    _frames: list[Heard] = field(factory=list)
    _size: int = 0
    _head: bytes | None = None
    _fit: bool = True

    def hear(self, raw: bytes, out: bytes | None) -> None:
        """A frame that came, and what left for it; None where it was told by rote."""
        if not self._fit:
            return
        head = self._head
        if head is None:
            head = b""
            self._head = self._dialect.preamble(raw) or b""
        self._size += len(raw)
        fits = self._size <= MOST_BYTES and len(self._frames) < MOST_FRAMES and len(raw) <= LONGEST
        frame = self._judged(raw, head, out) if fits else None
        if frame is None:
            self._fit, self._frames = False, []
        elif not (self._frames and frame.goes_on(self._frames[-1])):
            self._frames.append(frame)

    def _judged(self, raw: bytes, head: bytes, out: bytes | None) -> Heard | None:
        assert self._dialect.words is not None
        if CR in raw or raw.find(b"\n\n") != len(raw) - 2 or raw[:1] == b'"':
            return None
        if not raw.startswith(head):
            return Heard(raw, raw, out, bare=True)
        rest = raw[len(head) :]
        mould = self._dialect.text_mould(raw)
        if mould is not None and mould.head.startswith(head) and (text := mould.single(raw)):
            good, _ = written([text])
            if not good or (not self._frames and self._head):
                return None
            return Heard(raw, rest, out, mould=mould, values=good)
        alike = likeness(rest, self._dialect.words.own)
        if alike is None:
            return Heard(raw, rest, out)
        return Heard(raw, rest, out, alike=alike, values=alike.values(rest) or [])

    def end(self, usage: ir.Usage | None) -> None:
        """The stream has come to a good end, and told that usage."""
        memory = self._memory
        memory.futile += 1
        if not self._fit or not any(frame.mould for frame in self._frames):
            return
        kind = hash(tuple([frame.key for frame in self._frames]))
        if kind not in memory.seen:
            if len(memory.seen) >= MOST_SEEN:
                memory.seen.clear()
            memory.seen.add(kind)
            return
        memory.seen.discard(kind)
        assert self._dialect.words is not None
        stream = self._begin(evolve(self._voice, request_id=REQUEST, created=TIME))
        rehearsal = Rehearsal(self._dialect, self._dialect.words, self._spoken, self._voice, stream)
        if steps := rehearsal.steps(self._frames, usage):
            memory.futile = 0
            self._remember(steps)

    def _remember(self, steps: Sequence[Step]) -> None:
        memory = self._memory
        if memory.steps + len(steps) > MOST_STEPS:
            memory.forget()
        scene = memory.root
        for frame, step in zip(self._frames, steps, strict=True):
            known = _known(scene, frame)
            if known is None:
                _add(scene, frame, step)
                memory.steps += 1
            scene = (known or step).following


def _known(scene: Scene, frame: Heard) -> Step | None:
    if frame.alike is not None:
        return next((step for alike, step in scene.likes if alike.key == frame.alike.key), None)
    if frame.mould is None:
        return scene.fixed.get(frame.rest)
    before = frame.mould.head[len(frame.raw) - len(frame.rest) :]
    for step in scene.texts:
        text = step.text
        if text is not None and (text.before, text.behind) == (before, frame.mould.tail):
            return step
    return None


def _add(scene: Scene, frame: Heard, step: Step) -> None:
    if frame.alike is not None:
        del scene.likes[MOST_ALIKE - 1 :]
        scene.likes.insert(0, (frame.alike, step))
    elif frame.mould is not None:
        del scene.texts[MOST_ALIKE - 1 :]
        scene.texts.insert(0, step)
    else:
        scene.fixed[frame.rest] = step


class Rehearsal:
    """A stream told once more, with marks; beside it what the stream at hand has in their place."""

    def __init__(self, dialect: Dialect, words: Words, spoken: Dialect, voice: Voice, stream: Translation) -> None:
        """`stream` reads and writes, and has a voice of marks."""
        self._dialect = dialect
        self._words = words
        self._spoken = spoken
        self._stream = stream
        self._marks = [b"%d" % TIME, b""]  # as `Rote` has its values: see `USAGE`
        self._values = [b"%d" % voice.created, b""]
        self._usage: ir.Usage | None = None  # of the stream at hand
        self._counted: list[bytes] = []  # marks that may only come out within the usage in the client's words
        self._made = 0  # marks
        self._said = 0  # characters of text
        self._head: bytes | None = None  # what all frames begin with, once it is marked

    def steps(self, frames: Sequence[Heard], usage: ir.Usage | None) -> list[Step] | None:
        """One for each frame; None where they would not tell it as it was. `usage` is what it told."""
        steps = []
        for frame in frames:
            step = self._step(frame)
            if step is None:
                return None
            steps.append(step)
        return steps if self._stream.done and self._usage == usage else None

    def _step(self, frame: Heard) -> Step | None:
        stream, before = self._stream, self._stream.usage
        own = self._marks_for(frame)
        out = stream.feed(self._marked(frame, own))
        if stream.failure is not None or any(stream.edits.values()):
            return None
        tells = stream.usage != before
        if tells and not self._is_told(frame.raw):
            return None
        if frame.mould is None:
            self._take(frame, own, tells=tells)
        text = frame.mould is not None
        form = form_of(out, [*self._marks, *own] if text else self._marks)
        if not self._holds(form, [*self._values, *frame.values] if text else self._values, frame.out):
            return None
        step = Step(form)
        step.committed, step.done, step.stop, step.tells = stream.committed, stream.done, stream.stop, tells
        step.usage = self._usage_names(out)
        if frame.mould is not None:
            step.text = self._text(frame.mould, frame.raw[: len(frame.raw) - len(frame.rest)])
            return step if step.text is not None else None
        return step

    def _marks_for(self, frame: Heard) -> list[bytes]:
        if frame.mould is not None:
            return [TEXT]
        marks = []
        for is_number in frame.alike.digits if frame.alike is not None else ():
            self._made += 1
            marks.append(b"%d" % (NUMBER + self._made) if is_number else b"OwnMark%dx" % self._made)
        return marks

    def _marked(self, frame: Heard, marks: Sequence[bytes]) -> bytes:
        rest = frame.rest
        if frame.mould is not None:
            before = len(frame.mould.head) - (len(frame.raw) - len(rest))
            rest = rest[:before] + marks[0] + frame.mould.tail
        elif frame.alike is not None:
            rest = frame.alike.put(marks)
        if self._head is None:
            self._head = self._dialect.preamble(rest) or b""
            return rest
        return rest if frame.bare else self._head + rest

    def _take(self, frame: Heard, marks: Sequence[bytes], *, tells: bool) -> None:
        """Among the values, which those of later frames come behind."""
        digits = frame.alike.digits if frame.alike is not None else ()
        for mark, value, is_number in zip(marks, frame.values, digits, strict=True):
            if tells and is_number:
                self._counted.append(mark)
            self._marks.append(b"" if tells and is_number else mark)
            self._values.append(value)

    def _is_told(self, raw: bytes) -> bool:
        """The usage, of both streams."""
        try:
            self._usage = self._words.usage_in(json_text.read(raw[raw.find(b"{") :]), self._usage)
        except ValueError:
            return False
        for usage, told in ((self._stream.usage, self._marks), (self._usage, self._values)):
            written = self._spoken.write_usage(usage) if usage is not None and self._spoken.write_usage else None
            told[USAGE] = json_text.write(written) if written else b""
        return True

    def _holds(self, form: bytes | Cast, values: Sequence[bytes], out: bytes | None) -> bool:
        """Whether nothing of the marks is left, nor how far the text has come, and the values come out as they did."""
        left = form if isinstance(form, bytes) else form[0]
        if REQUEST.encode() in left or any(mark in left for mark in self._counted):
            return False
        if self._said and b"%d" % self._said in left:
            return False
        return out is None or out == (form if isinstance(form, bytes) else poured(form, values))

    def _usage_names(self, out: bytes) -> tuple[str, ...] | None:
        usage, write = self._stream.usage, self._spoken.write_usage
        if usage is None or write is None or not self._marks[USAGE] or self._marks[USAGE] not in out:
            return None
        return tuple(write(usage) or ())

    def _text(self, mould: Mould, head: bytes) -> Text | None:
        """How the texts behind it leave, told by two that are read and written: some runs are known by the second.
        `head` is what all frames of the stream at hand begin with."""
        stream, before = self._stream, mould.head[len(head) :]
        for _ in range(2):
            out = stream.feed(b"%b%b%b%b" % (self._head or b"", before, NEXT_TEXT, mould.tail))
        cast, retelling = stream.cast, stream.retelling
        if cast is None or NEXT_TEXT.join(cast) != out or form_of(cast[1], self._marks) is not cast[1]:
            return None
        if retelling is None:
            return None
        retelling.chars += FAR
        self._said += len(TEXT) + 2 * len(NEXT_TEXT) + FAR
        return Text(before, mould.tail, form_of(cast[0], self._marks), cast[1], alone=not head)
