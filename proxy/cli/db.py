"""`db`: the ledger's file, checked, made smaller, and written out for other programs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from proxy.cli.state import ledger_of
from proxy.cli.words import Commands, add_verb, print_json, seconds
from proxy.server.keys.command import DeskRefused, runs
from proxy.server.ledger import care, export
from proxy.server.ledger.query import Filter
from proxy.server.starting import ADMIN_SOCKET

MIB = 1 << 20


def db(options: argparse.Namespace) -> int:
    """The ledger's file: check, vacuum, export."""
    return int(options.verb(ledger_of(options).path, options))


def check(path: Path, options: argparse.Namespace) -> int:
    """Whether the file is whole, of which schema, and whether its sums agree; exits with 1 if anything is wrong.

    It reads only, and is safe while the gateway runs.
    """
    found = care.examine(path, now_ms=int(time.time() * 1000), quick=options.quick)
    if options.json:
        print_json(found.as_json())
    else:
        for problem in found.problems:
            print(f"{path}: {problem}", file=sys.stderr)
        print("\n".join(_told(found)))
    return 1 if found.problems else 0


def _told(found: care.Findings) -> Iterator[str]:
    behind = (
        f" of {found.newest_schema}: the next start brings it forward" if found.schema < found.newest_schema else ""
    )
    yield f"schema       {found.schema}{behind}"
    yield f"decisions    {found.decisions:,}"
    yield f"attempts     {found.attempts:,}"
    if found.oldest_ms is not None and found.newest_ms is not None:
        yield f"from, to     {_date(found.oldest_ms)}, {_date(found.newest_ms)}"
    yield f"reservations of {found.leases:,} keys under way, of {found.leases_over:,} left behind"
    yield f"size         {found.bytes / MIB:,.1f} MiB, {found.bytes_free / MIB:,.1f} MiB of it free"
    yield f"{found.path}: {'good' if not found.problems else f'{len(found.problems)} problems'}"


def _date(at_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000))


def vacuum(path: Path, options: argparse.Namespace) -> int:
    """Gives the file's free space back to the disk.

    While the gateway runs this is done in small steps, which no request notices. While it does not, the whole file is
    written anew, which also puts it in order; for that time the disk needs room for two more of it.
    """
    try:
        before, after = care.give_back(path) if runs(path.parent / ADMIN_SOCKET) else care.rewrite(path)
    except (care.NoRoom, DeskRefused) as refused:
        print(f"pointsman: {refused}", file=sys.stderr)
        return 1
    print(f"{path}: {before / MIB:,.1f} MiB before, {after / MIB:,.1f} MiB now")
    return 0


def export_(path: Path, options: argparse.Namespace) -> int:
    """Rows as JSON lines or CSV, oldest first. No key, credential, prompt or answer is in any.

    A decision in JSON has its attempts with it; `attempts` writes them alone, each with its request's id.
    """
    if options.plans and (options.what, options.format) != ("decisions", "jsonl"):
        print("pointsman: plans go with decisions in JSON lines", file=sys.stderr)
        return 2
    found = export.rows(path, _filter(options))
    if options.format == "csv":
        lines = export.decision_csv(found) if options.what == "decisions" else export.attempt_csv(found)
    else:
        decisions = options.what == "decisions"
        lines = export.decision_lines(found, plans=options.plans) if decisions else export.attempt_lines(found)
    target: Path | None = options.output
    if target is None:
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return 0
    if not options.force and target.exists() and target.stat().st_size:
        print(f"pointsman: {target} is there already; --force writes over it", file=sys.stderr)
        return 1
    with _private(target) as file:
        file.writelines(lines)
    return 0


def _private(path: Path) -> BinaryIO:
    """Who asked for what is not for every user of the machine."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _filter(options: argparse.Namespace) -> Filter:
    now = time.time()
    return Filter(
        since_ms=None if options.since is None else int((now - options.since) * 1000),
        until_ms=None if options.until is None else int((now - options.until) * 1000),
        model=options.model,
        provider=options.provider,
        project=options.project,
        key_id=options.key,
        outcome=options.outcome,
        failed=True if options.failed else None,
    )


# -- words -------------------------------------------------------------------------------------------------------


def add(commands: Commands) -> None:
    parser = commands.add(
        "db",
        db,
        "pointsman db check",
        "pointsman db vacuum",
        "pointsman db export decisions --since 30d -o decisions.jsonl",
        "pointsman db export attempts --format csv --project team-a > attempts.csv",
    )
    verbs = Commands(parser.add_subparsers(title="what to do", metavar="VERB", required=True))
    checking = add_verb(verbs, db, "check", check, "pointsman db check", "pointsman db check --quick --json")
    checking.add_argument("--quick", action="store_true", help="without comparing each index with its table")
    checking.add_argument("--json", action="store_true", help="for programs")
    add_verb(verbs, db, "vacuum", vacuum, "pointsman db vacuum --state /var/lib/pointsman")
    exporting = add_verb(
        verbs,
        db,
        "export",
        export_,
        "pointsman db export decisions --since 30d -o decisions.jsonl",
        "pointsman db export attempts --format csv --project team-a > attempts.csv",
    )
    exporting.add_argument("what", nargs="?", choices=("decisions", "attempts"), default="decisions")
    exporting.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="(jsonl)")
    exporting.add_argument("-o", "--output", type=Path, metavar="FILE", help="made for this user only (stdout)")
    exporting.add_argument("--force", action="store_true", help="write over a file that is there")
    exporting.add_argument("--plans", action="store_true", help="with the plan of each decision, in JSON lines")
    exporting.add_argument("--since", type=seconds, metavar="SPAN", help="from so long ago, such as 15m, 1h, 7d")
    exporting.add_argument("--until", type=seconds, metavar="SPAN", help="up to so long ago")
    exporting.add_argument("--model", help="the catalog id that answered")
    exporting.add_argument("--provider", help="who answered")
    exporting.add_argument("--project", help="of the keys that asked")
    exporting.add_argument("--key", metavar="ID", help="the id of a virtual key")
    exporting.add_argument("--outcome", help="ok, or an error code")
    exporting.add_argument("--failed", action="store_true", help="any outcome but ok")
