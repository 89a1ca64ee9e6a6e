"""How a read of a translated stream is learnt by heart: as a passage that others may have as well (`streams.recital`).

Its frames are known by rote (`streams.rote`): what each is, what leaves for it, what of it is the stream's own. Here
they are put together, as they stand in their chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from proxy.dialects.dialect import Dialect
from proxy.streams.recital import Passage, Pick, Recital, Stage
from proxy.streams.rote import USAGE, Step, Text
from proxy.streams.sums import Part, Sums, sums_of
from proxy.wire import json_text
from proxy.wire.cast import Cast
from proxy.wire.http1 import chunks_of
from proxy.wire.likeness import HOLE
from proxy.wire.mould import PLAIN

LONGEST = 4 << 10  # bytes of a read
MOST_FRAMES = 16
MOST_TEXTS = 2  # what brings more mostly brings another number of them each time
ZERO = b"0"  # means another thing than other numbers: it is no value

# Values, each behind as many bytes as stand between it and the one before. None of them can end elsewhere, for what
# follows it is none of its bytes: so none is looked at twice.
_SIZE = rb"([1-9a-f][0-9a-f]{0,3}+)"
_NUMBER = rb"([1-9][0-9]{0,8}+)"
_IDENTIFIER = rb"((?=[-_]*+[0-9A-Za-z])[-0-9A-Z_a-z]{1,48}+)"
_TEXT = rb"([ !#-\[\]-~]++)"  # as `PLAIN`
_HOLE = re.compile(rb"(%%|%b)")


class _Value:
    """One that a read has of its own."""

    __slots__ = ("pattern", "text")

    def __init__(self, pattern: bytes, text: bytes) -> None:
        self.pattern = pattern
        self.text = text


class _Usage:
    """In the client's words, with members of these names: what the first frames told that tell some."""

    __slots__ = ("names", "told")

    def __init__(self, names: tuple[str, ...], told: int) -> None:
        self.names = names
        self.told = told


_Part = bytes | int | _Value  # as it stands, or the place of a value that came before, or one of the read


def learnt(recital: Recital, dialect: Dialect, spoken: Dialect, data: bytes) -> Passage | None:
    """The passage that a read is from now on; it has been found in the recital."""
    memory, stage = recital.memory, recital.stage
    passage = passage_of(dialect, spoken, stage, data, recital.values) if memory.takes_passage(stage) else None
    if passage is None or not recital.is_at(passage, data):
        return None
    memory.add(stage, passage)
    return passage


def passage_of(dialect: Dialect, spoken: Dialect, stage: Stage, data: bytes, values: Sequence[bytes]) -> Passage | None:
    """The read that comes there, in a stream that has these values. None where some of it is not known by rote."""
    found = chunks_of(data) if len(data) <= LONGEST else None
    if found is None:
        return None
    chunks, ends = found
    read = _Read(dialect, spoken, stage, values)
    return read.passage(ends=ends) if all(map(read.hears, chunks)) else None


