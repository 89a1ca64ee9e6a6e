"""The models of the shipped routes.toml against the shipped price list."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

from each import each

from proxy.catalog import CAPABILITIES, Price, load_prices

ROUTES: dict[str, Any] = tomllib.loads(
    (Path(__file__).parents[2] / "routes.toml").read_text(encoding="utf-8"), parse_float=Decimal
)
MODELS: dict[str, dict[str, Any]] = ROUTES["models"]
BOOK = load_prices()
UNPRICED = {"mistral/7b"}  # its provider publishes no price


def _lists() -> dict[str, list[str]]:
    auto = {f"auto.{name}": entries for name, entries in ROUTES["auto"].items() if name != "safe"}
    industries = {f"industry:{tag}": section["models"] for tag, section in ROUTES["industries"].items()}
    profiles = {
        f"profile:{name}": [c if isinstance(c, str) else c["model"] for c in section["candidates"]]
        for name, section in ROUTES["profiles"].items()
    }
    return auto | industries | profiles


@each("id", MODELS)
def test_a_model_is_described_in_full(id: str) -> None:
    entry = MODELS[id]
    assert entry["provider"] in ROUTES["providers"]
    assert set(entry["capabilities"]) <= CAPABILITIES
    assert 0 <= entry["quality"] <= 100
    assert 0 <= entry["reasoning"] <= 100
    assert entry["context"] > 0


@each("id", MODELS)
def test_a_model_has_a_price_from_one_place_or_the_other(id: str) -> None:
    entry = MODELS[id]
    quote = BOOK.find(entry["provider"], entry.get("native", id))
    assert ("price" in entry or quote is not None) == (id not in UNPRICED)


@each("id", [id for id, entry in MODELS.items() if entry["provider"] == "workers-ai"])
def test_a_price_written_out_is_the_one_in_the_list(id: str) -> None:
    entry = MODELS[id]
    quote = BOOK.find("workers-ai", entry["native"])
    written = Price.per_million(entry["price"]) if "price" in entry else None
    assert written == (quote.price if quote is not None else None)


@each(("name", "entries"), _lists().items(), ids=list(_lists()))
def test_a_list_names_models_that_exist_once_each(name: str, entries: list[str]) -> None:
    assert len(set(entries)) == len(entries)
    assert all(entry in MODELS or entry.startswith("strategy:") for entry in entries)


@each("tag", ROUTES["industries"])
def test_an_industry_never_hangs_on_one_provider(tag: str) -> None:
    providers = {MODELS[id]["provider"] for id in ROUTES["industries"][tag]["models"] if id in MODELS}
    assert "workers-ai" in providers
    assert len(providers) > 1


def test_all_ten_industries_and_all_six_classes_are_there() -> None:
    assert set(ROUTES["industries"]) == {
        "legal", "healthcare", "finance", "code", "creative", "support", "sales", "data", "education", "general",
    }  # fmt: skip
    assert set(ROUTES["auto"]) - {"safe"} == {
        "code", "reasoning", "summarization", "extraction", "chat", "long-context",
    }  # fmt: skip
