"""What one provider's lists have said so far: who is there, and who was until lately."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import field

from proxy.catalog.lists import Listed
from proxy.record import define, frozen

PATIENCE = 10  # lists without a model until it is forgotten


@frozen
class Change:
    """What a list changed, by native name. `altered` are those of which it says something else than before."""

    added: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.gone or self.altered or self.forgotten)


@define
class Roster:
    """The last good list. A failed poll never gets here, so it changes nothing."""

    there: dict[str, Listed] = field(factory=dict)
    _gone: dict[str, Listed] = field(factory=dict)
    _missed: dict[str, int] = field(factory=dict)

    def take(self, listed: Iterable[Listed]) -> Change:
        """Whoever is not on the new list is gone; whoever is gone for `PATIENCE` lists is forgotten."""
        before, now = self.there, {model.native: model for model in listed}
        missing = [native for native in before if native not in now]
        self._gone = {native: model for native, model in self._gone.items() if native not in now}
        self._gone |= {native: before[native] for native in missing}
        self._missed = {native: self._missed.get(native, 0) + 1 for native in self._gone}
        forgotten = [native for native, missed in self._missed.items() if missed > PATIENCE]
        for native in forgotten:
            del self._gone[native], self._missed[native]
        self.there = now
        return Change(
            added=tuple(native for native in now if native not in before),
            gone=tuple(missing),
            altered=tuple(native for native, model in now.items() if before.get(native, model) != model),
            forgotten=tuple(forgotten),
        )

    def __iter__(self) -> Iterator[tuple[Listed, bool]]:
        """Each model and whether it is gone, in an order that does not depend on the provider's."""
        both = {**self._gone, **self.there}
        return ((both[native], native not in self.there) for native in sorted(both))
