"""A gateway with limits, and a clock of theirs that stands until a test moves it."""

from __future__ import annotations

from attrs import define
from gateway import Running


@define
class Clock:
    """The clock of limits; the one on the wall goes on."""

    value: float = 10_000.0

    def __call__(self) -> float:
        return self.value


def stopped(gw: Running) -> Clock:
    clock = Clock()
    assert gw.app is not None
    gw.app.gateway.clock = clock
    gw.app.gateway.relay.clock = clock
    return clock


def inline(limits: dict[str, int]) -> str:
    """As a table has them."""
    return "limits = { " + ", ".join(f"{name} = {value}" for name, value in limits.items()) + " }"
