"""A test over the rows of a table that stays one test: as a test of its own a row of a millisecond costs three more,
and there are thousands.

`@each` stands where `@pytest.mark.parametrize` would, several above each other as well. Every row is played, whatever
becomes of the others, and those that fail are named; without a row it is skipped. A row has no fixture to itself: what
writes to one is parametrized.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import define, field

Test = Callable[..., Any]
Row = tuple[str, Mapping[str, Any]]  # its name, and what the test is called with
TOLD = 3  # failures with their traceback; the others by their row


def each(
    names: str | tuple[str, ...], values: Iterable[Any], ids: Iterable[Any] | Callable[[Any], str] = str
) -> Callable[[Test], Test]:
    """Like `pytest.mark.parametrize`. Without ids a row is called by its values; a `pytest.param` has its own."""
    members = (names,) if isinstance(names, str) else names
    params = [_param(value, alone=isinstance(names, str)) for value in values]
    named = [param.id or " ".join(map(ids, param.values)) for param in params] if callable(ids) else map(str, ids)
    own = [(name, dict(zip(members, param.values, strict=True))) for name, param in zip(named, params, strict=True)]

    def over(test: Test) -> Test:
        of_one_row, given, inner = getattr(test, "each", (test, (), [("", {})]))
        rows = [(f"{name} {further}".strip(), {**row, **more}) for name, row in own for further, more in inner]
        played = _played_async if inspect.iscoroutinefunction(test) else _played
        return _a_test(played(of_one_row, rows), of_one_row, (*members, *given), rows)

    return over


def _param(value: Any, *, alone: bool) -> Any:
    if not isinstance(value, type(pytest.param())):
        return pytest.param(value) if alone else pytest.param(*value)
    assert not value.marks, "a row has no marks of its own"
    return value


def _a_test(played: Test, of_one_row: Test, given: Sequence[str], rows: Sequence[Row]) -> Test:
    """It asks for the fixtures alone."""
    signature = inspect.signature(of_one_row)
    fixtures = [parameter for name, parameter in signature.parameters.items() if name not in given]
    functools.update_wrapper(played, of_one_row)
    vars(played).update(each=(of_one_row, given, rows), __signature__=signature.replace(parameters=fixtures))
    return played if rows else pytest.mark.skip("its table is empty: is ../shared there?")(played)


def _played(test: Test, rows: Sequence[Row]) -> Test:
    def over_all(**fixtures: Any) -> None:
        failures = _Failures()
        for name, row in rows:
            with failures.of(name):
                test(**fixtures, **row)
        failures.tell(len(rows))

    return over_all


def _played_async(test: Test, rows: Sequence[Row]) -> Test:
    async def over_all(**fixtures: Any) -> None:
        failures = _Failures()
        for name, row in rows:
            with failures.of(name):
                await test(**fixtures, **row)
        failures.tell(len(rows))

    return over_all


@define
class _Failures:
    found: list[tuple[str, Exception]] = field(factory=list)

    @contextmanager
    def of(self, row: str) -> Iterator[None]:
        try:
            yield
        except pytest.fail.Exception as exc:
            self._add(row, AssertionError(exc.msg))
        except Exception as exc:
            self._add(row, exc)

    def tell(self, rows: int) -> None:
        if self.found:
            names = "\n".join(name for name, _ in self.found)
            failures = [exc for _, exc in self.found[:TOLD]]
            raise ExceptionGroup(f"{len(self.found)} of {rows} rows failed:\n{names}\n", failures)

    def _add(self, row: str, exc: Exception) -> None:
        exc.add_note(f"row: {row}")
        self.found.append((row, exc))
