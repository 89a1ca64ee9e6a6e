"""Past decisions, page by page from the ledger, planned again against another table. Nobody is called."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import field

from proxy.catalog import Listed, PriceBook
from proxy.errors import GatewayError
from proxy.record import define
from proxy.routing.models import Discovered, Models
from proxy.routing.plan import Plan, resolve
from proxy.routing.recorded import Unreplayable, dice_again, facts_from_record
from proxy.routing.table import Table
from proxy.routing.whatif import Move, Report, Unmeasured, compare
from proxy.routing.world import World
from proxy.server.ledger.query import Decisions, Filter

PAGE = 500  # rows in memory at a time, each with its plan
WORLDS = 64  # kept, by what was discovered in them

Row = Mapping[str, Any]


@define
class Replay:
    """One table against the ledger. `present` is the catalog in force, for models that the table does not name. `run`
    blocks; it raises what `Decisions.page` raises."""

    decisions: Decisions
    table: Table
    book: PriceBook
    present: Models | None = None
    _times: Unmeasured = field(factory=Unmeasured)
    _worlds: dict[frozenset[Discovered], World] = field(factory=dict)

    def run(self, filters: Filter, limit: int | None, told: Callable[[int], None]) -> Report:
        """The newest `limit` decisions, or all that the filters leave. `told` hears after each page how many rows are
        done."""
        report = Report()
        for done, row in enumerate(self._rows(filters, limit), 1):
            try:
                report.add(self.move(row))
            except Unreplayable as exc:
                report.skip(str(exc))
            if done % PAGE == 0:
                told(done)
        return report

    def _rows(self, filters: Filter, limit: int | None) -> Iterator[Row]:
        before, left = None, limit
        while left is None or left > 0:
            page = self.decisions.page(filters, PAGE if left is None else min(PAGE, left), before, plans=True)
            yield from page.rows
            before = page.next
            if before is None:
                return
            left = None if left is None else left - len(page.rows)

    def move(self, row: Row) -> Move:
        """Raises Unreplayable."""
        facts = facts_from_record(row)
        world = self._world(row)
        self._times.asked = False
        outcome: Plan | GatewayError
        try:
            outcome = resolve(facts, world, dice_again(row, random.Random(row["request_id"]).random), 0.0)
        except GatewayError as error:  # the entry is malformed for a table that does not know it as a name
            outcome = error
        return compare(row, facts, outcome, world, self.present)

    def _world(self, row: Row) -> World:
        """With the models that their provider had listed by itself then: no table names them."""
        found = frozenset(
            _discovered(candidate["provider"], candidate["native"])
            for candidate in row["plan"]["candidates"]
            if self._discovers(candidate["provider"])
        )
        world = self._worlds.get(found)
        if world is None:
            if len(self._worlds) >= WORLDS:
                self._worlds.clear()
            world = World(self.table, Models.build(self.table, self.book, found), latencies=self._times)
            self._worlds[found] = world
        return world

    def _discovers(self, name: str) -> bool:
        provider = self.table.providers.get(name)
        return provider is not None and provider.discover is not None


def _discovered(provider: str, native: str) -> Discovered:
    """Ollama's `:latest` is asked for without it."""
    short = native.removesuffix(":latest")
    return Discovered(provider, Listed(native, also=(short,) if short != native else ()))
