"""The books as a process finds them when it starts: what the ledger says was spent, and what a process that died had
reserved."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from proxy.accounts.books import Books
from proxy.accounts.keys import Key
from proxy.accounts.periods import DAY_MS, period_of
from proxy.server.ledger.schema import open_reader, refusal

OF_PROJECTS = "SELECT account, day, nanos FROM spend WHERE account LIKE 'project:%'"
OF_KEY = "SELECT day, nanos FROM spend WHERE account = ? AND day >= ?"
EVER_OF_KEY = "SELECT 0, coalesce(sum(nanos), 0) FROM spend WHERE account = ? AND day >= ?"
NEWEST = "SELECT coalesce(max(day), 0) FROM spend"
LEASES = "SELECT key_id, project, nanos, until_ms FROM leases WHERE until_ms > ?"


def fill(books: Books, path: Path, keys: Iterable[Key], now_ms: int) -> None:
    """Blocks. Raises LedgerRefused."""
    with closing(open_reader(path)) as connection:
        try:
            connection.execute("BEGIN")  # one state
            for account, day, nanos in connection.execute(OF_PROJECTS):
                books.open(account, {day: nanos})
            (newest,) = connection.execute(NEWEST).fetchone()
            since_ms = min(now_ms, newest * DAY_MS)  # the clock may be ahead yet, and come back
            for key in keys:
                if key.budget is not None:
                    first, _ = period_of(key.budget.period, since_ms)
                    days = EVER_OF_KEY if key.budget.period == "none" else OF_KEY
                    books.open(f"key:{key.id}", dict(connection.execute(days, (f"key:{key.id}", first))))
            for key_id, project, nanos, until_ms in connection.execute(LEASES, (now_ms,)):
                for name in (f"key:{key_id}", f"project:{project}"):
                    if name in books.accounts:
                        books.accounts[name].lease(until_ms, nanos)
        except sqlite3.Error as exc:
            raise refusal(path, exc) from exc
