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


class Conversations:
    """Those of one scope, which is a caller's key or project, and what is asked for: no two callers share a pin.

    Behind the `STABLE_DIGITS` of a key stand those of Python's own hash, whose secret is the process's: nobody can make
    two conversations meet. A digest of OpenSSL's tells no more, and of one long request after the other its code, its
    tables and its objects have left the caches. Most conversations have what the system says in common with the last
    one, and of that both are kept.
    """

    __slots__ = ("_begun", "_scope", "_system")

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._system: str | None = None
        self._begun = 0, 0

    def key(self, session: str | None, system: str, first_turn: str) -> str | None:
        """None: nothing to tell it by. `session` is what the client calls its conversation: a session header or
        `prompt_cache_key`."""
        if session:
            stable, secret = _digests(f"s\0{self._scope}\0{session}")
            return _key(stable, secret).hex()
        if not first_turn:
            return None
        if system != self._system:
            self._system, self._begun = system, _digests(f"h\0{self._scope}\0{system}\0")
        stable, secret = self._begun
        return _key(crc32(first_turn.encode("utf-8", "surrogatepass"), stable), hash((secret, first_turn))).hex()


def _digests(text: str) -> tuple[int, int]:
    return crc32(text.encode("utf-8", "surrogatepass")), hash(text)
