"""`GET /v1/models`: which entries there are, and what each says."""

from __future__ import annotations

from typing import Any

from gateway import Running, Start, provider
from keyed import make
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from proxy.accounts.vault import OwnKeys

TABLE = """
[profiles.house]
candidates = ["plain", "rich"]
[industries.legal]
models = ["rich"]
"""
RICH = """
context = 9000
max_output = 700
capabilities = ["tools", "parallel_tools", "json", "vision", "files", "thinking"]
"""


async def entries(gw: Running, query: str = "", headers: Any = None) -> dict[str, dict[str, Any]]:
    answer = await gw.get(f"{gw.base}/v1/models{query}", headers)
    return {entry["id"]: entry for entry in answer.json["data"]}


def table(upstream: ScriptedUpstream) -> str:
    return provider("first", upstream, models={"plain": "capabilities = []", "rich": RICH, "dark": ""}) + TABLE


async def test_profiles_are_entries_and_other_directives_where_they_are_asked_for(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(table(upstream))
    listed = await entries(gw)
    assert listed.keys() == {"plain", "rich", "dark", "profile:house", "auto"}
    assert listed["profile:house"]["candidates"] == ["plain", "rich"]
    more = await entries(gw, "?directives=true")
    strategies = {f"strategy:{name}" for name in ("cost", "quality", "latency")}  # nobody is local here
    assert more.keys() - listed.keys() == {"industry:legal", *strategies}
    assert (await gw.get(f"{gw.base}/v1/models/industry:legal")).json["id"] == "industry:legal"


async def test_capabilities_are_told_in_openrouters_words(upstream: ScriptedUpstream, start: Start) -> None:
    listed = await entries(await start(table(upstream)))
    assert listed["rich"]["architecture"] == {
        "input_modalities": ["text", "image", "file"],
        "output_modalities": ["text"],
    }
    assert listed["rich"]["supported_parameters"] == [
        "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning",
    ]  # fmt: skip
    assert listed["rich"]["top_provider"] == {"context_length": 9000, "max_completion_tokens": 700}
    assert listed["plain"]["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    assert listed["plain"]["supported_parameters"] == []


async def test_a_resting_model_says_so(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(f"[retry]\ntries = 1\n{table(upstream)}")
    upstream.plays(*[plain(CHAT.error("overloaded_error", "busy"), 503)] * 3)
    for _ in range(3):
        assert (await gw.ask(CHAT, "plain")).status == 503
    listed = await entries(gw)
    assert (listed["plain"]["state"], listed["rich"]["state"]) == ("cooling", "ready")


async def test_a_model_whose_provider_has_no_key_but_resting_ones_says_so(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(f"[retry]\ntries = 1\n{table(upstream)}")
    upstream.plays(plain(CHAT.error("rate_limit_error", "slow down"), 429, Retry_After=60))
    assert (await gw.ask(CHAT, "plain")).status == 429
    listed = await entries(gw)
    assert {listed[name]["state"] for name in ("plain", "rich")} == {"cooling"}


NAMES = """
[aliases]
dead = ["unlit", "dark/other"]
deep = "dead"
lit = ["unlit", "plain"]
far = "lit"
own = "first/other"
spread = "gpt-9"
cheap = "strategy:cost"
house = "strategy:local"
law = "industry:legal"
[industries.legal]
models = ["rich"]
[industries.night]
models = ["unlit"]
[profiles.night]
candidates = ["dead", "industry:night"]
[profiles.day]
candidates = ["dead", "far;sort:price"]
[providers.dark]
dialects = ["openai-chat"]
base_url = "http://dark.test/v1"
api_key = "${NO_SUCH_KEY_IS_SET}"
[models.unlit]
provider = "dark"
"""


async def test_a_name_that_leads_nowhere_is_not_listed(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream, models={"plain": "", "rich": ""}, more='models = ["gpt-*"]') + NAMES)
    listed = await entries(gw, "?directives=true")
    leading = {"lit", "far", "own", "spread", "cheap", "law", "profile:day", "auto", "industry:legal"}
    assert listed.keys() == {
        "plain",
        "rich",
        *leading,
        *(f"strategy:{name}" for name in ("cost", "quality", "latency")),
    }
    for name in ("dead", "unlit", "house", "profile:night", "industry:night", "strategy:local"):
        assert (await gw.get(f"{gw.base}/v1/models/{name}")).json["id"] == name
    for name in ("dead", "profile:night", "house"):
        assert (await gw.ask(CHAT, name)).status in (404, 503)


async def test_decisions_are_found_by_what_chose(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(table(upstream))
    upstream.plays(plain(CHAT.answer("one")), plain(CHAT.answer("two")))
    await gw.ask(CHAT, "plain")
    asked = await gw.ask(CHAT, "profile:house")
    await gw.rows(2)
    found = await gw.over_socket("GET", "/admin/decisions?profile=house")
    assert [row["request_id"] for row in found.json["data"]] == [asked.request_id]


# -- keys that are not the house's ---------------------------------------------------------------------------------

LENT = """
master_key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
"""
UNKEYED = """
[aliases]
far = "first"
[projects.team]
[projects.bound]
models = ["other"]
[projects.poor]
"""
STORE = "/admin/projects/{}/providers/first/key"
OWN = {"key": "canary-stored-key-0001"}


async def test_models_of_a_provider_without_a_key_are_listed_to_whom_brings_or_has_stored_one(
    upstream: ScriptedUpstream, start: Start
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, keys=["${NOBODY_SETS_THIS}"]) + UNKEYED, LENT)
    team, bound, poor = [await make(gw, project=name) for name in ("team", "bound", "poor")]
    for project in ("team", "bound"):
        assert (await gw.over_socket("PUT", STORE.format(project), OWN)).status == 201
    assert (await entries(gw, headers=team.bearer)).keys() == {"first", "far", "auto"}
    assert (await entries(gw, headers=team.bearer))["first"]["state"] == "ready"
    assert (await entries(gw, "?directives=true", team.bearer)).keys() >= {"strategy:cost"}
    assert (await gw.ask(headers=team.bearer)).status == 200
    assert (await entries(gw, headers=bound.bearer)).keys() == set()
    without = await entries(gw, headers=poor.bearer)
    assert "first" not in without
    assert "far" not in without
    assert (await gw.get(f"{gw.base}/v1/models/first", poor.bearer)).json["state"] == "not_configured"
    brought = await entries(gw, headers={**poor.bearer, "X-Nyuro-Key-first": "canary-own-key-0001"})
    assert brought.keys() >= {"first", "far"}
    assert (await gw.over_socket("DELETE", STORE.format("team"))).status == 200
    assert "first" not in await entries(gw, headers=team.bearer)


async def test_a_stored_key_that_does_not_open_takes_the_providers_models_from_the_list(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream) + UNKEYED)
    team, poor = await make(gw, project="team"), await make(gw, project="poor")
    assert gw.app is not None
    own: OwnKeys = gw.app.vault.own
    own.replace({}, {"team": frozenset({"first"})})
    assert "first" not in await entries(gw, headers=team.bearer)
    assert "first" in await entries(gw, headers=poor.bearer)
