"""The documents as data: their tables, their blocks of code, their words."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUTES = (ROOT / "routes.toml").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "systemd/README.md")
}
README, LIFE, ROUTING = PAGES["README.md"], PAGES["docs/life-of-a-request.md"], PAGES["docs/routes.md"]
ERRORS, HEADERS, DIALECTS = PAGES["docs/errors.md"], PAGES["docs/headers.md"], PAGES["docs/dialects.md"]
OPERATIONS, KEYS = PAGES["docs/operations.md"], PAGES["docs/keys.md"]

VARIABLES = set(re.findall(r"\$\{(\w+)\}", ROUTES))
# The environment of a machine on which no provider is configured.
BARE = {name: value for name, value in os.environ.items() if name not in VARIABLES}

Row = dict[str, str]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [block.strip() for block in re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    _, found, below = page.partition(f"\n{heading}\n")
    assert found, f"no heading {heading}"
    level = len(heading.partition(" ")[0])
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str, column: str = "") -> list[Row]:
    """Of all tables in a text, by the names of their columns; of those with a certain column, where one is named."""
    found: list[Row] = []
    for lines in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        head, _, *rest = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        if not column or column in head:
            found += [dict(zip(head, cells, strict=True)) for cells in rest]
    return found


def spans(text: str) -> list[str]:
    """What is set as code."""
    return re.findall(r"`([^`\n]+)`", text)


def named(text: str, column: str) -> list[str]:
    """The first code of each cell of a column."""
    return [spans(row[column])[0] for row in rows(text, column)]


def flowing(page: str) -> str:
    """In one line."""
    return " ".join(page.split())
