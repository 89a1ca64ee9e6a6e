"""`keys`: making, listing, showing, rotating and revoking virtual keys."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.accounts.asking import DEFAULT_GRACE
from proxy.accounts.keys import SCOPES
from proxy.accounts.periods import PERIODS
from proxy.cli.state import table_and_state, told
from proxy.cli.words import Commands, add_verb, print_json, seconds, whole
from proxy.server.keys.changes import Keys
from proxy.server.keys.command import Desk, Direct, Remote, runs
from proxy.server.keys.store import KeyStore
from proxy.server.ledger.render import Column, render_table
from proxy.server.starting import ADMIN_SOCKET, LEDGER

UNKNOWN = "-"
COLUMNS = (
    Column("id", lambda key: key["id"]),
    Column("name", lambda key: key["name"], least=8),
    Column("project", lambda key: key["project"] or UNKNOWN, least=8, rank=2),
    Column("scopes", lambda key: ",".join(key["scopes"]), least=9, rank=3),
    Column("state", lambda key: _state(key)),
    Column("created", lambda key: key["created_at"][:10], rank=5),
    Column("last used", lambda key: (key["last_used_at"] or UNKNOWN)[:16].replace("T", " "), rank=4),
    Column("spent USD", lambda key: key["spent_usd"], right=True),
    Column("budget", lambda key: _budget(key["budget"]), rank=1),
)


def keys(options: argparse.Namespace) -> int:
    """Virtual keys: make, list, show, rotate, revoke.

    While the gateway runs the command goes through its admin socket; else it works on the ledger's file itself.
    """
    return told(lambda: options.verb(_desk(options), options))


def _desk(options: argparse.Namespace) -> Desk:
    table, state = table_and_state(options)
    if runs(state / ADMIN_SOCKET):
        return Remote(state / ADMIN_SOCKET)
    return Direct(Keys(KeyStore(state / LEDGER)), table.server.key_prefix, table.projects)


def create(desk: Desk, options: argparse.Namespace) -> None:
    """Make a key. The whole of it is printed this once."""
    wanted: dict[str, Any] = {"name": options.name, "project": options.project, "scopes": options.scope}
    if options.expires is not None:
        wanted["expires_at"] = datetime.fromtimestamp(time.time() + options.expires, UTC).isoformat()
    terms = {name: value for name in ("period", "alert", "unpriced") if (value := getattr(options, name)) is not None}
    if options.budget is not None:
        wanted["budget"] = {"limit": options.budget, **terms}
    elif terms:
        options.words.error(f"--{next(iter(terms))} is of a budget: give --budget as well")
    wanted["limits"] = {name: getattr(options, name) for name in ("rpm", "tpm", "parallel")}
    _hand_over(desk.create(wanted), options)


def rotate(desk: Desk, options: argparse.Namespace) -> None:
    """Give a key a new secret; the old one works for the time of grace. Printed this once."""
    _hand_over(desk.rotate(options.id, int(options.grace)), options)


def _hand_over(made: dict[str, Any], options: argparse.Namespace) -> None:
    """The key alone on stdout, for `KEY=$(...)`; the rest is for the person."""
    if options.json:
        print_json(made)
        return
    print(made["key"])
    print(f"Key {made['id']} ({made['name']}). This is the only time that it is shown.", file=sys.stderr)


def list_(desk: Desk, options: argparse.Namespace) -> None:
    """All keys, without their secrets."""
    found = desk.list()
    if options.json:
        print_json(found)
    else:
        print(render_table(found, shutil.get_terminal_size((140, 40)).columns, COLUMNS), end="")


def show(desk: Desk, options: argparse.Namespace) -> None:
    """One key, without its secret."""
    print_json(desk.show(options.id))


def revoke(desk: Desk, options: argparse.Namespace) -> None:
    """End a key for good; it is refused within a second."""
    revoked = desk.revoke(options.id)
    if options.json:
        print_json(revoked)
    else:
        print(f"Key {revoked['id']} ({revoked['name']}) is revoked.", file=sys.stderr)


def _id(text: str) -> str:
    """Of what messages call a key by, or of the whole that somebody found: its id."""
    found = re.fullmatch(r"[A-Za-z0-9]+_live_([A-Za-z0-9]+)(?:_[A-Za-z0-9]+)?", text)
    return text if found is None else found[1]


def _budget(budget: dict[str, Any] | None) -> str:
    return f"{budget['spent_usd']} of {budget['limit_usd']}, {budget['period']}" if budget else UNKNOWN


def _state(key: Mapping[str, Any]) -> str:
    if key["revoked"]:
        return "revoked"
    expires = key["expires_at"]
    return "expired" if expires is not None and datetime.fromisoformat(expires) <= datetime.now(UTC) else "good"


# -- words -------------------------------------------------------------------------------------------------------


def add(commands: Commands) -> None:
    parser = commands.add(
        "keys",
        keys,
        "pointsman keys create --name ci --expires 90d",
        "pointsman keys create --name web --scope chat --budget 20 --period monthly --alert 0.8 --rpm 60",
        "pointsman keys create --name ops --scope admin:read --scope admin:write",
        "pointsman keys list",
        "pointsman keys show 8kTq0ZbX41pd",
        "pointsman keys rotate 8kTq0ZbX41pd --grace 1h",
        "pointsman keys revoke 8kTq0ZbX41pd",
    )
    verbs = Commands(parser.add_subparsers(title="what to do", metavar="VERB", required=True))
    made = _verb(verbs, "create", create, "pointsman keys create --name ci --expires 90d")
    made.set_defaults(words=made)
    made.add_argument("--name", required=True, help="who or what it is for")
    made.add_argument("--project", help="of [projects] in the table")
    made.add_argument(
        "--scope", action="append", choices=SCOPES, help="may be given several times (inference); chat stands alone"
    )
    made.add_argument("--expires", type=seconds, metavar="SPAN", help="such as 12h, 90d")
    made.add_argument("--budget", metavar="USD", help="how much it may spend in a period")
    made.add_argument("--period", choices=PERIODS, help="of the budget, in UTC (none)")
    made.add_argument("--alert", metavar="FRACTION", help="of the budget, such as 0.8")
    made.add_argument("--unpriced", choices=("refuse", "allow"), help="models of unknown price, with a budget (refuse)")
    for name, what in (
        ("rpm", "requests per minute"),
        ("tpm", "tokens per minute"),
        ("parallel", "requests at a time"),
    ):
        made.add_argument(f"--{name}", type=whole, metavar="N", help=what)
    _verb(verbs, "list", list_, "pointsman keys list --json")
    _verb(verbs, "show", show, "pointsman keys show 8kTq0ZbX41pd", id=True)
    turned = _verb(verbs, "rotate", rotate, "pointsman keys rotate 8kTq0ZbX41pd --grace 1h", id=True)
    turned.add_argument(
        "--grace", type=seconds, default=DEFAULT_GRACE, metavar="SPAN", help="for the old secret (1d); 0s ends it now"
    )
    _verb(verbs, "revoke", revoke, "pointsman keys revoke 8kTq0ZbX41pd", id=True)


def _verb(
    verbs: Commands, name: str, work: Callable[[Desk, argparse.Namespace], None], example: str, *, id: bool = False
) -> argparse.ArgumentParser:
    parser = add_verb(verbs, keys, name, work, example)
    if id:
        parser.add_argument("id", type=_id, metavar="ID", help="the 12 characters in the middle of the key")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser
