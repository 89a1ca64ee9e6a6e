"""Likeness: frames that differ in nothing but a stream's own values."""

from __future__ import annotations

import pytest
from each import each

from proxy.wire.likeness import Own, likeness

OWN = Own(frozenset({b"id"}), (b"_tokens", b"created"))
FIRST = b'data: {"id":"a-1","created":17,"model":"m","n":1,"usage":{"in_tokens": 3,"more":{"x_tokens":0}}}\n\n'
LIKE: dict[str, tuple[bytes, list[bytes]]] = {
    "itself": (FIRST, [b"a-1", b"17", b"3", b"0"]),
    "another id": (FIRST.replace(b"a-1", b"chat_X-9"), [b"chat_X-9", b"17", b"3", b"0"]),
    "other numbers": (
        FIRST.replace(b"17", b"123456789012").replace(b" 3", b" 0"),
        [b"a-1", b"123456789012", b"0", b"0"],
    ),
}
UNLIKE = {
    "another model": FIRST.replace(b'"m"', b'"n"'),
    "another number that is nobody's own": FIRST.replace(b'"n":1', b'"n":2'),
    "no id": FIRST.replace(b"a-1", b""),
    "an id that may be written otherwise": FIRST.replace(b"a-1", b"a/1"),
    "an id that not every dialect takes": FIRST.replace(b"a-1", b"a.1"),
    "an id of other letters": FIRST.replace(b"a-1", "é".encode()),
    "an id with an escape": FIRST.replace(b"a-1", rb"a\"1"),
    "a very long id": FIRST.replace(b"a-1", b"a" * 49),
    "an id that is a number": FIRST.replace(b'"a-1"', b"1"),
    "a number with a zero before it": FIRST.replace(b"17", b"017"),
    "a negative one": FIRST.replace(b"17", b"-1"),
    "a fraction": FIRST.replace(b"17", b"1.5"),
    "one with an exponent": FIRST.replace(b"17", b"1e5"),
    "one past all counts": FIRST.replace(b"17", b"1234567890123"),
    "nothing": FIRST.replace(b"17", b""),
    "null": FIRST.replace(b"17", b"null"),
    "a list": FIRST.replace(b"17", b"[17]"),
    "two numbers": FIRST.replace(b"17", b"1,7"),
    "one more member": FIRST.replace(b'"n":1', b'"n":1,"m":1'),
    "another order": FIRST.replace(b'"created":17,"model":"m"', b'"model":"m","created":17'),
    "other blanks": FIRST.replace(b'_tokens": 3', b'_tokens":3'),
    "more behind it": FIRST + FIRST,
    "less": FIRST[:-1],
    "nothing at all": b"",
    "nothing but what stands before": FIRST[: FIRST.find(b"a-1")],
    "nothing behind the last value": FIRST[: FIRST.find(b'":0') + 3],
    "what stands behind, and no value": FIRST.replace(b'"a-1"', b""),
}


@each(("raw", "values"), LIKE.values(), ids=LIKE)
def test_what_is_alike_tells_its_values(raw: bytes, values: list[bytes]) -> None:
    alike = likeness(FIRST, OWN)
    assert alike is not None
    assert alike.values(raw) == values
    assert alike.put(values) == raw
    other = likeness(raw, OWN)
    assert other is not None
    assert (other.key, other.digits) == (alike.key, alike.digits)


@each("raw", UNLIKE.values(), ids=UNLIKE)
def test_anything_else_is_not(raw: bytes) -> None:
    alike = likeness(FIRST, OWN)
    assert alike is not None
    assert alike.values(raw) is None


@pytest.mark.parametrize("raw", [b'data: {"n":1}\n\n', rb'data: {"id":"a\"b"}', b'{"name":"id","x":["id","y"]}', b""])
def test_what_has_nothing_of_its_own_has_no_likeness(raw: bytes) -> None:
    assert likeness(raw, OWN) is None


@each("raw", [FIRST.replace(b"a-1", b""), FIRST.replace(b" 3,", b" 3},").replace(b"0}}}", b"0}}")])
def test_what_is_not_alike_has_another_key(raw: bytes) -> None:
    one, other = likeness(FIRST, OWN), likeness(raw, OWN)
    assert one is not None
    assert other is not None
    assert other.key != one.key
