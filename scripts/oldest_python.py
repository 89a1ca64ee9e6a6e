"""Name the oldest Python on this machine that can run the tests with what this one has installed.

.venv/bin/python scripts/oldest_python.py

Prints its path: of the same minor version, for that is what extensions are built for, and older than the one that runs
this. Nothing where there is none.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

SAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
NAMES = (SAME, "python3")
# What the tests need of it that a distribution may have left out, and what is installed for another than it.
ASKED = "import ctypes, sqlite3, ssl, sys, orjson, pytest, uvloop; print(*sys.version_info[:3])"


def version_of(python: Path) -> tuple[int, ...] | None:
    """None where it does not run, or lacks something."""
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    try:
        told = subprocess.run([python, "-c", ASKED], env=environment, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if told.returncode else tuple(map(int, told.stdout.split()))


def main() -> None:
    there = {Path(folder, name) for folder in os.get_exec_path() for name in NAMES}
    versions = {path: version_of(path) for path in sorted(there) if path.is_file()}
    older = {
        path: version
        for path, version in versions.items()
        if version is not None and sys.version_info[:2] == version[:2] and version < sys.version_info[:3]
    }
    if older:
        print(min(older, key=lambda path: older[path]))


if __name__ == "__main__":
    main()