class _Read:
    """As it is heard, chunk by chunk and frame by frame."""

    def __init__(self, dialect: Dialect, spoken: Dialect, stage: Stage, values: Sequence[bytes]) -> None:
        self._dialect, self._spoken = dialect, spoken
        self._stage, self._values = stage, [*values]
        self._scene = stage.scene
        self._places: list[_Part] = [*stage.places]
        self._told: list[list[_Part]] = [[*parts] for parts in stage.told]
        self._text = stage.text
        self._stem: list[_Part] = [*stage.stem]
        self._read: list[bytes | _Value] = []
        self._chunks: list[tuple[_Value, int, int]] = []  # that have values: the size, what it is without, their number
        self._out: list[_Part | _Usage] = []
        self._step: Step | None = None
        self._frames = self._texts = 0
        self._done = False
        self._place: dict[_Value, int] = {}
        self._summed: dict[tuple[int, ...], int] = {}  # values that are added up, and the place of their sum
        self._numbers = stage.numbers

    def hears(self, chunk: bytes) -> bool:
        """Whether that is whole frames, each of them known."""
        read: list[bytes | _Value] = []
        at = 0
        while at < len(chunk):
            end = chunk.find(b"\n\n", at) + 2
            frame = self._hears(chunk[at:end]) if end > at + 1 and not self._done else None
            self._frames += 1
            if frame is None or self._frames > MOST_FRAMES:
                return False
            read += frame
            at = end
        values = [it for it in read if isinstance(it, _Value)]
        size = _Value(_SIZE, b"%x" % len(chunk))
        if values:
            self._chunks.append((size, len(chunk) - sum(len(it.text) for it in values), len(values)))
        self._read += (size if values else size.text, b"\r\n", *read, b"\r\n")
        return True

    def _hears(self, raw: bytes) -> list[bytes | _Value] | None:
        """The parts of a frame, if it is known."""
        text = self._text
        if text is not None and (said := self._said(text, raw)) is not None:
            self._out += (*self._stem, said, text.tail)
            return [text.before, said, text.behind]
        if self._stage.made == 1 and not self._frames and (self._dialect.preamble(raw) or not raw[:1].isalpha()):
            return None  # what all frames begin with is then the stream's own; or it is no event, and maybe a page
        step = self._scene.fixed.get(raw)
        return self._goes_on(step, [raw]) if step is not None else self._with_values(raw)

    def _with_values(self, raw: bytes) -> list[bytes | _Value] | None:
        for step in self._scene.texts:
            text = step.text
            if text is not None and (said := self._said(text, raw)) is not None:
                self._places.append(said)
                frame = self._goes_on(step, [text.before, said, text.behind])
                self._places.pop()
                return frame
        for alike, step in self._scene.likes:
            values = alike.values(raw)
            if values is None:
                continue
            parts = alike.key.split(HOLE)
            like: list[bytes | _Value] = [parts[0]]
            for value, is_number, behind in zip(values, alike.digits, parts[1:], strict=True):
                own = value if is_number and value == ZERO else _Value(_NUMBER if is_number else _IDENTIFIER, value)
                like += (own, behind)
                self._places.append(own)
            return self._goes_on(step, like)
        return None

    def _said(self, text: Text, raw: bytes) -> _Value | None:
        said = raw.removeprefix(text.before).removesuffix(text.behind)
        if not said or len(said) + len(text.before) + len(text.behind) != len(raw) or said.translate(PLAIN) != said:
            return None
        self._texts += 1
        return _Value(_TEXT, said) if self._texts <= MOST_TEXTS else None

    def _goes_on(self, step: Step, frame: list[bytes | _Value]) -> list[bytes | _Value] | None:
        if step.tells:
            self._told.append([*frame])
        places: list[_Part | _Usage] = [*self._places]
        places[USAGE] = _Usage(step.usage or (), len(self._told))
        self._out += _parts(step.out if step.form is None else (step.form, step.pick), places)
        self._step, self._scene, self._text, self._done = step, step.following, step.text, step.done
        if step.text is not None:
            if step.text.chunked is None:
                return None
            stem = _parts(step.text.stem, places)
            self._stem = [it for it in stem if not isinstance(it, _Usage)]
            if len(self._stem) < len(stem):
                return None
        return frame

    def passage(self, *, ends: bool) -> Passage | None:
        """All of it. `ends` says whether the body does."""
        stage, step = self._stage, self._step
        if step is None or self._done != ends:
            return None
        read = [*self._read, b"0\r\n\r\n" if ends else b""]
        own = [it for it in read if isinstance(it, _Value)]
        self._values += [it.text for it in own]
        self._place = {it: stage.made + at for at, it in enumerate(own)}
        self._numbers = stage.numbers.union(place for it, place in self._place.items() if it.pattern is _NUMBER)
        made = Passage()
        made.form, made.cut = _cut(read)
        made.ids = [place for it, place in self._place.items() if it.pattern is _IDENTIFIER]
        made.sizes = [
            (at, size, slice(at + 1, at + 1 + count)) for it, size, count in self._chunks for at in (own.index(it),)
        ]
        made.committed, made.done = step.committed, ends
        made.usage, made.counted = None, []
        out = self._written()
        if out is None or (ends and not self._counts(made)):
            return None
        made.sums = [itemgetter(*places) for places in self._summed]
        made.out, made.pick = _template(out)
        made.chunked = self._text.chunked if self._text is not None else None
        made.opening = (*_template(self._at(self._stem)), self._text.tail if self._text is not None else b"")
        following = made.following = Stage(self._scene)
        following.places, following.told = self._at(self._places), [*map(self._at, self._told)]
        following.made, following.numbers = len(self._values), self._numbers
        following.text, following.stem = self._text, self._at(self._stem)
        return made

    def _at(self, parts: Iterable[_Part]) -> list[Part]:
        return [self._place[it] if isinstance(it, _Value) else it for it in parts]

    def _sums(self, told: int) -> Sums | None:
        frames = [*map(self._at, self._told[:told])]
        places = {it for parts in frames for it in parts if isinstance(it, int) and it in self._numbers}
        return sums_of(self._dialect, self._spoken, frames, {place: self._values[place] for place in places})

    def _written(self) -> list[Part] | None:
        """What leaves; sums are values from then on."""
        out: list[Part] = []
        for part in self._out:
            if not isinstance(part, _Usage):
                out += self._at([part])
                continue
            sums = self._sums(part.told)
            if sums is None:
                return None
            usage = [self._sum(it) if isinstance(it, tuple) else it for it in sums.written]
            at_hand = b"".join([it if isinstance(it, bytes) else self._values[it] for it in usage])
            if tuple(json_text.read(at_hand)) != part.names:
                return None
            out += usage
        return out

    def _sum(self, places: tuple[int, ...]) -> int:
        if len(places) == 1:
            return places[0]
        if places not in self._summed:
            self._summed[places] = len(self._values)
            self._values.append(b"%d" % sum(int(self._values[place]) for place in places))
        return self._summed[places]

    def _counts(self, made: Passage) -> bool:
        sums = self._sums(len(self._told))
        if sums is None:
            return False
        made.usage = [None if isinstance(it, tuple) else it for it in sums.fields]
        made.counted = [(at, self._sum(it)) for at, it in enumerate(sums.fields) if isinstance(it, tuple)]
        return True


