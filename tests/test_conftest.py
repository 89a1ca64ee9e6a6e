"""What the fast tests leave out before it is made, what they may not leave out, and how long their properties look."""

from __future__ import annotations

from typing import Any

import fuzz
import pytest
from conftest import parametrize_fast
from hypothesis import settings

SLOW = pytest.param(2, marks=pytest.mark.slow)
ODD = pytest.param(3, marks=pytest.mark.xfail)
ROWS: dict[str, tuple[list[Any], Any, list[Any], Any]] = {
    "what is slow goes": ([1, SLOW, ODD], None, [1, ODD], None),
    "and its id": ([1, SLOW, ODD], ("one", "two", "three"), [1, ODD], ["one", "three"]),
    "where nothing is slow all stays": ([1, ODD], ["one", "three"], [1, ODD], ["one", "three"]),
    "where all is, too": ([SLOW], ["two"], [SLOW], ["two"]),
    "a function that names rows is asked still": ([1, SLOW], str, [1], str),
}


@pytest.mark.parametrize(("rows", "ids", "kept", "named"), ROWS.values(), ids=ROWS)
def test_of_the_rows_of_a_table_those_that_are_fast_are_made(
    rows: list[Any], ids: Any, kept: list[Any], named: Any
) -> None:
    made: list[tuple[Any, ...]] = []
    parametrize_fast(lambda *taken, **more: made.append((*taken, more)), "n", iter(rows), ids=ids, indirect=True)
    assert made == [("n", kept, {"ids": named, "indirect": True})]


@pytest.mark.parametrize(
    ("fast", "taken"), [(False, [150, 100, 25, 5]), (True, [37, 25, 10, 5])], ids=["full", "a quarter, but ten"]
)
def test_a_property_has_its_share_of_the_examples(fast: bool, taken: list[int]) -> None:
    before = settings.get_current_profile_name()
    fuzz.load_profile(fast=fast)
    try:
        assert [fuzz.examples(full) for full in (150, 100, 25, 5)] == taken
    finally:
        settings.load_profile(before)
