"""What the ledger's file keeps beside its rows is changed in place: keys, and the sealed keys of projects. Each look
and each change has a connection of its own, which waits for the writer's lock; a change is in the file when it returns.

Every function blocks, and raises LedgerRefused where the file cannot be used.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from attrs import field

from proxy.record import define
from proxy.server.ledger.schema import inode_of, open_reader, open_writer, refusal

ANOTHER = -1  # no count
GONE = -1  # no inode

T = TypeVar("T")


def look(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """What `work` finds, all of it in one state of the file."""

    def at_once(connection: sqlite3.Connection) -> T:
        connection.execute("BEGIN")
        return work(connection)

    return _with(open_reader, path, at_once)


def change(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    return _with(open_writer, path, work)


def write(path: Path, statement: str, values: tuple[Any, ...] = ()) -> None:
    change(path, lambda connection: connection.execute(statement, values))


def counted(connection: sqlite3.Connection, counter: str) -> int:
    """A table of one number, which grows with every change, by whichever process."""
    (changes,) = connection.execute(f"SELECT n FROM {counter}").fetchone()  # noqa: S608  a constant of ours
    return int(changes)


@define(eq=False)
class Counter:
    """As `counted`, for who looks again and again: its connection stays open, since every new one reads the whole
    schema first. To be closed. Of another file in the place of the one before it first gives `ANOTHER`: what that one
    has may differ though it counts as much."""

    path: Path
    table: str
    _connection: sqlite3.Connection | None = None
    _inode: int | None = None
    _in_use: threading.Lock = field(factory=threading.Lock)  # whoever is told to end closes it, perhaps within a look

    def now(self) -> int:
        with self._in_use:
            try:
                inode = inode_of(os.fspath(self.path))  # first, so that one that comes meanwhile is told
                if self._inode not in (None, inode):
                    self._close()
                    self._inode = GONE
                if self._connection is None:
                    self._connection = open_reader(self.path)
                found = counted(self._connection, self.table)
            except (sqlite3.Error, OSError) as exc:
                self._close()
                raise refusal(self.path, exc) from exc
            before, self._inode = self._inode, inode
            return ANOTHER if before == GONE else found

    def close(self) -> None:
        with self._in_use:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _with(opener: Callable[[Path], sqlite3.Connection], path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    with closing(opener(path)) as connection:
        try:
            return work(connection)
        except sqlite3.Error as exc:
            raise refusal(path, exc) from exc
