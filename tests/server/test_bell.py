from __future__ import annotations

import threading

from proxy.server.bell import Bell

PATIENCE = 30.0


def test_it_is_not_heard_where_nobody_rings() -> None:
    assert not Bell().heard(0.0)


def test_rung_before_anybody_listens_it_is_heard_at_once() -> None:
    bell = Bell()
    bell.ring()
    assert bell.heard(0.0)


def test_rung_twice_it_is_heard_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.heard(0.0)
    assert not bell.heard(0.0)


def test_whoever_waits_hears_it() -> None:
    bell, heard = Bell(), threading.Event()

    def wait() -> None:
        if bell.heard():
            heard.set()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    bell.ring()
    assert heard.wait(PATIENCE)
    waiting.join(PATIENCE)


def test_a_wait_of_any_length_may_be_asked_for() -> None:
    bell = Bell()
    bell.ring()
    assert bell.heard(float("inf"))
