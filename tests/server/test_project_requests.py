"""Requests of a key that belongs to a project."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import Running, Start, chain, provider
from keyed import Made, make
from playbook import CHAT, MESSAGES
from upstream import ScriptedUpstream, plain

BOTH = '[projects.x]\nproviders = ["second"]\n'


async def keyed(start: Start, table: str, project: str = "x") -> tuple[Running, Made]:
    gw = await start(table)
    return gw, await make(gw, project=project)


async def test_a_fallback_stays_within_the_project(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    second.plays(plain({"error": {"message": "down", "type": "server_error"}}, 503))
    table = provider("first", upstream) + provider("second", second) + chain("second", "first") + BOTH
    gw, key = await keyed(start, table)
    answer = await gw.ask(model="profile:chain", headers=key.bearer)
    assert answer.status == 503
    assert upstream.seen == []
    row = await gw.row(answer.request_id)
    assert (row["project"], row["key_id"]) == ("x", key.id)
    assert {(gone["model"], gone["step"]) for gone in row["plan"]["dropped"]} == {("first", "policy")}


async def test_what_the_project_may_not_use_is_a_403_and_not_listed(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    table = (
        provider("first", upstream) + provider("second", second) + BOTH + '[aliases]\nold = "first"\nnew = "second"\n'
    )
    gw, key = await keyed(start, table)
    answer = await gw.ask(MESSAGES, headers=key.bearer)
    assert answer.status == 403
    assert answer.json["error"]["type"] == "permission_error"
    listed = (await gw.get(f"{gw.base}/v1/models", key.bearer)).json["data"]
    assert {entry["id"] for entry in listed} == {"second", "new", "auto"}
    assert (await gw.get(f"{gw.base}/v1/models/first", key.bearer)).status == 404
    assert (await gw.get(f"{gw.base}/v1/models/old", key.bearer)).status == 404
    assert (await gw.get(f"{gw.base}/v1/models/second", key.bearer)).status == 200
    plan = (await gw.post("/v1/route", CHAT.request("first"), key.bearer)).json
    assert plan["error"]["code"] == "not_allowed"


DEFAULTS = """
[projects.x]
profile = "chain"
max_price = 0.000001
headers = { X-Nyuro-Sort = "price", OpenAI-Beta = "assistants=v2" }
timeouts = { answer = "7s" }
"""


async def test_a_projects_defaults_hold_where_the_request_is_silent(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    dear = {"first": "price = { input = 1, output = 1 }"}
    cheap = {"second": "price = { input = 0.0001, output = 0.0001 }"}
    second.plays(plain(CHAT.answer("Hello.")))
    upstream.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream, models=dear) + provider("second", second, models=cheap)
    gw, key = await keyed(start, table + chain("first", "second") + DEFAULTS)
    request: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    answer = await gw.post("/v1/chat/completions", request, key.bearer)
    assert answer.status == 200
    assert answer.headers["X-Nyuro-Model"] == "second"
    row = await gw.row(answer.request_id)
    assert row["profile"] == "chain"
    assert "sorted by price" in row["plan"]["reason"]
    assert {gone["model"]: gone["step"] for gone in row["plan"]["dropped"]} == {"first": "price"}
    assert second.seen[0].headers["openai-beta"] == "assistants=v2"
    assert "x-nyuro-sort" not in second.seen[0].headers
    own = {**key.bearer, "X-Nyuro-Max-Price": "1", "X-Nyuro-Sort": "quality", "OpenAI-Beta": "mine"}
    answer = await gw.post("/v1/chat/completions", {**request, "model": "first"}, own)
    assert answer.headers["X-Nyuro-Model"] == "first"
    assert upstream.seen[0].headers["openai-beta"] == "mine"


async def test_a_projects_default_gives_way_to_the_body(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    rated = {"first": "quality = 1\nprice = { input = 1, output = 1 }"}
    better = {"second": "quality = 2\nprice = { input = 9, output = 9 }"}
    defaults = """
