"""Mixed load for a while on one daemon, and what is left of it: memory, tasks, sockets, descriptors.

python -m faults.soak MINUTES

Before it is measured, caches that grow up to a cap are filled, as fast as it goes; what counts is that nothing grows
once they are full. A table of each minute is printed as it passes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen
from upstream import ScriptedUpstream

from faults.bench import Daemon, Misbehaving, daemon
from faults.load import Chaos, Tally, ask, table_of
from faults.responses import SURFACES, asking
from proxy.routing.affinity import TRACKED

AT_ONCE = 16
RATE = 60.0  # requests a second while it is measured
MOST = 4 * AT_ONCE  # under way at once: on a machine that is held up, a crowd would be measured, and not what is left
FAULTY = 0.05  # of the first provider's attempts
TOLERANCE = 0.05  # by which the last third's memory may exceed the second's
SAMPLE = 0.5  # seconds
# SQLite keeps the descriptor of a reader that closed while another connection has locks, and opens the next one on it:
# as many as ever read at once, those of keys, of sealed keys and of the admin's pages.
FILE, MOST_KEPT = "/state/ledger.sqlite3", 2
RELOAD = 20.0  # seconds between two SIGHUPs
# On SIGUSR1 the process writes down how many tasks there are: nothing else of it tells.
COUNTING = """
import asyncio, gc, os, signal
def count(*_):
    tasks = [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]
    with open(os.environ["TASKS"] + ".new", "w") as file:
        file.write("\\n".join(sorted(task.get_coro().__qualname__ for task in tasks)))
    os.rename(os.environ["TASKS"] + ".new", os.environ["TASKS"])
