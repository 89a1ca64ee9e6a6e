"""The head of an entirely ordinary request, from its bytes: one that every reader of HTTP/1.1 reads in one way.

A POST with a path of plain letters, headers of printable ASCII in lines as the specification writes them, one Host, one
Content-Length of digits, and nothing that has a say in framing or in the connection. Whatever else a request may be is
for a whole parser to judge: here it is None. What is taken here aiohttp reads alike, and a test holds that.
"""

from __future__ import annotations

import re

from proxy.record import frozen

LONGEST = 8000  # bytes of a head; below every limit that a whole parser has for one line
MOST_HEADERS = 64
END = b"\r\n\r\n"

_HEAD = re.compile(
    rb"POST (/[A-Za-z0-9/_.-]*(?:\?[A-Za-z0-9=&_.-]*)?) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9_-]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\r\n)+)\r\n"
)
_LENGTH = re.compile(rb"[1-9][0-9]{0,9}")
_HOST = re.compile(rb"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_UNUSUAL = frozenset(
    {
        "transfer-encoding", "te", "trailer", "expect", "upgrade", "http2-settings", "proxy-connection", "keep-alive",
        "content-encoding", "content-range", "content-location", "sec-websocket-key1",
    }
)  # fmt: skip


@frozen
class RequestHead:
    """`before` and `after` are its bytes on both sides of the digits of Content-Length, the blank line included;
    `headers` are in order and as they were written, less Content-Length."""

    raw_path: str  # with its query
    headers: tuple[tuple[str, str], ...]
    before: bytes
    length: int
    after: bytes


def read_ordinary(raw: bytes) -> RequestHead | None:
    """`raw` is a head up to the end of its blank line."""
    match = _HEAD.fullmatch(raw) if len(raw) <= LONGEST else None
    if match is None:
        return None
    headers: list[tuple[str, str]] = []
    names: set[str] = set()
    length, at, start = b"", 0, match.start(2)
    for line in match[2].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        text = name.decode()
        low = text.lower()
        if low in names or low in _UNUSUAL or (low == "connection" and value.lower() != b"keep-alive"):
            return None
        if low == "host" and _HOST.fullmatch(value) is None:
            return None
        names.add(low)
        if low == "content-length":
            length, at = value, start + len(name) + 2
        else:
            headers.append((text, value.decode()))
        start += len(line) + 2
    if "host" not in names or _LENGTH.fullmatch(length) is None or len(names) > MOST_HEADERS:
        return None
    return RequestHead(match[1].decode(), tuple(headers), raw[:at], int(length), raw[at + len(length) :])
