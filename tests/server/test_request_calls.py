"""What one request costs, in calls of Python functions: the same on every machine, whatever else runs there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

LOOPS = ("uvloop",)  # asyncio's own has Python functions of its own
SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_request.py"
MOST = {  # by kind of request; what it is today, and a few
    "chat": 108, "chat behind": 180, "long": 108, "long behind": 180, "stream": 126, "translated": 126,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "most"), MOST.items(), ids=MOST)
async def test_a_request_makes_no_more_calls_than(kind: str, most: int) -> None:
    spec = importlib.util.spec_from_file_location("bench_request", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    own, _ = await bench.calls(kind)
    assert most / 2 < own <= most
