"""Say what the record of a request takes, microseconds of processor in the loop's thread, the ledger's and the log's,
and how old rows are when they are committed.

python scripts/bench_ledger.py

Each request is the ordinary one: of a key and a project with budgets, by an alias with a chain of three, answered by
the first. They come at a steady rate; what was reserved is noted before, as the gateway does. They are of one kind, as
those are that ride the short way; with `--whole` each tells all of its decision, as those do that go the way of all.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.catalog import load_prices
from proxy.dialects import DIALECTS
from proxy.routing.facts import Facts
from proxy.routing.loading import load
from proxy.routing.models import Models
from proxy.routing.plan import Plan, recalled, resolve
from proxy.routing.world import World
from proxy.secret import Scrubber
from proxy.server.gateway import log_fields
from proxy.server.identity import request_id
from proxy.server.ledger import Attempt, Brief, Decision, Lease, Ledger
from proxy.server.log import Log

PROVIDER = """
[providers.{name}]
dialects = ["openai-chat"]
base_url = "http://{name}.test/v1"
api_key = "none"
[models."{name}/gpt-4o-mini"]
provider = "{name}"
native = "gpt-4o-mini"
price = {{ input = 0.15, output = 0.6, cache_read = 0.075 }}
capabilities = ["tools"]
context = 128_000
"""
PLACES = ("first", "second", "third")
ALIAS = "[projects.team]\n[aliases]\nfast = [{}]\n".format(", ".join(f'"{name}/gpt-4o-mini"' for name in PLACES))
STEP = 0.005  # seconds between two bursts of requests


def world() -> World:
    text = "".join(PROVIDER.format(name=name) for name in PLACES) + ALIAS
    table = load(text.encode(), env={}, read_file=lambda path: "", dialects=DIALECTS.keys())
    return World(table, Models.build(table, load_prices()))


def requests(count: int, dice: random.Random) -> list[tuple[Decision, Lease]]:
    """As the gateway leaves them, beginning now."""
    served, made = world(), []
    for _ in range(count):
        shape = ir.Shape(frozenset(), 0, max_tokens=1024)
        facts = Facts(
            "chat", "openai-chat", "chat", ("fast",), shape, dice.randrange(10, 4000), project="team",
            conversation=f"{dice.getrandbits(128):032x}", priced_only=True,
        )  # fmt: skip
        plan = resolve(facts, served, dice.random, 0.0)
        pick = plan.chain[0]
        usage = ir.Usage(input=facts.tokens, cache_read=0, output=dice.randrange(1, 900), reasoning=0)
        assert pick.info.price is not None
        cost = pick.info.price.cost_nanos(usage)
        took = dice.randrange(3, 50)
        identity, at_ms = request_id(), time.time_ns() // 1_000_000 - took
        attempt = Attempt(
            1, pick.candidate.model, pick.candidate.provider, pick.candidate.native, 1, took - 1, took // 2,
            status=200, upstream_request_id=f"chatcmpl-{dice.getrandbits(96):024x}", usage=usage, cost_nanos=cost,
            bytes_out=1034,
        )  # fmt: skip
        decision = Decision(
            identity, at_ms, "chat", requested="fast", project="team", key_id="8kTq0ZbX41pd", config=plan.config,
            plan=plan, facts=facts, status=200, model=attempt.model, provider=attempt.provider, native=attempt.native,
            attempts=[attempt], usage=usage, cost_nanos=cost, charged_nanos=cost or 0,
            price_source=pick.info.price_source, ttfb_ms=took // 2, duration_ms=took, bytes_committed=1034,
        )  # fmt: skip
        made.append((decision, Lease(identity, "8kTq0ZbX41pd", "team", 10_000_000, at_ms + 600_000)))
    return made


class Kind:
    """Of all these requests, as a track is."""

    rows: Any = None

    def __init__(self, decision: Decision) -> None:
        self._first = decision

    def brief(self, d: Decision) -> Brief:
        assert isinstance(d.facts, Facts)
        assert d.usage is not None
        upstream = d.attempts[0].upstream_request_id
        return Brief(
            self, d.request_id, d.at_ms, d.facts.tokens, d.facts.conversation, False, d.usage, d.cost_nanos,
            d.charged_nanos, d.ttfb_ms or 0, d.duration_ms, d.bytes_committed, upstream,
        )  # fmt: skip

    def decision(self, brief: Brief) -> Decision:
        first = self._first
        assert isinstance(first.plan, Plan)
        own: dict[str, Any] = {
            "usage": brief.usage, "cost_nanos": brief.cost_nanos, "ttfb_ms": brief.ttfb_ms,
            "duration_ms": brief.duration_ms,
        }  # fmt: skip
        facts = evolve(first.plan.facts, tokens=brief.tokens, conversation=brief.conversation)
        attempt = evolve(first.attempts[0], started_ms=0, upstream_request_id=brief.upstream_request_id, **own)
        return evolve(
            first, request_id=brief.request_id, at_ms=brief.at_ms, plan=recalled(first.plan, facts, None), facts=facts,
            charged_nanos=brief.charged_nanos, queue_ms=0, attempts=[attempt], **own,
        )  # fmt: skip

    def told(self, brief: Brief, read: int | None, client: str | None) -> dict[str, object]:
        return log_fields(self.decision(brief), client)


class Clocked(Ledger):
    """Notes by when the file had taken how many rows."""

    taken: list[tuple[float, int]]

    def _settle(self, written: int, failed: int, weight: int) -> None:
        super()._settle(written, failed, weight)
        self.taken.append((time.monotonic(), self.written))

    def _sheaf(self) -> bool:
        if written := super()._sheaf():
            self.taken.append((time.monotonic(), self.written))
        return written

    def ages(self, recorded: Sequence[float]) -> list[float]:
        """Of rows when they were committed, in milliseconds and in order. They are taken in the order in which they
        came."""
        found, at = [], 0
        for moment, taken in self.taken:
            found += [(moment - since) * 1000 for since in recorded[at:taken]]
            at = taken
        return sorted(found)


def cpu(ident: int | None) -> float:
    assert ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


def measure(
    made: Sequence[tuple[Decision, Lease]], rate: int, path: Path, *, whole: bool
) -> tuple[dict[str, float], list[float]]:
    """Microseconds of each part, for one request; and the ages of the rows."""
    kind = Kind(made[0][0])
    handed = [(decision if whole else kind.brief(decision), lease) for decision, lease in made]
    ledger, came = Clocked(path), list[float]()
    ledger.taken = []
    ledger.start()
    sink = (path.parent / "log").open("w")
    log = Log(json=True, level="info", scrubber=Scrubber(), stream=sink)
    at, began, recording, telling = 0, time.monotonic(), 0.0, 0.0
    threads = [ledger._thread, log._writer._thread]
    before = [cpu(thread.ident) for thread in threads if thread is not None]
    while at < len(made):
        burst = handed[at : int((time.monotonic() - began) * rate) + 1]
        start = time.thread_time()
        for recorded, lease in burst:
            ledger.lease(lease)
            ledger.record(recorded)
        came += [time.monotonic()] * len(burst)
        middle = time.thread_time()
        for recorded, _ in burst:
            if isinstance(recorded, Brief):
                log.brief_done(kind, recorded, recorded.usage.input_total, "127.0.0.1")
            else:
                log.request_done(log_fields(recorded, "127.0.0.1"))
        recording, telling = recording + middle - start, telling + time.thread_time() - middle
        at += len(burst)
        time.sleep(STEP)
    assert ledger.flush(60)
    time.sleep(0.2)
    after = [cpu(thread.ident) for thread in threads if thread is not None]
    assert ledger.stop(60)
    log.close()
    sink.close()
    parts = {
        "noted and recorded, in the loop": recording,
        "the ledger's thread": after[0] - before[0],
        "the line, in the loop": telling,
        "the log's thread": after[1] - before[1],
    }
    return {name: seconds / len(made) * 1e6 for name, seconds in parts.items()}, ledger.ages(came)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="of each round (default 20000)")
    parser.add_argument("--rate", type=int, default=5_000, help="requests a second (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="the quickest counts (default 3)")
    parser.add_argument("--whole", action="store_true", help="each of a decision of its own")
    options = parser.parse_args()
    rounds = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as home:
            path = Path(home) / "ledger.sqlite3"
            rounds.append(
                measure(requests(options.requests, random.Random(number)), options.rate, path, whole=options.whole)
            )
            size = path.stat().st_size
    best, ages = min(rounds, key=lambda measured: sum(measured[0].values()))
    for name, microseconds in best.items():
        print(f"{name:34}{microseconds:8.2f}")
    print(f"{'in all':34}{sum(best.values()):8.2f}")
    print(f"{'bytes of the file':34}{size / options.requests:8.0f}")
    for name, share in (("half of", 0.5), ("99 of 100", 0.99), ("all", 1.0)):
        print(f"{f'ms until {name} rows are committed':34}{ages[int(share * (len(ages) - 1))]:8.1f}")


if __name__ == "__main__":
    main()
