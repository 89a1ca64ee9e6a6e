"""The live catalog: providers with `discover` are asked which models they have, and a change makes a new snapshot.

One task per provider, each with its own deadline. A poll that fails changes nothing: the last good list stands, and the
next poll waits longer. What was listed outlives reloads for as long as its provider keeps its base URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
from attrs import evolve, field

from proxy.catalog.lists import OLLAMA, SHOW, Listed, Source, read_show, sources
from proxy.catalog.roster import Change, Roster
from proxy.dialects import failures
from proxy.dialects.dialect import Reading
from proxy.errors import Foreign, GatewayError, UpstreamBroken
from proxy.metrics import Metrics
from proxy.record import define, frozen
from proxy.routing.models import Discovered
from proxy.routing.table import OFF, Provider, Table
from proxy.server import inquiry, rounds
from proxy.server.outgoing import behind_base
from proxy.server.snapshot import Snapshot
from proxy.wire import json_text

log = structlog.get_logger()
DEADLINE = 10.0  # seconds of one poll, with all that it asks
START = 0.25  # seconds within which the first polls are spread
JITTER = 0.1  # share of the interval, either way: gateways that started together drift apart
LEAST = 0.1  # seconds between two polls, whatever the table says
LONGEST = 120.0  # seconds between polls of a provider that keeps failing, unless its own interval is longer
SHOWN = 64  # models that one poll asks about one by one
NAMED = 10  # models in one log line
ABSENT = frozenset({404, 405, 501})  # there is no such list here


@frozen
class Place:
    """Where a list is and how often it is asked for. Whoever moves starts anew."""

    provider: str
    base_url: str
    interval: float


@define(eq=False)
class Watched:
    """What is known of one provider's list."""

    base_url: str
    roster: Roster = field(factory=Roster)
    source: Source | None = None
    failures: int = 0  # in a row
    shown: dict[tuple[str, str], Listed] = field(factory=dict)  # by native name and version


def places(table: Table) -> Iterator[Place]:
    """The providers that are polled: those that want it and could be called."""
    for provider in table.providers.values():
        interval = provider.discover
        if interval is not None and interval < OFF and provider.configured and not provider.embedded:
            yield Place(provider.name, provider.base_url, max(interval, LEAST))


