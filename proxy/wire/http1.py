"""An HTTP/1.1 answer from its bytes, strictly: what two readers could take for two things is refused.

No asyncio here: bytes in, head and body out. RFC 9112 with these bounds: a head has at most `MOST_HEADERS` lines of
`LONGEST_LINE` bytes; lines end in CRLF; no folded lines; a length stands once; the one transfer coding is `chunked`;
chunk sizes are hexadecimal digits and nothing else, but for an extension, which is passed over. Where both a length and
a coding stand, the coding counts and the connection is not used again.
"""

from __future__ import annotations

import re
from itertools import repeat
from typing import Literal, TypeVar

from attrs import field

from proxy.record import define, record

LONGEST_LINE = 8190  # bytes, as aiohttp has it
MOST_HEADERS = 128
LONGEST_HEAD = 128 << 10
MOST_INTERIM = 16  # 1xx answers before the one that counts
LONGEST_SIZE = 4096  # bytes of a chunk's size line with its extension, and of all trailers
KNOWN = 1024  # header lines and size lines that are kept as they were read: most come again and again
MOST_HEADS, LARGEST_HEAD = 64, 1024  # whole heads that are kept as they were read, and bytes of one that is
NO_MORE = [b"0", b"", b""]  # the last lines of a body in chunks
WORTH_PARTING = 8  # chunks as long as the first that have to be there before they are taken apart all at once

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")

_T = TypeVar("_T")
Framing = Literal["none", "length", "chunked", "close"]


class BadHttp(Exception):
    """The bytes are no answer. The text says why, without quoting them; `body` is what they held of one before that,
    behind what was told of it already."""

    body = b""


@record
class Head:
    """`headers` has lower-case names; where a name stands twice the last one counts. `reusable`: the connection may
    serve again once the body has ended."""

    status: int
    headers: dict[str, str]
    framing: Framing
    length: int
    reusable: bool


_statuses: dict[bytes, tuple[int, bool]] = {}
_lines: dict[bytes, tuple[str, str]] = {}
_heads: dict[bytes, Head] = {}
_wholes: dict[bytes, Parser] = {}  # of heads with a length: what stands behind an answer of which it was told at once
_sizes: dict[bytes, int] = {}
_marks: dict[bytes, int] = {}  # size lines behind their LF -> how long the chunk is behind its own; none for the last


def read_head(raw: bytes) -> Head:
    """`raw` is a head without the blank line behind it. Raises BadHttp."""
    first, *lines = raw.split(b"\r\n")
    status, modern = _statuses.get(first) or _status(first)
    if len(lines) > MOST_HEADERS:
        raise BadHttp("too many headers")
    pairs = [_lines.get(line) or _header(line) for line in lines]
    headers = dict(pairs)
    if len(headers) < len(pairs):
        _check_twice(pairs)
    return _framed(status, modern, headers)


def _read(raw: bytes) -> Head:
    head = read_head(raw)
    if len(raw) <= LARGEST_HEAD and head.status >= 200:
        if len(_heads) >= MOST_HEADS:
            _heads.clear()
            _wholes.clear()
        _heads[raw] = head
        if head.framing == "length" and head.length:
            _wholes[raw] = Parser(head, done=True, framing="length")
    return head


def all_of(data: bytes) -> tuple[Head, list[bytes]] | None:
    """Head and chunks, if `data` is an answer from its first byte to its last, in chunks whose sizes have come before;
    None for whatever takes a parser. Raises BadHttp."""
    raw, _, body = data.partition(b"\r\n\r\n")
    chunks, ends = chunks_of(body) or ([], False)
    if not (chunks and ends):
        return None
    head = _heads.get(raw) or _read(raw)
    return (head, chunks) if head.framing == "chunked" else None


def begun(data: bytes) -> tuple[Head, bytes] | None:
    """The head of an answer in chunks, if it came before, and what stands behind it."""
    raw, end, body = data.partition(b"\r\n\r\n")
    head = _heads.get(raw)
    return (head, body) if end and head is not None and head.framing == "chunked" else None


