"""Every way a file changes is noticed, on real files; and reading one never hangs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.server import watch as watching
from proxy.server.table_file import TableUnreadable, read_table
from proxy.server.watch import watch

GUARD_S = 20  # nothing waits that long unless it is broken


class Watched:
    """A file under watch, and what each call found in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str | None] = []
        self.calls = asyncio.Condition()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0

    async def changed(self) -> None:
        self.running += 1
        assert self.running == 1
        self.entered.set()
        await self.gate.wait()
        async with self.calls:
            self.found.append(self.path.read_text() if self.path.exists() else None)
            self.calls.notify_all()
        self.running -= 1

    async def shows(self, content: str | None) -> None:
        """Wait until a call has found this content last."""
        async with asyncio.timeout(GUARD_S), self.calls:
            await self.calls.wait_for(lambda: self.found[-1:] == [content])


@asynccontextmanager
async def watched(path: Path, debounce_s: float = 0.02) -> AsyncIterator[Watched]:
    """The watch runs, and has made its first call."""
    file, stop = Watched(path), asyncio.Event()
    task = asyncio.create_task(watch(path, file.changed, debounce_s=debounce_s, stop=stop))
    await file.shows(path.read_text() if path.exists() else None)
    yield file
    stop.set()
    async with asyncio.timeout(GUARD_S):
        await task


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "etc" / "pointsman"
    home.mkdir(parents=True)
    return home


@pytest.fixture
def table(home: Path) -> Path:
    table = home / "routes.toml"
    table.write_text("one")
    return table


def replace(table: Path, content: str) -> None:
    """As careful editors do it."""
    new = table.with_suffix(".new")
    new.write_text(content)
    new.replace(table)


def write_in_place(table: Path, content: str) -> None:
    table.write_text(content)


def write_with_the_old_time(table: Path, content: str) -> None:
    before = table.stat()
    table.write_text(content)
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))


def delete_and_write(table: Path, content: str) -> None:
    table.unlink()
    table.write_text(content)


def make_the_directory_anew(table: Path, content: str) -> None:
    shutil.rmtree(table.parent)
    table.parent.mkdir()
    table.write_text(content)


def put_another_directory_there(table: Path, content: str) -> None:
    new = table.parent.with_name("new")
    new.mkdir()
    (new / table.name).write_text(content)
    table.parent.rename(table.parent.with_name(f"before {content}"))
    new.rename(table.parent)


def make_it_a_link(table: Path, content: str) -> None:
    target = table.parent.parent / content
    target.write_text(content)
    link = table.with_suffix(".link")
    link.symlink_to(target)
    link.replace(table)


CHANGES = [
    write_in_place,
    replace,
    write_with_the_old_time,
    delete_and_write,
    make_the_directory_anew,
    put_another_directory_there,
    make_it_a_link,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_change_is_seen_and_the_next_one_too(table: Path, change: Callable[[Path, str], None]) -> None:
    async with watched(table) as file:
        for content in ("two", "six", "ten"):  # one size
            change(table, content)
            await file.shows(content)


async def test_the_swap_that_kubernetes_makes_is_seen(home: Path) -> None:
    table, data = home / "routes.toml", home / "..data"

    def mount(version: str) -> None:
        (home / f"..{version}").mkdir()
        (home / f"..{version}" / "routes.toml").write_text(version)
        (home / "..data_tmp").symlink_to(f"..{version}")
        (home / "..data_tmp").rename(data)

    mount("one")
    table.symlink_to("..data/routes.toml")
    async with watched(table) as file:
        for version, before in (("two", "one"), ("six", "two")):
            mount(version)
            shutil.rmtree(home / f"..{before}")
            await file.shows(version)


async def test_a_link_above_the_directory_may_change(tmp_path: Path) -> None:
    for release in ("one", "two"):
        (tmp_path / release / "etc").mkdir(parents=True)
        (tmp_path / release / "etc" / "routes.toml").write_text(release)
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "one")
    async with watched(current / "etc" / "routes.toml") as file:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(current)
        await file.shows("two")


async def test_the_target_of_a_link_may_be_written(table: Path, tmp_path: Path) -> None:
    link = tmp_path / "routes.toml"
    link.symlink_to(f"etc/{table.parent.name}/../{table.parent.name}/{table.name}")
    async with watched(link) as file:
        table.write_text("two")
        await file.shows("two")


async def test_a_file_that_is_gone_may_come_back(table: Path) -> None:
    async with watched(table) as file:
        table.unlink()
        await file.shows(None)
        table.write_text("two")
        await file.shows("two")


