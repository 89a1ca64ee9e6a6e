"""Several keys of one provider: which is asked with next follows from what became of the last one."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import Start, chain, provider
from playbook import CHAT, TONGUES, Tongue
from structlog.testing import capture_logs
from upstream import ScriptedUpstream, plain

KEYS = ["canary-key-aaaa-0001", "canary-key-bbbb-0002", "canary-key-cccc-0003"]
QUOTA = {"error": {"message": "You have no credits.", "type": "insufficient_quota", "code": "insufficient_quota"}}


def keyed(seen: Any) -> str:
    return str(seen.headers.get("authorization", seen.headers.get("x-api-key"))).removeprefix("Bearer ")


def play(upstream: ScriptedUpstream, tongue: Tongue, good: str, refusal: Any) -> None:
    """Whoever asks with `good` is answered."""
    upstream.answers(lambda seen: plain(tongue.answer("Hello.")) if keyed(seen) == good else refusal)


REFUSALS: dict[str, tuple[Tongue, int, Any]] = {
    **{f"{status} {tongue.name}": (tongue, status, None) for tongue in TONGUES.values() for status in (401, 402, 403)},
    "429 for want of money": (CHAT, 429, QUOTA),
}


@pytest.mark.parametrize(("tongue", "status", "body"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refused_key_is_out_with_an_alarm_and_the_next_answers_the_same_request(
    tongue: Tongue, status: int, body: Any, start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    table = provider("first", upstream, tongue, keys=KEYS) + provider("second", second, tongue)
    gw = await start(table + chain("first", "second"))
    play(upstream, tongue, KEYS[2], plain(body or tongue.error("authentication_error", "No."), status))
    with capture_logs() as told:
        answers = [await gw.ask(tongue, "profile:chain") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [keyed(seen) for seen in upstream.seen] == [*KEYS, KEYS[2], KEYS[2]]  # the first two are out
    assert second.seen == []
    alarms = [line for line in told if line["event"] == "credential_refused"]
    assert [(line["credential"], line["log_level"]) for line in alarms] == [(0, "error"), (1, "error")]
    assert not any(key in str(told) for key in KEYS)
    shown = (await gw.over_socket("GET", "/admin/config")).json["cooling"]
    assert {it["what"] for it in shown} == {"first/key/0", "first/key/1"}
    assert min(it["seconds"] for it in shown) > 60
    metrics = (await gw.get(f"{gw.admin}/metrics")).body.decode()
    for place in (0, 1):
        assert f'pointsman_cooldown_seconds{{provider="first",model="none",credential="{place}"}}' in metrics
    assert 'provider="first",model="none",credential="2"' not in metrics


async def test_a_limited_key_is_passed_over_for_as_long_as_the_provider_says(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream, keys=KEYS))
    play(upstream, CHAT, KEYS[1], plain(CHAT.error("rate_limit_error", "Slow down."), 429, Retry_After=40))
    with capture_logs() as told:
        assert [(await gw.ask()).status for _ in range(2)] == [200, 200]
    assert [keyed(seen) for seen in upstream.seen] == [KEYS[0], KEYS[1], KEYS[1]]
    assert not [line for line in told if line["event"] == "credential_refused"]
    (resting,) = (await gw.over_socket("GET", "/admin/config")).json["cooling"]
    assert resting["what"] == "first/key/0"
    assert 30 < resting["seconds"] <= 40


async def test_trouble_over_there_says_nothing_of_a_key(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream, keys=KEYS))
    upstream.plays(plain(CHAT.error("server_error", "down"), 503), plain(CHAT.answer("Hello.")))
    assert (await gw.ask()).status == 200
    assert [keyed(seen) for seen in upstream.seen] == [KEYS[0], KEYS[0]]


async def test_when_all_are_out_the_next_candidate_answers(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    second.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, keys=KEYS) + provider("second", second) + chain("first", "second"))
    play(upstream, CHAT, "nobody's", plain(CHAT.error("authentication_error", "No."), 401))
    assert [(await gw.ask(model="profile:chain")).status for _ in range(2)] == [200, 200]
    assert [keyed(seen) for seen in upstream.seen] == KEYS  # each once; then the provider is passed over
    assert len(second.seen) == 2


async def test_other_keys_in_the_table_begin_rested(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream, keys=KEYS[:1]))
    play(upstream, CHAT, KEYS[1], plain(CHAT.error("authentication_error", "No."), 401))
    assert (await gw.ask()).status == 502
    gw.config.write_text(gw.config.read_text().replace(KEYS[0], KEYS[1]))
    assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
    assert (await gw.ask()).status == 200


async def test_a_callers_refused_key_leaves_the_houses_alone(start: Start, upstream: ScriptedUpstream) -> None:
    gw = await start(provider("first", upstream, keys=KEYS))
    play(upstream, CHAT, KEYS[0], plain(CHAT.error("authentication_error", "No."), 401))
    assert (await gw.ask(headers={"X-Nyuro-Key-first": "canary-own-key-0009"})).status == 401
    assert (await gw.ask()).status == 200
    assert [keyed(seen) for seen in upstream.seen] == ["canary-own-key-0009", KEYS[0]]
    assert (await gw.over_socket("GET", "/admin/config")).json["cooling"] == []
