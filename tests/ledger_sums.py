"""What the ledger's file says of spend and of reservations, read behind the gateway's back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.server.starting import LEDGER


def spent(state: Path) -> dict[str, int]:
    """Nano-USD by account, all days together; that they are the sums over the rows is asserted on the way."""
    with closing(sqlite3.connect(state / LEDGER)) as connection:
        kept = dict(connection.execute("SELECT account, sum(nanos) FROM spend GROUP BY account").fetchall())
        rows = connection.execute(
            "SELECT 'key:' || key_id, sum(charged_nanos) FROM decisions WHERE key_id IS NOT NULL GROUP BY 1"
            " UNION ALL SELECT 'project:' || project, sum(charged_nanos) FROM decisions WHERE project IS NOT NULL"
            " GROUP BY 1"
        ).fetchall()
    assert kept == {account: nanos for account, nanos in rows if nanos}
    return kept


def leases(state: Path, statement: str | None = None) -> dict[str, int]:
    """Reserved nano-USD by key."""
    with closing(sqlite3.connect(state / LEDGER, isolation_level=None)) as connection:
        if statement is not None:
            connection.execute(statement)
        return dict(connection.execute("SELECT key_id, sum(nanos) FROM leases GROUP BY key_id").fetchall())
