"""Virtual keys: what they look like, what is kept of one, and the ring in memory that a request's key is looked up in.

    neu_live_8kTq0ZbX41pd_Vb3…      prefix _ "live" _ 12 public characters _ 256 secret bits as 43 digits of base 62

The public part is the key's id in records, logs and commands. Of the whole only its SHA-256 is kept: with 256 random
bits there is nothing to guess, so a slow hash would only be slow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from hmac import compare_digest

from attrs import evolve, field

from proxy.accounts.budget import BudgetTerms
from proxy.accounts.limits import NO_LIMITS, LimitTerms
from proxy.errors import Unauthenticated
from proxy.record import frozen

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PUBLIC, SECRET = 12, 43  # characters; 62 ** 43 is the first power above 2 ** 256
SECRET_BYTES, PUBLIC_BYTES = 32, 9
ID = slice(-(PUBLIC + 1 + SECRET), -(1 + SECRET))
ENTROPY = SECRET_BYTES + PUBLIC_BYTES  # random bytes that a new key takes
FORM = re.compile(rf"([A-Za-z0-9]{{1,32}})_live_([A-Za-z0-9]{{{PUBLIC}}})_[A-Za-z0-9]{{{SECRET}}}", re.ASCII)

INFERENCE, CHAT, ADMIN_READ, ADMIN_WRITE = SCOPES = ("inference", "chat", "admin:read", "admin:write")
ALL_SURFACES = frozenset({INFERENCE})
CHAT_SURFACES = frozenset({INFERENCE, CHAT})  # what a publishable key may reach
READING = frozenset({ADMIN_READ, ADMIN_WRITE})
WRITING = frozenset({ADMIN_WRITE})

_NOBODY = hashlib.sha256(b"").digest()  # compared with where no key has the id, so that both take the same time
UNKNOWN = (
    "The key is not one of this gateway's: it is wrong, or was made elsewhere. `pointsman keys list` has them all."
)


@frozen
class Key:
    """All that is kept of a key. Times are UTC milliseconds. After a rotation the `former` secret opens, too, until
    its time."""

    id: str
    name: str
    prefix: str
    digest: bytes = field(repr=False)
    last_four: str
    created_ms: int
    project: str | None = None
    scopes: frozenset[str] = ALL_SURFACES
    expires_ms: int | None = None
    revoked_ms: int | None = None
    former: bytes | None = field(default=None, repr=False)
    former_until_ms: int = 0
    last_used_ms: int | None = None
    budget: BudgetTerms | None = None
    limits: LimitTerms = NO_LIMITS

    @property
    def shown(self) -> str:
        """What of it may be read by anybody."""
        return f"{self.prefix}_live_{self.id}"

    @property
    def lasts(self) -> bool:
        """Whether it, and all that opens it now, will until somebody changes it."""
        return self.revoked_ms is None and self.expires_ms is None and self.former is None

    def opens(self, digest: bytes, now_ms: int) -> bool:
        """Whether the digest is its own. Takes the same time for every wrong one."""
        if compare_digest(digest, self.digest):
            return True
        return self.former is not None and compare_digest(digest, self.former) and now_ms < self.former_until_ms

    def ended(self, now_ms: int) -> str | None:
        """Why nothing opens it any more."""
        if self.revoked_ms is not None:
            return "been revoked"
        return "expired" if self.expires_ms is not None and now_ms >= self.expires_ms else None

    def rotated(self, secret: str, former_until_ms: int) -> Key:
        """With a new secret; of several former ones only the last opens."""
        return evolve(
            self,
            digest=digest_of(secret),
            last_four=secret[-4:],
            former=self.digest,
            former_until_ms=former_until_ms,
        )


def mint(prefix: str, entropy: bytes) -> tuple[str, str]:
    """A new key's id and the whole of it, from `ENTROPY` random bytes."""
    public = _base62(int.from_bytes(entropy[SECRET_BYTES:ENTROPY]), PUBLIC)
    return public, remint(prefix, public, entropy)


def remint(prefix: str, public: str, entropy: bytes) -> str:
    """The whole of a key with this id and a new secret."""
    return f"{prefix}_live_{public}_{_base62(int.from_bytes(entropy[:SECRET_BYTES]), SECRET)}"


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


def digest_of(whole: str) -> bytes:
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).digest()


def presented(authorizations: Iterable[str], api_keys: Iterable[str]) -> str | None:
    """Which of the values of `Authorization` and `x-api-key` is meant: the one that has our form. Raises
    Unauthenticated where two of them have it and differ."""
    found: str | None = None
    for value in authorizations:
        if value[:7].lower() == "bearer ":
            found = _one(found, value[7:].strip())
    for value in api_keys:
        found = _one(found, value.strip())
    return found


def _one(found: str | None, whole: str) -> str | None:
    if FORM.fullmatch(whole) is None:
        return found
    if found is not None and found != whole:
        raise Unauthenticated("Authorization and x-api-key hold different keys of this gateway: send one of them.")
    return whole


class KeyRing:
    """Every key by its id. A look-up is a hash and a dict: no request waits for a database."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.by_id = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.by_id.values())

    def get(self, id: str) -> Key | None:
        return self.by_id.get(id)

    def put(self, key: Key) -> None:
        self.by_id[key.id] = key

    def replace(self, keys: Iterable[Key]) -> None:
        """What the file says now. A file that says nothing is one that was lost: nobody becomes welcome by that."""
        fresh = {key.id: key for key in keys}
        self.by_id = fresh or self.by_id

    def check(self, whole: str, now_ms: int, digest: bytes | None = None) -> Key:
        """Raises Unauthenticated for a key that is unknown, wrong, revoked or expired. `digest` is that of `whole`."""
        key = self.by_id.get(whole[ID])  # by where it stands: the digest is of the whole
        if digest is None:
            digest = digest_of(whole)
        if key is None:
            compare_digest(digest, _NOBODY)
            raise Unauthenticated(UNKNOWN)
        if not key.opens(digest, now_ms):
            raise Unauthenticated(UNKNOWN)
        if (ended := key.ended(now_ms)) is not None:
            raise Unauthenticated(f"The key {key.shown} has {ended}.")
        return key
