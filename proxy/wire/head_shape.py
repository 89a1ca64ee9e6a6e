"""Heads of answers that are alike but for some values.

A provider sends the same lines each time, and of these a few differ: the date, its request id, how long it took, what
is left of limits, a cookie. A shape is what such heads have in common, learnt from some that were read line by line. Of
the next one the values alone are cut out, by how long what stands between them is; that this is the same is shown by
putting the head together again. What has a say in where the answer ends, or in what it is, never differs within a
shape, but for the digits of a length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from proxy.record import record

Framing = Literal["none", "length", "chunked", "close"]
Lines = list[tuple[bytes, bytes]]  # names and values as they were written

LARGEST = 4096  # bytes of a head that a shape is learnt from
ENOUGH = 3  # heads that are read line by line until what differs among them tells the next
MOST = 64  # shapes that are kept
BEGUN = len(b"HTTP/1.1 200")  # bytes before which no header has begun

LENGTH = b"content-length"
WEIGHTY = frozenset({LENGTH, b"transfer-encoding", b"connection", b"content-type", b"content-encoding"})
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([!-~](?:[ -~]{0,1022}[!-~])?)")
_VALUE = rb"([!-~][ -~]{0,1023}+)(?<! )"  # printable, and nothing around it that a reader would take off
_DIGITS = rb"([0-9]{1,18}+)"


@record
class Head:
    """`headers` has lower-case names; where a name stands twice the last one counts. `reusable`: the connection may
    serve again once the body has ended."""

    status: int
    headers: dict[str, str]
    framing: Framing
    length: int
    reusable: bool


class Shaped(Head):
    """One that was known by its shape; `values` are those that differ within it."""

    __slots__ = ("shape", "values")

    def __init__(self, shape: Shape, values: tuple[bytes, ...], length: int) -> None:
        self.shape, self.values = shape, values
        # Records are frozen for the type checker alone; see `proxy.record`.
        self.status, self.framing, self.reusable = 200, shape.framing, shape.reusable  # type: ignore[misc]
        self.length = length  # type: ignore[misc]

    @property
    def headers(self) -> dict[str, str]:
        return self.shape.headers([value.decode() for value in self.values])


class Shape:
    """Of good answers with these lines, but for the values of those that are `free`, which leave a connection as `like`
    does."""

    __slots__ = ("_at_length", "_cut", "_form", "_free", "_lines", "framing", "reusable", "told")

    def __init__(self, start: bytes, lines: Lines, free: frozenset[int], like: Head) -> None:
        self.framing, self.reusable = like.framing, like.reusable
        self.told = b""  # the head that it told last
        self._lines, self._free = lines, free
        self._at_length = -1  # among the values
        form, pattern, between = b"", b"(?s)", start
        for at, (name, value) in enumerate(lines):
            between += b"\r\n%b: " % name
            if at not in free:
                between += value
                continue
            measures = _measures(like, name)
            if measures:
                self._at_length = sum(other < at for other in free)
            form += between.replace(b"%", b"%%") + b"%b"
            pattern += b".{%d}%b" % (len(between), _DIGITS if measures else _VALUE)
            between = b""
        self._form = form + between.replace(b"%", b"%%")
        self._cut = re.compile(pattern + b".{%d}" % len(between)).fullmatch

    def knows(self, raw: bytes) -> Shaped | None:
        match = self._cut(raw)
        if match is None:
            return None
        values = match.groups()
        if self._form % values != raw:
            return None
        return Shaped(self, values, int(values[self._at_length]) if self._at_length >= 0 else 0)

    def headers(self, values: Sequence[str]) -> dict[str, str]:
        """As a head that has them."""
        own = iter(values)
        return {
            name.decode().lower(): next(own) if at in self._free else value.decode()
            for at, (name, value) in enumerate(self._lines)
        }


def _measures(head: Head, name: bytes) -> bool:
    return head.framing == "length" and name.lower() == LENGTH


class _Kin:
    """Heads that have the same names in the same order, and say the same where that has weight."""

    def __init__(self, start: bytes, lines: Lines, like: Head) -> None:
        self._start, self._lines, self._like = start, lines, like
        self._free = frozenset(at for at, (name, _) in enumerate(lines) if _measures(like, name))
        self._seen = 0
        self.shape: Shape | None = None

    def one_more(self, lines: Lines) -> Shape | None:
        """Another one of them, that their shape did not know; and the shape that does from now on."""
        self._seen += 1
        self._free |= {at for at, line in enumerate(lines) if line != self._lines[at]}
        return Shape(self._start, self._lines, self._free, self._like) if self._seen >= ENOUGH else None


class Shapes:
    """Those that have come; of those whose first header has the same name the latest first."""

    def __init__(self) -> None:
        self._kin: dict[tuple[object, ...], _Kin] = {}
        self._told: dict[bytes, list[Shape]] = {}  # by how a head begins, up to its first colon

    def knows(self, raw: bytes) -> Shaped | None:
        """`raw` is a head without the blank line behind it."""
        shapes = self._told.get(raw[: raw.find(b":", BEGUN)])
        for shape in shapes or ():
            head = shape.knows(raw)
            if head is not None:
                if shapes and shape is not shapes[0]:
                    shapes.remove(shape)
                    shapes.insert(0, shape)
                return head
        return None

    def learn(self, raw: bytes, head: Head) -> None:
        """Of a head that is not known, and was read line by line."""
        if head.status != 200 or len(raw) > LARGEST or head.framing not in ("length", "chunked"):
            return
        start, *rest = raw.split(b"\r\n")
        lines: Lines = [(match[1], match[2]) for line in rest if (match := _LINE.fullmatch(line)) is not None]
        if len(lines) < len(rest):
            return  # good, and written in a way that is not everybody's
        weighty = WEIGHTY - {LENGTH} if head.framing == "length" else WEIGHTY
        key = start, *((name, value if name.lower() in weighty else b"") for name, value in lines)
        kin = self._kin.get(key)
        if kin is None:
            if len(self._kin) >= MOST:
                self._kin.clear()
                self._told.clear()
            kin = self._kin[key] = _Kin(start, lines, head)
        shape = kin.one_more(lines)
        if shape is not None:
            shapes = self._told.setdefault(raw[: raw.find(b":", BEGUN)], [])
            if kin.shape is not None:
                shapes.remove(kin.shape)
            shapes.insert(0, shape)
            kin.shape = shape
