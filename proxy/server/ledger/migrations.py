"""The tables of the ledger's file, step by step from the first version on: see `schema` for who takes the steps."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.record import frozen
from proxy.server.ledger.rows import ATTEMPT, BLOCK_BITS, DAY_MS, DECISION, MARKED

APPLICATION_ID = 0x706F696E  # "poin": tells our file from another program's


@frozen
class Migration:
    """Statements that bring a file from the version before to `version`, in one transaction."""

    version: int
    statements: tuple[str, ...]


USAGE_COLUMNS = """
    input INTEGER, cache_read INTEGER, cache_write_5m INTEGER, cache_write_1h INTEGER, output INTEGER,
    reasoning INTEGER, audio_input INTEGER, audio_output INTEGER
"""

DEFAULTING = ("byok", "sole", "booked")  # a view knows no columns' defaults
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


def _unbooked() -> tuple[str, ...]:
    """One trigger in the place of five: a row sets off each of them before it says that it is booked."""
    marks = ", ".join(f"('{column}', NEW.{column}, NEW.at_ms >> {BLOCK_BITS})" for column in MARKED)
    former = (*(f"{kind}_spends" for kind, _ in SPENDERS), "keys_used", "leases_settled", "decisions_marked")
    return (
        *(f"DROP TRIGGER {name}" for name in former),
        f"CREATE TRIGGER decisions_unbooked AFTER INSERT ON decisions WHEN NEW.booked = 0 BEGIN {_summed()}"  # noqa: S608
        " UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), NEW.at_ms) WHERE id = NEW.key_id;"
        " DELETE FROM leases WHERE request_id = NEW.request_id;"
        f" INSERT OR IGNORE INTO marks VALUES {marks}; END",
    )


def _telling() -> tuple[str, ...]:
    """`attempts` as it was, of rows of its own and of decisions whose only attempt has no more to say."""
    told = {
        "n": "1", "started_ms": "0", "outcome": "'ok'", "detail": "''", "bytes_out": "bytes_committed",
    }  # fmt: skip
    columns, values = ", ".join(ATTEMPT), ", ".join(told.get(name, name) for name in ATTEMPT)
    return (
        "ALTER TABLE attempts RENAME TO own_attempts",
        "ALTER TABLE decisions ADD COLUMN sole INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE decisions ADD COLUMN upstream_request_id TEXT",
        f"CREATE VIEW attempts AS SELECT decision, {columns} FROM own_attempts"  # noqa: S608
        f" UNION ALL SELECT id, {values} FROM decisions WHERE sole = 1",
        "CREATE TRIGGER attempts_added INSTEAD OF INSERT ON attempts BEGIN INSERT INTO own_attempts"  # noqa: S608
        f" (decision, {columns}) VALUES (NEW.decision, {', '.join(f'NEW.{name}' for name in ATTEMPT)}); END",
        "CREATE TRIGGER attempts_stay INSTEAD OF UPDATE ON attempts"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    )


def _viewing() -> Iterator[str]:
    """`decisions` as it was, and its trigger on it, of a table that has none for new rows: where one is, SQLite puts
    all rows of a statement into a table of their own first."""
    yield "DROP TRIGGER decisions_unbooked"
    yield "ALTER TABLE decisions RENAME TO decision_rows"
    yield from _view()


def _once() -> Iterator[str]:
    """The view once more, with `booked`; nor is a row that is there, and by INSERT OR IGNORE passed over, summed
    again."""
    yield "DROP VIEW decisions"
    yield from _view("booked", then=" SELECT RAISE(IGNORE) WHERE changes() = 0 OR NEW.booked = 1;")


def _view(*more: str, then: str = "") -> Iterator[str]:
    """With those columns too. `then` is what its trigger does behind the row, before the rest."""
    columns = ("id", *DECISION, "form", "own", "sole", "upstream_request_id", *more)
    yield f"CREATE VIEW decisions AS SELECT {', '.join(columns)} FROM decision_rows"  # noqa: S608
    values = (f"coalesce(NEW.{name}, 0)" if name in DEFAULTING else f"NEW.{name}" for name in columns)
    marks = ", ".join(f"('{column}', NEW.{column}, NEW.at_ms >> {BLOCK_BITS})" for column in MARKED)
    yield (
        "CREATE TRIGGER decisions_added INSTEAD OF INSERT ON decisions BEGIN INSERT INTO decision_rows"  # noqa: S608
        f" ({', '.join(columns)}) VALUES ({', '.join(values)});{then} {_summed()}"
        " UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), NEW.at_ms) WHERE id = NEW.key_id;"
        " DELETE FROM leases WHERE request_id = NEW.request_id;"
        f" INSERT OR IGNORE INTO marks VALUES {marks}; END"
    )
    yield (
        "CREATE TRIGGER decisions_stay INSTEAD OF UPDATE ON decisions"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )
    yield (
        "CREATE TRIGGER decisions_deleted INSTEAD OF DELETE ON decisions"
        " BEGIN DELETE FROM decision_rows WHERE id = OLD.id; END"
    )


def _summed() -> str:
    """Statements of a trigger that add a new row to what its key and its project spent."""
    return " ".join(
        f"INSERT INTO spend SELECT '{kind}:' || NEW.{column}, NEW.at_ms / {DAY_MS}, NEW.charged_nanos"
        f" WHERE NEW.{column} IS NOT NULL AND NEW.charged_nanos <> 0"
        " ON CONFLICT (account, day) DO UPDATE SET nanos = nanos + excluded.nanos;"
        for kind, column in SPENDERS
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
    # An ordinary request is one row: `sole` says that its only attempt is told by its decision.
    Migration(7, (*_unbooked(), *_telling())),
    # The writer's rows are booked by the writer, so they set off nothing, not even the look at whether they are.
    Migration(8, tuple(_viewing())),
    # Others' rows are summed once, and a process of a version before that runs on meanwhile still says `booked`.
    Migration(9, tuple(_once())),
)
