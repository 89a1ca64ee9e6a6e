"""What is wrong with a routes.toml: each problem with its path and the line where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from attrs import field

from proxy.record import define, frozen


@frozen
class Problem:
    """One thing that is wrong. `path` is dotted as in TOML; `line` is 0 where none can be told."""

    path: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class TableRejected(Exception):
    """The file is not a table. `problems` holds all that is wrong with it."""

    def __init__(self, problems: Collection[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


@define
class Loading:
    """What the steps of reading one file share: where its values come from, and what was found wrong or doubtful."""

    env: Mapping[str, str]
    read_file: Callable[[str], str]
    problems: list[Problem] = field(factory=list)
    warnings: list[str] = field(factory=list)

    def wrong(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


def placed(problems: Collection[Problem], raw: bytes) -> list[Problem]:
    """The problems with the lines of `raw` where they stand, in the order of the file."""
    lines = dict(_lines(raw.decode("utf-8-sig", "replace")))

    def line(problem: str) -> int:
        path = problem
        while path and path not in lines:  # one step up; each cuts something off, whatever stands in a quoted key
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        inside = (number for known, number in lines.items() if known.startswith(f"{problem}."))
        return lines.get(path) or next(inside, 0)

    found = [Problem(p.path, p.message, p.line or line(p.path)) for p in problems]
    return sorted(found, key=lambda p: (p.line or 1 << 30, p.path))


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Dotted path of each table header and key, with its line. Good enough for messages: it reads no multi-line
    strings."""
    section, counts = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[(\[)?([^\[\]]+)\]", line):
            section = _plain(header[2])
            if header[1]:
                counts[section] = counts.get(section, -1) + 1
                section += f"[{counts[section]}]"
            yield section, number
        elif key := re.match(
            r"\s*((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:\"[^\"]*\"|[A-Za-z0-9_-]+))*)\s*=", line
        ):
            yield ".".join(filter(None, (section, _plain(key[1])))), number


def _plain(dotted: str) -> str:
    pieces = re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", dotted)
    return ".".join(piece.strip("\"'") for piece in pieces)
