"""How providers' keys of projects are kept: sealed with AES-256-GCM under a data key, which the master key wraps.

    sealed  := version (1) nonce (12) ciphertext and tag       under the data key, bound to project and provider
    wrapped := version (1) nonce (12) ciphertext and tag       of the data key, under the master key

So a row that is moved to another project does not open, the file without the master key is worth nothing, and a new
master key means to wrap one key anew. Nonces are random, of which https://csrc.nist.gov/pubs/sp/800/38/d/final allows
2**32 under one key. Entropy is an argument.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import field

from proxy.errors import InvalidRequest
from proxy.record import define, frozen
from proxy.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
NONCE = 12  # bytes
KEY = 32  # bytes
DATA_KEY = b"pointsman data key"
SHORTEST, LONGEST = 8, 4096  # characters of a provider's key
SHOWN_FROM = 16  # characters, from which on the last four may be shown


class Unsealed(Exception):
    """What was sealed does not open: another key, another place, or changed bytes."""


@frozen
class DataKey:
    """As the file has it; `master` tells which master key wraps it, and nothing of that key."""

    id: int
    wrapped: bytes = field(repr=False)
    master: str
    created_ms: int


@frozen
class StoredKey:
    """A project's own key for a provider, as the file has it."""

    project: str
    provider: str
    data_key: int
    sealed: bytes = field(repr=False)
    last_four: str
    created_ms: int
    changed_ms: int


def fingerprint(master: bytes) -> str:
    return hashlib.sha256(b"pointsman master key\0" + master).hexdigest()[:16]


def wrap(data_key: bytes, master: bytes, nonce: bytes) -> bytes:
    return _sealed(data_key, master, nonce, DATA_KEY)


def unwrap(wrapped: bytes, master: bytes) -> bytes:
    """Raises Unsealed."""
    return _opened(wrapped, master, DATA_KEY)


def seal(key: str, data_key: bytes, nonce: bytes, project: str, provider: str) -> bytes:
    return _sealed(key.encode(), data_key, nonce, _place(project, provider))


def unseal(stored: StoredKey, data_key: bytes) -> Secret:
    """Raises Unsealed."""
    return Secret(_opened(stored.sealed, data_key, _place(stored.project, stored.provider)).decode())


def _place(project: str, provider: str) -> bytes:
    return b"pointsman provider key\0" + project.encode() + b"\0" + provider.encode()


def _sealed(plain: bytes, key: bytes, nonce: bytes, place: bytes) -> bytes:
    return VERSION + nonce + _cipher(key).encrypt(nonce, plain, VERSION + place)


def _opened(sealed: bytes, key: bytes, place: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    if sealed[:1] != VERSION:
        raise Unsealed("sealed by another version")
    nonce, text = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
    try:
        return _cipher(key).decrypt(nonce, text, VERSION + place)
    except (InvalidTag, ValueError) as exc:
        raise Unsealed("another key, or changed bytes") from exc


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 20 ms, for those alone who store keys

    return AESGCM(key)


# -- in memory ---------------------------------------------------------------------------------------------------

NONE: Mapping[str, Secret] = {}
NOBODY: frozenset[str] = frozenset()


@define(eq=False)
class OwnKeys:
    """The keys of projects, open, by project and provider. `locked` are those that are in the file and do not open:
    nobody else's key stands in for them. Replaced whole, so a request keeps what it took."""

    empty: bool = True
    _open: Mapping[str, Mapping[str, Secret]] = field(factory=dict, repr=False)
    _locked: Mapping[str, frozenset[str]] = field(factory=dict)

    def of(self, project: str | None) -> Mapping[str, Secret]:
        return self._open.get(project, NONE) if project is not None else NONE

    def locked(self, project: str | None) -> frozenset[str]:
        return self._locked.get(project, NOBODY) if project is not None else NOBODY

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def replace(self, opened: Mapping[tuple[str, str], Secret], locked: Mapping[str, frozenset[str]]) -> None:
        by_project: dict[str, dict[str, Secret]] = {}
        for (project, provider), secret in opened.items():
            by_project.setdefault(project, {})[provider] = secret
        self._open, self._locked = by_project, locked
        self.empty = not by_project and not locked

    @property
    def secrets(self) -> list[Secret]:
        return [secret for keys in self._open.values() for secret in keys.values()]


# -- words -------------------------------------------------------------------------------------------------------


def read_key(document: Any) -> str:
    """The `key` of a body. Raises InvalidRequest, which never repeats it."""
    if not isinstance(document, dict) or document.keys() - {"key"}:
        raise InvalidRequest('An object with the one member "key" is needed.')
    key = document.get("key")
    if not isinstance(key, str) or not SHORTEST <= len(key.strip()) <= LONGEST:
        raise InvalidRequest(f"key: a text of {SHORTEST} to {LONGEST} characters is needed.", param="key")
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidRequest("key: it has characters that no key has: is it one line?", param="key")
    return key


def last_four(key: str) -> str:
    return key[-4:] if len(key) >= SHOWN_FROM else ""


def stored_json(stored: StoredKey, *, opens: bool) -> dict[str, Any]:
    """Without the key: its last four characters tell it from another."""
    return {
        "object": "provider_key",
        "project": stored.project,
        "provider": stored.provider,
        "masked": f"…{stored.last_four}",
        "state": "good" if opens else "locked",
        "created_at": _time(stored.created_ms),
        "changed_at": _time(stored.changed_ms),
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