@define(eq=False)
class Discovery:
    """One per process. `changed` puts the new lists into force; `models` are what it then asks for."""

    current: Callable[[], Snapshot]
    changed: Callable[[], Awaitable[None]]
    metrics: Metrics
    dice: Callable[[], float]
    instance: str  # this process, in the hop header: a gateway that lists itself would never end
    deadline: float = DEADLINE
    _watched: dict[str, Watched] = field(factory=dict)
    _moved: asyncio.Event = field(factory=asyncio.Event)

    def models(self, table: Table) -> list[Discovered]:
        """What the providers of this table are known to list."""
        return [found for place in places(table) for found in self._of(place, table)]

    def _of(self, place: Place, table: Table) -> Iterator[Discovered]:
        watched = self._watched.get(place.provider)
        if watched is None or watched.base_url != place.base_url:
            return
        there = set()
        for listed, gone in watched.roster:
            there |= {listed.native, *listed.also}
            yield Discovered(place.provider, listed, gone)
        if watched.source is OLLAMA:  # it has what it lists and nothing else
            for entry in table.models.values():
                if entry.provider == place.provider and entry.native not in there:
                    yield Discovered(place.provider, Listed(entry.native), gone=True)

    def moved(self) -> None:
        """Another table is in force: forgets whoever left it or is elsewhere now, and asks whoever came."""
        here = {place.provider: place.base_url for place in places(self.current().table)}
        self._watched = {name: seen for name, seen in self._watched.items() if here.get(name) == seen.base_url}
        self._moved.set()

    async def run(self) -> None:
        """For ever: one task for each provider that the table in force wants polled."""
        await rounds.keep(lambda: places(self.current().table), self._moved, self._watch)

    async def _watch(self, place: Place) -> None:
        await asyncio.sleep(self.dice() * min(START, place.interval))
        while True:
            try:
                await self.poll(place.provider)
            except Exception:
                log.exception("discovery_broke", provider=place.provider)
            await asyncio.sleep(self._pause(place))

    def _pause(self, place: Place) -> float:
        """Seconds until the next poll: twice as many after each failure, within a bound."""
        watched = self._watched.get(place.provider)
        failures = min(watched.failures, 16) if watched is not None else 0
        wait = min(place.interval * (1 << failures), max(place.interval, LONGEST))
        return wait * (1 - JITTER + 2 * JITTER * self.dice())

    # -- one poll --------------------------------------------------------------------------------------------

    async def poll(self, name: str) -> bool:
        """Whether the provider gave a list. What that changed is in force when this returns."""
        snapshot = self.current()
        provider = snapshot.table.providers.get(name)
        if provider is None or name not in snapshot.upstreams:
            return False
        watched = self._watched.get(name)
        if watched is None or watched.base_url != provider.base_url:
            watched = self._watched[name] = Watched(provider.base_url)
        snapshot.users += 1  # its connections stay open meanwhile
        try:
            listed = await self._listed(_Provider(snapshot, provider, self.instance), watched)
        except (GatewayError, TimeoutError, ValueError) as exc:
            self._failed(provider, watched, exc)
            return False
        finally:
            snapshot.users -= 1
        change = watched.roster.take(listed)
        self._told(provider, watched, change)
        if change:
            await self.changed()
        return True

    async def _listed(self, asked: _Provider, watched: Watched) -> list[Listed]:
        """Raises GatewayError, TimeoutError, or ValueError where no list can be read."""
        until = asyncio.get_running_loop().time() + self.deadline
        async with asyncio.timeout_at(until):
            source, listed = await asked.list()
        watched.source = source
        if source is not OLLAMA:
            return listed
        try:
            async with asyncio.timeout_at(until):
                await self._shown(asked, watched, listed)
        except TimeoutError:
            self.metrics.probe_failed(asked.provider.name)  # the list is here; the rest is asked for next time
        return [_detailed(model, watched.shown.get((model.native, model.version))) for model in listed]

    async def _shown(self, asked: _Provider, watched: Watched, listed: list[Listed]) -> None:
        """Before 0.30 Ollama's list says neither capabilities nor windows: each model is asked about, once."""
        keys = {(model.native, model.version): model for model in listed if model.capabilities is None}
        watched.shown = {key: known for key, known in watched.shown.items() if key in keys}
        for key in [key for key in keys if key not in watched.shown][:SHOWN]:
            try:
                watched.shown[key] = read_show(await asked.ask(SHOW, {"model": key[0]}), keys[key])
            except (GatewayError, ValueError):
                self.metrics.probe_failed(asked.provider.name)

    # -- telling ---------------------------------------------------------------------------------------------

    def _failed(self, provider: Provider, watched: Watched, exc: Exception) -> None:
        watched.failures += 1
        self.metrics.probe_failed(provider.name)
        if watched.failures == 1:
            outcome, detail = _reason(exc)
            kept = len(watched.roster.there)
            log.warning("discovery_failed", provider=provider.name, outcome=outcome, detail=detail, kept=kept)

    def _told(self, provider: Provider, watched: Watched, change: Change) -> None:
        recovered, watched.failures = watched.failures > 0, 0
        models = len(watched.roster.there)
        if change.added or change.gone:
            log.info(
                "models_discovered",
                provider=provider.name,
                models=models,
                added=list(change.added[:NAMED]),
                gone=list(change.gone[:NAMED]),
            )
        elif recovered:
            log.info("discovery_recovered", provider=provider.name, models=models)


@frozen
class _Provider:
    """One provider, asked by a poll."""

    snapshot: Snapshot
    provider: Provider
    instance: str

    async def list(self) -> tuple[Source, list[Listed]]:
        """From the first place that has a list. Raises ValueError where none has."""
        provider = self.provider
        problems = []
        for source in sources(provider.dialects[0], provider.name, provider.base_url, local=provider.local):
            try:
                return source, source.read(await self.ask(source.path))
            except ValueError as exc:
                problems.append(f"{source.path}: {exc}")
        raise ValueError("; ".join(problems))

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON at that path. Raises ValueError where there is nothing, GatewayError for any other failure."""
        provider = self.provider
        sent = b"" if body is None else json_text.write(body)
        status, content = await inquiry.ask(self.snapshot, provider, self.instance, behind_base(provider, path), sent)
        if status in ABSENT:
            raise ValueError(f"status {status}")
        if status != 200:
            raise failures.of_status(status, Reading(own=False), Foreign(status, b""))
        try:
            return json_text.read(content)
        except ValueError as exc:
            raise UpstreamBroken("The list is no JSON.", detail=str(exc)[:200]) from exc


def _detailed(model: Listed, known: Listed | None) -> Listed:
    if known is None:
        return model
    return evolve(model, context=known.context, capabilities=known.capabilities, chat=known.chat)


def _reason(exc: Exception) -> tuple[str, str]:
    match exc:
        case GatewayError():
            return exc.code, exc.detail[:200]
        case TimeoutError():
            return "upstream_timeout", "the list did not come in time"
    return "no_list", str(exc)[:200]
