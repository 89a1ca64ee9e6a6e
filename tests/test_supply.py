"""What is installed is known to the byte: every file by its hash, and none of them runs anything by being installed."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import orjson
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {path.stem: path for path in sorted((ROOT / "requirements").glob("*.txt"))}
PINNED = re.compile(r"([a-z0-9-]+)==([^ ;\\]+)(?: ; .+?)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
# Files that run at every start of Python, of packages that are known for them.
STARTING = {"distutils-precedence.pth": "setuptools", "coverage.pth": "coverage"}
each_lock = pytest.mark.parametrize("path", LOCKS.values(), ids=LOCKS)


def pins(path: Path) -> dict[str, set[str]]:
    """Versions by name: more than one where they differ by Python's version."""
    found: dict[str, set[str]] = {}
    for name, version in PINNED.findall(path.read_text()):
        found.setdefault(name, set()).add(version)
    return found


def wanted(extra: str | None) -> list[Requirement]:
    """What setup.cfg asks for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = setup["options"]["install_requires"] if extra is None else setup["options.extras_require"][extra]
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


@each_lock
def test_every_line_is_a_version_with_its_hashes(path: Path) -> None:
    """No address, no option, no range: nothing that could mean another file tomorrow."""
    lines = [line for line in path.read_text().splitlines() if line and not line.lstrip().startswith("#")]
    for number, line in enumerate(lines):
        assert PINNED.fullmatch(line) or HASH.fullmatch(line), line
        if PINNED.fullmatch(line):
            assert HASH.fullmatch(lines[number + 1]), line


@pytest.mark.parametrize(("lock", "extra"), [("run", None), ("test", None), ("test", "test"), ("local", "local")])
def test_the_lock_holds_what_setup_cfg_asks_for(lock: str, extra: str | None) -> None:
    """Where this fails: `make lock`."""
    found = pins(LOCKS[lock])
    for requirement in wanted(extra):
        versions = found.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement} is not locked"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_tests_run_on_the_versions_that_serve() -> None:
    assert pins(LOCKS["run"]).items() <= pins(LOCKS["test"]).items()
    locked = pins(LOCKS["run"])
    for name, versions in pins(LOCKS["local"]).items():
        assert locked.get(name, versions) == versions, name


def test_make_installs_nothing_else() -> None:
    """And no source distribution, whose setup is a program."""
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes --only-binary :all:" in makefile
    installs = [line for line in makefile.splitlines() if "$(PIP) " in line]
    for line in installs:
        assert "$(LOCKED)/" in line or "--no-deps --no-build-isolation -e ." in line or "genai-prices" in line, line


def test_no_package_starts_with_python() -> None:
    """A .pth file may hold a program: it is how packages that were taken over have stolen keys."""
    locked = {name for path in LOCKS.values() for name in pins(path)}
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        for file in distribution.files or () if name in locked else ():
            if file.suffix == ".pth":
                assert STARTING.get(file.name) == name, f"{name} installs {file}"


def report(*packages: Mapping[str, object]) -> bytes:
    """As pip-audit writes it."""
    return orjson.dumps({"dependencies": packages, "fixes": []})


GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "1.0", "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": []}]}
MISSING = {"name": "missing", "skip_reason": "Dependency not found on PyPI and could not be audited: missing (1.0)"}
NOT_FOUND = "ERROR:pip_audit._cli:x: Dependency not found on PyPI and could not be audited: x (1.0)\n"
AUDITS: dict[str, tuple[bytes, str, int, str]] = {
    "nothing is known against any": (report(GOOD), "", 0, "No advisory names any of the 1 packages."),
    "one is named": (report(GOOD, BAD), "", 1, "bad 1.0: PYSEC-2026-1, mended in 1.1"),
    "one is named and one not known": (report(BAD, MISSING), "", 1, "bad 1.0: PYSEC-2026-1"),
    "one is not known": (report(GOOD, MISSING), "", 3, "NOT AUDITED"),
    "the registry offers no advisories": (b"", NOT_FOUND, 3, "NOT AUDITED"),
    "nobody answers": (b"", "ConnectionError: no route to host", 3, "no route to host"),
    "it says nothing": (b"", "", 3, "NOT AUDITED"),
    "it says something else": (b"[]", "", 3, "NOT AUDITED"),
    "nothing was looked at": (report(), "", 3, "NOT AUDITED"),
}


@pytest.mark.parametrize(("out", "err", "code", "said"), AUDITS.values(), ids=AUDITS)
def test_an_audit_that_could_not_be_made_is_neither_good_nor_bad(
    out: bytes, err: str, code: int, said: str, tmp_path: Path
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!{sys.executable}\nimport sys\nsys.stderr.write({err!r})\nsys.stdout.buffer.write({out!r})\n")
    tool.chmod(0o700)
    command = (sys.executable, str(ROOT / "scripts/audit.py"), str(tool), "requirements/run.txt")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert said in (ran.stderr if code else ran.stdout)
