"""`/v1/messages/count_tokens`: asked of who counts, else estimated, and then nobody is asked."""

from __future__ import annotations

import anthropic
import orjson
import pytest
from gateway import Answer, Running, Start, chain, provider
from playbook import MESSAGES
from upstream import ScriptedUpstream, plain

PRICE = "price = { input = 2, output = 4 }"
COUNT = "/v1/messages/count_tokens"
QUESTION = [{"role": "user", "content": "Say hello." * 4}]


async def counted(running: Running, model: str) -> Answer:
    return await running.post(COUNT, {"model": model, "messages": QUESTION, "sort": "price"})


def two(first: str, second: str) -> str:
    return "[retry]\ntries = 1\n" + first + second + chain("first", "second")


async def test_a_provider_that_counts_is_asked(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(b'{"input_tokens":  14}'))
    running = await start(provider("first", upstream, MESSAGES, models={"first": PRICE}))
    answer = await counted(running, "first")
    assert (answer.status, answer.body) == (200, b'{"input_tokens":  14}')
    assert "estimated" not in answer.headers["X-Nyuro-Route-Reason"]
    seen = await upstream.asked()
    assert (seen.path, seen.json) == (COUNT, {"model": "native-of-first", "messages": QUESTION})
    row = await running.row()
    assert (row["surface"], row["outcome"], row["cost_nanos"]) == ("count_tokens", "ok", 0)


async def test_where_nobody_counts_it_is_estimated_and_nobody_is_asked(
    start: Start, upstream: ScriptedUpstream
) -> None:
    running = await start(provider("first", upstream, models={"first": "context = 1"}))
    answer = await counted(running, "first")
    assert (answer.status, answer.json) == (200, {"input_tokens": 10})
    assert answer.headers["X-Nyuro-Route-Reason"] == "model first; sorted by price; estimated, nobody counted"
    assert (answer.headers["X-Nyuro-Model"], answer.headers["X-Nyuro-Attempts"]) == ("first", "0")
    assert answer.headers["request-id"] == answer.request_id
    assert not upstream.seen
    row = await running.row()
    assert (row["outcome"], row["model"], row["attempts"], row["cost_nanos"]) == ("ok", "first", [], 0)
    assert row["plan"]["reason"].endswith("estimated, nobody counted")


async def test_a_provider_that_fails_to_count_leaves_it_to_the_estimate_of_the_next(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain(MESSAGES.error("overloaded_error", "No."), 529))
    running = await start(two(provider("first", upstream, MESSAGES), provider("second", second)))
    answer = await counted(running, "profile:chain")
    assert (answer.status, answer.json) == (200, {"input_tokens": 10})
    assert (answer.headers["X-Nyuro-Model"], answer.headers["X-Nyuro-Fallback-Used"]) == ("second", "true")
    row = await running.row()
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["upstream_overloaded"]


async def test_a_provider_that_fails_leaves_it_to_the_next_that_counts(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain(b"<html>", content_type="text/html"))
    second.plays(plain({"input_tokens": 14}))
    running = await start(two(provider("first", upstream, MESSAGES), provider("second", second, MESSAGES)))
    assert (await counted(running, "profile:chain")).json == {"input_tokens": 14}


async def test_a_count_moves_no_conversation(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain({"input_tokens": 14}))
    running = await start(two(provider("first", upstream, MESSAGES), provider("second", second, MESSAGES)))
    assert (await counted(running, "profile:chain")).status == 200
    await running.quiet()
    assert running.app is not None
    world = running.app.gateway.current.world
    assert (len(world.affinity), world.latencies.get("first", "first")) == (0, None)


@pytest.mark.parametrize("status", [404, 405])
async def test_a_server_without_the_path_is_estimated(status: int, start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain({"detail": "Not Found"}, status))
    answer = await counted(await start(provider("first", upstream, MESSAGES)), "first")
    assert (answer.status, answer.json) == (200, {"input_tokens": 10})
    assert "estimated" in answer.headers["X-Nyuro-Route-Reason"]


REFUSED = {"an unknown model": (404, "not_found_error"), "a bad request": (400, "invalid_request_error")}


@pytest.mark.parametrize(("status", "kind"), REFUSED.values(), ids=REFUSED)
async def test_what_a_provider_finds_wrong_with_a_request_is_not_estimated(
    status: int, kind: str, start: Start, upstream: ScriptedUpstream
) -> None:
    error = orjson.dumps(MESSAGES.error(kind, "model: claude-nobody"))
    upstream.plays(plain(error, status))
    answer = await counted(await start(provider("first", upstream, MESSAGES)), "first")
    assert (answer.status, answer.body) == (status, error)


async def test_an_error_of_ours_is_told_in_anthropics_words(start: Start, upstream: ScriptedUpstream) -> None:
    answer = await counted(await start(provider("first", upstream)), "no-such-model")
    assert (answer.status, answer.json["type"], answer.json["error"]["type"]) == (404, "error", "not_found_error")


async def test_anthropics_sdk_counts(start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream) -> None:
    upstream.plays(plain({"input_tokens": 14}))
    running = await start(provider("first", upstream, MESSAGES) + provider("second", second))
    async with anthropic.DefaultAsyncHttpxClient(verify=False) as http:
        client = anthropic.AsyncAnthropic(base_url=running.base, api_key="k", max_retries=0, http_client=http)
        asked = {"messages": QUESTION, "system": "Be brief."}
        assert (await client.messages.count_tokens(model="first", **asked)).input_tokens == 14  # type: ignore[arg-type]
        assert (await client.messages.count_tokens(model="second", **asked)).input_tokens == 13  # type: ignore[arg-type]
    assert (await upstream.asked()).path == COUNT
