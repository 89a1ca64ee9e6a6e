"""A call's arguments that come value by value, as the JSON text that everybody else streams.

Vertex AI sends each value with its place, `{"jsonPath": "$.steps[1]", "stringValue": "Boil", "willContinue": true}`, a
string piece by piece, and every place in the order of the document: so text can leave at once. What was left cannot be
entered again; a stream that does so is broken.

https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field

from proxy.errors import UpstreamBroken
from proxy.record import define
from proxy.wire import json_text

_Step = str | int
_MOST_SKIPPED = 10_000  # elements of an array that may be left out in one go
_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d{1,9})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_NOTHING = object()


@define
class _Container:
    """An object or array under way; `step` leads to it from the one around it."""

    step: _Step
    is_array: bool
    count: int = 0
    names: set[_Step] = field(factory=set)


@define
class Arguments:
    """Each method gives the text that may leave now."""

    _open: list[_Container] = field(factory=list)
    _string: tuple[_Step, ...] | None = None  # the place of a string that goes on

    @property
    def begun(self) -> bool:
        return bool(self._open)

    def add(self, partial: Mapping[str, Any]) -> str:
        """One entry of `partialArgs`."""
        place, value = _steps(partial.get("jsonPath")), _value(partial)
        goes_on = partial.get("willContinue") is True
        if place == self._string:
            piece = _inner(value) if isinstance(value, str) else ""
            self._string = place if goes_on else None
            return piece if goes_on else f'{piece}"'
        if value is _NOTHING:
            return ""
        before = self._end_string() + self._enter(place)
        if isinstance(value, str) and goes_on:
            self._string = place
            return f'{before}"{_inner(value)}'
        return before + _dumped(value)

    def add_whole(self, members: Mapping[str, Any]) -> str:
        """Arguments given as an object."""
        return "".join(self._end_string() + self._enter((name,)) + _dumped(value) for name, value in members.items())

    def end(self) -> str:
        """What makes the text whole."""
        start = "" if self._open else self._begin()
        closed = start + self._end_string() + "".join(_closer(container) for container in reversed(self._open))
        self._open.clear()
        return closed

    def _begin(self) -> str:
        self._open.append(_Container("$", is_array=False))
        return "{"

    def _end_string(self) -> str:
        ended, self._string = self._string is not None, None
        return '"' if ended else ""

    def _enter(self, place: tuple[_Step, ...]) -> str:
        """Closes and opens containers until the value at that place can follow."""
        if not place:
            raise UpstreamBroken("The provider streamed a tool call's arguments without their place.")
        text = "" if self._open else self._begin()
        shared = 0
        while shared < min(len(self._open) - 1, len(place) - 1) and self._open[shared + 1].step == place[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            text += _closer(self._open.pop())
        for step, below in zip(place[shared:-1], place[shared + 1 :], strict=True):
            is_array = isinstance(below, int)
            text += self._name(step) + ("[" if is_array else "{")
            self._open.append(_Container(step, is_array))
        return text + self._name(place[-1])

    def _name(self, step: _Step) -> str:
        """What stands before a member or an element: comma and name. Elements that were passed over are null."""
        container = self._open[-1]
        if container.is_array != isinstance(step, int) or step in container.names:
            raise UpstreamBroken("The provider streamed a tool call's arguments out of order.")
        comma = "," if container.count else ""
        if not isinstance(step, int):
            container.names.add(step)
            container.count += 1
            return f"{comma}{_dumped(step)}:"
        if not container.count <= step <= container.count + _MOST_SKIPPED:
            raise UpstreamBroken("The provider streamed a tool call's arguments out of order.")
        skipped, container.count = step - container.count, step + 1
        return comma + "null," * skipped


def _closer(container: _Container) -> str:
    return "]" if container.is_array else "}"


def _steps(path: Any) -> tuple[_Step, ...]:
    if not isinstance(path, str) or not path.startswith("$"):
        raise UpstreamBroken("The provider streamed a tool call's arguments without their place.")
    steps: list[_Step] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise UpstreamBroken("The provider streamed a tool call's arguments at a place that cannot be read.")
        name, index, single, double = found.groups()
        if index is not None:
            steps.append(int(index))
        elif name is not None:
            steps.append(name)
        else:
            steps.append(_unquoted(double if single is None else single.replace("\\'", "'").replace('"', '\\"')))
        at = found.end()
    return tuple(steps)


def _unquoted(text: str) -> str:
    """A name in quotes has JSON's escapes."""
    try:
        name = json_text.read(f'"{text}"')
    except ValueError as exc:
        raise UpstreamBroken("The provider streamed a tool call's arguments at a place that cannot be read.") from exc
    return str(name)


def _value(partial: Mapping[str, Any]) -> Any:
    """A whole number comes as a double: it is written without a fraction."""
    for kind in ("stringValue", "numberValue", "boolValue"):
        if kind in partial:
            value = partial[kind]
            return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
    return None if "nullValue" in partial else _NOTHING


def _dumped(value: Any) -> str:
    return json_text.write(value).decode()


def _inner(text: str) -> str:
    return _dumped(text)[1:-1]
