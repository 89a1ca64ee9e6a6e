"""Storing, changing and following projects' own keys for providers: the file holds them sealed, memory holds them open.

Without a master key nothing is stored and nothing opens. A key that is in the file and does not open is `locked`: its
provider is not asked for that project, with nobody else's key either.

All but `follow` and `taken` blocks for a disk: called off the event loop, or by a command for itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import structlog
from attrs import evolve, field

from proxy.accounts import vault
from proxy.accounts.vault import NONCE, DataKey, OwnKeys, StoredKey, Unsealed, last_four, stored_json
from proxy.errors import NotConfigured, UnknownPath
from proxy.record import define, frozen
from proxy.routing.table import Table
from proxy.secret import Secret, key_bytes
from proxy.server.byok.store import Contents, VaultStore
from proxy.server.ledger import LedgerRefused

log = structlog.get_logger()
LOOK = 0.5  # seconds between looks for what another process, or a reload, has changed


@frozen
class Masters:
    """The master key and the one before it, as a table has them; `missing` is why there is none."""

    now: bytes | None = field(default=None, repr=False)
    former: bytes | None = field(default=None, repr=False)
    missing: str = "[server] master_key is not set"

    @classmethod
    def of(cls, table: Table) -> Masters:
        now, former = (key and key_bytes(key.reveal()) for key in (table.master_key, table.former_master_key))
        return cls(now or None, former or None, table.no_master_key or "[server] master_key is not set")


@define(eq=False)
class Vault:
    store: VaultStore
    masters: Masters
    own: OwnKeys = field(factory=OwnKeys)
    entropy: Callable[[int], bytes] = os.urandom
    now: Callable[[], float] = time.time
    opened: Callable[[Iterable[Secret]], None] = lambda secrets: None  # told of what must never be printed
    _taken: Masters | None = None  # with which the file was read
    _seen: int = -1
    _off: str = ""
    _told: str = ""
    _changing: threading.Lock = field(factory=threading.Lock)  # file and memory change together

    @property
    def off(self) -> str:
        """Why nothing can be stored; empty where it can."""
        return self._off

    def load(self) -> None:
        """Reads and opens every key; wraps the data key anew where the former master key still wraps it. Raises
        LedgerRefused."""
        with self._changing:
            self._load()

    def _load(self) -> None:
        masters, contents = self.masters, self.store.load()
        opened = {key.id: it for key in contents.data_keys if (it := self._unwrapped(key, masters)) is not None}
        keys: dict[tuple[str, str], Secret] = {}
        locked: dict[str, set[str]] = {}
        for stored in contents.stored:
            secret = _open(stored, opened.get(stored.data_key))
            if secret is None:
                locked.setdefault(stored.project, set()).add(stored.provider)
            else:
                keys[stored.project, stored.provider] = secret
        self.own.replace(keys, {project: frozenset(names) for project, names in locked.items()})
        self._taken, self._seen = masters, contents.changes
        self._off = _why_off(masters, contents, opened)
        self._tell(sum(map(len, locked.values())))

    def _unwrapped(self, key: DataKey, masters: Masters) -> bytes | None:
        for master in (masters.now, masters.former):
            if master is None or vault.fingerprint(master) != key.master:
                continue
            try:
                data_key = vault.unwrap(key.wrapped, master)
            except Unsealed:
                return None
            if masters.now is not None and master is not masters.now:
                again = vault.wrap(data_key, masters.now, self.entropy(NONCE))
                self.store.rewrap(key, again, vault.fingerprint(masters.now))
                log.info("master_key_rotated", data_key=key.id)
            return data_key
        return None

    def _tell(self, locked: int) -> None:
        told = f"{locked} {self._off}" if locked else ""
        if told and told != self._told:
            log.error("stored_keys_locked", keys=locked, reason=self._off or "they do not open")
        self._told = told

    # -- changes ---------------------------------------------------------------------------------------------

    def put(self, project: str, provider: str, key: str, *, only_known: bool = False) -> tuple[StoredKey, bool]:
        """The stored key, and whether there was none before. The old one serves until the new one is in; requests under
        way end with what they took. Raises NotConfigured where the feature is off, UnknownPath for a rotation of
        nothing."""
        with self._changing:
            self._load()
            if self._off:
                raise NotConfigured(self._off)
            before = self._find(project, provider)
            if before is None and only_known:
                raise _nothing(project, provider)
            data_key, opened = self._data_key()
            now = int(self.now() * 1000)
            sealed = vault.seal(key, opened, self.entropy(NONCE), project, provider)
            stored = StoredKey(project, provider, data_key.id, sealed, last_four(key), now, now)
            if before is not None:
                stored = evolve(stored, created_ms=before.created_ms)
            self.store.put(stored)
            self._load()
            return stored, before is None

    def _data_key(self) -> tuple[DataKey, bytes]:
        master = self.masters.now
        assert master is not None
        self.store.forget_unused()
        fresh = vault.wrap(self.entropy(vault.KEY), master, self.entropy(NONCE))
        key = self.store.begin(fresh, vault.fingerprint(master), int(self.now() * 1000))
        opened = self._unwrapped(key, self.masters)
        if opened is None:
            raise NotConfigured("Provider keys cannot be stored: the data key does not open.")
        return key, opened

    def delete(self, project: str, provider: str) -> StoredKey:
        """Works without the master key, too. Raises UnknownPath where there is none."""
        with self._changing:
            before = self._find(project, provider)
            if before is None:
                raise _nothing(project, provider)
            self.store.delete(project, provider)
            self._load()
            return before

    def _find(self, project: str, provider: str) -> StoredKey | None:
        stored = self.store.load().stored
        return next((it for it in stored if (it.project, it.provider) == (project, provider)), None)

    def listed(self, project: str | None = None) -> list[dict[str, Any]]:
        """As the file has them, masked."""
        return [self.shown(it) for it in self.store.load().stored if project in (None, it.project)]

    def shown(self, stored: StoredKey) -> dict[str, Any]:
        return stored_json(stored, opens=stored.provider in self.own.of(stored.project))

    # -- the gateway's side ----------------------------------------------------------------------------------

    def taken(self) -> None:
        """On the loop, after a change: what is open now must never be printed."""
        self.opened(self.own.secrets)

    async def follow(self) -> None:
        """For ever: takes over what other processes and reloads change, within a second. While the file cannot be read
        the keys stay as they were."""
        refused = ""
        with closing(self.store.changes()) as changes:
            while True:
                await asyncio.sleep(LOOK)
                try:
                    if self._taken != self.masters or await asyncio.to_thread(changes.now) != self._seen:
                        await asyncio.to_thread(self.load)
                        self.taken()
                    refused = ""
                except LedgerRefused as exc:
                    if str(exc) != refused:
                        refused = str(exc)
                        log.warning("stored_keys_unreadable", reason=refused)


def _why_off(masters: Masters, contents: Contents, opened: dict[int, bytes]) -> str:
    if masters.now is None:
        return f"Provider keys cannot be stored: {masters.missing}."
    if any(stored.data_key not in opened for stored in contents.stored):
        return (
            "Provider keys cannot be stored: those that are there were stored under another master key. Name that one "
            "as [server] former_master_key, or delete them."
        )
    return ""


def _open(stored: StoredKey, data_key: bytes | None) -> Secret | None:
    try:
        return None if data_key is None else vault.unseal(stored, data_key)
    except Unsealed:
        return None


def _nothing(project: str, provider: str) -> UnknownPath:
    return UnknownPath(f"The project {project} has no key of its own for {provider}.")
