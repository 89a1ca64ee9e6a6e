from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from proxy.server.ledger import Ledger, LedgerRefused
from proxy.server.ledger.care import examine
from proxy.server.ledger.migrations import MIGRATIONS, Migration
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.ledger.schema import open_reader, open_writer

from .samples import NOON, count, decision, sql, write

NEWEST = MIGRATIONS[-1].version
NEXT = Migration(
    NEWEST + 1, ("ALTER TABLE decision_rows ADD COLUMN region TEXT", "CREATE INDEX by_region ON decision_rows (region)")
)
NOBODY = 65534


def start(path: Path) -> None:
    ledger = Ledger(path)
    ledger.start()
    assert ledger.stop(30)


def test_a_new_file_is_private_journaled_and_ours(path: Path) -> None:
    with closing(open_writer(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA user_version").fetchone() == (NEWEST,)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # INCREMENTAL
        for each in path.parent.iterdir():  # its WAL as well
            assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    start(path)
    assert count(path) == 0


def test_a_path_may_hold_what_an_uri_may_not(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=rw&x=%41#1.db"
    write(path, [decision()])
    assert len(Decisions(path).page(Filter()).rows) == 1


# -- migrations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(NEWEST + 1))
def test_each_older_version_is_brought_forward_with_its_rows(path: Path, version: int) -> None:
    steps = (*MIGRATIONS, NEXT)
    if version:
        open_writer(path, steps[:version]).close()
        sql(
            path,
            "INSERT INTO decisions (request_id, at_ms, surface, requested, stream, config, status, outcome,"
            " fallback_used, attempt_count, charged_nanos, estimated, duration_ms, bytes_committed, dropped, key_id,"
            " project) VALUES ('req_old', ?, 'chat', 'auto', 0, '', 200, 'ok', 0, 0, 7, 0, 0, 0, '[]', 'k', 'team')",
            NOON,
        )
    with closing(open_writer(path, steps)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NEXT.version,)
        rows = connection.execute("SELECT request_id, charged_nanos, region FROM decision_rows").fetchall()
        spend = connection.execute("SELECT * FROM spend ORDER BY account").fetchall()
    assert rows == ([("req_old", 7, None)] if version else [])
    assert spend == ([("key:k", NOON // 86_400_000, 7), ("project:team", NOON // 86_400_000, 7)] if version else [])


def test_what_was_searched_by_indexes_is_found_by_marks_after_a_migration(path: Path) -> None:
    open_writer(path, MIGRATIONS[:5]).close()
    for i, (project, at_ms) in enumerate((("team", NOON), ("team", NOON + 5), ("other", NOON + 5000), (None, NOON))):
        sql(
            path,
            "INSERT INTO decisions (request_id, at_ms, surface, requested, stream, config, status, outcome,"
            " fallback_used, attempt_count, charged_nanos, estimated, duration_ms, bytes_committed, dropped, project,"
            " class) VALUES (?, ?, 'chat', 'auto', 0, '', 200, 'ok', 0, 0, 7, 0, 0, 0, '[]', ?, 'code')",
            f"req_{i}",
            at_ms,
            project,
        )
    open_writer(path).close()
    found = {
        str(one): [row["request_id"] for row in Decisions(path).page(one).rows]
        for one in (Filter(project="team"), Filter(project="other"), Filter(klass="code"), Filter(project="x"))
    }
    assert list(found.values()) == [["req_1", "req_0"], ["req_2"], ["req_2", "req_1", "req_3", "req_0"], []]
    assert examine(path, now_ms=NOON).problems == []


def test_attempts_of_before_are_shown_beside_those_that_their_decisions_tell(path: Path) -> None:
    open_writer(path, MIGRATIONS[:6]).close()
    told = "1, 1, 'm', 'p', 'x', 3, 4, 5, 'ok', 200, 'told', 'up', 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0"
    sql(path, f"INSERT INTO attempts VALUES ({told})")
    before = sql(path, "SELECT * FROM attempts")
    open_writer(path).close()
    assert sql(path, "SELECT * FROM attempts") == before
    sql(path, f"INSERT INTO attempts VALUES ({told.replace('1, 1', '1, 2', 1)})")
    assert sql(path, "SELECT n, detail FROM attempts ORDER BY n") == [(1, "told"), (2, "told")]


ADD = (
    "INSERT OR IGNORE INTO decisions (request_id, at_ms, surface, requested, stream, config, status, outcome,"
    " fallback_used, attempt_count, charged_nanos, estimated, duration_ms, bytes_committed, dropped, key_id, booked)"
    " SELECT column1, 1750000000000, 'chat', 'auto', 0, '', 200, 'ok', 0, 0, 7, 0, 0, 0, '[]', 'k', column2"
    " FROM (VALUES {})"
)


def test_rows_of_others_that_are_there_are_summed_once(path: Path) -> None:
    open_writer(path).close()
    sql(path, ADD.format("('req_1', NULL), ('req_2', 0)"))
    sql(path, ADD.format("('req_2', NULL), ('req_3', 0)"))
    assert sql(path, "SELECT request_id FROM decisions") == [("req_1",), ("req_2",), ("req_3",)]
    assert sql(path, "SELECT nanos FROM spend") == [(21,)]
    assert examine(path, now_ms=NOON).problems == []


def test_a_process_of_the_version_before_writes_on_and_sums_what_it_writes(path: Path) -> None:
    """Its rows say so."""
    open_writer(path, MIGRATIONS[:7]).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as before:
        before.execute(ADD.format("('req_1', 1), ('req_2', 1)"))
        before.execute("INSERT INTO spend VALUES ('key:k', 20254, 14)")
        open_writer(path).close()
        before.execute("BEGIN IMMEDIATE")
        before.execute(ADD.format("('req_3', 1), ('req_4', 1)"))
        before.execute("UPDATE spend SET nanos = nanos + 14")
        before.execute("COMMIT")
    assert sql(path, "SELECT count(*) FROM decisions") == [(4,)]
    assert sql(path, "SELECT nanos FROM spend") == [(28,)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    write(path, [decision()])
    before = sql(path, "SELECT sql FROM sqlite_master")
    broken = Migration(NEXT.version, (*NEXT.statements, "CREATE TABLE decision_rows (x)"))
    with pytest.raises(LedgerRefused, match="decision_rows already exists"):
        open_writer(path, (*MIGRATIONS, broken))
    assert sql(path, "SELECT sql FROM sqlite_master") == before
    assert sql(path, "PRAGMA user_version") == [(NEWEST,)]
    assert count(path) == 1


def test_the_versions_count_up_from_one() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, NEWEST + 1))


# -- refusals ----------------------------------------------------------------------------------------------------


def newer(path: Path) -> None:
    open_writer(path, (*MIGRATIONS, NEXT)).close()


def other_program(path: Path) -> None:
    sql(path, "CREATE TABLE bookmarks (url TEXT)")


def other_application(path: Path) -> None:
    sql(path, "PRAGMA application_id = 77")


def text(path: Path) -> None:
    path.write_text("this is no database, and it is somebody's\n" * 100)


def spoilt_middle(path: Path) -> None:
    write(path, map(decision, range(300)))
    raw = bytearray(path.read_bytes())
    raw[8192:-8192] = b"\xff" * (len(raw) - 16384)
    path.write_bytes(raw)


def cut_short(path: Path) -> None:
    write(path, map(decision, range(300)))
    os.truncate(path, path.stat().st_size // 2)


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a newer schema": (newer, f"of schema {NEXT.version}, and this version knows {NEWEST} at most"),
    "another program's database": (other_program, "another program's SQLite file"),
    "another application's empty database": (other_application, "another program's SQLite file"),
    "a text": (text, "not a SQLite file"),
    "damage in the middle": (spoilt_middle, "damaged"),
    "a file cut short": (cut_short, "damaged"),
    "a directory": (directory, "not a regular file"),
    "a FIFO": (fifo, "not a regular file"),
}


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_and_left_alone(
    path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(LedgerRefused) as refused:
        Ledger(path).start()
    assert said in refused.value.message
    assert str(path) in refused.value.message
    assert path.exists()
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_missing_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerRefused, match="there is no directory"):
        Ledger(tmp_path / "absent" / "ledger.db").start()
    assert not (tmp_path / "absent").exists()


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of its own, and no right to pass over file modes."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        if root:
            os.chown(directory, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(directory)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(directory, 0o700)


def test_a_file_that_may_not_be_written_is_refused() -> None:
    with unprivileged() as directory:
        path = directory / "ledger.db"
        write(path, [decision()])
        path.chmod(0o400)
        with pytest.raises(LedgerRefused, match="writable"):
            Ledger(path).start()


@pytest.mark.parametrize("existing", [True, False], ids=["with its file", "without"])
def test_a_directory_that_may_not_be_written_is_refused(existing: bool) -> None:
    with unprivileged() as directory:
        path = directory / "ledger.db"
        if existing:
            write(path, [decision()])
        directory.chmod(0o500)
        with pytest.raises(LedgerRefused, match="writable"):
            Ledger(path).start()


def test_a_file_that_another_process_keeps_to_itself_is_refused(path: Path) -> None:
    write(path, [decision()])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerRefused, match="another process keeps it locked"):
            Ledger(path).start()


def test_another_process_takes_no_journal_from_a_ledger_that_is_in_use(path: Path) -> None:
    """Every open and close of the file but SQLite's own would end this process's locks on it."""
    other = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('DELETE FROM leases'); c.commit(); c.close()"
    )
    with closing(open_writer(path)) as writer:
        open_writer(path).close()
        subprocess.run([sys.executable, "-c", other], check=True)
        writer.execute("INSERT INTO leases VALUES ('req_1', 'key', NULL, 1, 1)")
        with closing(open_reader(path)) as reader:
            assert reader.execute("SELECT request_id FROM leases").fetchall() == [("req_1",)]


def test_the_lock_of_one_write_does_not_hinder_a_start(path: Path) -> None:
    write(path, [decision()])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        ledger = Ledger(path)
        ledger.start()
    assert ledger.stop(30)


# -- append-only, and the reader's view --------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["decisions", "attempts"])
def test_no_row_is_ever_changed(path: Path, table: str) -> None:
    write(path, [decision(attempts=[])])
    sql(path, "INSERT INTO attempts SELECT 1, 1, '', '', '', 0, 0, 0, '', 0, '', '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        sql(path, f"UPDATE {table} SET cost_nanos = 0")


def test_a_reader_cannot_write(path: Path) -> None:
    write(path, [decision()])
    with closing(open_reader(path)) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM decisions")


def test_a_reader_makes_no_file(path: Path) -> None:
    with pytest.raises(LedgerRefused, match="no such file"):
        Decisions(path).page(Filter())
    assert not path.exists()


def test_a_reader_refuses_another_schema(path: Path) -> None:
    newer(path)
    with pytest.raises(LedgerRefused, match="this version knows"):
        Decisions(path).page(Filter())
    sql(path, "PRAGMA user_version = 0")
    with pytest.raises(LedgerRefused, match="older schema"):
        Decisions(path).page(Filter())
