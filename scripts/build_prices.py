#!/usr/bin/env python3
"""Write proxy/data/prices.json from the `genai-prices` library.

    pip install genai-prices
    python scripts/build_prices.py

The gateway never imports that library: it costs 0.15 s and 16 MB, and this file loads in a millisecond. The output
depends on nothing but the library's version, so two people who run this get the same bytes and the same snapshot id.

What is kept, per provider (`PROVIDERS` below): how it is recognised (`match`, `url`), whose models it also sells
(`fallback`), and its models as `[id, match, context window or null, prices]`; `match` is null where it is the id. They
stand in a text of JSON, which is decoded when a table has models of that provider.

    clause   "text" (equal) | [clause, ...] (any) | {"starts_with" | "ends_with" | "contains" | "regex": text}
             | {"and": [clause, ...]}; all compare in lower case
    prices   a list of conditions, the last that holds wins and the first is the fallback:
             {"from": "YYYY-MM-DD"} or {"hours": ["HH:MM", "HH:MM"]} in UTC, beside the price itself
    price    USD per million tokens as decimal strings; `tiers` are long-context steps `[start, price]`: once the whole
             input is longer than `start` tokens, all tokens cost that price

What is left out: prices that are neither per token nor per request (pages, minutes, searches), image and video tokens,
batch and priority tiers, and providers that resell through a hub nobody points a gateway at.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from datetime import date, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parents[1] / "proxy" / "data" / "prices.json"

PROVIDERS = (
    "anthropic", "aws", "azure", "baseten", "cerebras", "cloudflare", "cohere", "databricks", "deepseek", "fireworks",
    "google", "groq", "meta", "minimax", "mistral", "moonshotai", "novita", "openai", "openrouter", "ovhcloud",
    "perplexity", "together", "voyageai", "x-ai", "zai", "zhipuai",
)  # fmt: skip

CLASSES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write_5m",  # the library's plain cache write is the five-minute one
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
    "requests_kcount": "thousand_requests",  # a fee beside the tokens
}
FREE = {"input": "0", "output": "0"}

try:
    types: Any = importlib.import_module("genai_prices.types")
    providers: Any = importlib.import_module("genai_prices.data").providers
except ImportError:
    sys.exit("genai-prices is not installed: pip install genai-prices")


def clause(logic: Any) -> Any:
    """The library's match logic in the file's shorter form."""
    match logic:
        case types.ClauseEquals(equals=text):
            return text.lower()
        case types.ClauseOr(or_=parts):
            return [clause(part) for part in parts]
        case types.ClauseAnd(and_=parts):
            return {"and": [clause(part) for part in parts]}
        case types.ClauseRegex(regex=text):
            return {"regex": text}
        case types.ClauseStartsWith(starts_with=text):
            return {"starts_with": text.lower()}
        case types.ClauseEndsWith(ends_with=text):
            return {"ends_with": text.lower()}
        case types.ClauseContains(contains=text):
            return {"contains": text.lower()}
    raise TypeError(f"unknown match clause {logic!r}: teach this script what it means")


def usd(value: Decimal) -> str:
    """Plain decimal, never an exponent: `0.00000035`, not `3.5E-7`."""
    return f"{value.normalize():f}"


def price(prices: Any) -> dict[str, Any]:
    """One price with its long-context steps; each step is complete in itself."""
    known = {ours: value for theirs, ours in CLASSES.items() if (value := getattr(prices, theirs)) is not None}
    starts = sorted({t.start for v in known.values() if isinstance(v, types.TieredPrices) for t in v.tiers})

    def at(start: int) -> dict[str, str]:
        found = {}
        for name, value in known.items():
            if isinstance(value, types.TieredPrices):
                reached = [tier.price for tier in value.tiers if tier.start <= start]
                found[name] = usd(reached[-1] if reached else value.base)
            else:
                found[name] = usd(value)
        return found

    base: dict[str, Any] = dict(at(-1))
    if starts:
        base["tiers"] = [[start, at(start)] for start in starts]
    return base


def condition(constraint: Any) -> dict[str, Any]:
    match constraint:
        case None:
            return {}
        case types.StartDateConstraint(start_date=date() as start):
            return {"from": start.isoformat()}
        case types.TimeOfDateConstraint(start_time=time() as start, end_time=time() as end):
            if any(t.utcoffset() for t in (start, end)):
                raise ValueError(f"a window that is not in UTC: {constraint!r}")
            return {"hours": [start.strftime("%H:%M"), end.strftime("%H:%M")]}
    raise TypeError(f"unknown price condition {constraint!r}: teach this script what it means")


def model(info: Any) -> list[Any]:
    conditions = info.prices if isinstance(info.prices, list) else [None]
    prices = [
        {**condition(c.constraint), **price(c.prices)} if c else price(info.prices) for c in conditions
    ]  # fmt: skip
    if not any(prices):
        # No price at all says "free" of OpenRouter's free variants and nothing of the others: unknown.
        prices = [FREE] if info.id.endswith(":free") else []
    match_ = clause(info.match)
    return [info.id, None if match_ == info.id.lower() else match_, info.context_window, prices]


def provider(info: Any) -> dict[str, Any]:
    found = {
        "match": clause(info.provider_match) if info.provider_match else None,
        "url": info.api_pattern,
        "fallback": [p for p in info.fallback_model_providers or [] if p in PROVIDERS] or None,
        "models": [model(m) for m in info.models],
    }
    return {name: value for name, value in found.items() if value is not None}


def compact(tree: Any) -> str:
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False)


def main() -> int:
    known = {p.id: p for p in providers}
    if missing := [name for name in PROVIDERS if name not in known]:
        print(f"the library no longer has {', '.join(missing)}: correct PROVIDERS", file=sys.stderr)
        return 1
    content = {name: provider(known[name]) for name in PROVIDERS}
    body = compact(content)
    head = {
        "library": f"genai-prices {version('genai-prices')}",
        "licence": "MIT, copyright Pydantic Services Inc. and contributors; https://github.com/pydantic/genai-prices",
        "snapshot": hashlib.sha256(body.encode()).hexdigest()[:12],
    }
    text = compact(head | {"providers": {name: it | {"models": compact(it["models"])} for name, it in content.items()}})
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(text + "\n", encoding="utf-8")
    count = sum(len(p["models"]) for p in content.values())
    print(f"{OUTPUT}: {len(text.encode()):,} bytes, {count:,} models, snapshot {head['snapshot']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
