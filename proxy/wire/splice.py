"""Surgery on the bytes of a JSON object: what is not edited stays as it came, byte for byte.

Parsing and dumping again would change a body: big integers turn into floats, equal keys merge, white space and escapes
go, and with them a provider's prompt cache. So only the borders of the top-level members are looked for, by patterns
that run over strings and containers in C.

The body has been validated as a JSON object before it comes here. Of anything else the outcome is a ValueError or
nonsense of about the same length, never a hang, never another exception.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

from proxy.wire.thin import Cuts, Light, thinned

_SPACE = rb"[ \t\n\r]*+"
# Nearly every string ends at the first quote that no backslash stands before; `[^"]*+` alone is ten times as fast as
# leaving out backslashes too. An exact pattern takes over where two backslashes or more stand before a quote.
_STRING = rb'(?:"[^"]*+(?:(?<=[^\\]\\)"[^"]*+)*(?<!\\)"|"[^"\\]*+(?:\\.[^"\\]*+)*+")'
_PLAIN = rb'[^"\[\]{}]*+'  # between strings and brackets


def _nested(levels: int) -> bytes:
    """Pattern of what may stand between a container's brackets, `levels` of further containers deep. Possessive, so
    that a failure costs one pass and the engine keeps no stack of ways back."""
    inside = rb"%b(?:%b%b)*+" % (_PLAIN, _STRING, _PLAIN)
    for _ in range(levels):
        inside = rb"%b(?:(?:%b|[\[{]%b[\]}])%b)*+" % (_PLAIN, _STRING, inside, _PLAIN)
    return inside


@cache
def member_pattern() -> re.Pattern[bytes]:
    """One top-level member with the brace or comma before it. Real bodies stay within 16 levels (tool schemas reach
    ten); where one does not, the value's group is unset and `_container_end` counts brackets.

    It takes 7 ms to compile: the process begins to serve without it."""
    return re.compile(
        rb'[{,]%b(%b)%b:%b(?:(%b|[\[{]%b[\]}]|[^"\[\]{},: \t\n\r]++)%b)?'
        % (_SPACE, _STRING, _SPACE, _SPACE, _STRING, _nested(16), _SPACE),
        re.DOTALL,
    )


_FLAT = re.compile(_nested(0), re.DOTALL)
_BRACKETS = re.compile(rb"[\[{]++|[\]}]++")
_OPENING = re.compile(rb"%b\{" % _SPACE)
_EMPTY = re.compile(rb"\{%b\}" % _SPACE)
_GAP = re.compile(_SPACE)

# The value of a member `model` that is written without an escape.
_MODEL = re.compile(rb'"model"%b:%b("[^"\\]*+")' % (_SPACE, _SPACE))
BACKSLASH = 92
SHORT = 4096  # bytes of a body in which a few names are sooner looked for than all borders

_ASKED = b',"stream_options":{"include_usage":true}'
Parts = Sequence[bytes | memoryview]  # of a body, in order
_Edit = tuple[int, int, bytes]  # start, end, what stands there afterwards


class Member(NamedTuple):
    """One member of a JSON object, by its positions in the body. A tuple, since a body has dozens of them."""

    key: str  # decoded
    key_start: int  # at the opening quote
    value_start: int
    value_end: int


_member = partial(tuple.__new__, Member)  # past Python's half of a named tuple's constructor


def each_once(body: bytes, document: Mapping[str, Any], names: frozenset[str]) -> bool:
    """Whether the members of these names, of an object that was read from `body`, are quickly seen to stand in it once.
    False says nothing: `members` knows."""
    if len(body) > SHORT or (BACKSLASH in body and b"\\u00" in body):
        return False  # a name may be written in escapes
    written = _written(names)
    for name in document:
        quoted = written.get(name)
        if quoted is not None and body.count(quoted) != 1:
            return False
    return True


@lru_cache(maxsize=64)
def _written(names: frozenset[str]) -> dict[str, bytes]:
    return {name: b'"%b"' % name.encode() for name in names}


def renamed(body: bytes, model: str) -> bytes | None:
    """As `rewrite` with nothing but `model`, where the one `"model"` of the body is its name's; None where that takes
    more than a look."""
    match = _MODEL.search(body)
    if match is None:
        return None
    start, end = match.span(1)
    return b"".join((body[:start], _dumps(model), body[end:]))


def lead(body: bytes, model: str) -> tuple[bytes, bytes] | None:
    """How a body begins whose first member is `model`, up to its value's end; and with that value in its place. None
    where another member is the first, or the name is written in another way."""
    match = _MODEL.match(body, 1)
    if match is None or not body.startswith(b"{"):
        return None
    start, end = match.span(1)
    return body[:end], body[:start] + _dumps(model)


def asking_usage(body: bytes) -> bytes:
    """As `rewrite` with nothing but `include_usage`, of a body that has members and no `stream_options`."""
    end = _end_of_members(body)
    return b"".join((body[:end], _ASKED, body[end:]))


def renamed_around(light: Light, found: list[Member] | None, model: str, *, include_usage: bool) -> Parts | None:
    """As `rewritten`, of a body whose thin text has these members; None where more than a look is needed. Where they
    are not known that text shows that `renamed`, and `asking_usage`, would do."""
    text, place = light.text, light.cuts.place
    edits = _sought(text, model, include_usage) if found is None else _edits(text, found, model, (), include_usage)
    if edits is None:
        return None
    parts: list[bytes | memoryview] = []
    at = 0
    for start, end, said in sorted(edits):
        parts += (*light.body.between(at, place(start)), said)
        at = place(end)
    parts += light.body.between(at, len(light.body))
    return parts


def _sought(body: bytes, model: str, include_usage: bool) -> list[_Edit] | None:
    match = _MODEL.search(body)
    if match is None:
        return None
    start, end = match.span(1)
    edits = [(start, end, _dumps(model))]
    if include_usage:
        last = _end_of_members(body)
        edits.append((last, last, _ASKED))
    return edits


def _end_of_members(body: bytes) -> int:
    return len(body[: body.rindex(b"}")].rstrip(b" \t\n\r"))


def members(body: bytes) -> list[Member]:
    """The top-level members, in order, with those that stand twice. Raises ValueError if there is no object."""
    text, cuts = thinned(body)
    if cuts:
        with suppress(ValueError):  # a name may have been cut within an escape
            return [_widened(member, body, cuts) for member in _members(text)]
    return _members(body)


def _members(body: bytes) -> list[Member]:
    opening = _OPENING.match(body)
    if not opening:
        raise ValueError("the body is not a JSON object")
    found, end = _scan(body, opening.end() - 1)
    if not _GAP.fullmatch(body, end):
        raise _broken(end)
    return found


def _widened(member: Member, body: bytes, cuts: Cuts) -> Member:
    """A member of the thin text, in the whole one."""
    key, *places = member
    key_start, value_start, value_end = map(cuts.place, places)
    if value_start - key_start != member.value_start - member.key_start:
        key = _key(body[key_start:value_start].rstrip(b" \t\n\r:"))
    return Member(key, key_start, value_start, value_end)


def duplicates(found: Iterable[Member]) -> set[str]:
    """The keys that stand more than once."""
    return {key for key, times in Counter(member.key for member in found).items() if times > 1}


def rewrite(
    body: bytes,
    found: list[Member] | None = None,
    *,
    model: str | None = None,
    drop: Collection[str] = (),
    include_usage: bool = False,
) -> bytes:
    """All that a body needs on its way to a provider of its own dialect, in one scan; in none where its members are
    known, as `found`. As one piece: see `rewritten`."""
    return whole(rewritten(body, found, model=model, drop=drop, include_usage=include_usage))


def rewritten(
    body: bytes,
    found: list[Member] | None = None,
    *,
    model: str | None = None,
    drop: Collection[str] = (),
    include_usage: bool = False,
) -> Parts:
    """Parts of the body, without a copy, and what stands between them.

    `model` becomes the value of every top-level `model`, or a new last member where there is none; the members named in
    `drop` go; `include_usage` makes `stream_options.include_usage` true. Raises ValueError as `members` does.
    """
    return _parts(body, _edits(body, members(body) if found is None else found, model, drop, include_usage))


def _edits(
    body: bytes, found: list[Member], model: str | None, drop: Collection[str], include_usage: bool
) -> list[_Edit]:
    kept = [member for member in found if member.key not in drop]
    edits = _removals(found, kept)
    added = []
    if model is not None:
        renames = _renames(kept, model)
        edits += renames
        if not renames:
            added.append(b'"model":' + _dumps(model))
    if include_usage:
        usage = _usage(body, kept)
        edits += usage or []
        if usage is None:
            added.append(_ASKED[1:])
    if added:
        edits.append(_appended(kept, body.index(b"{") + 1, b",".join(added)))
    return edits


def _scan(body: bytes, at: int) -> tuple[list[Member], int]:
    """Members of the object that opens at `at`, and where it ends."""
    if empty := _EMPTY.match(body, at):
        return [], empty.end()
    found, pattern = [], member_pattern()
    while match := pattern.match(body, at):
        value_start, value_end = match.span(2)
        at = match.end()
        if value_end < 0:
            value_start, value_end = at, _container_end(body, at)
            at = _skip(_GAP, body, value_end)
        found.append(_member((_key(match[1]), match.start(1), value_start, value_end)))
    if not body.startswith(b"}", at):
        raise _broken(at)
    return found, at + 1


def _container_end(body: bytes, at: int) -> int:
    """Where the container that opens at `at` ends, however deep: no recursion, one step for a run of like brackets."""
    depth = 0
    while brackets := _BRACKETS.match(body, at):
        start, at = brackets.span()
        if body[start] in b"[{":
            depth += at - start
        elif at - start < depth:
            depth -= at - start
        elif depth:
            return start + depth
        else:
            break
        at = _skip(_FLAT, body, at)
    raise _broken(at)


def _skip(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    match = pattern.match(body, at)
    return match.end() if match else at


def _broken(at: int) -> ValueError:
    return ValueError(f"the body is not a JSON object: byte {at}")


def _key(quoted: bytes) -> str:
    text = quoted.decode()
    return str(json.loads(text)) if "\\" in text else text[1:-1]


@lru_cache(maxsize=256)  # the same few names of models
def _dumps(text: str) -> bytes:
    return json.dumps(text).encode()  # ASCII: a lone surrogate stays an escape


def _renames(found: Iterable[Member], model: str) -> list[_Edit]:
    value = _dumps(model)
    return [(member.value_start, member.value_end, value) for member in found if member.key == "model"]


def _removals(found: list[Member], kept: list[Member]) -> list[_Edit]:
    """A run of members goes up to the next one that stays; the last run goes from the end of the one before it, so that
    its comma goes too."""
    if len(kept) == len(found):
        return []
    staying = {member.key_start for member in kept}
    edits: list[_Edit] = []
    run_start = None
    for member in found:
        if member.key_start not in staying:
            run_start = member.key_start if run_start is None else run_start
        elif run_start is not None:
            edits.append((run_start, member.key_start, b""))
            run_start = None
    if run_start is not None:
        edits.append((kept[-1].value_end if kept else run_start, found[-1].value_end, b""))
    return edits


def _usage(body: bytes, kept: Iterable[Member]) -> list[_Edit] | None:
    """Edits within each `stream_options`; None where there is none. What is neither an object nor null is the client's
    mistake and the provider's to name."""
    edits: list[_Edit] = []
    options = [member for member in kept if member.key == "stream_options"]
    for member in options:
        if body.startswith(b"null", member.value_start):
            edits.append((member.value_start, member.value_end, b'{"include_usage":true}'))
        elif body.startswith(b"{", member.value_start):
            inner, _ = _scan(body, member.value_start)
            flags = [flag for flag in inner if flag.key == "include_usage"]
            edits += [(flag.value_start, flag.value_end, b"true") for flag in flags]
            if not flags:
                edits.append(_appended(inner, member.value_start + 1, b'"include_usage":true'))
    return edits if options else None


def _appended(found: list[Member], inside: int, text: bytes) -> _Edit:
    """`text` as the last member of an object that keeps `found` and whose brace stands right before `inside`."""
    if not found:
        return inside, inside, text
    return found[-1].value_end, found[-1].value_end, b"," + text


def whole(body: bytes | Parts) -> bytes:
    """A body that may be in parts, as one piece."""
    return body if isinstance(body, bytes) else b"".join(body)


def _parts(body: bytes, edits: list[_Edit]) -> Parts:
    if not edits:
        return (body,)
    source = memoryview(body)  # slices without copies
    parts: list[bytes | memoryview] = []
    at = 0
    # At one place an insertion sorts before the removal that begins there.
    for start, end, text in sorted(edits):
        parts += (source[at:start], text)
        at = end
    parts.append(source[at:])
    return parts
