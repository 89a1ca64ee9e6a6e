"""docs/faults.md: what each row of the catalogue came to, as the tests saw it.

A test tells what it saw. Where POINTSMAN_FAULTS_TABLE names a directory that is written down there, and `make faults`
makes the page of it; else the committed page has to say the same.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import orjson
from attrs import asdict, frozen

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
CATALOGUE = ROOT.parent / "shared" / "corpora" / "faults.md"
NOTES = os.environ.get("POINTSMAN_FAULTS_TABLE")
GROUPS = {
    "U": "Providers", "C": "Clients", "B": "Request bodies", "G": "The table", "L": "Ledger, budgets, limits",
    "P": "Process and machine", "S": "Security",
}  # fmt: skip
NOT_BUILT = {
    "L6": "PostgreSQL",
    "L7": "Valkey",
    "L15": "the dashboard",
    "S3": "static files",
    "S5": "the dashboard",
    "U6": "an address that the caller gives: no part of a request names one",
}
HEAD = """# Faults

What goes wrong, what was done to the real process over loopback, and what came of it. `make faults` writes this page
from what the tests see; the tests hold it. Numbers are those of the fault catalogue.

Providers' faults are shown on chat, messages and responses, plain and streamed, by themselves and with a healthy
candidate behind; "next" is that candidate's answer. A status of 529 is Anthropic's word for being overloaded, and
reaches clients of OpenAI's surfaces as 503.
"""
COLUMNS = ("fault", "what was done", "what the client saw", "what the record says", "test")


@frozen
class Line:
    """One row of the page."""

    number: str
    done: str
    saw: str
    record: str
    test: str

    def __str__(self) -> str:
        cells = (self.number, self.done, self.saw, self.record, f"`{self.test}`" if self.test else "-")
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def order(number: str) -> tuple[int, int, str]:
    match = re.fullmatch(r"([A-Z])(\d+)(\w*)", number)
    assert match
    return list(GROUPS).index(match[1]), int(match[2]), match[3]


def lines() -> dict[str, str]:
    """The committed rows, by their numbers."""
    found = re.findall(r"^(\| ([A-Z]\d+b?) \|.*)$", PAGE.read_text(), re.MULTILINE)
    return {number: line for line, number in found}


def tell(number: str, done: str, saw: str, record: str = "-", *, test: str) -> None:
    """What a test saw of a row."""
    line = Line(number, done, saw, record, test)
    if NOTES:
        (Path(NOTES) / f"{number}.json").write_bytes(orjson.dumps(asdict(line)))
        return
    if os.environ.get("POINTSMAN_FAULTS_SERVER"):
        return  # the page is about the daemon as it comes
    assert lines().get(number) == str(line), f"docs/faults.md tells another story of {number}: run `make faults`"


def written(notes: Path) -> str:
    """The page."""
    known = [Line(**orjson.loads(path.read_bytes())) for path in notes.glob("*.json")]
    known += [Line(number, "-", f"not built: {what}", "-", "") for number, what in NOT_BUILT.items()]
    known.sort(key=lambda line: order(line.number))
    parts = [HEAD]
    for letter, title in GROUPS.items():
        rows = [str(line) for line in known if line.number.startswith(letter)]
        parts.append(
            f"\n## {title}\n\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n" + "\n".join(rows) + "\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(Path(sys.argv[1])))
