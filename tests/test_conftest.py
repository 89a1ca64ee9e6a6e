"""What the fast tests leave out before it is made, and what they may not leave out."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import parametrize_fast

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
