"""Say how long one resolution takes: percentiles with a catalog of 300 models, without the classifier.

python scripts/bench_routing.py --rounds 3000
"""

import argparse
import random
from collections.abc import Callable
from decimal import Decimal
from time import perf_counter_ns

from proxy import ir
from proxy.catalog import PriceBook
from proxy.dialects import DIALECTS
from proxy.routing.facts import Ceiling, Facts
from proxy.routing.loading import load
from proxy.routing.models import Models
from proxy.routing.names import Candidate
from proxy.routing.plan import Plan, resolve
from proxy.routing.world import World

MODELS, PROVIDERS, CHAIN = 300, 5, 16
WARM_UP = 200
PROVIDER = """
[providers.p{n}]
dialect = "openai-chat"
base_url = "https://p{n}.example/v1"
api_key = "${{KEY}}"
models = ["p{n}-*"]
"""
MODEL = """
[models."maker/model-{n}"]
provider = "p{provider}"
context = {context}
price = {{ input = {price}, output = {price} }}
capabilities = ["code", "tools", "json"]
quality = {rank}
reasoning = {rank}
"""


def table_text() -> str:
    chain = ", ".join(f'"maker/model-{n * 7}"' for n in range(CHAIN))
    return "".join(
        [
            *(PROVIDER.format(n=n) for n in range(PROVIDERS)),
            *(
                MODEL.format(n=n, provider=n % PROVIDERS, context=8_000 + 1_000 * (n % 90), price=n % 17, rank=n % 97)
                for n in range(MODELS)
            ),
            f"[aliases]\nlist = [{chain}]\n[industries.field]\nmodels = [{chain}]\n",
        ]
    )


def world() -> World:
    table = load(table_text().encode(), env={"KEY": "0123456789"}, read_file=lambda path: "", dialects=DIALECTS.keys())
    found = World(table, Models.build(table, PriceBook()))
    for number, info in enumerate(found.models.listed.values()):
        found.latencies.observe(Candidate(info.id, info.provider, info.native), 200.0 + 10.0 * number, 0.0)
    return found


def facts(*wanted: str, ceiling: Ceiling | None = None, sort: str | None = None) -> Facts:
    shape = ir.Shape(frozenset({"tools"}), chars=400, max_tokens=500, turns=("What stands in the logs of today?",))
    return Facts("chat", "openai-chat", "chat", wanted, shape, tokens=100, stream=True, ceiling=ceiling, sort=sort)


def requests() -> dict[str, Facts]:
    return {
        "one model": facts("maker/model-7"),
        f"an alias of {CHAIN}": facts("list"),
        "the same, under a ceiling": facts("list", ceiling=Ceiling(Decimal(1))),  # which nothing remembers
        f"{CHAIN} models, sorted": facts(*(f"maker/model-{n * 7}" for n in range(CHAIN)), sort="price"),
        f"an industry of {CHAIN}": facts("industry:field"),
        "a pattern": facts("p1-anything"),
        **{f"strategy:{name}": facts(f"strategy:{name}") for name in ("cost", "quality", "latency", "local")},
    }


def percentiles(resolution: Callable[[], Plan], rounds: int) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    for _ in range(WARM_UP):
        resolution()
    taken = []
    for _ in range(rounds):
        began = perf_counter_ns()
        resolution()
        taken.append(perf_counter_ns() - began)
    taken.sort()
    return taken[rounds // 2] / 1000, taken[rounds * 99 // 100] / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3000, help="resolutions per kind of request (default 3000)")
    options = parser.parse_args()
    scene, dice = world(), random.Random(1).random
    print(f"{MODELS} models at {PROVIDERS} providers; microseconds")
    print(f"{'request':27}{'chain':>6}{'p50':>10}{'p99':>10}")
    for name, wanted in requests().items():
        chain = len(resolve(wanted, scene, dice, 1.0).chain)
        p50, p99 = percentiles(lambda wanted=wanted: resolve(wanted, scene, dice, 1.0), options.rounds)  # type: ignore[misc]
        print(f"{name:27}{chain:>6}{p50:>10.1f}{p99:>10.1f}")


if __name__ == "__main__":
    main()
