"""Decisions to record, and the two ways tests have of getting at the file behind the ledger's back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from attrs import define, frozen

from proxy.ir import Usage
from proxy.server.ledger import Attempt, Brief, Decision, Ledger
from proxy.server.ledger.schema import open_writer

PATIENCE = 30.0  # seconds until a test that waits gives up
NOON = 1_750_000_000_000


@frozen(eq=False)  # so that it can be weakly referenced and hashed
class Plan:
    tree: Mapping[str, Any]

    def as_json(self) -> Mapping[str, Any]:
        return self.tree


def decision(i: int = 1, **changes: Any) -> Decision:
    """The `i`-th of a row of alike requests, one second apart."""
    return Decision(**{"request_id": f"req_{i:032x}", "at_ms": NOON + 1000 * i, "surface": "chat", **changes})


def attempt(n: int = 1, **changes: Any) -> Attempt:
    return Attempt(**{"n": n, "model": "m", "provider": "p", "native": "x", "started_ms": 0, **changes})


def full_decision() -> Decision:
    """No field has its default value."""
    usage = Usage(10, 20, 30, 40, 50, 6, 7, 8)
    return decision(
        requested="auto",
        client_request_id="their-id",
        stream=True,
        project="team-a",
        key_id="abcdef",
        config="sha256:ab12",
        plan=Plan(
            {
                "requested": "auto", "intent": "auto", "class": {"label": "code", "margin": 0.5}, "rule": "day",
                "profile": "house", "candidates": [{"model": "m"}], "dropped": [],
            }
        ),
        facts={"tokens_estimated": 812, "needs": ["tools"]},
        status=502,
        outcome="upstream_timeout",
        model="gpt-4o",
        provider="openai",
        native="gpt-4o-2024-11-20",
        fallback_used=True,
        attempts=[
            attempt(1, outcome="upstream_failed", status=503, detail="busy"),
            Attempt(
                2, "gpt-4o", "openai", "gpt-4o-2024-11-20", 120, 900, 300, "client_closed", 200, "left", "up_1", usage,
                4_130_000, 777, True,
            ),
        ],
        usage=usage,
        cost_nanos=4_130_000,
        charged_nanos=5_000_000,
        estimated=True,
        price_source="table",
        ttfb_ms=310,
        duration_ms=5210,
        queue_ms=4,
        bytes_committed=778,
        dropped=("seed", "logit_bias"),
        gone_phase="stream",
        byok=True,
    )  # fmt: skip


def write(path: Path, decisions: Iterable[Decision | Brief]) -> None:
    """All of them into the ledger at `path`, through a writer of their own."""
    ledger = Ledger(path, retain_days=None, retain_bytes=None, max_queue_bytes=1 << 30)
    ledger.start()
    for each in decisions:
        ledger.record(each)
    assert ledger.stop(PATIENCE)


def sql(path: Path, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def count(path: Path, table: str = "decisions") -> int:
    return int(sql(path, f"SELECT count(*) FROM {table}")[0][0])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection keeps the file's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@define
class Traced:
    """Opens the real file, and sees the statements of the connection."""

    seen: Callable[[str], None]

    def __call__(self, path: Path) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.set_trace_callback(self.seen)
        return connection
