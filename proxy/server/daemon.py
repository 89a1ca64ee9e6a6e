"""What a process owes the system it runs on: telling systemd how it fares, and getting its sockets.

Owns sd_notify, the watchdog, socket activation, listen addresses and the limit of open files, all without a library.
Knows nothing of HTTP: `server.app` puts its sites on the sockets that come from here.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import resource
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from proxy.record import frozen

FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START
BACKLOG = 1024
SOCKET_MODE = 0o660  # of a Unix socket: owner and group, nobody else
LONGEST_SOCKET_PATH = 107  # bytes; sun_path less its NUL
NOTIFY_WAIT_S = 0.05  # systemd's queue is full for moments only, and the loop waits
PATIENCE_S = 30  # that are asked for at a time while a start takes long


class ListenRefused(Exception):
    """A listener cannot be had. The message is a sentence for the operator."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# -- telling systemd ---------------------------------------------------------------------------------------------


@frozen
class Notifier:
    """Speaks to the service manager: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

    Without one (`address` empty) nothing is sent, and that is no error.
    """

    address: str | bytes = ""
    watchdog_s: float | None = None  # how long the manager waits for a sign of life

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        path = environ.get("NOTIFY_SOCKET", "")
        address: str | bytes = path if path.startswith("/") else ""
        if path.startswith("@"):
            address = b"\0" + os.fsencode(path[1:])
        ours = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        usec = environ.get("WATCHDOG_USEC", "")
        return cls(address, int(usec) / 1e6 if ours and usec.isdecimal() and int(usec) else None)

    def notify(self, *fields: str) -> bool:
        """Send fields like `"READY=1", "STATUS=serving"`. True if the manager's socket took them.

        A line end inside a field would begin another one, so it becomes a blank.
        """
        if not self.address:
            return False
        text = "\n".join(" ".join(field.splitlines()) for field in fields)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(NOTIFY_WAIT_S)
                sender.sendto(text.encode("utf-8", "replace"), self.address)
        except OSError:  # a manager that is being restarted; nothing to do about it here
            return False
        return True

    def reloading(self) -> bool:
        """To be followed by READY=1, whether the new table was taken or not: `systemctl reload` waits for it."""
        return self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


async def feed_watchdog(notifier: Notifier) -> None:
    """Give signs of life at twice the rate asked for, until cancelled. Ends at once where nobody asks.

    Runs on the loop that serves: once that is blocked, the manager hears nothing and restarts the process.
    """
    if not notifier.address or not notifier.watchdog_s:
        return
    while True:
        notifier.notify("WATCHDOG=1")
        await asyncio.sleep(notifier.watchdog_s / 2)


async def ask_for_patience(notifier: Notifier) -> None:
    """Ask for more time to start, until cancelled. A manager whose time for it runs out would end the process in the
    middle of bringing a large ledger forward, and the next one in the same place."""
    while True:
        notifier.notify(f"EXTEND_TIMEOUT_USEC={PATIENCE_S * 1_000_000}")
        await asyncio.sleep(PATIENCE_S / 3)


# -- where to listen ---------------------------------------------------------------------------------------------


@frozen
class Listen:
    """One entry of `listen`: a TCP address, a Unix socket's path, or sockets that systemd passes."""

    kind: Literal["tcp", "unix", "systemd"]
    host: str = ""  # of tcp; a name or an address, without brackets
    port: int = 0
    path: Path = Path()  # of unix

    @property
    def is_loopback(self) -> bool:
        """Nobody on another machine can reach it. What systemd passes is not known before it is there: False."""
        match self.kind:
            case "tcp":
                return self.host == "localhost" or _is_loopback_address(self.host)
            case "unix":
                return True
            case "systemd":
                return False

    def __str__(self) -> str:
        match self.kind:
            case "tcp":
                return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
            case "unix":
                return f"unix:{self.path}"
            case "systemd":
                return "systemd"


HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^:\[\]]*)):(?P<port>\d{1,5})")


def parse_listen(text: str) -> Listen:
    """`127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, `unix:/path`, `systemd`. Raises ListenRefused."""
    if text == "systemd":
        return Listen("systemd")
    if text.startswith("unix:"):
        return Listen("unix", path=_socket_path(text.removeprefix("unix:")))
    match = HOST_AND_PORT.fullmatch(text)
    if not match or int(match["port"]) > 65535:
        raise ListenRefused(f'"{text}" is no address to listen on: write host:port, [IPv6]:port, unix:PATH or systemd')
    host = match["v6"] or match["name"]
    if not host:
        raise ListenRefused(f'"{text}" names no host: write 127.0.0.1{text} for this machine, 0.0.0.0{text} for all')
    if match["v6"] and not _is_address(host):
        raise ListenRefused(f'"{text}" has no IPv6 address in its brackets')
    if re.fullmatch(r"[\d.]+", host) and not _is_address(host):
        raise ListenRefused(f'"{text}" has no valid IPv4 address')
    return Listen("tcp", host=host, port=int(match["port"]))


def _socket_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ListenRefused(f'"unix:{text}" names no path: write unix:/run/pointsman/admin.sock')
    if len(os.fsencode(text)) > LONGEST_SOCKET_PATH:
        raise ListenRefused(f'"unix:{text}" is too long: a socket\'s path has at most {LONGEST_SOCKET_PATH} bytes')
    return Path(text)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback_address(host: str) -> bool:
    if not _is_address(host):
        return False
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_loopback_socket(listener: socket.socket) -> bool:
    """Whether only this machine reaches the socket, whoever has bound it."""
    match listener.family:
        case socket.AF_UNIX:
            return True
        case socket.AF_INET | socket.AF_INET6:
            return _is_loopback_address(listener.getsockname()[0])
        case _:
            return False


