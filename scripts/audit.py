"""Looks all that is locked up in the advisories for Python packages: `make audit`.

Exits with 0 when every package was looked up and no advisory names it, with 1 when one does, and with 3 when some could
not be looked up, since what nobody answers says nothing: a registry of one's own may offer packages and no advisories.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

CLEAN, FOUND, UNKNOWN = 0, 1, 3


def verdict(out: bytes, err: str) -> tuple[int, list[str]]:
    """What pip-audit's report comes to, and the lines that say so. Strict, it writes none where one package could not
    be looked up."""
    try:
        packages: list[dict[str, Any]] = orjson.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        packages = []
    missing = [f"{it['name']}: {it['skip_reason']}" for it in packages if "skip_reason" in it]
    if not packages:
        lines = err.strip().splitlines()
        missing = [lines[-1].removeprefix("ERROR:pip_audit._cli:") if lines else "pip-audit said nothing"]
    told = [
        f"{it['name']} {it['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for it in packages
        for found in it.get("vulns", ())
    ]
    if told:
        return FOUND, [
            *told,
            f"Advisories name {len(told)} faults of what is locked: `make lock` takes newer versions.",
        ]
    if missing:
        return UNKNOWN, [
            *missing,
            "NOT AUDITED: the advisories could not be asked, so nothing is known of what is locked, good or bad. "
            "Run `make audit` where https://pypi.org is reached itself.",
        ]
    return CLEAN, [f"No advisory names any of the {len(packages)} packages."]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", type=Path, help="pip-audit")
    parser.add_argument("locks", nargs="+", type=Path)
    options = parser.parse_args()
    strict = ("--strict", "--progress-spinner", "off", "--require-hashes", "--disable-pip", "--format", "json")
    named = [word for lock in options.locks for word in ("-r", str(lock))]
    ran = subprocess.run((options.tool, *strict, *named), capture_output=True, check=False)
    code, lines = verdict(ran.stdout, ran.stderr.decode(errors="replace"))
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
