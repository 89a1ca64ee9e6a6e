"""Claude Code's contract for gateways, point by point: https://code.claude.com/docs/en/llm-gateway-protocol"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from gateway import Start, chain, provider
from playbook import CHAT, MESSAGES, chunk
from upstream import ScriptedUpstream, plain, streamed

from proxy.server import flow

ALIASES = '[aliases]\nclaude-auto = "auto"\nclaude-fast = "first"\n[auto]\nchat = ["first"]\n'
BETAS = "claude-code-20250219,context-management-2025-06-27,oauth-2025-04-20"
# What it sends of late, and a member and a header that nobody has heard of yet.
BODY: dict[str, Any] = {
    "model": "first",
    "max_tokens": 32000,
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.230; cch=00000;"},
        {"type": "text", "text": "You write code.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Fix it."}]}],
    "tools": [{"name": "Read", "input_schema": {"type": "object", "properties": {}}, "defer_loading": True}],
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
    "from_next_year": {"a": 1},
}
HEADERS = {
    "Authorization": "Bearer unused",
    "x-api-key": "unused",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": BETAS,
    "anthropic-from-next-year": "1",
    "x-claude-code-session-id": "5e2a",
    "x-claude-code-agent-id": "a1",
    "x-app": "cli",
}
PATH = "/v1/messages?beta=true"


def native(document: dict[str, Any]) -> bytes:
    return orjson.dumps({**document, "model": "native-of-first"})


async def test_its_probes_are_answered_and_tell_nothing(start: Start, upstream: ScriptedUpstream) -> None:
    gateway = await start(provider("first", upstream))
    for path in ("/", "/api/hello"):
        async with gateway.client.head(gateway.base + path, allow_redirects=False) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert "X-Request-Id" not in answer.headers
    assert not upstream.seen


@pytest.mark.parametrize("credential", [{"Authorization": "Bearer unused"}, {"x-api-key": "unused"}])
@pytest.mark.parametrize("version", [{}, {"anthropic-version": "2023-06-01"}], ids=["bare", "with the version"])
async def test_it_discovers_models_by_id_and_display_name(
    start: Start, upstream: ScriptedUpstream, credential: dict[str, str], version: dict[str, str]
) -> None:
    """With exactly one credential, and perhaps without a word on whose shape it wants."""
    gateway = await start(provider("first", upstream) + ALIASES)
    answer = await gateway.get(f"{gateway.base}/v1/models?limit=1000", {**credential, **version})
    assert answer.status == 200
    listed = {entry["id"]: entry["display_name"] for entry in answer.json["data"]}
    assert listed == {"first": "first", "claude-auto": "claude-auto", "claude-fast": "claude-fast", "auto": "auto"}
    if version:
        assert (answer.json["has_more"], answer.json["first_id"], answer.json["last_id"]) == (False, "first", "auto")
        assert {entry["type"] for entry in answer.json["data"]} == {"model"}


@pytest.mark.parametrize(("model", "reason"), [("claude-auto", "auto"), ("claude-fast", "alias")])
async def test_a_name_that_its_picker_shows_stands_for_any_other(
    start: Start, upstream: ScriptedUpstream, model: str, reason: str
) -> None:
    upstream.plays(plain(MESSAGES.answer("Hi")))
    gateway = await start(provider("first", upstream, MESSAGES) + ALIASES)
    answer = await gateway.post(PATH, {**BODY, "model": model, "stream": False}, HEADERS)
    assert (answer.status, answer.headers["X-Nyuro-Model"]) == (200, "first")
    assert reason in answer.headers["X-Nyuro-Route-Reason"]


async def test_header_and_body_go_to_its_own_api_unchanged_and_together(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streamed(MESSAGES.stream("Hi")))
    gateway = await start(provider("first", upstream, MESSAGES))
    answer = await gateway.post(PATH, BODY, HEADERS)
    assert answer.body == b"".join(MESSAGES.stream("Hi"))
    seen = await upstream.asked()
    assert seen.body == native(BODY)
    passed = {name: value for name, value in seen.headers.items() if name.startswith("anthropic-")}
    assert passed == {name: value for name, value in HEADERS.items() if name.startswith("anthropic-")}
    assert "X-Nyuro-Dropped" not in answer.headers


async def test_to_another_api_both_halves_stay_behind_and_are_named(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(streamed(CHAT.stream("Hi")))
    gateway = await start(provider("first", upstream, CHAT))
    answer = await gateway.post(PATH, BODY, HEADERS)
    assert answer.status == 200
    assert MESSAGES.read_stream(answer.body) == "Hi"
    dropped = set(answer.headers["X-Nyuro-Dropped"].split(","))
    assert {"anthropic-beta", "context_management", "from_next_year", "tools[0].defer_loading"} <= dropped
    seen = await upstream.asked()
    assert not [name for name in seen.headers if name.startswith(("anthropic-", "x-claude-code"))]
    sent = orjson.loads(seen.body)
    assert not {"context_management", "output_config", "thinking", "from_next_year"} & sent.keys()
    assert b"defer_loading" not in seen.body
    assert (await gateway.row())["dropped"] == sorted(dropped) or set((await gateway.row())["dropped"]) == dropped


# Wordings that it recovers from by itself: https://code.claude.com/docs/en/llm-gateway-protocol
REFUSALS = {
    "of a thinking block": "messages.1.content.0: Invalid `signature` in `thinking` block",
    "of adaptive thinking": "thinking.type: Input tag 'adaptive' found using 'type' does not match",
    "of a member": "context_management: Extra inputs are not permitted",
    "of its length": "prompt is too long: 250000 tokens > 200000 maximum",
}


@pytest.mark.parametrize("wording", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_of_its_own_api_keeps_its_bytes(start: Start, upstream: ScriptedUpstream, wording: str) -> None:
    body = orjson.dumps({**MESSAGES.error("invalid_request_error", wording), "request_id": "req_011"})
    upstream.plays(plain(body, status=400))
    gateway = await start(provider("first", upstream, MESSAGES))
    answer = await gateway.post(PATH, BODY, HEADERS)
    assert (answer.status, answer.body) == (400, body)
    assert len(upstream.seen) == 1


async def test_an_error_of_another_api_is_told_in_its_own_shape(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(plain(CHAT.error("invalid_request_error", "max_tokens is too large"), status=400))
    gateway = await start(provider("first", upstream, CHAT))
    answer = await gateway.post(PATH, BODY, HEADERS)
    assert answer.status == 400
    assert answer.json["type"] == "error"
    assert (answer.json["error"]["type"], answer.json["error"]["message"]) == (
        "invalid_request_error", "max_tokens is too large",
    )  # fmt: skip


async def test_a_session_stays_with_the_model_that_has_its_cache(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    """The first fails once; what the other answered then it answers from then on, for this session and no other."""
    upstream.plays(plain(MESSAGES.error("api_error", "No."), status=500), plain(MESSAGES.answer("first")))
    second.plays(plain(MESSAGES.answer("second")))
    gateway = await start(
        "[retry]\ntries = 1\n"
        + provider("first", upstream, MESSAGES)
        + provider("second", second, MESSAGES)
        + chain("first", "second")
    )
    said = []
    for session in ("s1", "s1", "s2"):
        body = {**BODY, "model": "profile:chain", "stream": False}
        body["messages"] = [{"role": "user", "content": f"Hello from {session}."}]
        answer = await gateway.post(PATH, body, {**HEADERS, "x-claude-code-session-id": session})
        said.append(MESSAGES.read_text(answer.json))
    assert said == ["second", "second", "first"]


COMMENT = b": PROCESSING\n\n"


async def test_a_providers_signs_of_life_become_its_own_in_a_translation(
    start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "QUIET", 0.0)
    texts = [chunk({"role": "assistant", "content": "Hm"}), COMMENT, COMMENT, chunk({"content": "!"})]
    upstream.plays(streamed([*texts, CHAT.finish, CHAT.end]))
    gateway = await start(provider("first", upstream, CHAT))
    answer = await gateway.post(PATH, BODY, HEADERS)
    assert MESSAGES.read_stream(answer.body) == "Hm!"
    assert b": keep-alive\n\n" in answer.body
    assert answer.body.replace(b": keep-alive\n\n", b"").startswith(b"event: message_start\n")


async def test_soon_after_something_was_said_they_are_not_needed(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(streamed([chunk({"content": "Hm"}), COMMENT, CHAT.finish, CHAT.end]))
    gateway = await start(provider("first", upstream, CHAT))
    answer = await gateway.post(PATH, BODY, HEADERS)
    assert b"keep-alive" not in answer.body
