"""A frame that is too long to be held, on its way in pieces."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

from proxy.errors import UpstreamBroken
from proxy.wire import sse
from proxy.wire.piecemeal import Piecemeal

LONGEST = 32 << 20  # bytes of one frame: what is longer has no end
NO_TEXT = "The provider's stream is not UTF-8."
# What an error has in any dialect, and other events seldom: a member of that name with something in it, the type.
_SIGN = (
    rb'"errors?"\s{0,9}:\s{0,9}[^\sn]'
    rb'|:\s{0,9}"(?:error|response\.failed)"'
    rb"|(?:\A|[\r\n])event: ?(?:error|response\.failed)"
)
_SIGN_BYTES = 64
_HINTS = (  # soon found
    b'error"', b'errors"', b'.failed"', b"event: error", b"event:error", b"event: response.failed",
    b"event:response.failed",
)  # fmt: skip


class Oversize:
    """Nobody knows what such a frame is until it ends, so no key leaves in it, wherever it is cut, and of its comments
    the colons alone. From the first sign of an error all of it waits for the end; where that sign stands within what
    was held, nothing has `left`, and `raw` is a frame like any other.

    Raises UpstreamBroken on what is not UTF-8, or has no end.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.raw = bytearray()  # all of it, as it came
        self.left = False  # some of it has
        self._mask = Piecemeal(keys, least=_SIGN_BYTES)
        self._spelling = codecs.getincrementaldecoder("utf-8")()
        self._muted = False  # amid a comment
        self._waiting: bytearray | None = None

    @property
    def masked(self) -> int:
        return self._mask.masked

    def end_in(self, block: bytes) -> int:
        """Where it ends in what comes next; 0 where it does not."""
        return sse.first_border(bytes(self.raw[-2:]), block)

    def feed(self, block: bytes) -> bytes:
        """What may leave now."""
        if len(self.raw) + len(block) > LONGEST:
            raise UpstreamBroken(f"The provider sent an event of more than {LONGEST} bytes.")
        try:
            self._spelling.decode(block)
        except UnicodeDecodeError as exc:
            raise UpstreamBroken(NO_TEXT) from exc
        said = self._silenced(block)
        self.raw += block
        if self._waiting is not None:
            if self.left:
                self._waiting += said
            return b""
        if self._shows_error(said):
            self._waiting = bytearray(self._mask.held + said)
            return b""
        out = self._mask.feed(said)
        self.left = self.left or bool(out)
        return out

    def _shows_error(self, said: bytes) -> bool:
        seen = self._mask.held + said
        return any(hint in seen for hint in _HINTS) and re.search(_SIGN, seen) is not None

    def close(self) -> bytes:
        """What waited, once the frame is whole."""
        if self._waiting is not None:
            self._mask.held = bytes(self._waiting)
        return self._mask.close()

    def _silenced(self, block: bytes) -> bytes:
        if self._muted:
            block = block[sse.line_end(block) :]
        before = b"" if not self.raw or self.raw.endswith((b"\n", b"\r")) else b"."
        lines = before + block
        if sse.holds_comment(lines):
            lines = sse.with_comments(lines, lambda _: b":")
        self._muted = lines.endswith((b"\n:", b"\r:")) or lines == b":" or (self._muted and not block)
        return lines[len(before) :]
