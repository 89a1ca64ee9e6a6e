"""What can still be judged of a table that holds broken entries, so that one reading tells all that is wrong with it.

The broken keys are taken out of a copy, and whatever leans on them is not blamed for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from attrs import field

from proxy.record import define

ROUNDS = 5  # as deep as keys stand: what cannot stand without a key goes a step further up each time
CALLED = {
    "models": "model",
    "aliases": "model",
    "providers": "provider",
    "profiles": "profile",
    "industries": "industry",
}
Keys = tuple[str | int, ...]
_INDEX = re.compile(r"\[(\d+)\]")
_RULE = re.compile(r"\brules\[(\d+)\]")


@define
class Salvage:
    """A document and what was taken out of it. `gone` are paths; `names` the entries that others may refer to."""

    document: dict[str, Any]
    gone: set[str] = field(factory=set)
    names: set[str] = field(factory=set)
    _rules: list[int] = field(init=False)  # of those that are left, the number that each has in the file

    def __attrs_post_init__(self) -> None:
        rules = self.document.get("rules")
        self._rules = list(range(len(rules))) if isinstance(rules, list) else []

    def remove(self, paths: Iterable[str]) -> None:
        """Takes out the keys at these dotted paths. Where one is missing, what holds it cannot stand and goes."""
        found = {self._keys(path): self.placed(path) for path in paths}
        found.pop((), None)
        self.gone.update(found.values())
        for keys in sorted(found, key=_numbers, reverse=True):  # from a list's end, so that no other one moves
            if not any(keys[:length] in found for length in range(1, len(keys))):
                self._delete(keys)

    def placed(self, text: str) -> str:
        """With rules numbered as they are in the file."""
        return _RULE.sub(lambda match: f"rules[{self._number(int(match[1]))}]", text)

    def blames(self, path: str, message: str) -> bool:
        """Whether a problem only follows from what was taken out."""
        for gone in self.gone:
            if path in (gone, f"{gone}s") or path.startswith((f"{gone}.", f"{gone}[")):  # `dialect`, `dialects`
                return True
        if any(message.startswith(f"no {CALLED[gone]} is called") for gone in self.gone & CALLED.keys()):
            return True
        return any(f"'{name}'" in message for name in self.names)

    def _number(self, index: int) -> int:
        return self._rules[index] if index < len(self._rules) else index

    def _keys(self, path: str) -> Keys:
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
        return tuple(keys)

    @staticmethod
    def _next(path: str, here: Any) -> str | int | None:
        if isinstance(here, list):
            match = _INDEX.match(path)
            return int(match[1]) if match and int(match[1]) < len(here) else None
        if not isinstance(here, dict):
            return None
        known: Collection[str] = [key for key in here if path == key or path.startswith((f"{key}.", f"{key}["))]
        return max(known, key=len, default=None)

    def _delete(self, keys: Keys) -> None:
        *above, last = keys
        here: Any = self.document
        for key in above:
            here = here[key]
        del here[last]
        if len(keys) <= 2:
            self.names.add(str(last))
        if above == ["rules"] and isinstance(last, int):
            del self._rules[last]
        if here == []:  # else it would be told to be empty, which it is not in the file
            self._delete(tuple(above))


def _numbers(keys: Keys) -> list[int]:
    return [key for key in keys if isinstance(key, int)]
