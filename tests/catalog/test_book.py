from __future__ import annotations

import importlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from each import each

from proxy.catalog import Price, PriceBook, load_prices
from proxy.ir import Usage

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
USAGE = Usage(input=1_000, cache_read=2_000, cache_write_5m=300, output=400)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return load_prices()


def _entry(id: str, *prices: dict[str, Any], match: Any = None, window: int | None = None) -> list[Any]:
    return [id, match, window, list(prices)]


SMALL = PriceBook(
    "abc",
    "test",
    {
        "alpha": {
            "url": r"https://api\.alpha\.test",
            "match": {"contains": "alpha"},
            "fallback": ["beta"],
            "models": [
                _entry("exact", {"input": "1", "output": "2"}, window=4_096),
                _entry("any", {"input": "3", "output": "4"}, match=["one", {"starts_with": "two-"}]),
                _entry("rx", {"input": "5", "output": "6"}, match={"regex": r"^three-\d{4}-\d{2}-\d{2}$"}),
                _entry("both", {"input": "7"}, match={"and": [{"starts_with": "fo"}, {"ends_with": "ur"}]}),
                _entry("unpriced"),
                _entry("by-the-minute", {"from": "2026-01-01"}),
                _entry("dated", {"input": "1"}, {"from": "2026-06-01", "input": "2"}),
                _entry("hourly", {"input": "1"}, {"hours": ["08:00", "16:00"], "input": "3"}),
                _entry("nightly", {"input": "1"}, {"hours": ["22:00", "06:00"], "input": "3"}),
            ],
        },
        "beta": {"url": r"https://beta\.test", "models": [_entry("lent", {"input": "9", "output": "9"})]},
        "gamma": {"url": r"https://gamma\.test", "match": "gamma", "fallback": ["alpha"], "models": []},
    },
)

FOUND = {
    "by its id": ("alpha", "exact", 1),
    "whatever its case": ("alpha", "EXACT", 1),
    "by one of several clauses": ("alpha", "two-fold", 3),
    "by an expression": ("alpha", "three-2026-01-02", 5),
    "a compact date is tried with dashes": ("alpha", "three-20260102", 5),
    "by all of several clauses": ("alpha", "fo-ur", 7),
    "at a provider whose models this one sells": ("alpha", "lent", 9),
    "by a name that only contains the provider's": ("my-alpha-eu", "exact", 1),
    "a lender's own lender is not asked": ("gamma", "lent", None),
    "an unknown model": ("alpha", "nothing", None),
    "an unknown provider": ("delta", "exact", None),
    "a model without a price": ("alpha", "unpriced", None),
    "a model without a price per token": ("alpha", "by-the-minute", None),
}


@each(("provider", "model", "usd"), FOUND.values(), ids=FOUND)
def test_finding_a_price(provider: str, model: str, usd: int | None) -> None:
    quote = SMALL.find(provider, model, at=NOON)
    assert (quote.price.input if quote else None) == (usd and usd * 1_000_000)


def test_a_window_comes_with_the_price() -> None:
    quote = SMALL.find("alpha", "exact")
    assert quote is not None
    assert quote.context_window == 4_096


def test_a_provider_of_any_name_is_known_by_its_host() -> None:
    assert SMALL.provider("cheap", "https://api.alpha.test/v1") == "alpha"
    assert SMALL.provider("cheap", "http://127.0.0.1:9/v1") is None


def test_a_known_name_keeps_its_prices_behind_another_host() -> None:
    assert SMALL.provider("alpha", "https://beta.test/v1") == "alpha"


WHEN = {
    "before its date": ("dated", datetime(2026, 5, 31, 23, 59, tzinfo=UTC), 1),
    "from its date on": ("dated", datetime(2026, 6, 1, tzinfo=UTC), 2),
    "the date is UTC's": ("dated", datetime(2026, 6, 1, 1, tzinfo=timezone(timedelta(hours=2))), 1),
    "without a time the newest": ("dated", None, 2),
    "within the hours": ("hourly", datetime(2026, 1, 1, 8, tzinfo=UTC), 3),
    "a naive time is UTC": ("hourly", datetime(2026, 1, 1, 15, 59), 3),
    "at their end": ("hourly", datetime(2026, 1, 1, 16, tzinfo=UTC), 1),
    "over midnight": ("nightly", datetime(2026, 1, 1, 23, tzinfo=UTC), 3),
    "after the night": ("nightly", datetime(2026, 1, 1, 6, tzinfo=UTC), 1),
    "without a time the dearest hour": ("hourly", None, 3),
}


@each(("model", "at", "usd"), WHEN.values(), ids=WHEN)
def test_prices_change_by_date_and_hour(model: str, at: datetime | None, usd: int) -> None:
    quote = SMALL.find("alpha", model, at=at)
    assert quote is not None
    assert quote.price.input == usd * 1_000_000


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"snapshot":"x"}', b"not json"])
def test_a_file_that_is_no_price_list_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a price list"):
        load_prices(path)