# -- sockets -----------------------------------------------------------------------------------------------------


def listen_fds(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening stream sockets that systemd passed to this very process, none if there are none.

    https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html. Raises ListenRefused for anything else
    among the descriptors: a datagram socket, a connection (`Accept=yes`), a FIFO.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    return [_passed(fd) for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + int(count))]


def _passed(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ListenRefused(f"systemd passed descriptor {fd}, which is no socket")
        passed = socket.socket(fileno=fd)
    except OSError as exc:
        raise ListenRefused(f"systemd announced descriptor {fd} and did not pass it") from exc
    listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if passed.type != socket.SOCK_STREAM or not listening:
        passed.detach()
        raise ListenRefused("systemd passed a socket that does not listen: pointsman.socket needs ListenStream=")
    passed.setblocking(False)
    return passed


def open_listeners(listen: Listen, environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """Listening, non-blocking sockets for one entry of `listen`; several where a name has several addresses.

    Raises ListenRefused; none stays open then.
    """
    match listen.kind:
        case "tcp":
            return _open_tcp(listen)
        case "unix":
            return [_open_unix(listen)]
        case "systemd":
            if passed := listen_fds(environ):
                return passed
            raise ListenRefused(
                'listen = ["systemd"], but systemd passed no socket: enable pointsman.socket, '
                "or name an address such as 127.0.0.1:8080"
            )


def _open_tcp(listen: Listen) -> list[socket.socket]:
    """One socket per address of the host; an address that this machine lacks matters only if it is the last one."""
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise ListenRefused(f"cannot listen on {listen}: the name does not resolve") from exc
    opened: list[socket.socket] = []
    refused: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            opened.append(_bound(family, address))
        except OSError as exc:
            refused = exc
            if exc.errno not in MISSING:
                break
    if refused and (not opened or refused.errno not in MISSING):
        _close(opened)
        raise ListenRefused(_reason(listen, refused)) from refused
    return opened


def _bound(family: int, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # restart while old connections linger
        if family == socket.AF_INET6:
            # Each entry of `listen` is one family: [::] beside 0.0.0.0 must not collide.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind(address)  # type: ignore[arg-type]  # getaddrinfo's own tuple for that family
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _open_unix(listen: Listen) -> socket.socket:
    _clear(listen)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(listen.path))
        listen.path.chmod(SOCKET_MODE)  # before listen(): nobody connects under the umask's mode
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise ListenRefused(_reason(listen, exc)) from exc
    return listener


def _clear(listen: Listen) -> None:
    """Remove the socket of a process that is gone. Anything else at that path stays, and is a refusal."""
    try:
        if not stat.S_ISSOCK(listen.path.lstat().st_mode):
            raise ListenRefused(f"cannot listen on {listen}: something that is no socket is there, and stays")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full backlog answers EAGAIN: somebody listens
            refused = probe.connect_ex(str(listen.path))
        if refused == errno.EACCES:
            raise ListenRefused(_reason(listen, PermissionError(refused, "")))
        if refused not in (errno.ECONNREFUSED, errno.ENOENT):
            raise ListenRefused(_reason(listen, OSError(errno.EADDRINUSE, "")))
        listen.path.unlink()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ListenRefused(_reason(listen, exc)) from exc


MISSING = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}

REASONS = {
    errno.EADDRINUSE: "another process listens there; stop it or choose another address (`ss -ltnpx` shows who it is)",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EAFNOSUPPORT: "this machine has no such address family (is IPv6 switched off?)",
    errno.EPROTONOSUPPORT: "this machine has no such protocol (is IPv6 switched off?)",
    errno.EMFILE: "no file descriptor is left; raise LimitNOFILE",
    errno.ENOENT: "its directory does not exist",
    errno.ENOTDIR: "its directory does not exist",
    errno.EROFS: "its directory is read-only",
}


def _reason(listen: Listen, exc: OSError) -> str:
    match listen.kind, exc.errno:
        case "tcp", errno.EACCES | errno.EPERM:
            why = (
                "no permission; a port below 1024 needs root, AmbientCapabilities=CAP_NET_BIND_SERVICE "
                "or a socket from systemd"
            )
        case _, errno.EACCES | errno.EPERM:
            why = "no permission to make a socket there"
        case _, number:
            why = REASONS.get(number or 0) or (exc.strerror or "unknown error").lower()
    return f"cannot listen on {listen}: {why}"


def _close(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


# -- limits ------------------------------------------------------------------------------------------------------


ADMIN_CONNECTIONS = 64  # of the admin listener: it, too, may be reached by who opens thousands
RESERVE = 64 + ADMIN_CONNECTIONS  # descriptors for the ledger, the log, the loop, files that are read, and these


def client_connections(open_files: int, connections: int) -> int:
    """How many clients there may be: what is left of the descriptors once the providers' share is set aside, which are
    their `connections` together, and half of all at most."""
    left = max(open_files - RESERVE, 2)
    return left - min(connections, left // 2)


def raise_open_files() -> int:
    """Lift the soft limit of open files to the hard one; two descriptors serve one stream. The limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a sandbox may forbid the call; the soft limit holds then
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
