"""Cooldowns, the probes while all rest, and the budget of retries."""

from __future__ import annotations

from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy import errors
from proxy.errors import GatewayError, UpstreamError
from proxy.routing.health import (
    LEAST_RATE_LIMIT,
    ON_TRIAL,
    PROBES,
    REFUSED_KEY,
    RETRIES_AT_ONCE,
    SHORT,
    TRACKED,
    Health,
)
from proxy.routing.names import Candidate
from proxy.routing.table import HealthLimits, Share

LIMITS = HealthLimits()
BASE, LONGEST, FAILURES = LIMITS.rest, LIMITS.longest, LIMITS.failures
ONE, TWO = Candidate("m", "p", "m"), Candidate("n", "p", "n")


def down(retry_after: float | None = None) -> GatewayError:
    return errors.UpstreamFailed("down", retry_after=retry_after)


def failing(health: Health, *times: float, error: GatewayError | None = None) -> list[str]:
    return [health.failed(ONE, None, error or down(), at) for at in times]


# -- candidates --------------------------------------------------------------------------------------------------


def test_three_failures_in_a_row_cool() -> None:
    health = Health()
    assert failing(health, 10.0, 11.0) == ["", ""]
    assert health.cooling(ONE, 11.0) == 0
    assert health.is_quiet(11.0)
    assert failing(health, 12.0) == ["cooled"]
    assert health.cooling(ONE, 12.0) == BASE
    assert health.cooling(ONE, 41.5) == 0.5
    assert health.cooling(ONE, 42.0) == 0
    assert health.cooling(TWO, 12.0) == 0
    assert not health.is_quiet(41.9)
    assert health.is_quiet(42.0)


def test_a_success_ends_the_count() -> None:
    health = Health()
    failing(health, 1.0, 2.0)
    health.succeeded(ONE, None, 2.0)
    assert failing(health, 3.0, 4.0, 5.0) == ["", "", "cooled"]


@each(
    ("times", "cooled"),
    [
        ((0.0, 30.0, 60.0), True),
        ((0.0, 30.0, 60.1), False),
        ((0.0, 50.0, 70.0, 100.0), True),  # the last three, whenever the first was
        ((0.0, 61.0, 122.0, 183.0), False),
        ((1e9, 1e9 + 1, 1e9 + 2), True),
    ],
)
def test_failures_count_within_a_window_that_moves(times: tuple[float, ...], cooled: bool) -> None:
    assert (failing(Health(), *times)[-1] == "cooled") is cooled


def test_each_further_cooldown_is_twice_as_long_up_to_five_minutes() -> None:
    health, now, lengths = Health(), 0.0, []
    for _ in range(7):
        failing(health, now, now, now)
        lengths.append(health.cooling(ONE, now))
        now += lengths[-1]
    assert lengths == [30.0, 60.0, 120.0, 240.0, LONGEST, LONGEST, LONGEST]
    health.succeeded(ONE, None, now)
    failing(health, now, now, now)
    assert health.cooling(ONE, now) == BASE


def test_after_a_cooldown_one_attempt_at_a_time_is_made_until_one_succeeds() -> None:
    health = Health()
    failing(health, 0.0, 0.0, 0.0)
    assert health.cooling(ONE, 30.0) == 0
    assert health.is_quiet(30.0)
    assert health.on_trial(ONE, 0)
    assert not health.on_trial(TWO, 0)
    trial = health.begin(ONE, None, 30.0)
    assert health.cooling(ONE, 30.0) == ON_TRIAL
    assert not health.is_quiet(30.0)
    assert health.cooling(TWO, 30.0) == 0
    health.end(trial)
    assert health.cooling(ONE, 30.0) == 0
    trial = health.begin(ONE, None, 31.0)
    health.succeeded(ONE, None, 32.0)
    health.end(trial)
    assert health.is_quiet(32.0)
    assert not health.begin(ONE, None, 32.0)
    assert not health.on_trial(ONE, 0)
    assert failing(health, 33.0, 34.0, 35.0) == ["", "", "cooled"]


