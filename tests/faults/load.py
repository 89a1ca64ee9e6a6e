"""Mixed load on one daemon whose first provider misbehaves at random: for the chaos run, and for the soak."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import orjson
from attrs import define, field
from playbook import Tongue
from upstream import CUT, RESET, SILENCE, STREAM_HEAD, Script, Seen, head, piece, plain, streamed

from faults.bench import Daemon, Got, Misbehaving, block
from faults.responses import SURFACES, asking, frames, terminator

FAULTS = ("reset", "stall", "429", "500", "503", "529", "error in a 200", "cut")
TIMEOUTS = 'timeouts = { first_event = "3s", answer = "3s", idle = "3s", connect = "5s" }\nconnections = 2000'
# Everything is back soon, so that the faults go on reaching the chain.
HEALTH = '[health]\nrest = "200ms"\nlongest = "200ms"\n[retry]\nattempts = 4\n'


def table_of(provider: Misbehaving) -> str:
    blocks = [HEALTH]
    for tongue in SURFACES:
        for kind in ("shaky", "sound"):
            slot = f"{kind}-{tongue.surface}"
            provider.plays(slot, plain(b"{}"))
            blocks.append(block(slot, provider.root(slot), tongue, TIMEOUTS))
        blocks.append(
            f'[profiles.{tongue.surface}]\ncandidates = ["shaky-{tongue.surface}", "sound-{tongue.surface}"]\n'
        )
    return "".join(blocks)


@define(eq=False)
class Chaos:
    """Answers every request by its own number, and misbehaves in `share` of the shaky provider's attempts."""

    share: float
    dice: random.Random
    injected: Counter[str] = field(factory=Counter)
    answered: Counter[str] = field(factory=Counter)  # whole answers begun, by the request's number

    def script(self, seen: Seen) -> Script:
        slot = seen.path.split("/")[1]
        kind, _, surface = slot.partition("-")
        tongue = next(tongue for tongue in SURFACES if tongue.surface == surface)
        document = seen.json
        number = (document.get("input") or document["messages"][-1]["content"]) if document else ""
        stream = bool(document.get("stream"))
        if kind == "shaky" and self.dice.random() < self.share:
            fault = self.dice.choice(FAULTS)
            self.injected[fault] += 1
            return self._fault(fault, tongue, stream=stream)
        self.answered[str(number)] += 1
        text = f"answer to {number}"
        return streamed(frames(tongue, text)) if stream else plain(tongue.answer(text))

    def _fault(self, fault: str, tongue: Tongue, *, stream: bool) -> Script:
        match fault:
            case "reset":
                return [RESET]
            case "stall":
                return [SILENCE]
            case "429":
                return plain(tongue.error("rate_limit_error", "slow down"), 429)
            case "500" | "503" | "529":
                return plain(tongue.error("api_error", "no"), int(fault))
            case "error in a 200":
                error = tongue.error("api_error", "no")
                return streamed([tongue.error_frame("api_error", "no")]) if stream else plain(error)
            case _ if stream:
                return [STREAM_HEAD, *map(piece, frames(tongue, "part of an answer")[:3]), CUT]
            case _:
                body = orjson.dumps(tongue.answer("cut"))
                return [head(200, "application/json", Content_Length=len(body)) + body[:20], CUT]


@define(eq=False)
class Tally:
    """What became of the requests."""

    whole: int = 0
    typed: Counter[str] = field(factory=Counter)  # by the error's code
    wrong: list[str] = field(factory=list)
    ids: list[str] = field(factory=list)

    def count(self, tongue: Tongue, number: int, got: Got, *, stream: bool) -> None:
        if got.status == 0:
            self.wrong.append(f"{number}: no answer")
            return
        self.ids.append(got.headers["x-request-id"])
        if not stream and got.status == 200:
            said = tongue.read_text(got.json)
            self._whole(number, said, complete=got.whole)
        elif got.status == 200 and terminator(tongue) in got.body:
            self._whole(number, tongue.read_stream(got.body), complete=got.whole)
        elif b'"error"' in got.body and got.whole:
            code = got.body.partition(b'"error_code":"')[2] or got.body.partition(b'"code":"')[2]
            self.typed[code.partition(b'"')[0].decode() or f"status {got.status}"] += 1
        else:
            self.wrong.append(f"{number}: {got.status} {got.whole} {got.body[-200:]!r}")

    def _whole(self, number: int, said: str, *, complete: bool) -> None:
        if said == f"answer to {number}" and complete:
            self.whole += 1
        else:
            self.wrong.append(f"{number}: {said[:100]!r}")


async def ask(running: Daemon, number: int, tally: Tally) -> None:
    tongue, stream = SURFACES[number % 3], number % 2 == 0
    document = asking(tongue, f"profile:{tongue.surface}", stream=stream)
    if "input" in document:
        document["input"] = str(number)
    else:
        document["messages"] = [{"role": "user", "content": str(number)}]
    tally.count(tongue, number, await running.post(tongue, document), stream=stream)


async def drive(numbers: range, at_once: int, one: Callable[[int], object]) -> None:
    """Calls `one` for each number, so many at a time."""
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            done = one(number)
            assert asyncio.iscoroutine(done)
            await done

    await asyncio.gather(*(worker() for _ in range(at_once)))
