"""What trickles, taken together in one pass, beside the rows that are made of each."""

from __future__ import annotations

from typing import Any

import pytest
from past import world_of

from proxy.server.ledger.building import Rows
from proxy.server.ledger.records import Brief
from proxy.server.ledger.rows import BLOCK_BITS
from proxy.server.ledger.sheaf import Sheaf, together

from .samples import NOON, decision
from .test_building import BRIEFS, TABLE, Kind, brief, planned, unreadable

# Those that need no look. A number that is too large is refused where it is bound.
AS_THEY_ARE = {"as the others", "no id of the provider's", "no cost", "tokens of which none is known"} | {
    "more tokens than a column holds"
}


def learnt() -> tuple[Kind, Rows]:
    planned(world_of(TABLE))
    kind, rows = Kind(planned(world_of(TABLE))), Rows()
    for i in range(3):
        rows.row_of(brief(kind, i), unreadable)
        rows.row_of(brief(kind, i, started_ms=2), unreadable)
    return kind, rows


def rows_as_one(rows: Rows, briefs: list[Brief]) -> Sheaf:
    made = [rows.row_of(it, unreadable) for it in briefs]
    alike = made[0].alike
    assert all(row.alike is alike and not row.attempts and row.plan is None for row in made)
    values = [*alike.ordinary.shared, *(value for row in made for value in row.values)]
    blocks = list(dict.fromkeys(row.at_ms >> BLOCK_BITS for row in made))
    last_ms, charged = max(row.at_ms for row in made), sum(row.charged_nanos for row in made)
    return Sheaf(alike, values, [row.request_id for row in made], blocks, last_ms, charged)


@pytest.mark.parametrize("name", BRIEFS)
def test_briefs_come_to_what_the_rows_of_each_come_to(name: str) -> None:
    kind, rows = learnt()
    briefs = [brief(kind, 7), brief(kind, 8, **BRIEFS[name]), brief(kind, 1500)]
    sheaf = together(briefs)
    assert (sheaf is not None) is (name in AS_THEY_ARE)
    if sheaf is not None and "column" not in name:
        assert sheaf == rows_as_one(rows, briefs)


def test_one_that_waited_before_it_was_asked_is_for_the_way_of_all() -> None:
    kind, _ = learnt()
    assert together([brief(kind, 7), brief(kind, 8, started_ms=2)]) is None


def test_kinds_whose_rows_are_alike_go_together_and_others_do_not() -> None:
    kind, rows = learnt()
    same = Kind(kind.plan)
    rows.row_of(brief(same, 1), unreadable)
    briefs = [brief(kind, 7), brief(same, 8), brief(kind, 9)]
    assert together(briefs) == rows_as_one(rows, briefs)
    other, _ = learnt()
    assert together([brief(kind, 7), brief(other, 8)]) is None


@pytest.mark.parametrize("at", [0, 1])
def test_what_is_no_brief_or_of_a_kind_to_be_learnt_is_for_the_way_of_all(at: int) -> None:
    kind, _ = learnt()
    strangers: list[Any] = [decision(), brief(Kind(kind.plan), 8), brief(kind, 8, at_ms=NOON - 86_400_000)]
    for stranger in strangers:
        briefs = [brief(kind, 7), brief(kind, 9)]
        briefs.insert(at, stranger)
        assert together(briefs) is None
    assert together([]) is None
