"""What processes that share a file make of each other's changes of keys."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.accounts.asking import Wanted
from proxy.accounts.keys import Key
from proxy.errors import UnknownPath
from proxy.server.keys.changes import Keys
from proxy.server.keys.store import KeyStore
from proxy.server.ledger.schema import open_writer

NAMES = ("stays", "turns", "ends")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    open_writer(tmp_path / "ledger.sqlite3").close()
    return tmp_path / "ledger.sqlite3"


def made(keys: Keys, name: str) -> Key:
    return keys.create(Wanted(name), "neu")[0]


def test_what_another_process_changes_is_taken_over_and_nothing_else_is_read_again(file: Path) -> None:
    one, other = Keys(KeyStore(file)), Keys(KeyStore(file))
    stays, turns, ends = (made(one, name) for name in NAMES)
    other.load()
    before = dict(other.ring.by_id)
    one.rotate(turns.id, 60)
    one.revoke(ends.id)
    fresh = made(one, "comes")
    other.load()
    after = other.ring.by_id
    assert after == one.ring.by_id
    assert after.keys() == {stays.id, turns.id, ends.id, fresh.id}
    assert after[stays.id] is before[stays.id]
    assert after[turns.id].former == before[turns.id].digest
    assert after[ends.id].revoked_ms is not None


def test_a_key_that_the_file_has_no_more_opens_nothing(file: Path) -> None:
    """Somebody brought an older file back."""
    keys = Keys(KeyStore(file))
    stays, goes = made(keys, "stays"), made(keys, "goes")
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("DELETE FROM keys WHERE id = ?", (goes.id,))
    keys.load()
    assert keys.ring.by_id.keys() == {stays.id}
    assert keys.one(stays.id) == stays
    with pytest.raises(UnknownPath):
        keys.one(goes.id)


def test_a_key_is_shown_with_its_own_spend(file: Path) -> None:
    keys = Keys(KeyStore(file))
    first, second = made(keys, "first"), made(keys, "second")
    with closing(open_writer(file)) as connection:
        for day, nanos in ((1, 5), (2, 7)):
            connection.execute("INSERT INTO spend VALUES (?, ?, ?)", (f"key:{first.id}", day, nanos))
    assert [shown["spent_usd"] for shown in keys.shown(first, second)] == ["0.000000012", "0"]
