"""Runs every upstream fault through one daemon, all at once, and notes what came of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import field, frozen
from playbook import CHAT, MESSAGES, Tongue
from upstream import ScriptedUpstream, plain, streamed

from faults.bench import Daemon, Got, Misbehaving, block, daemon
from faults.responses import RESPONSES, SURFACES, asking, frames
from faults.upstream_faults import Fault, answer

AT_ONCE = 20  # requests: more of the long ones would starve the others
NATIVE = tuple((tongue, tongue) for tongue in SURFACES)
TRANSLATED = ((CHAT, MESSAGES), (MESSAGES, CHAT), (RESPONSES, CHAT))
HEALTHY = "said elsewhere"
Hop = tuple[Tongue, Tongue]  # the client's words, the provider's


@frozen
class Seen:
    """One request, alone or with a healthy candidate behind."""

    got: Got
    row: dict[str, Any]
    asked: int  # times that the failing provider was
    slot: str = field(repr=False)


Run = tuple[Fault, Hop, bool, bool]  # fault, hop, streamed, with another candidate


def name_of(run: Run) -> str:
    fault, (client, provider), stream, second = run
    return f"{fault.slot}-{client.surface}-{provider.surface}-{int(stream)}{int(second)}".lower()


def runs_of(faults: Iterable[Fault], hops: Iterable[Hop]) -> list[Run]:
    return [
        (fault, hop, stream, second)
        for fault in faults
        for hop in hops
        for stream in (False, True)
        if (fault.stream if stream else fault.plain) is not None
        for second in (False, True)
    ]


def table_of(runs: Iterable[Run], provider: Misbehaving, served: int = 0) -> str:
    blocks: list[str] = []
    for tongue in SURFACES:
        slot = f"healthy-{tongue.surface}"
        provider.plays(slot, plain(tongue.answer(HEALTHY)))
        blocks.append(block(slot, provider.root(slot), tongue))
        provider.plays(f"{slot}-stream", streamed(frames(tongue, HEALTHY)))
        blocks.append(block(f"{slot}-stream", provider.root(f"{slot}-stream"), tongue))
    for run in runs:
        fault, (client, spoken), stream, second = run
        name = name_of(run)
        provider.plays(name, *[answer(spoken, stream)] * served, fault.script(spoken, stream))
        blocks.append(block(name, provider.root(name), spoken, fault.more))
        if second:
            healthy = f"healthy-{client.surface}{'-stream' if stream else ''}"
            blocks.append(f'[profiles.{name}]\ncandidates = ["{name}", "{healthy}"]\n')
    return "\n".join(blocks)


async def observed(runs: list[Run], home: Path, served: int = 0) -> tuple[dict[Run, Seen], Daemon, bytes]:
    """What came of each; the daemon, ended by now; and all that was told elsewhere: log, metrics, database. So many
    requests of its kind are `served` well before the fault comes."""
    async with ScriptedUpstream() as upstream:
        provider = Misbehaving(upstream)
        async with daemon(table_of(runs, provider, served), home) as running:
            gate = asyncio.Semaphore(AT_ONCE)

            async def one(run: Run) -> Got:
                (client, _), stream, second = run[1:]
                name = name_of(run)
                async with gate:
                    asked = asking(client, f"profile:{name}" if second else name, stream=stream)
                    for _ in range(served):
                        good = await running.post(client, asked)
                        assert good.status == 200, (name, good)
                    return await running.post(client, asked)

            got = await asyncio.gather(*map(one, runs))
            rows = [await running.record(it.headers["x-request-id"]) for it in got]
            metrics = (await running.get("/metrics", admin=True)).body
            await running.until_metric("pointsman_in_flight", lambda value: value == 0)
            running.signal(signal.SIGTERM)
            assert await running.ends() == 0  # so that all is written
            elsewhere = metrics + running.log.read_bytes()
            elsewhere += b"".join(path.read_bytes() for path in running.state.iterdir() if path.is_file())
            seen = {
                run: Seen(told, row, provider.asked(name_of(run)) - served, name_of(run))
                for run, told, row in zip(runs, got, rows, strict=True)
            }
            return seen, running, elsewhere
