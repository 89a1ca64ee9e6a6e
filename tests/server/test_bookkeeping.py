from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.accounts.books import Books
from proxy.accounts.budget import BudgetTerms
from proxy.accounts.keys import Key
from proxy.accounts.periods import DAY_MS, Period
from proxy.server.bookkeeping import fill
from proxy.server.ledger.schema import open_writer

NOW = 1_764_000_000_000  # 2025-11-24T16:00:00Z
CLOCKS = {
    "right": NOW,
    "at the beginning of time": 10_000,
    "ahead by 75 years": int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000),
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize(("period", "spent"), [("daily", 5), ("weekly", 5), ("monthly", 12), ("none", 112)])
def test_a_budget_knows_what_was_spent_before_whatever_the_clock_reads_at_the_start(
    clock: int, period: Period, spent: int, tmp_path: Path
) -> None:
    """Machines without a clock of their own have the time from the network by and by."""
    file, today = tmp_path / "ledger.sqlite", NOW // DAY_MS
    with closing(open_writer(file)) as connection:
        for days_ago, nanos in ((0, 5), (3, 7), (60, 100)):
            connection.execute("INSERT INTO spend VALUES (?, ?, ?)", (f"key:{'a' * 12}", today - days_ago, nanos))
    terms = BudgetTerms(limit_nanos=1000, period=period)
    key = Key("a" * 12, "", "neu", b"", "", 0, budget=terms)
    books = Books()
    fill(books, file, [key], clock)
    account = books.account(f"key:{key.id}", terms, clock)
    account.turn(NOW)
    assert account.spent == spent