signal.signal(signal.SIGUSR1, count)
"""


@frozen
class Left:
    """What the process holds while nothing is asked of it."""

    tasks: tuple[str, ...]
    descriptors: tuple[str, ...]  # by what they lead to


@frozen
class Report:
    requests: int
    whole: int
    typed: dict[str, int]
    wrong: list[str]
    dropped: float  # rows of the ledger
    pins: float
    second_third: float  # bytes of memory, on average
    last_third: float
    before: Left
    after: Left

    @property
    def grown(self) -> float:
        return self.last_third / self.second_third - 1

    @property
    def left_behind(self) -> list[str]:
        """Each with its name; empty is well."""
        tasks, descriptors = (
            _more(self.before.tasks, self.after.tasks),
            _more(self.before.descriptors, self.after.descriptors),
        )
        kept = descriptors.count(FILE) if descriptors.count(FILE) <= MOST_KEPT else 0
        for _ in range(kept):
            descriptors.remove(FILE)
        return [*(f"task {name}" for name in tasks), *(f"descriptor of {name}" for name in descriptors)]

    def problems(self, tolerance: float = TOLERANCE) -> list[str]:
        found = [*self.wrong, *self.left_behind]
        if self.grown > tolerance:
            found.append(f"memory grew by {self.grown:.1%}")
        if self.dropped:
            found.append(f"{self.dropped:g} rows were dropped")
        return found


def _more(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    left = list(after)
    for name in before:
        if name in left:
            left.remove(name)
    return left


@define(eq=False)
class Soak:
    running: Daemon
    upstream: ScriptedUpstream
    home: Path
    tell: Callable[[str], object]
    tally: Tally = field(factory=Tally)
    samples: list[int] = field(factory=list)
    number: int = 0

    async def one(self) -> None:
        """A request; every hundredth client leaves in the middle of it, or lists the models, or names none."""
        self.number += 1
        number = self.number
        self.upstream.seen.clear()
        match number % 100:
            case 17:
                await self._leaving()
            case 42:
                assert (await self.running.get("/v1/models")).status == 200
            case 77:
                got = await self.running.post(SURFACES[0], asking(SURFACES[0], f"no-such-{number}", stream=False))
                assert got.status == 404
            case _:
                await ask(self.running, number, self.tally)

    async def _leaving(self) -> None:
        tongue = SURFACES[self.number // 100 % 3]
        leaving = asyncio.ensure_future(
            self.running.post(tongue, asking(tongue, f"profile:{tongue.surface}", stream=True))
        )
        await asyncio.sleep(0.002)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

    async def fill(self) -> None:
        """As fast as it goes, until every conversation that is remembered more makes another one forgotten."""
        while (pins := await self.running.metric("pointsman_affinity_pins")) < TRACKED:
            self.tell(f"filling: {pins:6.0f} of {TRACKED} conversations, {self.running.usage()[0] >> 20} MiB")
            await self._many(2_000)

    async def _many(self, count: int) -> None:
        waiting = iter(range(count))

        async def worker() -> None:
            for _ in waiting:
                await self.one()

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    async def load(self, seconds: float) -> None:
        """At its rate; each request begins at its time, or is left out while too many are under way."""
        loop, under_way = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        began, due = loop.time(), 0.0
        while due < seconds:
            await asyncio.sleep(max(0.0, began + due - loop.time()))
            due += 1 / RATE
            if len(under_way) < MOST:
                task = asyncio.create_task(self.one())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def watch(self, until: float) -> None:
        began, next_line, next_reload = time.monotonic(), 60.0, RELOAD
        while (now := time.monotonic()) < until:
            self.samples.append(self.running.usage()[0])
            if now - began >= next_reload:
                next_reload += RELOAD
                self.running.signal(signal.SIGHUP)
            if now - began >= next_line:
                minute = self.samples[-round(60 / SAMPLE) :]
                resident, descriptors, _ = self.running.usage()
                average = sum(minute) / len(minute) / 2**20
                self.tell(
                    f"{next_line / 60:5.0f} min {len(self.tally.ids):8} requests {average:8.1f} MiB on average"
                    f" {resident / 2**20:8.1f} now {descriptors:5} descriptors"
                )
                next_line += 60.0
            await asyncio.sleep(SAMPLE)

    async def left(self) -> Left:
        """Once all is quiet: what a pool keeps open for later is not left behind."""
        await self.running.until_metric("pointsman_requests_under_way", lambda value: value == 0)
        await self.running.until_metric("pointsman_ledger_queued", lambda value: value == 0)
        for transport in list(self.upstream.transports):
            transport.abort()
        await self.upstream.until(lambda it: not it.open)
        await self.running.until_metric("pointsman_client_connections", lambda value: value <= 1)
        told = self.home / "tasks"
        told.unlink(missing_ok=True)
        self.running.signal(signal.SIGUSR1)
        async with asyncio.timeout(20):
            while not told.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return Left(tuple(told.read_text().split("\n")), tuple(self._descriptors()))

    def _descriptors(self) -> list[str]:
        found = []
        for entry in Path(f"/proc/{self.running.child.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                kind = os.readlink(entry)
                found.append("a socket" if kind.startswith("socket:") else kind.replace(str(self.home), ""))
        return sorted(found)


async def soak(minutes: float, *, fill: bool = True, tell: Callable[[str], object] = lambda line: None) -> Report:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        home = Path(made)
        (home / "hook").mkdir()
        (home / "hook" / "sitecustomize.py").write_text(COUNTING)
        env = {"PYTHONPATH": str(home / "hook"), "TASKS": str(home / "tasks")}
        async with ScriptedUpstream() as upstream:
            provider = Misbehaving(upstream)
            table = table_of(provider)
            async with daemon(table, home, server='keep_alive = "2s"\n', env=env) as running:
                upstream.answers(Chaos(FAULTY, random.Random(9)).script)
                run = Soak(running, upstream, home, tell)
                await run._many(200)
                before = await run.left()
                if fill:
                    await run.fill()
                until = time.monotonic() + minutes * 60
                await asyncio.gather(run.load(minutes * 60), run.watch(until))
                after = await run.left()
                for _ in range(20):  # a look at the file of keys may have been under way
                    if not _more(before.descriptors, after.descriptors):
                        break
                    after = await run.left()
                third, tally = len(run.samples) // 3, run.tally
                return Report(
                    requests=len(tally.ids),
                    whole=tally.whole,
                    typed=dict(tally.typed),
                    wrong=tally.wrong[:5],
                    dropped=await running.metric("pointsman_ledger_dropped_total"),
                    pins=await running.metric("pointsman_affinity_pins"),
                    second_third=sum(run.samples[third : 2 * third]) / max(third, 1),
                    last_third=sum(run.samples[2 * third :]) / max(len(run.samples) - 2 * third, 1),
                    before=before,
                    after=after,
                )


def main() -> int:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    report = asyncio.run(soak(minutes, tell=lambda line: print(line, flush=True)))  # noqa: T201
    print(  # noqa: T201
        f"{report.requests} requests: {report.whole} whole, {report.typed} told; {report.dropped:g} rows dropped\n"
        f"memory: {report.second_third / 2**20:.1f} MiB in the second third, {report.last_third / 2**20:.1f} in the "
        f"last ({report.grown:+.1%}); {report.pins:g} conversations remembered\n"
        f"before: {len(report.before.tasks)} tasks, {len(report.before.descriptors)} descriptors; after: "
        f"{len(report.after.tasks)}, {len(report.after.descriptors)}"
    )
    for problem in report.problems():
        print(f"NOT WELL: {problem}")  # noqa: T201
    return bool(report.problems())


if __name__ == "__main__":
    raise SystemExit(main())
