"""The ledger's rows as files for other programs: JSON lines and CSV, oldest first, however many there are.

Decisions, attempts and, where wanted, plans; keys are in other tables, and no row holds a prompt or a credential. What
is added while an export runs is not in it. Pages are read one by one, so that no long read holds the writer's log back.
"""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from proxy.record import frozen
from proxy.server.ledger.query import SELECT_ATTEMPTS, SELECT_PLANNED, Cursor, Filter, searched
from proxy.server.ledger.rows import ATTEMPT, DECISION, attempt_json, decision_json, whole
from proxy.server.ledger.schema import open_reader, refusal

PAGE = 500
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


@frozen
class Exported:
    """A decision's columns, those of each attempt, and its plan as JSON."""

    decision: tuple[Any, ...]
    attempts: list[tuple[Any, ...]]
    plan: str | None


def rows(path: Path, filters: Filter) -> Iterator[Exported]:
    """Raises LedgerRefused."""
    search = searched(filters)
    try:
        with closing(open_reader(path)) as connection:
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM decisions").fetchone()
            search = search.where("id <= ?", last)
            rest = search
            while page := connection.execute(f"{SELECT_PLANNED} {rest.oldest_first}", (*rest.values, PAGE)).fetchall():
                for id, *columns in page:
                    *decision, plan = whole(columns)
                    yield Exported(tuple(decision), connection.execute(SELECT_ATTEMPTS, (id,)).fetchall(), plan)
                rest = search.above(Cursor(page[-1][1 + DECISION.index("at_ms")], page[-1][0]))
    except sqlite3.Error as exc:
        raise refusal(path, exc) from exc


def decision_lines(found: Iterator[Exported], *, plans: bool) -> Iterator[bytes]:
    """Each decision as the admin API shows one: with its attempts, and its plan where that is wanted."""
    for one in found:
        document = decision_json(one.decision) | {"attempts": [attempt_json(columns) for columns in one.attempts]}
        if plans:
            document["plan"] = one.plan and orjson.loads(one.plan)
        yield orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def attempt_lines(found: Iterator[Exported]) -> Iterator[bytes]:
    for request_id, columns in _attempts(found):
        yield orjson.dumps({"request_id": request_id} | attempt_json(columns), option=orjson.OPT_APPEND_NEWLINE)


def decision_csv(found: Iterator[Exported]) -> Iterator[bytes]:
    return _csv(DECISION, (one.decision for one in found))


def attempt_csv(found: Iterator[Exported]) -> Iterator[bytes]:
    return _csv(("request_id", *ATTEMPT), ((request_id, *columns) for request_id, columns in _attempts(found)))


def _attempts(found: Iterator[Exported]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for one in found:
        for columns in one.attempts:
            yield one.decision[0], columns


def _csv(names: Sequence[str], lines: Iterator[tuple[Any, ...]]) -> Iterator[bytes]:
    """RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe in front: clients write names."""
    yield _csv_line(names)
    for line in lines:
        yield _csv_line([f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in line])


def _csv_line(cells: Sequence[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue().encode()
