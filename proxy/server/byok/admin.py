"""`/admin/projects`: the keys that projects have for providers themselves. What is stored is never shown again.

GET    /admin/projects                                  every project, with what it has spent and stored
GET    /admin/projects/PROJECT/providers                of one
PUT    /admin/projects/PROJECT/providers/PROVIDER/key   {"key": …}
POST   /admin/projects/PROJECT/providers/PROVIDER/rotate, and …/key/rotate
DELETE /admin/projects/PROJECT/providers/PROVIDER/key
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from aiohttp.web_response import StreamResponse

from proxy import errors
from proxy.accounts.asking import budget_json
from proxy.accounts.books import Terms
from proxy.accounts.budget import usd
from proxy.accounts.vault import read_key
from proxy.record import define
from proxy.routing.table import Table
from proxy.server.byok.vault import Vault
from proxy.server.clients.inbound import PlainRequest
from proxy.server.clients.listener import raw_path
from proxy.server.keys.admin import read_document, secret_response
from proxy.server.snapshot import Snapshot

ROOM = "/admin/projects"


@define(eq=False)
class VaultAdmin:
    vault: Vault
    current: Callable[[], Snapshot]

    async def projects(self, request: PlainRequest) -> StreamResponse:
        stored = await asyncio.to_thread(self.vault.listed)
        names = dict.fromkeys([*self.current().table.projects, *(it["project"] for it in stored)])
        data = [
            {"name": name, **self._spend(name), "providers": [it for it in stored if it["project"] == name]}
            for name in names
        ]
        return secret_response({"object": "list", "data": data, **self._feature()})

    def _spend(self, project: str) -> dict[str, Any]:
        gate, now_ms = self.current().gate, int(self.vault.now() * 1000)
        terms = gate.projects.get(project, Terms()).budget
        account = gate.books.account(f"project:{project}", terms, now_ms)
        account.turn(now_ms)
        budget = None if terms is None else budget_json(terms, account.spent)
        return {"spent_usd": usd(sum(account.days.values())), "budget": budget}

    async def show(self, request: PlainRequest) -> StreamResponse:
        match _place(request):
            case [project, "providers"]:
                stored = await asyncio.to_thread(self.vault.listed, project)
                if not stored:
                    check_project(self.current().table, project)
                return secret_response({"object": "list", "data": stored, **self._feature()})
        raise _unknown("GET takes /admin/projects/PROJECT/providers")

    async def put(self, request: PlainRequest) -> StreamResponse:
        match _place(request):
            case [project, "providers", provider, "key"]:
                return await self._store(request, project, provider, only_known=False)
        raise _unknown("PUT takes /admin/projects/PROJECT/providers/PROVIDER/key")

    async def rotate(self, request: PlainRequest) -> StreamResponse:
        match _place(request):
            case [project, "providers", provider, "rotate"] | [project, "providers", provider, "key", "rotate"]:
                return await self._store(request, project, provider, only_known=True)
        raise _unknown("POST takes /admin/projects/PROJECT/providers/PROVIDER/rotate")

    async def delete(self, request: PlainRequest) -> StreamResponse:
        match _place(request):
            case [project, "providers", provider, "key"]:
                gone = await asyncio.to_thread(self.vault.delete, project, provider)
                return secret_response({**self.vault.shown(gone), "state": "deleted"})
        raise _unknown("DELETE takes /admin/projects/PROJECT/providers/PROVIDER/key")

    async def _store(self, request: PlainRequest, project: str, provider: str, *, only_known: bool) -> StreamResponse:
        check_place(self.current().table, project, provider)
        key = read_key(await read_document(request))
        stored, new = await asyncio.to_thread(self.vault.put, project, provider, key, only_known=only_known)
        self.vault.taken()
        return secret_response(self.vault.shown(stored), 201 if new else 200)

    def _feature(self) -> dict[str, Any]:
        return {"storing": "off" if self.vault.off else "on", "reason": self.vault.off or None}


def check_project(table: Table, project: str) -> None:
    """Raises UnknownPath."""
    if project not in table.projects:
        raise errors.UnknownPath(f"The table has no project {project[:60]!r}.")


def check_place(table: Table, project: str, provider: str) -> None:
    """Raises UnknownPath for what the table does not have, InvalidRequest for a provider that takes no key."""
    check_project(table, project)
    if provider not in table.providers:
        raise errors.UnknownPath(f"The table has no provider {provider[:60]!r}.")
    if table.providers[provider].embedded:
        raise errors.InvalidRequest("The embedded provider takes no key.")


def _place(request: PlainRequest) -> list[str]:
    return [unquote(part) for part in raw_path(request).removeprefix(ROOM).strip("/").split("/")]


def _unknown(hint: str) -> errors.UnknownPath:
    return errors.UnknownPath(f"{hint}.")
