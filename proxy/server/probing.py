"""Active probes: providers with `probe` are asked by the gateway itself whether they are well, whoever calls or not.

One task per provider, so many questions at a time in the process. A question is a GET of the provider's list of models,
or of `probe_path`. No connection, no answer in time, or a status of 500 and above is a failure; the second in a row
rests all of the provider's candidates. A status of 200 to 299 ends that, and lets those try again that rest for having
failed. Any other says that somebody is there, and nothing of how well: a wrong path rests nobody, and brings nobody
back. No request waits for any of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import structlog
from attrs import evolve, field

from proxy.catalog.lists import sources
from proxy.errors import GatewayError, Overloaded, UpstreamFailed, UpstreamTimeout
from proxy.metrics import Metrics
from proxy.record import define, frozen
from proxy.routing.table import OFF, Provider, Table
from proxy.server import inquiry, rounds
from proxy.server.outgoing import behind_base
from proxy.server.snapshot import Snapshot

log = structlog.get_logger()
DEADLINE = 5.0  # seconds of one probe, or its interval where that is less
AT_ONCE = 8  # probes under way
FAILS = 2  # in a row until the provider rests
AGAIN = 1.0  # seconds until the second question, where the first one failed
JITTER = 0.1  # share of the pause, either way: gateways that started together drift apart
LISTS = {"gemini": "/v1beta/models"}  # where a dialect's list of models is no `Source` of the catalog

State = Literal["unknown", "well", "failing", "unclear"]


@frozen
class Target:
    """What is asked, and how often. Whatever changes of it begins anew."""

    provider: str
    base_url: str
    path: str
    rooted: bool
    every: float


@frozen
class Finding:
    """What the latest probes of a provider came to. `at` is the clock's, `ms` how long the answer took."""

    state: State = "unknown"
    failures: int = 0  # in a row
    detail: str = ""
    at: float = 0.0
    ms: int = 0

    @property
    def down(self) -> bool:
        return self.failures >= FAILS


def targets(table: Table) -> Iterator[Target]:
    """The providers that are probed: those that want it and could be called."""
    for provider in table.providers.values():
        every = provider.probe
        if every is not None and every < OFF and provider.configured and not provider.embedded:
            path, rooted = provider.probe_path or list_path(provider), provider.probe_path is not None
            yield Target(provider.name, provider.base_url, path, rooted, every)


def list_path(provider: Provider) -> str:
    dialect = provider.dialects[0]
    path = LISTS.get(dialect)
    if path is None:
        path = sources(dialect, provider.name, provider.base_url, local=provider.local)[0].path
    return behind_base(provider, path)


@define(eq=False)
class Probing:
    """One per process. `clock` is the one that health counts by; `pause` waits that many seconds."""

    current: Callable[[], Snapshot]
    metrics: Metrics
    dice: Callable[[], float]
    clock: Callable[[], float]
    instance: str  # this process, in the hop header
    pause: Callable[[float], Awaitable[Any]] = asyncio.sleep
    _found: dict[Target, Finding] = field(factory=dict)
    _gate: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(AT_ONCE))
    _moved: asyncio.Event = field(factory=asyncio.Event)

    def moved(self) -> None:
        """Another table is in force: forgets what is not probed any more, or elsewhere now."""
        wanted = set(targets(self.current().table))
        for left in [target for target in self._found if target not in wanted]:
            del self._found[left]
            self.current().world.health.forget_probes(left.provider)
        self._moved.set()

    async def run(self) -> None:
        """For ever: one task for each provider that the table in force wants probed."""
        await rounds.keep(lambda: targets(self.current().table), self._moved, self._watch)

    async def _watch(self, target: Target) -> None:
        await self.pause(self.dice() * min(AGAIN, target.every))
        while True:
            finding = await self.probe(target)
            once = 0 < finding.failures < FAILS
            wait = min(AGAIN, target.every) if once else target.every
            await self.pause(wait * (1 - JITTER + 2 * JITTER * self.dice()))

    def told(self, provider: str) -> dict[str, Any] | None:
        """For the admin listener; None where it is not probed."""
        found = next((target for target in targets(self.current().table) if target.provider == provider), None)
        if found is None:
            return None
        finding = self._found.get(found, Finding())
        seen = finding.state != "unknown"
        return {
            "every_s": found.every,
            "path": found.path,
            "state": finding.state,
            "failures": finding.failures,
            "detail": finding.detail,
            "ms": finding.ms if seen else None,
            "ago_s": round(self.clock() - finding.at, 1) if seen else None,
        }

    def up(self) -> dict[tuple[str | None, ...], float]:
        """For the metrics: 1 where somebody answered the last question, 0 where it failed."""
        return {(target.provider,): float(not finding.failures) for target, finding in self._found.items()}

    # -- one probe -------------------------------------------------------------------------------------------

    async def probe(self, target: Target) -> Finding:
        """Asks once. What follows from it is in force when this returns."""
        async with self._gate:
            snapshot, began = self.current(), self.clock()
            provider = snapshot.table.providers.get(target.provider)
            if provider is None or target not in targets(snapshot.table):
                return Finding()  # a reload took it away meanwhile
            before = self._found.get(target, Finding())
            snapshot.users += 1  # its connections stay open meanwhile
            try:
                status = await self._asked(snapshot, provider, target)
            except Overloaded:
                return before  # all its connections are in use: requests find out how it is
            except GatewayError as exc:
                found = Finding("failing", before.failures + 1, f"{exc.code}: {exc.detail or exc.message}"[:200])
                self._failed(target, found, exc.code)
            else:
                found = Finding("well" if status < 300 else "unclear", 0, f"status {status}")
                self._answered(target, before, found)
            finally:
                snapshot.users -= 1
        now = self.clock()
        self._found[target] = found = evolve(found, at=now, ms=round((now - began) * 1000))
        return found

    async def _asked(self, snapshot: Snapshot, provider: Provider, target: Target) -> int:
        """The status, where it is below 500. Raises GatewayError."""
        try:
            async with asyncio.timeout(min(DEADLINE, target.every)):
                status, body = await inquiry.ask(
                    snapshot, provider, self.instance, target.path, rooted=target.rooted, queueing=False
                )
        except TimeoutError as exc:
            raise UpstreamTimeout("The probe was not answered in time.") from exc
        if status >= 500:
            raise UpstreamFailed("The probe failed.", detail=f"status {status}")
        if status == 200 and not target.rooted and body.lstrip().startswith(b"<"):
            raise UpstreamFailed("The probe was answered with a page.", detail="a page under 200")
        return status

    def _failed(self, target: Target, found: Finding, code: str) -> None:
        self.metrics.probe_failed(target.provider)
        if not found.down:
            return
        seconds = 3 * target.every + DEADLINE  # the next probe says it anew; whoever does not come back is not kept out
        self.current().world.health.found_down(target.provider, seconds, code, self.clock())
        if found.failures == FAILS:
            log.warning("provider_down", provider=target.provider, outcome=code, detail=found.detail)

    def _answered(self, target: Target, before: Finding, found: Finding) -> None:
        health, recovered = self.current().world.health, before.down
        if found.state == "well":
            health.found_well(target.provider, self.clock(), recovered=recovered)
        else:
            health.forget_probes(target.provider)
            if before.state != "unclear":
                log.warning("probe_unclear", provider=target.provider, path=target.path, detail=found.detail)
        if recovered:
            log.info("provider_back", provider=target.provider, detail=found.detail)
