"""The head of an answer, from its bytes, strictly: what two readers could take for two things is refused.

At most `MOST_HEADERS` lines of `LONGEST_LINE` bytes, which end in CRLF; no folded lines; a length stands once; the one
transfer coding is `chunked`. Where both a length and a coding stand, the coding counts and the connection is not used
again.

A head that came before is known by its bytes, and one that is like others by its shape;
whatever these do not know is read line by line, which is what they stand for.
"""

from __future__ import annotations

import re
from typing import TypeVar

from proxy.wire.head_shape import Head, Shapes

LONGEST_LINE = 8190  # bytes, as aiohttp has it
MOST_HEADERS = 128
KNOWN = 1024  # lines of a kind that are kept as they were read: most come again and again
MOST_HEADS, LARGEST_HEAD = 64, 1024  # whole heads that are kept as they were read, and bytes of one that is

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_LENGTH = re.compile(r"[0-9]{1,18}")

_T = TypeVar("_T")


class BadHttp(Exception):
    """The bytes are no answer. The text says why, without quoting them; `body` is what they held of one before that,
    behind what was told of it already."""

    body = b""


_statuses: dict[bytes, tuple[int, bool]] = {}
_lines: dict[bytes, tuple[str, str]] = {}
_heads: dict[bytes, Head] = {}
_shapes = Shapes()


def head_of(raw: bytes) -> Head:
    """`raw` is a head without the blank line behind it. Raises BadHttp."""
    head = known_head(raw)
    if head is None:
        head = read_head(raw)
        if head.status >= 200:
            _keep_head(raw, head)
            _shapes.learn(raw, head)
    return head


def known_head(raw: bytes) -> Head | None:
    """None for one that has to be read."""
    head = _heads.get(raw)
    if head is not None:
        return head
    shaped = _shapes.knows(raw)
    if shaped is not None:
        if raw == shaped.shape.told:
            _keep_head(raw, shaped)  # and it may come again and again
        shaped.shape.told = raw
    return shaped


def _keep_head(raw: bytes, head: Head) -> None:
    if len(raw) <= LARGEST_HEAD:
        keep(_heads, raw, head, MOST_HEADS)


def read_head(raw: bytes) -> Head:
    """Line by line, as any other reader; raises BadHttp."""
    first, *lines = raw.split(b"\r\n")
    status, modern = _statuses.get(first) or _status(first)
    if len(lines) > MOST_HEADERS:
        raise BadHttp("too many headers")
    pairs = [_lines.get(line) or _header(line) for line in lines]
    headers = dict(pairs)
    if len(headers) < len(pairs):
        _check_twice(pairs)
    return _framed(status, modern, headers)


def _status(line: bytes) -> tuple[int, bool]:
    """And whether it is HTTP/1.1's."""
    match = _STATUS.fullmatch(line)
    if match is None:
        raise BadHttp("no status line")
    found = int(match[2]), match[1] == b"1"
    if len(line) < 64:
        keep(_statuses, line, found)
    return found


def _header(line: bytes) -> tuple[str, str]:
    match = _HEADER.fullmatch(line)
    if match is None or len(line) > LONGEST_LINE:
        raise BadHttp("a header that is none, or is too long")
    pair = match[1].decode().lower(), match[2].decode("utf-8", "surrogateescape")
    if len(line) < 128:
        keep(_lines, line, pair)
    return pair


def keep(known: dict[bytes, _T], key: bytes, value: _T, most: int = KNOWN) -> None:
    if len(known) >= most:
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
