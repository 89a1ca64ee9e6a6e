"""JSON as providers and clients write it: orjson, and the standard library where orjson refuses what JSON allows.

That is the lone surrogate, `"\\ud83d"`: legal as an escape, impossible in UTF-8. It is read, and written as an escape.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, NoReturn

import orjson


def read(data: bytes | str) -> Any:
    """Raises ValueError where `data` is no JSON, or is nested past all sense."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if not _may_hold_surrogates(data):
            raise
    try:
        # Its own reading of bytes takes a byte-order mark, and half a pair that was encoded.
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as exc:
        raise ValueError("the JSON is nested too deeply") from exc


def write(value: Any) -> bytes:
    """Raises ValueError where `value` is nested past all sense."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or more levels than orjson writes
        try:
            return json.dumps(value, separators=(",", ":")).encode()
        except RecursionError as exc:
            raise ValueError("the JSON is nested too deeply") from exc


def _may_hold_surrogates(data: bytes | str) -> bool:
    return b"\\ud" in data.lower() if isinstance(data, bytes) else "\\ud" in data.lower()


def _finite(digits: str) -> float:
    value = float(digits)
    return value if isfinite(value) else _no_constant(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
