"""Runs of frames that are equal but for one JSON string: nearly all of a stream is one.

A mould is such a frame less its text. With it the texts of a whole read are found by how far they stand apart, and
nothing is parsed. What a text may hold is bounded so that no frame of another meaning can pass for one: no bare quote
and no line end, hence nothing that ends the string, the JSON or the frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import orjson

from proxy.wire import sse
from proxy.wire.sse import CR, LF

QUOTE, BACKSLASH = b'"\\'


def _keeping(kept: Iterable[int]) -> bytes:
    """A table of `bytes.translate` that changes all bytes but these: a text that holds nothing else comes out as it is.
    That is one call where a look for each byte that it may not hold takes several."""
    table = bytearray(byte ^ 1 for byte in range(256))
    for byte in kept:
        table[byte] = byte
    return bytes(table)


PLAIN = _keeping({*range(0x20, 0x7F)} - {QUOTE, BACKSLASH})  # bytes as every JSON writer has them
BARE = _keeping({*range(0x80)} - {QUOTE, LF, CR})  # ASCII that ends neither a string nor a line
MARK = b"x"  # stands for the text where a mould is tried out


class Mould:
    """`head` ends with the quote that opens the text, `tail` begins with the one that closes it and ends with a blank
    line."""

    __slots__ = ("_between", "_least", "head", "tail")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail
        self._least = len(head) + len(tail)  # bytes of a frame
        self._between = tail + head

    def single(self, block: bytes) -> bytes | None:
        """The text of a block that is one frame; None where there is more, or its text has quotes."""
        if not (block.startswith(self.head) and block.endswith(self.tail)) or len(block) < self._least:
            return None
        text = block[len(self.head) : -len(self.tail)]
        return None if QUOTE in text or LF in text or CR in text else text

    def holds(self, block: bytes) -> bool:
        """Whether `block` is a run and nothing else."""
        if self.single(block) is not None:
            return True
        if len(block) < self._least or not (block.startswith(self.head) and block.endswith(self.tail)):
            return False
        return self._texts(block) is not None

    def cut(self, block: bytes) -> tuple[list[bytes], bytes]:
        """The texts of the frames that `block` begins with, as they stand in the JSON, and what is left of it."""
        if not block.startswith(self.head):
            return [], block
        last = block.rfind(self._between)
        begun = last + len(self.tail) if last >= 0 else 0
        found = block.find(self.tail, begun + len(self.head))
        end = found + len(self.tail) if found >= 0 else begun
        run = block if end == len(block) else block[:end]
        texts = self._texts(run) if run else []
        return self._good_texts(block) if texts is None else (texts, block[end:])

    def _texts(self, run: bytes) -> list[bytes] | None:
        """The texts of a block with the head before and the tail behind, if it is a run."""
        texts = finder(b"", len(self.head), len(self.tail), BACKSLASH in run)(run)
        inside = self._between.join(texts)
        if len(inside) != len(run) - self._least or not run.startswith(inside, len(self.head)):
            return None
        return None if breaks(b" ".join(texts)) else texts

    def _good_texts(self, block: bytes) -> tuple[list[bytes], bytes]:
        """As `cut`, frame by frame: of a block whose run has something else within."""
        texts: list[bytes] = []
        at = 0
        while block.startswith(self.head, at):
            start = at + len(self.head)
            end = block.find(self.tail, start)
            if end < 0 or ends_early(block[start:end]):
                break
            texts.append(block[start:end])
            at = end + len(self.tail)
        return texts, block[at:]

    def behind(self, texts: list[bytes], block: bytes) -> bytes:
        """What of `block` stands behind the frames of these texts."""
        return block[sum(map(len, texts)) + len(texts) * len(self._between) :]


@lru_cache(maxsize=256)
def finder(mark: bytes, before: int, behind: int, escapes: bool) -> Callable[..., list[bytes]]:
    """Gives the texts of a run, or of its part between two places: behind each `mark`, and `before` bytes behind that,
    up to the quote that is not escaped; and it goes on `behind` bytes from there. What stands around the texts is
    passed over in one step, not looked at.

    Of anything else it gives something else, so what it gave has to be put back and compared. Whatever it gets, it
    looks at no byte twice: from a mark on that stands far enough from the end there is always a match.
    """
    text = rb'[^"\\]*+(?:\\.[^"\\]*+)*+' if escapes else rb'[^"]*+'
    return re.compile(rb"%b.{%d}(%b).{0,%d}" % (mark, before, text, behind), re.DOTALL).findall


def breaks(text: bytes) -> bool:
    """Whether a line ends within."""
    return LF in text or CR in text


def ends_early(text: bytes) -> bool:
    """Whether the string, or the frame, ends within what is taken for a text. A quote with a backslash of its own does
    not end it; one that stands behind the text's last backslash leaves no JSON, whatever the tail is."""
    if breaks(text):
        return True
    return QUOTE in text and QUOTE in text.replace(rb"\\", b"").replace(rb"\"", b"")


def around(raw: bytes, marker: bytes) -> tuple[Mould, Any] | None:
    """The mould of a frame whose text stands behind the first `marker`, and what such a frame says with MARK for its
    text: whether that is all it says is for the dialect to judge. None where the text has escapes, or the frame no
    JSON."""
    start = raw.find(marker) + len(marker)
    end = raw.find(b'"', start)
    if start < len(marker) or end < 0 or BACKSLASH in raw[start:end] or CR in raw:
        return None
    head, tail = raw[:start], raw[end:]
    if raw.find(b"\n\n") != len(raw) - 2 or (frame := sse.read_frame(head + MARK + tail)) is None or frame.id:
        return None
    try:
        return Mould(head, tail), orjson.loads(frame.data)
    except orjson.JSONDecodeError:
        return None


def length(text: bytes) -> int:
    """How many characters a sound text has that holds neither quote nor escape, and so has the JSON writer's own form;
    0 of any other."""
    if text.translate(PLAIN) == text:  # as most are
        return len(text)
    if BACKSLASH in text:
        return 0
    try:
        chars = text.decode()
    except UnicodeDecodeError:
        return 0
    if chars.isprintable():  # and no JSON has to be read
        return len(chars)
    try:
        return len(orjson.loads(b'"%b"' % text))
    except orjson.JSONDecodeError:
        return 0


def written(texts: list[bytes]) -> tuple[list[bytes], int]:
    """As many of the texts as hold something and are sound, in the JSON writer's own form; and how many characters
    they have. A text without escapes has that form already, so most are judged together."""
    together = b" ".join(texts)  # the blank keeps halves apart that would make a whole
    if BACKSLASH not in together and all(texts):
        try:
            chars = len(orjson.loads(b'"%b"' % together)) - len(texts) + 1
        except orjson.JSONDecodeError:
            chars = 0
        if chars:
            return texts, chars
    good, chars = [], 0
    for raw in texts:
        try:
            text = orjson.loads(b'"%b"' % raw)
        except orjson.JSONDecodeError:
            break
        if not text:
            break
        good.append(orjson.dumps(text)[1:-1])
        chars += len(text)
    return good, chars
