"""The unit files are valid, as closed as promised, and agree with routes.toml and the defaults."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from proxy.routing.table import Server
from proxy.server.reload import load_table

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "systemd"
ROUTES = ROOT / "routes.toml"
PROGRAM = "/opt/pointsman/.venv/bin/pointsman"
EXPOSURE = 1.5


@pytest.fixture(scope="module")
def analyze() -> str:
    """systemd-analyze, of a version that can look at units without a running systemd."""
    found = shutil.which("systemd-analyze")
    if not found:
        pytest.skip("systemd-analyze is not installed")
    version = re.match(r"systemd (\d+)", subprocess.check_output([found, "--version"], text=True))
    if not version or int(version[1]) < 250:
        pytest.skip("systemd-analyze is older than 250 and cannot work offline")
    return found


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in (UNITS / unit).read_text().splitlines():
        if (match := re.match(r"(\w+)=(.*)", line)) is not None:
            found[match[1]].append(match[2])
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))


def test_the_units_are_valid(analyze: str, tmp_path: Path) -> None:
    for unit in ("pointsman.service", "pointsman.socket"):
        text = (UNITS / unit).read_text()
        (tmp_path / unit).write_text(text.replace(PROGRAM, "/bin/true"))  # the program need not be installed here
    verified = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / "pointsman.service", tmp_path / "pointsman.socket"],
        capture_output=True,
        text=True,
    )
    assert verified.stderr == ""
    assert verified.returncode == 0


def test_the_sandbox_is_as_tight_as_promised(analyze: str) -> None:
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", UNITS / "pointsman.service"],
        capture_output=True,
        text=True,
    )
    exposure = re.search(r"Overall exposure level for pointsman\.service: ([\d.]+)", rated.stdout)
    assert exposure, rated.stderr
    assert float(exposure[1]) <= EXPOSURE


def test_a_stop_leaves_time_for_the_drain() -> None:
    service = settings("pointsman.service")
    assert seconds(service["TimeoutStopSec"][0]) >= Server().drain + 10
    assert seconds(service["WatchdogSec"][0]) == 15


def test_a_reload_checks_before_it_signals() -> None:
    service = settings("pointsman.service")
    (serve,), (check, signal) = service["ExecStart"], service["ExecReload"]
    config = "/etc/pointsman/routes.toml"
    assert serve == f"{PROGRAM} serve --config {config}"
    assert check == f"{PROGRAM} check {config}"
    assert "kill -HUP $MAINPID" in signal


def test_the_socket_listens_where_the_defaults_do() -> None:
    assert tuple(settings("pointsman.socket")["ListenStream"]) == Server().listen


def test_the_example_names_the_variables_of_the_table_and_no_others() -> None:
    table = "\n".join(line for line in ROUTES.read_text().splitlines() if not line.startswith("#"))
    used = set(re.findall(r"\$\{(\w+)\}", table))
    example = (UNITS / "pointsman.env.example").read_text()
    assert set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE)) == used


def test_the_install_steps_turn_the_embedded_provider_off(tmp_path: Path) -> None:
    """The very command of the page, on the shipped table."""
    (command,) = re.findall(r"^sudo (sed .*)$", (UNITS / "README.md").read_text(), re.MULTILINE)
    table = tmp_path / "routes.toml"
    table.write_text(ROUTES.read_text())
    subprocess.run(shlex.split(command.replace("/etc/pointsman/routes.toml", str(table))), check=True)
    before, after = (load_table(path.read_bytes(), {}) for path in (ROUTES, table))
    assert before.providers.keys() - after.providers.keys() == {"embedded"}
    assert len(table.read_text().splitlines()) == len(ROUTES.read_text().splitlines())
