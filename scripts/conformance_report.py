"""Say how far the gateway agrees with recorded provider traffic: checks by surface and dialect, and what failed why.

    python scripts/conformance_report.py            # every recording, a minute or two
    python scripts/conformance_report.py --quick    # a representative few

Runs tests/conformance and counts its outcomes; 1 if a check failed, 2 if none could be made.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "conformance"
# Where the tests name what is different by design: module -> (table, what it means).
BY_DESIGN = {
    "conformance.test_sdk_translated": ("EXCEPTIONS", "reads otherwise when translated"),
    "conformance.test_request_translated": ("REFUSED", "cannot be put to the other dialect"),
    "conformance.test_every_surface": ("OURS", "is not told as it came"),
}

Place = tuple[str, str]  # surface, dialect


class Tally:
    """A plugin of pytest: every check counts once, at its worst."""

    def __init__(self) -> None:
        self.counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
        self.failures: defaultdict[Place, list[str]] = defaultdict(list)
        self.reasons: Counter[str] = Counter()  # of skipping
        self.refused: defaultdict[str, list[str]] = defaultdict(list)  # checks, by what their request was refused with

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about = {name: str(value) for name, value in report.user_properties}
        place = (about.get("surface", "any"), about.get("dialect", "any"))
        if report.passed and report.when == "call" and "refused" in about:
            self.refused[about["refused"]].append(report.nodeid.rpartition("[")[2].rstrip("]"))
        if report.failed:
            self.counts[place]["failed"] += 1
            self.failures[place].append(f"{report.nodeid.rpartition('::')[2]}\n      {first_line(report)}")
        elif report.skipped:
            self.counts[place]["skipped"] += 1
            self.reasons[report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"] += 1
        elif report.when == "call":
            self.counts[place]["passed"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.counts["any", "any"]["failed"] += 1
            self.failures["any", "any"].append(f"{report.nodeid} cannot be collected")


def first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return str(text).partition("\n")[0][:200]


def table(counts: dict[Place, Counter[str]]) -> Iterable[str]:
    row = "{:<10}{:<40}{:>8}{:>8}{:>8}"
    yield row.format("surface", "dialect", "passed", "failed", "skipped")
    for (surface, dialect), found in sorted(counts.items()):
        yield row.format(surface, dialect, found["passed"], found["failed"], found["skipped"])
    total = sum(counts.values(), Counter[str]())
    yield row.format("", "in all", total["passed"], total["failed"], total["skipped"])


def by_design() -> Iterable[str]:
    for module, (name, meaning) in BY_DESIGN.items():
        entries = getattr(sys.modules.get(module), name, {})
        for recording, entry in entries.items():
            yield f"  {recording}\n      {meaning}: {entry if isinstance(entry, str) else entry[-1]}"


def refusals(refused: dict[str, list[str]]) -> Iterable[str]:
    """Recorded requests that may not go to a provider of another dialect: the reason that its client is told, and whose
    they are."""
    for reason, checks in sorted(refused.items()):
        yield f"  {reason}"
        yield from (f"      {check}" for check in sorted(checks))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out what the project's fast tests leave out")
    options = parser.parse_args()
    tally = Tally()
    arguments = [str(TESTS), "--rootdir", str(ROOT), "-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider"]
    pytest.main([*arguments, *(["-m", "not slow"] if options.quick else [])], plugins=[tally])
    print("\n".join(table(tally.counts)))
    if designed := list(by_design()):
        print("\nDifferent by design", *designed, sep="\n")
    if tally.refused:
        print("\nRefused by design, with a 400 that names the field", *refusals(tally.refused), sep="\n")
    for reason, count in tally.reasons.items():
        print(f"\n{count} skipped: {reason}")
    for (surface, dialect), told in sorted(tally.failures.items()):
        print(f"\nFailed: {surface} x {dialect}", *(f"  {line}" for line in told), sep="\n")
    if tally.failures:
        return 1
    return 0 if any(count["passed"] for count in tally.counts.values()) else 2


if __name__ == "__main__":
    sys.exit(main())
