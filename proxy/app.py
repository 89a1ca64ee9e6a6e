"""The composition root: the one place that builds long-lived objects, starts background tasks and ends them."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from attrs import field

from proxy.accounts.books import Books
from proxy.catalog import load_prices
from proxy.metrics import Metrics
from proxy.record import define
from proxy.routing.table import Table
from proxy.secret import Scrubber, Secret
from proxy.server import log as logging
from proxy.server.alerts import Alerts
from proxy.server.backstage import executor
from proxy.server.behind import read_behind
from proxy.server.bookkeeping import fill
from proxy.server.byok.store import VaultStore
from proxy.server.byok.vault import Masters, Vault
from proxy.server.clients.listener import Listener
from proxy.server.clients.stalled import Stalled, hang_up_on_leavers
from proxy.server.daemon import (
    ADMIN_CONNECTIONS,
    Notifier,
    ask_for_patience,
    client_connections,
    feed_watchdog,
    is_loopback_socket,
    open_listeners,
    parse_listen,
    raise_open_files,
)
from proxy.server.endpoints import data_paths, ordinary_paths
from proxy.server.gateway import Gateway
from proxy.server.keys.changes import Keys
from proxy.server.keys.store import KeyStore
from proxy.server.ledger import Ledger
from proxy.server.overload import watch_memory
from proxy.server.relay import Relay
from proxy.server.reload import Builder, Reloader, load_table, read_dialects
from proxy.server.snapshot import Snapshot
from proxy.server.starting import (
    ADMIN_SOCKET,
    LEDGER,
    StartRefused,
    check_parser,
    check_reach,
    make_state,
    reach_refused,
    state_directory,
)
from proxy.server.table_file import read_table
from proxy.wire.splice import member_pattern

if TYPE_CHECKING:  # read when data is served: see `_build_beside`
    from proxy.server.discovery import Discovery
    from proxy.server.probing import Probing

log = structlog.get_logger()
LONGEST_SOCKET = 107  # bytes of a Unix socket's path, as the kernel has it
LAST_REQUESTS = 1.0  # seconds in which idle connections may still be used while the process stops
LOOK = 0.02  # seconds between looks at whether any are left
SETTLED = 1.0  # seconds from the first connections that may come until there is time for what can wait
LAST_WORDS = 1.0  # seconds for what is still said once the drain is over


@define(eq=False)
class App:
    """One gateway process. `start`, then `wait`, then `stop`; `run` is all of these with signals."""

    config: Path
    env: Mapping[str, str] = field(factory=lambda: os.environ, repr=False)
    log: logging.Log | None = None
    gateway: Gateway = field(init=False)
    reloader: Reloader = field(init=False)
    discovery: Discovery = field(init=False)
    probing: Probing = field(init=False)
    ledger: Ledger = field(init=False)
    keys: Keys = field(init=False)
    vault: Vault = field(init=False)
    books: Books = field(factory=Books)
    metrics: Metrics = field(factory=Metrics)
    notifier: Notifier = field(factory=Notifier.from_environment)
    stopping: asyncio.Event = field(factory=asyncio.Event)
    hung_up: asyncio.Event = field(factory=asyncio.Event)  # SIGHUP has come
    addresses: list[str] = field(factory=list)  # where data is served, as it was bound
    admin_addresses: list[str] = field(factory=list)
    _sockets: list[socket.socket] = field(factory=list)
    _admin_sockets: list[socket.socket] = field(factory=list)
    _listeners: list[Listener] = field(factory=list)
    _tasks: set[asyncio.Task[Any]] = field(factory=set)
    _admin_socket: Path | None = None
    _open_files: int = 0  # that the process may have
    _shared: tuple[int, int] = (0, 0)  # how many clients may connect, and be served
    _data: Listener | None = None
    _moved: tuple[Callable[[], None], ...] = ()  # to be told that another table serves
    _secrets: dict[Secret, None] = field(factory=dict, repr=False)  # of every table that has served

    async def start(self) -> None:
        """Raises StartRefused, TableUnreadable, TableRejected, LedgerRefused or ListenRefused; nothing stays open."""
        check_parser()
        asyncio.get_running_loop().set_default_executor(executor())
        self._open_files = raise_open_files()
        table = await asyncio.to_thread(load_table, await read_table(self.config), self.env)
        if self.log is not None:
            self.log.set_scrubber(Scrubber(table.secrets))
        state = state_directory(table, self.env)
        make_state(state)
        server = table.server
        check_reach(server, keys=(state / LEDGER).exists())
        self.ledger = Ledger(state / LEDGER, retain_days=server.ledger_days, retain_bytes=server.ledger_bytes)
        self.keys = Keys(KeyStore(state / LEDGER))
        self.vault = Vault(VaultStore(state / LEDGER), Masters.of(table), opened=self._keep_unsaid)
        waiting = asyncio.ensure_future(ask_for_patience(self.notifier))
        try:
            await asyncio.to_thread(self.ledger.start)
        finally:
            waiting.cancel()
        try:
            await asyncio.to_thread(self.keys.load)
            await asyncio.to_thread(self.vault.load)
            check_reach(server, keys=bool(self.keys.ring))
            await asyncio.to_thread(fill, self.books, state / LEDGER, self.keys.ring, self.keys.now_ms())
            self._build(table)
            self._open(table, state)
            data = await self._serve_data(table)
            await read_behind(lambda: bool(self.gateway.running))
            await asyncio.to_thread(read_dialects, table)
            await self._serve_beside(table, state, data)
        except BaseException:
            await self.stop(drain=0)
            raise
        self._announce(table)

    def _build(self, table: Table) -> None:
        builder = Builder(load_prices(), self.keys.ring, self.books)
        snapshot = builder.build(table)
        dice = random.SystemRandom().random
        relay = Relay(dice, time.monotonic, secrets.token_hex(4), self.metrics)

        def current() -> Snapshot:
            return self.gateway.current

        alerts = Alerts(self.metrics, lambda: current().table.budget_webhook)
        self.gateway = Gateway(snapshot, relay, self.ledger, self.metrics, dice=dice, alerts=alerts, own=self.vault.own)
        if self.log is not None:
            self.gateway.tell, self.gateway.tell_brief = self.log.request_done, self.log.brief_done
        self.reloader = Reloader(self.config, builder, current, self._apply, self.metrics.reloaded, self.env)
        self._apply(snapshot)
        self.metrics.reloaded(table.revision, True)
        self._collect()

    def _build_beside(self, state: Path) -> Listener:
        """What no answer to a client waits for. Gives the admin listener."""
        from proxy.server.admin import Admin
        from proxy.server.byok.admin import VaultAdmin
        from proxy.server.discovery import Discovery
        from proxy.server.keys.admin import KeyAdmin
        from proxy.server.ledger.query import Decisions
        from proxy.server.probing import Probing

        def current() -> Snapshot:
            return self.gateway.current

        dice, instance = self.gateway.dice, self.gateway.relay.instance
        self.discovery = Discovery(current, self.reloader.rebuild, self.metrics, dice, instance)
        self.reloader.discovered = self.discovery.models
        self.probing = Probing(current, self.metrics, dice, time.monotonic, instance)
        self.metrics.collect_from("pointsman_probe_up", self.probing.up)
        self._moved = (self.discovery.moved, self.probing.moved)
        keys, vault = KeyAdmin(self.keys, current), VaultAdmin(self.vault, current)
        decisions = Decisions(state / LEDGER)
        admin = Admin(self.gateway, self.reloader, decisions, self.metrics, keys, vault, self.probing)
        admins = Listener(admin.paths(), keep_alive=self.gateway.current.table.server.keep_alive)
        admins.most = ADMIN_CONNECTIONS
        return admins

    def _apply(self, snapshot: Snapshot) -> None:
        """From here on new requests take this snapshot."""
        self.gateway.current = snapshot
        self.gateway.turnstile.under(snapshot.table.server)
        snapshot.world.health.limits = snapshot.table.health
        for tell in self._moved:
            tell()
        self.metrics.known(models=snapshot.world.models.listed, providers=snapshot.table.providers)
        self.vault.masters = Masters.of(snapshot.table)
        self._share_descriptors(snapshot.table)
        self._keep_unsaid((*snapshot.table.secrets, *self.vault.own.secrets))

    def _keep_unsaid(self, secrets: Iterable[Secret]) -> None:
        """Requests with what was taken back since still run."""
        self._secrets |= dict.fromkeys(secrets)
        if self.log is not None:
            self.log.set_scrubber(Scrubber(self._secrets))

    def _collect(self) -> None:
        ledger, world = self.ledger, self.gateway.current.world
        self.metrics.collect_from("pointsman_ledger_written_total", lambda: ledger.written)
        self.metrics.collect_from("pointsman_ledger_dropped_total", lambda: ledger.dropped)
        self.metrics.collect_from("pointsman_ledger_failed_total", lambda: ledger.failed)
        self.metrics.collect_from("pointsman_ledger_queued", lambda: ledger.queued)
        self.metrics.collect_from("pointsman_ledger_queued_bytes", lambda: ledger.queued_bytes)
        self.metrics.collect_from("pointsman_ledger_stalled", lambda: float(ledger.stalled))
        self.metrics.collect_from("pointsman_budget_used_ratio", self._budgets_used)
        self.metrics.collect_from("pointsman_affinity_pins", lambda: len(world.affinity))
        self.metrics.collect_from("pointsman_cooldown_seconds", lambda: world.health.cooldowns(time.monotonic()))
        self.metrics.collect_from("pointsman_client_connections", self._connections)
        turnstile = self.gateway.turnstile
        self.metrics.collect_from("pointsman_requests_under_way", lambda: turnstile.inside)
        self.metrics.collect_from("pointsman_requests_waiting", lambda: turnstile.waiting)
        self.metrics.collect_from("pointsman_body_bytes_held", lambda: turnstile.held)
        self.metrics.collect_from("pointsman_memory_high", lambda: float(turnstile.memory_high))
        if self.log is not None:
            sink = self.log
            self.metrics.collect_from("pointsman_log_dropped_total", lambda: sink.dropped)

    def _budgets_used(self) -> dict[tuple[str | None, ...], float]:
        books, now_ms = self.books, self.keys.now_ms()
        accounts = {name: books.accounts.get(f"project:{name}") for name in self.gateway.current.table.projects}
        return {(name,): it.used(now_ms) for name, it in accounts.items() if it is not None and it.terms is not None}

    def _connections(self) -> int:
        return sum(len(listener.connections) for listener in self._listeners)

    # -- listening -------------------------------------------------------------------------------------------

    def _open(self, table: Table, state: Path) -> None:
        """Every socket, so that whatever one lacks is told before anybody is served."""
        server = table.server
        self._sockets = [s for address in server.listen for s in open_listeners(parse_listen(address), self.env)]
        self._admin_sockets = open_listeners(parse_listen(server.admin), self.env)
        self._admin_sockets += self._open_admin_socket(state)
        opened = (*self._sockets, *self._admin_sockets)
        exposed = [it for it in opened if not is_loopback_socket(it) and it.family != socket.AF_UNIX]
        if exposed and (server.auth == "none" or not self.keys.ring):
            raise StartRefused(reach_refused(_address(exposed[0]), server.auth))
        self.reloader.builder.exposed = bool(exposed)

    async def _serve_data(self, table: Table) -> Listener:
        data = Listener(
            data_paths(self.gateway),
            keep_alive=table.server.keep_alive,
            ordinary=ordinary_paths(self.gateway),
            lean=lambda: self.gateway.current.table.server.exchange == "lean",
        )
        self._data = data
        self._share_descriptors(table)
        self.metrics.collect_from("pointsman_connections_turned_away_total", lambda: data.turned_away)
        self.addresses = await self._serve(data, self._sockets)
        self._begin(data.close_slow_heads(table.server.header_timeout))
        self._begin(hang_up_on_leavers(lambda: data.unread))
        self._begin(self.reloader.sweep())
        self._begin(self.keys.follow())
        self._begin(self.vault.follow())
        self._begin(self.gateway.alerts.run())
        self._begin(feed_watchdog(self.notifier))
        self._begin(watch_memory(self.gateway.turnstile))
        self._begin(self._prepare())
        return data

    async def _serve_beside(self, table: Table, state: Path, data: Listener) -> None:
        from proxy.server.watch import watch

        admins = self._build_beside(state)
        self.admin_addresses = await self._serve(admins, self._admin_sockets)
        self._begin(admins.close_slow_heads(table.server.header_timeout))
        self._begin(Stalled(lambda: [*data.connections, *admins.connections]).run())
        self._begin(watch(self.config, self._file_changed, stop=self.stopping))
        self._begin(self._follow_hang_ups())
        self._begin(self.discovery.run())
        self._begin(self.probing.run())

    def _share_descriptors(self, table: Table) -> None:
        """Between clients and providers, as many as the table in force lets those have."""
        data = self._data
        if data is None:
            return
        providers = sum(provider.connections for provider in table.providers.values())
        data.most = client_connections(self._open_files, providers)
        before, self._shared = self._shared, (data.most, table.server.concurrency)
        if self._shared != before and data.most < table.server.concurrency:
            log.warning(
                "open_files_low",
                message=f"{self._open_files} descriptors let {data.most} clients connect, fewer than concurrency in "
                "[server] lets in: raise LimitNOFILE= (ulimit -n) or lower concurrency.",
            )

    def _open_admin_socket(self, state: Path) -> list[socket.socket]:
        """For commands and operators of this machine; its file mode says who they are."""
        path = state / ADMIN_SOCKET
        if len(os.fsencode(path)) > LONGEST_SOCKET:
            log.warning("admin_socket_left_out", message=f"{path} is longer than a socket's path may be")
            return []
        opened = open_listeners(parse_listen(f"unix:{path}"), self.env)
        self._admin_socket = path  # from here on ours to remove
        path.chmod(0o660)
        return opened

    async def _serve(self, listener: Listener, sockets: list[socket.socket]) -> list[str]:
        self._listeners.append(listener)
        await listener.listen(sockets)
        return [_address(opened) for opened in sockets]

    def _announce(self, table: Table) -> None:
        for warning in table.warnings:
            log.warning("table_warning", message=warning)
        if table.first_run:
            log.warning(
                "embedded_provider_serves",
                message="No provider is configured, so only the embedded echo answers. Set OPENAI_API_KEY, "
                "ANTHROPIC_API_KEY or another variable that routes.toml names, and start again.",
            )
        log.info(
            "serving",
            listen=self.addresses,
            admin=self.admin_addresses,
            revision=table.revision,
            auth=table.server.auth,
            keys=len(self.keys.ring),
        )
        self.notifier.notify("READY=1", f"STATUS=serving {table.revision}")

    # -- reload ----------------------------------------------------------------------------------------------

    async def _file_changed(self) -> None:
        await self.reloader.reload()

    async def _follow_hang_ups(self) -> None:
        """For ever: reloads on SIGHUP. However many come during one, it takes one more, of the newest content."""
        while True:
            await self.hung_up.wait()
            self.hung_up.clear()
            self.notifier.reloading()
            taken, sentence = await self.reloader.reload(force=True)
            status = f"serving {self.gateway.current.table.revision}"
            self.notifier.notify("READY=1", f"STATUS={status}" if taken else f"STATUS={status}; refused: {sentence}")

    # -- life ------------------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("background_task_died", error=type(exc).__name__, exc_info=exc)

    async def _prepare(self) -> None:
        """What the first answers need not wait for, and no later one shall."""
        await asyncio.sleep(SETTLED)
        await asyncio.to_thread(member_pattern)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.hung_up.set)
        await self.start()
        await self.stopping.wait()
        await self.stop()

    async def _drain(self, seconds: float | None) -> None:
        """No new connections, no idle ones; what runs may finish; what does not is told so in its own stream."""
        for listener in self._listeners:
            listener.accept_no_more()
        if not hasattr(self, "gateway"):
            return
        grace = self.gateway.current.table.server.drain if seconds is None else seconds
        await self._last_requests(min(grace, LAST_REQUESTS))
        for listener in self._listeners:
            listener.hang_up_on_idle()
        if not await self.gateway.drained(grace):
            self.gateway.cut()
            await self.gateway.drained(LAST_WORDS)

    async def _last_requests(self, seconds: float) -> None:
        """A client may be sending on an idle connection at this very moment: it is served, and told that the
        connection closes. Whoever is idle still after that is hung up on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._connections():  # noqa: ASYNC110
                    await asyncio.sleep(LOOK)

    async def stop(self, drain: float | None = None) -> None:
        """Stops accepting, lets what runs finish within the drain time, writes every row."""
        self.stopping.set()
        self.notifier.notify("STOPPING=1", "STATUS=draining")
        await self._drain(drain)
        for listener in self._listeners:
            await listener.close(LAST_WORDS)
        self._listeners.clear()
        for opened in (*self._sockets, *self._admin_sockets):  # those that nobody was served on yet
            opened.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "reloader"):
            await self.reloader.builder.pool.close()
            self.gateway.express.tidings.tell()
        await asyncio.to_thread(self.ledger.stop, 10.0)
        if self._admin_socket is not None:
            with suppress(OSError):
                self._admin_socket.unlink()
        if self.admin_addresses:  # else it never served
            log.info("stopped")


def _address(opened: socket.socket) -> str:
    name = opened.getsockname()
    if opened.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if opened.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
