"""Rounds that go on by themselves: a task for each of what the table in force names, for as long as it names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

Named = TypeVar("Named")


async def keep(
    wanted: Callable[[], Iterable[Named]], moved: asyncio.Event, watch: Callable[[Named], Coroutine[Any, Any, None]]
) -> None:
    """For ever. `moved` says that what is wanted may be another."""
    tasks: dict[Named, asyncio.Task[None]] = {}
    try:
        while True:
            now = list(wanted())
            for left in [one for one in tasks if one not in now]:
                tasks.pop(left).cancel()
            for one in now:
                if one not in tasks:
                    tasks[one] = asyncio.create_task(watch(one))
            moved.clear()
            await moved.wait()
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
