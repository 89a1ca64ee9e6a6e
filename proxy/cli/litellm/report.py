"""What an import could not carry over, or not as it was: told once for each thing, with all the places it concerns.

Never a value of the file: names alone. Values may be keys.
"""

from __future__ import annotations

import re

from attrs import field

from proxy.record import define

UNPRINTABLE = re.compile(r"[^\x20-\x7e\x80-\uffff]|[\x80-\x9f\u2028\u2029]")


@define
class Report:
    _left: dict[tuple[str, str], list[str]] = field(factory=dict)
    _changed: dict[tuple[str, str], list[str]] = field(factory=dict)

    def left(self, what: str, why: str, of: str = "") -> None:
        """It has no place in the table."""
        _note(self._left, what, why, of)

    def changed(self, what: str, how: str, of: str = "") -> None:
        """It is in the table, and does not mean quite the same."""
        _note(self._changed, what, how, of)

    @property
    def lost(self) -> list[str]:
        return _lines(self._left)

    @property
    def differing(self) -> list[str]:
        return _lines(self._changed)


def _note(notes: dict[tuple[str, str], list[str]], what: str, why: str, of: str) -> None:
    places = notes.setdefault((what, why), [])
    if of and of not in places:
        places.append(of)


def _lines(notes: dict[tuple[str, str], list[str]]) -> list[str]:
    return [printable(f"{what}{_of(places)}: {why}") for (what, why), places in notes.items()]


def _of(places: list[str]) -> str:
    return f" (of {', '.join(places)})" if places else ""


def printable(text: str) -> str:
    """In one line, for a terminal and for a comment."""
    return UNPRINTABLE.sub("?", text)
