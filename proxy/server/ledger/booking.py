"""What is kept beside the rows and in their transaction: sums of spend, last use of keys, forms, marks.

A trigger for each of these costs more than the row that sets it off, so the writer puts its rows into a table that has
none, and what they bring is written once for a batch. Anybody else puts rows into the view `decisions`, where a trigger
does the same: see `migrations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeVar

from attrs import field

from proxy.record import define
from proxy.server.ledger.building import Alike, Into, Row
from proxy.server.ledger.insert import SIZES, File, insert, statement
from proxy.server.ledger.rows import BLOCK_BITS, Value, integer
from proxy.server.ledger.sheaf import Sheaf

T = TypeVar("T")

MOST_FORMS = MOST_KEYS = MOST_BLOCKS = 4096
MOST_MARKS = 1 << 14
USED_MS = 1_000  # a use of a key so soon after the last one that was written is not: it would be a page of every batch
SPEND = Into(
    "spend",
    ("account", "day", "nanos"),
    conflict=" ON CONFLICT (account, day) DO UPDATE SET nanos = nanos + excluded.nanos",
)
FORMS = Into("plan_forms", ("id", "day", "form"), "INSERT OR IGNORE")
MARKS = Into("marks", ("kind", "value", "block"), "INSERT OR IGNORE")


@define
class Bookings:
    """Remembers of the file what saves asking it. The writer thread's own."""

    _forms: set[int] = field(factory=set)
    _used: dict[str, int] = field(factory=dict)  # by key: the last use that is in the file, about
    _marked: set[tuple[Alike, int]] = field(factory=set)  # blocks that are marked for all that these rows have
    _marks: set[tuple[str, Value, int]] = field(factory=set)

    def book(self, file: File, rows: Sequence[Row]) -> None:
        """Rows that the file did not have."""
        sums: dict[Alike, list[int]] = {}
        unmarked: set[tuple[Alike, int]] = set()
        for row in rows:
            alike, at_ms = row.alike, row.at_ms
            if (some := sums.get(alike)) is None:
                sums[alike] = some = [0, at_ms]
            some[0] += row.charged_nanos
            if at_ms > some[1]:
                some[1] = at_ms
            unmarked.add((alike, at_ms >> BLOCK_BITS))
        self._book(file, sums, unmarked)

    def book_sheaf(self, file: File, sheaf: Sheaf) -> None:
        """The same, where they mostly bring nothing new but what they were charged."""
        alike, charged = sheaf.alike, sheaf.charged_nanos
        key, form, accounts, marked = alike.key_id, alike.form, alike.accounts, self._marked
        plain = form is None or form[0] in self._forms
        if key is not None and sheaf.last_ms >= self._used.get(key, 0) + USED_MS:
            plain = False
        for block in sheaf.blocks:
            if (alike, block) not in marked:
                plain = False
        if not plain:
            self._book(file, {alike: (charged, sheaf.last_ms)}, {(alike, block) for block in sheaf.blocks})
        elif charged and accounts:
            spent: list[Value] = []
            nanos = integer(charged)
            for account in accounts:
                spent += (*account, nanos)
            file.execute(statement(SPEND, len(accounts)), spent)

    def _book(self, file: File, sums: Mapping[Alike, Sequence[int]], unmarked: set[tuple[Alike, int]]) -> None:
        """`sums` are what was charged, and the last use."""
        spent: dict[tuple[str, int], int] = {}
        used: dict[str, int] = {}
        forms: dict[int, tuple[int, int, str]] = {}
        for alike, (charged, last_ms) in sums.items():
            if charged:
                for account in alike.accounts:
                    spent[account] = spent.get(account, 0) + charged
            if (key := alike.key_id) is not None and last_ms >= self._used.get(key, 0) + USED_MS:
                used[key] = max(last_ms, used.get(key, 0))
            if (form := alike.form) is not None and form[0] not in self._forms:
                forms[form[0]] = form
        insert(file, SPEND, [(*account, integer(nanos)) for account, nanos in spent.items()])
        if used:
            _use_keys(file, used)
            if len(self._used) >= MOST_KEYS:
                self._used.clear()
            self._used |= used
        if forms:
            insert(file, FORMS, forms.values())
            _keep(self._forms, forms, MOST_FORMS)
        unmarked -= self._marked
        if unmarked:
            self._mark(file, unmarked)

    def _mark(self, file: File, blocks: Set[tuple[Alike, int]]) -> None:
        marks = {(*mark, integer(block)) for alike, block in blocks for mark in alike.marks} - self._marks
        insert(file, MARKS, marks)
        _keep(self._marks, marks, MOST_MARKS)
        _keep(self._marked, blocks, MOST_BLOCKS)

    def doubt(self) -> None:
        """The transaction failed, or the file is another."""
        self._forms.clear()
        self._used.clear()
        self._marked.clear()
        self._marks.clear()


def _keep(known: set[T], more: Iterable[T], most: int) -> None:
    if len(known) >= most:
        known.clear()
    known.update(more)


def _use_keys(file: File, used: Mapping[str, int]) -> None:
    pairs = list(used.items())
    for at in range(0, len(pairs), SIZES[0]):
        part = pairs[at : at + SIZES[0]]
        file.execute(
            "UPDATE keys SET last_used_ms = max(coalesce(last_used_ms, 0), fresh.column2)"  # noqa: S608
            f" FROM (VALUES {', '.join(['(?, ?)'] * len(part))}) AS fresh WHERE keys.id = fresh.column1",
            [value for pair in part for value in pair],
        )
