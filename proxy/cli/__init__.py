"""The commands. Each prints what a person wants to read, or JSON for a program, and exits with a code a script can use:

0 well · 1 what was asked for is wrong (a bad table, an unknown model, a change that would refuse requests) ·
2 the words of the command are wrong · 3 the gateway refuses to start, or its ledger cannot be read.

One module per command: `add(commands)` gives it its words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from proxy.cli.modules import reading_modules

EXAMPLES = """examples:
  pointsman serve --config routes.toml
  pointsman check routes.toml
  pointsman explain auto --prompt "why does this SQL query scan the whole table?"
  pointsman explain "strategy:cost;max_price:0.01" --json
  pointsman decisions --failed --since 1h
  pointsman replay --since 7d --against new-routes.toml
  pointsman keys create --name ci --expires 90d
  pointsman db check
  pointsman import litellm config.yaml -o routes.toml
"""


# The module of each command. Only the one that is asked for is read: a daemon has no use for the others.
COMMANDS = {
    "serve": "serve",
    "check": "serve",
    "explain": "explain",
    "models": "models",
    "decisions": "decisions",
    "replay": "replay",
    "keys": "keys",
    "byok": "byok",
    "db": "db",
    "import": "importing",
}


class Version(argparse.Action):
    """Looked up when asked for: no command needs it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"pointsman {version('pointsman')}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    with reading_modules(stay=given[:1] == ["serve"]):
        parser = _parser(COMMANDS.get(given[0]) if given else None)
        from proxy.cli.words import REFUSED, BadTable
    options = parser.parse_args(given)
    try:
        return int(options.run(options))
    except BadTable as bad:
        print(bad, file=sys.stderr)
        return 1
    except REFUSED as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 3
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


def _parser(module: str | None = None) -> argparse.ArgumentParser:
    """Of one module's commands; of all where it is unknown which is meant, so that they can be told."""
    parser = argparse.ArgumentParser(
        prog="pointsman",
        description="A lean LLM gateway: decides where a request goes, tries until one answers, and says why.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from proxy.cli.words import Commands

    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    commands = Commands(parser.add_subparsers(title="commands", metavar="COMMAND", required=True))
    for name in dict.fromkeys(COMMANDS.values()) if module is None else (module,):
        import_module(f"proxy.cli.{name}").add(commands)
    return parser
