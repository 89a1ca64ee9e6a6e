"""The commands. Each prints what a person wants to read, or JSON for a program, and exits with a code a script can use:

0 well · 1 what was asked for is wrong (a bad table, an unknown model) · 2 the words of the command are wrong ·
3 the gateway refuses to start.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from proxy.accounts.admission import Permit
from proxy.app import LEDGER, App, StartRefused, state_directory
from proxy.catalog import load_prices
from proxy.dialects import DIALECTS
from proxy.errors import GatewayError
from proxy.routing.facts import Facts, estimate_tokens
from proxy.routing.loading import TableRejected
from proxy.routing.models import Models
from proxy.routing.plan import Plan, resolve
from proxy.routing.table import Table
from proxy.routing.world import World
from proxy.secret import Scrubber
from proxy.server import log as logging
from proxy.server.daemon import ListenRefused
from proxy.server.ledger import Decisions, Filter, LedgerRefused, SearchTooLong, render_table
from proxy.server.reload import load_table
from proxy.server.watch import TableUnreadable, read_table

REFUSED = (StartRefused, TableUnreadable, ListenRefused, LedgerRefused)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except TableRejected as exc:
        _print_problems(options.config, exc)
        return 1
    except REFUSED as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 3
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


# -- serve -------------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT."""
    import uvloop  # only this command needs it

    sink = logging.configure(json=logging.wants_json(), level=options.log_level, scrubber=Scrubber())
    try:
        uvloop.run(App(options.config, log=sink).run())
    finally:
        sink.close()
    return 0


def check(options: argparse.Namespace) -> int:
    """Every problem of a table with its place; 1 if there is any."""
    table = _table(options.config)
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


def _table(path: Path) -> Table:
    return load_table(asyncio.run(read_table(path)))


def _print_problems(path: Path, rejected: TableRejected) -> None:
    for problem in rejected.problems:
        place = f"{path}:{problem.line}" if problem.line else str(path)
        where = f"{problem.path}: " if problem.path else ""
        print(f"{place}: {where}{problem.message}", file=sys.stderr)
    count = len(rejected.problems)
    print(f"{path}: {count} problem{'s' if count != 1 else ''}; nothing was changed.", file=sys.stderr)


# -- explain -----------------------------------------------------------------------------------------------------


def explain(options: argparse.Namespace) -> int:
    """The plan for a model and a prompt, without calling anybody; or that of a past request."""
    if options.request:
        return _explain_past(options)
    if not options.model:
        print("pointsman explain: name a model, or --request ID", file=sys.stderr)
        return 2
    table = _table(options.config)
    world = World(table, Models.build(table, load_prices()))
    body = _body(options)
    try:
        plan = resolve(_facts(body, options), world, random.Random(options.seed).random, time.monotonic())
    except GatewayError as error:
        print(f"pointsman: {error.message}", file=sys.stderr)
        return 1
    if options.json:
        _print_json(plan.as_json())
    else:
        print("\n".join(_told(plan)))
    return 1 if plan.refusal is not None else 0


def _body(options: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {"model": options.model, "messages": [{"role": "user", "content": options.prompt}]}
    if options.max_tokens is not None:
        body["max_tokens"] = options.max_tokens
    return body


def _facts(body: Mapping[str, Any], options: argparse.Namespace) -> Facts:
    shape = DIALECTS["openai-chat"].read_shape(body)
    wide = len(options.prompt.encode()) - len(options.prompt)
    return Facts(
        surface="chat",
        dialect="openai-chat",
        endpoint="chat",
        wanted=(options.model,),
        shape=shape,
        tokens=estimate_tokens(shape, wide),
        project=Permit().project,
    )


def _told(plan: Plan) -> list[str]:
    """A plan for a person."""
    document = plan.as_json()
    lines = [f"{plan.requested}: {plan.reason}"]
    if plan.klass is not None:
        lines.append(f"  class {plan.klass.label}, margin {plan.klass.margin:.2f}")
        lines += [f"    {weight:+8.2f}  {name}" for name, weight in plan.klass.features]
    for number, candidate in enumerate(document["candidates"], 1):
        cost = candidate["cost_max_usd"]
        price = "price unknown" if cost is None else f"at most {cost:.6f} USD"
        lines.append(f"  {number}. {candidate['model']} at {candidate['provider']} ({candidate['native']}), {price}")
    lines += [f"  -  {gone['model']}: {gone['step']}: {gone['reason']}" for gone in document["dropped"]]
    if plan.refusal is not None:
        lines.append(f"  refused ({plan.refusal.code}): {plan.refusal.message}")
    return lines


def _explain_past(options: argparse.Namespace) -> int:
    row = _decisions(options).one(options.request)
    if row is None:
        print(f"pointsman: no decision has the request id {options.request}", file=sys.stderr)
        return 1
    _print_json(row)
    return 0


# -- models and decisions ----------------------------------------------------------------------------------------


COLUMNS = ("model", "provider", "native", "context", "USD/M in", "USD/M out", "capabilities", "state")


def models(options: argparse.Namespace) -> int:
    """What the table offers: price, window, capabilities, and whether it could be called now."""
    table = _table(options.config)
    listed = Models.build(table, load_prices()).listed
    rows: list[tuple[str, ...]] = [COLUMNS]
    for id, info in listed.items():
        provider = table.providers[info.provider]
        state = "ready" if provider.configured else provider.missing or provider.missing_key or "disabled"
        prices = (info.price.input, info.price.output) if info.price else (None, None)
        usd = [f"{rate / 1e6:g}" if rate is not None else "?" for rate in prices]
        context = f"{info.context:,}" if info.context else "?"
        rows.append((id, info.provider, info.native, context, *usd, " ".join(sorted(info.capabilities or ())), state))
    if options.json:
        _print_json([dict(zip(rows[0], row, strict=True)) for row in rows[1:]])
    elif options.markdown:
        print("\n".join(_markdown(rows)))
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *rest]


