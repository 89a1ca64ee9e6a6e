from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from .samples import PATIENCE


class Events:
    """A structlog processor that a test can wait on."""

    def __init__(self) -> None:
        self.seen: list[MutableMapping[str, Any]] = []
        self._changed = threading.Condition()

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()
        raise structlog.DropEvent

    def named(self, name: str) -> list[MutableMapping[str, Any]]:
        return [event for event in self.seen if event["event"] == name]

    def wait(self, name: str) -> MutableMapping[str, Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: self.named(name), PATIENCE), f"no {name} among {self.seen}"
            return self.named(name)[0]


@pytest.fixture
def events() -> Iterator[Events]:
    watch = Events()
    structlog.configure(processors=[watch])
    yield watch
    structlog.reset_defaults()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"