# -- the shipped list ----------------------------------------------------------------------------------------------

# USD per million tokens, from the providers' own pages.
FIGURES = {
    ("openai", "gpt-4o"): Price.per_million({"input": "2.5", "output": "10", "cache_read": "1.25"}),
    ("openai", "gpt-4o-mini"): Price.per_million({"input": "0.15", "output": "0.6", "cache_read": "0.075"}),
    ("anthropic", "claude-opus-4-8"): Price.per_million(
        {"input": "5", "output": "25", "cache_read": "0.5", "cache_write_5m": "6.25", "cache_write_1h": "10"}
    ),
    ("anthropic", "claude-haiku-4-5-20251001"): Price.per_million(
        {"input": "1", "output": "5", "cache_read": "0.1", "cache_write_5m": "1.25", "cache_write_1h": "2"}
    ),
    ("workers-ai", "@cf/meta/llama-3.3-70b-instruct-fp8-fast"): Price.per_million(
        {"input": "0.293", "output": "2.253"}
    ),
    ("workers-ai", "@cf/moonshotai/kimi-k2.6"): Price.per_million(
        {"input": "0.95", "output": "4", "cache_read": "0.16"}
    ),
}


@pytest.mark.parametrize(("provider", "model"), FIGURES, ids="/".join)
def test_published_figures(book: PriceBook, provider: str, model: str) -> None:
    quote = book.find(provider, model)
    assert quote is not None
    assert quote.price == FIGURES[provider, model]


def test_long_input_at_gemini_has_its_step(book: PriceBook) -> None:
    quote = book.find("gemini", "gemini-2.5-pro")
    assert quote is not None
    assert quote.price.cost_nanos(Usage(input=200_000, output=1_000)) == 250_000_000 + 10_000_000
    assert quote.price.cost_nanos(Usage(input=200_001, output=1_000)) == 500_002_500 + 15_000_000


def test_openrouters_free_variants_cost_nothing(book: PriceBook) -> None:
    free = [m[0] for m in book.models("openrouter") if m[0].endswith(":free")]
    quote = book.find("openrouter", free[0])
    assert quote is not None
    assert quote.price.cost_nanos(Usage(input=5, output=5)) == 0


@pytest.mark.parametrize("name", ["ollama", "vllm", "embedded", "mine"])
def test_local_providers_have_no_list_price(book: PriceBook, name: str) -> None:
    assert book.find(name, "llama3.1", base_url="http://localhost:11434") is None


def test_every_entry_can_be_read(book: PriceBook) -> None:
    names = [(provider, model[0]) for provider in book.providers for model in book.models(provider)]
    unpriced = [name for name in names if book.find(*name) is None]
    assert len(unpriced) < len(names) / 10


def test_the_source_names_the_snapshot(book: PriceBook) -> None:
    assert book.source == f"prices@{book.snapshot}"
    assert len(book.snapshot) == 12


def test_the_file_stays_small() -> None:
    path = Path(__file__).parents[2] / "proxy" / "data" / "prices.json"
    assert path.stat().st_size < 600_000
    assert orjson.loads(path.read_bytes())["library"].startswith("genai-prices ")


def _priced_alike(library: Any, book: PriceBook) -> Iterator[tuple[str, str, int | None, int]]:
    types = importlib.import_module("genai_prices.types")
    usage = library.Usage(
        input_tokens=USAGE.input_total, cache_read_tokens=2_000, cache_write_tokens=300, output_tokens=400
    )
    for provider in importlib.import_module("genai_prices.data").providers:
        for model in provider.models if provider.id in book.providers else ():
            prices = model.get_prices(NOON)
            per_token = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"}
            per_request = {key for key in vars(prices) if key == "requests_kcount"}
            if per_request or not {"input_mtok", "output_mtok"} <= vars(prices).keys() & per_token:
                continue
            total = prices.calc_price(types.Usage.from_raw(usage))["total_price"]
            quote = book.find(provider.id, model.id, at=NOON)
            if (
                quote is not None
                and library.data_snapshot.get_snapshot().find_provider_model(model.id, provider, None, None)[1] is model
            ):
                nanos = int((total * Decimal(10**9)).to_integral_value())
                yield provider.id, model.id, quote.price.cost_nanos(USAGE), nanos


def test_costs_are_those_of_the_library(book: PriceBook) -> None:
    library = pytest.importorskip("genai_prices", reason="the price library is no dependency: pip install genai-prices")
    if book.library != f"genai-prices {library.__version__}":
        pytest.skip(f"the list was built from {book.library}: run scripts/build_prices.py")
    compared = list(_priced_alike(library, book))
    assert len(compared) > 1_000
    assert [row for row in compared if row[2] != row[3]] == []
