"""Runs of frames that are equal but for one JSON string: nearly all of a stream is one.

A mould is such a frame less its text. With it a whole read is parted into its texts by one search for what stands
between two of them, and nothing is parsed. What a text may hold is bounded so that no frame of another meaning can
pass for one: no quote and no line end, hence nothing that ends the string, the JSON or the frame.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
from attrs import field, frozen

from proxy.wire import sse

MARK = b"x"  # stands for the text where a mould is tried out
_FORBIDDEN = (b'"', b"\n", b"\r")


@frozen
class Mould:
    """`head` ends with the quote that opens the text, `tail` begins with the one that closes it."""

    head: bytes
    tail: bytes
    _between: bytes = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_between", self.tail + self.head)

    def cut(self, block: bytes) -> tuple[list[bytes], bytes]:
        """The texts of the frames that `block` begins with, as they stand in the JSON, and what is left of it."""
        if not block.startswith(self.head):
            return [], block
        texts = block[len(self.head) :].split(self._between)
        text, tail, rest = texts[-1].partition(self.tail)
        if tail:
            texts[-1] = text
        else:  # the last one is a frame of another kind
            rest = self.head + texts.pop()
        joined = b"".join(texts)
        if any(byte in joined for byte in _FORBIDDEN):
            good = next(n for n, text in enumerate(texts) if any(byte in text for byte in _FORBIDDEN))
            return texts[:good], self.behind(texts[:good], block)
        return texts, rest

    def behind(self, texts: list[bytes], block: bytes) -> bytes:
        """What of `block` stands behind the frames of these texts."""
        return block[sum(map(len, texts)) + len(texts) * len(self._between) :]


def around(raw: bytes, marker: bytes) -> tuple[Mould, Any] | None:
    """The mould of a frame whose text stands behind the first `marker`, and what such a frame says with MARK for its
    text: whether that is all it says is for the dialect to judge. None where the text has escapes, or the frame no
    JSON."""
    start = raw.find(marker) + len(marker)
    end = raw.find(b'"', start)
    if start < len(marker) or end < 0 or b"\\" in raw[start:end] or b"\r" in raw:
        return None
    mould = Mould(raw[:start], raw[end:])
    frames = list(sse.split_frames(mould.head + MARK + mould.tail))
    if len(frames) != 1 or (frame := frames[0][0]) is None or frame.id:
        return None
    try:
        return mould, orjson.loads(frame.data)
    except orjson.JSONDecodeError:
        return None


def written(texts: list[bytes]) -> tuple[list[bytes], int]:
    """As many of the texts as hold something and are sound, in the JSON writer's own form; and how many characters
    they have. A text without escapes has that form already, so most are judged together."""
    together = b" ".join(texts)  # the blank keeps halves apart that would make a whole
    if b"\\" not in together and b"" not in texts:
        with suppress(orjson.JSONDecodeError):
            return texts, len(orjson.loads(b'"%b"' % together)) - len(texts) + 1
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
