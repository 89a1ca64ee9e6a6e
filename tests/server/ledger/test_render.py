from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.ir import Usage
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.render import _cells, render_table

from .samples import attempt, decision, write

SAMPLE = [
    decision(
        1, requested="auto", model="qwen/coder-32b", status=200, attempts=[attempt(1), attempt(2)], duration_ms=5210,
        usage=Usage(812, 100, output=97), cost_nanos=4_130_499,
    ),
    decision(2, requested="gpt-5", status=504, outcome="upstream_timeout", surface="messages", duration_ms=90_000),
    decision(3, requested="claude-opus-4-8", model="claude-opus-4-8", status=200, charged_nanos=2_500, estimated=True),
]  # fmt: skip
WIDE = """\
time                 id                                    surface   requested        model            status  \
outcome           tries   in  out        usd     ms
2025-06-15 15:06:43  req_00000000000000000000000000000003  chat      claude-opus-4-8  claude-opus-4-8     200  \
ok                    0    -    -  ~0.000003      0
2025-06-15 15:06:42  req_00000000000000000000000000000002  messages  gpt-5            -                   504  \
upstream_timeout      0    -    -          -  90000
2025-06-15 15:06:41  req_00000000000000000000000000000001  chat      auto             qwen/coder-32b      200  \
ok                    2  912   97   0.004130   5210
"""


@pytest.fixture
def rows(path: Path) -> list[dict[str, Any]]:
    write(path, SAMPLE)
    return Decisions(path).page(Filter()).rows


def test_a_table_is_aligned(rows: list[dict[str, Any]]) -> None:
    assert render_table(rows, 200) == WIDE


@pytest.mark.parametrize("width", [*range(50, 200, 10)])
def test_no_line_is_wider_than_the_terminal(rows: list[dict[str, Any]], width: int) -> None:
    lines = render_table(rows, width).splitlines()
    assert len(lines) == 4
    assert max(map(_cells, lines)) <= width
    for title in ("time", "status", "outcome", "usd"):
        assert title in lines[0]


def test_the_narrowest_still_says_what_it_must(rows: list[dict[str, Any]]) -> None:
    assert render_table(rows, 1).splitlines()[2].split() == ["2025-06-15", "15:06:42", "504", "upstrea…", "-"]


def test_without_rows_there_are_the_titles() -> None:
    assert render_table([], 80).split()[:2] == ["time", "id"]


def test_a_name_reaches_the_terminal_without_its_control_characters(path: Path) -> None:
    write(path, [decision(requested="\x1b[2Jred\n\u202ename")])
    told = render_table(Decisions(path).page(Filter()).rows, 200)
    assert "\ufffd[2Jred\ufffd\ufffdname" in told
    assert told.count("\n") == 2


def test_wide_letters_count_for_two(path: Path) -> None:
    write(path, [decision(1, requested="模型模型模型模型模型模型"), decision(2, requested="plain")])
    lines = render_table(Decisions(path).page(Filter()).rows, 120).splitlines()
    assert len({_cells(line) for line in lines}) == 1


def test_an_impossible_time_is_shown_as_its_number(path: Path) -> None:
    write(path, [decision(at_ms=10**18)])
    assert str(10**18) in render_table(Decisions(path).page(Filter()).rows, 200)
