from __future__ import annotations

from contextlib import nullcontext, suppress
from datetime import UTC, datetime

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.books import Books, Standing, Terms
from proxy.accounts.budget import Account, BudgetTerms, usd
from proxy.accounts.keys import Key
from proxy.accounts.limits import LimitTerms
from proxy.accounts.periods import DAY_MS, PERIODS, Period, period_of
from proxy.accounts.permit import Permit
from proxy.errors import BudgetSpent, LimitReached

NOW = 1_764_000_000_000  # Monday, 2025-11-24T16:00:00Z


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


# -- periods -----------------------------------------------------------------------------------------------------

EDGES: dict[str, tuple[Period, str, str, str]] = {  # period, moment, first day, first day after
    "a day begins at its midnight": ("daily", "2025-11-24T00:00:00", "2025-11-24", "2025-11-25"),
    "a day lasts to its last millisecond": ("daily", "2025-11-24T23:59:59.999", "2025-11-24", "2025-11-25"),
    "a week begins on Monday": ("weekly", "2025-11-24T00:00:00", "2025-11-24", "2025-12-01"),
    "a week lasts through Sunday": ("weekly", "2025-11-30T23:59:59.999", "2025-11-24", "2025-12-01"),
    "a week may lie in two years": ("weekly", "2026-01-01T12:00:00", "2025-12-29", "2026-01-05"),
    "a month begins on its first": ("monthly", "2025-12-01T00:00:00", "2025-12-01", "2026-01-01"),
    "a month lasts to its end": ("monthly", "2025-11-30T23:59:59.999", "2025-11-01", "2025-12-01"),
    "February of a leap year": ("monthly", "2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
    "a month of 31 days": ("monthly", "2025-01-31T12:00:00", "2025-01-01", "2025-02-01"),
}


@each(("period", "moment", "first", "after"), EDGES.values(), ids=EDGES)
def test_periods_begin_and_end_at_midnights_in_utc(period: Period, moment: str, first: str, after: str) -> None:
    assert period_of(period, at(moment)) == (at(first) // DAY_MS, at(after) // DAY_MS)


@given(st.sampled_from(PERIODS), st.integers(0, 10**13))
def test_every_moment_lies_in_its_period_and_the_next_begins_where_it_ends(period: Period, now_ms: int) -> None:
    first, after = period_of(period, now_ms)
    assert first * DAY_MS <= now_ms < after * DAY_MS
    assert period_of(period, first * DAY_MS) == (first, after)
    if period != "none":
        assert period_of(period, after * DAY_MS)[0] == after


# -- an account --------------------------------------------------------------------------------------------------


def account(limit: int, period: Period = "none", alert: int | None = None, now: int = NOW) -> Account:
    made = Account("key:a")
    made.tune(BudgetTerms(limit_nanos=limit, period=period, alert=alert), now)
    return made


def test_spend_at_or_above_the_limit_ends_it_even_for_what_costs_nothing() -> None:
    it = account(100)
    assert it.holds(100)
    assert not it.holds(101)
    it.settle(0, 99, NOW)
    assert it.holds(1)
    it.settle(0, 1, NOW)
    assert not it.holds(0)


def test_a_new_period_begins_with_nothing_spent_and_keeps_what_is_under_way() -> None:
    it = account(100, "daily")
    it.reserved = 30
    it.settle(30, 90, NOW)
    it.reserved = 40
    assert not it.holds(1)
    it.turn(NOW + DAY_MS)
    assert (it.spent, it.reserved) == (0, 40)
    assert it.holds(60)
    assert it.settle(40, 50, NOW) == ()  # began yesterday, and is yesterday's
    assert (it.spent, it.reserved) == (0, 0)
    it.settle(0, 7, NOW + DAY_MS)
    assert it.spent == 7


def test_a_clock_that_is_set_back_comes_back_to_what_was_spent() -> None:
    it = account(100, "daily", alert=500)
    assert [alert.mark for alert in it.settle(0, 60, NOW)] == [500, 600]
    it.turn(NOW + DAY_MS)
    assert it.settle(0, 7, NOW + DAY_MS) == ()
    it.turn(NOW)
    assert (it.spent, it.holds(40), it.holds(41)) == (60, True, False)
    assert [alert.mark for alert in it.settle(0, 20, NOW)] == [700, 800]
    assert it.settle(0, 50, NOW + DAY_MS) == ()  # it began while the clock was ahead
    it.turn(NOW + DAY_MS)
    assert it.spent == 57


def test_a_clock_that_was_ahead_leaves_no_budget_open() -> None:
    it = account(100, "monthly", now=at("2100-01-01T00:00:00"))
    it.turn(NOW)
    it.settle(0, 100, NOW)
    assert not it.holds(1)


def test_what_a_dead_process_reserved_counts_until_its_lease_ends() -> None:
    it = account(100)
    it.lease(NOW + 2000, 30)
    it.lease(NOW + 1000, 50)
    assert not it.holds(21)
    it.turn(NOW + 1000)
    assert it.holds(70)
    assert not it.holds(71)
    it.turn(NOW + 2000)
    assert it.reserved == 0


def test_each_band_is_told_once_in_a_period() -> None:
    it = account(1000, "daily", alert=800)
    assert it.terms is not None
    assert it.terms.bands == ((800, 800), (900, 900), (1000, 1000))
    told = [[alert.mark for alert in it.settle(0, nanos, NOW)] for nanos in (799, 1, 50, 50, 99, 5, 500)]
    assert told == [[], [800], [], [900], [], [1000], []]
    it.turn(NOW + DAY_MS)
    assert [alert.mark for alert in it.settle(0, 950, NOW + DAY_MS)] == [800, 900]


def test_bands_begin_where_the_owner_says() -> None:
    marks = {alert: [mark for mark, _ in BudgetTerms(limit_nanos=10, alert=alert).bands] for alert in (500, 850, 1000)}
    assert marks == {500: [500, 600, 700, 800, 900, 1000], 850: [850, 900, 1000], 1000: [1000]}
    assert BudgetTerms(limit_nanos=10).bands == ()


def test_a_start_tells_nothing_that_was_told_before() -> None:
    books = Books()
    books.open("key:a", {NOW // DAY_MS: 850})
    it = books.account("key:a", BudgetTerms(limit_nanos=1000, alert=800), NOW)
    assert it.spent == 850
    assert it.settle(0, 10, NOW) == ()
    assert [alert.mark for alert in it.settle(0, 40, NOW)] == [900]


def test_new_terms_look_at_the_days_that_are_known() -> None:
    books = Books()
    today = NOW // DAY_MS
    books.open("project:x", {today - 40: 5, today - 1: 7, today: 11})
    spends: dict[Period, int] = {"daily": 11, "weekly": 11, "monthly": 18, "none": 23}
    for period, spent in spends.items():
        terms = BudgetTerms(limit_nanos=100, period=period)
        assert books.account("project:x", terms, NOW).spent == spent
    assert books.account("project:x", None, NOW).holds(10**18)


@each(
    ("nanos", "text"),
    [(0, "0"), (1, "0.000000001"), (20_000_000_000, "20"), (1_500_000_000, "1.5"), (-5, "-0.000000005")],
)
def test_money_is_shown_as_a_plain_decimal(nanos: int, text: str) -> None:
    assert usd(nanos) == text


# -- several requests, in any order ------------------------------------------------------------------------------


def key(budget: int | None = None, **limits: int) -> Key:
    terms = None if budget is None else BudgetTerms(limit_nanos=budget)
    return Key("a" * 12, "", "neu", b"", "", 0, project="x", budget=terms, limits=LimitTerms(**limits))


def standing(books: Books, own: int | None, projects: int | None, **limits: int) -> Standing:
    terms = None if projects is None else BudgetTerms(limit_nanos=projects)
    return books.standing(key(own, **limits), Terms(terms, LimitTerms(**limits)), NOW)


def test_a_refusal_says_what_is_spent_and_what_is_allowed() -> None:
    books = Books()
    permit = Permit(standing(books, 2_000_000_000, None), NOW)
    books.accounts["key:aaaaaaaaaaaa"].settle(0, 1_500_000_000, NOW)
    with pytest.raises(BudgetSpent) as refused:
        permit.cover(600_000_000, NOW)
    assert refused.value.message == (
        "The budget of the key aaaaaaaaaaaa is 2 USD, of which 1.5 USD are spent and 0 USD are reserved by requests "
        "under way; this one may cost 0.6 USD."
    )


def test_all_budgets_are_taken_from_or_none() -> None:
    books = Books()
    permit = Permit(standing(books, 100, 50), NOW)
    with pytest.raises(BudgetSpent, match="the project x"):
        permit.cover(60, NOW)
    assert [account.reserved for account in books.accounts.values()] == [0, 0]
    assert permit.cover(50, NOW)
    assert [account.reserved for account in books.accounts.values()] == [50, 50]
    permit.settle(30, 0, 0.0)
    permit.settle(30, 0, 0.0)  # once
    assert [(account.reserved, account.spent) for account in books.accounts.values()] == [(0, 30), (0, 30)]


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "grow", "retry", "settle"]), st.integers(0, 7), st.integers(0, 60), st.integers(0, 60)
    ),
    max_size=60,
)


