"""How lines leave the process: a queue with a byte cap in front of one thread, which nobody waits for."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from proxy.server.backstage import step_back
from proxy.server.bell import Bell

QUEUE_BYTES = 1 << 20
GATHER_S = 0.1  # lines of so long leave in one write: a wake-up per line would cost the loop more than the line
OWN_BYTES = 160  # of a line of a form: its time, its id and a few numbers

Line = bytes | tuple[str, int, tuple[Any, ...]]


class Writer:
    """A queue with a byte cap in front of one thread: `put` never waits, and drops what does not fit.

    The methods named for levels make it the innermost logger of structlog.
    """

    def __init__(self, stream: TextIO, notice: Callable[[int], bytes], cap: int = QUEUE_BYTES) -> None:
        """`notice(count)` is the line that reports `count` lines dropped since the last such line."""
        self._stream = stream  # kept, or its descriptor might be closed and given to a socket
        self._write = _sink(stream)
        self._notice = notice
        self._cap = cap
        self._lines: list[Line] = []
        self._size = self._taken = 0  # bytes queued and being written; being written
        self._closed = False
        self._reported = 0
        self._owed = False  # lines did not fit, and that is still to be said
        self._asleep = False  # the thread, until a line comes; else it looks for itself
        self.dropped = 0
        self._bell = Bell()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)  # a blocked one stops no exit
        self._thread.start()

    def put(self, line: bytes) -> None:
        self._put(line, len(line))

    def put_form(self, form: str, at_ms: int, own: tuple[object, ...]) -> None:
        """A line that has places for its time and for what is its own."""
        self._put((form, at_ms, own), len(form) + OWN_BYTES)

    def _put(self, line: Line, size: int) -> None:
        with self._lock:
            if self._closed or self._size + size > self._cap:
                self.dropped += 1
                self._owed = not self._closed
                return
            self._lines.append(line)
            self._size += size
        if self._asleep:
            self._bell.ring()

    debug = info = warning = error = critical = put

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for at most `timeout_s`; lines that come later are dropped."""
        with self._lock:
            self._closed = True
        self._bell.ring()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        step_back()
        lead = b""
        while lines := self._next():
            try:
                self._write(lead + _written(lines))
                lead = b""
            except OSError:  # a full disk, a reader that went away
                lead = b"\n"  # half a line may have been written
                with self._lock:
                    self.dropped += len(lines)

    def _next(self) -> list[Line]:
        """What to write now; empty at the end."""
        with self._lock:
            self._size -= self._taken  # what was taken the last time is written
        self._gather()
        if not self._due():  # a quiet while
            self._asleep = True  # said before the look at the lines: what comes after it rings
            while not self._due():
                self._bell.heard()
            self._asleep = False
            self._gather()
        with self._lock:
            lines, self._lines, self._taken = self._lines, [], self._size
            if (lines or self._owed) and (missing := self.dropped - self._reported):
                self._reported += missing
                lines.append(self._notice(missing))
            self._owed = False
            return lines

    def _gather(self) -> None:
        if not self._closed:
            self._bell.heard(GATHER_S)

    def _due(self) -> bool:
        return bool(self._lines) or self._closed or self._owed


def _sink(stream: TextIO) -> Callable[[bytes], None]:
    """Past Python's buffer where there is a descriptor: its lock would be held by a blocked writer at exit."""
    try:
        fd = stream.fileno()
    except OSError:

        def write_text(raw: bytes) -> None:
            stream.write(raw.decode())
            stream.flush()

        return write_text

    writable = select.poll()
    writable.register(fd, select.POLLOUT)

    def write(raw: bytes) -> None:
        rest = memoryview(raw)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:  # a terminal that another program has set non-blocking
                writable.poll()

    return write


def _written(lines: Iterable[Line]) -> bytes:
    parts, stamped, time = [], -1, ""
    for line in lines:
        if isinstance(line, bytes):
            parts.append(line)
            continue
        form, at_ms, own = line
        if at_ms != stamped:
            stamped, time = at_ms, stamp(at_ms)
        parts.append((form % (time, *own)).encode())
    return b"".join(parts)


_second = (0, "")


def stamp(at_ms: int) -> str:
    """UTC, ISO 8601, milliseconds."""
    global _second
    seconds, milliseconds = divmod(at_ms, 1000)
    known, text = _second
    if known != seconds:
        text = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
        _second = seconds, text
    return f"{text}.{milliseconds:03d}Z"
