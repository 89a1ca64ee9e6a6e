"""What providers list by themselves, in the catalog of a table: names, what is filled in, who may be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import pytest
from each import each

from proxy import ir
from proxy.catalog import Listed, Price, PriceBook, families, load_prices
from proxy.catalog.lists import read_ollama
from proxy.errors import UnknownModel
from proxy.routing.facts import Facts
from proxy.routing.loading import load
from proxy.routing.models import Discovered, Models
from proxy.routing.plan import Plan, resolve
from proxy.routing.table import Table
from proxy.routing.world import World

PROVIDERS = """
[providers.openai]
dialects = ["openai-chat"]
base_url = "https://api.openai.com/v1"
api_key = "${KEY}"
models = ["gpt-*", "o3"]
[providers.ollama]
dialects = ["openai-chat"]
base_url = "http://gpu:11434"
api_key = "none"
local = true
discover = "30s"
[providers.vllm]
dialects = ["openai-chat"]
base_url = "http://gpu:8000/v1"
api_key = "none"
local = true
discover = "30s"
[providers.reseller]
dialects = ["openai-chat"]
base_url = "https://reseller.example/v1"
api_key = "${KEY}"
discover = "5m"
"""
TABLE = (
    PROVIDERS
    + """
[models."llama3.1"]
provider = "ollama"
context = 9_000
[models.fast]
provider = "vllm"
native = "Qwen/Qwen3-8B"
[models.gpt-4o]
provider = "openai"
[aliases]
house = "fast"
[auto]
code = ["gpt-4o"]
chat = ["gpt-4o"]
[profiles.support]
candidates = ["gpt-4o"]
"""
)


def table(text: str = TABLE) -> Table:
    def no_file(path: str) -> str:
        raise FileNotFoundError(path)

    return load(text.encode(), env={"KEY": "canary"}, read_file=no_file, dialects=("openai-chat",))


def models(*found: Discovered, text: str = TABLE) -> Models:
    return Models.build(table(text), load_prices(), found)


def found(provider: str, *names: str, gone: bool = False) -> Iterable[Discovered]:
    return (Discovered(provider, Listed(name, kin=name), gone) for name in names)


def ollama(*names: str) -> Iterable[Discovered]:
    listed = read_ollama({"models": [{"name": name} for name in names]})
    return (Discovered("ollama", model) for model in listed)


def places(catalog: Models) -> dict[str, tuple[str, str]]:
    """Of those that no table names: where each goes."""
    named = catalog.table.models
    return {id: (info.provider, info.native) for id, info in catalog.listed.items() if id not in named}


# -- names -------------------------------------------------------------------------------------------------------


def test_a_discovered_model_goes_by_its_own_name() -> None:
    catalog = models(*found("vllm", "Qwen/Qwen3-30B-A3B"), *ollama("qwen2.5-coder:7b"))
    assert places(catalog) == {
        "qwen2.5-coder:7b": ("ollama", "qwen2.5-coder:7b"),
        "Qwen/Qwen3-30B-A3B": ("vllm", "Qwen/Qwen3-30B-A3B"),
    }


TAKEN = {
    "a model of the table": "gpt-4o",
    "an alias": "house",
    "a profile": "support",
    "a directive": "auto",
    "a strategy": "strategy:cost",
    "a name that the table gives to a provider": "o3",
    "a provider's native name": "openai/gpt-4.1",
}


@each("name", TAKEN.values(), ids=TAKEN)
def test_a_name_that_means_something_else_goes_behind_its_provider(name: str) -> None:
    catalog = models(*found("vllm", name))
    assert places(catalog) == {f"vllm/{name}": ("vllm", name)}


def test_of_two_providers_the_first_in_the_file_has_the_name() -> None:
    catalog = models(*found("vllm", "qwq"), *found("ollama", "qwq"))
    assert places(catalog) == {"qwq": ("ollama", "qwq"), "vllm/qwq": ("vllm", "qwq")}


def test_a_name_that_one_provider_has_lost_is_anothers_that_has_it() -> None:
    catalog = models(*found("ollama", "qwq", gone=True), *found("vllm", "qwq"))
    assert places(catalog) == {"qwq": ("vllm", "qwq"), "ollama/qwq": ("ollama", "qwq")}
    assert catalog.gone == {"ollama/qwq"}


def test_a_pattern_keeps_its_names_from_a_reseller_but_not_from_ones_own_machine() -> None:
    catalog = models(*found("reseller", "gpt-5"), *ollama("gpt-oss:20b"))
    assert places(catalog) == {"gpt-oss:20b": ("ollama", "gpt-oss:20b"), "reseller/gpt-5": ("reseller", "gpt-5")}


def test_the_tables_own_entry_is_not_listed_twice_by_one_name() -> None:
    catalog = models(*found("openai", "gpt-4o"))
    assert "openai/gpt-4o" not in catalog.listed
    assert catalog.listed["gpt-4o"].native == "gpt-4o"


def test_a_provider_that_the_table_does_not_have_is_passed_over() -> None:
    assert places(models(*found("elsewhere", "m"))) == {}


@pytest.mark.parametrize(
    ("installed", "meant"),
    [
        (["mistral:latest", "mistral:7b"], "mistral:latest"),
        (["mistral:7b"], "mistral:7b"),
        (["mistral:8x7b", "mistral:7b"], "mistral:7b"),
    ],
    ids=["latest", "the only one", "the smallest"],
)
def test_a_name_without_a_tag_answers_too(installed: list[str], meant: str) -> None:
    catalog = models(*ollama(*installed))
    info = catalog.find("mistral")
    assert info is not None
    assert info.id == meant
    assert set(places(catalog)) == set(installed)


def test_a_name_without_a_tag_is_the_tables_where_it_says_so() -> None:
    catalog = models(*ollama("gpt-4o:latest"))
    info = catalog.find("gpt-4o")
    assert info is not None
    assert info.provider == "openai"


@pytest.mark.parametrize("installed", ["llama3.1:latest", "llama3.1:8b"])
def test_a_table_model_without_a_tag_is_sent_with_the_tag_that_is_installed(installed: str) -> None:
    catalog = models(*ollama(installed, "llama3.1:70b"))
    assert catalog.listed["llama3.1"].native == installed
    assert catalog.describe("ollama/llama3.1", "ollama", "llama3.1").native == installed


# -- what is filled in -------------------------------------------------------------------------------------------


def test_the_table_wins_over_the_list_and_the_list_over_the_library() -> None:
    price = Price.per_million({"input": "1", "output": "2"})
    listed = Listed("Qwen/Qwen3-8B", context=40_000, max_output=4_000, capabilities=frozenset({"tools"}), price=price)
    catalog = models(
        Discovered("vllm", listed),
        Discovered("ollama", Listed("llama3.1:8b", also=("llama3.1",), context=131_072)),
        Discovered("openai", Listed("gpt-4o", price=price)),
    )
    fast = catalog.listed["fast"]
    assert (fast.context, fast.max_output, fast.capabilities) == (40_000, 4_000, frozenset({"tools"}))
    assert (fast.price, fast.price_source) == (price, "provider")
    assert catalog.listed["llama3.1"].context == 9_000
    silent = catalog.listed["gpt-4o"]
    assert (silent.price, silent.price_source, silent.context) == (price, "provider", 128_000)


def test_the_library_is_only_asked_for_what_nobody_else_tells() -> None:
    described = """
