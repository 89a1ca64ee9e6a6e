"""Where commands find what a daemon keeps: its ledger, its keys."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from proxy.cli.words import table_of
from proxy.errors import GatewayError
from proxy.routing.table import Table
from proxy.server.keys.command import DeskRefused
from proxy.server.ledger.query import Decisions
from proxy.server.starting import LEDGER, state_directory


def ledger_of(options: argparse.Namespace) -> Decisions:
    """The ledger that `--state` names, else the one that the daemon with this table would write."""
    if options.state is not None:
        return Decisions(options.state / LEDGER)
    table = table_of(options.config) if options.config.exists() else None
    return Decisions(state_directory(table, os.environ) / LEDGER)


def table_and_state(options: argparse.Namespace) -> tuple[Table, Path]:
    """Of the daemon that a command is about; an empty table where there is no file."""
    table = table_of(options.config) if options.config.exists() else Table(revision="")
    return table, options.state or state_directory(table, os.environ)


def told(work: Callable[[], None]) -> int:
    """The exit code of work that may be refused; why is said in a sentence."""
    try:
        work()
    except (DeskRefused, GatewayError) as refused:
        print(f"pointsman: {refused}", file=sys.stderr)
        return 1
    return 0
