"""Where an answer comes from: `groundingMetadata` of the provider's own tools, `citationMetadata` of recited text.

The API counts in bytes of UTF-8, everybody else in characters.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.gemini.vocabulary import NAME
from proxy.record import define

# Runs of characters of one width, by how many bytes each has more than one.
_WIDE = re.compile("([\x80-\u07ff]+)|([\u0800-\uffff]+)|([\U00010000-\U0010ffff]+)")


@define
class Offsets:
    """Places in a text that came piece by piece. Where its wide characters stand is kept, the text itself is not."""

    bytes: int = 0
    _surplus: int = 0  # bytes more than characters, so far
    _starts: list[int] = field(factory=list)  # of runs of wide characters, in bytes
    _runs: list[tuple[int, int, int]] = field(factory=list)  # end in bytes, width, surplus before it

    def add(self, text: str) -> None:
        begun = self.bytes
        surplus_before = self._surplus
        if not text.isascii():
            for run in _WIDE.finditer(text):
                width = run.lastindex or 0
                start = begun + run.start() + self._surplus - surplus_before
                length = run.end() - run.start()
                self._starts.append(start)
                self._runs.append((start + length * (width + 1), width, self._surplus))
                self._surplus += length * width
        self.bytes = begun + len(text) + self._surplus - surplus_before

    def characters(self, place: int) -> int:
        """The same place, given in bytes, in characters."""
        at = bisect_right(self._starts, place) - 1
        if at < 0:
            return place
        end, width, surplus = self._runs[at]
        inside = (min(place, end) - self._starts[at]) // (width + 1)
        return place - surplus - inside * width


@define
class Grounding:
    """The sources of one answer. Metadata may come again with more in it: each citation is given once."""

    _offsets: Offsets = field(factory=Offsets)
    _seen: set[tuple[str | int | None, ...]] = field(factory=set)

    @property
    def bytes(self) -> int:
        return self._offsets.bytes

    def add(self, text: str) -> None:
        self._offsets.add(text)

    def citations(self, candidate: Mapping[str, Any], starts: Sequence[int] = ()) -> Iterator[ir.Citation]:
        """`starts`: where, in bytes of the answer's text, each part begins; a stream counts from the first one."""
        for source, segment in _cited(candidate):
            start, end = self._span(segment, starts)
            found = ir.Citation(
                _text(source, "uri"), _text(source, "title"), _text(source, "text"), start, end, source, NAME
            )
            key = (found.url, found.title, found.cited_text, start, end)
            if key not in self._seen:
                self._seen.add(key)
                yield found

    def _span(self, segment: Mapping[str, Any], starts: Sequence[int]) -> tuple[int | None, int | None]:
        """A start and an index of 0 are left out. Unknown where the API counts past the text."""
        start, end, part = segment.get("startIndex", 0), segment.get("endIndex"), segment.get("partIndex", 0)
        if not isinstance(start, int) or not isinstance(end, int) or not isinstance(part, int):
            return None, None
        base = starts[part] if 0 < part < len(starts) else 0
        if not 0 <= start < end <= self._offsets.bytes - base:
            return None, None
        return self._offsets.characters(base + start), self._offsets.characters(base + end)


def _cited(candidate: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each source with the segment of the answer that it backs, which is empty where the API names none."""
    grounding = _object(candidate, "groundingMetadata")
    sources = [_source(chunk) for chunk in _objects(grounding, "groundingChunks")]
    supports = _objects(grounding, "groundingSupports")
    for support in supports:
        for index in _list(support, "groundingChunkIndices"):
            if isinstance(index, int) and 0 <= index < len(sources):
                yield sources[index], _object(support, "segment")
    if not supports:
        yield from ((source, {}) for source in sources)
    recitation = _object(candidate, "citationMetadata")
    for name in ("citationSources", "citations"):  # the Gemini API's name, Vertex AI's
        yield from ((recited, recited) for recited in _objects(recitation, name))


def _source(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    """A page, a place on the map, or a piece of a stored document, which has a text and often no address."""
    return next((inner for inner in chunk.values() if isinstance(inner, dict)), {})


def _object(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _list(source: Mapping[str, Any], name: str) -> list[Any]:
    value = source.get(name)
    return value if isinstance(value, list) else []


def _objects(source: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """What is no object has a place among the others all the same: they are counted."""
    return [item if isinstance(item, dict) else {} for item in _list(source, name)]


def _text(source: Mapping[str, Any], name: str) -> str | None:
    value = source.get(name)
    return value if isinstance(value, str) and value else None
