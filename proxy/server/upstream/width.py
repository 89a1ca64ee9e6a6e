"""How much of an answer waits in the kernel, and so comes with one read.

Left to itself the kernel lets megabytes wait, and a read brings a quarter of one: so much is held for a client that
does not take it. Where there are many of them a connection is narrowed for the rest of its answer.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

NARROW = 32 << 10  # bytes, of which the kernel makes twice as many
SO_BUF_LOCK = 72  # socket(7), since Linux 5.14: lets a width that was set go again
EITHER = 0


def narrow(transport: asyncio.BaseTransport) -> bool:
    """Whether that could be done."""
    return _set(transport, socket.SO_RCVBUF, NARROW)


def widen(transport: asyncio.BaseTransport) -> bool:
    """Leaves the width to the kernel again; whether that could be done."""
    return _set(transport, SO_BUF_LOCK, EITHER)


def _set(transport: asyncio.BaseTransport, option: int, value: int) -> bool:
    carrier = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError, TypeError):
        carrier.setsockopt(socket.SOL_SOCKET, option, value)
        return True
    return False
