"""What is learnt from a good stream of the client's dialect, once it has left, or has begun to: how those of its kind
begin and end (`proxy.streams.usual`). A fault in it is told, and costs nobody an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import structlog

from proxy import ir
from proxy.dialects.dialect import Dialect
from proxy.server.express.track import Track
from proxy.streams import Familiar, familiar
from proxy.wire.head_shape import Head

LARGEST_OPENING = 4 << 10  # bytes of a first read that is learnt from
HEAD_ENDS = b"\r\n\r\n"

log = structlog.get_logger()
_Given = ParamSpec("_Given")


def _harmless(learn: Callable[_Given, None]) -> Callable[_Given, None]:
    @wraps(learn)
    def learns(*given: _Given.args, **named: _Given.kwargs) -> None:
        try:
            learn(*given, **named)
        except Exception as exc:
            log.exception("internal_error", error=type(exc).__name__)

    return learns


@_harmless
def learn_whole(track: Track, head: Head, chunks: list[bytes], data: bytes, usage: ir.Usage | None) -> None:
    """From one that came in one read, which was `data`: how it begins and ends, if it is one frame, then texts, then
    others."""
    usual, role = track.usual, chunks[0]
    if usual.tires():
        return
    dialect, strips = _spoken(track)
    stream = familiar(dialect, strip_usage=strips) if len(chunks) > 1 else None
    if stream is None or not stream.begins(chunks[:2]) or not stream.behind:
        return
    if stream.goes_on([role]):
        return  # a text, for which whoever came next would be held back
    size = data.index(HEAD_ENDS) + len(HEAD_ENDS) + len(_chunk(role))
    first, opening = data[:size], usual.opening
    if opening is None or opening.head is not head or opening.preamble(first) is None:
        learn_opening(track, stream, head, role, first if size <= LARGEST_OPENING else b"")
    learn_ending(track, stream, chunks[1:], data[size:], usage)


@_harmless
def learn_opening(track: Track, stream: Familiar, head: Head, frame: bytes, first: bytes) -> None:
    """From one in which that frame alone stood before the texts. `first` is its first read, from the head on, if that
    may be kept: it may come again where the head does."""
    comes_again = head.__class__ is Head
    if comes_again and not first:
        return
    (dialect, _), preamble, chunk = _spoken(track), stream.preamble, _chunk(frame)
    known, data = (head, first) if comes_again and first.endswith(HEAD_ENDS + chunk) else (None, chunk)
    shape = stream.before[len(preamble) :], stream.behind
    track.usual.learn_opening(dialect, known, data, len(data) - len(chunk), preamble, shape)


@_harmless
def learn_ending(track: Track, stream: Familiar, chunks: list[bytes], data: bytes, usage: ir.Usage | None) -> None:
    """From the last read, which was `data`: what is behind its texts."""
    texts = 0
    while stream.goes_on([chunks[texts]]):
        texts += 1
    if usage is not None:
        (dialect, strips), at = _spoken(track), sum(len(_chunk(it)) for it in chunks[:texts])
        track.usual.learn_ending(dialect, data[at:], chunks[texts:], stream.preamble, usage, strips=strips)


def _spoken(track: Track) -> tuple[Dialect, bool]:
    """The dialect of its streams, and whether what they took is more than the client asked for."""
    assert track.streamed is not None
    assert isinstance(track.streamed.dialect, Dialect)
    return track.streamed.dialect, track.streamed.asked_usage


def _chunk(frame: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(frame), frame)
