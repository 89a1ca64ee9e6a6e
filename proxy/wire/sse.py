"""Server-sent events, on bytes: the grammar and nothing of what the events mean.

Grammar: https://html.spec.whatwg.org/multipage/server-sent-events.html

A *border* is the end of a blank line: whoever has read up to there has no frame open, so bytes may be cut there, and
frames of our own put in. Lines end in LF, CR or CRLF. A CR counts at once, as it does in a browser; an LF right behind
it belongs to the same line end and is a border if that CR was one. Waiting for it would hold back each frame of a
stream with bare CRs until the next one comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain

from proxy.errors import UpstreamBroken
from proxy.record import record

LF, CR = b"\n\r"  # a number is found in bytes ten times as soon as bytes are
BOM = b"\xef\xbb\xbf"
_BORDER = re.compile(rb"\n\n|[\r\n]\r\n?")
_LINE_END = re.compile(rb"[\r\n]")
_COMMENT = re.compile(rb"(?:\A|(?<=[\r\n])):[^\r\n]*")
_BORDER_ENDS = (b"\n\n", b"\n\r\n", b"\r\r\n", b"\n\r", b"\r\r")  # whatever stands before these, a blank line ends here


@record
class Frame:
    """One dispatched event."""

    data: bytes  # the data lines, joined by LF
    event: bytes = b""  # its type; empty stands for "message"
    id: bytes = b""  # the last event id in force: it outlives the frame that set it


class Borders:
    """Lets a stream's bytes through up to the last complete frame and holds the tail.

    All that `feed` returned, and `held` behind it, are the bytes that were fed. A tail of more than `max_held` bytes is
    let through: `overflowed` is then true, and the bytes flow as they come, until the next border.
    """

    def __init__(self, max_held: int = 64 * 1024) -> None:
        self.overflowed = False
        self._max_held = max_held
        self._tail = bytearray()
        self._before = b"\n\n"  # the last two bytes seen; a stream starts as if behind a border

    @property
    def held(self) -> bytes:
        return bytes(self._tail)

    @property
    def closed(self) -> bool:
        """Whether all that was fed ended with a blank line, its ends LF: whatever comes next begins a frame."""
        return not self._tail and not self.overflowed and self._before == b"\n\n"

    def feed(self, chunk: bytes) -> bytes:
        if not self._tail and chunk.endswith(_BORDER_ENDS):
            self._before = chunk[-2:]
            self.overflowed = False
            return chunk
        cut = self._last_border(chunk)
        self._before = chunk[-2:] if len(chunk) > 1 else (self._before + chunk)[-2:]
        if not cut and not self.overflowed and len(self._tail) + len(chunk) <= self._max_held:
            self._tail += chunk
            return b""
        self.overflowed = not cut or len(chunk) - cut > self._max_held
        if self.overflowed:
            cut = len(chunk)
        out = b"".join((self._tail, chunk[:cut]))
        self._tail = bytearray(chunk[cut:])
        return out

    def _last_border(self, chunk: bytes) -> int:
        """Where the last border in `chunk` ends; 0 when there is none."""
        seen = self._before + chunk
        end = seen.rfind(b"\n\n") + 2
        if CR in seen:
            end = max(end, seen.rfind(b"\r\r") + 2, seen.rfind(b"\n\r") + 2)
            end += seen[end - 1 : end + 1] == b"\r\n"
        return max(end - len(self._before), 0)


class Framer:
    """Push parser: feed chunks cut anywhere, get whole frames.

    As the standard says, an event without data is not dispatched, and comments, `retry` and unknown fields are passed
    over. Raises UpstreamBroken once a frame passes `max_frame` bytes.
    """

    def __init__(self, max_frame: int = 32 * 1024 * 1024) -> None:
        self._max_frame = max_frame
        self._borders = Borders(max_frame)
        self._at_start = True
        self._last_id = b""

    def feed(self, chunk: bytes) -> list[Frame]:
        block = self.take(chunk)
        return self.read(block) if block else []

    def take(self, chunk: bytes) -> bytes:
        """Up to the last border of what was fed, for `read`, in one piece or parted at borders."""
        block = self._borders.feed(chunk)
        if self._borders.overflowed:
            raise self._too_long()
        return block

    @property
    def closed(self) -> bool:
        return self._borders.closed

    def close(self, keep_partial: bool = True) -> list[Frame]:
        """End of stream. The standard drops a frame without its blank line; some providers forget that line after the
        last frame, so it is kept unless the caller must not take a cut frame for a whole one."""
        tail = self._borders.held
        self._borders = Borders(self._max_frame)
        return self.read(tail + b"\n\n") if tail and keep_partial else []

    def read(self, block: bytes) -> list[Frame]:
        if self._at_start:
            self._at_start = False
            block = block.removeprefix(BOM)
        pieces = _with_lf(block).split(b"\n\n")
        if len(block) > self._max_frame < max(map(len, pieces)):
            raise self._too_long()
        frames = []
        for piece in pieces:
            if not piece:
                continue
            if piece.startswith(b"data: ") and LF not in piece:
                frames.append(Frame(piece[6:], b"", self._last_id))
                continue
            data, event, ident = _fields(piece)
            if ident is not None:
                self._last_id = ident
            if data is not None:
                frames.append(Frame(data, event, self._last_id))
        return frames

    def _too_long(self) -> UpstreamBroken:
        return UpstreamBroken(f"the upstream sent an event of more than {self._max_frame} bytes")


def split_frames(block: bytes) -> Iterator[tuple[Frame | None, bytes]]:
    """The frames of a block that ends on a border, each with its own bytes, so that one can be left out.

    A frame's bytes start behind the border before it: comments above it belong to it. Where nothing is dispatched
    (comments alone, blank lines) the frame is None. Joined, the bytes are the block. Frames carry their own id only.
    """
    start = 0
    for end in chain((border.end() for border in _BORDER.finditer(block)), (len(block),)):
        if raw := block[start:end]:
            data, event, ident = _fields(_with_lf(raw if start else raw.removeprefix(BOM)))
            yield (None if data is None else Frame(data, event, ident or b"")), raw
        start = end


def raw_frames(block: bytes) -> list[bytes]:
    """The same bytes, and nothing read of them."""
    if CR in block:
        return [raw for _, raw in split_frames(block)]
    pieces = block.split(b"\n\n")
    rest = pieces.pop()
    frames = [piece + b"\n\n" for piece in pieces]
    if rest:
        frames.append(rest)
    return frames


def first_border(before: bytes, block: bytes) -> int:
    """Where the first border in `block` ends; 0 where there is none. `before` is what stands before it of its frame, or
    the last two bytes of that."""
    seen = before + block
    if CR not in seen:
        at = seen.find(b"\n\n", max(len(before) - 1, 0))
        return at + 2 - len(before) if at >= 0 else 0
    return next((found.end() - len(before) for found in _BORDER.finditer(seen) if found.end() > len(before)), 0)


def read_frame(raw: bytes) -> Frame | None:
    """One of `raw_frames`, as `split_frames` has it, which takes a byte-order mark for the beginning of the stream."""
    data, event, ident = _fields(_with_lf(raw))
    return None if data is None else Frame(data, event, ident or b"")


def is_text(block: bytes) -> bool:
    """Whether these are UTF-8, as all of a stream has to be."""
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def holds_comment(block: bytes) -> bool:
    """Of a block that begins with a line. Sought from behind: that way it is the LF that is looked for, not the colon,
    of which JSON is full."""
    return block.rfind(b"\n:") >= 0 or block.startswith(b":") or (CR in block and block.rfind(b"\r:") >= 0)


def comments(block: bytes) -> list[bytes]:
    """Each with its colon, and no line end."""
    return _COMMENT.findall(block)


def with_comments(block: bytes, said: Callable[[bytes], bytes]) -> bytes:
    """The same, its comments as `said` has them."""
    return _COMMENT.sub(lambda found: said(found[0]), block)


def line_end(block: bytes) -> int:
    """Where the line ends with which it begins, or all of it."""
    found = _LINE_END.search(block)
    return len(block) if found is None else found.start()


def encode(data: bytes, event: bytes = b"") -> bytes:
    """A frame of our own. Line ends within `data` part it into several data lines, which read back as LF."""
    head = b"event: %b\n" % event if event else b""
    if LF in data or CR in data:
        data = _with_lf(data).replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (head, data)


def _with_lf(lines: bytes) -> bytes:
    return lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if CR in lines else lines


def _fields(piece: bytes) -> tuple[bytes | None, bytes, bytes | None]:
    """Data, event type and id of one frame with LF line ends; None for data and id where it has none."""
    if piece.startswith(b"data: ") and LF not in (line := piece.removesuffix(b"\n\n")):
        return line[6:], b"", None  # nearly every frame of some dialects
    if piece.startswith(b"event: "):
        line, _, rest = piece.partition(b"\n")
        if rest.startswith(b"data: ") and LF not in (said := rest.removesuffix(b"\n\n")):
            return said[6:], line[7:], None  # and of the others
    data: list[bytes] = []
    event, ident = b"", None
    for line in piece.split(b"\n"):
        name, _, value = line.partition(b":")
        match name:
            case b"data":
                data.append(value.removeprefix(b" "))
            case b"event":
                event = value.removeprefix(b" ")
            case b"id" if b"\0" not in value:
                ident = value.removeprefix(b" ")
    return (b"\n".join(data) if data else None), event, ident
