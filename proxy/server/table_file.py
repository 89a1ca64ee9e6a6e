"""Reading the table's file, whatever stands in its place."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

TABLE_BYTES = 8 << 20

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class TableUnreadable(Exception):
    """The file cannot be had. The message is a sentence for the operator."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


async def read_table(path: Path, max_bytes: int = TABLE_BYTES) -> bytes:
    """The content of a regular file. Never waits for a FIFO's writer. Raises TableUnreadable."""
    return await asyncio.to_thread(_read, path, max_bytes)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise TableUnreadable(f"{path} is {KINDS.get(stat.S_IFMT(mode), 'no file')}")
            with open(fd, "rb", closefd=False) as file:
                content = file.read(max_bytes + 1)
        finally:
            os.close(fd)
    except (OSError, ValueError) as exc:
        raise TableUnreadable(f"{path} cannot be read: {_why(exc)}") from exc
    if len(content) > max_bytes:
        raise TableUnreadable(f"{path} has more than {max_bytes} bytes")
    return content


def _why(exc: OSError | ValueError) -> str:
    match exc:
        case FileNotFoundError():
            return "it does not exist"
        case PermissionError():
            return "permission denied"
        case OSError(strerror=str() as reason):
            return reason.lower()
        case _:
            return "its name is not valid"
