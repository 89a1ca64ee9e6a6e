"""Requests of the past: planned against a table, and recorded as the gateway records them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from attrs import evolve

from proxy.catalog import PriceBook, load_prices
from proxy.dialects import DIALECTS
from proxy.ir import Usage
from proxy.routing import facts as reading
from proxy.routing.facts import Facts
from proxy.routing.loading import load
from proxy.routing.models import Models
from proxy.routing.plan import Plan, resolve
from proxy.routing.table import Table
from proxy.routing.world import World
from proxy.server.ledger import Attempt, Decision, Ledger

NOON = 1_750_000_000_000
PATIENCE = 30.0  # seconds until a test that waits gives up
HOUSE = """
[providers.near]
dialects = ["openai-chat"]
base_url = "http://near.test/v1"
api_key = "none"
[providers.far]
dialects = ["openai-chat"]
base_url = "http://far.test/v1"
api_key = "${FAR_KEY}"
models = ["far-*"]
[models.small]
provider = "near"
price = { input = 1, output = 2 }
capabilities = ["tools"]
[models.large]
provider = "far"
price = { input = 10, output = 20 }
capabilities = ["tools", "vision", "code"]
"""


def table_of(text: str, env: Mapping[str, str] | None = None) -> Table:
    def no_file(path: str) -> str:
        raise FileNotFoundError(path)

    environment = {"FAR_KEY": "canary-far-key"} if env is None else env
    return load(text.encode(), env=environment, read_file=no_file, dialects=DIALECTS.keys())


def world_of(text: str, book: PriceBook | None = None) -> World:
    table = table_of(text)
    return World(table, Models.build(table, book or load_prices()))


def facts_of(body: Mapping[str, Any], **more: Any) -> Facts:
    """As the chat surface reads them. Without messages the request has one short turn."""
    whole = {"messages": [{"role": "user", "content": "Good morning."}], **body}
    shape = DIALECTS["openai-chat"].read_shape(whole)
    return Facts(
        **{
            "surface": "chat",
            "dialect": "openai-chat",
            "endpoint": "chat",
            "wanted": reading.read_wanted(whole, {}, "x-nyuro-", None),
            "shape": shape,
            "tokens": reading.estimate_tokens(shape, 0),
            "sort": reading.read_sort(whole, {}, "x-nyuro-"),
            "ceiling": reading.read_ceiling(whole, {}, "x-nyuro-"),
            "preferences": reading.read_preferences(whole),
            "industry": reading.read_industry(whole),
            **more,
        }
    )


def planned(world: World, facts: Facts, number: int = 1) -> Plan:
    return resolve(facts, world, random.Random(number).random, 0.0)


def decided(number: int, plan: Plan, usage: Usage | None = None, **more: Any) -> Decision:
    """The `number`-th request, answered by the head of its chain, or refused."""
    decision = Decision(
        request_id=f"req_{number:032x}",
        at_ms=NOON + 1000 * number,
        surface=plan.facts.surface,
        requested=plan.requested,
        config=plan.config,
        plan=plan,
        facts=plan.facts,
        project=plan.facts.project,
        stream=plan.facts.stream,
    )
    if plan.chain:
        pick = plan.chain[0]
        served = pick.candidate
        decision.status, decision.usage = 200, usage
        decision.model, decision.provider, decision.native = served.model, served.provider, served.native
        decision.attempts = [Attempt(1, served.model, served.provider, served.native, 0, 900, 300, status=200)]
        decision.cost_nanos = pick.info.price.cost_nanos(usage) if pick.info.price and usage else None
    elif plan.refusal is not None:
        decision.status, decision.outcome = 400, plan.refusal.code
    for name, value in more.items():
        setattr(decision, name, value)
    return decision


def write(path: Path, decisions: Sequence[Decision]) -> None:
    ledger = Ledger(path, retain_days=None, retain_bytes=None, max_queue_bytes=1 << 30)
    ledger.start()
    for decision in decisions:
        ledger.record(decision)
    assert ledger.stop(PATIENCE)


def row_of(decision: Decision) -> dict[str, Any]:
    """What the ledger would give back, without a ledger: through JSON, as a row with its plan."""
    assert decision.plan is not None
    assert decision.facts is not None
    facts = decision.facts if isinstance(decision.facts, Mapping) else decision.facts.as_json()
    usage = decision.usage
    return {
        "request_id": decision.request_id,
        "requested": decision.requested,
        "surface": decision.surface,
        "stream": decision.stream,
        "project": decision.project,
        "model": decision.model,
        "cost_nanos": decision.cost_nanos,
        "usage": None if usage is None else {"input": usage.input, "output": usage.output},
        "facts": orjson.loads(orjson.dumps(facts)),
        "plan": orjson.loads(orjson.dumps(decision.plan.as_json())),
    }


def without_words(facts: Facts, plan: Plan) -> Facts:
    """What can come back of these facts: no turn, no header, the class and the rule in their place."""
    shape = evolve(facts.shape, chars=0, media=0, turns=(), system="")
    past = reading.Past(_rounded(plan), plan.rule)
    return evolve(facts, shape=shape, headers={}, past=past, continues=False)


def _rounded(plan: Plan) -> Any:
    if plan.klass is None:
        return None
    features = tuple((name, round(weight, 3)) for name, weight in plan.klass.features)
    return evolve(plan.klass, margin=round(plan.klass.margin, 4), features=features)
