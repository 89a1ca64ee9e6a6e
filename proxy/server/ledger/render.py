"""Rows as a table of plain text: decisions for `pointsman decisions`, and whatever else has columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from proxy.record import frozen

GAP = "  "
UNKNOWN = "-"
ELLIPSIS = "…"


@frozen
class Column:
    """`least` is how narrow it may get, None for a column that is never cut; `rank` who leaves first in too narrow a
    terminal: the highest, and 0 never."""

    title: str
    cell: Callable[[Mapping[str, Any]], str]
    least: int | None = None
    rank: int = 0
    right: bool = False


def render_table(rows: Iterable[Mapping[str, Any]], width: int, columns: Sequence[Column] | None = None) -> str:
    """One line each under a line of titles, aligned, no line above `width` cells if it can be. Without `columns` they
    are the rows of a `Page`.

    Names are cut with an ellipsis first, then columns leave; time, status, outcome and cost always stay.
    """
    rows = list(rows)
    table = [(column, [clean(column.cell(row)) for row in rows]) for column in columns or COLUMNS]
    widths = [max(map(_cells, (column.title, *cells))) for column, cells in table]
    while _total(widths) > width:
        if (index := _widest(table, widths)) is not None:
            widths[index] -= 1
        elif (index := _dispensable(table)) is not None:
            del table[index], widths[index]
        else:
            break
    lines = zip(*([column.title, *cells] for column, cells in table), strict=True)
    rights = [column.right for column, _ in table]
    return "".join(GAP.join(map(_fit, line, widths, rights)).rstrip() + "\n" for line in lines)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _widest(table: Sequence[tuple[Column, list[str]]], widths: Sequence[int]) -> int | None:
    """The column with most to give."""
    spare = {
        index: widths[index] - column.least
        for index, (column, _) in enumerate(table)
        if column.least is not None and widths[index] > column.least
    }
    return max(spare, key=spare.__getitem__, default=None)


def _dispensable(table: Sequence[tuple[Column, list[str]]]) -> int | None:
    ranks = {index: column.rank for index, (column, _) in enumerate(table) if column.rank}
    return max(ranks, key=ranks.__getitem__, default=None)


def clean(cell: str) -> str:
    """A model's name is a client's text: its control characters must not reach the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cell)


def _cells(cell: str) -> int:
    return len(cell) if cell.isascii() else sum(map(_cell, cell))


def _cell(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fit(cell: str, width: int, right: bool) -> str:
    if _cells(cell) > width:
        kept = 0
        for end, char in enumerate(cell):
            kept += _cell(char)
            if kept > width - 1:
                cell = cell[:end] + ELLIPSIS
                break
    padding = " " * (width - _cells(cell))
    return padding + cell if right else cell + padding


# -- cells -------------------------------------------------------------------------------------------------------


def _time(row: Mapping[str, Any]) -> str:
    try:
        return datetime.fromtimestamp(row["at_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # a clock that was far off
        return str(row["at_ms"])


def _tokens_in(row: Mapping[str, Any]) -> str:
    """All that was read, cached or not."""
    usage = row["usage"] or {}
    if usage.get("input") is None:
        return UNKNOWN
    return str(sum(usage[name] or 0 for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h")))


def _tokens_out(row: Mapping[str, Any]) -> str:
    output = (row["usage"] or {}).get("output")
    return UNKNOWN if output is None else str(output)


def _cost(row: Mapping[str, Any]) -> str:
    """USD to the microdollar, rounded half up; "~" marks what was charged by estimate where the cost is unknown."""
    match row["cost_nanos"], row["estimated"]:
        case None, False:
            return UNKNOWN
        case None, _:
            mark, nanos = "~", row["charged_nanos"]
        case nanos, _:
            mark = ""
    micros = (nanos + 500) // 1000
    return f"{mark}{micros // 1_000_000}.{micros % 1_000_000:06d}"


def _plain(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: UNKNOWN if row[name] is None else str(row[name])


COLUMNS = (
    Column("time", _time),
    Column("id", _plain("request_id"), rank=3),  # whole, to be asked for by it, or not at all
    Column("surface", _plain("surface"), least=4, rank=4),
    Column("requested", _plain("requested"), least=10, rank=1),
    Column("model", _plain("model"), least=10, rank=2),
    Column("status", _plain("status"), right=True),
    Column("outcome", _plain("outcome"), least=8),
    Column("tries", _plain("attempt_count"), rank=5, right=True),
    Column("in", _tokens_in, rank=6, right=True),
    Column("out", _tokens_out, rank=6, right=True),
    Column("usd", _cost, right=True),
    Column("ms", _plain("duration_ms"), rank=7, right=True),
)
