"""Budgets over HTTP: what is let through, what it is charged, and that the ledger agrees to the nano-dollar."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gateway import Running, Start, chain, gateway, provider, settles
from keyed import Made, make
from ledger_sums import leases, spent
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import CUT, SILENCE, Script, ScriptedUpstream, head, plain, streamed

PRICE = "price = { input = 1, output = 100 }"
PRICED = {"first": PRICE}
AT_ONCE = 200


async def reserve_of(gw: Running, key: Made, **more: Any) -> int:
    """What a request with so many tokens reserves, in nano-USD: from the dry run's own worst case."""
    plan = (await gw.post("/v1/route", CHAT.request("first", **more), key.bearer)).json
    nanos: float = plan["candidates"][0]["cost_max_usd"] * 1e9
    return round(nanos)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
@pytest.mark.parametrize("scope", ["key", "project"])
async def test_of_200_at_once_exactly_those_pass_that_the_budget_holds(
    scope: str, stream: bool, start: Start, upstream: ScriptedUpstream
) -> None:
    release = asyncio.Event()
    answer = streamed(CHAT.stream("Hello.")) if stream else plain(CHAT.answer("Hello."))
    upstream.plays([release, *answer])
    limit = {"first": f"{PRICE}"}
    table = provider("first", upstream, models=limit)
    probe = await start(table)
    nanos = await reserve_of(probe, await make(probe), max_tokens=50)
    three = f"{3.5 * nanos / 1e9:.9f}"
    assert probe.app is not None
    probe.config.write_text(
        probe.config.read_text() + f"\n[projects.x]\nbudget = {{ limit = {three if scope == 'project' else 9} }}\n"
    )
    assert (await probe.app.reloader.reload())[0]
    budget = {"limit": three} if scope == "key" else None
    keys = [await make(probe, f"k{n}", project="x", budget=budget) for n in range(1 if scope == "key" else 5)]

    async def one(n: int) -> int:
        key = keys[n % len(keys)]
        return (await probe.ask(stream=stream, max_tokens=50, headers=key.bearer)).status

    asked = [asyncio.ensure_future(one(n)) for n in range(AT_ONCE)]
    await upstream.asked(3)
    await settles(lambda: sum(task.done() for task in asked) == AT_ONCE - 3)
    release.set()
    assert Counter(await asyncio.gather(*asked)) == {200: 3, 402: AT_ONCE - 3}
    await probe.settled()
    sums = spent(probe.state)
    charged = sum(row["charged_nanos"] for row in await probe.rows(AT_ONCE))
    assert sums["project:x"] == charged > 0
    assert probe.app.books.accounts["project:x"].spent == charged
    assert {account.reserved for account in probe.app.books.accounts.values()} == {0}
    if scope == "key":
        assert probe.app.books.accounts[f"key:{keys[0].id}"].spent == charged == sums[f"key:{keys[0].id}"]


WRITTEN: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # path, what is asked, what is answered
    "completions": (
        "/v1/completions",
        {"prompt": "Say hello.", "max_tokens": 50},
        {"object": "text_completion", "choices": [{"index": 0, "text": "Hello.", "finish_reason": "stop"}]},
    ),
    "several completions": (
        "/v1/completions",
        {"prompt": ["Say hello.", "Say it again."], "max_tokens": 20, "n": 2},
        {"object": "text_completion", "choices": [{"index": 0, "text": "Hello.", "finish_reason": "stop"}]},
    ),
    "pictures": ("/v1/images/generations", {"prompt": "A lamp."}, {"created": 1, "data": [{"b64_json": "aGk="}]}),
    "speech": ("/v1/audio/speech", {"input": "Hello.", "voice": "alloy"}, {"object": "speech"}),
    "embeddings": (
        "/v1/embeddings",
        {"input": "Hello."},
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]},
    ),
}
SERVING = 'endpoints = ["chat", "completions", "embeddings", "images", "audio"]'


