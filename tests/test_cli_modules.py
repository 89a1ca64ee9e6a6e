"""What is left out while the program's modules are read, and that it is back afterwards."""

from __future__ import annotations

import ast
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.cli.modules import reading_modules

PACKAGE = Path(__file__).parents[1] / "proxy"
CLIENTS = [path for path in sorted(PACKAGE.rglob("*.py")) if "ClientSession(" in path.read_text()]


def test_what_was_left_out_is_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/somewhere")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    thresholds = gc.get_threshold()
    with reading_modules(stay=False):
        assert os.environ["SSL_CERT_FILE"] != "/somewhere"
    assert os.environ["SSL_CERT_FILE"] == "/somewhere"
    assert "SSL_CERT_DIR" not in os.environ
    assert (gc.isenabled(), gc.get_threshold()) == (True, thresholds)


def test_the_machines_authorities_are_read_when_they_are_needed(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SSL_CERT_DIR": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert told.stdout.split() == ["0", "1"]


PROGRAM = """
from proxy.cli.modules import reading_modules
with reading_modules(stay=True):
    import proxy.app
    from aiohttp import connector
    from proxy.server.upstream import tls
print(connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"], tls.system().cert_store_stats()["x509"])
"""


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.stem)
def test_whoever_calls_somebody_says_whom_to_trust(path: Path) -> None:
    """aiohttp's own contexts trust nobody in the daemon."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [call for call in calls for keyword in call.keywords if keyword.arg == "ssl"]


@pytest.fixture(scope="module")
def read() -> dict[str, Any]:
    """What a process has that has read all that serves."""
    done = subprocess.run([sys.executable, "-c", READING], capture_output=True, check=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


READING = """
import json, sys
import proxy.app
modules = list(sys.modules)
from proxy.routing.classifier import _token
from proxy.wire.splice import member_pattern
print(json.dumps({"modules": modules, "patterns": [it.cache_info().currsize for it in (member_pattern, _token)]}))
"""


def test_reading_does_not_import_what_only_a_scrape_needs(read: dict[str, Any]) -> None:
    assert "proxy.app" in read["modules"]
    assert "prometheus_client" not in read["modules"]


def test_reading_does_not_import_the_part_of_aiohttp_that_nobody_uses(read: dict[str, Any]) -> None:
    assert "aiohttp.web_app" not in read["modules"]


def test_reading_compiles_no_pattern_that_takes_milliseconds_and_can_wait(read: dict[str, Any]) -> None:
    assert read["patterns"] == [0, 0]
