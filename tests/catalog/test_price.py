from __future__ import annotations

from decimal import Decimal

import pytest
from each import each
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog import Price, Tier, worst_case_nanos
from proxy.catalog.price import worst_case_line
from proxy.ir import Usage

SONNET = Price.per_million(
    {"input": "3", "output": "15", "cache_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6"}
)
BARE = Price.per_million({"input": "3", "output": "15"})
VOICE = Price.per_million({"input": "4", "output": "16", "input_audio": "32", "output_audio": "64"})
EMBEDDING = Price.per_million({"input": "0.02"})
STEPPED = Price.per_million(
    {"input": "1.25", "output": "10"},
    (Tier(200_000, Price.per_million({"input": "2.5", "output": "15"})),),
)

COSTS = {
    "input and output": (BARE, Usage(input=1_000, output=100), 4_500_000),
    "cached classes have their own rates": (
        SONNET,
        Usage(input=10, cache_read=1_000, cache_write_5m=100, cache_write_1h=100, output=0),
        30_000 + 300_000 + 375_000 + 600_000,
    ),
    "a cache read without a rate bills as input": (BARE, Usage(input=0, cache_read=1_000, output=0), 3_000_000),
    "so does a cache write": (BARE, Usage(input=0, cache_write_5m=500, cache_write_1h=500, output=0), 3_000_000),
    "an hour's write without a rate bills as five minutes'": (
        Price.per_million({"input": "3", "output": "15", "cache_write_5m": "3.75"}),
        Usage(input=0, cache_write_1h=1_000, output=0),
        3_750_000,
    ),
    "audio is a part and costs its own": (
        VOICE,
        Usage(input=100, audio_input=40, output=100, audio_output=10),
        60 * 4_000 + 40 * 32_000 + 90 * 16_000 + 10 * 64_000,
    ),
    "audio without a rate costs what text costs": (BARE, Usage(input=100, audio_input=40, output=0), 300_000),
    "more audio than input is no more than all of it": (VOICE, Usage(input=1, audio_input=9, output=0), 32_000),
    "reasoning is a part of the output": (BARE, Usage(input=0, output=100, reasoning=90), 1_500_000),
    "at the step the base price holds": (STEPPED, Usage(input=200_000, output=0), 250_000_000),
    "past the step all tokens cost more": (STEPPED, Usage(input=200_001, output=1_000), 500_002_500 + 15_000_000),
    "what is read from the cache counts for the step": (
        STEPPED,
        Usage(input=1, cache_read=200_000, output=0),
        500_002_500,
    ),
    "an embedding has no output to be unknown": (EMBEDDING, Usage(input=1_000), 20_000),
    "output without a rate is unknown": (EMBEDDING, Usage(input=1_000, output=1), None),
    "unknown input": (BARE, Usage(output=5), None),
    "unknown output": (BARE, Usage(input=5), None),
    "nothing known": (BARE, Usage(), None),
    "half a nano rounds to even, down": (Price(input=500, output=0), Usage(input=1, output=0), 0),
    "half a nano rounds to even, up": (Price(input=1_500, output=0), Usage(input=1, output=0), 2),
    "rounding comes last": (Price(input=400, output=400), Usage(input=1, output=1), 1),
    "a free model costs nothing, which is known": (Price(input=0, output=0), Usage(input=9, output=9), 0),
}


@each(("price", "usage", "nanos"), COSTS.values(), ids=COSTS)
def test_cost(price: Price, usage: Usage, nanos: int | None) -> None:
    assert price.cost_nanos(usage) == nanos


def test_rates_are_exact_pico_usd_per_token() -> None:
    price = Price.per_million({"input": Decimal("0.29"), "output": "0.0028", "cache_read": 1})
    assert (price.input, price.output, price.cache_read) == (290_000, 2_800, 1_000_000)


def test_a_float_is_no_price() -> None:
    with pytest.raises(TypeError):
        Price.per_million({"input": 0.29})  # type: ignore[dict-item]


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(KeyError, match="inptu"):
        Price.per_million({"inptu": "1"})


def test_a_price_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="input"):
        Price.per_million({"input": "-1"})


def test_the_highest_step_passed_holds_whatever_their_order() -> None:
    steps = tuple(Tier(start, Price(input=start, output=0)) for start in (300, 100, 200))
    price = Price(input=1, output=0, tiers=steps)
    assert [price.at(tokens).input for tokens in (100, 101, 201, 301)] == [1, 100, 200, 300]


WORST = {
    "input and the longest answer": (BARE, 1_000, 100, 4_500_000),
    "past a step": (STEPPED, 200_001, 0, 500_002_500),
    "a part of a nano counts whole": (Price(input=1, output=0), 1, 0, 1),
    "unpriced": (None, 1, 1, None),
    "an embedding": (EMBEDDING, 1_000, 0, 20_000),
    "output without a rate": (EMBEDDING, 1_000, 1, None),
}


@each(("price", "tokens", "longest", "nanos"), WORST.values(), ids=WORST)
def test_worst_case(price: Price | None, tokens: int, longest: int, nanos: int | None) -> None:
    assert worst_case_nanos(price, tokens, longest) == nanos


@given(st.integers(0, 2_000_000), st.integers(0, 100_000), st.integers(0, 100_000))
def test_an_uncached_answer_never_costs_more_than_its_worst_case(tokens: int, longest: int, output: int) -> None:
    worst = worst_case_nanos(STEPPED, tokens, longest)
    cost = STEPPED.cost_nanos(Usage(input=tokens, output=min(output, longest)))
    assert worst is not None
    assert cost is not None
    assert cost <= worst


@given(
    st.sampled_from([SONNET, BARE, VOICE, EMBEDDING, STEPPED, Price(), Price(output=5), None]),
    st.integers(0, 300_000),
    st.integers(0, 100_000),
    st.sampled_from([None, "5m", "1h"]),
)
def test_a_worst_case_that_is_a_line_is_the_worst_case(  # type: ignore[no-untyped-def]
    price, input_tokens, max_tokens, cache_write
) -> None:
    line = worst_case_line(price, max_tokens, cache_write)
    if line is None:
        assert price is None or price.tiers or price.input is None or (max_tokens and price.output is None)
    else:
        each, besides = line
        assert -(-(input_tokens * each + besides) // 1000) == worst_case_nanos(
            price, input_tokens, max_tokens, cache_write
        )