@pytest.mark.parametrize(("path", "asked", "answered"), WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("bound", ["budget", "tokens per minute"])
async def test_what_is_no_conversation_reserves_what_it_may_write_as_well(
    bound: str,
    path: str,
    asked: dict[str, Any],
    answered: dict[str, Any],
    start: Start,
    upstream: ScriptedUpstream,
) -> None:
    release = asyncio.Event()
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    upstream.plays([release, *plain({**answered, "usage": usage})])
    gw = await start(provider("first", upstream, models=PRICED, more=SERVING))
    body = {"model": "first", **asked}
    reads = path == "/v1/embeddings"
    plan = (await gw.post(f"/v1/route?surface={path.split('/')[2]}", body)).json
    writes = 0 if reads else asked.get("max_tokens", 4096) * asked.get("n", 1) * (2 if "n" in asked else 1)
    nanos = plan["tokens_estimated"] * 1_000 + writes * 100_000
    tokens = plan["tokens_estimated"] + writes
    limited: dict[str, Any] = {"limits": {"tpm": round(3.5 * tokens)}}
    budgeted: dict[str, Any] = {"budget": {"limit": f"{3.5 * nanos / 1e9:.9f}"}}
    key = await make(gw, **(budgeted if bound == "budget" else limited))
    posted = [asyncio.ensure_future(gw.post(path, body, key.bearer)) for _ in range(20)]
    await upstream.asked(3)
    await settles(lambda: sum(task.done() for task in posted) == 17)
    release.set()
    statuses = Counter([(await answer).status for answer in posted])
    assert statuses == {200: 3, (402 if bound == "budget" else 429): 17}


async def test_failures_and_clients_that_leave_give_back_what_they_did_not_use(
    start: Start, upstream: ScriptedUpstream
) -> None:
    """Rounds of calls that succeed, fail before and after the commit, are cut and abandoned: afterwards nothing is
    reserved, and memory, sums and rows agree."""
    gw = await start(provider("first", upstream, models=PRICED))
    key = await make(gw, budget={"limit": 1})
    scripts: list[Script] = [
        plain(CHAT.answer("Hello.")),
        plain({"error": {"message": "no", "type": "invalid_request_error"}}, 400),
        streamed(CHAT.stream("Hello.")),
        [*streamed(CHAT.stream("Hello.")[:2], last=False), CUT],
        [head(200, Content_Length=999) + b'{"id":', CUT],
        [*streamed([CHAT.start], last=False), SILENCE],
        [SILENCE],
    ]
    upstream.plays(*scripts * 3)
    for n in range(len(scripts) * 3):
        script = scripts[n % len(scripts)]
        stream = len(upstream.seen) % len(scripts) in (2, 3, 5, 6)
        if SILENCE not in script:
            await gw.ask(stream=stream, max_tokens=50, headers=key.bearer)
            continue
        client = await gw.connect()
        await client.request(CHAT, CHAT.request("first", stream=True), f"Authorization: Bearer {key.whole}")
        await upstream.asked(n + 1)
        client.leave()
    await gw.quiet()
    rows = await gw.rows(len(scripts) * 3)
    assert gw.app is not None
    account = gw.app.books.accounts[f"key:{key.id}"]
    assert account.reserved == 0
    assert account.spent == sum(row["charged_nanos"] for row in rows) == spent(gw.state)[f"key:{key.id}"]
    assert len({row["outcome"] for row in rows}) >= 4
    for row in rows:
        known = [attempt["cost_nanos"] for attempt in row["attempts"] if attempt["cost_nanos"] is not None]
        if row["cost_nanos"] is not None:
            assert row["cost_nanos"] == sum(known)
        assert row["estimated"] or row["charged_nanos"] == (row["cost_nanos"] or 0)


@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_a_spent_budget_is_a_402_with_spend_and_limit_and_nobody_is_asked(
    tongue: Tongue, start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(tongue.answer("Hello.")))
    gw = await start(provider("first", upstream, tongue, models=PRICED))
    key = await make(gw, budget={"limit": "0.01", "period": "monthly"})
    first = await gw.ask(tongue, max_tokens=50, headers=key.bearer)
    assert first.status == 200
    assert float(first.headers["X-Nyuro-Cost"]) > 0
    refused = await gw.ask(tongue, max_tokens=100_000, headers=key.bearer)  # reserves 4,096 of them
    assert refused.status == 402
    assert refused.headers["x-should-retry"] == "false"
    error = refused.json["error"]
    assert error["type"] == ("insufficient_quota" if tongue is CHAT else "billing_error")
    assert f"The monthly budget of the key {key.id} is 0.01 USD" in error["message"]
    assert f"of which {first.headers['X-Nyuro-Cost']} USD are spent" in error["message"]
    assert len(upstream.seen) == 1
    row = await gw.row(refused.request_id)
    assert (row["status"], row["outcome"], row["attempts"], row["charged_nanos"]) == (402, "insufficient_quota", [], 0)


async def test_a_fallback_that_the_budget_does_not_hold_is_not_asked(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain({"error": {"message": "down", "type": "server_error"}}, 503))
    table = provider("first", upstream, models={"first": "price = { input = 0.1, output = 0.1 }"})
    table += provider("second", second, models={"second": PRICE}) + chain("first", "second") + "[retry]\ntries = 1\n"
    gw = await start(table)
    key = await make(gw, budget={"limit": "0.001"})
    answer = await gw.ask(model="profile:chain", max_tokens=1000, headers=key.bearer)
    assert answer.status == 503
    assert second.seen == []


async def test_a_budget_takes_no_model_of_unknown_price_unless_it_says_so(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    strict, lax = await make(gw, budget={"limit": 1}), await make(gw, "lax", budget={"limit": 1, "unpriced": "allow"})
    refused = await gw.ask(headers=strict.bearer)
    assert refused.status == 403
    assert "its price is unknown" in refused.json["error"]["message"]
    assert (await gw.ask(headers=lax.bearer)).status == 200
    row = (await gw.rows(1))[0]
    assert (row["cost_nanos"], row["charged_nanos"]) == (None, 0)


async def test_a_stream_that_outgrows_its_reservation_is_finished_and_holds_others_back(
    start: Start, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    long = [CHAT.start, *[CHAT.text("x" * 150) for _ in range(60)]]
    upstream.plays(streamed([*long, go_on, CHAT.finish, CHAT.end]))
    gw = await start(provider("first", upstream, models=PRICED), "reserve_output = 10")
    key = await make(gw, budget={"limit": "0.002"})
    assert gw.app is not None
    account = None
    client = await gw.connect(limit=1 << 20)
    await client.request(CHAT, CHAT.request("first", stream=True), f"Authorization: Bearer {key.whole}")
    await client.until(b"x" * 150)
    account = gw.app.books.accounts[f"key:{key.id}"]
    assert account is not None
    await settles(lambda: account.reserved > 3_000_000)  # 10 tokens would be 1,000,000
    assert (await gw.ask(headers=key.bearer)).status == 402
    go_on.set()
    await client.until(b"[DONE]")
    await gw.quiet()
    assert account.reserved == 0


async def test_with_the_callers_own_key_the_budget_is_left_alone(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, models=PRICED))
    key = await make(gw, budget={"limit": "0.000001"})
    own = {**key.bearer, "X-Nyuro-Key-first": "canary-own-key-0001"}
    assert (await gw.ask(headers=own)).status == 200
    assert (await gw.ask(headers=key.bearer)).status == 402


TERMS: dict[str, tuple[str, int]] = {  # what the table says next of the project, and what the next request gets
    "less than is spent": ("budget = { limit = 0.000001 }", 402),
    "more": ("budget = { limit = 1 }", 200),
    "nothing": ("", 200),
    "what is spent without a budget counts in one": ("budget = { limit = 0.000001 }", 402),
    "another period": ('budget = { limit = 1, period = "daily" }', 200),
    "none at all": ("budget = { limit = 0 }", 402),
    "a limit beside it": ("budget = { limit = 1 }\nlimits = { rpm = 1 }", 200),
    "the limit is reached": ("budget = { limit = 1 }\nlimits = { rpm = 1 }", 429),
    "the limit is gone": ("budget = { limit = 1 }", 200),
}


async def test_a_changed_budget_holds_from_the_next_request_on_and_forgets_nothing(
    start: Start, upstream: ScriptedUpstream
) -> None:
    """A stream that runs all the while is settled in the end, once, whatever was said in between."""
    go_on, words = asyncio.Event(), CHAT.stream("Hello.")
    upstream.plays(streamed([*words[:2], go_on, *words[2:]]), plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, models=PRICED) + "[projects.x]\nbudget = { limit = 1 }\n")
    assert gw.app is not None
    text = gw.config.read_text()
    key = await make(gw, project="x")
    client = await gw.connect()
    await client.request(CHAT, CHAT.request("first", stream=True), f"Authorization: Bearer {key.whole}")
    await client.until(b"Hello.")
    assert (await gw.ask(headers=key.bearer)).status == 200
    for what, (terms, status) in TERMS.items():
        gw.config.write_text(text.replace("budget = { limit = 1 }", terms))
        assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
        assert (await gw.ask(headers=key.bearer)).status == status, what
    go_on.set()
    await client.until(b"[DONE]")
    await gw.quiet()
    await gw.settled()
    account = gw.app.books.accounts["project:x"]
    assert (account.spent, account.reserved) == (spent(gw.state)["project:x"], 0)
    assert len(upstream.seen) == 2 + sum(status == 200 for _, status in TERMS.values())
    assert {(meter.running, meter.reserved) for meter in gw.app.books.meters.values()} == {(0, 0)}


async def test_whoever_has_an_answer_finds_what_its_key_has_spent(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.answers(lambda _: plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, models=PRICED))
    key = await make(gw)
    before = 0.0
    for path in (f"/admin/keys/{key.id}", "/admin/keys") * 3:
        assert (await gw.ask(headers=key.bearer)).status == 200
        told = (await gw.over_socket("GET", path)).json
        spends = float((told["data"][0] if "data" in told else told)["spent_usd"])
        assert spends > before
        before = spends


# -- what outlives the process -----------------------------------------------------------------------------------


async def test_spend_survives_a_restart(home: Path, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream, models=PRICED) + '[projects.x]\nbudget = { limit = 5, period = "daily" }\n'
    async with gateway(table, home) as gw:
        key = await make(gw, project="x", budget={"limit": 1, "period": "monthly"})
        for _ in range(3):
            assert (await gw.ask(headers=key.bearer)).status == 200
        assert gw.app is not None
        before = {name: account.spent for name, account in gw.app.books.accounts.items()}
        assert set(before) == {f"key:{key.id}", "project:x"}
    async with gateway(table, home) as gw:
        assert (await gw.ask(headers={"Authorization": "Bearer x"})).status == 401
        shown = (await gw.over_socket("GET", f"/admin/keys/{key.id}")).json
        assert shown["spent_usd"] == shown["budget"]["spent_usd"] != "0"
        assert (await gw.ask(headers=key.bearer)).status == 200
        assert gw.app is not None
        for name, account in gw.app.books.accounts.items():
            assert account.spent > before[name] > 0
        await gw.settled()
        assert spent(gw.state) == {name: account.spent for name, account in gw.app.books.accounts.items()}


async def test_what_a_dead_process_had_reserved_counts_until_its_lease_ends(
    home: Path, upstream: ScriptedUpstream
) -> None:
    upstream.plays([SILENCE])
    table = provider("first", upstream, models=PRICED)
    async with gateway(table, home) as gw:
        key = await make(gw, budget={"limit": 1})
        client = await gw.connect()
        await client.request(CHAT, CHAT.request("first"), f"Authorization: Bearer {key.whole}")
        await upstream.asked(1)
        await settles(lambda: bool(leases(gw.state)))
        ((owner, nanos),) = leases(gw.state).items()
        client.leave()
        await gw.quiet()
        await gw.settled()
        assert leases(gw.state) == {}
        assert gw.app is not None
    async with gateway(table, home) as gw:
        leases(gw.state, f"INSERT INTO leases VALUES ('req_dead', '{key.id}', NULL, {nanos}, {2**52})")
    async with gateway(table, home) as gw:
        assert gw.app is not None
        assert gw.app.books.accounts[f"key:{key.id}"].reserved == nanos
    assert owner == key.id


# -- alerts ------------------------------------------------------------------------------------------------------


async def test_an_alert_is_logged_counted_and_sent_without_holding_anybody_up(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "HOOK_URL", f"{second.root}/hook?token=canary-hook-0001")
    second.plays(plain({}, 500), plain({}))
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, models=PRICED), 'budget_webhook = "${HOOK_URL}"')
    assert gw.app is not None
    gw.app.gateway.alerts.pause = 0.0
    nanos = round(float((await gw.ask()).headers["X-Nyuro-Cost"]) * 1e9)
    key = await make(gw, budget={"limit": f"{nanos * 4 / 1e9:.9f}", "alert": 0.5, "unpriced": "allow"})
    statuses = [(await gw.ask(max_tokens=1, headers=key.bearer)).status for _ in range(3)]
    assert statuses == [200, 200, 200]
    await second.asked(2)
    sent = second.seen[1].json
    assert sent == {
        "event": "budget_alert", "scope": "key", "id": key.id, "percent": 50.0, "spent_usd": sent["spent_usd"],
        "limit_usd": sent["limit_usd"], "period": "none", "period_start": "1970-01-01T00:00:00.000Z",
    }  # fmt: skip
    assert key.whole not in second.seen[0].raw.decode()
    metrics = (await gw.get(f"{gw.admin}/metrics")).body.decode()
    assert 'pointsman_budget_alerts_total{scope="key",percent="50"} 1' in metrics


