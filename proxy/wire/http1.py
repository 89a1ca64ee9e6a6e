"""An HTTP/1.1 answer from its bytes, strictly: what two readers could take for two things is refused.

No asyncio here: bytes in, head and body out. RFC 9112; what a head may be `answer_head` says, and here is its bound as
a whole. Chunk sizes are hexadecimal digits and nothing else, but for an extension, which is passed over.
"""

from __future__ import annotations

import re
from itertools import repeat

from attrs import field

from proxy.record import define
from proxy.wire.answer_head import LONGEST_LINE, MOST_HEADS, BadHttp, head_of, keep, known_head
from proxy.wire.chunked_run import size_line
from proxy.wire.head_shape import Framing, Head

LONGEST_HEAD = 128 << 10
MOST_INTERIM = 16  # 1xx answers before the one that counts
LONGEST_SIZE = 4096  # bytes of a chunk's size line with its extension, and of all trailers
NO_MORE = [b"0", b"", b""]  # the last lines of a body in chunks
WORTH_PARTING = 8  # chunks as long as the first that have to be there before they are taken apart all at once

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")

_sizes: dict[bytes, int] = {}
_wholes: dict[bytes, tuple[Parser, int]] = {}  # heads -> what stands behind an answer, and how long its body is
_marks: dict[bytes, int] = {}  # size lines behind their LF -> how long the chunk is behind its own; none for the last


def all_of(data: bytes) -> tuple[Head, list[bytes]] | None:
    """Head and chunks, if `data` is an answer from its first byte to its last, in chunks whose sizes have come before;
    None for whatever takes a parser. Raises BadHttp."""
    raw, _, body = data.partition(b"\r\n\r\n")
    chunks, ends = chunks_of(body) or ([], False)
    if not (chunks and ends):
        return None
    head = head_of(raw)
    return (head, chunks) if head.framing == "chunked" else None


def begun(data: bytes) -> tuple[Head, bytes] | None:
    """The head of an answer in chunks, if it is known, and what stands behind it."""
    raw, end, body = data.partition(b"\r\n\r\n")
    head = known_head(raw) if end else None
    return (head, body) if head is not None and head.framing == "chunked" else None


def chunks_of(body: bytes) -> tuple[list[bytes], bool] | None:
    """The chunks, and whether the body ends with them, if from the border of a chunk on `body` is whole ones whose
    sizes have come before; else as above."""
    line, size = size_line(len(body))
    chunk = body.removeprefix(line).removesuffix(b"\r\n")
    if len(chunk) == size and line:  # as of nearly every read of a slow stream
        return [chunk], False
    pieces = body.split(b"\r\n")
    ends = pieces[-3:] == NO_MORE
    if ends:
        del pieces[-2:]
    if len(pieces) % 2 == 0:
        return None  # what looks like the last size is a chunk
    chunks = pieces[1::2]
    lengths = [*map(len, chunks)]
    if pieces.pop() != (b"0" if ends else b"") or 0 in lengths or lengths != [*map(_sizes.get, pieces[::2])]:
        return None
    return chunks, ends


def whole(data: bytes) -> tuple[Parser, bytes] | None:
    """A parser that stands behind `data`, and the body, if `data` is all of an answer whose head is known, and has a
    length. What had the same head may have the same parser: it is given nothing more."""
    # `find` by itself would take longer: its arguments Python 3.11 reads by a format.
    raw, end, body = data.partition(b"\r\n\r\n")
    found = (_wholes.get(raw) or _behind(raw)) if end else None
    return (found[0], body) if found is not None and found[1] == len(body) else None


def _behind(raw: bytes) -> tuple[Parser, int] | None:
    """As `_wholes`, of a head that is known, and tells of a body of some length."""
    head = known_head(raw)
    if head is None or head.framing != "length" or not head.length:
        return None
    found = Parser(head, done=True, framing="length"), head.length
    if head.__class__ is Head:  # one that has come before as it is
        keep(_wholes, raw, found, MOST_HEADS)
    return found


