"""The shipped price list: which entry a model's name means, and what it costs on a given day and hour.

The file is written by `scripts/build_prices.py`, which also documents its form. Matching follows the library that it
comes from (https://github.com/pydantic/genai-prices): first a provider, then the first of its models that matches, then
the models of the providers whose models it sells too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from attrs import field

from proxy.catalog.price import RATES, Price, Tier
from proxy.record import define

PRICES = Path(__file__).parents[1] / "data" / "prices.json"

# Names that operators give to providers and the list does not know.
ALIASES = {
    "workers-ai": "cloudflare",
    "cloudflare-workers-ai": "cloudflare",
    "bedrock": "aws",
    "gemini": "google",
    "vertex": "google",
    "grok": "x-ai",
    "kimi": "moonshotai",
    "together-ai": "together",
    "z-ai": "zai",
    "glm": "zai",
}

# LiteLLM and OpenRouter write `-20251211` where the list has `-2025-12-11`.
_COMPACT_DATE = r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)"


class Quote(NamedTuple):
    price: Price
    context_window: int | None


@define
class PriceBook:
    """Prices by provider and model. Kept as it was read: the models of a provider, text in the file, are decoded when
    somebody asks for one of them, and a price is built for whoever asks."""

    snapshot: str = ""
    library: str = ""
    providers: dict[str, dict[str, Any]] = field(factory=dict, repr=False)

    @property
    def source(self) -> str:
        """What `ModelInfo.price_source` says of a price from here."""
        return f"prices@{self.snapshot}"

    def provider(self, name: str, base_url: str | None = None) -> str | None:
        """The list's id for a provider of the table: by its name, then by the host that it points at.

        A name wins over the host, so that a provider behind a private proxy still has prices.
        """
        wanted = name.lower().strip()
        for known in (wanted, ALIASES.get(wanted, "")):
            if known in self.providers:
                return known
        for known, entry in self.providers.items():
            if "match" in entry and _matches(entry["match"], wanted):
                return known
        if base_url is not None:
            return next((known for known, entry in self.providers.items() if re.match(entry["url"], base_url)), None)
        return None

    def find(
        self, provider: str, model: str, *, base_url: str | None = None, at: datetime | None = None
    ) -> Quote | None:
        """The price of a model (native name or id) at that provider, and its context window; None when unpriced.

        `at` chooses among prices that change by date or by hour; a naive time is UTC. Without it the newest price
        holds, and of prices that change by the hour the dearest: a budget must not be overspent by a wrong guess.
        """
        known = self.provider(provider, base_url)
        if known is None:
            return None
        reference = model.lower()
        entry = self._entry(known, reference)
        if entry is None and (dashed := re.sub(_COMPACT_DATE, r"-\1-\2-\3", reference)) != reference:
            entry = self._entry(known, dashed)
        if entry is None:
            return None
        _, _, window, prices = entry
        chosen = _chosen(prices, at)
        price = _price(chosen) if chosen else None
        return None if price is None else Quote(price, window)

    def models(self, provider: str) -> list[Any]:
        """As `scripts/build_prices.py` has them."""
        entry = self.providers[provider]
        if isinstance(entry["models"], str):
            entry["models"] = orjson.loads(entry["models"])
        return list(entry["models"])

    def _entry(self, provider: str, reference: str) -> list[Any] | None:
        for name in (provider, *self.providers[provider].get("fallback", ())):
            for entry in self.models(name):
                if _matches(entry[0].lower() if entry[1] is None else entry[1], reference):
                    return list(entry)
        return None


@cache
def load_prices(path: Path = PRICES) -> PriceBook:
    """Read the price list, once in a process: some 300 KB, a millisecond. Not on a request's way.

    Raises OSError, and ValueError for a file that is not a price list.
    """
    try:
        data = orjson.loads(path.read_bytes())
        return PriceBook(data["snapshot"], data["library"], data["providers"])
    except (KeyError, TypeError, orjson.JSONDecodeError) as exc:
        raise ValueError(f"{path} is not a price list: run scripts/build_prices.py") from exc


_TESTS: dict[str, Callable[[Any, str], bool]] = {
    "starts_with": lambda text, name: name.startswith(text),
    "ends_with": lambda text, name: name.endswith(text),
    "contains": lambda text, name: text in name,
    "regex": lambda text, name: re.search(text, name) is not None,
    "and": lambda parts, name: all(_matches(part, name) for part in parts),
}


def _matches(clause: Any, name: str) -> bool:
    match clause:
        case str():
            return clause == name
        case list():
            return any(_matches(part, name) for part in clause)
        case _:
            return all(_TESTS[kind](text, name) for kind, text in clause.items())


def _chosen(prices: list[dict[str, Any]], at: datetime | None) -> dict[str, Any] | None:
    """The last price whose condition holds, else the first."""
    if not prices:
        return None
    if at is None:
        by_date = [price for price in prices if "hours" not in price]
        by_hour = [price for price in prices if "hours" in price]
        return max([*by_date[-1:], *by_hour], key=lambda price: (_pico_of(price, "input"), _pico_of(price, "output")))
    now = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return next((price for price in reversed(prices) if _holds(price, now)), prices[0])


def _holds(price: dict[str, Any], now: datetime) -> bool:
    if "from" in price:
        return now.date() >= date.fromisoformat(price["from"])
    if "hours" in price:
        start, end = map(time.fromisoformat, price["hours"])
        clock = now.time()
        return start <= clock < end if start <= end else clock >= start or clock < end
    return True


def _pico_of(price: dict[str, Any], name: str) -> int:
    return getattr(Price.per_million({name: price.get(name, "0")}), name) or 0


def _price(raw: dict[str, Any]) -> Price | None:
    """None for an entry without a price per token: one by the minute, the page or the search."""
    usd = {name: raw[name] for name in RATES if name in raw}
    if not usd:
        return None
    tiers = tuple(Tier(start, _rates(step)) for start, step in raw.get("tiers", ()))
    return _rates(raw, tiers)


def _rates(raw: dict[str, Any], tiers: tuple[Tier, ...] = ()) -> Price:
    usd = {name: raw[name] for name in RATES if name in raw}
    return Price.per_million(usd, tiers, thousand_requests=raw.get("thousand_requests"))
