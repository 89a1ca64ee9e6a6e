"""The catalog that one table makes: every model with its limits, prices and capabilities filled in.

What the table says wins over what the provider's list says, and that over the price library and the priors by family.
Names that only a pattern or `provider/native-id` covers are described when first asked for, and remembered within a
bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from attrs import define, field, frozen

from proxy.catalog import ModelInfo, Price, PriceBook, family
from proxy.routing.table import ModelEntry, PriceEntry, Table

REMEMBERED = 4096  # described pattern names; one more empties the memory


@frozen
class Discovered:
    """One model of a provider's own list. `gone` since the last list no longer has it."""

    id: str
    provider: str
    native: str
    context: int | None = None
    capabilities: frozenset[str] | None = None
    gone: bool = False


@define
class Models:
    """Catalog of one table. `listed` are the models with a name of their own: what `strategy:` chooses from."""

    table: Table
    book: PriceBook
    listed: Mapping[str, ModelInfo] = field(factory=dict)
    gone: frozenset[str] = frozenset()
    _described: dict[tuple[str, str], ModelInfo] = field(factory=dict, repr=False)

    @classmethod
    def build(cls, table: Table, book: PriceBook, discovered: Iterable[Discovered] = ()) -> Models:
        models = cls(table, book)
        listed = {id: models._of_entry(entry) for id, entry in table.models.items()}
        gone = set()
        for found in discovered:
            if found.provider in table.providers and found.id not in listed and found.id not in table.aliases:
                listed[found.id] = models._of_discovered(found)
                if found.gone:
                    gone.add(found.id)
        models.listed, models.gone = listed, frozenset(gone)
        return models

    def describe(self, id: str, provider: str, native: str) -> ModelInfo:
        """What is known of a name that nobody listed."""
        key = (provider, id)
        found = self._described.get(key)
        if found is None:
            if len(self._described) >= REMEMBERED:
                self._described.clear()
            found = self._described[key] = self._of_entry(ModelEntry(id, provider, native))
        return found

    def _of_discovered(self, found: Discovered) -> ModelInfo:
        entry = ModelEntry(found.id, found.provider, found.native, found.context, capabilities=found.capabilities)
        return self._of_entry(entry)

    def _of_entry(self, entry: ModelEntry) -> ModelInfo:
        provider = self.table.providers[entry.provider]
        prior = family(entry.native if entry.native != entry.id else entry.id)
        if prior.name == "unknown":
            prior = family(entry.id)
        free = provider.embedded or provider.local
        quote = None if free else self.book.find(entry.provider, entry.native, base_url=provider.base_url)
        price, source = _price(entry.price, quote.price if quote else None, self.book.source)
        if price is None and free:
            price, source = FREE, "local"
        return ModelInfo(
            id=entry.id,
            provider=entry.provider,
            native=entry.native,
            context=entry.context or (quote.context_window if quote else None) or prior.context,
            max_output=entry.max_output,
            price=price,
            price_source=source,
            capabilities=entry.capabilities
            if entry.capabilities is not None
            else (None if prior.name == "unknown" else prior.capabilities),
            quality=entry.quality if entry.quality is not None else prior.quality,
            reasoning=entry.reasoning if entry.reasoning is not None else prior.reasoning,
            local=provider.local,
        )


FREE = Price.per_million({"input": 0, "output": 0})  # what runs on one's own machines costs nothing by the token


def _price(entry: PriceEntry | None, quoted: Price | None, source: str) -> tuple[Price | None, str | None]:
    if entry is not None:
        classes: dict[str, Decimal | None] = {
            "input": entry.input,
            "output": entry.output,
            "cache_read": entry.cache_read,
            "cache_write_5m": entry.cache_write,
            "cache_write_1h": entry.cache_write_1h,
        }
        return Price.per_million({name: usd for name, usd in classes.items() if usd is not None}), "table"
    return quoted, source if quoted is not None else None
