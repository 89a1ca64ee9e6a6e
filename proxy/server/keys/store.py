"""Keys in the ledger's file. Every method blocks: call them off the event loop. Each has a connection of its own, which
waits for the writer's lock; a change is in the file when the method returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import orjson
from attrs import asdict, frozen

from proxy.accounts.asking import Spend
from proxy.accounts.budget import BudgetTerms
from proxy.accounts.keys import Key
from proxy.accounts.limits import LimitTerms
from proxy.accounts.periods import period_of
from proxy.server.ledger.schema import open_reader, open_writer, refusal

COLUMNS = (
    "id", "name", "prefix", "digest", "last_four", "created_ms", "project", "scopes", "expires_ms", "revoked_ms",
    "former", "former_until_ms", "last_used_ms", "terms",
)  # fmt: skip
SELECT = f"SELECT {', '.join(COLUMNS)} FROM keys ORDER BY created_ms, id"  # noqa: S608  constants
INSERT = f"INSERT INTO keys ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
ROTATE = "UPDATE keys SET digest = ?, last_four = ?, former = ?, former_until_ms = ? WHERE id = ?"
REVOKE = "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?"
TOUCH = "UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), ?) WHERE id = ?"
SPENT = "SELECT account, sum(nanos) FROM spend WHERE account LIKE 'key:%' GROUP BY account"
SPENT_SINCE = "SELECT coalesce(sum(nanos), 0) FROM spend WHERE account = ? AND day >= ?"
T = TypeVar("T")


@frozen
class KeyStore:
    """The keys of the ledger at `path`. Raises LedgerRefused where the file cannot be used."""

    path: Path

    def load(self) -> tuple[int, list[Key]]:
        """The count of changes so far, and every key."""

        def both(connection: sqlite3.Connection) -> tuple[int, list[Key]]:
            connection.execute("BEGIN")  # one state
            return _changes(connection), [_key(row) for row in connection.execute(SELECT)]

        return self._run(open_reader, both)

    def changes(self) -> int:
        """Grows with every change of a key, by whichever process."""
        return self._run(open_reader, _changes)

    def spends(self, keys: Iterable[Key], now_ms: int) -> dict[str, Spend]:
        """By key id, as the ledger has it."""

        def sums(connection: sqlite3.Connection) -> dict[str, Spend]:
            connection.execute("BEGIN")
            totals = {account.removeprefix("key:"): nanos for account, nanos in connection.execute(SPENT)}
            return {key.id: Spend(totals.get(key.id, 0), _since(connection, key, now_ms)) for key in keys}

        return self._run(open_reader, sums)

    def add(self, key: Key) -> None:
        self._write(INSERT, _row(key))

    def rotate(self, key: Key) -> None:
        """Takes over the secret, and the former one, of a key that is there."""
        self._write(ROTATE, (key.digest, key.last_four, key.former, key.former_until_ms, key.id))

    def revoke(self, id: str, now_ms: int) -> None:
        self._write(REVOKE, (now_ms, id))

    def touch(self, id: str, now_ms: int) -> None:
        """Notes that a key was used on the admin listener, of whose requests there is no record."""
        self._write(TOUCH, (now_ms, id))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        self._run(open_writer, lambda connection: connection.execute(statement, values))

    def _run(self, opener: Callable[[Path], sqlite3.Connection], work: Callable[[sqlite3.Connection], T]) -> T:
        with closing(opener(self.path)) as connection:
            try:
                return work(connection)
            except sqlite3.Error as exc:
                raise refusal(self.path, exc) from exc


def _since(connection: sqlite3.Connection, key: Key, now_ms: int) -> int:
    """Nano-USD of the budget's period."""
    if key.budget is None:
        return 0
    first, _ = period_of(key.budget.period, now_ms)
    (nanos,) = connection.execute(SPENT_SINCE, (f"key:{key.id}", first)).fetchone()
    return int(nanos)


def _changes(connection: sqlite3.Connection) -> int:
    (changes,) = connection.execute("SELECT n FROM key_changes").fetchone()
    return int(changes)


def _row(key: Key) -> tuple[Any, ...]:
    terms = {"budget": key.budget and asdict(key.budget), "limits": asdict(key.limits)}
    special = {"scopes": " ".join(sorted(key.scopes)), "terms": orjson.dumps(terms).decode()}
    return tuple(special[name] if name in special else getattr(key, name) for name in COLUMNS)


def _key(row: tuple[Any, ...]) -> Key:
    told = dict(zip(COLUMNS, row, strict=True))
    terms = orjson.loads(told.pop("terms"))
    scopes = frozenset(told.pop("scopes").split())
    budget = BudgetTerms(**terms["budget"]) if terms["budget"] else None
    return Key(**told, scopes=scopes, budget=budget, limits=LimitTerms(**terms["limits"]))
