"""What the process as a whole takes on: requests under way, those that wait for a place, bytes of bodies, memory.

Past a limit the answer is a 503 at once: a request that has to wait long is better told so than kept. Whoever is in
stays in. The admin listener and health ask nobody here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from contextlib import suppress
from pathlib import Path

import structlog
from attrs import field

from proxy.errors import Overloaded
from proxy.record import define
from proxy.routing.table import Server
from proxy.server.waiting import Waiting

log = structlog.get_logger()
RETRY_AFTER = 1.0  # seconds
CLOSED = "The gateway is shutting down; send the request again."
LOOK = 0.25  # seconds between looks at the memory in use
SHARE = 0.9  # of what the kernel allows: there new work is refused
RELIEF = 0.95  # of the mark: below it work is taken again
KEPT = 64 << 20  # bytes of freed memory that stay with the process while it is at work
LARGEST_KEPT = 32 << 20  # bytes of one block, the most that can be said: a parser asks for twelve times a body's size
QUIET = 5.0  # seconds without a request, after which they go
GROWN = 4 << 20  # bytes that make it worth while
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
CGROUP = Path("/sys/fs/cgroup")


@define(eq=False)
class Turnstile:
    """One per process; `limits` are those of the table in force. `enter` and `leave` frame a request, `hold` and
    `release` the bytes of its body."""

    limits: Server = field(factory=Server)
    inside: int = 0
    held: int = 0  # bytes
    memory_high: bool = False
    closed: bool = False  # for good: whoever is in is being sent away
    _waiting: Waiting = field(factory=Waiting)

    @property
    def waiting(self) -> int:
        return self._waiting.heads

    def under(self, limits: Server) -> None:
        """A new table is in force: there may be more places."""
        self.limits = limits
        self._let_in()

    def check(self) -> None:
        """Raises Overloaded where a request that comes now could not even wait: its body need not be read."""
        if self.closed:
            raise Overloaded(CLOSED, retry_after=RETRY_AFTER)
        if self.memory_high and self.inside:  # whoever is alone gets in, or a process that keeps its memory is dead
            raise _overloaded("The gateway is short of memory.")
        if self.inside >= self.limits.concurrency and self.waiting >= self.limits.queue:
            raise _overloaded("The gateway has as many requests under way and waiting as it takes.")

    def enters_at_once(self) -> bool:
        """`enter` where there is room and nobody waits."""
        if self.memory_high or self.closed or self._waiting or self.inside >= self.limits.concurrency:
            return False
        self.inside += 1
        return True

    def board(self, size: int) -> bool:
        """`check`, `hold` and `enters_at_once` in one; False, and nothing done, where one of them would refuse or
        wait."""
        held, limits = self.held, self.limits
        if self.memory_high or self.closed or self._waiting or self.inside >= limits.concurrency:
            return False
        if held and held + size > limits.body_memory:
            return False
        self.inside += 1
        self.held = held + size
        return True

    async def enter(self) -> None:
        """Raises Overloaded at once where too many wait already, and after `queue_wait` where no place became free."""
        self.check()
        if self.inside < self.limits.concurrency and not self.waiting:
            self.inside += 1
            return
        try:
            await self._waiting.get_place(self.limits.queue_wait, self.leave)  # `inside` then counts this one already
        except TimeoutError as exc:
            raise _overloaded("The gateway has as many requests under way as it takes.") from exc

    def leave(self) -> None:
        self.inside -= 1
        if self._waiting:
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.inside < self.limits.concurrency and self._waiting.hand_on():
            self.inside += 1

    def alight(self, size: int) -> None:
        """`release` and `leave` in one."""
        self.held -= size
        self.inside -= 1
        if self._waiting:
            self._let_in()

    def hold(self, size: int) -> None:
        """Raises Overloaded where the bodies of all requests together would be too large; nothing is held then."""
        if self.held and self.held + size > self.limits.body_memory:
            raise _overloaded("The bodies of the requests under way fill the memory that is kept for them.")
        self.held += size

    def release(self, size: int) -> None:
        self.held -= size


def _overloaded(message: str) -> Overloaded:
    return Overloaded(f"{message} Try again shortly.", retry_after=RETRY_AFTER)


# -- memory ------------------------------------------------------------------------------------------------------


def memory_mark(server: Server, cgroup: Path = CGROUP) -> int | None:
    """Bytes in use from which on new work is refused: the table's, else a share of what the kernel allows."""
    if server.memory is not None:
        return server.memory
    allowed = [limit for name in ("memory.high", "memory.max") if (limit := _limit(_own(cgroup) / name)) is not None]
    return int(min(allowed) * SHARE) if allowed else None


def _own(cgroup: Path) -> Path:
    """This process's group, where cgroups v2 tell it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return cgroup
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return cgroup / own.lstrip("/")


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def memory_in_use() -> int:
    """Bytes of this process that are in memory and its own; pages of files are the kernel's to take back."""
    pages = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        resident, shared = os.read(pages, 256).split()[1:3]
    finally:
        os.close(pages)
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


async def watch_memory(turnstile: Turnstile) -> None:
    """For ever. Ends at once where nothing tells how much is in use."""
    try:
        memory_in_use()
    except OSError:
        return
    mark, limits, spare = memory_mark(turnstile.limits), turnstile.limits, Spare(memory_in_use())
    while True:
        await asyncio.sleep(LOOK)
        if limits is not turnstile.limits:
            mark, limits = memory_mark(turnstile.limits), turnstile.limits
        used = memory_in_use()
        if mark is None or used < mark * RELIEF:
            turnstile.memory_high = False
        elif used >= mark:
            if not turnstile.memory_high:
                log.warning("memory_high", used_bytes=used, mark_bytes=mark)
            turnstile.memory_high = True
            _trim()
        if spare.may_go(used, busy=bool(turnstile.inside or turnstile.held)):
            _trim()
            spare.level = memory_in_use()


@define
class Spare:
    """Memory that is kept for later, and when it may go: nobody is served for a while, and more is in use than after
    the last time."""

    level: int  # bytes in use then
    quiet: int = 0  # looks at which nobody was served

    def may_go(self, used: int, *, busy: bool) -> bool:
        self.quiet = 0 if busy else self.quiet + 1
        return self.quiet * LOOK >= QUIET and used >= self.level + GROWN


def keep_freed_memory() -> None:
    """A body of a megabyte is several blocks of that size, for moments. Left to itself the C library gives each back to
    the kernel and asks for it anew: a third of what such a request takes. See `Spare` for when it goes."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


def _trim() -> None:
    """Gives the kernel back what the allocator keeps for later."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
