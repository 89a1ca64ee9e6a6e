"""Calls of several keys of one project in any order: they come, reserve, try again, grow, fail, are left and settled
while time passes, the clock is set and the table changes. A model of the books that knows nothing but sums says who is
let through."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import fuzz
import pytest
from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.accounts.books import Books, Standing, Terms
from proxy.accounts.budget import Account, Alert, BudgetTerms
from proxy.accounts.keys import Key
from proxy.accounts.limits import LimitTerms, Meter
from proxy.accounts.periods import DAY_MS, PERIODS, period_of
from proxy.accounts.permit import Permit
from proxy.errors import BudgetSpent, LimitReached

START_MS = 1_764_000_000_000  # Monday, 2025-11-24T16:00:00Z
KEYS = ("a" * 12, "b" * 12)
PROJECT = "project:x"

budgets = st.one_of(
    st.none(),
    st.builds(
        BudgetTerms,
        limit_nanos=st.integers(0, 150),
        period=st.sampled_from(PERIODS),
        alert=st.sampled_from([None, 300, 950]),
    ),
)
limits = st.builds(
    LimitTerms,
    rpm=st.none() | st.integers(1, 6),
    tpm=st.none() | st.integers(1, 60),
    parallel=st.none() | st.integers(1, 4),
)


@define(eq=False)
class Call:
    """One that was let in, as the model has it."""

    permit: Permit
    at_ms: int
    reading: int = 0
    writing: int = 0
    nanos: int = 0
    took: bool = False  # its tokens
    model: bool = False  # holds a place at the model that is limited


@define
class Used:
    """What went through a meter: seconds since the start, and how much."""

    requests: list[int] = field(factory=list)
    tokens: list[tuple[int, int]] = field(factory=list)


def fitted(reading: int, writing: int, meters: Iterable[Meter]) -> int:
    """Of what may be written no more than the least of the limits holds."""
    return reading + min([writing, *(max(0, it.terms.tpm - reading) for it in meters if it.terms.tpm is not None)])


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.books, self.now, self.ahead = Books(), 0, 0  # seconds; `ahead` is the clock on the wall
        self.calls: list[Call] = []
        self.charges: list[tuple[str, int, int]] = []  # what a ledger would say: account, day, nano-USD
        self.used: dict[str, Used] = {}
        self.told: dict[tuple[str, int], list[int]] = {}  # bands by account and period

    @property
    def now_ms(self) -> int:
        return START_MS + (self.now + self.ahead) * 1000

    @initialize(of_keys=st.tuples(budgets, budgets), of_project=budgets, each=st.tuples(limits, limits, limits, limits))
    def open(
        self,
        of_keys: tuple[BudgetTerms | None, BudgetTerms | None],
        of_project: BudgetTerms | None,
        each: tuple[LimitTerms, LimitTerms, LimitTerms, LimitTerms],
    ) -> None:
        self.budgets, self.project = list(of_keys), of_project
        self.limits, self.shared = each[:2], each[2]
        self.model = Meter("model:m", each[3])
        self._stand()

    def _stand(self) -> None:
        """As a gate does for a new table."""
        self.standings: list[Standing] = [
            self.books.standing(
                Key(id, "", "neu", b"", "", 0, project="x", budget=budget, limits=terms),
                Terms(self.project, self.shared),
                self.now_ms,
            )
            for id, budget, terms in zip(KEYS, self.budgets, self.limits, strict=True)
        ]

    # -- what a call does ------------------------------------------------------------------------------------

    def _room(self, meter: Meter) -> bool:
        used = self.used.setdefault(meter.name, Used())
        terms, running = meter.terms, sum(meter in self._meters(call) for call in self.calls)
        lately = sum(moment > self.now - 60 for moment in used.requests)
        return (terms.parallel is None or running < terms.parallel) and (terms.rpm is None or lately < terms.rpm)

    def _holds(self, meter: Meter, amount: int) -> bool:
        if meter.terms.tpm is None:
            return True
        used = self.used.setdefault(meter.name, Used())
        lately = sum(tokens for moment, tokens in used.tokens if moment > self.now - 60)
        return lately + self._taken(meter) + amount <= meter.terms.tpm

    def _taken(self, meter: Meter) -> int:
        """Reserved by calls that run: of what they may write no more than a limit of theirs holds."""
        return sum(self._tokens(call, meter) for call in self.calls if meter in self._meters(call) and call.took)

    def _tokens(self, call: Call, meter: Meter) -> int:
        return fitted(call.reading, call.writing, (meter,) if meter is self.model else call.permit.standing.meters)

    def _meters(self, call: Call) -> tuple[Meter, ...]:
        return (*call.permit.standing.meters, self.model) if call.model else call.permit.standing.meters

    def _accounts(self, call: Call) -> tuple[Account, ...]:
        return call.permit.standing.accounts

    @rule(number=st.integers(0, 1))
    def come(self, number: int) -> None:
        standing = self.standings[number]
        permit = Permit(standing, self.now_ms)
        if all(map(self._room, standing.meters)):
            permit.enter(float(self.now))
            for meter in standing.meters:
                self.used.setdefault(meter.name, Used()).requests.append(self.now)
            self.calls.append(Call(permit, self.now_ms))
        else:
            with pytest.raises(LimitReached):
                permit.enter(float(self.now))

    def _pick(self, number: int) -> Call:
        return self.calls[number % len(self.calls)]

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 9), reading=st.integers(0, 30), writing=st.integers(0, 30))
    def read(self, number: int, reading: int, writing: int) -> None:
        call = self._pick(number)
        if call.took:
            return
        meters = call.permit.standing.meters
        amount = fitted(reading, writing, meters)
        if all(self._holds(meter, amount) for meter in meters):
            call.permit.take_tokens(reading, writing, float(self.now))
            call.reading, call.writing, call.took = reading, writing, True
        else:
            with pytest.raises(LimitReached):
                call.permit.take_tokens(reading, writing, float(self.now))
            self._settle(call, 0, 0)

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 9), limited=st.booleans())
    def choose(self, number: int, limited: bool) -> None:
        """The next candidate: its model has limits of its own, or not."""
        call = self._pick(number)
        if not call.took:
            return
        was, call.model = call.model, False
        if was and not limited:
            call.permit.choose(None, float(self.now))
        elif was or not limited:
            call.model = was
            call.permit.choose(self.model if limited else None, float(self.now))
        elif self._room(self.model) and self._holds(self.model, self._tokens(call, self.model)):
            call.permit.choose(self.model, float(self.now))
            call.model = True
            self.used.setdefault(self.model.name, Used()).requests.append(self.now)
        else:
            with pytest.raises(LimitReached):
                call.permit.choose(self.model, float(self.now))

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 9), nanos=st.integers(0, 80))
    def reserve(self, number: int, nanos: int) -> None:
        """Of the first attempt, and of a later one: what is reserved never shrinks before the end."""
        call = self._pick(number)
        more = nanos - call.nanos
        fits = all(self._fits(account, max(more, 0)) for account in self._accounts(call))
        if fits or (more <= 0 and call.nanos):
            assert call.permit.cover(nanos, self.now_ms) == (more > 0)
            call.nanos = max(call.nanos, nanos)
            if more > 0:
                for account in self._accounts(call):
                    terms = account.terms
                    assert terms is None or self._spent(account) + self._reserved(account) <= terms.limit_nanos
        else:
            with pytest.raises(BudgetSpent):
                call.permit.cover(nanos, self.now_ms)

    def _fits(self, account: Account, more: int) -> bool:
        terms = account.terms
        if terms is None:
            return True
        spent = self._spent(account, self.now_ms)
        return spent < terms.limit_nanos and spent + self._reserved(account) + more <= terms.limit_nanos

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 9), more=st.integers(0, 40))
    def grow(self, number: int, more: int) -> None:
        """A stream writes more than it reserved, and is finished."""
        call = self._pick(number)
        call.permit.top_up(call.nanos + more)
        call.nanos += more

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 9), charged=st.integers(0, 80), tokens=st.integers(0, 40))
    def end(self, number: int, charged: int, tokens: int) -> None:
        self._settle(self._pick(number), charged, tokens)

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 9))
    def fail(self, number: int) -> None:
        """Or is left: nothing is known of what it used."""
        self._settle(self._pick(number), 0, 0)

    def _settle(self, call: Call, charged: int, tokens: int) -> None:
        meters = self._meters(call)
        self.calls.remove(call)
        alerts = call.permit.settle(charged, tokens, float(self.now))
        for meter in meters:
            self.used.setdefault(meter.name, Used()).tokens.append((self.now, tokens))
        for account in self._accounts(call):
            self.charges.append((account.name, call.at_ms // DAY_MS, charged))
            self._hear(account, [alert for alert in alerts if alert.account == account.name])
        assert call.permit.settle(99, 99, float(self.now)) == ()  # once

    def _hear(self, account: Account, alerts: list[Alert]) -> None:
        for alert in alerts:
            told = self.told.setdefault((account.name, alert.period_start_ms), [])
            told.append(alert.mark)
            assert told == sorted(set(told)), "each band once, and in their order"

    # -- what happens around it ------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0, 1, 30, 60, 61, 3600, 86_400]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self._turn()

    @rule(days=st.sampled_from([-40, -1, 0, 1, 40]))
    def set_clock(self, days: int) -> None:
        """It was wrong, or is from now on; what had been spent in a period that it comes back to is spent."""
        self.ahead = days * 86_400
        self._turn()

    def _turn(self) -> None:
        for account in self.books.accounts.values():
            account.turn(self.now_ms)

    @rule(number=st.integers(0, 2), terms=budgets)
    def reload(self, number: int, terms: BudgetTerms | None) -> None:
        """Other budgets, in force at once, for calls under way as well."""
        names = [f"key:{KEYS[0]}", f"key:{KEYS[1]}", PROJECT]
        before = self.project if number == 2 else self.budgets[number]
        if number == 2:
            self.project = terms
        elif terms is None:
            return  # a key's budget does not go
        else:
            self.budgets[number] = terms
        self._stand()
        if before != terms:
            self.told = {key: told for key, told in self.told.items() if key[0] != names[number]}

    # -- what holds ------------------------------------------------------------------------------------------

    def _spent(self, account: Account, now_ms: int | None = None) -> int:
        period = account.terms.period if account.terms is not None else "none"
        first, after = period_of(period, account.start_ms if now_ms is None else now_ms)
        return sum(nanos for name, day, nanos in self.charges if name == account.name and first <= day < after)

    def _reserved(self, account: Account) -> int:
        return sum(call.nanos for call in self.calls if account in self._accounts(call))

    @invariant()
    def nothing_is_lost(self) -> None:
        for account in self.books.accounts.values():
            assert account.reserved == self._reserved(account)
            assert account.spent == self._spent(account)
        meters = [*self.books.meters.values(), *([self.model] if hasattr(self, "model") else [])]
        for meter in meters:
            mine = [call for call in self.calls if meter in self._meters(call)]
            assert (meter.running, meter.reserved) == (len(mine), self._taken(meter))
            assert meter.terms.parallel is None or meter.running <= meter.terms.parallel

    def teardown(self) -> None:
        for call in list(self.calls):
            with suppress(LimitReached):
                self._settle(call, 0, 0)
        self.nothing_is_lost()
        assert not any(account.reserved for account in self.books.accounts.values())


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(deadline=None, max_examples=fuzz.examples(150), stateful_step_count=60)
