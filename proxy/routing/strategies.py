"""Orders: the four strategies, the sorts, and the weighted draw of a profile. Pure; the dice are an argument."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter

from proxy.catalog import worst_case_nanos
from proxy.catalog.price import PICO_PER_NANO
from proxy.routing.facts import Facts
from proxy.routing.latency import PRIOR_MS
from proxy.routing.world import Dice, Pick, World, expected_output

BAND = 0.20  # candidates this near to the fastest share its traffic
UNKNOWN = math.inf  # sorts last


def by_price(picks: Sequence[Pick], facts: Facts, world: World, now: float) -> list[Pick]:
    tokens, output = facts.tokens, expected_output(facts)

    def key(pick: Pick) -> float:
        price = pick.info.price
        if price is not None and not price.tiers and price.input is not None and price.output is not None:
            return tokens * price.input + output * price.output  # pico-USD: most prices are as plain as that
        nanos = worst_case_nanos(price, tokens, output)
        return UNKNOWN if nanos is None else nanos * PICO_PER_NANO

    return sorted(picks, key=key)


def by_latency(picks: Sequence[Pick], facts: Facts, world: World, now: float) -> list[Pick]:
    return [pick for _, pick in _timed(picks, world, now)]


def by_throughput(picks: Sequence[Pick], facts: Facts, world: World, now: float) -> list[Pick]:
    return sorted(picks, key=lambda pick: -(world.latencies.tokens_per_s(pick.candidate) or 0.0))


def by_quality(picks: Sequence[Pick], facts: Facts, world: World, now: float) -> list[Pick]:
    return sorted(picks, key=lambda pick: -(pick.info.quality if pick.info.quality is not None else -1))


SORTS: dict[str, Callable[[Sequence[Pick], Facts, World, float], list[Pick]]] = {
    "price": by_price,
    "latency": by_latency,
    "throughput": by_throughput,
    "quality": by_quality,
}


def cost(picks: Sequence[Pick], facts: Facts, world: World, dice: Dice, now: float) -> list[Pick]:
    return by_price(picks, facts, world, now)


def quality(picks: Sequence[Pick], facts: Facts, world: World, dice: Dice, now: float) -> list[Pick]:
    """The strongest reasoner first, then the better writer."""

    def key(pick: Pick) -> tuple[int, int]:
        info = pick.info
        return (
            -(info.reasoning if info.reasoning is not None else -1),
            -(info.quality if info.quality is not None else -1),
        )

    return sorted(picks, key=key)


def latency(picks: Sequence[Pick], facts: Facts, world: World, dice: Dice, now: float) -> list[Pick]:
    """Fastest first token first. Those within the band of the fastest share the lead, so nobody is stampeded, and a
    bounded share of the traffic goes to the candidate seen longest ago, so nobody is forgotten."""
    timed = _timed(picks, world, now)
    ordered = [pick for _, pick in timed]
    if len(ordered) < 2:
        return ordered
    band = bisect_right(timed, timed[0][0] * (1 + BAND), key=itemgetter(0))
    behind = ordered[band:]
    if behind and dice() < world.table.routing.explore:
        explored = min(behind, key=lambda pick: _seen_at(pick, world))
        return [explored, *(pick for pick in ordered if pick is not explored)]
    return [*shuffled(ordered[:band], dice), *behind]


def local(picks: Sequence[Pick], facts: Facts, world: World, dice: Dice, now: float) -> list[Pick]:
    """Only models on the operator's own machines, even when all of them are down."""
    return by_latency([pick for pick in picks if pick.info.local], facts, world, now)


STRATEGIES: dict[str, Callable[[Sequence[Pick], Facts, World, Dice, float], list[Pick]]] = {
    "cost": cost,
    "quality": quality,
    "latency": latency,
    "local": local,
}


def shuffled(picks: Sequence[Pick], dice: Dice) -> list[Pick]:
    """Fisher-Yates with the caller's dice."""
    deck = list(picks)
    for last in range(len(deck) - 1, 0, -1):
        other = int(dice() * (last + 1))
        deck[last], deck[other] = deck[other], deck[last]
    return deck


def draw(weights: Sequence[int], dice: Dice) -> list[int]:
    """Positions in the order of one weighted draw: the drawn one first, the rest by weight, to serve as fallbacks."""
    total = sum(weights)
    rest = sorted(range(len(weights)), key=lambda position: -weights[position])
    if total <= 0:
        return rest
    point = dice() * total
    for position, weight in enumerate(weights):
        point -= weight
        if point < 0:
            rest.remove(position)
            return [position, *rest]
    return rest


def _timed(picks: Sequence[Pick], world: World, now: float) -> list[tuple[float, Pick]]:
    """With their times to the first token in ms, fastest first."""
    seen = [world.latencies.ttft_ms(pick.candidate, now) for pick in picks]
    timed = [(PRIOR_MS if ms is None else ms, pick) for ms, pick in zip(seen, picks, strict=True)]
    return sorted(timed, key=itemgetter(0))


def _seen_at(pick: Pick, world: World) -> float:
    seen = world.latencies.get(pick.candidate.provider, pick.candidate.model)
    return -math.inf if seen is None else seen.at