def test_the_first_failure_after_a_cooldown_makes_the_next_one() -> None:
    health = Health()
    failing(health, 0.0, 0.0, 0.0)
    trial = health.begin(ONE, None, 30.0)
    assert failing(health, 31.0) == ["cooled"]
    health.end(trial)
    assert health.cooling(ONE, 31.0) == 2 * BASE


def test_what_was_under_way_when_a_rest_began_does_not_make_it_longer() -> None:
    health = Health()
    assert failing(health, *[0.0] * 500).count("cooled") == 1
    assert health.cooling(ONE, 0.0) == BASE
    assert health.tripped(ONE, 0.0)
    assert not health.tripped(ONE, BASE)


def alternating(health: Health, attempts: int, now: float = 0.0) -> list[str]:
    told = []
    for number in range(attempts):
        if number % 2:
            health.succeeded(ONE, None, now)
        else:
            told += failing(health, now)
    return told


def test_half_of_many_attempts_failing_cools_and_half_of_few_does_not() -> None:
    assert "cooled" not in alternating(Health(), LIMITS.volume - 2)
    health = Health()
    assert "cooled" in alternating(health, LIMITS.volume + 2)
    health.succeeded(ONE, None, 1.0)  # was under way
    assert health.cooling(ONE, 1.0) == BASE - 1
    trial = health.begin(ONE, None, BASE)
    health.succeeded(ONE, None, BASE)
    health.end(trial)
    assert health.cooling(ONE, BASE) == 0


def test_attempts_of_another_window_do_not_count() -> None:
    health = Health()
    for minute in range(20):
        assert "cooled" not in alternating(health, 4, minute * (LIMITS.window + 1))


def test_the_table_says_how_many_and_how_long() -> None:
    health = Health(HealthLimits(failures=2, share=Share(0.1), volume=5))
    assert failing(health, 0.0, 0.0) == ["", "cooled"]
    health = Health(HealthLimits(failures=100, share=Share(0.1), volume=5))
    assert failing(health, *[0.0] * 5)[-1] == "cooled"


def test_who_is_overloaded_cools_at_once_and_shortly() -> None:
    health = Health()
    assert failing(health, 0.0, error=errors.UpstreamOverloaded("busy")) == ["cooled"]
    assert health.cooling(ONE, 0.0) == SHORT
    failing(health, 5.0, error=errors.UpstreamOverloaded("busy", retry_after=40.0))
    assert health.cooling(ONE, 5.0) == 40.0


def test_who_says_how_long_cools_for_so_long_and_no_longer() -> None:
    health = Health()
    assert failing(health, 0.0, error=down(retry_after=3.0)) == ["cooled"]
    assert health.cooling(ONE, 0.0) == 3.0
    failing(health, 4.0, 5.0, error=down(retry_after=3.0))
    assert health.cooling(ONE, 5.0) == BASE  # the third in a row


def test_a_shorter_cooldown_never_ends_a_longer_one() -> None:
    health = Health()
    failing(health, 0.0, 0.0, 0.0)
    failing(health, 1.0, error=errors.UpstreamOverloaded("busy"))
    assert health.cooling(ONE, 1.0) == 29.0


def test_nobody_cools_for_more_than_a_day() -> None:
    health = Health()
    failing(health, 0.0, error=errors.UpstreamOverloaded("busy", retry_after=1e12))
    assert health.cooling(ONE, 0.0) == 86_400.0


@each(
    "error",
    [
        errors.UpstreamRejected("no"),
        errors.ContextTooLong("no"),
        errors.ContentBlocked("no"),
        errors.UpstreamUnknownModel("no"),
    ],
)
def test_the_client_s_own_faults_cool_nobody(error: UpstreamError) -> None:
    health = Health()
    assert failing(health, *range(20), error=error) == [""] * 20
    assert health.snapshot(20.0) == []


# -- credentials -------------------------------------------------------------------------------------------------


