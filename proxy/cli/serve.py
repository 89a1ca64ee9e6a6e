"""`serve` and `check`: what takes a table as it is, to serve it or to judge it."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from proxy.app import App
from proxy.cli.words import Commands, config_option, reading, table_of
from proxy.secret import Scrubber
from proxy.server import log as logging
from proxy.server.overload import keep_freed_memory

# Objects made before the youngest are looked through for cycles, and so many such looks before older ones are. Python's
# own 700 is one look for every second request, a tenth of its time, and hardly ever finds any.
YOUNG = (20_000, 20, 10)
# Seconds that a thread waits for Python's lock while the loop is busy, each time: with Python's own 5 ms a batch of the
# ledger, which gives the lock away some twenty times, would take longer than the 50 ms in which rows are promised.
SWITCH = 0.0005


def serve(options: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT."""
    import uvloop  # only this command needs it

    gc.set_threshold(*YOUNG)  # what was read by now is frozen: see `cli.modules`
    sys.setswitchinterval(SWITCH)
    keep_freed_memory()
    sink = logging.configure(json=logging.wants_json(), level=options.log_level, scrubber=Scrubber())
    try:
        with reading(options.config):
            uvloop.run(App(options.config, log=sink).run())
    finally:
        sink.close()
    return 0


def check(options: argparse.Namespace) -> int:
    """Every problem of a table with its place; 1 if there is any."""
    table = table_of(options.config)
    for warning in table.warnings:
        print(f"{options.config}: warning: {warning}")
    lacking = [p for p in table.providers.values() if p.enabled and not p.configured]
    for provider in lacking:
        print(
            f"{options.config}: provider {provider.name} is not configured: {provider.missing or provider.missing_key}"
        )
    ready = len(table.providers) - len(lacking)
    print(
        f"{options.config}: good. {len(table.models)} models, {ready} of {len(table.providers)} providers configured."
    )
    return 0


def add(commands: Commands) -> None:
    serving = commands.add("serve", serve, "pointsman serve --config /etc/pointsman/routes.toml")
    config_option(serving)
    serving.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")

    checking = commands.add("check", check, "pointsman check routes.toml")
    checking.add_argument("config", type=Path, metavar="FILE", help="the table to check")
