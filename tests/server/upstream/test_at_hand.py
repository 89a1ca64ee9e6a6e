"""Connections that have just served, before they go back to the pool."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.server.upstream import at_hand
from proxy.server.upstream.at_hand import AtHand


class Wire:
    """A connection, its handler and its transport."""

    def __init__(self) -> None:
        self.transport: Any = self
        self.closing = False
        self.became = ""

    def is_closing(self) -> bool:
        return self.closing

    def release(self) -> None:
        self.became = "pooled"

    def close(self) -> None:
        self.became = "closed"


class Loop:
    """A clock that stands, and timers that are asked to ring."""

    def __init__(self) -> None:
        self.now = 100.0
        self.rings: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, ring: Any) -> Any:
        self.rings.append((self.now + seconds, ring))
        return self

    def cancel(self) -> None:
        self.rings.clear()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        due = [ring for at, ring in self.rings if at <= self.now]
        self.rings = [entry for entry in self.rings if entry[0] > self.now]
        for ring in due:
            ring()


def pile(loop: Loop, *wires: Wire) -> Any:
    made: Any = AtHand(loop)  # type: ignore[arg-type]
    for wire in wires:
        made.put(wire, wire)
    return made


def test_the_last_one_is_taken_first() -> None:
    first, last = Wire(), Wire()
    hand = pile(Loop(), first, last)
    assert hand.take() == (last, last)
    assert hand.take() == (first, first)
    assert hand.take() is None


@pytest.mark.parametrize("how", ["lost", "closing"])
def test_one_that_has_closed_meanwhile_is_passed_over(how: str) -> None:
    good, bad = Wire(), Wire()
    hand = pile(Loop(), good, bad)
    bad.closing, bad.transport = how == "closing", None if how == "lost" else bad
    assert hand.take() == (good, good)
    assert bad.became == "closed"


def test_what_nobody_takes_goes_back_to_the_pool() -> None:
    loop, early, late = Loop(), Wire(), Wire()
    hand = pile(loop, early)
    loop.passes(at_hand.QUIET / 2)
    hand.put(late, late)
    loop.passes(at_hand.QUIET / 2)
    assert (early.became, late.became, len(hand)) == ("pooled", "", 1)
    loop.passes(at_hand.QUIET)
    assert (late.became, len(hand), loop.rings) == ("pooled", 0, [])


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_hand, "MOST", 1)
    kept, over = Wire(), Wire()
    pile(Loop(), kept, over)
    assert (kept.became, over.became) == ("", "pooled")


def test_at_the_end_all_are_closed_and_nothing_more_is_kept() -> None:
    loop, kept, late = Loop(), Wire(), Wire()
    hand = pile(loop, kept)
    hand.close()
    hand.put(late, late)
    assert (kept.became, late.became, hand.take(), loop.rings) == ("closed", "pooled", None, [])
