"""A daemon on a socket that somebody else holds, as systemd does."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from faults.bench import ROOT, Daemon

PASSING = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "proxy", "serve", "--config", sys.argv[2]])
"""


@asynccontextmanager
async def held_socket() -> AsyncIterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield listener


async def activated(listener: socket.socket, place: Path, number: int) -> Daemon:
    """Serving `place`'s table on that socket; `number` names its log."""
    log = place / f"log-{number}"
    with log.open("wb") as stream:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PASSING,
            str(listener.fileno()),
            str(place / "routes.toml"),
            env={**os.environ, "STATE_DIRECTORY": str(place / "state")},
            cwd=ROOT,
            stderr=stream,
            pass_fds=(listener.fileno(),),
        )
    started = Daemon(child, log, place / "state", place / "routes.toml")
    told = await started.says("serving")
    started.base, started.admin = f"http://127.0.0.1:{listener.getsockname()[1]}", f"http://{told['admin'][0]}"
    return started
