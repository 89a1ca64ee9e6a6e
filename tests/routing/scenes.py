"""Tables, worlds and requests for the tests of routing, with dice and clock in the open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from proxy import errors, ir
from proxy.catalog import PriceBook, load_prices
from proxy.dialects import UPSTREAMS
from proxy.errors import GatewayError
from proxy.routing.facts import Facts
from proxy.routing.loading import load
from proxy.routing.models import Models
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan, resolve
from proxy.routing.problems import Problem, TableRejected
from proxy.routing.table import Table
from proxy.routing.world import Dice, World

PROJECT = Path(__file__).parents[2]
ROUTES = PROJECT / "tests" / "data" / "routes"
OPENAI = {"OPENAI_API_KEY": "sk-openai-0123456789"}
ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-ant-0123456789"}
WORKERS_AI = {"CLOUDFLARE_ACCOUNT_ID": "0a1b2c3d", "CLOUDFLARE_API_TOKEN": "cf-0123456789"}
OLLAMA = {"OLLAMA_BASE_URL": "http://ollama.test:11434"}
EVERY = {**OPENAI, **ANTHROPIC, **WORKERS_AI, **OLLAMA}
BOOK = load_prices()

# Clear cases, one for each class.
PROMPTS = {
    "code": "Fix this Python function:\n```python\ndef add(a, b):\n    retrun a + b\n```",
    "reasoning": "Prove step by step that the square root of 2 is irrational. Think carefully about each step.",
    "summarization": "Summarize the following article in three sentences: The council met on Monday and talked about "
    "the harbour, the school and the new road. It was decided to repair the harbour first.",
    "extraction": "Extract all names, dates and amounts from this invoice as JSON: Invoice 17, ACME, 3 May, 200 EUR.",
    "long-context": "The river rose in the night and the village moved up the hill, as it did every spring. " * 120,
    "chat": "Hi there! How are you today?",
}

# Four providers: `p` and `q` with keys, `local` of one's own, `bare` without its key.
HOUSE = """
[providers.p]
dialect = "openai-chat"
base_url = "http://p.test/v1"
api_key = "${P_KEY}"
[providers.q]
dialect = "anthropic"
base_url = "http://q.test"
api_key = "${Q_KEY}"
models = ["q-*"]
[providers.local]
dialect = "openai-chat"
base_url = "http://local.test/v1"
api_key = "none"
local = true
[providers.bare]
dialect = "openai-chat"
base_url = "http://bare.test/v1"
api_key = "${BARE_KEY}"
[models.a]
provider = "p"
context = 100_000
max_output = 1_000
price = { input = 1, output = 2 }
capabilities = ["tools", "json"]
quality = 50
reasoning = 50
[models.b]
provider = "q"
context = 200_000
max_output = 2_000
price = { input = 3, output = 9 }
capabilities = ["tools", "json", "vision", "thinking"]
quality = 90
reasoning = 80
[models.c]
provider = "p"
context = 8_000
price = { input = 0.5, output = 0.5 }
capabilities = []
quality = 30
reasoning = 90
[models.home]
provider = "local"
context = 32_000
capabilities = ["tools"]
quality = 20
reasoning = 10
[models.keyless]
provider = "bare"
context = 1_000_000
price = { input = 0.1, output = 0.1 }
capabilities = ["tools", "json", "vision"]
quality = 99
reasoning = 99
"""
KEYS = {"P_KEY": "p-0123456789", "Q_KEY": "q-0123456789"}


def no_file(path: str) -> str:
    raise FileNotFoundError(path)


def table_of(text: str | bytes, env: Mapping[str, str] = KEYS) -> Table:
    raw = text.encode() if isinstance(text, str) else text
    return load(raw, env=env, read_file=no_file, dialects=UPSTREAMS.keys())


def world_of(text: str | bytes, env: Mapping[str, str] = KEYS, book: PriceBook = BOOK) -> World:
    table = table_of(text, env)
    return World(table, Models.build(table, book))


def sample(name: str, env: Mapping[str, str]) -> World:
    return world_of((ROUTES / f"{name}.toml").read_bytes(), env)


def shipped(env: Mapping[str, str]) -> World:
    return world_of((PROJECT / "routes.toml").read_bytes(), env)


def problems(text: str, env: Mapping[str, str] = KEYS) -> tuple[Problem, ...]:
    """What is wrong with a file; nothing where it loads."""
    try:
        table_of(text, env)
    except TableRejected as rejected:
        return rejected.problems
    return ()


def asks(*wanted: str, **more: Any) -> Facts:
    """A request: `tokens`, `turns`, `needs`, `max_tokens`, `n`, `system` beside what `Facts` has."""
    shape = ir.Shape(
        needs=frozenset(more.pop("needs", ())),
        chars=0,
        max_tokens=more.pop("max_tokens", None),
        n=more.pop("n", 1),
        turns=tuple(more.pop("turns", ())),
        system=more.pop("system", ""),
    )
    facts = Facts("chat", "openai-chat", "chat", wanted, shape, tokens=more.pop("tokens", 100))
    return evolve(facts, **more)


def half() -> float:
    return 0.5


def scripted(*values: float) -> Dice:
    """Dice that fall as told; one throw too many is an error."""
    left = iter(values)

    def throw() -> float:
        value = next(left, None)
        assert value is not None, "one throw too many"
        return value

    return throw


def planned(world: World, *wanted: str, dice: Dice = half, now: float = 0.0, **more: Any) -> Plan:
    return resolve(asks(*wanted, **more), world, dice, now)


def chain(plan: Plan) -> list[str]:
    return [pick.candidate.model for pick in plan.chain]


def fates(plan: Plan) -> dict[str, tuple[str, str]]:
    """Dropped ids, each with the step and the reason."""
    return {gone.candidate.model: (gone.step, gone.reason) for gone in plan.dropped}


def candidate(world: World, id: str) -> Candidate:
    """Of a listed model."""
    info = world.models.listed[id]
    return Candidate(info.id, info.provider, info.native)


def cool(world: World, candidates: Iterable[Candidate], now: float = 0.0, error: GatewayError | None = None) -> None:
    """Fails each until it rests."""
    for it in candidates:
        while world.health.failed(it, None, error or errors.UpstreamFailed("down"), now) != "cooled":
            pass
