"""Recordings behind, gateway in front. Each is started when the first test needs it and serves all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from .recordings import Recording
from .serving import HEAD, Replay, Running, replaying, running, whole_table

HERE = Path(__file__).parent
SPLITS = (0, 1, 7)
Start = Callable[[str], Running]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says of each test what it is about, for the report: the surface that a client calls and the dialect behind it."""
    for item in items:
        if item.path.parent == HERE and isinstance(item, pytest.Function):
            params = item.callspec.params if hasattr(item, "callspec") else {}
            recording, surface = params.get("recording"), params.get("surface", "any")
            dialect = "any"
            if isinstance(recording, Recording):
                dialect, surface = recording.dialect, params.get("surface", recording.surface)
            item.user_properties += [("surface", getattr(item.function, "surface", surface)), ("dialect", dialect)]


@pytest.fixture(scope="package", autouse=True)
def quiet() -> Iterator[None]:
    """The gateway's log goes nowhere: its thread writes when no test is there to catch it."""
    with capture_logs():
        yield


@pytest.fixture(scope="package")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Replay]]:
    """The recordings' server, by the number of bytes that it sends at a time."""
    directory = tmp_path_factory.mktemp("replay")
    with ExitStack() as stack:
        yield {split: stack.enter_context(replaying(directory, split)) for split in SPLITS}


@pytest.fixture(scope="package")
def replay(replays: dict[int, Replay]) -> Replay:
    return replays[0]


@pytest.fixture(scope="package")
def gateway(replays: dict[int, Replay]) -> Iterator[Running]:
    """In front of every recording: model `chat/NAME`, `messages/NAME`, `workers-ai/NAME`, `chat-7/NAME`."""
    with running(whole_table(replays)) as gateway:
        yield gateway


@pytest.fixture
def start() -> Iterator[Start]:
    """A gateway for one test, from the sections of its table behind `[server]`."""
    with ExitStack() as stack:
        yield lambda table: stack.enter_context(running(HEAD + table))
