"""The page has every row of the catalogue, and none of them is open."""

from __future__ import annotations

import re

import pytest

from faults import table


def test_every_row_of_the_catalogue_is_there_once() -> None:
    if not table.CATALOGUE.exists():
        pytest.skip("the catalogue is not beside this checkout")
    numbers = re.findall(r"^\| ([A-Z]\d+b?) \|", table.CATALOGUE.read_text(), re.MULTILINE)
    assert sorted(table.lines(), key=table.order) == sorted(numbers, key=table.order)


def test_every_row_has_its_test_or_says_what_is_not_built() -> None:
    for number, line in table.lines().items():
        built, test = "not built: " not in line, re.search(r"`(tests/\S+?)::(\w+)` \|$", line)
        assert built is (number not in table.NOT_BUILT), line
        if built:
            assert test, line
            assert f"def {test[2]}(" in (table.ROOT / test[1]).read_text(), line
