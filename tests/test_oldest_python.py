"""`make test-oldest` takes the oldest Python that can run what is installed, and none where there is no older one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/oldest_python.py"
MAJOR, MINOR, MICRO = sys.version_info[:3]
HERE: dict[str, tuple[dict[str, str], str]] = {  # what each Python on the path says of its version -> which is named
    "older ones": ({"a": f"{MAJOR} {MINOR} {MICRO - 1}", "b": f"{MAJOR} {MINOR} {MICRO - 2}"}, "b"),
    "the same": ({"a": f"{MAJOR} {MINOR} {MICRO}"}, ""),
    "a newer one": ({"a": f"{MAJOR} {MINOR} {MICRO + 1}"}, ""),
    "one of another minor version": ({"a": f"{MAJOR} {MINOR - 1} 0"}, ""),
    "one that lacks something": ({"a": ""}, ""),
    "none": ({}, ""),
}


@pytest.mark.parametrize(("here", "named"), HERE.values(), ids=HERE)
def test_the_oldest_that_can_is_named(tmp_path: Path, here: dict[str, str], named: str) -> None:
    for folder, version in here.items():
        python = tmp_path / folder / "python3"
        python.parent.mkdir()
        python.write_text(f"#!/bin/sh\n{f'echo {version}' if version else 'exit 1'}\n")
        python.chmod(0o755)
    path = {"PATH": ":".join(str(tmp_path / folder) for folder in here) or str(tmp_path)}
    told = subprocess.run([sys.executable, SCRIPT], env=path, capture_output=True, text=True, check=True).stdout
    assert told == (f"{tmp_path / named / 'python3'}\n" if named else "")
