"""The ledger's file: its tables, how an older one is brought forward, and when it is refused.

A file that cannot be used is refused with a sentence for its operator. It is never deleted, emptied or replaced.

`synchronous=FULL`: rows carry money, and with NORMAL a power cut could take back what was committed. It costs one
fsync per batch, so at most 50 a second with batches of 20 ms, in the writer thread, where no request waits for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from proxy.server.ledger.rows import BLOCK_BITS, DAY_MS, MARKED

APPLICATION_ID = 0x706F696E  # "poin": tells our file from another program's
BUSY_MS = 1_000  # longer waits are the writer's own, where `stop` can end them
WAL_BYTES = 16 << 20  # the WAL is cut back to this after a checkpoint
CHECKED_BYTES = 64 << 20  # a file up to this size is read whole at start (about 0.2 s)


class LedgerRefused(Exception):
    """The ledger's file cannot be used as it is; the message says why, and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@frozen
class Migration:
    """Statements that bring a file from the version before to `version`, in one transaction."""

    version: int
    statements: tuple[str, ...]


USAGE_COLUMNS = """
    input INTEGER, cache_read INTEGER, cache_write_5m INTEGER, cache_write_1h INTEGER, output INTEGER,
    reasoning INTEGER, audio_input INTEGER, audio_output INTEGER
"""

SPENDERS = (("key", "key_id"), ("project", "project"))  # whose spend is summed, and their column


def _booking() -> tuple[str, ...]:
    """The triggers of version 3, for rows whose writer has not done their work itself."""
    spending = (
        f"CREATE TRIGGER {kind}_spends AFTER INSERT ON decisions"  # noqa: S608
        f" WHEN NEW.booked = 0 AND NEW.{column} IS NOT NULL AND NEW.charged_nanos <> 0"
        f" BEGIN INSERT INTO spend VALUES ('{kind}:' || NEW.{column}, NEW.at_ms / {DAY_MS}, NEW.charged_nanos)"
        " ON CONFLICT (account, day) DO UPDATE SET nanos = nanos + excluded.nanos; END"
        for kind, column in SPENDERS
    )
    return (
        *(f"DROP TRIGGER {name}" for name in ("keys_used", "leases_settled", "key_spends", "project_spends")),
        *spending,
        "CREATE TRIGGER keys_used AFTER INSERT ON decisions WHEN NEW.booked = 0 AND NEW.key_id IS NOT NULL"
        " BEGIN UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), NEW.at_ms) WHERE id = NEW.key_id; END",
        "CREATE TRIGGER leases_settled AFTER INSERT ON decisions WHEN NEW.booked = 0"
        " BEGIN DELETE FROM leases WHERE request_id = NEW.request_id; END",
    )


def _marking() -> Iterator[str]:
    """From an index for each of the columns that rows are searched by, to marks."""
    yield (
        "CREATE TABLE marks (kind TEXT NOT NULL, value TEXT NOT NULL, block INTEGER NOT NULL,"
        " PRIMARY KEY (kind, value, block)) WITHOUT ROWID"
    )
    for column in MARKED:
        yield (
            f"INSERT INTO marks SELECT DISTINCT '{column}', {column}, at_ms >> {BLOCK_BITS} FROM decisions"  # noqa: S608
            f" WHERE {column} IS NOT NULL"
        )
        yield f"DROP INDEX decisions_by_{column.removesuffix('_id')}"
    yield "CREATE INDEX marks_by_block ON marks (block)"  # for the retention
    marks = ", ".join(f"('{column}', NEW.{column}, NEW.at_ms >> {BLOCK_BITS})" for column in MARKED)
    yield (
        "CREATE TRIGGER decisions_marked AFTER INSERT ON decisions WHEN NEW.booked = 0"  # noqa: S608
        f" BEGIN INSERT OR IGNORE INTO marks VALUES {marks}; END"
    )


def _spending(kind: str, column: str) -> tuple[str, ...]:
    """What was spent before, and a trigger for what will be."""
    return (
        f"INSERT INTO spend SELECT '{kind}:' || {column}, at_ms / {DAY_MS}, sum(charged_nanos) FROM decisions"  # noqa: S608
        f" WHERE {column} IS NOT NULL AND charged_nanos <> 0 GROUP BY 1, 2",
        f"CREATE TRIGGER {kind}_spends AFTER INSERT ON decisions"  # noqa: S608
        f" WHEN NEW.{column} IS NOT NULL AND NEW.charged_nanos <> 0"
        f" BEGIN INSERT INTO spend VALUES ('{kind}:' || NEW.{column}, NEW.at_ms / {DAY_MS}, NEW.charged_nanos)"
        " ON CONFLICT (account, day) DO UPDATE SET nanos = nanos + excluded.nanos; END",
    )


