"""The event loop's turns as they are in a crowd, for however few."""

from __future__ import annotations

import pytest

from proxy.server.turn import Turn

CROWDS = {"alone": False, "in a crowd": True}


def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on whatever comes is seen to at its turn's end."""
    monkeypatch.setattr(Turn, "_crowded", property(lambda turn: True, lambda turn, told: None))
