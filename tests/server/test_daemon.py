"""What the process tells systemd and gets from it, and how it comes by its listening sockets. All sockets are real."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from each import each

from proxy.server import daemon
from proxy.server.daemon import Listen, ListenRefused, Notifier, open_listeners, parse_listen


class Manager:
    """The receiving end of sd_notify."""

    def __init__(self, path: Path, *, abstract: bool) -> None:
        self.address = f"@{path}" if abstract else str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(b"\0" + os.fsencode(path) if abstract else str(path))
        self.socket.setblocking(False)

    def environment(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **more}

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify", abstract=request.param)
    with closing(manager.socket):
        yield manager


def test_the_manager_hears_every_field(manager: Manager) -> None:
    notifier = Notifier.from_environment(manager.environment())
    assert notifier.notify("READY=1", "STATUS=serving 3 providers")
    assert manager.heard() == ["READY=1", "STATUS=serving 3 providers"]


def test_a_line_end_in_a_status_begins_no_field(manager: Manager) -> None:
    Notifier.from_environment(manager.environment()).notify("STATUS=bad key\nMAINPID=1\rx")
    assert manager.heard() == ["STATUS=bad key MAINPID=1 x"]


def test_a_reload_is_stamped_with_the_monotonic_clock(manager: Manager) -> None:
    before = time.monotonic_ns() // 1000
    Notifier.from_environment(manager.environment()).reloading()
    state, stamp = manager.heard()
    assert state == "RELOADING=1"
    assert stamp.startswith("MONOTONIC_USEC=")
    assert before <= int(stamp.partition("=")[2]) <= time.monotonic_ns() // 1000


NOBODY = {
    "no variable": {},
    "empty": {"NOTIFY_SOCKET": ""},
    "nobody there": {"NOTIFY_SOCKET": "/nonexistent/notify"},
    "nobody at the abstract name": {"NOTIFY_SOCKET": "@pointsman/nobody"},
    "another kind": {"NOTIFY_SOCKET": "vsock:2:1234"},
}


@each("environ", NOBODY.values(), ids=NOBODY)
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    assert not Notifier.from_environment(environ).notify("READY=1")


def test_a_manager_that_does_not_read_holds_nothing_up(manager: Manager) -> None:
    notifier = Notifier.from_environment(manager.environment())
    while notifier.notify("WATCHDOG=1"):  # until its queue is full
        pass
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.notify("READY=1")


async def test_the_watchdog_is_fed_by_the_loop(manager: Manager) -> None:
    notifier = Notifier.from_environment(manager.environment(WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid())))
    feeder = asyncio.create_task(daemon.feed_watchdog(notifier))
    loop = asyncio.get_running_loop()
    assert [await loop.sock_recv(manager.socket, 100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    feeder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feeder


WATCHDOGS: dict[str, tuple[dict[str, str], float | None]] = {
    "half a minute": ({"WATCHDOG_USEC": "30000000"}, 30.0),
    "for this process": ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
    "for another process": ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": "1"}, None),
    "none": ({}, None),
    "zero": ({"WATCHDOG_USEC": "0"}, None),
    "nonsense": ({"WATCHDOG_USEC": "soon"}, None),
}


@each(("environ", "seconds"), WATCHDOGS.values(), ids=WATCHDOGS)
def test_the_watchdogs_time(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier.from_environment(environ).watchdog_s == seconds


async def test_without_a_watchdog_feeding_ends_at_once(manager: Manager) -> None:
    await daemon.feed_watchdog(Notifier.from_environment(manager.environment()))
    await daemon.feed_watchdog(Notifier.from_environment({"WATCHDOG_USEC": "1000"}))


# -- addresses ---------------------------------------------------------------------------------------------------

ADDRESSES: dict[str, tuple[Listen, bool]] = {
    "127.0.0.1:8080": (Listen("tcp", "127.0.0.1", 8080), True),
    "127.8.8.8:80": (Listen("tcp", "127.8.8.8", 80), True),
    "localhost:8080": (Listen("tcp", "localhost", 8080), True),
    "[::1]:80": (Listen("tcp", "::1", 80), True),
    "[::ffff:127.0.0.1]:80": (Listen("tcp", "::ffff:127.0.0.1", 80), True),
    "0.0.0.0:8080": (Listen("tcp", "0.0.0.0", 8080), False),
    "[::]:8080": (Listen("tcp", "::", 8080), False),
    "10.0.0.5:0": (Listen("tcp", "10.0.0.5", 0), False),
    "gateway.internal:65535": (Listen("tcp", "gateway.internal", 65535), False),
    "unix:/run/pointsman/admin.sock": (Listen("unix", path=Path("/run/pointsman/admin.sock")), True),
    "systemd": (Listen("systemd"), False),
}


@each(("text", "listen", "loopback"), [(text, *want) for text, want in ADDRESSES.items()])
def test_an_address_is_read(text: str, listen: Listen, loopback: bool) -> None:
    assert parse_listen(text) == listen
    assert listen.is_loopback is loopback
    assert str(listen) == text


NO_ADDRESSES = {
    "": "host:port",
    "8080": "host:port",
    ":8080": "127.0.0.1:8080",
    "[]:8080": "names no host",
    "127.0.0.1": "host:port",
    "127.0.0.1:": "host:port",
    "127.0.0.1:65536": "host:port",
    "127.0.0.1:http": "host:port",
    "127.0.0.1:-1": "host:port",
    "127.0.0.1:8080\n": "host:port",
    "127.0.0.256:80": "no valid IPv4",
    "1.2.3:80": "no valid IPv4",
    "::1:8080": "host:port",
    "[localhost]:80": "no IPv6 address",
    "http://127.0.0.1:80": "host:port",
    "unix:": "names no path",
    "unix:/a\0b": "names no path",
    "unix:/" + "a" * 107: "at most 107 bytes",
}


@each(("text", "hint"), NO_ADDRESSES.items())
def test_what_is_no_address_is_refused_with_advice(text: str, hint: str) -> None:
    with pytest.raises(ListenRefused) as refused:
        parse_listen(text)
    assert hint in refused.value.message


# -- sockets -----------------------------------------------------------------------------------------------------


def refusal(text: str) -> str:
    with pytest.raises(ListenRefused) as refused:
        open_listeners(parse_listen(text))
    assert "\n" not in refused.value.message
    return refused.value.message


def answers(address: object, family: int = socket.AF_INET) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex(address) == 0  # type: ignore[arg-type]  # an address of that family


def test_a_tcp_address_is_listened_on() -> None:
    (listener,) = open_listeners(parse_listen("127.0.0.1:0"))
    with listener:
        assert answers(listener.getsockname())
        assert not listener.getblocking()
        assert daemon.is_loopback_socket(listener)


def test_a_name_is_listened_on_at_every_address_it_has_here() -> None:
    listeners = open_listeners(parse_listen("localhost:0"))
    families = {listener.family for listener in listeners}
    for listener in listeners:
        listener.close()
    assert socket.AF_INET in families
    assert len(listeners) == len(families)


def test_both_families_may_have_the_same_port() -> None:
    try:
        (six,) = open_listeners(parse_listen("[::]:0"))
    except ListenRefused as refused:
        pytest.skip(refused.message)
    with six:
        (four,) = open_listeners(parse_listen(f"0.0.0.0:{six.getsockname()[1]}"))
        with four:
            assert not daemon.is_loopback_socket(four)
            assert not daemon.is_loopback_socket(six)


def test_a_port_in_use_is_told() -> None:
    (listener,) = open_listeners(parse_listen("127.0.0.1:0"))
    with listener:
        text = f"127.0.0.1:{listener.getsockname()[1]}"
        assert refusal(text).startswith(f"cannot listen on {text}: another process listens there")


def test_an_address_of_another_machine_is_told() -> None:
    assert "does not have that address" in refusal("192.0.2.1:8080")


def test_a_name_that_does_not_resolve_is_told() -> None:
    assert "does not resolve" in refusal("nowhere.invalid:8080")
    assert "does not resolve" in refusal("a..b:8080")


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """As a service user sees the machine, also where the tests run as root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("unprivileged")
def test_a_port_without_permission_is_told() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("every user may use port 80 here")
    assert "no permission; a port below 1024" in refusal("127.0.0.1:80")


