"""Runs of frames as they stand on the wire, each of them a chunk of HTTP/1.1, as nearly every provider sends them.

Such bytes can leave as they came. That they are what they seem to be is shown by putting them together anew, out of
their texts and of what has to stand between two texts of these lengths, and comparing: all of it in C.
"""

from __future__ import annotations

from proxy.wire.mould import BACKSLASH, QUOTE, Mould, breaks, finder
from proxy.wire.sse import CR, LF, is_text

LONGEST_LINE = 18  # bytes of a size and its CRLF
KNOWN = 1024  # lengths of frames whose beginning is kept
LONGEST = 4 << 10  # bytes of a chunk that is looked at by itself
NO_LINE = b"", -1
MOST_OTHERS = 8  # chunks that end as those of a run, and are looked at for its end


class ChunkedRun:
    """The run of a mould."""

    __slots__ = ("_begin", "_between", "end", "least", "mould")

    def __init__(self, mould: Mould) -> None:
        self.mould = mould
        self.least = len(mould.head) + len(mould.tail)  # bytes of a frame
        self._begin, self.end = b"\n" + mould.head, mould.tail + b"\r\n"  # `end` is what stands behind a text
        self._between = _Between(mould)

    def cut(self, data: bytes, at: int = 0) -> tuple[int, int]:
        """How many bytes of `data`, of which a chunk begins `at` there, are whole chunks of the run, and how many of
        them are the body's."""
        text = self.text(data) if not at else None
        if text is not None and (data.isascii() or is_text(data)):
            return len(data), self.least + len(text)
        texts, end = self.texts(data, at)
        together = b"".join(texts)
        if not texts or not (together.isascii() or all(map(is_text, texts))):
            return 0, 0
        return end - at, len(texts) * self.least + len(together)

    def text(self, data: bytes) -> bytes | None:
        """The text of what is one chunk and in it one frame; None where there is more, or its text has quotes."""
        line, size = size_line(len(data))
        if size < self.least:
            return None
        text = data.removeprefix(line).removeprefix(self.mould.head).removesuffix(self.end)
        return None if len(text) != size - self.least or QUOTE in text or LF in text or CR in text else text

    def texts(self, data: bytes, at: int = 0) -> tuple[list[bytes], int]:
        """Those of the whole chunks of the run that begin `at` there, and where the last of them ends. No line ends
        within one, and no quote but with a backslash of its own; whether they are UTF-8 is not said."""
        end = self._last_end(data, at)
        if not end or not data.startswith(self._begin, data.find(b"\r\n", at, at + LONGEST_LINE) + 1):
            return [], at
        texts = finder(b"\n", len(self.mould.head), len(self.end), BACKSLASH in data)(data, at, end)
        parts = [self.end] * (2 * len(texts) + 1)
        parts[0:-1:2] = map(self._between.__getitem__, map(len, texts))
        parts[0] = parts[0][len(self.end) :]
        parts[1::2] = texts
        run = b"".join(parts)
        return (texts, at + len(run)) if data.startswith(run, at) and not breaks(b" ".join(texts)) else ([], at)

    def _last_end(self, data: bytes, at: int) -> int:
        """Where the last of those chunks ends that begin and end as a frame of the run does; 0 where there is none. Of
        another kind, a few may stand behind it."""
        tail = len(data)
        for _ in range(MOST_OTHERS):
            tail = data.rfind(self.end, at, tail)
            if tail < 0:
                break
            if data.startswith(self._begin, data.rfind(b"\r\n", at, tail) + 1):
                return tail + len(self.end)
        return 0


def _size_lines() -> list[tuple[bytes, int]]:
    found = [NO_LINE] * (LONGEST + 1)
    for size in range(1, LONGEST):
        line = b"%x\r\n" % size
        if (length := len(line) + size + 2) <= LONGEST:
            found[length] = line, size
    return found


SIZE_LINES = _size_lines()  # see `size_line`, up to `LONGEST`
LINES = [b"", *(line for line, size in SIZE_LINES if size > 0)]  # by size, up to the largest of those


def size_line(length: int) -> tuple[bytes, int]:
    """The size line and the size of a chunk that is so long with its framing: -1 where none is, or it is too long to be
    looked at by itself."""
    return SIZE_LINES[length] if length <= LONGEST else NO_LINE


class _Between(dict[int, bytes]):
    """Length of a text -> what stands between the text before and it: a frame's end, the size of its own chunk, and its
    frame's head."""

    def __init__(self, mould: Mould) -> None:
        self._mould = mould

    def __missing__(self, length: int) -> bytes:
        if len(self) >= KNOWN:
            self.clear()
        head, tail = self._mould.head, self._mould.tail
        between = self[length] = b"%b\r\n%x\r\n%b" % (tail, len(head) + length + len(tail), head)
        return between