@each(("said", "seconds"), [(None, LEAST_RATE_LIMIT), (0.0, 5.0), (1.0, 5.0), (90.0, 90.0)])
def test_a_limited_key_rests_as_long_as_was_said_and_five_seconds_at_least(said: float | None, seconds: float) -> None:
    health = Health()
    assert health.failed(ONE, 1, errors.UpstreamRateLimited("slow", retry_after=said), 0.0) == "cooled"
    assert health.key_cooling("p", 1, 0.0) == seconds
    assert health.key_cooling("p", 0, 0.0) == health.key_cooling("q", 1, 0.0) == 0
    assert health.cooling(ONE, 0.0) == 0  # the key, not the model


def test_a_refused_key_rests_for_minutes_and_is_tried_by_one_afterwards() -> None:
    health = Health()
    health.failed(ONE, 0, errors.UpstreamRefusedKey("no"), 0.0)
    assert health.key_cooling("p", 0, 0.0) == REFUSED_KEY
    health.begin(ONE, 0, REFUSED_KEY)
    assert health.key_cooling("p", 0, REFUSED_KEY) == ON_TRIAL


def test_a_limited_key_is_everybodys_once_its_time_is_over() -> None:
    health = Health()
    health.failed(ONE, 0, errors.UpstreamRateLimited("slow"), 0.0)
    assert health.begin(ONE, 0, LEAST_RATE_LIMIT) == []


def test_a_success_of_the_model_says_nothing_of_a_key() -> None:
    health = Health()
    health.failed(ONE, 0, errors.UpstreamRateLimited("slow"), 0.0)
    health.succeeded(ONE, None, 0.0)
    assert health.key_cooling("p", 0, 0.0) == LEAST_RATE_LIMIT


def test_without_a_key_it_is_the_candidate_that_rests() -> None:
    health = Health()
    health.failed(ONE, None, errors.UpstreamRateLimited("slow"), 0.0)
    assert health.cooling(ONE, 0.0) == SHORT


# -- probes, retries ---------------------------------------------------------------------------------------------


def test_three_probes_at_a_time() -> None:
    health = Health()
    assert [health.begin_probe() for _ in range(PROBES + 1)] == [True] * PROBES + [False]
    health.end_probe()
    assert health.begin_probe()
    assert not health.begin_probe()


def test_retries_have_a_budget_per_provider() -> None:
    health = Health()
    assert sum(health.may_retry("p") for _ in range(50)) == RETRIES_AT_ONCE
    assert health.may_retry("q")
    for _ in range(9):
        health.asked("p")
    assert not health.may_retry("p")
    for _ in range(2):
        health.asked("p")
    assert health.may_retry("p")
    assert not health.may_retry("p")


@given(st.lists(st.integers(0, 3), max_size=400))
def test_retries_never_add_more_than_a_tenth(wants: list[int]) -> None:
    """Each first try may want retries: what is granted stays within a tenth of the first tries, and the reserve."""
    health, retried = Health(), 0
    for first, want in enumerate(wants, start=1):
        health.asked("p")
        retried += sum(health.may_retry("p") for _ in range(want))
        assert retried <= RETRIES_AT_ONCE + first / 10 + 1e-6


# -- what is told, what is kept ----------------------------------------------------------------------------------


def test_the_snapshot_and_the_metrics_tell_who_rests() -> None:
    health = Health()
    failing(health, 0.0, 0.0, 0.0)
    health.failed(ONE, 2, errors.UpstreamRateLimited("slow", retry_after=7.0), 0.0)
    failing(health, 0.0)
    assert health.snapshot(5.0) == [
        {"what": "p/m", "seconds": 25.0, "reason": "upstream_failed"},
        {"what": "p/key/2", "seconds": 2.0, "reason": "upstream_rate_limited"},
    ]
    assert health.cooldowns(5.0) == {("p", "m", None): 25.0, ("p", None, "2"): 2.0}
    assert health.snapshot(30.0) == []
    assert health.cooldowns(30.0) == {}


def test_memory_is_bounded() -> None:
    health = Health()
    for n in range(TRACKED + 50):
        health.failed(Candidate(str(n), "p", str(n)), None, down(), 0.0)
    assert len(health._states) == TRACKED


def test_a_flood_of_failures_keeps_no_more_than_the_window() -> None:
    health = Health()
    for n in range(10_000):
        health.failed(ONE, None, down(), n * 0.001)
    assert len(health._states["p", "m"].failures) < FAILURES


