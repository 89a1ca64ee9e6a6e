"""What all tests share: property tests without a stopwatch, and the test bed of the shell."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from gateway import Start, gateway
from hypothesis import settings
from upstream import ScriptedUpstream

settings.register_profile("pointsman", deadline=None)
settings.load_profile("pointsman")


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: that of a Unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        yield Path(made)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as started:
        yield started


@pytest.fixture
async def second() -> AsyncIterator[ScriptedUpstream]:
    """Another provider, for the fallback."""
    async with ScriptedUpstream() as started:
        yield started


@pytest.fixture
async def start(home: Path) -> AsyncIterator[Start]:
    """`await start(table, server)`: a gateway in this process, stopped when the test ends."""
    async with AsyncExitStack() as stack:
        yield lambda table, server="": stack.enter_async_context(gateway(table, home, server=server))
