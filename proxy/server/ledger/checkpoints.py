"""What the WAL holds goes home into the file beside the writer, in a thread that lives for as long as that takes.

SQLite would do it within the commit that fills the WAL: a thousand pages and two flushes of a disk that others use
too, while rows wait for longer than they may. Beside the writer nobody waits. But SQLite begins the WAL anew only after
a checkpoint that no commit overtook, so a long one is followed by short ones, each right after a commit, and the next
commit gives way to a short one for a moment.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from proxy.server.backstage import step_back
from proxy.server.ledger.insert import File
from proxy.server.ledger.schema import BUSY_MS

PAGES = 1_000  # in the WAL, about, before it is worth it
MOST_PAGES = 16_000  # from here on the writer does it itself, and waits: 64 MB
TRIES = 20  # to end before the next commit, then not before `PAGES` more
WAY = 0.01  # seconds that a commit waits for a short one
PATIENCE = 0.1  # seconds for the next commit; where none comes, there is nobody to be overtaken by
CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpoints:
    """All methods are for the writer's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages = self._begun_at = 0  # since the WAL began, about; where the last attempt began
        self._commits, self._writing = 0, False
        self._committed, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._home = False  # the last attempt moved all

    def committed(self, file: File, pages: int) -> None:
        """After each commit of the writer, which it made by `file`."""
        self._commits += 1
        self._writing = False
        self._pages += pages
        if self._thread is not None:
            if self._ended.is_set():  # a short one begins
                self._ended.clear()
                self._committed.set()
            if self._thread.is_alive():
                return
            self._thread = None
            if self._home:
                self._pages = self._begun_at = 0
        if self._pages > MOST_PAGES:
            with suppress(sqlite3.Error):  # its commit was none; the next one is
                file.execute(CHECKPOINT).fetchone()
            self._pages = self._begun_at = 0
        elif self._pages - self._begun_at >= PAGES:
            self._begun_at = self._pages
            self._start(self._move)

    def give_way(self) -> None:
        """Before each transaction of the writer."""
        if self._thread is not None and self._committed.is_set():
            self._ended.wait(WAY)
        self._writing = True

    def failed(self) -> None:
        """The transaction was rolled back."""
        self._writing = False

    def join(self, timeout: float) -> None:
        if self._thread is not None:
            self._committed.set()
            self._thread.join(timeout)

    def _start(self, work: Callable[[], None]) -> None:
        self._home = False
        self._committed.clear()
        self._ended.clear()
        self._thread = threading.Thread(target=work, name="ledger checkpoint", daemon=True)
        with suppress(RuntimeError):  # no thread to be had, or the process ends
            self._thread.start()

    def _move(self) -> None:
        step_back()
        uri = f"{self._path.absolute().as_uri()}?mode=rw"  # makes no file where the path leads to none
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000)) as connection,
        ):
            connection.execute("PRAGMA synchronous = FULL")
            for _ in range(TRIES):
                before, alone = self._commits, not self._writing
                busy, _, _ = connection.execute(CHECKPOINT).fetchone()
                if alone and not busy and not self._writing and self._commits == before:
                    self._home = True
                    break
                self._committed.clear()
                self._ended.set()  # the writer clears it with the commit that the next one follows
                self._committed.wait(PATIENCE)
        self._ended.set()