def _parts(cast: bytes | Cast, places: Sequence[_Part | _Usage]) -> list[_Part | _Usage]:
    """What stands around the holes of a form, and which of the `places` are poured into these."""
    if isinstance(cast, bytes):
        return [cast]
    form, pick = cast
    pieces = _HOLE.split(form)
    picked: Any = pick(places)  # type: ignore[arg-type]  # it picks from any sequence
    poured = iter((picked,) if pieces.count(b"%b") == 1 else picked)
    return [next(poured) if it == b"%b" else b"%" if it == b"%%" else it for it in pieces]


def _cut(read: Sequence[bytes | _Value]) -> tuple[bytes, Callable[[bytes], Any]]:
    """The form of a read, and what finds its values."""
    form, pattern, between = b"", b"(?s)", b""
    for part in read:
        if isinstance(part, bytes):
            between += part
            continue
        form += between.replace(b"%", b"%%") + b"%b"
        pattern += b".{%d}%b" % (len(between), part.pattern)
        between = b""
    return form + between.replace(b"%", b"%%"), re.compile(pattern + b".{%d}" % len(between)).fullmatch


def _template(parts: Iterable[Part]) -> tuple[bytes, Pick | None]:
    """A form and what picks the values for its holes; with none, it is what it says."""
    parts = [*parts]
    places = [it for it in parts if isinstance(it, int)]
    if not places:
        return b"".join([it for it in parts if isinstance(it, bytes)]), None
    form = b"".join([it.replace(b"%", b"%%") if isinstance(it, bytes) else b"%b" for it in parts])
    return form, itemgetter(*places)