@pytest.mark.usefixtures("unprivileged")
def test_a_directory_without_permission_is_told() -> None:
    assert "no permission to make a socket there" in refusal("unix:/pointsman.sock")


def test_a_unix_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    (listener,) = open_listeners(parse_listen(f"unix:{path}"))
    with listener:
        assert answers(str(path), socket.AF_UNIX)
        assert path.stat().st_mode & 0o777 == 0o660
        assert daemon.is_loopback_socket(listener)


def test_a_unix_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    for _ in range(2):
        (listener,) = open_listeners(parse_listen(f"unix:{path}"))
        assert answers(str(path), socket.AF_UNIX)
        listener.close()  # as a killed process leaves it
    assert path.is_socket()


def test_a_unix_socket_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    (listener,) = open_listeners(parse_listen(f"unix:{path}"))
    with listener:
        assert "another process listens there" in refusal(f"unix:{path}")
        assert answers(str(path), socket.AF_UNIX)


def test_a_file_at_the_sockets_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    assert "no socket is there, and stays" in refusal(f"unix:{path}")
    assert path.read_text() == "precious"


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    assert "its directory does not exist" in refusal(f"unix:{tmp_path}/none/admin.sock")


# -- socket activation -------------------------------------------------------------------------------------------

ACTIVATED = """
import os, sys
from proxy.server.daemon import ListenRefused, open_listeners, parse_listen
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
os.dup2(int(sys.argv[2]), 3)
try:
    for listener in open_listeners(parse_listen("systemd")):
        print(listener.getsockname()[1], listener.getblocking(), os.get_inheritable(listener.fileno()))
except ListenRefused as refused:
    print(refused.message)
"""


