"""`pointsman import litellm`: the configurations in tests/data/litellm have the shapes that people's have."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.cli import main
from proxy.cli.litellm import NoConfig, import_config
from proxy.cli.litellm.toml import write
from proxy.routing.sections import parse_toml
from proxy.routing.table import Budget, Duration, Limits, Profile, ProfileCandidate, Table, TimeoutOverrides
from proxy.server.reload import load_table

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent / "data/litellm").glob("*.yaml"))}
each_config = pytest.mark.parametrize("path", CONFIGS.values(), ids=CONFIGS)


def table_of(name: str) -> Table:
    path = CONFIGS[name]
    imported = import_config(path.name, lambda file: (path.parent / file).read_bytes())
    return load_table(imported.text.encode(), env={})


def notes_of(name: str) -> str:
    path = CONFIGS[name]
    imported = import_config(path.name, lambda file: (path.parent / file).read_bytes())
    return "\n".join((*imported.differing, *imported.lost))


@each_config
def test_what_is_written_passes_the_check_and_is_told(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "routes.toml"
    assert main(["import", "litellm", str(path), "-o", str(written)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    for variable in re.findall(r"\$\{(\w+)\}", written.read_text()):
        monkeypatch.delenv(variable, raising=False)
        assert variable in told.err
    for line in written.read_text().splitlines():
        if line.startswith("#   "):
            assert line.removeprefix("#   ") in told.err
    assert main(["check", str(written)]) == 0
    assert main(["import", "litellm", str(path)]) == 0
    assert capsys.readouterr().out.endswith(written.read_text())


@each_config
def test_no_value_that_may_be_a_secret_is_repeated(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", "litellm", str(path)])
    told = capsys.readouterr()
    assert "do-not-copy" not in told.out + told.err
    assert "pass@" not in told.out + told.err


def test_deployments_of_one_name_are_drawn_by_weight_and_ordered() -> None:
    table = table_of("balanced")
    assert table.profiles["smart-pool"] == Profile(
        (
            ProfileCandidate("openai/gpt-4o", 900),
            ProfileCandidate("openai-2/gpt-4o", 3),
            ProfileCandidate("gpu1/qwen3-32b", 0),  # of a later order
        )
    )
    assert table.models["openai/gpt-4o"].limits == Limits(rpm=900, tpm=200_000)
    assert table.models["openai-2/gpt-4o"].limits == Limits(parallel=8)
    assert table.providers["openai"].missing_key == "OPENAI_KEY_ONE is not set"
    assert table.providers["openai-2"].missing_key == "OPENAI_KEY_TWO is not set"
    assert table.providers["gpu1"].keyless
    assert table.providers["gpu1"].local


def test_fallbacks_that_go_round_become_two_lists() -> None:
    aliases = table_of("balanced").aliases
    assert aliases["smart"] == ("profile:smart-pool", "groq/llama-3.3-70b-versatile")
    assert aliases["quick"] == ("groq/llama-3.3-70b-versatile", "profile:smart-pool")
    assert aliases["gpt-4"] == aliases["old"] == aliases["smart"]
    assert aliases["fast"] == aliases["quick"]
    assert "the fallback nobody (of quick): no model of that name is in the table" in notes_of("balanced")


def test_prices_windows_and_times_are_carried() -> None:
    quick = table_of("balanced").models["groq/llama-3.3-70b-versatile"]
    assert quick.price is not None
    assert (quick.price.input, quick.price.output) == (Decimal("0.59"), Decimal("0.79"))
    assert (quick.context, quick.max_output) == (100_000, 8192)
    assert quick.timeouts == TimeoutOverrides(answer=Duration(90.0), first_event=Duration(2.5))


def test_settings_become_sections_and_the_routers_word_counts() -> None:
    table = table_of("balanced")
    assert (table.retry.tries, table.retry.attempts) == (4, 5)
    assert table.timeouts.answer == 120.0
    assert (table.health.failures, table.health.rest, table.health.longest) == (5, 600.0, 600.0)
    assert table.server.concurrency == 500
    assert table.projects["litellm"].budget == Budget(Decimal("250.5"), "monthly")
    assert "max_budget for 30d: the period is monthly, by the calendar, in UTC" in notes_of("balanced")


def test_wildcards_reach_what_they_reached() -> None:
    table = table_of("wildcards")
    providers = table.providers
    assert providers["openai"].missing_key == "OPENAI_API_KEY and OPENAI_API_KEY_2 are not set"
    assert providers["anthropic-2"].models == ("claude-*",)
    assert providers["anthropic-2"].timeouts == TimeoutOverrides(answer=Duration(300.0))
    assert providers["house"].missing == "HOUSE_API_BASE is not set"
    assert providers["openrouter"].models == ("anthropic/*",)
    told = notes_of("wildcards")
    for lost in ("the wildcard every/*", "the model *"):
        assert lost in told


def test_clouds_that_no_dialect_covers_are_listed_and_the_rest_goes_on() -> None:
    table = table_of("clouds")
    assert table.models.keys() == {"contoso-us.openai.azure.com/gpt-4o-us", "gemini"}
    assert table.providers["contoso-us.openai.azure.com"].base_url == "https://contoso-us.openai.azure.com/openai/v1"
    assert table.providers["gemini"].dialects == ("gemini",)
    assert table.aliases["gpt-4o"] == ("contoso-us.openai.azure.com/gpt-4o-us", "gemini")
    told = notes_of("clouds")
    for lost in ("azure/ models (of gpt-4o)", "bedrock/ models (of claude)", "vertex_ai/ models (of claude)"):
        assert lost in told
    for name in ("litellm_settings.callbacks", "litellm_settings.cache", "environment_variables"):
        assert name in told


def test_servers_of_the_house_are_local_and_keys_go_to_the_environment() -> None:
    table = table_of("house")
    assert table.providers["ollama"].base_url == "http://localhost:11434"
    assert table.providers["192.168.1.20-11434"].local
    assert table.models["other machine"].provider == "192.168.1.20-11434"
    assert "rented" not in table.models
    gateway = table.providers["llm.example.com"]
    assert gateway.missing_key == "LLM_EXAMPLE_COM_API_KEY is not set"
    assert not gateway.local
    assert table.providers["llm.example.com-2"].missing_key == "LLM_EXAMPLE_COM_API_KEY_2 is not set"
    assert {name: value.reveal() for name, value in gateway.headers.items()} == {
        "OpenAI-Organization": "org-house",
        "X-Team": "research",
    }
    assert table.providers["localhost-9000"].endpoints == ("chat", "embeddings")
    vectors = table.models["bge"].price
    assert vectors is not None
    assert (vectors.input, vectors.output) == (Decimal("0.02"), Decimal(0))
    assert not table.providers["localhost-9000"].missing_key
    (rule,) = table.rules
    assert (rule.models, rule.use) == (("claude-*",), ("localhost-9000/large",))


def test_included_files_and_the_order_by_latency_are_carried() -> None:
    table = table_of("split")
    assert table.profiles["chat-pool"].sort == "latency"
    assert table.profiles["chat-pool"].models == ("openai/gpt-4o-mini", "deepseek/deepseek-chat")
    assert table.aliases == {"chat": ("profile:chat-pool",)}
    assert table.models["gpt-4o-mini"].provider == "openai"
    assert "the model strangeco/model-1 (of strange)" in notes_of("split")


def test_deployments_that_are_the_same_are_one_and_what_no_surface_serves_is_told() -> None:
    table, told = table_of("twins"), notes_of("twins")
    assert table.aliases["desk"] == ("openai/gpt-4o-mini",)
    assert table.profiles.keys() == {"pair-pool"}
    assert table.profiles["pair-pool"].candidates == (
        ProfileCandidate("openai/gpt-4o", 5),
        ProfileCandidate("anthropic/claude-haiku-4-5", 1),
    )
    assert not {"voice", "chooser"} & {*table.models, *table.aliases}
    for note in (
        "deployments that are the same (of desk, pair): they are one candidate",
        "models of the mode realtime (of voice): no surface here serves it",
        "the model auto_router/house-router (of chooser): ",
        "litellm_params.tags (of desk): ",
        "general_settings.pass_through_endpoints: ",
        "guardrails: ",
    ):
        assert note in told, note


REFUSED: dict[str, tuple[str, str]] = {
    "no YAML": ("model_list: [\n  sk-do-not-copy", "bad.yaml:2: not YAML"),
    "no mapping": ("- 1", "is no mapping"),
    "another file": ("services: {}", "there is no model_list in it"),
    "nothing that can be served": (
        "model_list: [{model_name: a, litellm_params: {model: bedrock/x}}]",
        "bedrock/ models (of a): Amazon signs its requests",
    ),
    "an object of Python's": ("model_list: !!python/object/apply:os.system [true]", "bad.yaml:1: not YAML"),
    "a file that includes itself": ("include: bad.yaml", "includes files more than 8 deep"),
    "a file that includes another that is not there": ("include: [none.yaml]", "none.yaml: cannot be read"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_configuration_is_refused_in_words(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["import", "litellm", str(tmp_path / "bad.yaml")]) == 1
    told = capsys.readouterr()
    assert why in told.err
    assert told.out == ""
    assert "do-not-copy" not in told.err


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "litellm", str(tmp_path / "none.yaml")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_nothing_is_written_over_unless_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "routes.toml"
    there.write_text("mine")
    command = ["import", "litellm", str(CONFIGS["smallest"]), "-o", str(there)]
    assert main(command) == 1
    assert there.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert "gpt-3.5-turbo" in there.read_text()


@pytest.mark.parametrize(("name", "code"), [("clouds", 1), ("smallest", 0)])
def test_strict_fails_where_anything_was_left(name: str, code: int) -> None:
    assert main(["import", "litellm", str(CONFIGS[name]), "--strict"]) == code


# -- whatever a file says ----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "a b", "gpt-4o", "openai/gpt-4o", "x/*", "*", "claude-*", "", 'q"', "auto", "é"])
MODELS = st.sampled_from(
    [
        "gpt-4o",
        "openai/gpt-4o",
        "openai/*",
        "anthropic/claude-x",
        "x",
        "*",
        "claude-*",
        "bedrock/y",
        "ollama/z:1",
        "xai/",
    ]
)
NUMBERS = st.one_of(st.none(), st.integers(-2, 10**12), st.floats(allow_nan=True), st.text(max_size=3), st.booleans())
PARAMETERS = st.fixed_dictionaries(
    {"model": MODELS},
    optional={
        "api_key": st.sampled_from(["os.environ/KEY", "sk-1", "none", "", 7, "os.environ/not a name"]),
        "api_base": st.sampled_from(
            ["http://h:1/v1", "x", "os.environ/BASE", "http://10.0.0.1", "http://[", "https://a.b/?q"]
        ),
        "rpm": NUMBERS,
        "weight": NUMBERS,
        "order": NUMBERS,
        "timeout": NUMBERS,
        "input_cost_per_token": NUMBERS,
        "output_cost_per_token": NUMBERS,
        "extra_headers": st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    },
)
ENTRIES = st.lists(st.fixed_dictionaries({"model_name": NAMES, "litellm_params": PARAMETERS}), max_size=6)
CHAINS = st.lists(st.dictionaries(NAMES, st.lists(NAMES, max_size=3), max_size=2), max_size=2)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "fallbacks": CHAINS,
        "default_fallbacks": st.lists(NAMES, max_size=2),
        "model_group_alias": st.dictionaries(NAMES, NAMES, max_size=3),
        "num_retries": NUMBERS,
        "timeout": NUMBERS,
        "cooldown_time": NUMBERS,
        "allowed_fails": NUMBERS,
        "max_budget": NUMBERS,
        "routing_strategy": st.sampled_from(["simple-shuffle", "cost-based-routing", "least-busy"]),
    },
)


@example([{"model_name": "a", "litellm_params": {"model": "gpt-4o"}}], {"max_budget": 1_000_000_001.0})
@example(
    [{"model_name": name, "litellm_params": {"model": "gpt-4o"}} for name in ("a", "x/*")],
    {"fallbacks": [{"a": ["x/*"]}]},
)
@example([{"model_name": "*", "litellm_params": {"model": "openai/*"}}], {"model_group_alias": {"a": ""}})
@given(ENTRIES, SETTINGS)
def test_whatever_the_file_says_the_table_is_good_or_there_is_none(
    entries: list[object], router: dict[str, object]
) -> None:
    text = yaml.safe_dump({"model_list": entries, "router_settings": router})
    try:
        imported = import_config("config.yaml", lambda name: text.encode())
    except NoConfig:
        return
    load_table(imported.text.encode(), env={})


@given(
    st.dictionaries(
        st.text(), st.recursive(st.text() | st.integers(-9, 10**9) | st.booleans(), st.lists, max_leaves=4), min_size=1
    )
)
def test_text_that_is_written_is_read_again(entries: dict[str, object]) -> None:
    assert parse_toml(write({"section": entries}).encode()) == {"section": entries}
