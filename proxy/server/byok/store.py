"""Projects' provider keys in the ledger's file, sealed. Every method blocks: `ledger.access`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from proxy.accounts.vault import DataKey, StoredKey
from proxy.record import frozen
from proxy.server.ledger import access

SELECT = (
    "SELECT project, provider, data_key, sealed, last_four, created_ms, changed_ms FROM provider_keys ORDER BY 1, 2"
)
SELECT_DATA_KEYS = "SELECT id, wrapped, master, created_ms FROM data_keys ORDER BY id"
# One data key is enough: who comes second finds the first one's.
FIRST_DATA_KEY = (
    "INSERT INTO data_keys (wrapped, master, created_ms) SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM data_keys)"
)
UNUSED = "DELETE FROM data_keys WHERE NOT EXISTS (SELECT 1 FROM provider_keys)"
REWRAP = "UPDATE data_keys SET wrapped = ?, master = ? WHERE id = ? AND master = ?"
PUT = (
    "INSERT INTO provider_keys (project, provider, data_key, sealed, last_four, created_ms, changed_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, provider) DO UPDATE SET data_key = excluded.data_key,"
    " sealed = excluded.sealed, last_four = excluded.last_four, changed_ms = excluded.changed_ms"
)
DELETE = "DELETE FROM provider_keys WHERE project = ? AND provider = ?"


@frozen
class Contents:
    changes: int
    data_keys: list[DataKey]
    stored: list[StoredKey]


@frozen
class VaultStore:
    """The sealed keys of the ledger at `path`. Raises LedgerRefused where the file cannot be used."""

    path: Path

    def load(self) -> Contents:
        def everything(connection: sqlite3.Connection) -> Contents:
            data_keys = [DataKey(*row) for row in connection.execute(SELECT_DATA_KEYS)]
            stored = [StoredKey(*row) for row in connection.execute(SELECT)]
            return Contents(access.counted(connection, "vault_changes"), data_keys, stored)

        return access.look(self.path, everything)

    def changes(self) -> access.Counter:
        """Grows with every change, by whichever process."""
        return access.Counter(self.path, "vault_changes")

    def begin(self, wrapped: bytes, master: str, now_ms: int) -> DataKey:
        """The file's data key: this one, unless there is one already."""

        def first(connection: sqlite3.Connection) -> DataKey:
            connection.execute(FIRST_DATA_KEY, (wrapped, master, now_ms))
            return DataKey(*connection.execute(SELECT_DATA_KEYS).fetchone())

        return access.change(self.path, first)

    def forget_unused(self) -> None:
        """Data keys under which nothing is sealed."""
        access.write(self.path, UNUSED)

    def rewrap(self, old: DataKey, wrapped: bytes, master: str) -> None:
        access.write(self.path, REWRAP, (wrapped, master, old.id, old.master))

    def put(self, key: StoredKey) -> None:
        """In the place of the one before, in one step."""
        told = (key.project, key.provider, key.data_key, key.sealed, key.last_four, key.created_ms, key.changed_ms)
        access.write(self.path, PUT, told)

    def delete(self, project: str, provider: str) -> None:
        access.write(self.path, DELETE, (project, provider))
