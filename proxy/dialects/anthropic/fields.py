"""Reads the members of a request's JSON object, each with its type checked and its path in the message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from proxy.errors import InvalidRequest

T = TypeVar("T")

_WORDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


_MOST = 10**15  # of whole numbers; beyond it floats of them are not what was written


class Fields:
    """One JSON object at `path`. What nobody took is left in `rest()`: no member is lost unseen.

    null counts as absent, as it does for the API. Every `InvalidRequest` names the member in `param`.
    """

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise wrong(path, dict, value)
        self.value: Mapping[str, Any] = value
        self.path = path
        self._taken: set[str] = set()

    def where(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def rest(self) -> dict[str, Any]:
        """Members not taken so far, by their path."""
        return {self.where(name): value for name, value in self.value.items() if name not in self._taken}

    def any(self, name: str) -> Any:
        self._taken.add(name)
        return self.value.get(name)

    def text(self, name: str) -> str | None:
        return self._typed(name, str)

    def need_text(self, name: str) -> str:
        return self._need(name, self.text(name), str)

    def items(self, name: str) -> list[Any] | None:
        return self._typed(name, list)

    def object(self, name: str) -> dict[str, Any] | None:
        return self._typed(name, dict)

    def need_object(self, name: str) -> dict[str, Any]:
        return self._need(name, self.object(name), dict)

    def flag(self, name: str) -> bool | None:
        return self._typed(name, bool)

    def number(self, name: str) -> float | None:
        value = self.any(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(self.where(name), float, value)
        return value

    def whole(self, name: str, least: int = 0) -> int | None:
        """Some JSON writers say 1024.0; that is whole."""
        value = self.number(name)
        if value is None:
            return None
        if not -_MOST < value < _MOST or value != int(value):
            raise wrong(self.where(name), int, value)
        if value < least:
            raise InvalidRequest(f"{self.where(name)}: must be {least} or more, not {value}.", param=self.where(name))
        return int(value)

    def _typed(self, name: str, kind: type[T]) -> T | None:
        value = self.any(name)
        if value is None or isinstance(value, kind):
            return value
        raise wrong(self.where(name), kind, value)

    def _need(self, name: str, value: T | None, kind: type) -> T:
        if value is None:
            path = self.where(name)
            raise InvalidRequest(f"{path}: is required and must be {_WORDS[kind]}.", param=path)
        return value


def wrong(path: str, wanted: type, value: Any) -> InvalidRequest:
    got = "null" if value is None else _WORDS.get(type(value), type(value).__name__)
    return InvalidRequest(f"{path}: must be {_WORDS[wanted]}, not {got}.", param=path)
