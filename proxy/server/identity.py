"""Request ids: `req_` and a UUIDv7 in hex, so that ids sort by time. RFC 9562, 5.7."""

from __future__ import annotations

import os
import random
import time

VERSION, VARIANTS = "7", dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
DIGITS, AHEAD = 19, 64  # of noise in an id; ids whose noise is made at a time

# Ids must not collide; they need not be guess-proof. Seeded from the kernel, again in a forked child.
_noise = random.Random(os.urandom(32))
_ends: list[str] = []  # of ids to come


def request_id() -> str:
    if not _ends:
        _make_noise()
    return f"req_{time.time_ns() // 1_000_000:012x}{_ends.pop()}"


def _make_noise() -> None:
    digits = f"{_noise.getrandbits(4 * DIGITS * AHEAD):0{DIGITS * AHEAD}x}"
    for at in range(0, DIGITS * AHEAD, DIGITS):
        variant = VARIANTS[digits[at + 3]]
        _ends.append(f"{VERSION}{digits[at : at + 3]}{variant}{digits[at + 4 : at + DIGITS]}")


def _renew() -> None:
    _noise.seed(os.urandom(32))
    _ends.clear()


os.register_at_fork(after_in_child=_renew)
