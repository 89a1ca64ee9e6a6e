"""A text in parts is what it is in one."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.parted import Parted, whole

TEXT = bytes(range(40))
BORDERS = st.sets(st.integers(1, len(TEXT) - 1)).map(lambda found: [0, *sorted(found), len(TEXT)])


def parted(text: bytes, borders: list[int]) -> Parted:
    return Parted([text[start:end] for start, end in pairwise(borders)])


@given(BORDERS, st.integers(0, len(TEXT)), st.integers(0, len(TEXT)))
def test_a_text_is_read_by_its_positions_in_the_whole(borders: list[int], start: int, size: int) -> None:
    text, end = parted(TEXT, borders), start + size
    assert len(text) == len(TEXT)
    assert text.copy(start, end) == TEXT[start:end]
    views = [*text.between(start, end)]
    assert b"".join(views) == TEXT[start:end]
    assert all(views)
    assert b"".join(part[at:] for part, at in text.since(start)) == TEXT[start:]


@given(BORDERS)
def test_it_is_put_together_once(borders: list[int]) -> None:
    text = parted(TEXT, borders)
    one = whole(text)
    assert one == TEXT
    assert whole(text) is whole(one) is one
    assert [*text.since(7)] == [(one, 7)]
    assert len(text) == len(one)
