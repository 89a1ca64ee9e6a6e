"""`replay`: what another table would have done with the requests of the past."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proxy.catalog import load_prices
from proxy.cli.past import usd
from proxy.cli.state import ledger_of
from proxy.cli.words import Commands, config_option, print_json, seconds, state_option, table_of
from proxy.record import frozen
from proxy.routing.models import Models
from proxy.routing.table import Table
from proxy.routing.whatif import Group, Report, cost_json, with_all_keys
from proxy.server.ledger.query import Filter, SearchTooLong
from proxy.server.ledger.render import Column, clean, render_table
from proxy.server.replay import Replay

SHOWN = 40  # groups in the table for a person
BAR = 30  # cells
FOOTER = (
    "Not replayed: health, observed times and warm caches. Every provider is taken to be up, and each request is",
    "compared by who leads its plan before these have their say.",
)


def replay(options: argparse.Namespace) -> int:
    """Which past decisions another table would change: moves, cost, refusals, lost capabilities.

    Plans the ledger's decisions again, calls nobody, and compares by the table's prices. Exits with 1 if a request
    that was served would be refused, so that a job can hold a change back, and where the table is bad; else with 0.
    """
    path: Path = options.against or options.config
    table = table_of(path)
    lacking = {p.name: p.missing or p.missing_key for p in table.providers.values() if p.enabled and not p.configured}
    if options.assume_keys:
        table, lacking = with_all_keys(table), {}
    since_ms = int((time.time() - options.since) * 1000) if options.since is not None else None
    filters = Filter(since_ms=since_ms)
    book = load_prices()
    present = Models.build(table_of(options.config), book) if options.config.exists() else None
    decisions = ledger_of(options)
    try:
        found = decisions.count(filters)
        with Progress.of(found if options.limit is None else min(found, options.limit)) as progress:
            report = Replay(decisions, table, book, present).run(filters, options.limit, progress.told)
    except SearchTooLong as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 1
    if options.json:
        print_json(_document(report, path, table, since_ms, lacking))
    else:
        print("\n".join(clean(line) for line in _told(report, path, table, since_ms, lacking)))
    return 1 if report.denied else 0


def _document(
    report: Report, path: Path, table: Table, since_ms: int | None, lacking: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "against": {"file": str(path), "config": table.revision},
        "since_ms": since_ms,
        **report.as_json(),
        "not_configured": lacking,
        "not_replayed": ["health", "latency", "affinity"],
    }


# -- for a person ------------------------------------------------------------------------------------------------


def _told(report: Report, path: Path, table: Table, since_ms: int | None, lacking: Mapping[str, str]) -> Iterator[str]:
    span = f" since {datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC" if since_ms is not None else ""
    yield f"{report.replayed:,} decisions{span}, planned again with {path} ({table.revision})"
    if report.replayed:
        yield ""
        yield from _summary(report)
    changed = [group for fate in ("refused", "moves", "rescued", "open") for group in report.of(fate)]
    if changed:
        yield ""
        width = shutil.get_terminal_size((160, 40)).columns
        yield from render_table(({"group": group} for group in changed[:SHOWN]), width, COLUMNS).splitlines()
    if len(changed) > SHOWN:
        yield f"and {len(changed) - SHOWN:,} more groups; --json has all of them"
    yield ""
    yield from _notes(report, lacking)


def _summary(report: Report) -> Iterator[str]:
    steps: dict[str, int] = {}
    for group in report.of("refused"):
        steps[group.step or ""] = steps.get(group.step or "", 0) + group.count
    by_step = ", ".join(f"{step} {count:,}" for step, count in steps.items())
    lines = {
        "would be refused": (
            report.count("refused"),
            f"{report.denied:,} of them were served; by step: {by_step}" if steps else "",
        ),
        "would move": (report.count("moves"), ""),
        "would lose a capability": (report.losing, ", ".join(_capabilities(report))),
        "would no longer be refused": (report.count("rescued"), ""),
        "open, by observed times": (report.count("open"), ""),
        "stay": (report.count("stays"), ""),
    }
    for title, (count, more) in lines.items():
        yield f"  {title:<28}{count:>9,}{100 * count / report.replayed:>8.1f} %  {more}".rstrip()
    yield f"  {'expected cost':<28}{_money(cost_json(report.groups.values()), report.replayed)}"


def _capabilities(report: Report) -> list[str]:
    return sorted({name for group in report.groups.values() for name in (*group.loses, *group.lacks)})


def _money(cost: Mapping[str, int | None], replayed: int) -> str:
    before, after, delta, priced = (
        cost["before_nanos"], cost["after_nanos"], cost["delta_nanos"], cost["priced"] or 0,
    )  # fmt: skip
    if before is None or after is None or delta is None:
        told = "unknown"
    else:
        share = f", {100 * delta / before:+.1f} %" if before else ""
        told = f"{usd(before)} -> {usd(after)} USD ({_signed(delta)}{share})"
    if priced < replayed:
        told += f", over {priced:,} requests with a price on both sides"
    recorded, costed = cost["recorded_nanos"], cost["costed"] or 0
    told += f"; recorded {'unknown' if recorded is None else f'{usd(recorded)} USD'}"
    return told if costed == replayed or not costed else f"{told}, of {costed:,} requests"


def _signed(nanos: int) -> str:
    return usd(nanos) if nanos < 0 else f"+{usd(nanos)}"


def _notes(report: Report, lacking: Mapping[str, str]) -> Iterator[str]:
    yield from FOOTER
    for name, count in report.undecided.items():
        yield (
            f"Rule {name} goes by words or headers, which are not recorded: taken as met where it matched then, and as "
            f"not met by {count:,} requests that fit it otherwise."
        )
    if report.guessed:
        yield f"{report.guessed:,} requests were not classified then, and would be now: the safe class is assumed."
    for why, count in report.skipped.items():
        yield f"Left out: {count:,} decisions, {why}." if count > 1 else f"Left out: one decision, {why}."
    if lacking:
        listed = ", ".join(f"{name} ({why})" for name, why in lacking.items())
        yield f"Not configured in this environment: {listed}. --assume-keys plans as if they were."


# -- the table ---------------------------------------------------------------------------------------------------


def _group(row: Mapping[str, Any]) -> Group:
    group = row["group"]
    assert isinstance(group, Group)
    return group


def _name(row: Mapping[str, Any], *, old: bool) -> str:
    """The model's id, and as much more as tells the two apart."""
    group = _group(row)
    this, other = (group.was, group.now) if old else (group.now, group.was)
    if this is None:
        return "-"
    if other is None or this.model != other.model or this == other:
        return this.model
    return f"{this.model} at {this.provider}" if this.provider != other.provider else f"{this.model} ({this.native})"


