"""The admin listener: metrics and health for whoever reaches it; everything under /admin over the unix socket, whose
file mode says who may, or with an admin key.

Host is checked on TCP, so that no web page can reach it by a name of its own, and what changes something wants JSON,
which no form of a page can send.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp.web_response import Response, StreamResponse

from proxy import errors
from proxy.accounts.admission import LOCAL_HOSTS, Gate, host_name
from proxy.accounts.keys import READING, WRITING, Key
from proxy.errors import GatewayError
from proxy.metrics import Metrics
from proxy.record import define
from proxy.server.byok.admin import VaultAdmin
from proxy.server.clients.inbound import PlainRequest
from proxy.server.clients.listener import Paths, json_response, raw_path, refusal
from proxy.server.clients.visitor import presented_by
from proxy.server.endpoints import health_paths
from proxy.server.gateway import Gateway
from proxy.server.keys.admin import KeyAdmin
from proxy.server.ledger import LedgerRefused
from proxy.server.ledger.query import Decisions, Filter, SearchTooLong
from proxy.server.probing import Probing
from proxy.server.reload import Reloader
from proxy.server.respond import SERVER

log = structlog.get_logger()
FLAGS = {"true": True, "1": True, "false": False, "0": False}
NUMBERS = ("since_ms", "until_ms", "status", "min_cost_nanos", "min_duration_ms")
WORDS = (
    "model", "provider", "requested", "surface", "outcome", "intent", "class", "rule", "profile", "config", "project",
    "key_id", "request_id", "client_request_id",
)  # fmt: skip
MOST_ROWS = 1000
FLUSH_S = 1.0  # that a reader waits at most for rows that are on their way
Guarded = Callable[[PlainRequest], Awaitable[StreamResponse]]


@define(eq=False)
class Admin:
    gateway: Gateway
    reloader: Reloader
    decisions: Decisions
    metrics: Metrics
    keys: KeyAdmin
    vault: VaultAdmin
    probing: Probing

    def paths(self) -> Paths:
        keys, vault = self.keys, self.vault
        return {
            "/metrics": {"GET": self.show_metrics},
            **health_paths(self.gateway),
            "/admin/keys": {
                "GET": self._guarded(self._written_first(keys.list)),
                "POST": self._guarded(keys.create, writes=True),
            },
            "/admin/keys/*": {
                "GET": self._guarded(self._written_first(keys.show)),
                "POST": self._guarded(keys.change, writes=True),
                "DELETE": self._guarded(keys.revoke, writes=True),
            },
            "/admin/projects": {"GET": self._guarded(vault.projects)},
            "/admin/projects/*": {
                "GET": self._guarded(vault.show),
                "PUT": self._guarded(vault.put, writes=True),
                "POST": self._guarded(vault.rotate, writes=True),
                "DELETE": self._guarded(vault.delete, writes=True),
            },
            "/admin/decisions": {"GET": self._guarded(self.list_decisions)},
            "/admin/decisions/*": {"GET": self._guarded(self.show_decision)},
            "/admin/config": {"GET": self._guarded(self.show_config)},
            "/admin/providers": {"GET": self._guarded(self.list_providers)},
            "/admin/reload": {"POST": self._guarded(self.reload, writes=True)},
        }

    def _guarded(self, handler: Guarded, *, writes: bool = False) -> Guarded:
        async def guarded(request: PlainRequest) -> StreamResponse:
            try:
                key = check_admin(request, self.gateway.current.gate, self.keys.keys.now_ms(), writes=writes)
                if key is not None:
                    await self.keys.used(key)
                return await handler(request)
            except GatewayError as error:
                return refusal(request, error)
            except LedgerRefused as exc:
                log.warning("ledger_unreadable", reason=exc.message)
                return refusal(request, errors.Overloaded("The ledger cannot be used just now.", retry_after=5.0))

        return guarded

    async def show_metrics(self, request: PlainRequest) -> StreamResponse:
        return Response(
            body=self.metrics.render(), headers={"Content-Type": self.metrics.content_type, "Server": SERVER}
        )

    async def list_decisions(self, request: PlainRequest) -> StreamResponse:
        filters, limit, before = read_filter(dict(request.query))
        await self._written()
        try:
            page = await asyncio.to_thread(self.decisions.page, filters, limit, before)
        except (ValueError, SearchTooLong) as exc:
            raise errors.InvalidRequest(f"{exc}.") from exc
        return json_response({"data": page.rows, "next": page.next})

    async def show_decision(self, request: PlainRequest) -> StreamResponse:
        identity = raw_path(request).removeprefix("/admin/decisions/")
        await self._written()
        row = await asyncio.to_thread(self.decisions.one, identity)
        if row is None:
            raise errors.UnknownPath("No decision has this request id; rows appear when their request has ended.")
        return json_response(row)

    def _written_first(self, handler: Guarded) -> Guarded:
        """For what is summed up from rows."""

        async def answered(request: PlainRequest) -> StreamResponse:
            await self._written()
            return await handler(request)

        return answered

    async def _written(self) -> None:
        """Who has an answer finds its row."""
        ledger = self.gateway.ledger
        if not ledger.stalled:
            await asyncio.to_thread(ledger.flush, FLUSH_S)

    async def show_config(self, request: PlainRequest) -> StreamResponse:
        return json_response(config_json(self.gateway, self.probing))

    async def list_providers(self, request: PlainRequest) -> StreamResponse:
        return json_response({"data": providers_json(self.gateway, self.probing)})

    async def reload(self, request: PlainRequest) -> StreamResponse:
        taken, sentence = await self.reloader.reload(force=True)
        revision = self.gateway.current.table.revision
        return json_response({"reloaded": taken, "message": sentence, "config": revision}, 200 if taken else 422)


def check_admin(request: PlainRequest, gate: Gate, now_ms: int, *, writes: bool) -> Key | None:
    """The admin key, None on a unix socket. Raises Unauthenticated, NotAllowed, WrongMediaType."""
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    key = None
    if isinstance(peer, tuple):
        key = _admin_key(request, gate, now_ms, WRITING if writes else READING)
        _check_host(request.headers.get("Host", ""))
    if writes:
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and request.method != "DELETE":
            raise errors.WrongMediaType("Send Content-Type: application/json.")
    return key


def _check_host(host: str) -> None:
    """A page's own name for this machine is none that an operator uses: theirs are addresses, and localhost."""
    name = host_name(host)
    try:
        known = name in LOCAL_HOSTS or bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        known = False
    if not known:
        raise errors.NotAllowed("The Host is neither an address nor localhost: call the admin listener by its address.")


