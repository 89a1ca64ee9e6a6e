"""Typed reading of a request's JSON members. A null is an absent member; every complaint names the path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.errors import InvalidRequest


def path(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def wrong(at: str, want: str) -> InvalidRequest:
    return InvalidRequest(f"`{at}` must be {want}.", param=at)


def string(source: Mapping[str, Any], name: str, at: str = "") -> str | None:
    value = source.get(name)
    if value is None or isinstance(value, str):
        return value
    raise wrong(path(at, name), "a string")


def text(source: Mapping[str, Any], name: str, at: str = "") -> str:
    """A string that has to be there and to say something."""
    value = string(source, name, at)
    if not value:
        raise wrong(path(at, name), "a string that is not empty")
    return value


def boolean(source: Mapping[str, Any], name: str, at: str = "") -> bool | None:
    value = source.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise wrong(path(at, name), "true or false")


def number(source: Mapping[str, Any], name: str, at: str = "") -> float | None:
    value = source.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise wrong(path(at, name), "a number")


def integer(source: Mapping[str, Any], name: str, at: str = "", least: int | None = None) -> int | None:
    """Whole floats count: JSON has one kind of number."""
    value = number(source, name, at)
    if value is None:
        return None
    if not -1e15 < value < 1e15 or value != int(value) or (least is not None and value < least):
        raise wrong(path(at, name), "a whole number" + ("" if least is None else f" of {least} or more"))
    return int(value)


def record(source: Mapping[str, Any], name: str, at: str = "") -> dict[str, Any] | None:
    value = source.get(name)
    if value is None or isinstance(value, dict):
        return value
    raise wrong(path(at, name), "an object")


def array(source: Mapping[str, Any], name: str, at: str = "") -> list[Any]:
    value = source.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise wrong(path(at, name), "an array")


def records(source: Mapping[str, Any], name: str, at: str = "") -> list[tuple[dict[str, Any], str]]:
    """The objects of an array, each with its path."""
    found = []
    for index, item in enumerate(array(source, name, at)):
        where = f"{path(at, name)}[{index}]"
        if not isinstance(item, dict):
            raise wrong(where, "an object")
        found.append((item, where))
    return found


def strings(source: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """One string or an array of them."""
    value = source.get(name)
    if isinstance(value, str):
        return (value,)
    for index, item in enumerate(array(source, name)):
        if not isinstance(item, str):
            raise wrong(f"{name}[{index}]", "a string")
    return tuple(value or ())
