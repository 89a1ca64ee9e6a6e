"""Mixed load for a while on one daemon, and what is left of it: memory, sockets, descriptors.

python -m faults.soak MINUTES
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from attrs import frozen
from upstream import ScriptedUpstream

from faults.bench import Misbehaving, daemon
from faults.load import Chaos, Tally, ask, table_of

AT_ONCE = 16
TOLERANCE = 0.05  # by which the last third's memory may exceed the second's
SAMPLE = 0.5  # seconds


@frozen
class Report:
    requests: int
    whole: int
    typed: dict[str, int]
    wrong: list[str]
    second_third: float  # bytes of memory, on average
    last_third: float
    sockets: tuple[int, int]  # before and after

    @property
    def flat(self) -> bool:
        return self.last_third <= self.second_third * (1 + TOLERANCE)

    @property
    def left_behind(self) -> int:
        return max(0, self.sockets[1] - self.sockets[0])


async def soak(minutes: float) -> Report:
    with tempfile.TemporaryDirectory(prefix="pm-") as home:
        async with ScriptedUpstream() as upstream:
            provider, tally = Misbehaving(upstream), Tally()
            async with daemon(table_of(provider), Path(home), server='keep_alive = "2s"\n') as running:
                upstream.answers(Chaos(0.05, random.Random(9)).script)
                await running.get("/healthz")
                before, end, number = running.usage()[2], time.monotonic() + minutes * 60, iter(range(10**9))
                samples: list[int] = []

                async def worker() -> None:
                    while time.monotonic() < end:
                        await ask(running, next(number), tally)
                        upstream.seen.clear()

                async def sample() -> None:
                    while time.monotonic() < end:
                        samples.append(running.usage()[0])
                        await asyncio.sleep(SAMPLE)

                await asyncio.gather(sample(), *(worker() for _ in range(AT_ONCE)))
                await running.until_metric("pointsman_requests_under_way", lambda value: value == 0)
                for transport in list(upstream.transports):
                    transport.abort()  # what the pool keeps open for later is not left behind
                await upstream.until(lambda it: not it.open)
                await running.until_metric("pointsman_client_connections", lambda value: value <= 1)
                third = len(samples) // 3
                return Report(
                    requests=len(tally.ids),
                    whole=tally.whole,
                    typed=dict(tally.typed),
                    wrong=tally.wrong[:5],
                    second_third=sum(samples[third : 2 * third]) / max(third, 1),
                    last_third=sum(samples[2 * third :]) / max(len(samples) - 2 * third, 1),
                    sockets=(before, running.usage()[2]),
                )


def main() -> int:
    report = asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0))
    print(report)  # noqa: T201
    return 0 if report.flat and not report.wrong and not report.left_behind else 1


if __name__ == "__main__":
    raise SystemExit(main())
