"""The house's classes behave as attrs' own do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from proxy import record


def classes(kind: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    @kind(**options)
    class Point:
        x: int
        y: Any = attrs.field(default=0, repr=False)
        note: str = attrs.field(default="", eq=False)
        _hidden: int = 0

    @kind(**options)
    class Deeper(Point):
        z: int = 0

    return Point, Deeper


PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "define": (record.define, attrs.define, {}),
    "define without eq": (record.define, attrs.define, {"eq": False}),
    "define by keyword": (record.define, attrs.define, {"kw_only": True}),
    "frozen": (record.frozen, attrs.frozen, {}),
    "frozen without eq": (record.frozen, attrs.frozen, {"eq": False}),
    "record": (record.record, attrs.frozen, {}),
}


def said(kind: Callable[..., Any], options: dict[str, Any]) -> list[Any]:
    """What can be told of a few values."""
    point, deeper = classes(kind, **options)
    made = [
        point(x=1), point(x=1), point(x=2), point(x=1, y=[1]), point(x=1, note="other"), point(x=1, hidden=3),
        deeper(x=1), deeper(x=1, z=1), deeper(x=1),
    ]  # fmt: skip

    def hashed(value: Any) -> Any:
        try:
            return [hash(value) == hash(other) for other in made if other.y == 0]
        except TypeError as exc:
            return type(exc)

    return [
        [repr(value).rpartition(">.")[2] for value in made],
        [[one == other for other in made] for one in made],
        [[one != other for other in made] for one in made],
        [hashed(value) if options.get("eq", True) else hash(value) == hash(value) for value in made],
        made[0].__eq__(3),
        [field.name for field in attrs.fields(point)],
        point.__match_args__,
        attrs.evolve(made[0], x=5).x,
    ]


@pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS.values(), ids=PAIRS)
def test_values_are_shown_compared_and_hashed_as_attrs_does(
    ours: Callable[..., Any], theirs: Callable[..., Any], options: dict[str, Any]
) -> None:
    assert said(ours, options) == said(theirs, options)


def test_what_a_class_says_itself_is_kept() -> None:
    @record.frozen
    class Own:
        x: int

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return other == 7

        def __hash__(self) -> int:
            return 7

    assert (repr(Own(1)), Own(1) == 7, hash(Own(1))) == ("mine", True, 7)


def test_a_value_that_holds_itself_is_shown() -> None:
    @record.define
    class Loop:
        inner: Any = None

    loop = Loop()
    loop.inner = [loop]
    assert repr(loop) == "Loop(inner=[...])"


def test_a_class_without_fields_equals_itself() -> None:
    @record.frozen
    class Nothing:
        pass

    @record.frozen
    class Other:
        pass

    assert Nothing() == Nothing()
    other: object = Other()
    assert Nothing() != other
    assert hash(Nothing()) == hash(Nothing())
