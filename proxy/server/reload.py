"""From routes.toml to the snapshot that new requests take. All or nothing: a bad file leaves what serves as it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from attrs import asdict, field

from proxy.accounts.admission import Gate
from proxy.accounts.asking import budget_terms
from proxy.accounts.books import Books, Terms
from proxy.accounts.budget import BudgetTerms
from proxy.accounts.keys import KeyRing
from proxy.accounts.limits import NO_LIMITS, LimitTerms
from proxy.catalog import PriceBook
from proxy.dialects import UPSTREAMS
from proxy.record import define
from proxy.routing.affinity import Affinity
from proxy.routing.health import Health
from proxy.routing.latency import Latencies
from proxy.routing.loading import EXPOSED, load
from proxy.routing.models import Discovered, Models
from proxy.routing.problems import Problem, TableRejected
from proxy.routing.table import Budget, Limits, Table, is_loopback
from proxy.routing.world import World
from proxy.secret import Scrubber
from proxy.server.snapshot import Snapshot, UpstreamPool
from proxy.server.table_file import TableUnreadable, read_table
from proxy.server.upstream import tls
from proxy.wire.forwarded import Proxies

log = structlog.get_logger()
SECRET_BYTES = 64 << 10  # of a file that holds a key
SWEEP = 1.0  # seconds between looks for upstreams that nobody uses any more


def read_secret_file(path: str) -> str:
    """Raises OSError for what is no small regular file: a FIFO would never end."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(path)
    with file.open(encoding="utf-8") as opened:
        return opened.read(SECRET_BYTES)


def load_table(raw: bytes, env: Mapping[str, str] = os.environ) -> Table:
    """Raises TableRejected with every problem."""
    return load(raw, env=env, read_file=read_secret_file, dialects=UPSTREAMS.keys(), check_files=tls.problems)


def read_dialects(table: Table) -> None:
    """The modules of what its providers speak, so that no request waits for one."""
    for provider in table.providers.values():
        for name in provider.dialects:
            UPSTREAMS[name]


@define(eq=False)
class Builder:
    """Makes snapshots. What was observed, health, latencies and pins, outlives every table."""

    book: PriceBook
    ring: KeyRing = field(factory=KeyRing)
    books: Books = field(factory=Books)
    exposed: bool = False  # a listener can be reached from other machines
    pool: UpstreamPool = field(factory=UpstreamPool)
    health: Health = field(factory=Health)
    latencies: Latencies = field(factory=Latencies)
    affinity: Affinity = field(factory=Affinity)

    def build(self, table: Table, discovered: Iterable[Discovered] = ()) -> Snapshot:
        """On the loop: upstreams open sessions. Raises TableRejected where a file that a provider names is unusable, or
        where nobody would be asked for a key on an address that others reach."""
        if self.exposed and table.server.auth == "none":
            raise TableRejected([Problem("server.auth", f"the listener {EXPOSED}")])
        models = Models.build(table, self.book, discovered)
        world = World(table, models, self.health, self.latencies, self.affinity)
        try:
            upstreams = self.pool.for_table(table)
        except (OSError, ValueError) as exc:
            raise TableRejected([Problem("providers", f"a certificate or key file is unusable: {exc}")]) from exc
        return Snapshot(
            table=table,
            world=world,
            upstreams=upstreams,
            gate=self._gate(table),
            scrubber=Scrubber(table.secrets),
            proxies=Proxies.parse(table.server.trusted_proxies),
            hosts=tuple(_internal_hosts(table)),
        )

    def _gate(self, table: Table) -> Gate:
        projects = {name: Terms(_budget(it.budget), _limits(it.limits)) for name, it in table.projects.items()}
        models = {id: _limits(entry.limits) for id, entry in table.models.items() if entry.limits is not None}
        return Gate(table.server.auth, self.ring, self.books, projects, models)


def _budget(budget: Budget | None) -> BudgetTerms | None:
    if budget is None:
        return None
    return budget_terms(budget.limit, budget.period, budget.alert, budget.unpriced)


def _limits(limits: Limits | None) -> LimitTerms:
    return NO_LIMITS if limits is None else LimitTerms(**asdict(limits))


