"""The ledger's file: how it is opened, made or brought forward, and when it is refused.

A file that cannot be used is refused with a sentence for its operator. It is never deleted, emptied or replaced.

`synchronous=FULL`: rows carry money, and with NORMAL a power cut could take back what was committed. It costs one
fsync per batch, so 23 a second with batches of 44 ms, and 45 where rows come thick, in the writer thread, where no
request waits for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from proxy.server.ledger.migrations import APPLICATION_ID, MIGRATIONS, Migration

BUSY_MS = 1_000  # longer waits are the writer's own, where `stop` can end them
WAL_BYTES = 16 << 20  # the WAL is cut back to this after a checkpoint
CHECKED_BYTES = 64 << 20  # a file up to this size is read whole at start (about 0.2 s)


class LedgerRefused(Exception):
    """The ledger's file cannot be used as it is; the message says why, and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# By SQLite's primary result code. The rest are told in SQLite's own words.
REASONS = {
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file; restore it from a backup or move it away",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup or move it away",
    sqlite3.SQLITE_READONLY: "it cannot be written; its file and its directory must be writable to this user",
    sqlite3.SQLITE_PERM: "this user may not open it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; its file and its directory must be writable to this user",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
}


def refusal(path: Path, problem: sqlite3.Error | OSError | str) -> LedgerRefused:
    """The sentence for what SQLite or the system said about `path`."""
    match problem:
        case sqlite3.Error():
            code = getattr(problem, "sqlite_errorcode", 0) & 0xFF  # the extended codes hold the primary one
            reason = REASONS.get(code, str(problem))
        case OSError():
            reason = f"{problem.strerror or problem}"
        case _:
            reason = problem
    return LedgerRefused(f"ledger {path}: {reason}")


def open_writer(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> sqlite3.Connection:
    """A connection that may write, to a file of the newest schema: made (mode 0600) or brought forward if need be.

    Transactions are the caller's to begin. Blocks for `BUSY_MS` at most at each lock. Raises LedgerRefused.
    """
    _make_file(path)
    connection = None
    try:
        # One thread opens it at start and another uses it from then on; they never meet in it.
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False)
        version = _version(connection, path, migrations[-1].version)
        _set_up(connection, path, new=not version)
        for migration in migrations:
            if migration.version > version:
                _migrate(connection, migration)
    except (sqlite3.Error, OSError) as exc:
        _close(connection)
        raise refusal(path, exc) from exc
    except LedgerRefused:
        _close(connection)
        raise
    return connection


def open_reader(path: Path, *, older: bool = False) -> sqlite3.Connection:
    """A read-only connection to a file of this schema, or with `older` of one before it. Raises LedgerRefused, also
    where there is no file yet."""
    try:
        if not path.is_file():
            raise refusal(path, "there is no such file; the gateway makes it when it first starts")
    except OSError as exc:  # in a directory that may not be read
        raise refusal(path, exc) from exc
    connection = None
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False
        )
        version = _version(connection, path, MIGRATIONS[-1].version)
    except sqlite3.Error as exc:
        _close(connection)
        raise refusal(path, exc) from exc
    except LedgerRefused:
        _close(connection)
        raise
    if version < MIGRATIONS[-1].version and not older:
        connection.close()
        raise refusal(path, f"it is of an older schema ({version}); start the gateway once to bring it forward")
    return connection


def inode_of(path: str) -> int | None:
    """By which a connection is told from the file that its path leads to by now; None where it leads to none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def check(connection: sqlite3.Connection, path: Path) -> None:
    """What a start looks at beyond opening: may it be written, and is it whole. Raises LedgerRefused.

    A file of moderate size is read from end to end; a larger one shows its damage when the damage is met.
    """
    try:
        _prove_writable(connection)
        if path.stat().st_size > CHECKED_BYTES:
            return
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except (sqlite3.Error, OSError) as exc:
        raise refusal(path, exc) from exc
    if verdict != "ok":
        raise refusal(path, f"{REASONS[sqlite3.SQLITE_CORRUPT]} ({' '.join(verdict.split())})")


def _make_file(path: Path) -> None:
    """SQLite would make it with the umask's mode; its WAL takes over the file's.

    One that is there is not opened: the close would end the locks of this process's other connections to it, and the
    next process to close its own would take the journal away from under them.
    """
    if not path.parent.is_dir():
        raise refusal(path, f"there is no directory {path.parent}")
    if path.exists() and not path.is_file():
        raise refusal(path, "it is not a regular file")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as exc:
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise refusal(path, REASONS[sqlite3.SQLITE_READONLY]) from exc
    except PermissionError as exc:
        raise refusal(path, REASONS[sqlite3.SQLITE_READONLY]) from exc
    except OSError as exc:
        raise refusal(path, exc) from exc


def _version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """Before anything is written: whose file it is, and of which schema. 0 for a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application not in (0, APPLICATION_ID) or (tables and application == 0):
        raise refusal(path, "it is another program's SQLite file; name another path")
    if version > newest:
        raise refusal(
            path,
            f"it is of schema {version}, and this version knows {newest} at most;"
            " run the version that wrote it, or move it away",
        )
    return int(version)


def _set_up(connection: sqlite3.Connection, path: Path, new: bool) -> None:
    if new:
        # Only counts before the first table, and before WAL mode writes the header: lets retention give space back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise refusal(path, f"its file system does not carry SQLite's WAL mode (it offers {mode}); use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # A row that sets off a trigger has a journal of its own; as a file it would cost as much as the row itself.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}").fetchone()


def _prove_writable(connection: sqlite3.Connection) -> None:
    """SQLite opens what it may not write, and says so at the first write only. Another's lock is no refusal."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    else:
        connection.execute("ROLLBACK")


def _migrate(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again behind the lock: another process may just have done it.
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < migration.version:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {migration.version}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()