# A filter's index goes on with at_ms: one page of a filtered list is then one short walk along it, however long the
# ledger. What is rare, and asked for because it is, has a partial index: common rows pay nothing for it. Two indexes
# carry more columns than they are sorted by, so that a search along them leaves the table's pages alone; the explicit
# `id` keeps rows of one millisecond in the order of a page. Since version 6 marks stand for the filters of common rows.
MIGRATIONS = (
    Migration(
        1,
        (
            f"PRAGMA application_id = {APPLICATION_ID}",
            f"""
            CREATE TABLE decisions (
                id INTEGER PRIMARY KEY,
                request_id TEXT NOT NULL, client_request_id TEXT, at_ms INTEGER NOT NULL, surface TEXT NOT NULL,
                requested TEXT NOT NULL, stream INTEGER NOT NULL, project TEXT, key_id TEXT, config TEXT NOT NULL,
                status INTEGER NOT NULL, outcome TEXT NOT NULL, model TEXT, provider TEXT, native TEXT,
                fallback_used INTEGER NOT NULL, attempt_count INTEGER NOT NULL, {USAGE_COLUMNS},
                cost_nanos INTEGER, charged_nanos INTEGER NOT NULL, estimated INTEGER NOT NULL, price_source TEXT,
                ttfb_ms INTEGER, duration_ms INTEGER NOT NULL, queue_ms INTEGER, bytes_committed INTEGER NOT NULL,
                gone_phase TEXT, dropped TEXT NOT NULL, facts TEXT
            )
            """,
            f"""
            CREATE TABLE attempts (
                decision INTEGER NOT NULL REFERENCES decisions (id) ON DELETE CASCADE,
                n INTEGER NOT NULL, model TEXT NOT NULL, provider TEXT NOT NULL, native TEXT NOT NULL,
                started_ms INTEGER NOT NULL, duration_ms INTEGER NOT NULL, ttfb_ms INTEGER, outcome TEXT NOT NULL,
                status INTEGER, detail TEXT NOT NULL, upstream_request_id TEXT, {USAGE_COLUMNS},
                cost_nanos INTEGER, bytes_out INTEGER NOT NULL
            )
            """,
            # Apart from decisions: a plan is ten times the rest of the row, and sums over many rows never want it.
            """
            CREATE TABLE plans (
                decision INTEGER PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
                plan TEXT NOT NULL
            )
            """,
            "CREATE UNIQUE INDEX decisions_by_request_id ON decisions (request_id)",
            "CREATE INDEX decisions_by_time ON decisions (at_ms, id, cost_nanos, duration_ms)",
            "CREATE INDEX decisions_by_model ON decisions (model, at_ms)",
            "CREATE INDEX decisions_by_provider ON decisions (provider, at_ms)",
            "CREATE INDEX decisions_by_requested ON decisions (requested, at_ms)",
            "CREATE INDEX decisions_by_surface ON decisions (surface, at_ms)",
            "CREATE INDEX decisions_by_project ON decisions (project, at_ms) WHERE project IS NOT NULL",
            "CREATE INDEX decisions_by_key ON decisions (key_id, at_ms) WHERE key_id IS NOT NULL",
            "CREATE INDEX decisions_by_client_id ON decisions (client_request_id, at_ms)"
            " WHERE client_request_id IS NOT NULL",
            "CREATE INDEX decisions_by_bad_status ON decisions (status, at_ms) WHERE status >= 400",
            "CREATE INDEX decisions_failed ON decisions"
            " (at_ms, id, outcome, status, model, provider, requested, surface, project, key_id)"
            " WHERE outcome <> 'ok'",
            "CREATE INDEX decisions_fallen_back ON decisions (at_ms) WHERE fallback_used = 1",
            "CREATE INDEX attempts_by_decision ON attempts (decision, n)",
            "CREATE TRIGGER decisions_append_only BEFORE UPDATE ON decisions"
            " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
            "CREATE TRIGGER attempts_append_only BEFORE UPDATE ON attempts"
            " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        ),
    ),
    # What the plan said of the choice, to search by; rows of before have it in their plan alone.
    Migration(
        2,
        (
            *(f"ALTER TABLE decisions ADD COLUMN {name} TEXT" for name in ("intent", "class", "rule", "profile")),
            *(
                f"CREATE INDEX decisions_by_{name} ON decisions ({name}, at_ms) WHERE {name} IS NOT NULL"
                for name in ("intent", "class", "rule", "profile")
            ),
            "CREATE INDEX decisions_by_config ON decisions (config, at_ms)",
        ),
    ),
    # Keys, and what they spent. Triggers keep the sums in the transaction of the row that they sum, whoever writes it,
    # so they are right at any moment; and they outlast the rows, which the retention deletes.
    Migration(
        3,
        (
            "ALTER TABLE decisions ADD COLUMN byok INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE attempts ADD COLUMN byok INTEGER NOT NULL DEFAULT 0",
            """
            CREATE TABLE keys (
                id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, digest BLOB NOT NULL,
                last_four TEXT NOT NULL, created_ms INTEGER NOT NULL, project TEXT, scopes TEXT NOT NULL,
                expires_ms INTEGER, revoked_ms INTEGER, former BLOB, former_until_ms INTEGER NOT NULL,
                last_used_ms INTEGER, terms TEXT NOT NULL
            )
            """,
            # One row, so that a process sees at a glance whether another has changed a key.
            "CREATE TABLE key_changes (n INTEGER NOT NULL)",
            "INSERT INTO key_changes VALUES (0)",
            "CREATE TRIGGER keys_added AFTER INSERT ON keys BEGIN UPDATE key_changes SET n = n + 1; END",
            "CREATE TRIGGER keys_changed AFTER UPDATE OF digest, revoked_ms ON keys"
            " BEGIN UPDATE key_changes SET n = n + 1; END",
            "CREATE TRIGGER keys_used AFTER INSERT ON decisions WHEN NEW.key_id IS NOT NULL"
            " BEGIN UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), NEW.at_ms) WHERE id = NEW.key_id;"
            " END",
            # `account` is "key:ID" or "project:NAME"; `day` counts from 1970.
            "CREATE TABLE spend (account TEXT NOT NULL, day INTEGER NOT NULL, nanos INTEGER NOT NULL,"
            " PRIMARY KEY (account, day)) WITHOUT ROWID",
            *(statement for kind, column in SPENDERS for statement in _spending(kind, column)),
            # What requests under way have reserved; a row goes with the decision of its request.
            "CREATE TABLE leases (request_id TEXT PRIMARY KEY, key_id TEXT NOT NULL, project TEXT,"
            " nanos INTEGER NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID",
            "CREATE TRIGGER leases_settled AFTER INSERT ON decisions"
            " BEGIN DELETE FROM leases WHERE request_id = NEW.request_id; END",
        ),
    ),
    # Projects' own keys for providers, sealed under a data key that the master key wraps: see accounts.vault.
    Migration(
        4,
        (
            "CREATE TABLE data_keys (id INTEGER PRIMARY KEY, wrapped BLOB NOT NULL, master TEXT NOT NULL,"
            " created_ms INTEGER NOT NULL)",
            "CREATE TABLE provider_keys (project TEXT NOT NULL, provider TEXT NOT NULL,"
            " data_key INTEGER NOT NULL REFERENCES data_keys (id), sealed BLOB NOT NULL, last_four TEXT NOT NULL,"
            " created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, PRIMARY KEY (project, provider)) WITHOUT ROWID",
            "CREATE TABLE vault_changes (n INTEGER NOT NULL)",
            "INSERT INTO vault_changes VALUES (0)",
            *(
                f"CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table}"  # noqa: S608
                " BEGIN UPDATE vault_changes SET n = n + 1; END"
                for table, event in (
                    ("data_keys", "UPDATE"),
                    ("provider_keys", "INSERT"),
                    ("provider_keys", "UPDATE"),
                    ("provider_keys", "DELETE"),
                )
            ),
        ),
    ),
    # What many plans have in common is written once a day, and a row says what is its own: see routing.forms. And the
    # writer sums for a whole batch what triggers did row by row; they stay for rows that come from elsewhere.
    Migration(
        5,
        (
            "ALTER TABLE decisions ADD COLUMN form INTEGER",
            "ALTER TABLE decisions ADD COLUMN own TEXT",
            "ALTER TABLE decisions ADD COLUMN booked INTEGER NOT NULL DEFAULT 0",
            # Rows refer to forms of their own day alone, so whole days of them go with the last row of that day.
            "CREATE TABLE plan_forms (id INTEGER PRIMARY KEY, day INTEGER NOT NULL, form TEXT NOT NULL)",
            "CREATE INDEX plan_forms_by_day ON plan_forms (day)",
            *_booking(),
        ),
    ),
    # Eleven indexes were half of what a row cost. One mark for a value and a second serves all rows of that second.
    Migration(6, tuple(_marking())),
)

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
    if not path.is_file():
        raise refusal(path, "there is no such file; the gateway makes it when it first starts")
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