async def test_a_directory_that_is_gone_may_come_back(table: Path) -> None:
    async with watched(table) as file:
        shutil.rmtree(table.parent.parent)
        await file.shows(None)
        table.parent.mkdir(parents=True)
        table.write_text("two")
        await file.shows("two")


async def test_a_link_to_itself_is_no_file(table: Path) -> None:
    table.unlink()
    table.symlink_to(table.name)
    async with watched(table) as file:
        replace(table, "two")
        await file.shows("two")


async def test_a_storm_of_writes_is_few_calls_and_the_last_one_counts(table: Path) -> None:
    def storm() -> None:
        for number in range(1_000):
            (replace if number % 2 else write_in_place)(table, str(number))

    async with watched(table) as file:
        await asyncio.to_thread(storm)
        await file.shows("999")
        assert len(file.found) < 100


async def test_what_is_written_during_a_call_gets_a_call_of_its_own(table: Path) -> None:
    async with watched(table) as file:
        file.gate.clear()
        file.entered.clear()
        table.write_text("two")
        async with asyncio.timeout(GUARD_S):
            await file.entered.wait()
        table.write_text("three")
        table.write_text("four")
        file.gate.set()
        await file.shows("four")


async def test_other_files_do_not_matter(table: Path) -> None:
    async with watched(table) as file:
        for number in range(100):
            (table.parent / f"{number}").write_text("x")
        (table.parent / "directory").mkdir()
        table.write_text("two")
        await file.shows("two")
        assert file.found == ["one", "two"]


def told(answer: Callable[[asyncio.Event], str]) -> Callable[..., Any]:
    """In the place of watchfiles' core, what it says of any directory."""

    class Told:
        def __enter__(self) -> Told:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def watch(self, _: int, __: int, ___: int, stop: asyncio.Event) -> str:
            return answer(stop)

    return lambda _, **__: Told()


async def test_a_file_system_without_events_is_looked_at(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RustNotify", told(lambda stop: "stop" if stop.is_set() else "timeout"))
    async with watched(table) as file:
        table.write_text("two")
        await file.shows("two")


async def test_a_machine_without_watches_left_is_looked_at(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: asyncio.Event) -> str:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(watching, "RustNotify", told(exhausted))
    monkeypatch.setattr(watching, "POLL_S", 0.01)
    async with watched(table) as file:
        table.write_text("two")
        await file.shows("two")


async def test_a_fault_in_the_call_is_not_hidden(table: Path) -> None:
    async def changed() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await watch(table, changed, debounce_s=0.01, stop=asyncio.Event())


async def test_the_watch_can_be_cancelled(table: Path) -> None:
    file, stop = Watched(table), asyncio.Event()
    task = asyncio.create_task(watch(table, file.changed, debounce_s=0.01, stop=stop))
    await file.shows("one")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stop.is_set()  # for the thread that waits


# -- reading -----------------------------------------------------------------------------------------------------


async def test_a_file_is_read_whole(table: Path) -> None:
    table.write_bytes(b"\xff" * 100)
    assert await read_table(table, max_bytes=100) == b"\xff" * 100


async def test_an_empty_file_is_read(table: Path) -> None:
    table.write_bytes(b"")
    assert await read_table(table) == b""


def a_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def a_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # the path itself may be too long for a socket
    finally:
        os.close(folder)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (Path.mkdir, "is a directory"),
    "a FIFO that nobody writes": (os.mkfifo, "is a FIFO"),
    "a socket": (a_socket, "cannot be read: no such device or address"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "nothing": (lambda path: None, "cannot be read: it does not exist"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "cannot be read: it does not exist"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read: too many levels of symbolic links"),
    "too much": (lambda path: path.write_bytes(b"x" * 101), "has more than 100 bytes"),
    "far too much": (a_huge_file, "has more than 100 bytes"),
}


@pytest.mark.parametrize(("make", "message"), UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_is_told(home: Path, make: Callable[[Path], object], message: str) -> None:
    path = home / "routes.toml"
    make(path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TableUnreadable) as refused:
        await read_table(path, max_bytes=100)
    assert refused.value.message == f"{path} {message}"
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer where what others left was collected meanwhile


async def test_a_name_that_cannot_be_is_told() -> None:
    with pytest.raises(TableUnreadable, match="its name is not valid"):
        await read_table(Path("a\0b"))


async def test_a_file_without_permission_is_told(table: Path) -> None:
    table.chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(TableUnreadable, match="permission denied"):
            await read_table(table)
    finally:
        os.seteuid(before)
