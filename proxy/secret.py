"""One type for everything that must never be printed, and the scrubber that watches what leaves all the same."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import final

MASK = "***"


@final
class Secret:
    """A string that shows itself only to `reveal()`. Equal secrets compare equal; none has a readable repr."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


MASTER_KEY_BYTES = 32


def key_bytes(text: str) -> bytes | None:
    """A key of 32 bytes, written in base64 of either alphabet or as 64 hexadecimal digits; None for anything else."""
    try:
        if len(text) == 2 * MASTER_KEY_BYTES:
            return bytes.fromhex(text)
        padded = text + "=" * (-len(text) % 4)
        raw = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == MASTER_KEY_BYTES else None


KEYS_OWN = r"(?<=_live_[A-Za-z0-9]{12}_)[A-Za-z0-9]+"  # the secret of a virtual key, whose form accounts.keys has
# Providers' keys, by how they begin. Models are called xai-grok-… and the like: there one long run tells a key.
PROVIDERS_OWN = (
    r"\b(?:(?:sk|pk|gsk)[-_][A-Za-z0-9_\-]{12,}"
    r"|(?:xai|hf|r8|fw|csk|pplx|nvapi|tgp_v1)[-_][A-Za-z0-9]{20,}|AIza[A-Za-z0-9_\-]{30,})"
)
_KEYS = f"{KEYS_OWN}|{PROVIDERS_OWN}"


def hide_own(text: str) -> str:
    """Less the secrets of virtual keys."""
    return re.sub(KEYS_OWN, MASK, text) if "_live_" in text else text


def hide_keys(text: str) -> str:
    """Less what looks like a key, ours or a provider's: what a client names wrongly may be one, and would be repeated
    to it and recorded."""
    return re.sub(_KEYS, MASK, text)


def holds_key(text: str) -> bool:
    return re.search(_KEYS, text) is not None


class Scrubber:
    """Replaces known secrets, and what looks like a credential, in any text.

    Known values are matched exactly; shorter ones than eight characters are left alone, since masking them would
    mangle ordinary words. Shapes: bearer tokens, `sk-…` and its like, `key=…` in URLs, the secret of a virtual key.
    """

    SHAPES = re.compile(
        r"(?i)(bearer\s+|[?&](?:api_?)?key=)[^\s\"'&<>]{8,}|\bneu_(?:live|test)[-_][A-Za-z0-9_\-]{12,}"
        rf"|{PROVIDERS_OWN}|{KEYS_OWN}"
    )
    SHORTEST = 8

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        known = sorted({s.reveal() for s in secrets if len(s.reveal()) >= self.SHORTEST}, key=len, reverse=True)
        self.values = tuple(known)  # that are matched
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(MASK, text)
        return self.SHAPES.sub(lambda match: (match[1] or "") + MASK, text)

    def knows(self, text: str) -> bool:
        """Whether one of the known values stands in it."""
        return self._known is not None and self._known.search(text) is not None

    def holds_secret(self, raw: bytes) -> bool:
        """Exact scan of foreign bytes for the known values only."""
        return bool(self._known and self._known.search(raw.decode("utf-8", "replace")))
