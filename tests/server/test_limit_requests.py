"""Limits over HTTP: who is let through, what the others are told, and that streams count until they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from gateway import Start, chain, provider, settles
from keyed import make
from limited import inline, stopped
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import ScriptedUpstream, head, plain, streamed

AT_ONCE = 200


LIMITS: dict[str, tuple[dict[str, int], str, bool]] = {  # what holds three, on what, while they run or after
    "requests per minute of a key": ({"rpm": 3}, "key", True),
    "requests at a time of a key": ({"parallel": 3}, "key", False),
    "tokens per minute of a key": ({"tpm": 3 * 53}, "key", False),  # 3 to read and 50 to write
    "requests per minute of a project": ({"rpm": 3}, "project", True),
    "requests at a time of a project": ({"parallel": 3}, "project", False),
    "tokens per minute of a project": ({"tpm": 3 * 53}, "project", False),
    "requests per minute of a model": ({"rpm": 3}, "model", True),
    "requests at a time of a model": ({"parallel": 3}, "model", False),
    "tokens per minute of a model": ({"tpm": 3 * 53}, "model", False),
}


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "streams"])
@pytest.mark.parametrize(("limits", "scope", "by_time"), LIMITS.values(), ids=LIMITS)
async def test_of_200_at_once_exactly_those_pass_that_the_limit_holds(
    limits: dict[str, int], scope: str, by_time: bool, stream: bool, start: Start, upstream: ScriptedUpstream
) -> None:
    release = asyncio.Event()
    answer = streamed(CHAT.stream("Hello.")) if stream else plain(CHAT.answer("Hello."))
    upstream.plays([release, *answer])
    of_model = inline(limits) if scope == "model" else ""
    table = provider("first", upstream, models={"first": of_model})
    gw = await start(table + "[projects.x]\n" + (inline(limits) if scope == "project" else ""))
    clock = stopped(gw)
    wanted = {"limits": limits} if scope == "key" else {}
    keys = [await make(gw, f"k{n}", project="x", **wanted) for n in range(1 if scope == "key" else 4)]

    async def one(n: int) -> Any:
        return await gw.ask(stream=stream, max_tokens=50, headers=keys[n % len(keys)].bearer)

    asked = [asyncio.ensure_future(one(n)) for n in range(AT_ONCE)]
    await upstream.asked(3)
    await settles(lambda: sum(task.done() for task in asked) == AT_ONCE - 3)
    release.set()
    answers = await asyncio.gather(*asked)
    assert Counter(answer.status for answer in answers) == {200: 3, 429: AT_ONCE - 3}
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["Retry-After"]) == (60 if by_time else 1)
    error = refused.json["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert f"The limit of the {scope}" in error["message"]
    await gw.quiet()
    after = (await one(0)).status
    clock.value += 60
    assert (after, (await one(0)).status) == (429 if by_time else 200, 200)
    await gw.quiet()
    assert gw.app is not None
    assert {(meter.running, meter.reserved) for meter in gw.app.books.meters.values()} == {(0, 0)}


NAMES = {
    "openai-chat": ("x-ratelimit-{0}-requests", "x-ratelimit-{0}-tokens"),
    "anthropic": ("anthropic-ratelimit-requests-{0}", "anthropic-ratelimit-tokens-{0}"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
@pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)
async def test_every_answer_tells_what_is_left_in_the_words_of_its_surface(
    tongue: Tongue, stream: bool, start: Start, upstream: ScriptedUpstream
) -> None:
    theirs: dict[str, Any] = {"x_ratelimit_remaining_requests": "77", "anthropic_ratelimit_requests_remaining": "77"}
    stream_head = head(200, "text/event-stream", Transfer_Encoding="chunked", **theirs)
    whole = plain(tongue.answer("Hello."), **theirs)
    upstream.plays(streamed(tongue.stream("Hello."), stream_head=stream_head) if stream else whole)
    gw = await start(provider("first", upstream, tongue))
    stopped(gw)
    free, key = await make(gw, "free"), await make(gw, limits={"rpm": 2, "tpm": 1000})
    requests, tokens = NAMES[tongue.name]
    assert (await gw.ask(tongue, stream=stream, headers=free.bearer)).headers[requests.format("remaining")] == "77"
    first = await gw.ask(tongue, stream=stream, max_tokens=50, headers=key.bearer)
    await gw.quiet()
    second = await gw.ask(tongue, "no-such-model", headers=key.bearer)
    third = await gw.ask(tongue, stream=stream, max_tokens=50, headers=key.bearer)
    assert [answer.status for answer in (first, second, third)] == [200, 404, 429]
    for answer, left in ((first, "1"), (second, "0"), (third, "0")):
        assert answer.headers[requests.format("limit")] == "2"
        assert answer.headers[requests.format("remaining")] == left
        assert answer.headers[tokens.format("limit")] == "1000"
    assert int(first.headers[tokens.format("remaining")]) == 1000 - 53  # reserved while it runs
    assert 1000 - 53 < int(third.headers[tokens.format("remaining")]) < 1000  # what it took
    reset = third.headers[requests.format("reset")]
    assert reset == "1m0s" if tongue is CHAT else datetime.fromisoformat(reset)
    assert "Retry-After" in third.headers


async def test_answers_that_count_for_no_limit_tell_what_is_left_too(start: Start, upstream: ScriptedUpstream) -> None:
    """And those of requests that could not be read."""
    gw = await start(provider("first", upstream))
    key = await make(gw, limits={"rpm": 9})
    anthropic = {**key.bearer, "anthropic-version": "2023-06-01"}
    for name, got in {
        "x-ratelimit-remaining-requests": [
            await gw.get(f"{gw.base}/v1/models", key.bearer),
            await gw.get(f"{gw.base}/v1/models/first", key.bearer),
            await gw.get(f"{gw.base}/v1/models/nobody", key.bearer),
            await gw.post("/v1/route", CHAT.request(), key.bearer),
            await gw.post("/v1/route", b"{", key.bearer),
        ],
        "anthropic-ratelimit-requests-remaining": [await gw.get(f"{gw.base}/v1/models", anthropic)],
    }.items():
        assert [answer.headers.getall(name) for answer in got] == [["9"]] * len(got)
    unreadable = await gw.post("/v1/chat/completions", b"{", key.bearer)
    assert (unreadable.status, unreadable.headers["x-ratelimit-remaining-requests"]) == (400, "8")
    strange = await gw.post("/v1/chat/completions", b"x=1", {**key.bearer, "Content-Type": "text/plain"})
    assert (strange.status, strange.headers["x-ratelimit-remaining-requests"]) == (415, "7")
    assert "x-ratelimit-limit-requests" not in (await gw.get(f"{gw.base}/v1/models")).headers


async def test_what_a_refused_request_had_reserved_is_told_as_left(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.error("server_error", "down"), 503))
    gw = await start(provider("first", upstream, models={"first": "price = { input = 1, output = 1 }"}))
    poor = await make(gw, limits={"tpm": 10_000}, budget={"limit": "0.000001"})
    spent = await gw.ask(headers=poor.bearer)
    rich = await make(gw, limits={"tpm": 10_000})
    failed = await gw.ask(headers=rich.bearer)
    assert (spent.status, failed.status) == (402, 503)
    for answer in (spent, failed):
        assert answer.headers["x-ratelimit-remaining-tokens"] == "10000"


@pytest.mark.parametrize("limits", [{"rpm": 1}, {"tpm": 60}], ids=["of requests", "of tokens"])
async def test_who_is_refused_for_a_limit_has_a_record_that_says_so(
    limits: dict[str, int], start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    key = await make(gw, limits=limits)
    answers = [await gw.ask(max_tokens=55, headers=key.bearer) for _ in range(2)]
    rows = [await gw.row(answer.request_id) for answer in answers]
    told = [(row["status"], row["outcome"], row["key_id"], len(row["attempts"])) for row in rows]
    assert told == [(200, "ok", key.id, 1), (429, "rate_limit_exceeded", key.id, 0)]
    assert rows[1]["charged_nanos"] == 0


async def test_a_limited_model_is_passed_over_for_the_next(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("first")))
    second.plays(plain(CHAT.answer("second")))
    table = provider("first", upstream, models={"first": "limits = { rpm = 1 }"}) + provider("second", second)
    gw = await start(table + chain("first", "second"))
    answers = [await gw.ask(model="profile:chain") for _ in range(2)]  # without keys, too
    assert [answer.headers["X-Nyuro-Model"] for answer in answers] == ["first", "second"]
    assert answers[1].headers["X-Nyuro-Fallback-Used"] == "true"


async def test_a_models_limits_and_price_hold_by_whatever_name_it_is_asked_for(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    terms = 'native = "gpt-9"\nlimits = { rpm = 2 }\nprice = { input = 1, output = 10 }'
    table = provider("first", upstream, models={"own": terms}, more='models = ["gpt-*"]')
    gw = await start(table.replace('native = "native-of-own"\n', ""))
    key = await make(gw, budget={"limit": 1})  # which takes nothing of unknown price
    answers = [await gw.ask(model=name, headers=key.bearer) for name in ("own", "gpt-9", "first/gpt-9")]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert "The limit of the model own is reached" in answers[2].json["error"]["message"]
    assert [row["cost_nanos"] for row in await gw.rows(3)] == [27_000, 27_000, None]
    assert upstream.seen[1].json["model"] == "gpt-9"


async def test_a_request_larger_than_any_minute_is_refused_clearly(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream, MESSAGES))
    key = await make(gw, limits={"tpm": 2})
    answer = await gw.ask(MESSAGES, headers=key.bearer)
    assert answer.status == 429
    assert answer.json["error"]["type"] == "rate_limit_error"


async def test_what_a_stream_took_counts_when_it_ends(start: Start, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()
    upstream.plays(streamed([*CHAT.stream("Hello.")[:2], go_on, *CHAT.stream("Hello.")[2:]]))
    gw = await start(provider("first", upstream))
    clock = stopped(gw)
    key = await make(gw, limits={"tpm": 60})
    client = await gw.connect()
    await client.request(CHAT, CHAT.request("first", stream=True, max_tokens=50), f"Authorization: Bearer {key.whole}")
    await client.until(b"Hello.")
    clock.value += 3600
    assert (await gw.ask(max_tokens=50, headers=key.bearer)).status == 429
    go_on.set()
    await client.until(b"[DONE]")
    await gw.quiet()
    assert gw.app is not None
    meter = gw.app.books.meters[f"key:{key.id}"]
    assert meter.reserved == 0
    assert 0 < meter.tokens.used < 60
