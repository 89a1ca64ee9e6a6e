from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounts.books import Books, Standing
from proxy.accounts.keys import Key
from proxy.accounts.limits import LimitTerms, Meter, Window
from proxy.accounts.permit import Permit, alights, boards, tightest
from proxy.errors import LimitReached
from proxy.server.ratelimits import A_MINUTE, duration


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 9)), max_size=50))
def test_a_window_holds_what_came_within_a_minute_and_nothing_older_than_61_seconds(
    steps: list[tuple[float, int]],
) -> None:
    window, now, added = Window(), 0.0, list[tuple[float, int]]()
    for passes, amount in steps:
        now += passes
        window.turn(now)
        window.add(amount, now)
        added.append((now, amount))
        least = sum(n for moment, n in added if moment > now - 60)
        most = sum(n for moment, n in added if moment > now - 61)
        assert least <= window.used <= most


def test_a_window_knows_when_there_will_be_room() -> None:
    window = Window()
    window.add(5, 10.5)
    window.add(5, 10.75)  # of one second, which goes as a whole
    window.add(5, 20.0)
    assert window.until(1, 30.0) == window.until(10, 30.0) == 70.75 - 30
    assert window.until(11, 30.0) == 80 - 30
    assert window.until(16, 30.0) is None
    assert window.idle_in(30.0) == 80 - 30
    for now, used in ((70.5, 15), (70.75, 5), (79.5, 5), (80.0, 0)):
        window.turn(now)
        assert window.used == used
    assert window.idle_in(80.0) == 0


def test_a_count_below_zero_goes_as_it_came() -> None:
    window = Window()
    for amount, now in ((-5, 10.0), (7, 20.0), (2, 30.0)):  # a provider may say anything
        window.add(amount, now)
    for now, used in ((69.0, 4), (70.0, 9), (80.0, 2), (90.0, 0)):
        window.turn(now)
        assert window.used == used


@given(st.floats(0, 10**6), st.lists(st.floats(0, 3), max_size=20))
def test_nobody_is_told_to_wait_for_more_than_a_minute_nor_too_short_a_time(began: float, steps: list[float]) -> None:
    meter, now = Meter("key:a", LimitTerms(rpm=3)), began
    for passes in steps:
        now += passes
        if (refusal := meter.refusal(now)) is None:
            meter.enter(now)
            continue
        assert refusal[1] <= 60
        assert deepcopy(meter).refusal(now + refusal[1] + 1e-6) is None


def permit(books: Books, **limits: int) -> Permit:
    return Permit(books.standing(Key("a" * 12, "", "neu", b"", "", 0, limits=LimitTerms(**limits)), None, 0), 0)


@given(
    st.sampled_from([LimitTerms(), LimitTerms(rpm=3), LimitTerms(tpm=30), LimitTerms(rpm=3, tpm=30)]),
    st.lists(st.tuples(st.one_of(st.floats(0, 1), st.floats(0, 70)), st.integers(0, 9)), max_size=20),
    st.one_of(st.sampled_from([0.0, 0.25, 0.5, 59.5, 60.0, 61.0]), st.floats(0, 70)),
)
def test_what_was_used_lately_is_told_as_ever(terms: LimitTerms, steps: list[tuple[float, int]], since: float) -> None:
    meter, now = Meter("project:a", terms), 100.0
    for passes, amount in steps:
        now += passes
        if meter.boards(amount, now):
            meter.leave(amount, amount, now)
    now += since
    lately = meter.lately_left(now)
    if lately is not None:
        assert lately == meter.left(now)
        assert {duration(it.idle_in(now)) for it in (meter.requests, meter.tokens)} == {A_MINUTE}


def test_what_was_used_lately_is_known() -> None:
    meter = Meter("project:a", LimitTerms(rpm=3, tpm=30))
    assert meter.lately_left(0.25) is None
    assert meter.boards(5, 100.0)
    assert meter.lately_left(100.0) is None
    assert meter.tokens.idle_in(0.25) == 0
    meter.leave(5, 4, 101.0)
    assert meter.lately_left(100.5) == meter.left(100.5) == (2, 26)
    assert meter.lately_left(100.75) is None


def test_a_refused_request_is_told_when_to_come_again() -> None:
    books = Books()
    for _ in range(3):
        permit(books, rpm=3).enter(100.0)
    with pytest.raises(LimitReached, match="the key aaaaaaaaaaaa is reached: 3 requests per minute") as refused:
        permit(books, rpm=3).enter(130.0)
    assert refused.value.retry_after == 30
    permit(books, rpm=3).enter(160.0)