def activated(passed: int, *, count: str = "1", pid_off: int = 0) -> str:
    """What a fresh process makes of a descriptor that is passed to it as number 3."""
    return subprocess.run(
        [sys.executable, "-c", ACTIVATED, str(pid_off), str(passed)],
        env=os.environ | {"LISTEN_FDS": count},
        pass_fds=[passed],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_passed_socket_is_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert activated(server.fileno()) == f"{server.getsockname()[1]} False False\n"


def test_sockets_for_another_process_are_not_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "systemd passed no socket" in activated(server.fileno(), pid_off=1)
        assert "systemd passed no socket" in activated(server.fileno(), count="")
        assert "systemd passed no socket" in activated(server.fileno(), count="0")


def test_passed_descriptors_that_do_not_listen_are_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert "needs ListenStream=" in activated(datagrams.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as idle:
        assert "needs ListenStream=" in activated(idle.fileno())
    with (tmp_path / "file").open("w") as file:
        assert "which is no socket" in activated(file.fileno())


def test_without_activation_the_refusal_says_what_to_do() -> None:
    with pytest.raises(ListenRefused, match=r"enable pointsman\.socket"):
        open_listeners(parse_listen("systemd"), {})


@each(
    ("open_files", "connections", "clients"),
    [(65_536, 1024, 64_384), (1024, 256, 640), (1024, 10_000, 448), (128, 256, 1), (10, 0, 2)],
)
def test_clients_leave_descriptors_for_providers(open_files: int, connections: int, clients: int) -> None:
    assert daemon.client_connections(open_files, connections) == clients


def test_the_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert daemon.raise_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
