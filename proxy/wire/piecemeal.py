"""Known values, taken out of bytes that leave in pieces, wherever these are cut.

A value may be written as it is or as JSON may write it, any of its letters an escape. What might be the beginning of
one waits for the next piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

MASK = b"***"
ESCAPE = len("\\u0041")  # bytes, for each two of a letter in UTF-16
_ESCAPED = re.compile(rb"\\(?:u00([2-7][0-9a-fA-F])|(/))")  # letters that need not be


class Piecemeal:
    """One answer's. All that `feed` gave, and `close` behind it, are the bytes that were fed, less the values."""

    __slots__ = ("_values", "held", "masked", "reach")

    def __init__(self, values: Iterable[str], least: int = 0) -> None:
        self._values = sorted({value for value in values if value}, key=len, reverse=True)
        self.reach = max([least, *(ESCAPE * len(_units(value)) // 4 for value in self._values)])  # bytes that wait
        self.held = b""
        self.masked = 0

    def feed(self, piece: bytes) -> bytes:
        window = self.held + piece
        return self._until(window, max(len(window) - self.reach, 0))

    def close(self) -> bytes:
        return self._until(self.held, len(self.held))

    def _until(self, window: bytes, limit: int) -> bytes:
        """What begins before `limit` is all here; what begins behind it may be the half of a longer one."""
        out, at = [], 0
        for start, end in sorted(self._found(window), key=lambda span: (span[0], -span[1])):
            if at <= start < limit:
                out += [window[at:start], MASK]
                self.masked += 1
                at = end
        cut = max(at, limit)
        self.held = window[cut:]
        return b"".join((*out, window[at:cut])) if out else window[:cut]

    def _found(self, window: bytes) -> Iterator[tuple[int, int]]:
        escaped = b"\\u00" in window or b"\\/" in window
        plain = _ESCAPED.sub(_letter, window) if escaped else window
        for value in self._values:
            if value.encode() in plain or (escaped and not value.isascii()):
                yield from (found.span() for found in re.finditer(_spelt(value), window))


def _letter(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if found[1] else b"/"


def _spelt(value: str) -> bytes:
    """A pattern of all that JSON may write for it."""
    return b"".join(map(_letter_spelt, value))


def _letter_spelt(letter: str) -> bytes:
    ways = [letter.encode(), json.dumps(letter)[1:-1].encode()]
    if letter == "/":
        ways.append(b"\\/")
    units = _units(letter)
    escapes = b"".join(
        rb"\\u" + b"".join(b"[%b%b]" % (digit.encode(), digit.upper().encode()) for digit in units[at : at + 4])
        for at in range(0, len(units), 4)
    )
    return b"(?:%b)" % b"|".join((*map(re.escape, dict.fromkeys(ways)), escapes))


def _units(text: str) -> str:
    return text.encode("utf-16-be", "surrogatepass").hex()
