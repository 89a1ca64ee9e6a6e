"""A document too large to be judged, which flows as it comes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from proxy.errors import UpstreamBroken
from proxy.wire.piecemeal import Piecemeal


class Unjudged:
    """It may be an error as well as an answer: no key leaves in it, and what is not UTF-8 is broken off.

    Raises UpstreamBroken.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._mask = Piecemeal(keys)
        self._spelling = codecs.getincrementaldecoder("utf-8")()

    @property
    def edits(self) -> dict[str, int]:
        return {"key_masked": self._mask.masked} if self._mask.masked else {}

    def feed(self, piece: bytes) -> bytes:
        self._spell(piece)
        return self._mask.feed(piece)

    def close(self) -> bytes:
        self._spell(b"", final=True)
        return self._mask.close()

    def _spell(self, piece: bytes, *, final: bool = False) -> None:
        try:
            self._spelling.decode(piece, final)
        except UnicodeDecodeError as exc:
            raise UpstreamBroken("The provider's answer is not UTF-8.") from exc
