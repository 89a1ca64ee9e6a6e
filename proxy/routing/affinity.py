"""Where a conversation's prompt cache is warm: key of the conversation -> the candidate that answered last.

Sliding lifetime, bounded, the clock an argument. A pin is a wish: the plan keeps it only if the candidate survived
every step and is not cooling.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from zlib import crc32

from attrs import field

from proxy.record import define
from proxy.routing.names import Candidate

TRACKED = 50_000
STABLE_DIGITS = 8  # of a conversation's key, the same in every process: a sticky draw goes by them
_key = Struct(">Iq").pack


@define
class Affinity:
    """One per process."""

    _pins: OrderedDict[str, tuple[Candidate, float]] = field(factory=OrderedDict)

    def pin(self, conversation: str, candidate: Candidate, now: float) -> None:
        self._pins[conversation] = (candidate, now)
        self._pins.move_to_end(conversation)
        if len(self._pins) > TRACKED:
            self._pins.popitem(last=False)

    def pinned(self, conversation: str, now: float, lifetime: float) -> Candidate | None:
        found = self._pins.get(conversation)
        if found is None:
            return None
        candidate, at = found
        if now - at > lifetime:
            del self._pins[conversation]
            return None
        return candidate

    def __len__(self) -> int:
        return len(self._pins)


def conversation_key(scope: str, session: str | None, system: str, first_turn: str) -> str | None:
    """`scope` is the caller's key or project, so that no two callers share a pin. None: nothing to tell it by.

    `session` is what the client calls its conversation: a session header or `prompt_cache_key`.

    Behind the `STABLE_DIGITS` stand those of Python's own hash, whose secret is the process's: nobody can make two
    conversations meet. A digest of OpenSSL's tells no more, and of one long request after the other its code, its
    tables and its objects have left the caches.
    """
    if not session and not first_turn:
        return None
    text = f"s\0{scope}\0{session}" if session else f"h\0{scope}\0{system}\0{first_turn}"
    return _key(crc32(text.encode("utf-8", "surrogatepass")), hash(text)).hex()