[projects.x]
profile = "chain"
headers = { X-Nyuro-Sort = "price", X-Nyuro-Max-Price = "0", X-Nyuro-Models = "first", X-Nyuro-Profile = "chain" }
"""
    table = provider("first", upstream, models=rated) + provider("second", second, models=better)
    gw, key = await keyed(start, table + chain("first", "second") + defaults)

    async def planned(**body: Any) -> Any:
        request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **body}
        plan = (await gw.post("/v1/route", request, key.bearer)).json
        return plan["requested"], [pick["model"] for pick in plan["candidates"]]

    assert await planned() == ("profile:chain,first", [])
    assert await planned(max_price=1) == ("profile:chain,first", ["first", "second"])
    assert await planned(max_price=1, sort="quality") == ("profile:chain,first", ["second", "first"])
    assert await planned(max_price=1, model="second") == ("second,first", ["first", "second"])
    assert await planned(max_price=1, models=["second"]) == ("second", ["second"])
    assert await planned(max_price=1, models=["first"], model="second", provider={"sort": "quality"}) == (
        "second,first", ["second", "first"],
    )  # fmt: skip


@pytest.mark.parametrize("default", ["max_price = 0.0001", 'headers = { X-Nyuro-Max-Price = "0.0001" }'])
async def test_a_suffix_is_the_requests_own_word_and_wins_over_the_projects_ceiling(
    default: str, start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    priced = "price = { input = 1, output = 10 }"
    table = provider("first", upstream, models={"first": priced}) + provider(
        "second", second, models={"second": priced}
    )
    aliases = '[aliases]\ndear = "first;max_price:1"\n'
    gw, key = await keyed(start, f"{table}{aliases}[projects.x]\n{default}\n")

    async def planned(*models: str) -> list[str]:
        request = CHAT.request(models[0], max_tokens=100, models=models[1:])
        return [pick["model"] for pick in (await gw.post("/v1/route", request, key.bearer)).json["candidates"]]

    assert await planned("first") == []
    assert await planned("first;max_price:1") == ["first"]
    assert await planned("first;max_price:0.0001") == []
    assert await planned("first;max_price:1", "second") == ["first"]  # each entry for itself
    assert await planned("dear") == []  # the table's word, not the request's


async def test_a_suffix_is_the_requests_own_word_and_wins_over_the_projects_sort(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    dear = {"first": "quality = 90\nprice = { input = 9, output = 9 }"}
    cheap = {"second": "quality = 10\nprice = { input = 1, output = 1 }"}
    table = provider("first", upstream, models=dear) + provider("second", second, models=cheap)
    project = '[projects.x]\nheaders = { X-Nyuro-Sort = "price" }\n'
    gw, key = await keyed(start, table + chain("first", "second") + project)
    for name, order in (("profile:chain", "second first"), ("profile:chain;sort:quality", "first second")):
        plan = (await gw.post("/v1/route", CHAT.request(name), key.bearer)).json
        assert [pick["model"] for pick in plan["candidates"]] == order.split()


async def test_a_key_of_a_project_that_is_gone_is_refused_clearly(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream)
    gw, key = await keyed(start, table + "[projects.x]\n")
    assert (await gw.ask(headers=key.bearer)).status == 200
    gw.config.write_text(gw.config.read_text().replace("[projects.x]", "[projects.y]"))
    assert gw.app is not None
    assert (await gw.app.reloader.reload())[0]
    answer = await gw.ask(headers=key.bearer)
    assert answer.status == 403
    assert "belongs to the project x, which the table does not have" in answer.json["error"]["message"]


@pytest.mark.parametrize("local", [False, True])
async def test_traffic_bound_to_stay_never_leaves(local: bool, start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream, more=f"local = {str(local).lower()}") + "[projects.x]\nlocal_only = true\n"
    gw, key = await keyed(start, table)
    answer = await gw.ask(headers={**key.bearer, "X-Nyuro-Key-first": "canary-own-key-0001"})
    assert answer.status == (200 if local else 403)
    assert len(upstream.seen) == local