def test_requests_at_a_time_count_until_they_end() -> None:
    books = Books()
    first, second = permit(books, parallel=1), permit(books, parallel=1)
    first.enter(0.0)
    with pytest.raises(LimitReached, match="1 requests at a time"):
        second.enter(3600.0)
    first.settle(0, 0, 3600.0)
    second.enter(3600.0)


def test_what_is_left_open_never_keeps_a_request_out_of_an_unused_minute() -> None:
    books = Books()
    it = permit(books, tpm=100)
    it.enter(0.0)
    it.take_tokens(30, 4096, 0.0)
    assert it.tokens == 100
    with pytest.raises(LimitReached, match="100 tokens per minute"):
        permit(books, tpm=100).take_tokens(1, 0, 1.0)
    it.settle(0, 40, 2.0)
    other = permit(books, tpm=100)
    other.enter(2.0)
    other.take_tokens(60, 0, 2.0)
    with pytest.raises(LimitReached):
        permit(Books(), tpm=100).take_tokens(101, 0, 0.0)


def test_nor_does_it_keep_one_out_of_an_unused_minute_of_a_model() -> None:
    model, it = Meter("model:m", LimitTerms(tpm=100)), permit(Books(), tpm=9000)
    it.enter(0.0)
    it.take_tokens(30, 4096, 0.0)
    it.choose(model, 0.0)
    assert (it.tokens, model.reserved) == (4126, 100)
    it.settle(0, 40, 0.0)
    assert (model.reserved, model.tokens.used) == (0, 40)
    other = Permit()  # without a key, too
    other.take_tokens(60, 0, 0.0)
    other.choose(model, 0.0)
    large = Permit()
    large.take_tokens(101, 0, 100.0)
    with pytest.raises(LimitReached, match="the model m is reached: 100 tokens per minute"):
        large.choose(Meter("model:m", model.terms), 100.0)


def test_the_models_own_limit_is_taken_and_given_back_as_candidates_change() -> None:
    model, it = Meter("model:m", LimitTerms(parallel=1, tpm=10)), permit(Books(), rpm=5)
    it.enter(0.0)
    it.take_tokens(4, 0, 0.0)
    it.choose(model, 0.0)
    it.choose(model, 0.0)  # another try of the same
    assert (model.running, model.reserved) == (1, 4)
    other = Permit()
    with pytest.raises(LimitReached, match="the model m"):
        other.choose(model, 0.0)
    assert other.model is None
    it.choose(None, 0.0)
    assert (model.running, model.reserved) == (0, 0)
    other.choose(model, 0.0)
    other.settle(0, 7, 0.0)  # without a key, too
    assert (model.running, model.tokens.used) == (0, 7)


def test_the_limit_closest_to_its_end_is_the_one_that_is_told() -> None:
    wide, narrow = Meter("key:a", LimitTerms(rpm=100, tpm=50)), Meter("project:x", LimitTerms(rpm=3, tpm=5000))
    assert tightest([wide, narrow], 0.0) == ((3, narrow), (50, wide))
    assert tightest([none := Meter("key:a", LimitTerms(parallel=2))], 0.0) == ((None, none), (None, none))


LEAST = st.none() | st.integers(1, 12)
TERMS = st.builds(LimitTerms, rpm=LEAST, tpm=LEAST, parallel=LEAST)


@given(
    st.lists(TERMS, max_size=2),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9), st.integers(0, 9)), max_size=40),
)
def test_boarding_takes_what_entering_step_by_step_does_or_nothing(
    terms: list[LimitTerms], asks: list[tuple[float, int, int]]
) -> None:
    boarding, entering = ([Meter(f"key:{at}", it) for at, it in enumerate(terms)] for _ in range(2))
    boards_by, enters_by = Standing(meters=tuple(boarding)), Standing(meters=tuple(entering))
    now, under_way = 0.0, list[tuple[int, Permit]]()
    for later, amount, used in asks:
        now += later
        permit, fits = Permit(enters_by), True
        if all(meter.fits(amount, now) for meter in entering):
            permit.enter(now)
            for meter in entering:
                meter.reserved += amount
            permit.tokens = amount
        else:
            fits = False
        assert boards(boards_by, amount, 0, now, 0) is fits
        assert [*map(_used, boarding)] == [*map(_used, entering)]
        if fits:
            under_way.append((amount, permit))
        if under_way and used % 2:
            reserved, ended = under_way.pop(0)
            ended.settle(0, used, now)
            alights(boards_by, reserved, 0, 0, 0, used, now)
            assert [*map(_used, boarding)] == [*map(_used, entering)]


def _used(meter: Meter) -> tuple[object, ...]:
    windows = [(it.used, it.turns_at, [*it._seconds]) for it in (meter.requests, meter.tokens)]
    return meter.running, meter.reserved, windows
