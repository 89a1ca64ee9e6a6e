"""What stands in for a test of each row fails as those would."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from each import each

NUMBERS = {"one": (1, "a"), "two": (2, "b"), "three": (3, "c")}


def test_every_row_is_played_and_each_that_fails_is_named() -> None:
    seen = []

    @each(("number", "letter"), NUMBERS.values(), ids=NUMBERS)
    def even(number: int, letter: str) -> None:
        seen.append(letter)
        assert number % 2 == 0

    with pytest.raises(ExceptionGroup, match="2 of 3 rows failed:\none\nthree\n") as told:
        even()
    assert seen == ["a", "b", "c"]
    assert [failure.__notes__ for failure in told.value.exceptions] == [["row: one"], ["row: three"]]


async def test_so_is_one_that_waits() -> None:
    @each("number", [1, 2])
    async def even(number: int) -> None:
        assert number % 2 == 0

    assert inspect.iscoroutinefunction(even)
    with pytest.raises(ExceptionGroup, match="1 of 2 rows failed:\n1\n"):
        await even()


def test_two_tables_are_played_in_all_pairs() -> None:
    seen = []

    @each("letter", "ab")
    @each("number", [1, 2], ids=lambda number: f"no {number}")
    def neither(letter: str, number: int) -> None:
        seen.append((letter, number))
        assert (letter, number) != ("b", 1)

    with pytest.raises(ExceptionGroup, match="1 of 4 rows failed:\nb no 1\n"):
        neither()
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_an_error_that_does_not_come_is_a_failure_of_its_row() -> None:
    @each("number", [1, 2])
    def raises(number: int) -> None:
        with pytest.raises(ZeroDivisionError):
            assert 1 / (number - 1)

    with pytest.raises(ExceptionGroup, match="1 of 2 rows failed:\n2\n"):
        raises()


@each("number", [1, 2])
def wants(number: int, tmp_path: object) -> None: ...


@each("number", [1, 2])
@pytest.mark.slow
async def waits(tmp_path: object, number: int) -> None: ...


@pytest.mark.parametrize("test", [wants, waits])
def test_fixtures_are_asked_for_by_their_names(test: Callable[..., Any]) -> None:
    assert list(inspect.signature(test).parameters) == ["tmp_path"]


def test_without_a_row_it_is_skipped_and_asks_for_no_more() -> None:
    @each("letter", [])
    @each("number", [1])
    def never(letter: str, number: int, tmp_path: object) -> None: ...

    found: Any = never
    assert [mark.name for mark in found.pytestmark] == ["skip"]
    assert list(inspect.signature(never).parameters) == ["tmp_path"]


def test_a_mark_stays() -> None:
    found: Any = waits
    assert [mark.name for mark in found.pytestmark] == ["slow"]


def test_of_a_hundred_failures_a_few_are_told_whole() -> None:
    @each("number", range(100))
    def fails(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ExceptionGroup, match="100 of 100 rows failed:\n0\n1\n") as told:
        fails()
    assert len(told.value.exceptions) == 3
