"""multipart/form-data as far as a gateway needs it: finding one small field and putting another value in its place.

Grammar: RFC 7578 and RFC 2046, 5.1. Nothing is parsed that is not asked for, and no byte outside the field changes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_HEAD = 8 << 10  # bytes of one part's headers
MOST_PARTS = 64
_BOUNDARY = re.compile(r'(?i);\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))')
_NAME = re.compile(rb'(?i)^content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', re.MULTILINE)


class Field(NamedTuple):
    """A part's name and where its value stands in the body."""

    name: str
    start: int
    end: int


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names; None where it names none."""
    match = _BOUNDARY.search(content_type)
    return (match[1] or match[2]).encode("latin-1") if match else None


def fields(body: bytes, boundary: bytes) -> list[Field]:
    """The parts of a body in order. Raises ValueError where it is not cut as its boundary says."""
    delimiter = b"--" + boundary
    if not body.startswith(delimiter):
        start = body.find(b"\r\n" + delimiter)  # a preamble is allowed, and ignored
        if start < 0:
            raise ValueError("the body does not hold the boundary that Content-Type names")
        at = start + 2
    else:
        at = 0
    found: list[Field] = []
    while not body.startswith(b"--", at + len(delimiter)):
        if len(found) == MOST_PARTS:
            raise ValueError(f"the form has more than {MOST_PARTS} parts")
        head = body.find(b"\r\n", at)
        start = body.find(b"\r\n\r\n", head, head + LONGEST_HEAD)
        end = body.find(b"\r\n" + delimiter, start + 2)
        if head < 0 or start < 0 or end < 0:
            raise ValueError("a part of the form is cut off")
        name = _NAME.search(body, head + 2, start + 2)
        found.append(Field(name[1].decode("utf-8", "replace") if name else "", start + 4, max(end, start + 4)))
        at = end + 2
    return found


def value_of(body: bytes, found: list[Field], name: str) -> str | None:
    """The text of the first field of that name."""
    field = next((field for field in found if field.name == name), None)
    return None if field is None else body[field.start : field.end].decode("utf-8", "replace").strip()


def replace(body: bytes, found: list[Field], name: str, value: str) -> bytes:
    """The same form with another value for every field of that name."""
    pieces: list[bytes] = []
    at = 0
    for field in found:
        if field.name == name:
            pieces += (body[at : field.start], value.encode())
            at = field.end
    return b"".join((*pieces, body[at:]))
