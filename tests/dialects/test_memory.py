"""Nothing accumulates: 50 MB of a stream go through a translation, and the process stays as large as it was.

The words of a streamed response are repeated at its end, as its format wants, so these are kept: a fiftieth of the
stream that they came in.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.dialects import DIALECTS, UPSTREAMS

SCRIPT = Path(__file__).parents[1] / "translating.py"
SIZE = 50_000_000
MOST = 10_000_000
CLIENTS = [name for name, dialect in DIALECTS.items() if dialect.speaks == name]


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_stream_of_fifty_megabytes_leaves_nothing_behind(upstream: str, client: str) -> None:
    command = [sys.executable, str(SCRIPT), upstream, client, str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST
