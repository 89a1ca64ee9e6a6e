"""Budgets: how much a key or a project may spend in a period, reserved before a call and settled after it.

Money is integer nano-USD. What is settled counts for the UTC day on which its request began, so that a sum over the
ledger by that day gives the same number, whenever it is made.
"""

from __future__ import annotations

from typing import Literal

from attrs import field, validators

from proxy.accounts.periods import DAY_MS, NEVER, Period, period_of
from proxy.record import define, frozen

NANOS = 1_000_000_000  # of a USD
STEP = 100  # per mille: beyond the first, an alert at every tenth of the limit


@frozen(kw_only=True)
class BudgetTerms:
    """`alert` is per mille of the limit, None for no alerts."""

    limit_nanos: int = field(validator=validators.ge(0))
    period: Period = "none"
    alert: int | None = None
    unpriced: Literal["refuse", "allow"] = "refuse"

    @property
    def bands(self) -> tuple[tuple[int, int], ...]:
        """Where alerts are due, as per mille of the limit and as nano-USD: at `alert`, at every tenth of the limit
        above it, and at the limit."""
        if self.alert is None:
            return ()
        marks = [self.alert, *(mark for mark in range(STEP, 1001, STEP) if mark > self.alert)]
        return tuple((mark, -(-self.limit_nanos * mark // 1000)) for mark in marks)


@frozen
class Alert:
    """Somebody's spend has passed a band."""

    account: str
    mark: int  # per mille of the limit
    spent_nanos: int
    limit_nanos: int
    period: Period
    period_start_ms: int


NO_ALERTS: tuple[Alert, ...] = ()


@define(eq=False)
class Account:
    """What one key or project has spent, and what calls under way may yet spend.

    `days` is the spend by day since 1970, as far back as the period needs it. `leases` are reservations of a process
    that died: they count as spent until their time, since the provider may have billed them.
    """

    name: str
    terms: BudgetTerms | None = None
    days: dict[int, int] = field(factory=dict)
    leases: list[tuple[int, int]] = field(factory=list)  # until when, how much; the first to end first
    reserved: int = 0
    spent: int = 0  # in the period, which lasts from `start_ms` up to `end_ms`
    start_ms: int = 0
    end_ms: int = 0
    _bands: tuple[tuple[int, int], ...] = ()
    _told: int = 0  # bands passed
    _next: int = NEVER  # nano-USD at which the next alert is due

    def tune(self, terms: BudgetTerms | None, now_ms: int) -> None:
        """Takes these terms from now on. Bands that new terms put below what is spent are due once more."""
        if terms == self.terms and self.end_ms:
            return
        first = not self.end_ms
        self.terms = terms
        self._bands = terms.bands if terms is not None else ()
        self._begin(now_ms)
        if not first:
            self._tell_from(0)

    def lease(self, until_ms: int, nanos: int) -> None:
        self.leases.append((until_ms, nanos))
        self.leases.sort()
        self.reserved += nanos

    def turn(self, now_ms: int) -> None:
        """Takes up the period that the clock points to, and lets leases go that are over. A clock that was ahead, and
        is set back, comes back to a period with all that was spent in it."""
        if not self.start_ms <= now_ms < self.end_ms:
            self._begin(now_ms)
        leases = self.leases
        while leases and leases[0][0] <= now_ms:
            self.reserved -= leases.pop(0)[1]

    def has_room(self, nanos: int, now_ms: int) -> bool:
        """`turn` and `holds`."""
        if self.leases or not self.start_ms <= now_ms < self.end_ms:
            self.turn(now_ms)
        if (terms := self.terms) is None:
            return True
        limit, spent = terms.limit_nanos, self.spent
        return spent < limit and spent + self.reserved + nanos <= limit

    def holds(self, nanos: int) -> bool:
        """Whether so much may be reserved now."""
        terms = self.terms
        return terms is None or (
            self.spent < terms.limit_nanos and self.spent + self.reserved + nanos <= terms.limit_nanos
        )

    def used(self, now_ms: int) -> float:
        """The share of its budget that is spent or reserved."""
        self.turn(now_ms)
        limit = self.terms.limit_nanos if self.terms is not None else 0
        return (self.spent + self.reserved) / limit if limit else 1.0

    def settle(self, reserved: int, charged: int, at_ms: int) -> tuple[Alert, ...]:
        """Puts what a request was charged in the place of what it had reserved; `at_ms` is when it began."""
        self.reserved -= reserved
        if not charged:
            return NO_ALERTS
        day, days = at_ms // DAY_MS, self.days
        days[day] = days.get(day, 0) + charged
        if not self.start_ms <= at_ms < self.end_ms:
            return NO_ALERTS  # it began in another period, and is that one's
        self.spent += charged
        return self._due() if self.spent >= self._next else NO_ALERTS

    def _begin(self, now_ms: int) -> None:
        first, after = period_of(self.terms.period if self.terms is not None else "none", now_ms)
        self.start_ms, self.end_ms = first * DAY_MS, after * DAY_MS
        self.spent = sum(nanos for day, nanos in self.days.items() if first <= day < after)
        self._tell_from(sum(self.spent >= nanos for _, nanos in self._bands))

    def _tell_from(self, band: int) -> None:
        self._told = band
        self._next = self._bands[band][1] if band < len(self._bands) else NEVER

    def _due(self) -> tuple[Alert, ...]:
        assert self.terms is not None
        due = []
        while self._told < len(self._bands) and self.spent >= self._bands[self._told][1]:
            mark = self._bands[self._told][0]
            due.append(Alert(self.name, mark, self.spent, self.terms.limit_nanos, self.terms.period, self.start_ms))
            self._tell_from(self._told + 1)
        return tuple(due)


def usd(nanos: int) -> str:
    """A plain decimal, as headers and messages have it."""
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    return f"{sign}{nanos // NANOS}.{nanos % NANOS:09d}".rstrip("0").rstrip(".")
