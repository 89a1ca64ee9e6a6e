"""Products of tables: `make test` plays a part of each, in which every entry of every table has its share, and
`make test-all` the whole."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest


def product_of(*tables: Mapping[str, Any], fast: int, of: int) -> list[Any]:
    """Parameters, one for each combination of values by name; `fast` of `of` neighbours are not slow."""
    cases = []
    for picked in product(*(enumerate(table.items()) for table in tables)):
        place = sum(number for number, _ in picked)
        marks = () if place % of < fast else pytest.mark.slow
        values = [value for _, (_, value) in picked]
        cases.append(pytest.param(*values, marks=marks, id="-".join(name for _, (name, _) in picked)))
    return cases
