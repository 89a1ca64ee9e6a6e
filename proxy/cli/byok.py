"""`byok`: the keys that projects have for providers themselves. A key is read from stdin, never from the command."""

from __future__ import annotations

import argparse
import base64
import getpass
import os
import shutil
import sys
from collections.abc import Callable

from proxy.cli.state import table_and_state, told
from proxy.cli.words import Commands, add_verb, print_json
from proxy.secret import MASTER_KEY_BYTES
from proxy.server.byok.command import Direct, Remote, VaultDesk
from proxy.server.byok.store import VaultStore
from proxy.server.byok.vault import Masters, Vault
from proxy.server.keys.command import runs
from proxy.server.ledger.render import Column, render_table
from proxy.server.starting import ADMIN_SOCKET, LEDGER

COLUMNS = (
    Column("project", lambda key: key["project"]),
    Column("provider", lambda key: key["provider"]),
    Column("key", lambda key: key["masked"]),
    Column("state", lambda key: key["state"]),
    Column("stored", lambda key: key["created_at"][:10]),
    Column("changed", lambda key: key["changed_at"][:16].replace("T", " ")),
)


def byok(options: argparse.Namespace) -> int:
    """Projects' own keys for providers: set, rotate, delete, list.

    While the gateway runs the command goes through its admin socket; else it works on the ledger's file itself, and
    then needs the master key in its own environment.
    """
    return told(lambda: options.verb(_desk(options), options))


def _desk(options: argparse.Namespace) -> VaultDesk:
    table, state = table_and_state(options)
    if runs(state / ADMIN_SOCKET):
        return Remote(state / ADMIN_SOCKET)
    return Direct(Vault(VaultStore(state / LEDGER), Masters.of(table)), table)


def set_(desk: VaultDesk, options: argparse.Namespace) -> None:
    """Store a project's key for a provider, in the place of the one before. Read from stdin."""
    _put(desk, options, only_known=False)


def rotate(desk: VaultDesk, options: argparse.Namespace) -> None:
    """As set, where there is one already. The old one serves until the new one is in. Read from stdin."""
    _put(desk, options, only_known=True)


def _put(desk: VaultDesk, options: argparse.Namespace, *, only_known: bool) -> None:
    stored = desk.put(options.project, options.provider, _read(), only_known=only_known)
    if options.json:
        print_json(stored)
    else:
        print(f"{stored['project']} asks {stored['provider']} with {stored['masked']} now.", file=sys.stderr)


def _read() -> str:
    """A command's words stand in the list of processes and in the shell's history; stdin does not."""
    return getpass.getpass("Key: ") if sys.stdin.isatty() else sys.stdin.read()


def delete(desk: VaultDesk, options: argparse.Namespace) -> None:
    """Forget a project's key; from then on it asks with the house's, where it may."""
    gone = desk.delete(options.project, options.provider)
    if options.json:
        print_json(gone)
    else:
        print(f"{gone['project']} has no key of its own for {gone['provider']} any more.", file=sys.stderr)


def list_(desk: VaultDesk, options: argparse.Namespace) -> None:
    """All of them, masked."""
    stored, off = desk.list(options.project)
    if options.json:
        print_json(stored)
    else:
        print(render_table(stored, shutil.get_terminal_size((140, 40)).columns, COLUMNS), end="")
    if off:
        print(f"pointsman: {off}", file=sys.stderr)


def master(options: argparse.Namespace) -> int:
    """A new master key, for the environment or a systemd credential. It is kept nowhere."""
    print(base64.b64encode(os.urandom(MASTER_KEY_BYTES)).decode())
    return 0


# -- words -------------------------------------------------------------------------------------------------------


def add(commands: Commands) -> None:
    parser = commands.add(
        "byok",
        byok,
        "pointsman byok set --project team-a --provider openai < key.txt",
        "pointsman byok rotate --project team-a --provider openai < key.txt",
        "pointsman byok list",
        "pointsman byok delete --project team-a --provider openai",
        "pointsman byok master-key > master-key",
    )
    verbs = Commands(parser.add_subparsers(title="what to do", metavar="VERB", required=True))
    for name, work in (("set", set_), ("rotate", rotate), ("delete", delete)):
        example = f"pointsman byok {name} --project team-a --provider openai"
        made = _verb(verbs, name, work, example if work is delete else f"{example} < key.txt")
        made.add_argument("--project", required=True, metavar="NAME", help="of [projects] in the table")
        made.add_argument("--provider", required=True, metavar="NAME", help="of [providers] in the table")
    _verb(verbs, "list", list_, "pointsman byok list --json").add_argument(
        "--project", metavar="NAME", help="of this one alone"
    )
    verbs.add("master-key", master, "pointsman byok master-key > master-key")


def _verb(
    verbs: Commands, name: str, work: Callable[[VaultDesk, argparse.Namespace], None], example: str
) -> argparse.ArgumentParser:
    parser = add_verb(verbs, byok, name, work, example)
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser
