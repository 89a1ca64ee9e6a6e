"""What the commands share: the words that mean the same in each, and how they find a table."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from proxy.record import frozen
from proxy.routing.problems import TableRejected
from proxy.routing.table import Table
from proxy.server.daemon import ListenRefused
from proxy.server.ledger import LedgerRefused
from proxy.server.reload import load_table
from proxy.server.starting import StartRefused
from proxy.server.table_file import TableUnreadable, read_table

LONGEST_SPAN = 100 * 366 * 86_400.0  # seconds
REFUSED = (StartRefused, TableUnreadable, ListenRefused, LedgerRefused)


class BadTable(Exception):
    """A file that is no table. The text is a line for each problem, with its place."""

    def __init__(self, path: Path, rejected: TableRejected) -> None:
        lines = []
        for problem in rejected.problems:
            place = f"{path}:{problem.line}" if problem.line else str(path)
            where = f"{problem.path}: " if problem.path else ""
            lines.append(f"{place}: {where}{problem.message}")
        count = len(rejected.problems)
        lines.append(f"{path}: {count} problem{'s' if count != 1 else ''}; nothing was changed.")
        super().__init__("\n".join(lines))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Names the file whose problems a TableRejected within holds."""
    try:
        yield
    except TableRejected as rejected:
        raise BadTable(path, rejected) from rejected


def table_of(path: Path) -> Table:
    """Raises BadTable or TableUnreadable."""
    with reading(path):
        return load_table(asyncio.run(read_table(path)))


def whole(text: str) -> int:
    """A number of things to show: one or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of one or more")
    return int(text)


def print_json(document: Any) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


# -- words -------------------------------------------------------------------------------------------------------


@frozen
class Commands:
    """Where commands are added: a name, what runs it (the first line of its docstring is its summary), an example."""

    parsers: argparse._SubParsersAction[argparse.ArgumentParser]

    def add(self, name: str, run: Callable[[argparse.Namespace], int], *examples: str) -> argparse.ArgumentParser:
        summary, _, rest = (run.__doc__ or "").partition("\n")
        lines = "\n  ".join(examples)
        made = self.parsers.add_parser(
            name,
            help=summary,
            description="\n".join((summary, *(line.strip() for line in rest.splitlines()))).strip(),
            epilog=f"example{'s' if len(examples) > 1 else ''}:\n  {lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made


def add_verb(
    verbs: Commands,
    group: Callable[[argparse.Namespace], int],
    name: str,
    work: Callable[..., object],
    *examples: str,
) -> argparse.ArgumentParser:
    """A verb of a command that works on the state directory: `group` finds it as `options.verb`."""

    def run(options: argparse.Namespace) -> int:
        return group(options)

    run.__doc__ = work.__doc__
    parser = verbs.add(name, run, *examples)
    parser.set_defaults(verb=work)
    config_option(parser)
    state_option(parser)
    return parser


def seconds(text: str) -> float:
    """`90s`, `15m`, `1h`, `7d`."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit is None or not text[:-1].replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time such as 90s, 15m, 1h or 7d")
    span = float(text[:-1]) * unit
    if span > LONGEST_SPAN:
        raise argparse.ArgumentTypeError(f"{text[:20]} is more than a hundred years")
    return span


def state_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where the ledger is ($STATE_DIRECTORY, else as for the daemon)"
    )


def config_option(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("POINTSMAN_CONFIG", "routes.toml"))
    parser.add_argument(
        "--config", type=Path, default=default, metavar="FILE", help="the table ($POINTSMAN_CONFIG, else routes.toml)"
    )
