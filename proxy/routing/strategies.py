"""Orders: the four strategies, the sorts, and the weighted draw of a profile. Pure; the dice are an argument."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter

from proxy.catalog import worst_case_nanos
from proxy.catalog.price import PICO_PER_NANO
from proxy.routing.case import Case
from proxy.routing.world import Dice, Pick, World, expected_output

BAND = 0.20  # candidates this near to the fastest share its traffic
SHARED = 4  # places of a chain that those in the band are drawn for: the lead and its first fallbacks
UNKNOWN = math.inf  # sorts last


def by_price(picks: Sequence[Pick], case: Case) -> list[Pick]:
    tokens, output = case.facts.tokens, expected_output(case.facts)

    def key(pick: Pick) -> float:
        price = pick.info.price
        if price is not None and not price.tiers and price.input is not None and price.output is not None:
            return tokens * price.input + output * price.output  # pico-USD: most prices are as plain as that
        nanos = worst_case_nanos(price, tokens, output)
        return UNKNOWN if nanos is None else nanos * PICO_PER_NANO

    return sorted(picks, key=key)


def by_latency(picks: Sequence[Pick], case: Case) -> list[Pick]:
    """Fastest first token first. Those within the band of the fastest share the lead, so nobody is stampeded, and a
    bounded share of the traffic goes to the candidate seen longest ago, so nobody is forgotten. Fastest, band and
    explored are of those that are fit; the others stand where their times put them, behind the lead."""
    timed = _timed(picks, case)
    ordered = [pick for _, pick in timed]
    head = next((place for place, pick in enumerate(ordered) if case.is_fit(pick)), None)
    if head is None or len(ordered) < 2:
        return ordered
    band = bisect_right(timed, timed[head][0] * (1 + BAND), key=itemgetter(0))
    if band < len(ordered) and case.dice() < case.world.table.routing.explore:
        behind = sorted(ordered[band:], key=lambda pick: _seen_at(pick, case.world))
        explored = next(filter(case.is_fit, behind), None)
        if explored is not None:
            return [explored, *(pick for pick in ordered if pick is not explored)]
    lead = drawn(ordered[head:band], case)
    led = {id(pick) for pick in lead}
    return [*lead, *ordered[:head], *(pick for pick in ordered[head:band] if id(pick) not in led), *ordered[band:]]


def by_throughput(picks: Sequence[Pick], case: Case) -> list[Pick]:
    return sorted(picks, key=lambda pick: -(case.world.latencies.tokens_per_s(pick.candidate) or 0.0))


def by_quality(picks: Sequence[Pick], case: Case) -> list[Pick]:
    return sorted(picks, key=lambda pick: -(pick.info.quality if pick.info.quality is not None else -1))


Order = Callable[[Sequence[Pick], Case], list[Pick]]

SORTS: dict[str, Order] = {
    "price": by_price,
    "latency": by_latency,
    "throughput": by_throughput,
    "quality": by_quality,
}


def quality(picks: Sequence[Pick], case: Case) -> list[Pick]:
    """The strongest reasoner first, then the better writer."""

    def key(pick: Pick) -> tuple[int, int]:
        info = pick.info
        return (
            -(info.reasoning if info.reasoning is not None else -1),
            -(info.quality if info.quality is not None else -1),
        )

    return sorted(picks, key=key)


def local(picks: Sequence[Pick], case: Case) -> list[Pick]:
    """Only models on the operator's own machines, even when all of them are down."""
    return by_latency([pick for pick in picks if pick.info.local], case)


STRATEGIES: dict[str, Order] = {
    "cost": by_price,
    "quality": quality,
    "latency": by_latency,
    "local": local,
}


def drawn(picks: Sequence[Pick], case: Case) -> list[Pick]:
    """The fit ones in random order, `SHARED` of them at most. One by itself throws no dice."""
    deck, found = list(picks), list[Pick]()
    while deck and len(found) < SHARED:
        place = int(case.dice() * len(deck)) if len(deck) > 1 else 0
        deck[place], deck[-1] = deck[-1], deck[place]
        if case.is_fit(pick := deck.pop()):
            found.append(pick)
    return found


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


def _timed(picks: Sequence[Pick], case: Case) -> list[tuple[float, Pick]]:
    """With their times to the first token in ms, fastest first."""
    candidates = [pick.candidate for pick in picks]
    expected = case.world.latencies.expected_ms(candidates, case.now, whole=not case.facts.stream)
    return sorted(zip(expected, picks, strict=True), key=itemgetter(0))


def _seen_at(pick: Pick, world: World) -> float:
    seen = world.latencies.seen_at(pick.candidate)
    return -math.inf if seen is None else seen
