"""Request ids: `req_` and a UUIDv7 in hex, so that ids sort by time. RFC 9562, 5.7."""

from __future__ import annotations

import os
import random
import time

SIZE, AHEAD = 10, 64  # bytes of an id behind its time; ids for which they are made at a time
EACH = sum(1 << 8 * SIZE * at for at in range(AHEAD))  # the last bit of each of them
FREE = EACH * ((1 << 8 * SIZE) - 1 ^ 0xF0 << 72 ^ 0xC0 << 56)  # what is noise,
FIXED = EACH * (0x70 << 72 | 0x80 << 56)  # and what tells version and variant

# Ids must not collide; they need not be guess-proof. Seeded from the kernel, again in a forked child.
_noise = random.Random(os.urandom(32))
_ends: list[str] = []  # of ids to come


def request_id(at_ms: int | None = None) -> str:
    """`at_ms` is when the request came, where that is known."""
    if not _ends:
        _make_ends()
    if at_ms is None:
        at_ms = time.time_ns() // 1_000_000
    return f"req_{at_ms.to_bytes(6, 'big').hex()}{_ends.pop()}"


def _make_ends() -> None:
    noise = _noise.getrandbits(8 * SIZE * AHEAD)
    _ends.extend((noise & FREE | FIXED).to_bytes(SIZE * AHEAD, "big").hex(" ", SIZE).split())


def _renew() -> None:
    _noise.seed(os.urandom(32))
    _ends.clear()


os.register_at_fork(after_in_child=_renew)
