"""Orders and draws."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from attrs import evolve
from each import each
from scenes import HOUSE, asks, candidate, chain, cool, planned, scripted, world_of
from shares import product_of

from proxy.routing.case import Case
from proxy.routing.facts import Ceiling
from proxy.routing.latency import PRIOR_MS, STALE, Line
from proxy.routing.names import Candidate
from proxy.routing.plan import resolve
from proxy.routing.strategies import BAND, SORTS, STRATEGIES, draw, drawn
from proxy.routing.world import Pick, World

CROWD = HOUSE.partition("[models.a]")[0]


def crowd(*entries: str) -> World:
    """Models m0, m1, … at p, each with the given lines."""
    return world_of(CROWD + "".join(f'[models.m{n}]\nprovider = "p"\n{lines}\n' for n, lines in enumerate(entries)))


# -- cost, quality, local ----------------------------------------------------------------------------------------


def test_cost_is_what_this_request_will_probably_cost() -> None:
    world = crowd("price = { input = 1, output = 10 }", "price = { input = 5, output = 1 }")
    assert chain(planned(world, "strategy:cost", tokens=10, max_tokens=100)) == ["m1", "m0"]
    assert chain(planned(world, "strategy:cost", tokens=10_000, max_tokens=100)) == ["m0", "m1"]
    # 512 tokens are expected of an answer that may have more
    assert chain(planned(world, "strategy:cost", tokens=1_152, max_tokens=100_000)) == ["m0", "m1"]
    assert chain(planned(world, "strategy:cost", tokens=1_151, max_tokens=100_000)) == ["m1", "m0"]


def test_cost_takes_the_cheapest_that_can_handle_the_request() -> None:
    world = world_of(HOUSE)
    assert chain(planned(world, "strategy:cost"))[:2] == ["home", "c"]
    assert chain(planned(world, "strategy:cost", needs={"json"})) == ["a", "b"]
    assert chain(planned(world, "strategy:cost", tokens=150_000)) == ["b"]
    assert chain(planned(world, "strategy:cost", max_tokens=1_000, ceiling=Ceiling(Decimal("0.0021")))) == [
        "home",
        "c",
        "a",
    ]


def test_cost_has_an_unpriced_model_last() -> None:
    world = crowd('native = "nobody-ever-listed-this"', "price = { input = 900, output = 900 }")
    assert chain(planned(world, "strategy:cost")) == ["m1", "m0"]


@pytest.mark.parametrize("name", ["strategy:cost", "strategy:quality"])
def test_equals_stand_in_the_order_of_the_table(name: str) -> None:
    same = "price = { input = 1, output = 1 }\nquality = 5\nreasoning = 5"
    better = "price = { input = 0.5, output = 0.5 }\nquality = 6\nreasoning = 6"
    assert chain(planned(crowd(same, same, better, same), name)) == ["m2", "m0", "m1", "m3"]


def test_a_price_with_a_step_counts_with_it() -> None:
    text = CROWD.replace('base_url = "http://q.test"', 'base_url = "https://generativelanguage.googleapis.com"')
    world = world_of(
        text
        + '[models."gemini-2.5-pro"]\nprovider = "q"\n[models.m]\nprovider = "p"\nprice = { input = 2, output = 12 }\n'
    )
    info = world.models.listed["gemini-2.5-pro"]
    assert info.price is not None
    assert info.price.tiers, "the price list has a step for it"
    assert chain(planned(world, "strategy:cost", tokens=100_000))[0] == "gemini-2.5-pro"
    assert chain(planned(world, "strategy:cost", tokens=300_000, max_tokens=1))[0] == "m"


def test_quality_is_the_strongest_reasoner_then_the_better_writer_then_the_unknown() -> None:
    world = crowd(
        "reasoning = 50\nquality = 99",
        "reasoning = 80\nquality = 10",
        "reasoning = 80\nquality = 20",
        'native = "nobody-ever-listed-this"',
    )
    assert chain(planned(world, "strategy:quality")) == ["m2", "m1", "m0", "m3"]
    assert chain(planned(world, "m3", "m1", "m0", "m2", sort="quality")) == ["m0", "m2", "m1", "m3"]


def test_local_is_a_filter_by_latency() -> None:
    text = HOUSE + '[models.h2]\nprovider = "local"\n[models.h3]\nprovider = "local"\n'
    world = world_of(text)
    for id, ms in (("home", 500.0), ("h2", 100.0), ("a", 1.0)):
        world.latencies.observe(candidate(world, id), ms, 0.0)
    assert chain(planned(world, "strategy:local")) == ["h2", "home", "h3"]
    plan = planned(world, "strategy:local", needs={"vision"})
    assert {gone.candidate.provider for gone in plan.dropped} == {"local"}


def test_a_strategy_takes_no_model_that_is_none_for_chat() -> None:
    world = crowd('native = "text-embedding-3-large"', "", 'native = "whisper-1"')
    for name in STRATEGIES:
        assert set(chain(planned(world, f"strategy:{name}"))) <= {"m1"}


# -- latency -----------------------------------------------------------------------------------------------------


def timed(**ms: float) -> World:
    world = crowd(*("" for _ in ms))
    for id, time in ms.items():
        world.latencies.observe(candidate(world, id), time, 0.0)
    return world


def test_those_near_the_fastest_share_its_lead() -> None:
    world = timed(m0=100.0, m1=120.0, m2=121.0, m3=300.0)
    heads = Counter(chain(planned(world, "strategy:latency", dice=scripted(0.5, n / 100)))[0] for n in range(100))
    assert heads == {"m0": 50, "m1": 50}
    assert chain(planned(world, "strategy:latency", dice=scripted(0.5, 0.99))) == ["m1", "m0", "m2", "m3"]
    assert chain(planned(world, "strategy:latency", dice=scripted(0.5, 0.0))) == ["m0", "m1", "m2", "m3"]


def test_a_share_of_the_traffic_explores_the_one_seen_longest_ago() -> None:
    world = timed(m0=100.0, m1=500.0, m2=400.0)
    world.latencies.observe(candidate(world, "m2"), 400.0, 10.0)
    world.latencies.observe(candidate(world, "m0"), 100.0, 10.0)
    assert chain(planned(world, "strategy:latency", dice=scripted(0.0199), now=20.0)) == ["m1", "m0", "m2"]
    assert chain(planned(world, "strategy:latency", dice=scripted(0.02), now=20.0)) == ["m0", "m2", "m1"]


def test_the_unobserved_are_explored_before_the_slow() -> None:
    world = crowd("", "", "")
    world.latencies.observe(candidate(world, "m0"), 100.0, 0.0)
    world.latencies.observe(candidate(world, "m1"), 5_000.0, 0.0)
    assert chain(planned(world, "strategy:latency", dice=scripted(0.01))) == ["m2", "m0", "m1"]


def test_without_exploration_nobody_is_explored() -> None:
    text = CROWD + "[routing]\nexplore = 0\n" + "".join(f'[models.m{n}]\nprovider = "p"\n' for n in range(2))
    world = world_of(text)
    world.latencies.observe(candidate(world, "m1"), 100.0, 0.0)
    assert chain(planned(world, "strategy:latency", dice=scripted(0.0))) == ["m1", "m0"]


def test_the_unobserved_have_the_prior_and_the_stale_have_it_again() -> None:
    world = timed(m0=PRIOR_MS * 2)
    world.latencies.observe(candidate(world, "m0"), PRIOR_MS * 2, 0.0)
    assert chain(planned(crowd("", ""), "strategy:latency", dice=scripted(0.0))) == ["m0", "m1"]
    two = timed(m0=PRIOR_MS * 2, m1=PRIOR_MS * 3)
    assert chain(planned(two, "strategy:latency", dice=scripted(0.5), now=STALE)) == ["m0", "m1"]
    assert chain(planned(two, "strategy:latency", dice=scripted(0.99), now=STALE + 1)) == ["m1", "m0"]  # drawn


def test_one_candidate_throws_no_dice() -> None:
    assert chain(planned(crowd(""), "strategy:latency", dice=scripted())) == ["m0"]


@pytest.mark.parametrize("seed", product_of({str(seed): seed for seed in range(8)}, fast=1, of=4))
def test_traffic_leaves_a_candidate_that_turns_slow_and_returns_once_it_is_well(seed: int) -> None:
    """Three equals; one turns ten times slower, and later recovers. Each request takes half a second."""
    world, dice = crowd("", "", ""), Random(seed).random
    speed = {"m0": 100.0, "m1": 100.0, "m2": 100.0}
    noise, facts = Random(seed + 1000), asks("strategy:latency")
    clock = 0.0

    def serve(requests: int) -> Counter[str]:
        nonlocal clock
        heads: Counter[str] = Counter()
        for _ in range(requests):
            clock += 0.5
            head = resolve(facts, world, dice, clock).chain[0].candidate
            heads[head.model] += 1
            world.latencies.observe(head, speed[head.model] * noise.uniform(0.97, 1.03), clock)
        return heads

    serve(400)  # until each has been explored once
    shares = serve(600)
    assert all(130 < shares[id] < 270 for id in speed)
    speed["m1"] = 1_000.0
    assert serve(30)["m1"] <= 3
    away = serve(600)
    assert away["m1"] < 40  # explored, no more
    assert 200 < away["m0"] < 400  # and nobody is stampeded
    speed["m1"] = 100.0
    serve(1_000)
    back = serve(600)
    assert all(130 < back[id] < 270 for id in speed)


def test_a_plain_request_goes_by_plain_answers_and_a_stream_by_streams() -> None:
    world = crowd("", "")
    for id, first_token, whole in (("m0", 100.0, 9_000.0), ("m1", 500.0, 3_000.0)):
        world.latencies.observe(candidate(world, id), first_token, 0.0)
        world.latencies.observe(candidate(world, id), whole, 0.0, whole=True)
    dice = lambda: 0.5  # noqa: E731
    assert chain(planned(world, "strategy:latency", dice=dice, stream=True)) == ["m0", "m1"]
    assert chain(planned(world, "strategy:latency", dice=dice)) == ["m1", "m0"]


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_that_stalls_is_left_before_its_first_late_answer(seed: int) -> None:
    """Fifty streams a second; one of three turns ten times slower. Its first late answer comes after ten seconds, and
    five hundred requests."""
    world, dice, facts = timed(m0=1_000.0, m1=1_000.0, m2=1_000.0), Random(seed).random, asks("strategy:latency")
    speed, waiting = {"m0": 1.0, "m1": 1.0, "m2": 10.0}, list[tuple[float, Candidate, int, Line]]()
    heads: list[str] = []
    for request in range(500):
        now = request / 50
        for due in [wait for wait in waiting if wait[0] <= now]:
            waiting.remove(due)
            del due[3][due[2]]
            world.latencies.observe(due[1], speed[due[1].model] * 1_000.0, now)
        head = resolve(evolve(facts, stream=True), world, dice, now).chain[0].candidate
        waiting.append((now + speed[head.model], head, request, world.latencies.waits(head, request, now)))
        heads.append(head.model)
    late = heads.index("m2", 5) + round((1 + 2 * BAND) * 50)  # requests until its third has waited too long
    assert heads[late:].count("m2") <= 0.1 * len(heads[late:])
    assert min(heads[late:].count("m0"), heads[late:].count("m1")) > 0.3 * len(heads[late:])


def test_a_recovered_candidate_is_believed_after_one_answer_or_a_few() -> None:
    for slow, needed in ((1_000.0, 1), (250.0, 1), (199.0, 3)):  # 199 -> 149.5 -> 124.75 -> 112.4
        world = timed(m0=100.0, m1=slow)
        answers = 0
        while chain(planned(world, "strategy:latency", dice=lambda: 0.6, now=1.0))[0] != "m1":
            world.latencies.observe(candidate(world, "m1"), 100.0, 1.0)
            answers += 1
        assert answers == needed


def test_good_luck_leads_a_request_and_no_more() -> None:
    world = timed(m0=100.0, m1=1_000.0)
    world.latencies.observe(candidate(world, "m1"), 90.0, 1.0)
    assert chain(planned(world, "strategy:latency", dice=lambda: 0.3, now=1.0))[0] == "m1"
    world.latencies.observe(candidate(world, "m1"), 1_000.0, 1.0)
    assert chain(planned(world, "strategy:latency", dice=lambda: 0.3, now=1.0))[0] == "m0"


@pytest.mark.parametrize("pause", [0.01, 0.5])  # seconds from request to request
@pytest.mark.parametrize(("models", "within"), [(3, 400), (22, 2_000)])
@pytest.mark.parametrize("seed", product_of({str(seed): seed for seed in range(3)}, fast=1, of=3))
def test_a_recovered_candidate_comes_back_within_so_many_requests(
    seed: int, models: int, within: int, pause: float
) -> None:
    """All but the first are slow; the last one recovers. `within` stands in the module of the latencies."""
    world, dice, facts = crowd(*("" for _ in range(models))), Random(seed).random, asks("strategy:latency")
    back, speed = f"m{models - 1}", {f"m{n}": 1_000.0 if n else 100.0 for n in range(models)}
    for id, ms in speed.items():
        for _ in range(3):
            world.latencies.observe(candidate(world, id), ms, 0.0)
    speed[back] = 100.0
    heads: Counter[str] = Counter()
    for request in range(within + 200):
        head = resolve(facts, world, dice, pause * request).chain[0].candidate
        world.latencies.observe(head, speed[head.model], pause * request)
        heads[head.model] += request >= within
    assert heads[back] > 60


# m0 and m1 can serve; the keyless and the incapable are faster, or were never seen.
MIXED_IDS = {"m0": "p", "m1": "p", "k0": "bare", "k1": "bare", "i0": "p", "i1": "p"}
MIXED = CROWD + "".join(
    f'[models.{id}]\nprovider = "{provider}"\ncapabilities = {[] if id.startswith("i") else ["tools"]}\n'
    for id, provider in MIXED_IDS.items()
)
MIXED += f'[auto]\nchat = {list(MIXED_IDS)}\n[profiles.fast]\nsort = "latency"\ncandidates = {list(MIXED_IDS)}\n'


@pytest.mark.parametrize("name", ["strategy:latency", "auto;sort:latency", "fast"])
def test_who_cannot_serve_neither_sets_the_band_nor_is_explored(name: str) -> None:
    world = world_of(MIXED)
    for id, ms in (("m0", 100.0), ("m1", 300.0), ("k0", 10.0), ("i0", 10.0)):
        world.latencies.observe(candidate(world, id), ms, 0.0)
    dice, heads = Random(1).random, Counter[str]()
    for request in range(2_000):
        head = chain(planned(world, name, dice=dice, now=request / 100, needs={"tools"}, turns=("hi",)))[0]
        world.latencies.observe(candidate(world, head), 100.0 if head == "m0" else 300.0, request / 100)
        heads[head] += 1
    assert heads["m0"] + heads["m1"] == 2_000
    assert 20 < heads["m1"] < 70  # two of a hundred


def test_who_rests_is_not_explored_and_does_not_lead() -> None:
    world = timed(m0=100.0, m1=500.0, m2=400.0)
    cool(world, [candidate(world, "m1")])
    assert chain(planned(world, "strategy:latency", dice=scripted(0.0), now=1.0)) == ["m2", "m0", "m1"]
    cool(world, [candidate(world, "m0")])
    assert chain(planned(world, "strategy:latency", dice=scripted(0.0, 0.0), now=1.0))[0] == "m2"


@each("name", ["strategy:latency", "strategy:local", "fast", "m0"])
def test_every_order_by_latency_explores(name: str) -> None:
    text = CROWD.replace('base_url = "http://p.test/v1"', 'base_url = "http://p.test/v1"\nlocal = true')
    text += "".join(f'[models.m{n}]\nprovider = "p"\n' for n in range(3))
    world = world_of(text + '[profiles.fast]\nsort = "latency"\ncandidates = ["m0", "m1", "m2"]\n')
    for id, ms in (("m0", 100.0), ("m1", 500.0), ("m2", 400.0)):
        world.latencies.observe(candidate(world, id), ms, 0.0 if id == "m1" else 1.0)
    asked: dict[str, Any] = {"sort": "latency"} if name == "m0" else {}
    names = ("m0", "m1", "m2") if name == "m0" else (name,)
    plan = planned(world, *names, dice=scripted(0.0), now=2.0, **asked)
    assert chain(plan) == ["m1", "m0", "m2"]
    if name in ("fast", "m0"):
        assert plan.reason.endswith("sorted by latency")


# -- draws -------------------------------------------------------------------------------------------------------

DRAWS: dict[str, tuple[list[int], float, list[int]]] = {
    "the first": ([80, 20], 0.0, [0, 1]),
    "the last point of the first": ([80, 20], 0.7999, [0, 1]),
    "the first point of the second": ([80, 20], 0.8, [1, 0]),
    "the rest by weight": ([10, 60, 30], 0.05, [0, 1, 2]),
    "nothing is only a fallback": ([0, 5, 0], 0.0, [1, 0, 2]),
    "nothing at all": ([0, 0], 0.5, [0, 1]),
    "one": ([7], 0.999, [0]),
    "equal weights stand": ([1, 1, 1], 0.5, [1, 0, 2]),
}


@each(("weights", "fall", "order"), DRAWS.values(), ids=DRAWS)
def test_a_draw(weights: list[int], fall: float, order: list[int]) -> None:
    assert draw(weights, scripted(fall)) == order


def test_each_weight_has_exactly_its_share_of_the_points() -> None:
    weights = [5, 0, 30, 15, 50]
    heads = Counter(draw(weights, scripted(point / 100))[0] for point in range(100))
    assert heads == {0: 5, 2: 30, 3: 15, 4: 50}


def test_a_draw_among_equals_gives_each_order_its_share_and_takes_who_is_fit() -> None:
    world = crowd("", "", "")
    picks = [Pick.of(info) for info in world.models.listed.values()]
    facts = asks("strategy:latency")
    orders = Counter(
        tuple(pick.candidate.model for pick in drawn(picks, Case(facts, world, scripted((a + 0.5) / 3, b), 0.0)))
        for a in range(3)
        for b in (0.25, 0.75)
    )
    assert len(orders) == 6
    assert drawn([], Case(facts, world, scripted(), 0.0)) == []
    cool(world, [picks[0].candidate])
    assert picks[0] not in drawn(picks, Case(facts, world, lambda: 0.0, 1.0))


# -- the registries ----------------------------------------------------------------------------------------------


@each("name", [f"strategy:{name}" for name in STRATEGIES] + [f"auto;sort:{name}" for name in SORTS])
def test_every_order_keeps_everybody_and_changes_nobody(name: str) -> None:
    world = world_of(HOUSE + '[auto]\nchat = ["a", "b", "c", "home"]\n')
    plan = planned(world, name, turns=("hi",))
    found = [*chain(plan), *(gone.candidate.model for gone in plan.dropped)]
    assert len(found) == len(set(found))
    expected = {"home"} if name == "strategy:local" else {"a", "b", "c", "home"}
    assert set(found) - {"keyless"} == expected
