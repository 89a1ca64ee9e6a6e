"""What holds for every plan, whatever the table, the request, the health and the dice."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import fuzz
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import asks, no_file

from proxy import errors
from proxy.catalog import PriceBook
from proxy.dialects import UPSTREAMS
from proxy.routing.case import Case
from proxy.routing.draft import MOST
from proxy.routing.expansion import Expansion
from proxy.routing.facts import Ceiling, Facts, Preferences
from proxy.routing.loading import load
from proxy.routing.models import Models
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan, resolve
from proxy.routing.rules import first_match
from proxy.routing.steps import STEPS
from proxy.routing.strategies import SORTS
from proxy.routing.world import Pick, World

fewer = settings(max_examples=fuzz.examples(50))
NOW = 100.0
TALK = "ab" * 16
PROVIDERS = """
[providers.p0]
dialect = "openai-chat"
base_url = "http://p0.test/v1"
api_key = "${KEY}"
models = ["p0-*"]
[providers.p1]
dialect = "anthropic"
base_url = "http://p1.test"
api_keys = ["${KEY}", "${KEY2}"]
[providers.bare]
dialect = "openai-chat"
base_url = "http://bare.test/v1"
api_key = "${UNSET}"
[providers.off]
dialect = "openai-chat"
base_url = "http://off.test/v1"
api_key = "none"
enabled = false
[providers.home]
dialect = "openai-chat"
base_url = "http://home.test/v1"
api_key = "none"
local = true
[providers.embedded]
dialect = "openai-chat"
local = true
"""
NAMES = [f"m{n}" for n in range(40)]
SHARES = ["p0"] * 3 + ["p1"] * 3 + ["home", "bare", "off", "embedded"]
CAPABILITIES = ["tools", "json", "vision", "thinking"]


@st.composite
def models(draw: st.DrawFn) -> str:
    count = draw(st.sampled_from([40, 40, 9, 2]))
    rng = Random(draw(st.integers(0, 10**6)))
    text = []
    for name in NAMES[:count]:
        lines = [f'[models.{name}]\nprovider = "{rng.choice(SHARES)}"']
        if rng.random() < 0.3:
            lines.append(f'native = "shared-{rng.randrange(3)}"')
        if rng.random() < 0.7:
            lines.append(f"price = {{ input = {rng.randrange(5)}, output = {rng.randrange(5)} }}")
        if rng.random() < 0.7:
            lines.append(f"capabilities = {orjson.dumps(rng.sample(CAPABILITIES, rng.randrange(5))).decode()}")
        if rng.random() < 0.7:
            lines.append(f"context = {rng.choice([500, 5_000, 50_000])}")
        if rng.random() < 0.7:
            lines.append(f"quality = {rng.randrange(101)}\nreasoning = {rng.randrange(101)}")
        text.append("\n".join(lines))
    listed = [orjson.dumps(rng.choices(NAMES[:count], k=rng.randrange(1, 9))).decode() for _ in range(3)]
    group = ", ".join(f'{{ model = "{rng.choice(NAMES[:count])}", weight = {rng.randrange(4)} }}' for _ in range(3))
    text.append(f"[aliases]\nlist = {listed[0]}\n[industries.field]\nmodels = {listed[1]}\n[auto]\nchat = {listed[2]}")
    text.append(
        f'[profiles.team]\ncandidates = [{group}, "list", "strategy:latency"]\nsticky = {rng.choice(["true", "false"])}'
    )
    if rng.random() < 0.3:
        text.append('[[rules]]\nname = "r"\nneeds = ["tools"]\nuse = ["industry:field", "strategy:quality"]')
    return "\n".join(text)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    both = {"KEY": "0123456789", "KEY2": "9876543210"}
    env = draw(st.sampled_from([both, both, both, {}]))
    raw = (PROVIDERS + draw(models())).encode()
    table = load(raw, env=env, read_file=no_file, dialects=UPSTREAMS.keys())
    world = World(table, Models.build(table, PriceBook()))
    rng = Random(draw(st.integers(0, 10**6)))
    everyone = [Candidate(info.id, info.provider, info.native) for info in world.models.listed.values()]
    if rng.random() < 0.6:
        world.affinity.pin(TALK, rng.choice(everyone), NOW - rng.uniform(0, 400))
    for it in rng.sample(everyone, rng.choice([0, 2, len(everyone) // 4, len(everyone)])):
        match rng.randrange(3):
            case 0:
                world.latencies.observe(it, rng.uniform(50, 2000), NOW - rng.uniform(0, 800), rng.uniform(1, 99))
            case 1:
                world.health.failed(it, None, errors.UpstreamOverloaded("busy"), NOW - rng.uniform(0, 12))
            case _:
                world.health.failed(it, rng.randrange(3), errors.UpstreamRateLimited("slow"), NOW - rng.uniform(0, 8))
    return world


ENTRIES = st.sampled_from(
    [
        *NAMES[:12],
        *("list", "industry:field", "auto", "team", "profile:team", "nobody", "p0-x", "home/x", "off/x", "bare/x"),
        *("strategy:cost", "strategy:quality", "strategy:latency") * 8,
        "strategy:local",
        *("list;sort:price", "team:floor", "strategy:quality;max_price:0.001", "m1;max_price:0", "auto sort:latency"),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> Facts:
    names = st.lists(st.sampled_from(["p0", "p1", "home", "bare"]), max_size=2).map(tuple)
    mostly = st.sampled_from([True] * 4 + [False]).flatmap
    wishes = st.builds(Preferences, order=names, only=names, ignore=names, allow_fallbacks=st.booleans())
    return asks(
        *draw(st.lists(ENTRIES, min_size=1, max_size=6)),
        needs=draw(st.sampled_from([(), (), (), ("tools",), ("json", "vision")])),
        tokens=draw(st.sampled_from([0, 100, 100, 3_000, 60_000])),
        max_tokens=draw(st.sampled_from([None, 0, 10, 2_000])),
        turns=draw(st.sampled_from([(), ("hi",), ("Summarize this.",)])),
        sort=draw(st.sampled_from([None, None, None, *SORTS])),
        ceiling=draw(st.sampled_from([None] * 6 + [Ceiling(Decimal("0.001")), Ceiling(prompt=Decimal(2))])),
        preferences=draw(mostly(lambda plain: st.just(Preferences()) if plain else wishes)),
        conversation=draw(st.sampled_from([TALK, TALK, None])),
        continues=draw(st.sampled_from([True, True, False])),
        byok=draw(st.sampled_from([frozenset(), frozenset({"bare"}), frozenset({"p1"})])),
    )


def candidates(picks: list[Pick]) -> list[Candidate]:
    return [pick.candidate for pick in picks]


@fewer
@given(worlds(), requests(), st.integers(0, 99))
def test_a_plan_keeps_its_promises(world: World, facts: Facts, seed: int) -> None:
    plan = resolve(facts, world, Random(seed).random, NOW)
    places = [(pick.candidate.provider, pick.candidate.native) for pick in plan.chain]
    assert len(places) == len(set(places)) <= MOST
    assert (plan.refusal is None) == bool(plan.chain)
    assert orjson.loads(orjson.dumps(plan.as_json()))["requested"] == facts.requested
    for pick in plan.chain:
        provider = world.table.providers[pick.candidate.provider]
        assert provider.enabled
        assert not provider.missing
        assert provider.keyless or provider.credentials or provider.name in facts.byok
        assert pick.info.capabilities is None or facts.shape.needs <= pick.info.capabilities
    if all(name == "strategy:local" for name in facts.wanted) and plan.rule is None:
        assert all(pick.info.local for pick in plan.chain)


@fewer
@given(worlds(), requests(), st.integers(0, 99))
def test_the_same_world_request_and_dice_give_the_same_plan(world: World, facts: Facts, seed: int) -> None:
    first = resolve(facts, world, Random(seed).random, NOW)
    again = resolve(facts, world, iter(first.draws).__next__, NOW)
    assert again.as_json() == first.as_json()
    assert (again.chain, again.first, again.leads, again.cooling) == (
        first.chain,
        first.first,
        first.leads,
        first.cooling,
    )


def expanded(case: Case) -> list[Pick]:
    rule = first_match(case)
    expansion = Expansion(case)
    expansion.expand(rule.use if rule else case.facts.wanted)
    return expansion.picks


@fewer
@given(worlds(), requests(), st.integers(0, 99))
def test_every_candidate_is_in_the_chain_or_dropped_with_a_reason(world: World, facts: Facts, seed: int) -> None:
    plan = resolve(facts, world, Random(seed).random, NOW)
    told = {gone.candidate for gone in plan.dropped}
    found = expanded(Case(facts, world, Random(seed).random, NOW))
    assert set(candidates(found)) == told | set(candidates(list(plan.chain)))
    assert all(gone.reason and gone.step in (*STEPS, "expand", "cap") for gone in plan.dropped)
    assert plan.first is None or plan.first in told | set(candidates(list(plan.chain)))


def without_the_house_behind_own_keys(picks: list[Pick], world: World, facts: Facts) -> list[Pick]:
    own = [pick.candidate.provider in facts.byok for pick in picks]
    if True not in own:
        return picks
    free = [
        mine or not world.table.providers[pick.candidate.provider].credentials
        for mine, pick in zip(own, picks, strict=True)
    ]
    return [pick for n, pick in enumerate(picks) if n < own.index(True) or free[n]]


def thorough(world: World, facts: Facts, seed: int) -> tuple[list[Candidate], Candidate | None, Candidate | None]:
    """Chain, first and leader by the book: every candidate judged at every step, each step over all of them."""
    case = Case(facts, world, Random(seed).random, NOW)
    picks = expanded(case)
    if facts.sort is not None:
        picks = SORTS[facts.sort](picks, case)
    if order := facts.preferences.order:
        picks.sort(
            key=lambda pick: order.index(pick.candidate.provider) if pick.candidate.provider in order else len(order)
        )
    whole = picks
    for rule in STEPS.values():
        if judge := rule(facts, world):
            picks = [pick for pick in picks if judge(pick) is None]
    by_place: dict[tuple[str, str], Pick] = {}
    for pick in picks:
        by_place.setdefault((pick.candidate.provider, pick.candidate.native), pick)
    picks = without_the_house_behind_own_keys(list(by_place.values()), world, facts)
    picks = picks[: None if facts.preferences.allow_fallbacks else 1]
    leads = picks[0].candidate if picks else None
    first = next((pick.candidate for pick in whole if pick.listed or pick.candidate == leads), None)

    def wait(pick: Pick) -> float:
        provider = world.table.providers[pick.candidate.provider]
        keys = [world.health.key_cooling(provider.name, number, NOW) for number in range(len(provider.credentials))]
        own = world.health.cooling(pick.candidate, NOW)
        return own if not keys or provider.name in facts.byok else max(own, min(keys))

    if all(wait(pick) for pick in picks):
        picks.sort(key=wait)
        return candidates(picks)[:MOST], first, leads
    picks.sort(key=lambda pick: wait(pick) > 0)
    pinned = world.affinity.pinned(TALK, NOW, 300.0) if facts.conversation and facts.continues else None
    picks.sort(key=lambda pick: pick.candidate != pinned or wait(pick) > 0)
    return candidates(picks)[:MOST], first, leads


@fewer
@given(worlds(), requests(), st.integers(0, 99))
def test_judging_from_the_head_is_as_good_as_judging_all(world: World, facts: Facts, seed: int) -> None:
    plan: Plan = resolve(facts, world, Random(seed).random, NOW)
    assert (candidates(list(plan.chain)), plan.first, plan.leads) == thorough(world, facts, seed)
