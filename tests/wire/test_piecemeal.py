"""Values masked in pieces: where the pieces are cut makes no difference."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.piecemeal import Piecemeal

KEY = "sk-12/Kö\U0001f600.z"
SPELLINGS = {
    "as it is": KEY.encode(),
    "as JSON in ASCII": json.dumps(KEY)[1:-1].encode(),
    "each letter an escape": "".join(
        f"\\u{unit:04x}" for unit in memoryview(KEY.encode("utf-16-le")).cast("H")
    ).encode(),
    "in capitals": "".join(f"\\u{unit:04X}" for unit in memoryview(KEY.encode("utf-16-le")).cast("H")).encode(),
    "one letter an escape": KEY.encode().replace(b"k", b"\\u006b"),
    "with its slash escaped": KEY.encode().replace(b"/", b"\\/"),
}


def masked(values: list[str], pieces: list[bytes]) -> bytes:
    mask = Piecemeal(values)
    return b"".join([*map(mask.feed, pieces), mask.close()])


@pytest.mark.parametrize("spelt", SPELLINGS.values(), ids=SPELLINGS)
def test_a_value_is_masked_wherever_it_is_cut(spelt: bytes) -> None:
    raw = b'{"a": "' + spelt + b'", "b": "\\u00e9 ' + spelt + spelt + b'"}'
    clean = b'{"a": "***", "b": "\\u00e9 ******"}'
    for at in range(len(raw)):
        assert masked([KEY], [raw[:at], raw[at:]]) == clean
    assert masked([KEY], [raw[at : at + 1] for at in range(len(raw))]) == clean


def test_of_two_values_that_begin_alike_the_longer_one_is_masked() -> None:
    for at in range(1, 16):
        raw = b"abcdefgh1234abcdefgh5"
        assert masked(["abcdefgh", "abcdefgh1234"], [raw[:at], raw[at:]]) == b"******5"


def test_what_is_held_back_is_bounded() -> None:
    mask = Piecemeal(["x" * 50])
    for _ in range(100):
        mask.feed(b"y" * 1000)
        assert len(mask.held) <= mask.reach == 300


def test_without_a_value_nothing_waits() -> None:
    mask = Piecemeal([])
    assert mask.feed(b"all of it") == b"all of it"
    assert mask.close() == b""


@given(st.text("abc\\/u0"), st.lists(st.integers(0, 60)), st.text("abc/", min_size=2, max_size=4))
def test_cuts_make_no_difference(text: str, places: list[int], value: str) -> None:
    raw = text.encode()
    edges = [0, *sorted(min(place, len(raw)) for place in places), len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    assert masked([value], pieces) == masked([value], [raw])
    assert value.encode() not in masked([value], [raw])
