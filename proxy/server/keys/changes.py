"""Making, changing and following keys: the file holds them, the ring in memory answers for them.

All but `follow` blocks for a disk: called off the event loop, or by a command for itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import structlog
from attrs import evolve, field

from proxy.accounts.asking import Wanted, key_json
from proxy.accounts.keys import ENTROPY, SECRET_BYTES, Key, KeyRing, digest_of, mint, remint
from proxy.errors import InvalidRequest, UnknownPath
from proxy.record import define
from proxy.server.keys.store import KeyStore
from proxy.server.ledger import LedgerRefused

log = structlog.get_logger()
LOOK = 0.5  # seconds between looks for what another process has changed


@define(eq=False)
class Keys:
    store: KeyStore
    ring: KeyRing = field(factory=KeyRing)
    entropy: Callable[[int], bytes] = os.urandom
    now: Callable[[], float] = time.time
    _seen: int = -1
    _told: str = ""
    _changing: threading.Lock = field(factory=threading.Lock)  # file and ring change together

    def now_ms(self) -> int:
        return int(self.now() * 1000)

    def load(self) -> None:
        """Takes over what the file has that the ring has not. Raises LedgerRefused."""
        with self._changing:
            self._seen, keys = self.store.news(self.ring.by_id) if len(self.ring) else self.store.load()
            self.ring.replace(keys)

    def create(self, wanted: Wanted, prefix: str) -> tuple[Key, str]:
        """The key and the whole of it, which nobody can ever show again."""
        id, whole = mint(prefix, self.entropy(ENTROPY))
        key = Key(
            id,
            wanted.name,
            prefix,
            digest_of(whole),
            whole[-4:],
            self.now_ms(),
            project=wanted.project,
            scopes=wanted.scopes,
            expires_ms=wanted.expires_ms,
            budget=wanted.budget,
            limits=wanted.limits,
        )
        with self._changing:
            self.store.add(key)
            self.ring.put(key)
        return key, whole

    def rotate(self, id: str, grace: int) -> tuple[Key, str]:
        """A new secret for the same key; the former one opens for `grace` seconds more. Raises InvalidRequest for a key
        that no secret opens."""
        with self._changing:
            old = self.one(id)
            if (ended := old.ended(self.now_ms())) is not None:
                raise InvalidRequest(f"The key {old.shown} has {ended}, and stays so: make another one.")
            whole = remint(old.prefix, old.id, self.entropy(SECRET_BYTES))
            key = old.rotated(whole, self.now_ms() + grace * 1000)
            self.store.rotate(key)
            self.ring.put(key)
        return key, whole

    def revoke(self, id: str) -> Key:
        """For good. A key that is revoked already stays as it is."""
        with self._changing:
            old = self.one(id)
            now = self.now_ms()
            self.store.revoke(id, now)
            key = old if old.revoked_ms is not None else evolve(old, revoked_ms=now)
            self.ring.put(key)
        return key

    def all(self) -> list[Key]:
        """As the file has them, with their last use."""
        return self.store.load()[1]

    def one(self, id: str) -> Key:
        """Raises UnknownPath for a key that is not there."""
        found = self.store.find(id)
        if found is None:
            raise UnknownPath("No key has this id; GET /admin/keys and `pointsman keys list` show them all.")
        return found

    def shown(self, *keys: Key) -> list[dict[str, Any]]:
        """With what they have spent, and without what opens them."""
        now = self.now_ms()
        spends = self.store.spends(keys, now)
        return [key_json(key, now, spends[key.id]) for key in keys]

    async def follow(self) -> None:
        """For ever: takes over what other processes change, within a second. While the file cannot be read, the keys
        stay as they were."""
        with closing(self.store.changes()) as changes:
            while True:
                await asyncio.sleep(LOOK)
                try:
                    if await asyncio.to_thread(changes.now) != self._seen:
                        await asyncio.to_thread(self.load)
                    self._told = ""
                except LedgerRefused as exc:
                    if str(exc) != self._told:
                        self._told = str(exc)
                        log.warning("keys_unreadable", reason=self._told)