def _internal_hosts(table: Table) -> Iterable[str]:
    """Names of local providers and of loopback; a vendor's public name is no secret, and stands in its help links."""
    for provider in table.providers.values():
        host = urlsplit(provider.base_url).hostname
        if host and (provider.local or is_loopback(host) or "." not in host):
            yield host


@define(eq=False)
class _Next:
    """A reload that has not begun, and what those are told that asked for it."""

    force: bool
    told: asyncio.Future[tuple[bool, str]] = field(factory=lambda: asyncio.get_running_loop().create_future())


@define(eq=False)
class Reloader:
    """Reads, checks, builds, swaps. One at a time; storms coalesce, since each reads the newest content."""

    path: Path
    builder: Builder
    current: Callable[[], Snapshot]
    apply: Callable[[Snapshot], None]
    told: Callable[[str, bool], None]  # revision, taken or not
    env: Mapping[str, str] = field(factory=lambda: os.environ, repr=False)
    discovered: Callable[[Table], Iterable[Discovered]] = lambda table: ()  # what its providers list by themselves
    _busy: asyncio.Lock = field(factory=asyncio.Lock)
    _next: _Next | None = None  # waits for the one that is under way
    last_error: str = ""

    async def reload(self, *, force: bool = False) -> tuple[bool, str]:
        """Whether the file's table serves now, and a sentence. Without `force` an unchanged file is left alone. However
        many are asked for while one is under way, they are one more: the content is read after all of them."""
        while (coming := self._next) is not None:
            coming.force = coming.force or force
            await asyncio.wait([coming.told])
            if not coming.told.cancelled():
                return coming.told.result()
        if not self._busy.locked():
            return await self._reload(lambda: force)
        mine = self._next = _Next(force)

        def begin() -> bool:
            self._next = None
            return mine.force

        try:
            result = await self._reload(begin)
            mine.told.set_result(result)
            return result
        finally:
            self._next = None if self._next is mine else self._next
            mine.told.cancel()  # whoever was to do it has left: another one will

    async def _reload(self, begin: Callable[[], bool]) -> tuple[bool, str]:
        async with self._busy:
            force = begin()
            try:
                raw = await read_table(self.path)
                table = await asyncio.to_thread(load_table, raw, self.env)
                await asyncio.to_thread(read_dialects, table)
                if not force and table.revision == self.current().table.revision:
                    return True, "unchanged"
                new = self.builder.build(table, self.discovered(table))
            except (TableUnreadable, TableRejected) as exc:
                return self._refuse(str(exc))
            self._take(new)
        return True, f"{table.revision} serves"

    async def rebuild(self) -> None:
        """The table in force with what its providers list now. Its upstreams stay as they are."""
        async with self._busy:
            old = self.current()
            new = self.builder.build(old.table, self.discovered(old.table))
            self.apply(new)
            self.builder.pool.retire(old, new)

    def _take(self, new: Snapshot) -> None:
        old = self.current()
        for name, provider in new.table.providers.items():
            before = old.table.providers.get(name)
            if before is not None and before.credentials != provider.credentials:
                self.builder.health.forget_keys(name)
        self.apply(new)
        self.builder.pool.retire(old, new)
        self.last_error = ""
        self.told(new.table.revision, True)
        for name in restart_needed(old.table, new.table):
            log.warning("restart_needed", key=name)
        log.info("table_loaded", revision=new.table.revision, models=len(new.world.models.listed))

    def _refuse(self, reason: str) -> tuple[bool, str]:
        if reason != self.last_error:
            log.error("table_rejected", reason=reason[:2000], kept=self.current().table.revision)
        self.last_error = reason
        self.told(self.current().table.revision, False)
        return False, reason

    async def sweep(self) -> None:
        """For ever: closes upstreams that no table names and no request uses."""
        while True:
            await asyncio.sleep(SWEEP)
            await self.builder.pool.sweep()


def restart_needed(old: Table, new: Table) -> list[str]:
    """Keys of [server] that take effect at the next start only."""
    fixed = ("listen", "admin", "state", "keep_alive", "header_timeout", "ledger_days", "ledger_bytes")
    return [f"server.{name}" for name in fixed if getattr(old.server, name) != getattr(new.server, name)]
