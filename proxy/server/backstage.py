"""Threads beside the event loop's: on a core that both share, none of them cuts in while the loop runs."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress


def step_back() -> None:
    """The calling thread. Among its equals it gets as much of a core as before (`SCHED_BATCH` in sched(7)), but where
    it wakes up it waits until whoever runs has nothing to do, or has had his time. Nothing changes where the system
    knows no such thing or forbids it, or where somebody chose another policy for the process."""
    if sys.platform == "linux":
        with suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def executor() -> ThreadPoolExecutor:
    """For what the loop has done elsewhere: as many threads as its own would have, and the one in which the watch over
    the table waits for good."""
    threads = min(32, (os.cpu_count() or 1) + 4) + 1
    return ThreadPoolExecutor(threads, thread_name_prefix="backstage", initializer=step_back)
