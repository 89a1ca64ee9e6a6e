from __future__ import annotations

from typing import Any

from proxy.routing.sections import CONVERTER, _when_met


def test_what_reads_a_section_is_made_once_and_when_a_table_has_one() -> None:
    made: list[Any] = []

    def make(kind: Any) -> Any:
        made.append(kind)
        return lambda value, kind: (value, kind)

    reader = _when_met(make)
    read = reader(str)
    assert made == []
    assert read("a", str) == reader(str)("a", str) == ("a", str)
    assert made == [str]


def test_what_was_made_for_a_table_reads_the_next() -> None:
    assert CONVERTER.get_structure_hook(dict[str, str]) is CONVERTER.get_structure_hook(dict[str, str])
