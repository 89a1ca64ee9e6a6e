"""Keys in the ledger's file. Every method blocks: call them off the event loop. `ledger.access` says how they come by
it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
from attrs import asdict

from proxy.accounts.asking import Spend
from proxy.accounts.budget import BudgetTerms
from proxy.accounts.keys import Key
from proxy.accounts.limits import LimitTerms
from proxy.accounts.periods import period_of
from proxy.record import frozen
from proxy.server.ledger import access

COLUMNS = (
    "id", "name", "prefix", "digest", "last_four", "created_ms", "project", "scopes", "expires_ms", "revoked_ms",
    "former", "former_until_ms", "last_used_ms", "terms",
)  # fmt: skip
SELECT = f"SELECT {', '.join(COLUMNS)} FROM keys ORDER BY created_ms, id"  # noqa: S608  constants
SELECT_ONE = f"SELECT {', '.join(COLUMNS)} FROM keys WHERE id = ?"  # noqa: S608
SELECT_CHANGING = "SELECT id, digest, revoked_ms FROM keys"  # what changes of a key once it is made
INSERT = f"INSERT INTO keys ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
ROTATE = "UPDATE keys SET digest = ?, last_four = ?, former = ?, former_until_ms = ? WHERE id = ?"
REVOKE = "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?"
TOUCH = "UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), ?) WHERE id = ?"
SPENT = "SELECT coalesce(sum(nanos), 0), coalesce(sum(nanos) FILTER (WHERE day >= ?), 0) FROM spend WHERE account = ?"


@frozen
class KeyStore:
    """The keys of the ledger at `path`. Raises LedgerRefused where the file cannot be used."""

    path: Path

    def load(self) -> tuple[int, list[Key]]:
        """The count of changes so far, and every key."""

        def both(connection: sqlite3.Connection) -> tuple[int, list[Key]]:
            return access.counted(connection, "key_changes"), [_key(row) for row in connection.execute(SELECT)]

        return access.look(self.path, both)

    def news(self, known: Mapping[str, Key]) -> tuple[int, list[Key]]:
        """As `load`, with those of the `known` that are as they were: of thousands few have changed."""

        def both(connection: sqlite3.Connection) -> tuple[int, list[Key]]:
            keys = []
            for id, digest, revoked_ms in connection.execute(SELECT_CHANGING):
                key = known.get(id)
                if key is None or key.digest != digest or key.revoked_ms != revoked_ms:
                    key = _key(connection.execute(SELECT_ONE, (id,)).fetchone())
                keys.append(key)
            return access.counted(connection, "key_changes"), keys

        return access.look(self.path, both)

    def find(self, id: str) -> Key | None:
        def one(connection: sqlite3.Connection) -> Key | None:
            row = connection.execute(SELECT_ONE, (id,)).fetchone()
            return None if row is None else _key(row)

        return access.look(self.path, one)

    def changes(self) -> access.Counter:
        """Grows with every change of a key, by whichever process."""
        return access.Counter(self.path, "key_changes")

    def spends(self, keys: Iterable[Key], now_ms: int) -> dict[str, Spend]:
        """By key id, as the ledger has it."""

        def sums(connection: sqlite3.Connection) -> dict[str, Spend]:
            return {key.id: _spend(connection, key, now_ms) for key in keys}

        return access.look(self.path, sums)

    def add(self, key: Key) -> None:
        access.write(self.path, INSERT, _row(key))

    def rotate(self, key: Key) -> None:
        """Takes over the secret, and the former one, of a key that is there."""
        access.write(self.path, ROTATE, (key.digest, key.last_four, key.former, key.former_until_ms, key.id))

    def revoke(self, id: str, now_ms: int) -> None:
        access.write(self.path, REVOKE, (now_ms, id))

    def touch(self, id: str, now_ms: int) -> None:
        """Notes that a key was used on the admin listener, of whose requests there is no record."""
        access.write(self.path, TOUCH, (now_ms, id))


def _spend(connection: sqlite3.Connection, key: Key, now_ms: int) -> Spend:
    first, _ = period_of("none" if key.budget is None else key.budget.period, now_ms)
    return Spend(*connection.execute(SPENT, (first, f"key:{key.id}")).fetchone())


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
