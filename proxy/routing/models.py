"""The catalog that one table makes: every model with its limits, prices and capabilities filled in.

What the table says wins over what the provider's list says, and that over the price library and the priors by family.
Names that only a pattern or `provider/native-id` covers are described when first asked for, and remembered within a
bound. Where such a name means a model that is listed, that one's price, limits and timeouts hold.

A model that only its provider's list names goes by its own name. Where that name means something else already, to the
table or to a provider that stands before its own in the file, it goes by `provider/native-id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Literal

from attrs import evolve, field

from proxy.catalog import Family, Listed, ModelInfo, Price, PriceBook, Quote, chats, family
from proxy.catalog.families import UNKNOWN
from proxy.record import define, frozen
from proxy.routing import directive
from proxy.routing.names import find_pattern, split_native
from proxy.routing.table import ModelEntry, PriceEntry, Table
from proxy.secret import holds_key

REMEMBERED = 4096  # described pattern names; one more empties the memory


@frozen
class Discovered:
    """One model of a provider's own list. `gone` since the last list no longer has it."""

    provider: str
    listed: Listed
    gone: bool = False


@frozen
class Meaning:
    """What a name stands for: a model (`info`) or other names (`targets`). `why` is told to the client."""

    by: Literal["model", "alias", "profile", "pattern", "native"]
    why: str
    info: ModelInfo | None = None
    targets: tuple[str, ...] = ()


