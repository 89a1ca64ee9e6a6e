"""Values put together piece by piece, each where a path such as `$.cities[0].name` says."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def put(place: Any, path: str, value: Any) -> None:
    """What the path leads through is made where it is missing; a text goes behind the text that is there."""
    steps = [int(index) if index else name for name, index in STEP.findall(path)]
    for step, below in pairwise(steps):
        empty: Any = [] if isinstance(below, int) else {}
        if isinstance(step, int):
            place.extend([empty] if step == len(place) else [])
        else:
            place.setdefault(step, empty)
        place = place[step]
    last = steps[-1]
    if isinstance(last, int) and last == len(place):
        place.append("" if isinstance(value, str) else None)
    before = place[last] if isinstance(last, int) else place.get(last)
    place[last] = before + value if isinstance(before, str) and isinstance(value, str) else value