async def test_a_webhook_that_hangs_drops_alerts_and_nothing_else(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    from proxy.accounts.budget import Alert

    second.plays([SILENCE])
    gw = await start(provider("first", upstream), f'budget_webhook = "{second.root}/hook"')
    assert gw.app is not None
    for _ in range(150):
        gw.app.gateway.alerts.tell(Alert("project:x", 800, 8, 10, "none", 0))
    await second.asked(1)
    metrics = (await gw.get(f"{gw.admin}/metrics")).body.decode()
    assert 'pointsman_webhooks_total{result="dropped"}' in metrics


async def test_a_projects_budget_shows_in_the_metrics_and_to_the_admin(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(MESSAGES.answer("Hello.")))
    table = provider("first", upstream, MESSAGES, models=PRICED) + "[projects.x]\nbudget = { limit = 1 }\n"
    gw = await start(table)
    key = await make(gw, project="x")
    assert (await gw.ask(MESSAGES, headers=key.bearer)).status == 200
    metrics = (await gw.get(f"{gw.admin}/metrics")).body.decode()
    assert 'pointsman_budget_used_ratio{project="x"} 0.00' in metrics
    (shown,) = (await gw.over_socket("GET", "/admin/projects")).json["data"]
    await gw.settled()
    assert (shown["name"], round(float(shown["spent_usd"]) * 1e9)) == ("x", spent(gw.state)["project:x"])
    assert shown["budget"] == {
        "limit_usd": "1", "spent_usd": shown["spent_usd"], "period": "none", "alert": None, "unpriced": "refuse",
    }  # fmt: skip


# -- failures and clients that leave, while the budget is full ----------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
async def test_a_call_that_fails_or_is_left_makes_room_for_exactly_one_of_200_more(
    stream: bool, start: Start, upstream: ScriptedUpstream
) -> None:
    fail, release = asyncio.Event(), asyncio.Event()
    answer = streamed(CHAT.stream("Hello.")) if stream else plain(CHAT.answer("Hello."))
    refused = plain({"error": {"message": "no", "type": "invalid_request_error"}}, 400)
    upstream.plays([SILENCE], [fail, *refused], [release, *answer])
    gw = await start(provider("first", upstream, models=PRICED))
    nanos = await reserve_of(gw, await make(gw), max_tokens=50)
    key = await make(gw, budget={"limit": f"{3.5 * nanos / 1e9:.9f}"})
    leaving = await gw.connect()
    body = CHAT.request("first", stream=stream, max_tokens=50)
    await leaving.request(CHAT, body, f"Authorization: Bearer {key.whole}")
    await upstream.asked(1)
    assert gw.app is not None
    account = gw.app.books.accounts[f"key:{key.id}"]

    async def one() -> int:
        return (await gw.ask(stream=stream, max_tokens=50, headers=key.bearer)).status

    first = [asyncio.ensure_future(one()) for _ in range(AT_ONCE - 1)]
    await upstream.asked(3)
    await settles(lambda: sum(task.done() for task in first) == AT_ONCE - 3)
    assert account.reserved == 3 * nanos
    leaving.leave()
    fail.set()
    await settles(lambda: account.reserved == nanos)
    more = [asyncio.ensure_future(one()) for _ in range(AT_ONCE)]
    await upstream.asked(5)
    await settles(lambda: sum(task.done() for task in more) == AT_ONCE - 2)
    assert account.reserved == 3 * nanos
    release.set()
    assert Counter(await asyncio.gather(*first)) == {200: 1, 400: 1, 402: AT_ONCE - 3}
    assert Counter(await asyncio.gather(*more)) == {200: 2, 402: AT_ONCE - 2}
    await gw.quiet()
    await gw.settled()
    rows = await gw.rows(2 * AT_ONCE)
    assert account.reserved == 0
    assert account.spent == sum(row["charged_nanos"] for row in rows) == spent(gw.state)[f"key:{key.id}"] > 0
    assert len(upstream.seen) == 5
