"""What a provider gets: the client's bytes but for the model, the headers that may pass, and the house's own key."""

from __future__ import annotations

import orjson
import pytest
from gateway import Start, provider
from playbook import CHAT, MESSAGES, TONGUES, Tongue
from upstream import ScriptedUpstream, plain

LOOPS = ("uvloop",)
HOUSE_KEY = "canary-house-key-0001"
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)


async def test_what_is_sent_is_the_clients_bytes_but_for_the_model(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    body = (
        b'{ "seed": 12345678901234567890123, "model":"first", "models": ["first"], '
        b'"x": {"model": "y", "x": 1, "x": 2},"messages":[{"role":"user","content":"\\ud83d"}] }'
    )
    await gw.post(CHAT.path, body)
    sent = (await upstream.asked()).body
    assert orjson.loads(sent.replace(b"\\ud83d", b""))["model"] == "native-of-first"
    assert sent.replace(b"native-of-first", b"first").replace(b" ", b"") == body.replace(
        b'"models": ["first"], ', b""
    ).replace(b" ", b"")


@both_surfaces
async def test_only_what_may_pass_is_sent_along(upstream: ScriptedUpstream, start: Start, tongue: Tongue) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(plain(tongue.answer("ok")))
    sent = {
        "Authorization": "Bearer client-own-thing", "Cookie": "a=b", "X-Api-Key": "client-own-thing",
        "OpenAI-Organization": "org-client", "User-Agent": "spy", "X-Custom": "1", "anthropic-beta": "b1",
    }  # fmt: skip
    await gw.ask(tongue, headers=sent)
    seen = await upstream.asked()
    assert (seen.headers["x-api-key"] if tongue is MESSAGES else seen.headers["authorization"]) == (
        HOUSE_KEY if tongue is MESSAGES else f"Bearer {HOUSE_KEY}"
    )
    assert b"client" not in seen.raw.partition(b"\r\n\r\n")[0]
    assert {"cookie", "x-custom", "openai-organization"}.isdisjoint(seen.headers)
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["host"] == f"127.0.0.1:{upstream.port}"
    assert ("anthropic-beta" in seen.headers) == (tongue is MESSAGES)


async def test_a_request_that_comes_back_to_the_gateway_is_cut(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    await gw.ask(CHAT)
    hops = (await upstream.asked()).headers["x-pointsman-hops"]
    answer = await gw.ask(CHAT, headers={"X-Pointsman-Hops": hops})
    assert answer.status == 508
    assert answer.json["error"]["code"] == "loop_detected"
    assert len(upstream.seen) == 1
