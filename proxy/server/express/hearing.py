"""What passes of the head of an answer that may be good, on the wire; and how the provider calls that answer.

Found once for all heads of a shape (`wire.head_shape`): what passes has holes for the values that differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.record import record
from proxy.secret import Scrubber
from proxy.server.attempt import upstream_id
from proxy.wire.cast import Cast, form_of, poured
from proxy.wire.head_shape import Head, Shaped
from proxy.wire.headers import answer_lines

if TYPE_CHECKING:
    from proxy.server.express.track import Track

MOST = 8  # shapes of the heads of one kind of answer
MARK = "(value {})"  # of one that differs; no name holds a bracket


@record
class Passing:
    """Of all heads of a shape."""

    lines: bytes | Cast | None  # as `heard`
    id: str | None
    named: int | None  # the value that is the id, where it differs


def heard(track: Track, head: Head, scrubber: Scrubber) -> bytes | None:
    """The headers that pass; None for an answer that may not be good. Kept for the next one, whose head is mostly the
    same."""
    track.heard = head
    if isinstance(head, Shaped):
        passing = track.passing.get(head.shape) or _passing(track, head)
        if passing is not None:
            lines, id, named, values = passing.lines, passing.id, passing.named, head.values
            if named is not None:
                id = values[named][:128].decode()
            passed = poured(lines, values) if isinstance(lines, tuple) else lines
            if passed is not None and scrubber.knows(f"{passed.decode()}{id or ''}"):
                passed = None
            track.passed, track.upstream_id = passed, id
            return passed
    headers = head.headers
    told = None if scrubber.knows("\n".join(headers.values())) else _lines(track, head.status, headers)
    track.passed, track.upstream_id = None if told is None else told.encode(), upstream_id(headers)
    return track.passed


def _lines(track: Track, status: int, headers: Mapping[str, str]) -> str | None:
    if status != 200 or headers.get("content-type") != track.content_type or "content-encoding" in headers:
        return None
    return answer_lines(headers, track.hop is None, track.withheld)


def _passing(track: Track, head: Shaped) -> Passing | None:
    """None where what the heads have in common looks like a mark."""
    marks = [MARK.format(number) for number in range(len(head.values))]
    headers = head.shape.headers(marks)
    if any(MARK[:7] in value for value in headers.values() if value not in marks):
        return None
    told, id = _lines(track, head.status, headers), upstream_id(headers)
    lines: bytes | Cast | None = None
    if told is not None:
        lines = form_of(told.encode(), [mark.encode() for mark in marks]) if marks else told.encode()
    if len(track.passing) >= MOST:
        track.passing.clear()
    found = track.passing[head.shape] = Passing(lines, id, marks.index(id) if id in marks else None)
    return found
