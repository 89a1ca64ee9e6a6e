"""`explain`: why a request would go, or went, where it goes."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

from proxy.catalog import load_prices
from proxy.cli.past import told_decision
from proxy.cli.state import ledger_of
from proxy.cli.words import Commands, config_option, print_json, state_option, table_of
from proxy.dialects import DIALECTS
from proxy.errors import GatewayError
from proxy.routing.facts import Ceiling, Facts, estimate_tokens
from proxy.routing.models import Models
from proxy.routing.plan import Plan, resolve
from proxy.routing.table import Table
from proxy.routing.world import World
from proxy.server.ledger.query import SearchTooLong
from proxy.server.ledger.render import clean


def explain(options: argparse.Namespace) -> int:
    """The plan for a model and a prompt, without calling anybody; or that of a past request."""
    if options.request:
        return _explain_past(options)
    if not options.model:
        print("pointsman explain: name a model, or --request ID", file=sys.stderr)
        return 2
    table = table_of(options.config)
    world = World(table, Models.build(table, load_prices()))
    body = _body(options)
    if options.project is not None and options.project not in table.projects:
        known = ", ".join(table.projects) or "none"
        print(f"pointsman explain: no project is called {options.project}; they are {known}", file=sys.stderr)
        return 2
    try:
        plan = resolve(_facts(body, options, table), world, random.Random(options.seed).random, time.monotonic())
    except GatewayError as error:
        print(f"pointsman: {error.message}", file=sys.stderr)
        return 1
    if options.json:
        print_json(plan.as_json())
    else:
        print("\n".join(map(clean, _told(plan))))
    return 1 if plan.refusal is not None else 0


def _body(options: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {"model": options.model, "messages": [{"role": "user", "content": options.prompt}]}
    if options.max_tokens is not None:
        body["max_tokens"] = options.max_tokens
    return body


def _facts(body: Mapping[str, Any], options: argparse.Namespace, table: Table) -> Facts:
    shape = DIALECTS["openai-chat"].read_shape(body)
    most = table.projects[options.project].max_price if options.project else None
    wide = len(options.prompt.encode()) - len(options.prompt)
    return Facts(
        surface="chat",
        dialect="openai-chat",
        endpoint="chat",
        wanted=(options.model,),
        shape=shape,
        tokens=estimate_tokens(shape, wide),
        ceiling=None if most is None else Ceiling(most),
        project=options.project,
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
    try:
        row = ledger_of(options).one(options.request)
    except SearchTooLong as exc:
        print(f"pointsman: {exc}", file=sys.stderr)
        return 1
    if row is None:
        print(f"pointsman: no decision has the request id {options.request}", file=sys.stderr)
        return 1
    if options.json:
        print_json(row)
    else:
        print("\n".join(told_decision(row)))
    return 0


def add(commands: Commands) -> None:
    explaining = commands.add(
        "explain",
        explain,
        'pointsman explain auto --prompt "write a regex for IPv6"',
        "pointsman explain --request req_0198c7a4e2b47d1c9f3a5b6c7d8e9f01",
    )
    explaining.add_argument("model", nargs="?", metavar="MODEL", help="what would stand in the request's model field")
    explaining.add_argument("--prompt", default="", metavar="TEXT", help="the user's turn")
    explaining.add_argument("--max-tokens", type=int, metavar="N", help="the request's max_tokens")
    explaining.add_argument("--project", metavar="NAME", help="whose bounds hold, as for a key of that project")
    explaining.add_argument("--request", metavar="ID", help="explain a past request from the ledger instead")
    explaining.add_argument("--seed", type=int, default=0, metavar="N", help="of the dice for weighted draws")
    explaining.add_argument("--json", action="store_true", help="the plan as POST /v1/route gives it, or the record")
    config_option(explaining)
    state_option(explaining)
