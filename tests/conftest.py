"""What all tests share: property tests without a stopwatch, an end to whatever hangs, the loop a module wants, and the
test bed of the shell."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from itertools import compress
from pathlib import Path
from typing import Any

import fuzz
import pytest
import structlog
import uvloop
from canaries import leaking, leaks
from gateway import Start, gateway
from upstream import ScriptedUpstream

from proxy.cli.serve import YOUNG

MEMORY, ROOM = Path("/dev/shm"), 2 << 30  # bytes free there, at least
SLOW_FOLDERS = ("faults",)  # the bad days: whole processes, for seconds each
LONGEST = (  # files of few tests; and the slow folders
    "test_killed.py", "test_cli_examples.py", "test_mixed_calls.py", "test_interleavings.py", "test_limits.py",
    "test_told_by_rote.py", "test_fuzz.py", "test_fuzz_answers.py", "test_key_admission.py", "test_plan_properties.py",
    "test_ride_fuzz.py", "test_http1_requests.py", "test_json.py", "test_docs.py", "test_splice.py",
)  # fmt: skip
TOGETHER = "conformance"  # a folder: whoever plays its files one after the other starts once what they talk to
# What gateways log in this process, and hardly anybody reads: structlog's own lines are made for the eye, and take a
# twentieth of the time of all tests.
LINES = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.format_exc_info,
    structlog.processors.KeyValueRenderer(key_order=["event"]),
)
GUARD_S, SLOW_GUARD_S = 30.0, 300.0  # no test takes that long unless something waits for ever
LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,  # what the process runs on
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module names its own in LOOPS, and runs once on each; asyncio's where it names none."""
    module = item.getparent(pytest.Module)
    named = getattr(module.obj, "LOOPS", ("asyncio",)) if module is not None else ("asyncio",)
    return {name: LOOPS[name] for name in named}


def _is_fast(config: pytest.Config) -> bool:
    """The run is that of `make test`."""
    return bool(config.option.markexpr == "not slow")


def pytest_configure(config: pytest.Config) -> None:
    """Files of tests lie in memory where there is room: a third of the time would be waiting for a disk to sync."""
    fuzz.load_profile(fast=_is_fast(config))
    if "TMPDIR" in os.environ or not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM:
        return
    scratch = tempfile.mkdtemp(prefix="pm-", dir=MEMORY)
    os.environ["TMPDIR"] = scratch  # for the processes of the run, too
    tempfile.tempdir = scratch
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, or the others would be done and wait for it: then files by their tests."""
    tests = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            item.path.name not in LONGEST and item.path.parent.name not in SLOW_FOLDERS,
            item.path.parent.name != TOGETHER,
            -tests[item.path],
        )
    )
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _guarded(item.obj, SLOW_GUARD_S if item.get_closest_marker("slow") else GUARD_S)


def pytest_sessionstart() -> None:
    """What collecting the tests makes is no garbage."""
    gc.disable()
    _keep_lines_short()


def pytest_collection_finish() -> None:
    """And would be looked through anew whenever garbage is collected; as seldom as in the process itself."""
    gc.freeze()
    gc.set_threshold(*YOUNG)
    gc.enable()


def _keep_lines_short() -> None:
    if not structlog.is_configured():  # a test that has had it otherwise leaves it so
        structlog.configure(processors=list(LINES))


def _guarded(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def guarded(*arguments: Any, **named: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*arguments, **named)

    return guarded


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: that of a Unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        yield Path(made)
        assert not dict(leaking(Path(made))), "a secret stands in a file"


@pytest.fixture(autouse=True)
def _no_secret_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """`home` looks into itself before it goes; what is written elsewhere is looked into here."""
    _keep_lines_short()
    yield
    made = request.node.funcargs.get("tmp_path")
    assert made is None or not dict(leaking(made)), "a secret stands in a file"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What gateways in this process have logged, and tests have let be seen, is looked into as well."""
    report = yield
    if report.passed and (found := leaks("".join(text for _, text in report.sections).encode(errors="replace"))):
        report.outcome = "failed"
        report.longrepr = f"a secret stands in what {item.name} has logged or printed: {', '.join(found)}"
    return report


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as started:
        yield started


@pytest.fixture
async def second() -> AsyncIterator[ScriptedUpstream]:
    """Another provider, for the fallback."""
    async with ScriptedUpstream() as started:
        yield started


@pytest.hookimpl(tryfirst=True)  # before pytest itself reads the marks
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that names several EXCHANGES runs over each, over the ones that are not the default when all is run."""
    if _is_fast(metafunc.config):  # what is left out anyhow takes its time to collect
        metafunc.parametrize = functools.partial(parametrize_fast, metafunc.parametrize)  # type: ignore[method-assign]
    if "start" in metafunc.fixturenames and (exchanges := getattr(metafunc.module, "EXCHANGES", ())):
        first, *others = exchanges
        slow = [pytest.param(other, marks=pytest.mark.slow) for other in others]
        metafunc.parametrize("exchange", [first, *slow], indirect=True)


def parametrize_fast(
    parametrize: Callable[..., None], names: Any, values: Iterable[Any], *more: Any, ids: Any = None, **named: Any
) -> None:
    """Without the rows that are slow; where all are, with all: none at all would be told as a test skipped."""
    rows = list(values)
    fast = [not any(mark.name == "slow" for mark in getattr(row, "marks", ())) for row in rows]
    if any(fast) and not all(fast):
        rows = list(compress(rows, fast))
        ids = list(compress(ids, fast)) if isinstance(ids, Iterable) else ids
    parametrize(names, rows, *more, ids=ids, **named)


@pytest.fixture
def exchange(request: pytest.FixtureRequest) -> str:
    """How the gateway under test talks to providers: `[server] exchange`."""
    return str(getattr(request, "param", "lean"))


@pytest.fixture
async def start(home: Path, exchange: str) -> AsyncIterator[Start]:
    """`await start(table, server)`: a gateway in this process, stopped when the test ends."""
    chosen = "" if exchange == "lean" else f'exchange = "{exchange}"\n'
    async with AsyncExitStack() as stack:
        yield lambda table, server="": stack.enter_async_context(gateway(table, home, server=chosen + server))
