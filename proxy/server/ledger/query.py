"""Reading the ledger: pages of decisions, newest first, and one decision with its attempts and plan.

What is rare has an index of its own. A value that many rows have is looked for in the blocks of time that are marked
with it, newest first; a block is a second, so whatever it holds besides is soon passed over.

Each call has its own short-lived read-only connection, so any thread may call and no reader holds the WAL back.
Every value reaches SQL as a parameter; the text of a statement is put together from the constants below.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import orjson
from attrs import evolve, field

from proxy.record import frozen
from proxy.server.ledger.rows import (
    ATTEMPT,
    BLOCK_BITS,
    DECISION,
    NAME,
    attempt_json,
    decision_json,
    integer,
    text,
    whole,
)
from proxy.server.ledger.schema import open_reader, refusal

PAGE_MOST = 1_000
PATIENCE = 5.0  # seconds of one call
PROGRESS_STEPS = 4_000  # of SQLite's machine between two looks at the clock: well under a millisecond


class SearchTooLong(Exception):
    """The filters leave too much to look through in the time allowed; a narrower span of time helps."""


@frozen(kw_only=True)
class Filter:
    """What a decision must be; None does not ask. All are exact: there are no patterns to escape."""

    since_ms: int | None = None  # included
    until_ms: int | None = None  # excluded
    model: str | None = None
    provider: str | None = None
    requested: str | None = None
    surface: str | None = None
    status: int | None = None
    outcome: str | None = None
    intent: str | None = None
    klass: str | None = None  # of `auto`
    rule: str | None = None
    profile: str | None = None
    config: str | None = None  # the table's revision
    failed: bool | None = None  # any outcome but "ok"
    fallback: bool | None = None
    project: str | None = None
    key_id: str | None = None
    request_id: str | None = None
    client_request_id: str | None = None
    min_cost_nanos: int | None = None
    min_duration_ms: int | None = None


@frozen
class Cursor:
    """The last row of a page; the next page begins below it, whatever was added since."""

    at_ms: int
    id: int

    @classmethod
    def parse(cls, written: str) -> Self:
        """Raises ValueError for what no page gave out."""
        if not (match := re.fullmatch(r"(-?\d{1,18})\.(\d{1,18})", written, re.ASCII)):
            raise ValueError("not a cursor: pass the `next` of an earlier page")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.at_ms}.{self.id}"


@frozen
class Page:
    """`next` is None on the last page."""

    rows: list[dict[str, Any]]
    next: str | None = None


# Filter's fields to conditions.
CONDITIONS = {
    "since_ms": "at_ms >= ?",
    "until_ms": "at_ms < ?",
    "model": "model = ?",
    "provider": "provider = ?",
    "requested": "requested = ?",
    "surface": "surface = ?",
    "status": "status = ?",
    "outcome": "outcome = ?",
    "intent": "intent = ?",
    "klass": "class = ?",
    "rule": "rule = ?",
    "profile": "profile = ?",
    "config": "config = ?",
    "project": "project = ?",
    "key_id": "key_id = ?",
    "request_id": "request_id = ?",
    "client_request_id": "client_request_id = ?",
    "min_cost_nanos": "cost_nanos >= ?",
    "min_duration_ms": "duration_ms >= ?",
}
FLAG_CONDITIONS = {
    ("failed", True): "outcome <> 'ok'",
    ("failed", False): "outcome = 'ok'",
    ("fallback", True): "fallback_used = 1",
    ("fallback", False): "fallback_used = 0",
}
COLUMNS = {"klass": "class"}  # of fields that are called otherwise
# Those whose rows are found by marks, the one first that few rows have: along its blocks the search goes.
MARKS = {COLUMNS.get(field, field): field for field in (
    "key_id", "project", "klass", "rule", "profile", "requested", "config", "model", "provider", "intent", "surface",
)}  # fmt: skip
BY_TIME = "FROM decisions"
BY_MARKS = f"FROM marks CROSS JOIN decisions ON at_ms BETWEEN block << {BLOCK_BITS} AND (block + 1 << {BLOCK_BITS}) - 1"
MARKED_TOO = (
    "EXISTS (SELECT 1 FROM marks AS more WHERE more.kind = '{}' AND more.value = ? AND more.block = marks.block)"
)

FORM = "(SELECT plan_forms.form FROM plan_forms WHERE plan_forms.id = decisions.form)"
PLAN = "(SELECT plan FROM plans WHERE decision = decisions.id)"
SELECT_PAGE = f"SELECT id, {', '.join(DECISION)}, own, {FORM}, NULL"
SELECT_PLANNED = f"SELECT id, {', '.join(DECISION)}, own, {FORM}, {PLAN}"
SELECT_COUNT = "SELECT count(*)"
SELECT_ONE = f"{SELECT_PLANNED} {BY_TIME} WHERE request_id = ?"
SELECT_ATTEMPTS = f"SELECT {', '.join(ATTEMPT)} FROM attempts WHERE decision = ? ORDER BY n"  # noqa: S608


@frozen
class Decisions:
    """The rows of the ledger at `path`. Every method blocks, for `patience` seconds at most; each raises
    LedgerRefused where the file cannot be read and SearchTooLong where time is up."""

    path: Path
    patience: float = field(default=PATIENCE, kw_only=True)

    def page(self, filters: Filter, limit: int = 100, before: str | None = None, *, plans: bool = False) -> Page:
        """Up to `limit` rows (at most `PAGE_MOST`), newest request first, from below the cursor `before` on; with
        `plans` each has its `plan` (None where it had none).

        Rows that stand in the ledger at the first page come exactly once, however many are added meanwhile.
        Raises ValueError for a bad cursor.
        """
        limit = min(max(limit, 1), PAGE_MOST)
        search = searched(filters)
        if before is not None:
            search = search.below(Cursor.parse(before))
        statement = f"{SELECT_PLANNED if plans else SELECT_PAGE} {search.newest_first}"
        with self._connected() as connection:
            found = connection.execute(statement, (*search.values, limit + 1)).fetchall()
        rows = [_shown(columns, plans=plans) for columns in found[:limit]]
        if len(found) <= limit:
            return Page(rows)
        return Page(rows, str(Cursor(rows[-1]["at_ms"], found[limit - 1][0])))

    def count(self, filters: Filter) -> int:
        """How many rows all pages together hold."""
        search = searched(filters)
        with self._connected() as connection:
            (rows,) = connection.execute(f"{SELECT_COUNT} {search}", search.values).fetchone()
        return int(rows)

    def one(self, request_id: str) -> dict[str, Any] | None:
        """A decision with its `attempts` and its `plan` (None where it had none)."""
        with self._connected() as connection:
            connection.execute("BEGIN")  # both reads see one state
            found = connection.execute(SELECT_ONE, (text(request_id, NAME),)).fetchone()
            if found is None:
                return None
            attempts = connection.execute(SELECT_ATTEMPTS, found[:1]).fetchall()
        return _shown(found, plans=True) | {"attempts": [attempt_json(columns) for columns in attempts]}

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(open_reader(self.path)) as connection:
            deadline = time.monotonic() + self.patience
            connection.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
            try:
                yield connection
            except sqlite3.Error as exc:
                if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                    raise SearchTooLong(f"not done after {self.patience:g} s; ask for a narrower span of time") from exc
                raise refusal(self.path, exc) from exc


def _shown(columns: Sequence[Any], *, plans: bool) -> dict[str, Any]:
    """A row of `SELECT_PAGE` or `SELECT_PLANNED`."""
    *decision, plan = whole(columns[1:])
    shown = decision_json(decision)
    return shown | {"plan": plan and orjson.loads(plan)} if plans else shown


def rows_as_json(page: Page) -> bytes:
    """A page as the admin endpoint and `decisions --json` give it."""
    return orjson.dumps({"decisions": page.rows, "next": page.next})


@frozen
class Search:
    """The rest of a statement behind its SELECT. Each step that is added narrows it."""

    marked: bool  # along marks, else along an index of the table
    wanted: tuple[str, ...] = ()
    values: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        where = f" WHERE {' AND '.join(self.wanted)}" if self.wanted else ""
        return (BY_MARKS if self.marked else BY_TIME) + where

    @property
    def newest_first(self) -> str:
        """With a LIMIT as the last value. Blocks follow each other in time, so this is the order of time."""
        return f"{self} ORDER BY {'block DESC, ' if self.marked else ''}at_ms DESC, id DESC LIMIT ?"

    @property
    def oldest_first(self) -> str:
        return f"{self} ORDER BY {'block, ' if self.marked else ''}at_ms, id LIMIT ?"

    def where(self, condition: str, *values: str | int) -> Search:
        return evolve(self, wanted=(*self.wanted, condition), values=(*self.values, *values))

    def below(self, cursor: Cursor) -> Search:
        return self._block("<=", cursor.at_ms).where("(at_ms, id) < (?, ?)", cursor.at_ms, cursor.id)

    def above(self, cursor: Cursor) -> Search:
        return self._block(">=", cursor.at_ms).where("(at_ms, id) > (?, ?)", cursor.at_ms, cursor.id)

    def within(self, since_ms: int | None, until_ms: int | None) -> Search:
        """SQLite does not see by itself which blocks lie in the span."""
        search = self
        if since_ms is not None:
            search = search._block(">=", integer(since_ms))
        return search._block("<=", integer(until_ms)) if until_ms is not None else search

    def _block(self, compared: str, at_ms: int) -> Search:
        return self.where(f"block {compared} ?", at_ms >> BLOCK_BITS) if self.marked else self


def searched(filters: Filter) -> Search:
    """What is rare is found along its own index, what is not along the marks of one value, and the rest by time."""
    rare = _rare(filters)
    asked = {
        column: text(value, NAME) for column, field in MARKS.items() if (value := getattr(filters, field)) is not None
    }
    alone = rare or filters.request_id is not None or filters.client_request_id is not None
    search = Search(marked=bool(asked) and not alone)
    if search.marked:
        (first, value), *others = asked.items()
        search = search.where(f"kind = '{first}' AND value = ?", value)
        for column, value in others:
            search = search.where(MARKED_TOO.format(column), value)
        search = search.within(filters.since_ms, filters.until_ms)
    for name, condition in CONDITIONS.items():
        match getattr(filters, name):
            case str() as said:
                search = search.where(condition, text(said, NAME))
            case int() as said:
                search = search.where(condition, integer(said))
    for (name, flag), condition in FLAG_CONDITIONS.items():
        if getattr(filters, name) is flag:
            search = search.where(condition)
    for condition in rare:
        search = search.where(condition)
    return search


def _rare(filters: Filter) -> list[str]:
    """What is rare and follows from the values, said as a constant: SQLite takes a partial index only where the text
    proves that it may."""
    rare = []
    if filters.failed or filters.outcome not in (None, "ok"):
        rare.append("outcome <> 'ok'")
    if filters.status is not None and filters.status >= 400:
        rare.append("status >= 400")
    return rare
