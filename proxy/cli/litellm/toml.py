"""A table as TOML text: what `tomllib` reads, written for people. Python has a reader and no writer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

BARE = re.compile(r"[A-Za-z0-9_-]+")
NESTED = ("providers", "models", "profiles", "projects")  # one table for each entry
WIDEST = 120
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def write(document: Mapping[str, Any]) -> str:
    """Sections in the order given, those that are empty left out."""
    return "\n".join(block for name, content in document.items() if content for block in _section(name, content))


def _section(name: str, content: Any) -> Iterator[str]:
    if name == "rules":
        for rule in content:
            yield _table("[[rules]]", rule)
    elif name in NESTED:
        for key, entry in content.items():
            yield _table(f"[{name}.{_key(key)}]", entry)
    else:
        yield _table(f"[{name}]", content)


def _table(header: str, entries: Mapping[str, Any]) -> str:
    return "\n".join((header, *(_line(key, value) for key, value in entries.items()), ""))


def _line(key: str, value: Any) -> str:
    line = f"{_key(key)} = {_value(value)}"
    if len(line) <= WIDEST or not isinstance(value, list):
        return line
    return "\n".join((f"{_key(key)} = [", *(f"    {_value(item)}," for item in value), "]"))


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _string(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if value >= 10_000 else str(value)
        case Decimal():
            return f"{value.normalize():f}"
        case str():
            return _string(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
    return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())} }}"


def _string(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL and what only half a character is."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007F")