KINDS = st.sampled_from(
    [
        down(),
        down(4.0),
        errors.UpstreamOverloaded("busy"),
        errors.UpstreamTimeout("late"),
        errors.UpstreamRejected("no"),
        errors.UpstreamRateLimited("slow", retry_after=60.0),
    ]
)


@given(st.lists(st.tuples(st.floats(0, 100), KINDS, st.sampled_from([None, 0, 1]), st.booleans()), max_size=60))
def test_quiet_means_that_nobody_rests(story: list[tuple[float, GatewayError, int | None, bool]]) -> None:
    health, now = Health(), 0.0
    for later, error, key, success in story:
        now += later
        if success:
            health.succeeded(ONE, None, now)
        else:
            health.failed(ONE, key, error, now)
        resting = [health.cooling(ONE, now), health.key_cooling("p", 0, now), health.key_cooling("p", 1, now)]
        assert all(0 <= seconds <= LONGEST for seconds in resting)
        if health.is_quiet(now):
            assert resting == [0, 0, 0]


# -- what probes find --------------------------------------------------------------------------------------------


def test_a_provider_found_down_rests_as_a_whole_until_it_is_found_well() -> None:
    health, other = Health(), Candidate("m", "q", "m")
    health.found_down("p", 60.0, "upstream_unreachable", 100.0)
    assert not health.is_quiet(100.0)
    assert health.cooling(ONE, 110.0) == health.cooling(TWO, 110.0) == 50.0
    assert health.cooling(other, 110.0) == 0
    assert health.tripped(ONE, 110.0)
    assert health.reason(ONE, 0, 110.0) == "upstream_unreachable"
    assert health.cooldowns(110.0) == {("p", None, None): 50.0}
    assert health.snapshot(110.0) == [{"what": "p", "seconds": 50.0, "reason": "upstream_unreachable"}]
    health.found_well("p", 110.0, recovered=True)
    assert health.cooling(ONE, 110.0) == 0
    assert health.cooldowns(110.0) == {}


def test_what_no_probe_says_anew_ends() -> None:
    health = Health()
    health.found_down("p", 60.0, "upstream_timeout", 0.0)
    assert health.cooling(ONE, 60.0) == 0
    assert not health.tripped(ONE, 60.0)
    assert health.is_quiet(60.0)


def test_an_answer_says_more_than_a_probe() -> None:
    health = Health()
    health.found_down("p", 60.0, "upstream_failed", 0.0)
    health.succeeded(TWO, None, 1.0)
    assert health.cooling(ONE, 1.0) == 0


# what a candidate failed for, whether probes failed too; whether a probe that succeeds lets it try again
BACK: dict[str, tuple[GatewayError, bool, bool]] = {
    "nobody was there": (errors.UpstreamUnreachable("no"), False, True),
    "it failed, and probes did": (down(), True, True),
    "it failed, and probes saw nothing": (down(), False, False),
    "it asked to be left alone": (down(300.0), True, False),
    "it is overloaded": (errors.UpstreamOverloaded("no"), True, False),
}


@each(("error", "recovered", "back"), BACK.values(), ids=BACK)
def test_who_comes_back_by_a_probe_is_on_trial(error: GatewayError, recovered: bool, back: bool) -> None:
    health = Health()
    failing(health, 0.0, 0.0, 0.0, error=error)
    assert health.cooling(ONE, 1.0) > 0
    health.found_well("p", 1.0, recovered=recovered)
    assert (health.cooling(ONE, 1.0) == 0) is back
    if back:
        trial = health.begin(ONE, None, 1.0)
        assert health.cooling(ONE, 1.0) == ON_TRIAL
        assert failing(health, 2.0) == ["cooled"]
        health.end(trial)
        assert health.cooling(ONE, 2.0) == 2 * BASE


def test_a_probe_says_nothing_of_keys() -> None:
    health = Health()
    health.failed(ONE, 0, errors.UpstreamRefusedKey("no"), 0.0)
    health.found_well("p", 1.0, recovered=True)
    assert health.key_cooling("p", 0, 1.0) == REFUSED_KEY - 1
