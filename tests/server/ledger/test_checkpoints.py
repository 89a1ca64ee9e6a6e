"""The WAL goes home into the file beside the writer, and begins anew: it does not grow with the ledger."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from proxy.server.ledger import Ledger
from proxy.server.ledger.checkpoints import MOST_PAGES, PAGES, Checkpoints
from proxy.server.ledger.schema import open_writer

from .samples import PATIENCE, Plan, count, decision

BIG = Plan({"reason": "x" * 3000})


def at_home(path: Path) -> int:
    """Leases in the file itself, whatever its WAL holds."""
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    return count(copy, "leases")


@pytest.mark.parametrize("pages", [PAGES, MOST_PAGES + 1], ids=["by a thread of its own", "by the writer, if need be"])
def test_what_was_committed_goes_home(path: Path, pages: int) -> None:
    with closing(open_writer(path)) as writer:
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        writer.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        checkpoints = Checkpoints(path)
        writer.execute("INSERT INTO leases VALUES ('req_1', 'key', NULL, 1, 1)")
        checkpoints.committed(writer, 1)
        checkpoints.join(PATIENCE)
        assert at_home(path) == 0
        checkpoints.committed(writer, pages)
        checkpoints.join(PATIENCE)
        assert at_home(path) == 1


def test_no_file_is_made_where_there_is_none(path: Path) -> None:
    with closing(open_writer(path)) as writer:
        checkpoints = Checkpoints(path)
        path.rename(path.with_suffix(".old"))
        checkpoints.committed(writer, PAGES)
        checkpoints.join(PATIENCE)
        assert not path.exists()


def test_the_wal_begins_anew_under_load(path: Path) -> None:
    """Long before the writer would have to see to it."""
    ledger = Ledger(path, flush_ms=2, retain_days=None)
    ledger.start()
    for i in range(8_000):  # about 40 MB of pages
        ledger.record(decision(i, plan=BIG))
        if i % 100 == 99:
            assert ledger.flush(PATIENCE)
    assert path.with_name(f"{path.name}-wal").stat().st_size < 24 << 20
    assert ledger.stop(PATIENCE)
    assert count(path) == count(path, "plans") == 8_000
