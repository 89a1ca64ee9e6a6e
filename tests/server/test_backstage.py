"""Threads beside the event loop's step back behind it; nothing else changes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from types import ModuleType

import pytest
from each import each

from proxy.server import backstage, lines
from proxy.server.ledger import Ledger, writer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the policies of threads are Linux's")


def policy_after(work: Callable[[], object]) -> int:
    """Of a thread that has done that."""
    found: list[int] = []

    def run() -> None:
        work()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_whoever_steps_back_is_alone_in_that() -> None:
    before = os.sched_getscheduler(0)
    assert policy_after(backstage.step_back) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before
    assert policy_after(lambda: None) == before


def test_a_policy_that_somebody_chose_stays() -> None:
    def chosen() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        backstage.step_back()

    assert policy_after(chosen) == os.SCHED_IDLE


def test_where_it_is_forbidden_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    assert policy_after(backstage.step_back) == os.sched_getscheduler(0)


def test_the_loop_has_its_work_done_backstage() -> None:
    with backstage.executor() as workers:
        assert workers.submit(os.sched_getscheduler, 0).result() == os.SCHED_BATCH


def test_the_watch_over_the_table_takes_no_thread_from_others() -> None:
    with ThreadPoolExecutor() as ordinary, backstage.executor() as workers:
        assert workers._max_workers == ordinary._max_workers + 1


@each("module", [writer, lines])
def test_rows_and_lines_are_written_backstage(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: Queue[tuple[str, int]] = Queue()

    def step_back() -> None:
        backstage.step_back()
        policies.put((threading.current_thread().name, os.sched_getscheduler(0)))

    monkeypatch.setattr(module, "step_back", step_back)
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    with (tmp_path / "log").open("w") as stream:
        log = lines.Writer(stream, lambda count: b"")
        ledger.start()
        try:
            assert policies.get(timeout=10) == ("ledger" if module is writer else "log", os.SCHED_BATCH)
        finally:
            log.close(10.0)
            ledger.stop(10.0)
