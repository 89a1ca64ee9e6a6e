"""What tokens cost, in integers: a sum of money is exact, and rounded once.

Rates are pico-USD per token, which is USD per million tokens times a million: 0.29 USD/M is 290,000. Costs are
nano-USD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Literal

from attrs import field, validators

from proxy.record import frozen

if TYPE_CHECKING:
    from proxy.ir import Usage

PICO_PER_NANO = 1_000
HALF = PICO_PER_NANO // 2
RATES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "input_audio", "output_audio")

_rate = validators.optional(validators.ge(0))


@frozen
class Tier:
    """A long-context step: once the whole input is longer than `start` tokens, every token costs `price`.

    The step is a cliff, not a margin: https://ai.google.dev/gemini-api/docs/pricing and others have it so.
    """

    start: int
    price: Price


def _ascending(tiers: Iterable[Tier]) -> tuple[Tier, ...]:
    return tuple(sorted(tiers, key=lambda tier: tier.start))


@frozen(kw_only=True)
class Price:
    """Rates of one model in pico-USD per token; None is unknown. Where a class has none of its own:

    - `cache_read` and `cache_write_5m` cost what `input` costs, `cache_write_1h` what `cache_write_5m` costs
    - `input_audio` and `output_audio` cost what `input` and `output` cost

    `request` is a fee beside the tokens, as those who search for each request take it.
    """

    input: int | None = field(default=None, validator=_rate)
    output: int | None = field(default=None, validator=_rate)
    cache_read: int | None = field(default=None, validator=_rate)
    cache_write_5m: int | None = field(default=None, validator=_rate)
    cache_write_1h: int | None = field(default=None, validator=_rate)
    input_audio: int | None = field(default=None, validator=_rate)
    output_audio: int | None = field(default=None, validator=_rate)
    request: int | None = field(default=None, validator=_rate)  # pico-USD, once for each
    tiers: tuple[Tier, ...] = field(default=(), converter=_ascending)
    # What a token costs that is read from a cache, written for 5 minutes, for an hour, of sound in input and in output.
    special: tuple[int | None, ...] = field(init=False, eq=False, repr=False)
    # Input, output and fee, where they are known and the same at any length.
    plain: tuple[int, int, int] | None = field(init=False, eq=False, repr=False)

    @special.default
    def _special(self) -> tuple[int | None, ...]:
        write = _first(self.cache_write_5m, self.input)
        return (
            _first(self.cache_read, self.input),
            write,
            _first(self.cache_write_1h, write),
            _first(self.input_audio, self.input),
            _first(self.output_audio, self.output),
        )

    @plain.default
    def _plain(self) -> tuple[int, int, int] | None:
        if self.tiers or self.input is None or self.output is None:
            return None
        return self.input, self.output, self.request or 0

    @classmethod
    def per_million(
        cls,
        usd: Mapping[str, Decimal | str | int],
        tiers: tuple[Tier, ...] = (),
        *,
        thousand_requests: Decimal | str | int | None = None,
    ) -> Price:
        """From USD per million tokens by class name, as price lists have it. Never from a float: 0.29 is not 0.29.

        Raises KeyError with the name of a class that does not exist.
        """
        for name in usd:
            if name not in RATES:
                raise KeyError(name)
        fee = None if thousand_requests is None else _pico(thousand_requests) * 1_000
        return cls(**{name: _pico(value) for name, value in usd.items()}, tiers=tiers, request=fee)

    def at(self, input_total: int) -> Price:
        """The rates for a request whose whole input, cached or not, has that many tokens."""
        price = self
        for tier in self.tiers:
            if input_total > tier.start:
                price = tier.price
        return price

    def cost_nanos(self, usage: Usage) -> int | None:
        """What an answer cost, rounded half-even to nano-USD. None if a count or a rate that matters is unknown."""
        fresh, written = usage.input, usage.output
        if fresh is None:
            return None
        if self.plain is not None and written is not None and not usage.in_part():
            reading, writing, fee = self.plain
            nanos, rest = divmod(fresh * reading + written * writing + fee, PICO_PER_NANO)
            return nanos if rest < HALF else nanos + (rest > HALF or nanos & 1)
        read, write_5m, write_1h = usage.cache_read or 0, usage.cache_write_5m or 0, usage.cache_write_1h or 0
        rates = self.at(fresh + read + write_5m + write_1h) if self.tiers else self
        if written is None:
            if rates.output is not None:
                return None
            written = 0  # embeddings have neither an output price nor an output: nothing is unknown about them
        audio_in, audio_out = min(usage.audio_input or 0, fresh), min(usage.audio_output or 0, written)
        counts = [(fresh - audio_in, rates.input), (written - audio_out, rates.output)]
        if read or write_5m or write_1h or audio_in or audio_out:
            counts += zip((read, write_5m, write_1h, audio_in, audio_out), rates.special, strict=True)
        pico = rates.request or 0
        for tokens, rate in counts:
            if tokens:
                if rate is None:
                    return None
                pico += tokens * rate
        return _rounded(pico)


def worst_case_nanos(
    price: Price | None, input_tokens: int, max_tokens: int, cache_write: Literal["5m", "1h"] | None = None
) -> int | None:
    """The most that `input_tokens` answered by `max_tokens` cost in nano-USD, rounded up; None where it is unknown.

    Nothing is expected to come from a cache, and a long-context step counts as soon as the input passes it. With
    `cache_write`, the longest life that the request asks a cache for, all input may be written there, which may be
    dearer.
    """
    if price is None:
        return None
    rates = price.at(input_tokens) if price.tiers else price
    if (input_tokens and rates.input is None) or (max_tokens and rates.output is None):
        return None
    reading = (rates.input or 0) if cache_write is None else _reading(rates, cache_write)
    pico = input_tokens * reading + max_tokens * (rates.output or 0) + (rates.request or 0)
    return -(-pico // PICO_PER_NANO)


def worst_case_line(
    price: Price | None, max_tokens: int, cache_write: Literal["5m", "1h"] | None = None
) -> tuple[int, int] | None:
    """`worst_case_nanos` for any number of input tokens, as pico-USD for each and pico-USD besides. None where it is no
    straight line."""
    if price is None or price.tiers or price.input is None or (max_tokens and price.output is None):
        return None
    return _reading(price, cache_write), max_tokens * (price.output or 0) + (price.request or 0)


def _reading(rates: Price, cache_write: Literal["5m", "1h"] | None) -> int:
    """What an input token costs where all of them may be written to a cache."""
    reading = rates.input or 0
    if cache_write is not None:
        reading = max(reading, rates.cache_write_5m or 0)
    if cache_write == "1h":
        reading = max(reading, rates.cache_write_1h or 0)
    return reading


def _rounded(pico: int) -> int:
    """Half-even."""
    nanos, rest = divmod(pico, PICO_PER_NANO)
    return nanos if rest < HALF else nanos + (rest > HALF or nanos & 1)


def _pico(usd_per_million: Decimal | str | int) -> int:
    if isinstance(usd_per_million, float):
        raise TypeError("a price is a Decimal, a string or an integer, never a float")
    return int((Decimal(usd_per_million) * 1_000_000).quantize(Decimal(1), ROUND_HALF_EVEN))


def _first(*rates: int | None) -> int | None:
    return next((rate for rate in rates if rate is not None), None)