def chunks_of(body: bytes) -> tuple[list[bytes], bool] | None:
    """The chunks, and whether the body ends with them, if from the border of a chunk on `body` is whole ones whose
    sizes have come before; else as above."""
    pieces = body.split(b"\r\n")
    ends = pieces[-3:] == NO_MORE
    if ends:
        del pieces[-2:]
    chunks = pieces[1::2]
    lengths = [*map(len, chunks)]
    if pieces.pop() != (b"0" if ends else b"") or 0 in lengths or lengths != [*map(_sizes.get, pieces[::2])]:
        return None
    return chunks, ends


def whole(data: bytes) -> tuple[Parser, bytes] | None:
    """A parser that stands behind `data`, and the body, if `data` is all of an answer whose head came before. All such
    answers have the one parser: it is given nothing more."""
    end = data.find(b"\r\n\r\n")
    parser = _wholes.get(data[:end]) if end > 0 else None
    if parser is None or parser.head is None or parser.head.length != len(data) - end - 4:
        return None
    return parser, data[end + 4 :]


def _status(line: bytes) -> tuple[int, bool]:
    """And whether it is HTTP/1.1's."""
    match = _STATUS.fullmatch(line)
    if match is None:
        raise BadHttp("no status line")
    found = int(match[2]), match[1] == b"1"
    if len(line) < 64:
        _keep(_statuses, line, found)
    return found


def _header(line: bytes) -> tuple[str, str]:
    match = _HEADER.fullmatch(line)
    if match is None or len(line) > LONGEST_LINE:
        raise BadHttp("a header that is none, or is too long")
    pair = match[1].decode().lower(), match[2].decode("utf-8", "surrogateescape")
    if len(line) < 128:
        _keep(_lines, line, pair)
    return pair


def _keep(known: dict[bytes, _T], key: bytes, value: _T) -> None:
    if len(known) >= KNOWN:
        known.clear()
    known[key] = value


def _check_twice(pairs: list[tuple[str, str]]) -> None:
    """A second length or coding is how one answer is made to look like two."""
    names = [name for name, _ in pairs]
    if names.count("content-length") > 1 or names.count("transfer-encoding") > 1:
        raise BadHttp("two lengths")


def _framed(status: int, modern: bool, headers: dict[str, str]) -> Head:
    connection = headers.get("connection")
    reusable = modern if connection is None else _stays(connection, modern)
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise BadHttp("a length that is none")
    if status < 200 or status in (204, 304):
        announced = coding is not None or length not in (None, "0")  # a body that must not come, and may all the same
        return Head(status, headers, "none", 0, reusable and not announced)
    if coding is not None:
        if coding.lower() != "chunked" or not modern:
            raise BadHttp("a transfer coding other than chunked")
        return Head(status, headers, "chunked", 0, reusable and length is None)
    if length is not None:
        return Head(status, headers, "length", int(length), reusable)
    return Head(status, headers, "close", 0, False)


def _stays(connection: str, modern: bool) -> bool:
    """What a header of that name says of it."""
    tokens = [token.strip() for token in connection.lower().split(",")]
    return "close" not in tokens and (modern or "keep-alive" in tokens)


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
        """As `feed`, of a body in chunks no further than to the end of the chunk in which `enough` bytes of `data` are;
        and how many bytes that is. Those behind it are to be fed next."""
        body, at, step = b"", 0, enough
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
            head, data = _heads.get(data[:end]) or _read(data[:end]), data[end + 4 :]
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
        _keep(_sizes, line, size)
        if size:
            _keep(_marks, b"\n" + line, size + 1)
    return size


def _check_end(data: bytes, have: int, end: int) -> None:
    """That as much as is here of a chunk's CRLF, which ends at `end`, is one."""
    cr, lf = end - 2, end - 1
    if (0 <= cr < have and data[cr] != 13) or (0 <= lf < have and data[lf] != 10):
        raise BadHttp("a chunk that is longer than its size")
