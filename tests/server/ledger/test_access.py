"""Who looks again and again sees what others write, in whatever file the path leads to."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from proxy.server.ledger import access
from proxy.server.ledger.access import ANOTHER, Counter
from proxy.server.ledger.schema import LedgerRefused, open_reader, open_writer

from .samples import sql

TABLE = "key_changes"


def set_to(path: Path, number: int) -> None:
    open_writer(path).close()
    sql(path, f"UPDATE {TABLE} SET n = ?", number)


def test_a_change_of_another_connection_is_seen_at_the_next_look(path: Path) -> None:
    set_to(path, 3)
    with closing(Counter(path, TABLE)) as counter:
        assert counter.now() == 3
        set_to(path, 4)
        assert counter.now() == 4


def test_another_file_in_its_place_is_looked_at_instead(path: Path) -> None:
    set_to(path, 3)
    with closing(Counter(path, TABLE)) as counter:
        assert counter.now() == 3
        path.rename(path.with_suffix(".old"))
        with pytest.raises(LedgerRefused, match="no such file"):
            counter.now()
        set_to(path, 7)
        assert [counter.now() for _ in range(2)] == [ANOTHER, 7]


def test_another_file_that_counts_as_much_is_told_all_the_same(path: Path) -> None:
    set_to(path, 3)
    other = path.with_suffix(".other")
    set_to(other, 3)
    with closing(Counter(path, TABLE)) as counter:
        assert counter.now() == 3
        other.rename(path)
        assert [counter.now() for _ in range(2)] == [ANOTHER, 3]


def test_a_file_that_comes_while_one_is_opened_is_looked_at_the_next_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to(path, 3)
    other = path.with_suffix(".other")
    set_to(other, 7)

    def opened(at: Path) -> sqlite3.Connection:
        connection = open_reader(at)
        if other.exists():
            other.rename(path)
        return connection

    monkeypatch.setattr(access, "open_reader", opened)
    with closing(Counter(path, TABLE)) as counter:
        assert [counter.now() for _ in range(3)] == [3, ANOTHER, 7]


def test_a_path_that_leads_nowhere_is_refused_until_it_leads_back(path: Path) -> None:
    home, away = path.parent / "home", path.parent / "away"
    home.mkdir()
    set_to(home / path.name, 3)
    with closing(Counter(home / path.name, TABLE)) as counter:
        assert counter.now() == 3
        home.rename(away)
        home.write_bytes(b"")  # no directory
        with pytest.raises(LedgerRefused):
            counter.now()
        home.unlink()
        away.rename(home)
        assert counter.now() == 3


def test_a_directory_that_may_not_be_read_is_a_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to(path, 3)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refused)
    with pytest.raises(LedgerRefused, match="Permission denied"):
        open_reader(path)


def test_what_cannot_be_read_is_refused_until_it_can(path: Path) -> None:
    set_to(path, 3)
    with closing(Counter(path, TABLE)) as counter:
        sql(path, f"ALTER TABLE {TABLE} RENAME TO elsewhere")
        with pytest.raises(LedgerRefused, match=TABLE):
            counter.now()
        sql(path, f"ALTER TABLE elsewhere RENAME TO {TABLE}")
        assert counter.now() == 3


def test_between_two_looks_it_holds_no_lock(path: Path) -> None:
    set_to(path, 3)
    with closing(Counter(path, TABLE)) as counter:
        assert counter.now() == 3
        assert sql(path, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]


def test_it_may_be_closed_by_one_thread_while_another_looks(path: Path) -> None:
    set_to(path, 3)
    counter, looked, found = Counter(path, TABLE), threading.Event(), set()

    def look() -> None:
        for _ in range(2000):
            found.add(counter.now())
            looked.set()

    looking = threading.Thread(target=look)
    looking.start()
    assert looked.wait(30)
    while looking.is_alive():
        counter.close()
    looking.join()
    counter.close()
    assert found == {3}
