"""What an estimate counts, whatever a client writes."""

from __future__ import annotations

from typing import Any

import pytest
from each import each

from proxy.dialects import DIALECTS
from proxy.dialects.measure import MOST, counted, dicts, size, whole

NUMBERS: dict[str, tuple[Any, int | None]] = {
    "a number": (7, 7),
    "a float": (7.0, 7),
    "a float between two": (7.9, 7),
    "larger than any model gives": (10**30, MOST),
    "as a float": (1e300, MOST),
    "nothing": (0, None),
    "less than nothing": (-1, None),
    "not a number": (float("nan"), None),
    "a boolean": (True, None),
    "text": ("7", None),
    "null": (None, None),
}


@each(("value", "read"), NUMBERS.values(), ids=NUMBERS)
def test_a_limit_is_read_however_large_it_is(value: Any, read: int | None) -> None:
    assert whole(value) == read


COUNTS: dict[str, tuple[Any, int | None]] = {
    "a number": (7, 7),
    "nothing": (0, 0),
    "a float": (7.0, 7),
    "a float between two": (7.5, None),
    "as many as can be": (MOST, MOST),
    "one more": (MOST + 1, None),
    "a float beyond them": (1e300, None),
    "without end": (float("inf"), None),
    "not a number": (float("nan"), None),
    "less than nothing": (-1, None),
    "a boolean": (True, None),
    "text": ("7", None),
    "null": (None, None),
}


@pytest.mark.parametrize(("value", "read"), COUNTS.values(), ids=COUNTS)
def test_a_count_is_a_whole_number_that_can_be_or_it_is_unknown(value: Any, read: int | None) -> None:
    assert counted(value) == read


@pytest.mark.parametrize(
    ("dialect", "member"),
    [("openai-chat", "max_tokens"), ("openai-responses", "max_output_tokens"), ("anthropic", "max_tokens")],
)
def test_no_limit_is_too_large_to_count(dialect: str, member: str) -> None:
    assert DIALECTS[dialect].read_shape({"messages": [], member: 1e30}).max_tokens == MOST


def test_zero_tokens_of_messages_warm_a_cache() -> None:
    assert DIALECTS["anthropic"].read_shape({"messages": [], "max_tokens": 0}).max_tokens == 0


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic"])
def test_what_is_nested_past_all_sense_is_counted_all_the_same(dialect: str) -> None:
    schema: dict[str, Any] = {"name": "x" * 1_000}
    for _ in range(2_000):
        schema = {"a": schema}
    assert DIALECTS[dialect].read_shape({"messages": [], "tools": [schema]}).chars > 1_000


def test_a_size_is_that_of_keys_and_strings() -> None:
    assert size({"name": "f", "list": [1, None, "two"]}) == (4 + 3) + (4 + 3) + 3 + 4 + 4 + 5
    assert size({}) == size(None) == size([]) == 0


def test_only_objects_of_a_list_are_looked_at() -> None:
    assert list(dicts([{"a": 1}, 2, None, [{}], {}])) == [{"a": 1}, {}]
    assert list(dicts("text")) == list(dicts(None)) == []
