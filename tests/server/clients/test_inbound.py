"""What is kept of a request's head, and for how long."""

from __future__ import annotations

import gc
import weakref

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.server.clients.inbound import Head


class Table:
    """Stands for a snapshot."""


def head() -> Head:
    return Head("/v1/messages?beta=true", CIMultiDictProxy(CIMultiDict({"Host": "localhost"})))


def test_what_follows_from_a_head_is_read_once_for_a_snapshot() -> None:
    asked: list[tuple[Head, Table]] = []

    def read(head: Head, table: Table) -> str:
        asked.append((head, table))
        return head.headers["host"]

    seen, table, later = head(), Table(), Table()
    assert [seen.under(table, read) for _ in range(3)] == ["localhost"] * 3
    assert asked == [(seen, table)]
    assert seen.under(later, read) == "localhost"
    assert asked == [(seen, table), (seen, later)]


def test_two_readers_do_not_get_in_each_others_way() -> None:
    seen, table = head(), Table()
    for _ in range(2):
        assert seen.under(table, lambda it, _: it.raw_path) == "/v1/messages?beta=true"
        assert seen.under(table, lambda it, _: len(it.headers)) == 1


def test_what_is_raised_is_not_kept() -> None:
    seen, table = head(), Table()

    def read(*_: object) -> str:
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            seen.under(table, read)


def test_a_head_keeps_no_snapshot_alive() -> None:
    seen, table = head(), Table()
    seen.under(table, lambda *_: True)
    gone = weakref.ref(table)
    del table
    gc.collect()
    assert gone() is None
