"""`decisions`: the ledger's newest rows."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from proxy.cli.state import ledger_of
from proxy.cli.words import Commands, config_option, print_json, seconds, state_option, whole
from proxy.server.ledger.query import Filter, SearchTooLong
from proxy.server.ledger.render import render_table


def decisions(options: argparse.Namespace) -> int:
    """The ledger's newest rows."""
    filters = Filter(
        model=options.model,
        provider=options.provider,
        project=options.project,
        key_id=options.key,
        outcome=options.outcome,
        intent=options.intent,
        klass=options.klass,
        rule=options.rule,
        profile=options.profile,
        config=options.revision,
        failed=True if options.failed else None,
        since_ms=int((time.time() - options.since) * 1000) if options.since is not None else None,
    )
    try:
        page = ledger_of(options).page(filters, options.limit)
    except SearchTooLong as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 1
    if options.json:
        print_json(page.rows)
    else:
        print(render_table(page.rows, shutil.get_terminal_size((140, 40)).columns), end="")
    return 0


def add(commands: Commands) -> None:
    deciding = commands.add("decisions", decisions, "pointsman decisions --failed --since 1h")
    deciding.add_argument("--limit", type=whole, default=20, metavar="N", help="newest rows to show (20)")
    deciding.add_argument("--since", type=seconds, metavar="SPAN", help="such as 15m, 1h, 7d")
    deciding.add_argument("--model", help="the catalog id that answered")
    deciding.add_argument("--provider", help="who answered")
    deciding.add_argument("--project", help="of the keys that asked")
    deciding.add_argument("--key", metavar="ID", help="the id of a virtual key")
    deciding.add_argument("--outcome", help="ok, or an error code")
    deciding.add_argument("--intent", help="what the model field asked for, such as auto or strategy")
    deciding.add_argument("--class", dest="klass", metavar="CLASS", help="the class that auto found, such as code")
    deciding.add_argument("--rule", help="the rule that matched")
    deciding.add_argument("--profile", help="the profile that was asked for")
    deciding.add_argument("--revision", help="of the table, such as sha256:8d5adbe90621efbd")
    deciding.add_argument("--failed", action="store_true", help="any outcome but ok")
    deciding.add_argument("--json", action="store_true", help="the records, for programs")
    config_option(deciding)
    state_option(deciding)
