"""What a start reads when it listens already: modules that a plain request to a provider of its own dialect does
without. They are read one at a time, so that the loop never stands still for long, and all of them before it is told
that the gateway is up. Whoever needs one sooner imports it, and has it at once.

What stands here has to be imported by nothing that a start reads before it listens; a test holds that.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import sys
from collections.abc import Callable
from importlib import import_module

BEHIND = (
    # How dialects are translated into each other, and those that a plain chat is not spoken in.
    "proxy.ir.parts",
    "proxy.ir.events",
    "proxy.ir.conversation",
    "proxy.dialects.openai_chat.codec",
    "proxy.dialects.anthropic",
    "proxy.dialects.openai_responses",
    "proxy.dialects.workers_ai",
    # The admin listener, and what it shows.
    "proxy.server.keys.admin",
    "proxy.server.byok.admin",
    "proxy.server.admin",
    # What goes on by itself.
    "watchfiles",
    "proxy.server.watch",
    "proxy.server.discovery",
    "proxy.server.probing",
)
BREATH = 0.001  # seconds between two of them, in which the loop does what has come up meanwhile
PATIENCE = 0.1  # seconds, of all, in which whoever is served already goes first


async def read_behind(busy: Callable[[], bool]) -> None:
    """Raises what a module does that cannot be read."""
    patience = PATIENCE
    for name in [name for name in BEHIND if name not in sys.modules]:
        await asyncio.sleep(BREATH)
        while patience > 0 and busy():
            patience -= BREATH
            await asyncio.sleep(BREATH)
        import_module(name)
    linecache.clearcache()  # as in `cli.modules`
    gc.freeze()