@define
class Parser:
    """Push parser of one answer. `feed` gives what there is of the body; `head` is None until it is whole, `done` says
    that the body has ended, `surplus` that bytes came behind it. Raises BadHttp."""

    head: Head | None = None
    done: bool = False
    surplus: bool = False
    _buffer: bytes = b""  # of a head, a size line or trailers that are not whole yet
    _left: int = 0  # bytes of the body, or of the current chunk with its CRLF, that are still to come
    _trailing: bool = False
    _interim: int = 0
    _framing: Framing = "none"
    _seen: int = field(default=0)  # of `_buffer`, known to hold no end of a head

    def feed(self, data: bytes) -> bytes:
        if self._framing == "chunked" and not (self._left or self._buffer or self._trailing):
            # Nearly every read begins behind a chunk, and of a slow stream it is one.
            end = data.find(b"\r\n", 0, 18)
            length = _sizes.get(data[:end], 0)
            if length and len(data) == end + length + 4 and data.endswith(b"\r\n") and not self.done:
                return data[end + 2 : -2]
        if self.done:
            self.surplus = True
            return b""
        if self.head is None:
            data = self._head(self._buffer + data if self._buffer else data)
            if not data or self.done:
                self.surplus = bool(data)
                return b""
            if len(data) == self._left and self._framing == "length":  # all of a plain answer in one read
                self._left, self.done = 0, True
                return data
        if self._framing == "chunked":
            parts: list[bytes] = []
            try:
                self._chunked(data, parts)
            except BadHttp as exc:
                exc.body = b"".join(parts)
                raise
            return parts[0] if len(parts) == 1 else b"".join(parts)
        return self._measured(data) if self._framing == "length" else data

    def feed_some(self, data: bytes, enough: int) -> tuple[bytes, int]:
        """As `feed`, of a body in chunks no further than to the end of the chunk in which `enough` bytes of `data` are,
        if not 0; and how many bytes that is. Those behind it are to be fed next."""
        body, at, step = b"", 0, enough or len(data)
        try:
            while at < len(data):
                body += self.feed(data[at : at + step])
                at = min(at + step, len(data))
                if self.at_border:
                    break
                step = (self._left or 1) if self._framing == "chunked" and not self.done else len(data)
        except BadHttp as exc:
            exc.body = body + exc.body
            raise
        return body, at

    @property
    def begun(self) -> bool:
        return self.head is not None or bool(self._buffer or self._interim)

    @property
    def at_border(self) -> bool:
        """Whether a chunk has just ended and more are to come."""
        return self._framing == "chunked" and not (self._left or self._buffer or self._trailing or self.done)

    def close(self) -> bool:
        """The connection has ended; whether the answer is whole."""
        if self.head is not None and self.head.framing == "close":
            self.done = True
        return self.done

    # -- the head ------------------------------------------------------------------------------------------------

    def _head(self, data: bytes) -> bytes:
        """What stands behind the head, once it is whole."""
        while (end := data.find(b"\r\n\r\n", max(0, self._seen - 3))) >= 0:
            self._seen = 0
            if end > LONGEST_HEAD:
                break
            head, data = head_of(data[:end]), data[end + 4 :]
            if head.status >= 200:
                self._begin(head)
                return data
            self._interim += 1
            if head.status == 101 or self._interim > MOST_INTERIM:
                raise BadHttp("an interim answer that nobody asked for")
        if len(data) > LONGEST_HEAD or (b"\n" in data[:LONGEST_LINE] and data[: data.index(b"\n")][-1:] != b"\r"):
            raise BadHttp("a head that is too long, or has bare line ends")
        if len(data) >= 5 and not data.startswith(b"HTTP/"):
            raise BadHttp("no status line")
        self._buffer, self._seen = data, len(data)
        return b""

    def _begin(self, head: Head) -> None:
        self.head, self._framing, self._buffer, self._left = head, head.framing, b"", head.length
        self.done = head.framing == "none" or (head.framing == "length" and not head.length)

    # -- the body ------------------------------------------------------------------------------------------------

    def _measured(self, data: bytes) -> bytes:
        left = self._left = self._left - len(data)
        if left > 0:
            return data
        self.done = True
        if left == 0:
            return data
        self.surplus = True
        return data[:left]

    def _chunked(self, data: bytes, parts: list[bytes]) -> None:
        """One pass over the sizes; of the body, `parts` get what there is. `_left` counts a chunk's CRLF as well, so 1
        or 2 of it are no bytes of the body."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        if self._trailing:
            self._trailers(data, 0)
            return
        pos, size, parted = self._left, len(data), False
        if pos > 2:
            parts.append(data[: pos - 2] if pos - 2 < size else data)
        if pos:
            _check_end(data, min(pos, size), pos)
        while pos < size:
            end = data.find(b"\r\n", pos)
            if end < 0:
                self._hold(data, pos)
                self._left = 0
                return
            line = data[pos:end]
            length = _sizes.get(line, -1)
            if length < 0:
                length = _size(line)
            if length == 0:
                self._left, self._trailing = 0, True
                self._trailers(data, end + 2)
                return
            start = end + 2
            if size - pos > WORTH_PARTING * length and not parted:
                parted = True
                body, pos = _parted(data, pos)
                if body:
                    parts.append(body)
                    continue
            pos = start + length + 2
            parts.append(data[start : start + length])
            if pos <= size:
                if not data.startswith(b"\r\n", pos - 2):
                    raise BadHttp("a chunk that is longer than its size")
            else:
                _check_end(data, size, pos)
        self._left = pos - size

    def _hold(self, data: bytes, pos: int) -> None:
        """Half a size line."""
        rest = data[pos:]
        if len(rest) > LONGEST_SIZE or _SIZE.match(rest) is None or b"\n" in rest:
            raise BadHttp("a chunk size that is none")
        self._buffer = rest

    def _trailers(self, data: bytes, pos: int) -> None:
        """What stands behind the last chunk is passed over, up to the blank line."""
        if data.startswith(b"\r\n", pos):
            end = pos + 2
        else:
            end = data.find(b"\r\n\r\n", pos) + 4
            if end < 4:
                self._buffer = data[pos:]
                if len(self._buffer) > LONGEST_SIZE:
                    raise BadHttp("trailers without an end")
                return
        self.done, self.surplus = True, end < len(data)


def _parted(data: bytes, pos: int) -> tuple[bytes, int]:
    """The bodies of the whole chunks from `pos` on, and where they end: of as many as have a size that is known and no
    CR within. All in C: cut at each CR, a chunk is two pieces, its size behind an LF and its body behind another."""
    pieces = data[pos:].split(b"\r")
    pieces[0] = b"\n" + pieces[0]
    count = (len(pieces) - 1) // 2
    lengths, wanted = list(map(len, pieces[1 : 2 * count : 2])), list(map(_marks.get, pieces[0 : 2 * count : 2]))
    if lengths != wanted:
        count = next(n for n, length in enumerate(lengths) if length != wanted[n])
    if count and not pieces[2 * count].startswith(b"\n"):
        count -= 1
    body = b"".join(map(bytes.removeprefix, pieces[1 : 2 * count : 2], repeat(b"\n")))
    if len(body) != sum(lengths[:count]) - count:  # some body has no LF before it
        return b"", pos
    return body, pos + len(body) + sum(map(len, pieces[0 : 2 * count : 2])) + 3 * count


def _size(line: bytes) -> int:
    match = _SIZE.fullmatch(line) if len(line) <= LONGEST_SIZE else None
    if match is None:
        raise BadHttp("a chunk size that is none")
    size = int(match[1], 16)
    if len(line) < 16:
        keep(_sizes, line, size)
        if size:
            keep(_marks, b"\n" + line, size + 1)
    return size


def _check_end(data: bytes, have: int, end: int) -> None:
    """That as much as is here of a chunk's CRLF, which ends at `end`, is one."""
    cr, lf = end - 2, end - 1
    if (0 <= cr < have and data[cr] != 13) or (0 <= lf < have and data[lf] != 10):
        raise BadHttp("a chunk that is longer than its size")