def _admin_key(request: PlainRequest, gate: Gate, now_ms: int, scopes: frozenset[str]) -> Key:
    presented = presented_by(request.headers)
    if presented is None:
        needed = " or ".join(sorted(scopes))
        raise errors.Unauthenticated(
            f"An admin key is needed here: `pointsman keys create --name NAME --scope {min(scopes)}` makes one "
            f"({needed}). Or use the unix socket admin.sock in the state directory, such as: "
            "curl --unix-socket STATE/admin.sock http://localhost/admin/decisions"
        )
    return gate.known(presented, now_ms, scopes)


def read_filter(query: dict[str, str]) -> tuple[Filter, int, str | None]:
    """Raises InvalidRequest for an unknown or malformed parameter."""
    limit, before = query.pop("limit", "100"), query.pop("before", None)
    given: dict[str, Any] = {}
    for name, value in query.items():
        if name in WORDS:
            given["klass" if name == "class" else name] = value
        elif name in NUMBERS and value.lstrip("-").isdecimal():
            given[name] = int(value)
        elif name in ("failed", "fallback") and value in FLAGS:
            given[name] = FLAGS[value]
        else:
            known = ", ".join((*WORDS, *NUMBERS, "failed", "fallback", "limit", "before"))
            raise errors.InvalidRequest(f"The parameter {name[:40]!r} is unknown or malformed; known are {known}.")
    if not limit.isdecimal() or not 1 <= int(limit) <= MOST_ROWS:
        raise errors.InvalidRequest(f"limit is a whole number from 1 to {MOST_ROWS}.", param="limit")
    return Filter(**given), int(limit), before


def providers_json(gateway: Gateway, probing: Probing) -> list[dict[str, Any]]:
    """No key, not even masked: only whether there is one."""
    table = gateway.current.table
    return [
        {
            "name": provider.name,
            "dialects": list(provider.dialects),
            "base_url": provider.base_url,
            "configured": provider.configured,
            "reason": provider.missing or provider.missing_key or ("" if provider.enabled else "disabled"),
            "credentials": len(provider.credentials),
            "local": provider.local,
            "connections": provider.connections,
            "probe": probing.told(provider.name),
        }
        for provider in table.providers.values()
    ]


def config_json(gateway: Gateway, probing: Probing) -> dict[str, Any]:
    """The effective table less everything secret."""
    table = gateway.current.table
    return {
        "config": table.revision,
        "providers": providers_json(gateway, probing),
        "models": sorted(gateway.current.world.models.listed),
        "aliases": {name: list(targets) for name, targets in table.aliases.items()},
        "auto": {label: list(entries) for label, entries in table.auto.lists.items()},
        "industries": {tag: list(industry.models) for tag, industry in table.industries.items()},
        "profiles": {name: list(profile.models) for name, profile in table.profiles.items()},
        "rules": [rule.name for rule in table.rules],
        "warnings": list(table.warnings),
        "cooling": gateway.current.world.health.snapshot(gateway.clock()),
    }