def _note(row: Mapping[str, Any]) -> str:
    group = _group(row)
    parts = []
    if group.step and group.fate == "refused":
        parts.append(f"step {group.step}")
    if group.lacks:
        parts.append(f"nobody left has {', '.join(sorted(group.lacks))}")
    if group.loses:
        parts.append(f"{group.losing:,} lose {', '.join(sorted(group.loses))}")
    if group.without:
        parts.append(f"without {', '.join(sorted(group.without))}, which nobody asked for")
    return "; ".join(parts)


def _amount(name: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(row: Mapping[str, Any]) -> str:
        nanos = cost_json([_group(row)])[name]
        if nanos is None:
            return "-"
        return _signed(nanos) if name == "delta_nanos" else usd(nanos)

    return cell


COLUMNS = (
    Column("", lambda row: _group(row).fate),
    Column("requests", lambda row: f"{_group(row).count:,}", right=True),
    Column("requested", lambda row: _group(row).requested, least=10),
    Column("was", lambda row: _name(row, old=True), least=10),
    Column("would be", lambda row: _name(row, old=False), least=10),
    Column("usd before", _amount("before_nanos"), rank=2, right=True),
    Column("usd after", _amount("after_nanos"), rank=2, right=True),
    Column("change", _amount("delta_nanos"), right=True),
    Column("recorded", _amount("recorded_nanos"), rank=3, right=True),
    Column("note", _note, least=12, rank=1),
)


# -- the bar -----------------------------------------------------------------------------------------------------


@frozen
class Progress:
    """A bar on stderr for whoever watches; silent where that is no terminal."""

    total: int
    shown: bool

    @classmethod
    def of(cls, total: int) -> Progress:
        return cls(total, sys.stderr.isatty() and total > 0)

    def __enter__(self) -> Progress:
        self.told(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def told(self, done: int) -> None:
        if self.shown:
            share = min(1.0, done / self.total)
            bar = ("#" * round(BAR * share)).ljust(BAR, ".")
            print(f"\r[{bar}] {done:,} of {self.total:,} decisions", end="", file=sys.stderr, flush=True)


# -- words -------------------------------------------------------------------------------------------------------


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of one or more")
    return int(text)


def add(commands: Commands) -> None:
    replaying = commands.add(
        "replay",
        replay,
        "pointsman replay --since 7d --against new-routes.toml",
        "pointsman replay --since 1d --against new-routes.toml --assume-keys --json > moves.json",
        "pointsman replay --against new-routes.toml --limit 10000 || echo 'would refuse what was served'",
    )
    replaying.add_argument("--against", type=Path, metavar="FILE", help="the other table (that of --config)")
    replaying.add_argument("--since", type=seconds, metavar="SPAN", help="such as 15m, 1h, 7d (all that is kept)")
    replaying.add_argument("--limit", type=at_least_one, metavar="N", help="the newest N decisions only")
    replaying.add_argument(
        "--assume-keys", action="store_true", help="plan as if every variable and key of the table were set"
    )
    replaying.add_argument("--json", action="store_true", help="every group, for programs")
    config_option(replaying)
    state_option(replaying)
