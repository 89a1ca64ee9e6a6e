"""`import`: a table from another gateway's configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from proxy.cli.litellm import Imported, NoConfig, import_config
from proxy.cli.words import Commands, reading
from proxy.server.reload import load_table


def litellm(options: argparse.Namespace) -> int:
    """routes.toml from a config.yaml of LiteLLM's, and a list of what could not be carried over.

    The table goes to stdout or to -o FILE, the list to stderr and on top of the table. It passes `pointsman check`.
    Exits with 0 when a table was written; with 1 when there is none, or with --strict when anything was left.
    """
    source: Path = options.config
    target: Path | None = options.output
    try:
        imported = import_config(str(source), lambda name: _beside(source, name).read_bytes())
    except NoConfig as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 1
    if target is not None and not options.force and target.exists() and target.stat().st_size:
        print(f"pointsman: {target} is there already; --force writes over it", file=sys.stderr)
        return 1
    with reading(target or Path("routes.toml")):
        table = load_table(imported.text.encode(), env={})
    if target is None:
        sys.stdout.write(imported.text)
    else:
        target.write_text(imported.text, encoding="utf-8")
    _tell(imported, len(table.models), len(table.providers), target)
    return 1 if options.strict and imported.lost else 0


def _beside(source: Path, name: str) -> Path:
    """What a file includes lies beside it."""
    return source if name == str(source) else source.parent / name


def _tell(imported: Imported, models: int, providers: int, target: Path | None) -> None:
    say = [f"{target or 'stdout'}: {models} models at {providers} providers."]
    if imported.variables:
        say.append(f"It reads from the environment: {', '.join(imported.variables)}")
    for title, notes in (("Carried over, with a difference", imported.differing), ("Not carried over", imported.lost)):
        if notes:
            say += [f"{title} ({len(notes)}):", *(f"  {note}" for note in notes)]
    print("\n".join(say), file=sys.stderr)


# -- words -------------------------------------------------------------------------------------------------------


def add(commands: Commands) -> None:
    parser = commands.add("import", litellm, "pointsman import litellm config.yaml -o routes.toml")
    sources = Commands(parser.add_subparsers(title="from where", metavar="GATEWAY", required=True))
    made = sources.add(
        "litellm",
        litellm,
        "pointsman import litellm config.yaml",
        "pointsman import litellm config.yaml -o routes.toml && pointsman check routes.toml",
        "pointsman import litellm config.yaml --strict > /dev/null",
    )
    made.add_argument("config", type=Path, metavar="FILE", help="LiteLLM's config.yaml")
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="where the table is written (stdout)")
    made.add_argument("--force", action="store_true", help="write over a file that is there")
    made.add_argument("--strict", action="store_true", help="exit with 1 when anything could not be carried over")
