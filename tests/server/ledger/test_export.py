"""Rows for other programs: each once, oldest first, whatever stands in them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import orjson
import pytest

from proxy.server.ledger.export import PAGE, attempt_csv, attempt_lines, decision_csv, decision_lines, rows
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.rows import DECISION

from .samples import NOON, attempt, decision, full_decision, write


def test_a_line_is_what_the_admin_api_shows(path: Path) -> None:
    write(path, [full_decision()])
    (line,) = decision_lines(rows(path, Filter()), plans=True)
    assert orjson.loads(line) == Decisions(path).one(full_decision().request_id)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    (without,) = decision_lines(rows(path, Filter()), plans=False)
    assert "plan" not in orjson.loads(without)


def test_every_row_comes_once_and_oldest_first(path: Path) -> None:
    """Also where many have the same millisecond, on the borders of pages."""
    wanted = [decision(i, at_ms=NOON + i // 700) for i in range(3 * PAGE)]
    write(path, reversed(wanted))
    ids = [orjson.loads(line)["request_id"] for line in decision_lines(rows(path, Filter()), plans=False)]
    assert len(ids) == len(set(ids)) == 3 * PAGE
    times = [orjson.loads(line)["at_ms"] for line in decision_lines(rows(path, Filter()), plans=False)]
    assert times == sorted(times)


def test_filters_hold(path: Path) -> None:
    write(path, [decision(i, project="team" if i % 2 else None, outcome="ok" if i % 3 else "x") for i in range(12)])
    wanted = Filter(project="team", failed=True, since_ms=NOON + 4000, until_ms=NOON + 10_000)
    assert [orjson.loads(line)["at_ms"] for line in decision_lines(rows(path, wanted), plans=False)] == [NOON + 9000]


def test_what_comes_while_it_runs_is_not_in_it(path: Path) -> None:
    write(path, (decision(i) for i in range(PAGE + 1)))
    found = rows(path, Filter())
    next(found)
    write(path, [decision(9000)])
    assert sum(1 for _ in found) == PAGE


def test_attempts_name_their_request(path: Path) -> None:
    write(path, [decision(1, attempts=[attempt(1), attempt(2, detail="a\nb")]), decision(2)])
    told = [orjson.loads(line) for line in attempt_lines(rows(path, Filter()))]
    assert [(one["request_id"], one["n"]) for one in told] == [(decision(1).request_id, 1), (decision(1).request_id, 2)]
    table = list(csv.DictReader(io.StringIO(b"".join(attempt_csv(rows(path, Filter()))).decode(), newline="")))
    assert [(one["n"], one["detail"]) for one in table] == [("1", ""), ("2", "a\nb")]


@pytest.mark.parametrize(
    ("requested", "cell"),
    [
        ("gpt-4o", "gpt-4o"),
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("@a", "'@a"),
        ("-1,2", "'-1,2"),
        ("ä\u2028", "ä\u2028"),
    ],
)
def test_a_cell_is_no_formula(path: Path, requested: str, cell: str) -> None:
    write(path, [decision(1, requested=requested)])
    text = b"".join(decision_csv(rows(path, Filter()))).decode()
    head, line = csv.reader(io.StringIO(text, newline=""))
    assert tuple(head) == DECISION
    assert line[DECISION.index("requested")] == cell
    assert line[DECISION.index("cost_nanos")] == ""


def test_an_empty_ledger_is_a_head_alone(path: Path) -> None:
    write(path, [])
    assert list(decision_lines(rows(path, Filter()), plans=False)) == []
    assert b"".join(decision_csv(rows(path, Filter()))).decode().strip() == ",".join(DECISION)
