"""Request ids: `req_` and a UUIDv7 in hex, so that ids sort by time. RFC 9562, 5.7."""

from __future__ import annotations

import os
import random
import time

# Ids must not collide; they need not be guess-proof. Seeded from the kernel, again in a forked child.
_noise = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _noise.seed(os.urandom(32)))


def request_id() -> str:
    milliseconds = time.time_ns() // 1_000_000
    noise = _noise.getrandbits(74)
    value = (milliseconds & (1 << 48) - 1) << 80 | noise
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"req_{value:032x}"
