"""Observed times: what is believed, for how long, and how much is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.latency import MOST_NOTED, PRIOR_MS, STALE, TRACKED, WINDOW, Latencies
from proxy.routing.names import Candidate

ONE, TWO = Candidate("m", "p", "m"), Candidate("m", "q", "m")


def expected(times: Latencies, candidate: Candidate, now: float, *, whole: bool = False) -> float:
    (ms,) = times.expected_ms([candidate], now, whole=whole)
    return ms


def test_nothing_is_known_of_who_was_never_asked() -> None:
    times = Latencies()
    assert expected(times, ONE, 0.0) == PRIOR_MS
    assert times.tokens_per_s(ONE) is None
    assert times.get("p", "m") is None


def test_the_newest_observation_weighs_half() -> None:
    times = Latencies()
    for ms, believed in ((100.0, 100.0), (300.0, 200.0), (200.0, 200.0), (1_000.0, 600.0)):
        times.observe(ONE, ms, 1.0)
        assert expected(times, ONE, 1.0) == believed
    assert expected(times, TWO, 1.0) == PRIOR_MS  # the same model elsewhere


def test_the_rate_decays_likewise_and_an_answer_without_one_says_nothing() -> None:
    times = Latencies()
    times.observe(ONE, 100.0, 0.0, 40.0)
    times.observe(ONE, 100.0, 0.0)
    assert times.tokens_per_s(ONE) == 40.0
    times.observe(ONE, 100.0, 0.0, 80.0)
    assert times.tokens_per_s(ONE) == 60.0
    times.observe_rate(ONE, 100.0)
    assert times.tokens_per_s(ONE) == 80.0
    times.observe_rate(TWO, 100.0)
    assert times.tokens_per_s(TWO) is None


def test_an_observation_speaks_for_ten_minutes_and_then_is_forgotten() -> None:
    times = Latencies()
    times.observe(ONE, 5_000.0, 0.0)
    assert expected(times, ONE, STALE) == 5_000.0
    assert expected(times, ONE, STALE + 0.1) == PRIOR_MS
    times.observe(ONE, 100.0, STALE + 1)
    assert expected(times, ONE, STALE + 1) == 100.0


def test_percentiles_of_a_small_window() -> None:
    times = Latencies()
    for ms in range(1, 101):
        times.observe(ONE, float(ms), 0.0)
    seen = times.get("p", "m")
    assert seen is not None
    assert (seen.count, len(seen.recent)) == (100, WINDOW)
    assert (seen.percentile(0.5), seen.percentile(0.95), seen.percentile(1.0)) == (69.0, 97.0, 100.0)


def test_memory_is_bounded_and_the_one_seen_longest_ago_goes() -> None:
    times = Latencies()
    for n in range(TRACKED):
        times.observe(Candidate(str(n), "p", str(n)), 1.0, 0.0)
    times.observe(Candidate("0", "p", "0"), 1.0, 0.0)
    times.observe(ONE, 1.0, 0.0)
    assert times.get("p", "0") is not None
    assert times.get("p", "1") is None
    assert sum(times.get("p", str(n)) is not None for n in range(TRACKED)) == TRACKED - 1


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), min_size=1, max_size=50))
def test_what_is_believed_lies_between_what_was_seen(seen: list[tuple[float, float]]) -> None:
    times, now = Latencies(), 0.0
    for ms, later in seen:
        now += later
        times.observe(ONE, ms, now)
    believed = expected(times, ONE, now)
    low, high = min(ms for ms, _ in seen), max(ms for ms, _ in seen)
    assert low <= believed * (1 + 1e-9)
    assert believed <= high * (1 + 1e-9)
    assert believed == pytest.approx(believed)


def test_streams_and_plain_answers_are_kept_apart_and_stand_in_for_each_other() -> None:
    times = Latencies()
    times.observe(ONE, 5_000.0, 0.0, whole=True)
    assert expected(times, ONE, 0.0) == expected(times, ONE, 0.0, whole=True) == 5_000.0
    times.observe(ONE, 100.0, 1.0)
    assert (expected(times, ONE, 1.0), expected(times, ONE, 1.0, whole=True)) == (100.0, 5_000.0)
    times.observe(ONE, 100.0, STALE)
    assert expected(times, ONE, STALE + 1, whole=True) == 100.0
    seen = times.get("p", "m")
    assert seen is not None
    assert (seen.ttft_ms, times.seen_at(ONE)) == (100.0, STALE)
    times.observe(TWO, 5_000.0, 0.0, whole=True)
    assert times.get("q", "m") is not None
    assert times.seen_at(Candidate("x", "p", "x")) is None


def test_the_third_oldest_wait_is_heard_and_an_answer_ends_its_own() -> None:
    times = Latencies()
    line = times.waits(ONE, "first", 1.0)
    assert times.waits(ONE, "second", 2.0) is line
    assert times.waited_ms(ONE, 10.0) == 0.0
    times.waits(ONE, "third", 3.0)
    times.waits(TWO, "another", 0.0)
    assert times.waited_ms(ONE, 10.0) == 7_000.0
    assert times.waited_ms(TWO, 10.0) == 0.0
    times.waits(ONE, "fourth", 4.0)
    del line["first"]
    assert times.waited_ms(ONE, 10.0) == 6_000.0
    for who in ("second", "third", "fourth"):
        del line[who]
    assert times.waited_ms(ONE, 10.0) == 0.0


def test_lines_are_bounded_and_who_waits_is_in_none_of_those_that_go() -> None:
    times = Latencies()
    line = times.waits(ONE, "first", 1.0)
    for number in range(TRACKED + 1):
        del times.waits(Candidate(f"m{number}", "p", "m"), "another", 1.0)["another"]
    assert len(times._waiting) <= TRACKED
    assert times.waits(ONE, "second", 2.0) is line


@given(
    st.lists(
        st.tuples(st.sampled_from([ONE, TWO]), st.floats(0.0, 5_000.0), st.floats(0.0, 400.0), st.sampled_from("psr")),
        max_size=3 * MOST_NOTED,
    )
)
def test_what_is_noted_is_what_was_observed_when_somebody_asks(
    answers: list[tuple[Candidate, float, float, str]],
) -> None:
    noting, observing, now = Latencies(), Latencies(), 0.0
    for candidate, value, later, what in answers:  # a plain answer's time, a stream's, or its rate
        now += later
        if what == "r":
            noting.notes(candidate, whole=False).add_rate(value)
            observing.observe_rate(candidate, value)
        else:
            noting.notes(candidate, whole=what == "p").add(value, now)
            observing.observe(candidate, value, now, whole=what == "p")
        assert all(len(notes._times) < MOST_NOTED > len(notes._rates) for notes in noting._noted)
    for whole in (True, False):
        assert noting.expected_ms((ONE, TWO), now, whole=whole) == observing.expected_ms((ONE, TWO), now, whole=whole)
    assert [noting.get(it.provider, it.model) for it in (ONE, TWO)] == [
        observing.get(it.provider, it.model) for it in (ONE, TWO)
    ]
    assert [*map(noting.tokens_per_s, (ONE, TWO))] == [*map(observing.tokens_per_s, (ONE, TWO))]