@define
class Models:
    """Catalog of one table. `listed` are the models with a name of their own: what `strategy:` chooses from.

    `also` are further names of listed ones, as Ollama's `llama3.1` is of `llama3.1:latest`; `gone` are ids.
    """

    table: Table
    book: PriceBook
    listed: Mapping[str, ModelInfo] = field(factory=dict)
    also: Mapping[str, str] = field(factory=dict)
    gone: frozenset[str] = frozenset()
    _found: dict[tuple[str, str], Discovered] = field(factory=dict, repr=False)  # by provider and native name
    _described: dict[tuple[str, str], ModelInfo] = field(factory=dict, repr=False)
    _ids: dict[tuple[str, str], str] = field(factory=dict, repr=False)  # listed ones by provider and native name
    _names: dict[tuple[str, str], tuple[str, ...]] = field(factory=dict, repr=False)  # by provider and id

    @classmethod
    def build(cls, table: Table, book: PriceBook, discovered: Iterable[Discovered] = ()) -> Models:
        models = cls(table, book)
        place = {name: number for number, name in enumerate(table.providers)}
        # A name that one provider has lost is another's that has it.
        ordered = sorted(
            (found for found in discovered if found.provider in place),
            key=lambda found: (found.gone, place[found.provider]),
        )
        for found in ordered:
            for native in (found.listed.native, *found.listed.also):
                models._found.setdefault((found.provider, native), found)
        models._list(ordered)
        return models

    def find(self, name: str) -> ModelInfo | None:
        """A listed model by its id or another name of its own."""
        return self.listed.get(self.also.get(name, name))

    def meaning(self, name: str) -> Meaning | None:
        """The first hit: id, alias, profile, the longest provider pattern, `provider/native-id`; None for no name."""
        table = self.table
        if (info := self.find(name)) is not None:
            return Meaning("model", f"model {info.id}", info)
        if (targets := table.aliases.get(name)) is not None:
            return Meaning("alias", f"alias {name} -> {', '.join(targets)}", targets=targets)
        if (profile := table.profiles.get(name)) is not None:
            return Meaning("profile", f"profile {name}", targets=profile.models)
        if holds_key(name):
            return None  # in a wrong place; no pattern may hand it to another provider than its own
        if (found := find_pattern(name, table.providers.values())) is not None:
            provider, pattern = found
            info = self.describe(name, provider.name, name)
            return Meaning("pattern", f"pattern {pattern} -> {provider.name}", info)
        if (named := split_native(name, table.providers)) is not None:
            provider, native = named
            info = self.describe(name, provider.name, native)
            return Meaning("native", f"{provider.name}'s own name {native}", info)
        return None

    def is_discovered(self, info: ModelInfo) -> bool:
        """Whether its provider's own list has it."""
        found = self._found.get((info.provider, info.native))
        return found is not None and not found.gone

    def describe(self, id: str, provider: str, native: str) -> ModelInfo:
        """What is known of a name that nobody listed."""
        key = (provider, id)
        found = self._described.get(key)
        if found is None:
            if len(self._described) >= REMEMBERED:
                self._described.clear()
            found = self._described[key] = self._otherwise(id, provider, native)
        return found

    def _otherwise(self, id: str, provider: str, native: str) -> ModelInfo:
        found = self._found.get((provider, native))
        listed_as = self._ids.get((provider, found.listed.native if found is not None else native))
        entry = self.table.models.get(listed_as) if listed_as is not None else None
        info = self._of_entry(ModelEntry(id, provider, native, price=entry.price if entry is not None else None))
        return evolve(info, listed_as=listed_as)

    def names(self, info: ModelInfo) -> tuple[str, ...]:
        """All that this very model may be asked for by: a boundary that goes by names holds for each of them. Two
        entries of the table are two models, also where they mean the same one of a provider."""
        key = (info.provider, info.id)
        names = self._names.get(key)
        if names is None:
            if len(self._names) >= REMEMBERED + len(self.listed):
                self._names.clear()
            names = self._names[key] = tuple(dict.fromkeys(self._all_names(info)))
        return names

    def _all_names(self, info: ModelInfo) -> Iterator[str]:
        yield info.terms_id
        yield info.id
        found = self._found.get((info.provider, info.native))
        for native in (info.native, *(found.listed.also if found is not None else ())):
            yield f"{info.provider}/{native}"
            if native == info.id:
                continue  # as it is of nearly all that a list has
            meaning = self.meaning(native)
            other = meaning.info if meaning is not None else None
            if other is not None and _place(other) == _place(info) and other.id not in self.table.models:
                yield native

    def _list(self, discovered: Iterable[Discovered]) -> None:
        listed = {id: self._of_entry(entry) for id, entry in self.table.models.items()}
        gone = {id for id, entry in self.table.models.items() if self._is_gone(entry)}
        also: dict[str, str] = {}
        for found in discovered:
            provider, native = found.provider, found.listed.native
            entry = self.table.models.get(native)
            if entry is not None and self._found.get((entry.provider, entry.native)) is found:
                continue  # the table's entry of that name is this very model
            id = native if native not in listed and self._is_free(native, provider) else f"{provider}/{native}"
            if id in listed or id in self.table.aliases:
                continue
            listed[id] = self._of_entry(ModelEntry(id, provider, native))
            if found.gone:
                gone.add(id)
            for name in found.listed.also:
                if name not in listed and self._is_free(name, provider):
                    also.setdefault(name, id)
        self.listed, self.gone = listed, frozenset(gone)
        self.also = {name: id for name, id in also.items() if name not in listed}
        for id, info in listed.items():
            if id == info.native or _place(info) not in self._ids:
                self._ids[_place(info)] = id

    def _is_gone(self, entry: ModelEntry) -> bool:
        found = self._found.get((entry.provider, entry.native))
        return found is not None and found.gone

    def _is_free(self, name: str, provider: str) -> bool:
        """Whether the table leaves the name to whoever lists it. A pattern of another provider claims what it matches,
        but not from the operator's own machines: their `gpt-oss:20b` is no OpenAI's `gpt-*`."""
        table = self.table
        if name in table.models or name in table.aliases or name in table.profiles:
            return False
        if directive.parse(name, lambda _: False).kind != "name" or name.partition("/")[0] in table.providers:
            return False
        patterns = {pattern for other in table.providers.values() if other.name != provider for pattern in other.models}
        if table.providers[provider].local:
            return name not in patterns
        return not any(fnmatchcase(name, pattern) for pattern in patterns)

    # -- one model -------------------------------------------------------------------------------------------

    def _of_entry(self, entry: ModelEntry) -> ModelInfo:
        provider = self.table.providers[entry.provider]
        found = self._found.get((entry.provider, entry.native))
        listed = found.listed if found is not None else Listed(entry.native)
        prior = _prior(listed.kin, entry.native, entry.id)
        free = provider.embedded or provider.local
        priced = entry.price is not None or listed.price is not None
        if free or (priced and (entry.context or listed.context)):
            quote = None  # the price list would have nothing to say
        else:
            quote = self.book.find(entry.provider, listed.native, base_url=provider.base_url)
        price, source = self._price(entry.price, listed.price, quote, free=free)
        return ModelInfo(
            id=entry.id,
            provider=entry.provider,
            native=listed.native,
            context=entry.context or listed.context or (quote.context_window if quote else None) or prior.context,
            max_output=entry.max_output or listed.max_output,
            price=price,
            price_source=source,
            capabilities=_first(entry.capabilities, listed.capabilities, _capabilities(prior)),
            guessed=entry.capabilities is None and listed.capabilities is None,
            context_guessed=entry.context is None and listed.context is None,
            quality=entry.quality if entry.quality is not None else prior.quality,
            reasoning=entry.reasoning if entry.reasoning is not None else prior.reasoning,
            local=provider.local,
            chat=listed.chat if listed.chat is not None else chats(entry.id) and chats(listed.native),
        )

    def _price(
        self, entry: PriceEntry | None, listed: Price | None, quote: Quote | None, *, free: bool
    ) -> tuple[Price | None, str | None]:
        """And who says so."""
        if entry is not None:
            return _of_table(entry), "table"
        if listed is not None:
            return listed, "provider"
        if free:
            return FREE, "local"
        return (quote.price, self.book.source) if quote is not None else (None, None)


def _place(info: ModelInfo) -> tuple[str, str]:
    return info.provider, info.native


FREE = Price.per_million({"input": 0, "output": 0})  # what runs on one's own machines costs nothing by the token


def _of_table(entry: PriceEntry) -> Price:
    classes: dict[str, Decimal | None] = {
        "input": entry.input,
        "output": entry.output,
        "cache_read": entry.cache_read,
        "cache_write_5m": entry.cache_write,
        "cache_write_1h": entry.cache_write_1h,
    }
    return Price.per_million({name: usd for name, usd in classes.items() if usd is not None})


def _prior(*names: str) -> Family:
    """Of the first name that tells a family. No name at all would be compared with the pattern of every one."""
    return next((prior for prior in map(family, filter(None, names)) if prior is not UNKNOWN), UNKNOWN)


def _capabilities(prior: Family) -> frozenset[str] | None:
    return None if prior is UNKNOWN else prior.capabilities


def _first(*values: frozenset[str] | None) -> frozenset[str] | None:
    return next((value for value in values if value is not None), None)
