"""Newline-delimited JSON, on bytes: one record a line, https://github.com/ndjson/ndjson-spec

Lines end in LF or CRLF. A bare CR is white space to JSON and ends nothing; nor do U+2028 and U+0085, which are legal
inside JSON strings. The lines are not parsed here.
"""

from __future__ import annotations

from proxy.errors import UpstreamBroken


class Borders:
    """Lets a stream's bytes through up to the last complete line and holds the tail.

    All that `feed` returned, and `held` behind it, are the bytes that were fed. A tail of more than `max_held` bytes is
    let through: `overflowed` is then true, and the bytes flow as they come, until the next line end.
    """

    def __init__(self, max_held: int = 64 * 1024) -> None:
        self.overflowed = False
        self._max_held = max_held
        self._tail = bytearray()

    @property
    def held(self) -> bytes:
        return bytes(self._tail)

    @property
    def closed(self) -> bool:
        """Whether all that was fed ended with a line."""
        return not self._tail and not self.overflowed

    def feed(self, chunk: bytes) -> bytes:
        cut = chunk.rfind(b"\n") + 1
        if not cut and not self.overflowed and len(self._tail) + len(chunk) <= self._max_held:
            self._tail += chunk
            return b""
        self.overflowed = not cut or len(chunk) - cut > self._max_held
        if self.overflowed:
            cut = len(chunk)
        if cut == len(chunk) and not self._tail:
            return chunk
        out = b"".join((self._tail, chunk[:cut]))
        self._tail = bytearray(chunk[cut:])
        return out


class Framer:
    """Push parser: feed chunks cut anywhere, get whole lines, without their ends; blank ones are passed over.

    Raises UpstreamBroken once a line passes `max_line` bytes.
    """

    def __init__(self, max_line: int = 32 * 1024 * 1024) -> None:
        self._max_line = max_line
        self._borders = Borders(max_line)

    def feed(self, chunk: bytes) -> list[bytes]:
        block = self._borders.feed(chunk)
        if self._borders.overflowed:
            raise self._too_long()
        return self._read(block) if block else []

    def close(self, keep_partial: bool = True) -> list[bytes]:
        """End of stream. A last line without its end is a record like any other, unless the caller must not take a cut
        one for a whole one."""
        tail = self._borders.held
        self._borders = Borders(self._max_line)
        return self._read(tail) if tail and keep_partial else []

    def _read(self, block: bytes) -> list[bytes]:
        lines = [line.removesuffix(b"\r") for line in block.split(b"\n") if line and not line.isspace()]
        if len(block) > self._max_line and any(len(line) > self._max_line for line in lines):
            raise self._too_long()
        return lines

    def _too_long(self) -> UpstreamBroken:
        return UpstreamBroken(f"the upstream sent a line of more than {self._max_line} bytes")
