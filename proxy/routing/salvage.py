"""What can still be judged of a table that holds broken entries, so that one reading tells all that is wrong with it.

The broken keys are taken out of a copy, and whatever leans on them is not blamed for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from attrs import define, field

_INDEX = re.compile(r"\[(\d+)\]")


@define
class Salvage:
    """A document and what was taken out of it. `gone` are paths; `names` the entries that others may refer to."""

    document: dict[str, Any]
    gone: set[str] = field(factory=set)
    names: set[str] = field(factory=set)

    def remove(self, paths: Iterable[str], *, entries: bool) -> None:
        """Takes out the keys at these dotted paths; with `entries` the whole `section.name` around each."""
        for path in paths:
            keys = self._keys(path)
            if entries:
                keys = keys[:2]
            if not keys:
                continue
            self.gone.add(path)
            if len(keys) <= 2:
                self.names.add(str(keys[-1]))
            self._delete(keys)

    def blames(self, path: str, message: str) -> bool:
        """Whether a problem only follows from what was taken out."""
        return any(path.startswith(gone) for gone in self.gone) or any(f"'{name}'" in message for name in self.names)

    def _keys(self, path: str) -> list[str | int]:
        """A dotted path as keys of the document. Names may hold dots themselves, so the document tells them apart."""
        keys: list[str | int] = []
        here: Any = self.document
        while path:
            key = self._next(path, here)
            if key is None:
                break
            text = f"[{key}]" if isinstance(key, int) else key
            path = path[len(text) :].removeprefix(".")
            keys.append(key)
            here = here[key]
        return keys

    @staticmethod
    def _next(path: str, here: Any) -> str | int | None:
        if isinstance(here, list):
            match = _INDEX.match(path)
            return int(match[1]) if match and int(match[1]) < len(here) else None
        if not isinstance(here, dict):
            return None
        known: Collection[str] = [key for key in here if path == key or path.startswith((f"{key}.", f"{key}["))]
        return max(known, key=len, default=None)

    def _delete(self, keys: list[str | int]) -> None:
        *above, last = keys
        here: Any = self.document
        for key in above:
            here = here[key]
        del here[last]