@given(st.integers(0, 200), st.integers(0, 200), steps)
def test_no_interleaving_overspends_or_loses_a_nano(
    own: int, project: int, script: list[tuple[str, int, int, int]]
) -> None:
    """Requests begin, try again, grow past what they reserved and end, in any order. What is admitted never exceeds a
    limit, and in the end nothing is reserved and the spend is the sum of the charges."""
    books = Books()
    it = standing(books, own, project)
    running: dict[int, Permit] = {}
    charged = 0
    for what, number, amount, cost in script:
        permit = running.get(number)
        match what:
            case "begin" if permit is None:
                running[number] = Permit(it, NOW, entered=True)
                before = [(account.spent, account.reserved) for account in it.accounts]
                fits = all(
                    s < limit and s + r + amount <= limit for (s, r), limit in zip(before, (own, project), strict=True)
                )
                with nullcontext() if fits else pytest.raises(BudgetSpent):
                    running[number].cover(amount, NOW)
                if not fits:
                    assert [(account.spent, account.reserved) for account in it.accounts] == before
            case "retry" if permit is not None:
                with suppress(BudgetSpent):
                    permit.cover(amount, NOW)
            case "grow" if permit is not None:
                permit.top_up(permit.nanos + amount)
            case "settle" if permit is not None:
                permit.settle(cost, 0, 0.0)
                charged += cost
                del running[number]
        for account in it.accounts:
            assert account.reserved == sum(open_.nanos for open_ in running.values())
            assert account.spent == charged
    for permit in running.values():
        permit.settle(0, 0, 0.0)
    assert all(account.reserved == 0 and account.spent == charged for account in it.accounts)