def decisions(options: argparse.Namespace) -> int:
    """The ledger's newest rows."""
    filters = Filter(
        model=options.model,
        provider=options.provider,
        outcome=options.outcome,
        failed=True if options.failed else None,
        since_ms=int((time.time() - options.since) * 1000) if options.since is not None else None,
    )
    try:
        page = _decisions(options).page(filters, options.limit)
    except SearchTooLong as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 1
    if options.json:
        _print_json(page.rows)
    else:
        print(render_table(page.rows, shutil.get_terminal_size((140, 40)).columns))
    return 0


def _decisions(options: argparse.Namespace) -> Decisions:
    if options.state is not None:
        return Decisions(options.state / LEDGER)
    table = _table(options.config) if options.config.exists() else None
    return Decisions(state_directory(table, os.environ) / LEDGER)


def _print_json(document: Any) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


# -- the words ---------------------------------------------------------------------------------------------------

EXAMPLES = """examples:
  pointsman serve --config routes.toml
  pointsman check routes.toml
  pointsman explain auto --prompt "why does this SQL query scan the whole table?"
  pointsman explain "strategy:cost;max_price:0.01" --json
  pointsman decisions --failed --since 1h
"""


def seconds(text: str) -> float:
    """`90s`, `15m`, `1h`, `7d`."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit is None or not text[:-1].replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time such as 90s, 15m, 1h or 7d")
    return float(text[:-1]) * unit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pointsman",
        description="A lean LLM gateway: decides where a request goes, tries until one answers, and says why.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], example: str) -> argparse.ArgumentParser:
        summary = (run.__doc__ or "").splitlines()[0]
        made = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    serving = command("serve", serve, "pointsman serve --config /etc/pointsman/routes.toml")
    _config(serving)
    serving.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")

    checking = command("check", check, "pointsman check routes.toml")
    checking.add_argument("config", type=Path, metavar="FILE", help="the table to check")

    explaining = command("explain", explain, 'pointsman explain auto --prompt "write a regex for IPv6"')
    explaining.add_argument("model", nargs="?", metavar="MODEL", help="what would stand in the request's model field")
    explaining.add_argument("--prompt", default="", metavar="TEXT", help="the user's turn")
    explaining.add_argument("--max-tokens", type=int, metavar="N", help="the request's max_tokens")
    explaining.add_argument("--request", metavar="ID", help="explain a past request from the ledger instead")
    explaining.add_argument("--seed", type=int, default=0, metavar="N", help="of the dice for weighted draws")
    explaining.add_argument("--json", action="store_true", help="the plan as POST /v1/route gives it")
    _config(explaining)
    _state(explaining)

    listing = command("models", models, "pointsman models --markdown > docs/models.md")
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="a Markdown table")
    _config(listing)

    deciding = command("decisions", decisions, "pointsman decisions --failed --since 1h")
    deciding.add_argument("--limit", type=int, default=20, metavar="N", help="newest rows to show (20)")
    deciding.add_argument("--since", type=seconds, metavar="SPAN", help="such as 15m, 1h, 7d")
    deciding.add_argument("--model", help="the catalog id that answered")
    deciding.add_argument("--provider")
    deciding.add_argument("--outcome", help="ok, or an error code")
    deciding.add_argument("--failed", action="store_true", help="any outcome but ok")
    deciding.add_argument("--json", action="store_true")
    _config(deciding)
    _state(deciding)
    return parser


def _state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where the ledger is (the daemon's; $STATE_DIRECTORY or as it says)"
    )


def _config(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("POINTSMAN_CONFIG", "routes.toml"))
    parser.add_argument(
        "--config", type=Path, default=default, metavar="FILE", help="the table ($POINTSMAN_CONFIG, else routes.toml)"
    )
