"""Runs of frames as they stand on the wire, each of them a chunk of HTTP/1.1, as nearly every provider sends them.

Such bytes can leave as they came. That they are what they seem to be is shown by putting them together anew, out of
their texts and of what has to stand between two texts of these lengths, and comparing: all of it in C.
"""

from __future__ import annotations

from operator import itemgetter

from proxy.wire.mould import QUOTE, Mould, ends_early
from proxy.wire.sse import CR, LF, is_text

LONGEST_LINE = 18  # bytes of a size and its CRLF
KNOWN = 1024  # lengths of frames whose beginning is kept
MOST_OTHERS = 8  # chunks behind a run that are looked at for its end


class ChunkedRun:
    """The run of a mould."""

    __slots__ = ("_begin", "_behind", "_between", "_end", "_least", "_single", "_text", "mould")

    def __init__(self, mould: Mould) -> None:
        self.mould = mould
        self._least = len(mould.head) + len(mould.tail)
        self._begin, self._end = b"\n" + mould.head, mould.tail + b"\r\n"
        self._behind = -len(self._end)
        self._text = itemgetter(slice(len(self._begin), -len(mould.tail)))
        self._between: dict[int, bytes] = {}  # length of a frame behind an LF -> from the text before to its own
        self._single: dict[int, bytes] = {}  # length of a chunk -> its size line and its frame's head

    def cut(self, data: bytes) -> tuple[int, int]:
        """How many bytes of `data`, which begins where a chunk does, are whole chunks of the run, and how many of them
        are the body's."""
        text = self.text(data)
        if text is not None and (data.isascii() or is_text(data)):
            return len(data), self._least + len(text)
        return self._several(data)

    def whole(self, data: bytes) -> int:
        """How many bytes of the body `data` holds, if it is one chunk and in it one frame of the run; else 0."""
        line = self._single.get(len(data))
        if line is None or not (data.startswith(line) and data.endswith(self._end)):
            text = self._new_text(data)
            if text is None:
                return 0
        else:
            text = data[len(line) : self._behind]
            if QUOTE in text or LF in text or CR in text:
                return 0
        return self._least + len(text) if text.isascii() or is_text(text) else 0

    def text(self, data: bytes) -> bytes | None:
        """The text of what is one chunk and in it one frame; None where there is more, or its text has quotes."""
        line = self._single.get(len(data))
        if line is None or not (data.startswith(line) and data.endswith(self._end)):
            return self._new_text(data)
        text = data[len(line) : self._behind]
        return None if QUOTE in text or LF in text or CR in text else text

    def _new_text(self, data: bytes) -> bytes | None:
        """The same, of a length that has not been seen."""
        size = len(data) - len(self._end)
        end = data.find(b"\r\n", 0, LONGEST_LINE) + 2
        if end < 2 or not (data.startswith(self.mould.head, end) and data.endswith(self._end)):
            return None
        start, length = end + len(self.mould.head), len(data) - end - 2
        if start > size or data[: end - 2] != b"%x" % length:
            return None
        text = data[start:size]
        if QUOTE in text or LF in text or CR in text:
            return None
        if len(self._single) >= KNOWN:
            self._single.clear()
        self._single[len(data)] = data[:start]
        return text

    def _several(self, data: bytes) -> tuple[int, int]:
        """Cut at each CR, a chunk is its size and its frame, both behind an LF."""
        if not data.startswith(self._begin, data.find(b"\r\n", 0, LONGEST_LINE) + 1):
            return 0, 0
        pieces = data.split(b"\r")
        count = (len(pieces) - 1) // 2
        if count and not pieces[2 * count].startswith(b"\n"):
            count -= 1
        frames = self._frames(pieces[1 : 2 * count : 2])
        if not frames:
            return 0, 0
        lengths = list(map(len, frames))
        self._learn(set(lengths))
        texts = list(map(self._text, frames))
        parts = [b""] * (2 * len(frames))
        parts[0::2] = map(self._between.__getitem__, lengths)
        parts[0] = parts[0][len(self._end) :]
        parts[1::2] = texts
        run = b"".join((*parts, self._end))
        if not data.startswith(run) or ends_early(b" ".join(texts)) or not (data.isascii() or is_text(run)):
            return 0, 0
        return len(run), sum(lengths) - len(lengths)

    def _frames(self, frames: list[bytes]) -> list[bytes]:
        """Less those at the end that are of another kind."""
        for number in range(len(frames), max(len(frames) - MOST_OTHERS, 0), -1):
            last = frames[number - 1]
            if last.startswith(self._begin) and last.endswith(self.mould.tail) and len(last) > self._least:
                return frames[:number]
        return []

    def _learn(self, lengths: set[int]) -> None:
        if len(self._between) + len(lengths) > KNOWN:
            self._between.clear()
        for length in lengths.difference(self._between):
            self._between[length] = b"%b%x\r\n%b" % (self._end, length - 1, self.mould.head)
