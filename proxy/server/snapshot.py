"""What one request keeps from its start to its end, whatever is reloaded meanwhile: a table and all that it made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from attrs import field

from proxy.accounts.admission import Gate
from proxy.record import define
from proxy.routing.table import Provider, Table
from proxy.routing.world import World
from proxy.secret import MASK, Scrubber
from proxy.server.upstream import EmbeddedUpstream, LeanUpstream, PlainUpstream, Upstream, tls
from proxy.wire.forwarded import Proxies


@define(eq=False)
class Snapshot:
    """Immutable but for `users`, the count of requests that still run on it."""

    table: Table
    world: World
    upstreams: Mapping[str, Upstream]
    gate: Gate
    scrubber: Scrubber
    proxies: Proxies  # whose word counts for who asked
    hosts: tuple[str, ...] = ()  # of providers: internal names that no error text may carry to a client
    ways: dict[Hashable, Any] = field(factory=dict, repr=False)  # see `server.outgoing`
    tracks: dict[Hashable, Any] = field(factory=dict, repr=False)  # see `server.express.track`
    settings: dict[Any, Any] = field(factory=dict, repr=False)  # see `server.express.setting`
    users: int = 0

    def clean(self, text: str) -> str:
        """A provider's words as a client may read them: without keys of ours and internal hosts."""
        return self.without_hosts(self.scrubber(text))

    def keys(self) -> list[str]:
        """Of ours."""
        return [*self.scrubber.values]

    def without_hosts(self, text: str) -> str:
        for host in self.hosts:
            text = text.replace(host, MASK)
        return text


# What concerns a provider's connections: models, keys and timeouts may change above them.
Connection = tuple[Hashable, ...]


EXCHANGES: dict[str, Callable[[Provider], Upstream]] = {"lean": LeanUpstream, "plain": PlainUpstream}


def open_upstream(provider: Provider, exchange: str) -> Upstream:
    return EmbeddedUpstream() if provider.embedded else EXCHANGES[exchange](provider)


@define
class UpstreamPool:
    """One upstream per provider and its settings. A reload that leaves a provider as it is keeps its connections; an
    upstream that no table names any more is closed after the last request on it, not before."""

    opener: Callable[[Provider, str], Upstream] = open_upstream
    _open: dict[Connection, Upstream] = field(factory=dict)
    _superseded: list[Snapshot] = field(factory=list)  # requests may still run on them
    _retiring: list[Upstream] = field(factory=list)

    def for_table(self, table: Table) -> dict[str, Upstream]:
        """Opens what is new. Providers that lack something to call them get none."""
        wanted = {name: p for name, p in table.providers.items() if p.enabled and not p.missing}
        return {name: self._upstream(provider, table.server.exchange) for name, provider in wanted.items()}

    def _upstream(self, provider: Provider, exchange: str) -> Upstream:
        key = connection_settings(provider, exchange)
        upstream = self._open.get(key)
        if upstream is None:
            upstream = self._open[key] = self.opener(provider, exchange)
        return upstream

    def retire(self, old: Snapshot, new: Snapshot) -> None:
        """What `new` does not use is closed once nobody runs on a snapshot that does. `old` takes no more requests."""
        self._superseded.append(old)
        kept = set(map(id, new.upstreams.values()))
        for key, upstream in list(self._open.items()):
            if id(upstream) not in kept:
                del self._open[key]
                self._retiring.append(upstream)

    async def sweep(self) -> None:
        """Closes what has no user left: neither on the snapshot before the last reload nor on an earlier one."""
        self._superseded = [snapshot for snapshot in self._superseded if snapshot.users]
        used = {id(upstream) for snapshot in self._superseded for upstream in snapshot.upstreams.values()}
        done = [upstream for upstream in self._retiring if id(upstream) not in used]
        self._retiring = [upstream for upstream in self._retiring if id(upstream) in used]
        for upstream in done:
            await upstream.close()

    async def close(self) -> None:
        for upstream in (*self._open.values(), *self._retiring):
            await upstream.close()
        self._open.clear()
        self._retiring.clear()


def connection_settings(provider: Provider, exchange: str) -> Connection:
    return (
        provider.name,
        provider.base_url,
        provider.connections,
        provider.queue,
        provider.ca_file,
        provider.client_cert,
        provider.client_key,
        tls.stamps(provider),
        provider.proxy,
        provider.embedded,
        exchange,
    )
