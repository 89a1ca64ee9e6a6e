"""Projects' own keys for a command of this machine: through the admin socket while the gateway runs, straight in the
file while it does not, as `keys.command` does for virtual keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from proxy.accounts.vault import read_key
from proxy.record import frozen
from proxy.routing.table import Table
from proxy.server.byok.admin import ROOM, check_place
from proxy.server.byok.vault import Vault
from proxy.server.keys.command import ask, give_back, make_home


class VaultDesk(Protocol):
    """Each gives the JSON of a stored key, masked, or of all. Raises DeskRefused, GatewayError or LedgerRefused."""

    def put(self, project: str, provider: str, key: str, *, only_known: bool) -> dict[str, Any]: ...
    def delete(self, project: str, provider: str) -> dict[str, Any]: ...
    def list(self, project: str | None) -> tuple[list[dict[str, Any]], str]: ...


@frozen
class Remote:
    path: Path

    def put(self, project: str, provider: str, key: str, *, only_known: bool) -> dict[str, Any]:
        if only_known:
            return ask(self.path, "POST", _of(project, provider, "rotate"), {"key": key})
        return ask(self.path, "PUT", _of(project, provider, "key"), {"key": key})

    def delete(self, project: str, provider: str) -> dict[str, Any]:
        return ask(self.path, "DELETE", _of(project, provider, "key"))

    def list(self, project: str | None) -> tuple[list[dict[str, Any]], str]:
        if project is not None:
            answer = ask(self.path, "GET", f"{ROOM}/{quote(project, '')}/providers")
            return answer["data"], answer["reason"] or ""
        answer = ask(self.path, "GET", ROOM)
        return [stored for each in answer["data"] for stored in each["providers"]], answer["reason"] or ""


@frozen
class Direct:
    vault: Vault
    table: Table

    def put(self, project: str, provider: str, key: str, *, only_known: bool) -> dict[str, Any]:
        check_place(self.table, project, provider)
        if self.vault.masters.now is not None and not self.vault.store.path.exists():
            make_home(self.vault.store.path.parent)
            self.vault.store.forget_unused()  # makes the file, so that a key may be there before the first start
        stored, _ = self.vault.put(project, provider, read_key({"key": key}), only_known=only_known)
        give_back(self.vault.store.path)
        return self.vault.shown(stored)

    def delete(self, project: str, provider: str) -> dict[str, Any]:
        return {**self.vault.shown(self.vault.delete(project, provider)), "state": "deleted"}

    def list(self, project: str | None) -> tuple[list[dict[str, Any]], str]:
        self.vault.load()
        return self.vault.listed(project), self.vault.off


def _of(project: str, provider: str, what: str) -> str:
    return f"{ROOM}/{quote(project, '')}/providers/{quote(provider, '')}/{what}"