[models.gpt-4o]
provider = "openai"
context = 100_000
price = { input = 1, output = 2 }
"""
    books = {text: PriceBook("today", "", {"openai": {"match": "openai", "models": "[]"}}) for text in (described, "")}
    told = [Models.build(table(PROVIDERS + (text or '[models.gpt-4o]\nprovider = "openai"')), book, ())
            for text, book in books.items()]  # fmt: skip
    assert [catalog.listed["gpt-4o"].price_source for catalog in told] == ["table", None]
    assert [book.providers["openai"]["models"] for book in books.values()] == ["[]", []]  # as text: nobody asked


def test_what_a_list_is_silent_on_the_family_tells() -> None:
    catalog = models(*found("vllm", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"), *found("vllm", "oracle"))
    reasoner = catalog.listed["deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"]
    assert reasoner.capabilities == frozenset({"reasoning", "thinking"})
    assert reasoner.reasoning == 76
    assert (reasoner.price_source, reasoner.price and reasoner.price.input) == ("local", 0)
    assert catalog.listed["oracle"].capabilities is None


def test_a_name_of_ones_own_ranks_by_what_is_behind_it() -> None:
    catalog = models(Discovered("ollama", Listed("helpdesk:latest", kin="qwen2:7.6b")))
    assert catalog.listed["helpdesk:latest"].quality == models(*ollama("qwen2:7.6b")).listed["qwen2:7.6b"].quality


def test_names_alone_are_compared_with_the_families_patterns_and_only_up_to_their_own() -> None:
    families._compiled.cache_clear()
    Models.build(table(PROVIDERS + '[models.gpt-4o]\nprovider = "openai"\n'), PriceBook())
    compared = 1 + [it.name for _, it in families.FAMILIES].index("gpt-4o")
    assert families._compiled.cache_info().currsize == compared + 1  # and whether it chats


def test_a_native_name_behind_its_provider_is_described_by_the_list() -> None:
    catalog = models(Discovered("vllm", Listed("m", context=123)))
    assert catalog.describe("vllm/m", "vllm", "m").context == 123


# -- who is chosen -----------------------------------------------------------------------------------------------


def facts(*wanted: str, turn: str = "hello", project: str | None = None) -> Facts:
    shape = ir.Shape(needs=frozenset(), chars=len(turn), turns=(turn,))
    return Facts(
        surface="chat", dialect="openai-chat", endpoint="chat", wanted=wanted, shape=shape, tokens=10, project=project
    )


def plan(catalog: Models, *wanted: str, turn: str = "hello", project: str | None = None) -> Plan:
    return resolve(facts(*wanted, turn=turn, project=project), World(catalog.table, catalog), lambda: 0.5, 0.0)


def chain(catalog: Models, *wanted: str, turn: str = "hello", project: str | None = None) -> list[str]:
    return [pick.candidate.model for pick in plan(catalog, *wanted, turn=turn, project=project).chain]


def test_strategies_choose_among_what_was_discovered() -> None:
    catalog = models(*ollama("llama3.1:8b", "qwq:32b"), *found("vllm", "Qwen/Qwen3-8B"), *found("reseller", "grok-4"))
    assert set(chain(catalog, "strategy:local")) == {"llama3.1", "fast", "qwq:32b"}
    assert chain(catalog, "strategy:quality")[0] == "grok-4"
    assert set(chain(catalog, "strategy:cost")[:3]) == {"llama3.1", "fast", "qwq:32b"}


def test_a_model_that_holds_no_conversations_is_not_chosen_for_one() -> None:
    catalog = models(
        *ollama("nomic-embed-text:latest", "llama-guard3:8b"),
        Discovered("vllm", Listed("odd", chat=False)),
        Discovered("vllm", Listed("embedded-systems-expert", chat=True)),
    )
    assert set(chain(catalog, "strategy:local")) == {"llama3.1", "fast", "embedded-systems-expert"}
    assert chain(catalog, "odd") == ["odd"]


def test_auto_falls_through_its_list_to_ones_own_machines() -> None:
    catalog = models(*ollama("gemma3:4b", "qwen2.5-coder:7b", "llama3.1:8b"), *found("reseller", "grok-4"))
    prompt = "```python\ndef main():\n    return 1\n```\nFix the bug in this function."
    assert chain(catalog, "auto", turn=prompt) == ["gpt-4o", "qwen2.5-coder:7b", "llama3.1", "gemma3:4b"]
    assert plan(catalog, "auto", turn=prompt).reason == "detected code cues -> code list; then what own machines have"


def test_what_is_gone_is_not_chosen_and_when_named_it_is_said_why() -> None:
    catalog = models(*found("vllm", "Qwen/Qwen3-8B", "other", gone=True), *ollama("llama3.1:8b"))
    assert chain(catalog, "strategy:local") == ["llama3.1"]
    assert catalog.gone == {"fast", "Qwen/Qwen3-8B", "other"}
    refused = plan(catalog, "other")
    assert isinstance(refused.refusal, UnknownModel)
    assert [(drop.step, drop.reason) for drop in refused.dropped] == [("expand", "its provider does not list it")]
    assert refused.emptied_by == "expand"
    assert refused.refusal.message.endswith("Nearest: house, strategy:cost, auto.")  # never those that are gone
    assert chain(catalog, "other", "llama3.1") == ["llama3.1"]
    assert chain(catalog, "vllm/other") == ["vllm/other"]  # whoever insists is not stopped


def test_a_suffix_still_works_behind_a_discovered_name() -> None:
    catalog = models(*ollama("qwen3:8b"))
    resolved = plan(catalog, "qwen3:8b;max_price:0.5")
    assert [pick.max_price for pick in resolved.chain] == [Decimal("0.5")]


def test_without_a_list_the_catalog_is_the_tables() -> None:
    assert set(Models.build(table(), PriceBook()).listed) == {"llama3.1", "fast", "gpt-4o"}


BOUNDED = (
    TABLE
    + """
[projects.without]
disabled = ["mistral"]
[projects.only]
models = ["mistral"]
[projects.tagged]
disabled = ["mistral:latest"]
"""
)


@each("name", ["mistral", "mistral:latest", "ollama/mistral", "ollama/mistral:latest"])
def test_a_projects_boundary_holds_for_every_name_of_a_discovered_model(name: str) -> None:
    catalog = models(*ollama("mistral:latest"), text=BOUNDED)
    assert len(chain(catalog, name)) == 1
    for project, left in (("without", 0), ("only", 1), ("tagged", 0)):
        assert len(chain(catalog, name, project=project)) == left, project
