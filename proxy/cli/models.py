"""`models`: the catalog of a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from proxy.catalog import ModelInfo, load_prices
from proxy.cli.words import Commands, config_option, print_json, table_of
from proxy.routing.models import Models

COLUMNS = ("model", "provider", "native", "context", "USD/M in", "USD/M out", "capabilities", "state")


def models(options: argparse.Namespace) -> int:
    """What the table offers: price, window, capabilities, and whether it could be called now."""
    table = table_of(options.config)
    listed = Models.build(table, load_prices()).listed
    rows: list[tuple[str, ...]] = [COLUMNS]
    for id, info in listed.items():
        provider = table.providers[info.provider]
        state = "ready" if provider.configured else provider.missing or provider.missing_key or "disabled"
        prices = (info.price.input, info.price.output) if info.price else (None, None)
        usd = [f"{rate / 1e6:g}" if rate is not None else "?" for rate in prices]
        context = f"{info.context:,}" if info.context else "?"
        rows.append((id, info.provider, info.native, context, *usd, " ".join(sorted(info.capabilities or ())), state))
    if options.json:
        print_json([_as_json(info, row[-1]) for info, row in zip(listed.values(), rows[1:], strict=True)])
    elif options.markdown:
        print("\n".join(_markdown([row[:-1] for row in rows])))
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _as_json(info: ModelInfo, state: str) -> dict[str, Any]:
    """Prices in USD per million tokens; null is unknown."""
    return {
        "model": info.id,
        "provider": info.provider,
        "native": info.native,
        "context": info.context,
        "input_usd_per_million": info.price.input / 1e6 if info.price and info.price.input is not None else None,
        "output_usd_per_million": info.price.output / 1e6 if info.price and info.price.output is not None else None,
        "capabilities": sorted(info.capabilities) if info.capabilities is not None else None,
        "state": state,
    }


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *rest]


def add(commands: Commands) -> None:
    listing = commands.add("models", models, "pointsman models --markdown > docs/models.md")
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--markdown", action="store_true", help="a Markdown table, less the state")
    config_option(listing)