@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 50),
    st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 40), st.floats(0, 20)), max_size=60),
)  # fmt: skip
def test_no_interleaving_passes_more_than_a_limit(
    rpm: int, parallel: int, tpm: int, script: list[tuple[bool, int, int, float]]
) -> None:
    books = Books()
    it = standing(books, None, None, rpm=rpm, parallel=parallel, tpm=tpm)
    running: list[Permit] = []
    entered: list[float] = []
    used: list[tuple[float, int]] = []
    now = 1000.0
    for begins, reading, real, passes in script:
        now += passes
        if begins:
            permit = Permit(it, NOW)
            try:
                permit.enter(now)
            except LimitReached:
                continue
            entered.append(now)
            assert len([moment for moment in entered if moment > now - 60]) <= rpm
            running.append(permit)
            assert len(running) <= parallel
            before = sum(tokens for moment, tokens in used if moment > now - 60)
            try:
                permit.take_tokens(reading, 10, now)
            except LimitReached:
                running.remove(permit)
                permit.settle(0, 0, now)
            else:
                assert before + sum(open_.tokens for open_ in running) <= tpm
        elif running:
            running.pop(0).settle(0, real, now)
            used.append((now, real))
    for permit in running:
        permit.settle(0, 0, now)
    assert all((meter.running, meter.reserved) == (0, 0) for meter in it.meters)
