"""kill -9 of a process that writes under load: what it said was written is there, once, in a sound file."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.server.ledger.query import Decisions, Filter

from .samples import count, sql, write

# Says after each round how many rows the file has taken, and goes on with the next round at once. The rows of a round
# are of several batches, so that the kill comes before, within and after commits.
CHILD = """
import sys
from itertools import count
from pathlib import Path
from proxy.server.ledger import Attempt, Decision, Ledger

run = sys.argv[2]
ledger = Ledger(Path(sys.argv[1]), flush_ms=2, retain_days=None)
ledger.start()
for i in count():
    attempts = [Attempt(n, "m", "p", "x", 0) for n in (1, 2)]
    ledger.record(Decision(f"req_{run}_{i}", 1_750_000_000_000 + i, "chat", attempts=attempts, charged_nanos=1))
    if i % 40 == 39:
        if i % 400 == 399:
            ledger.flush(30)
        print(ledger.written, flush=True)
"""


def kill_under_load(path: Path, run: int, lines: int) -> int:
    """Rows that the child knew to be written when it was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(run)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        written = 0
        for seen, line in enumerate(child.stdout):
            written = int(line)
            if seen >= lines and written:
                break
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split("\n")[:-1]  # said before the kill reached it; the last may be cut
        return int(rest[-1]) if rest else written


def check_run(path: Path, run: int, lines: int) -> None:
    acknowledged = kill_under_load(path, run, lines)
    assert acknowledged > 0
    ids = {row[0] for row in sql(path, "SELECT request_id FROM decisions WHERE request_id LIKE ?", f"req_{run}_%")}
    assert ids >= {f"req_{run}_{i}" for i in range(acknowledged)}
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert count(path, "attempts") == 2 * count(path)
    assert sql(path, "SELECT count(DISTINCT request_id) = count(*) FROM decisions") == [(1,)]


def test_rows_that_were_written_survive_a_kill(path: Path) -> None:
    check_run(path, run=0, lines=12)
    assert Decisions(path).page(Filter(), limit=1).rows
    write(path, [])  # and the next start takes the file


@pytest.mark.slow
def test_rows_that_were_written_survive_twenty_kills(path: Path) -> None:
    dice = random.Random(20)
    for run in range(20):
        check_run(path, run, lines=dice.randrange(1, 60))
