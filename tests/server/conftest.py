"""On which loop a test of the shell runs: a module names its own in LOOPS, and runs once on each. And no test hangs."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

GUARD_S, SLOW_GUARD_S = 5.0, 300.0  # no test takes that long unless something waits for ever

FACTORIES: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,  # what the process runs on
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = item.getparent(pytest.Module)
    named = getattr(module.obj, "LOOPS", ("asyncio",)) if module is not None else ("asyncio",)
    return {name: FACTORIES[name] for name in named}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _guarded(item.obj, SLOW_GUARD_S if item.get_closest_marker("slow") else GUARD_S)


def _guarded(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def guarded(*arguments: Any, **named: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*arguments, **named)

    return guarded
