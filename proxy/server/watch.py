"""Noticing that a file's content may have changed, in every way a file changes: written in place, replaced by rename,
its symbolic link swapped, deleted and made again, its whole directory made anew.

Owns the noticing; `server.table_file` reads. Whether the content is any good, and what follows, is `server.reload`'s.

Kernel events only wake; what decides is a look at the file. So a lost event costs seconds and no change, and network
file systems, which send none, are served as well.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import structlog
from watchfiles._rust_notify import RustNotify

from proxy.record import frozen

log = structlog.get_logger()

POLL_S = 2.0
ROUNDS = 8  # looks at a file that does not come to rest, before it is read all the same
LINKS = 40  # as the kernel has it

# Device, inode, size, and the times of content and of attributes; None where there is nothing. The last one gives away
# a write that puts the old time back, and a file that becomes readable.
Target = tuple[int, ...] | None
UNKNOWN: Target = ()  # equals no file's


@frozen
class Sight:
    """One look at a path. Equal targets some time apart mean equal content."""

    target: Target
    # The directories in which a change may change what the path names, with device and inode of each.
    directories: frozenset[tuple[Path, int, int]]


async def watch(
    path: Path, changed: Callable[[], Awaitable[None]], *, debounce_s: float = 0.1, stop: asyncio.Event
) -> None:
    """Await `changed` whenever the content of `path` may have changed, until `stop`. Cancelling sets `stop` as well.

    Called once at the start, since the file may have changed after the caller's own read. Calls never overlap. A file
    that is being written is left to come to rest for `debounce_s`, at most eight times that; what the last write left
    is always seen by a call. An exception of `changed` ends the watch.
    """
    known = UNKNOWN
    while not stop.is_set():
        watched = (await asyncio.to_thread(_look, path)).directories
        async with aclosing(_wakings({directory for directory, _, _ in watched}, debounce_s, stop)) as wakings:
            async for _ in wakings:
                sight = await asyncio.to_thread(_look, path)
                if sight.target != known:
                    known = await _rest(path, sight.target, debounce_s, stop)
                    if stop.is_set():
                        return
                    await changed()
                if sight.directories != watched:
                    break


async def _wakings(directories: set[Path], debounce_s: float, stop: asyncio.Event) -> AsyncGenerator[None]:
    """Once at the start, after events in the directories, and every POLL_S.

    Ends with `stop`, and when one of the directories itself was moved or deleted: the kernel's watch went with it, and
    a new directory may well have the inode of the old one.
    """
    yield
    step = max(10, int(debounce_s * 1000))  # milliseconds from one look of watchfiles' thread to the next
    try:
        # The core of watchfiles, as https://watchfiles.helpmanual.io/api/rust_backend/ has it. Its `awatch` would bring
        # anyio for a thread to wait in: 1 MB, and 10 ms in which the loop stands still just when it begins to serve.
        with RustNotify(
            [str(directory) for directory in sorted(directories)],
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=False,
            ignore_permission_denied=False,
        ) as events:
            while (changes := await _changes(events, step, stop)) is not None:
                yield
                if not directories.isdisjoint(changes):
                    return
    except (OSError, RuntimeError) as exc:  # a directory that has just gone; no inotify instance left for this user
        log.debug("watch_polling", exc_info=exc)
        await _pause(stop, POLL_S)


async def _changes(events: RustNotify, step: int, stop: asyncio.Event) -> set[Path] | None:
    """What has changed; nothing after POLL_S, None with `stop`, which a cancelled wait sets: else its thread would go
    on waiting."""
    try:
        found = await asyncio.to_thread(events.watch, step * 2, step, int(POLL_S * 1000), stop)
    except asyncio.CancelledError:
        stop.set()
        raise
    if isinstance(found, str):
        return None if found == "stop" else set()
    return {Path(name) for _, name in found}


async def _rest(path: Path, target: Target, debounce_s: float, stop: asyncio.Event) -> Target:
    """What the file looks like once two looks agree; UNKNOWN if they never do."""
    for _ in range(ROUNDS):
        await _pause(stop, debounce_s)
        before, target = target, (await asyncio.to_thread(_look, path)).target
        if target == before:
            return target
    return UNKNOWN


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


# -- looking, in a thread: a dead network file system answers late ------------------------------------------------


def _look(path: Path) -> Sight:
    try:
        status = path.stat()
        target: Target = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError:
        target = None
    return Sight(target, frozenset(map(_existing, _directories(path))))


def _directories(path: Path) -> Iterator[Path]:
    """Where `path` is looked up: the directory of every symbolic link on the way, and the file's own.

    Kubernetes puts two links in one way: `routes.toml -> ..data/routes.toml` and `..data -> ..2031_01_01`.
    """
    here, links = Path("/"), 0
    ahead = list(reversed(path.absolute().parts[1:]))
    while ahead:
        part = ahead.pop()
        if part == "..":
            here = here.parent
            continue
        try:
            target = Path(os.readlink(here / part))
        except OSError:  # no link, or nothing there
            here /= part
            continue
        yield here
        links += 1
        if links > LINKS:
            return
        if target.is_absolute():
            here, target = Path("/"), target.relative_to("/")
        ahead.extend(reversed(target.parts))
    yield here.parent


def _existing(directory: Path) -> tuple[Path, int, int]:
    """The directory, or the nearest one above it that is there: in that one it will appear."""
    for candidate in (directory, *directory.parents):
        with suppress(OSError):
            status = candidate.stat()
            if stat.S_ISDIR(status.st_mode):
                return candidate, status.st_dev, status.st_ino
    return Path("/"), 0, 0
