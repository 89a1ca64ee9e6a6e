"""Requests with the caller's own key for a provider."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import Start, chain, provider
from keyed import make
from playbook import CHAT
from upstream import ScriptedUpstream, plain

OWN = "canary-own-key-0001"
DOWN = plain({"error": {"message": "down", "type": "server_error"}}, 503)
PRICED = {"first": "price = { input = 1, output = 2 }"}


async def test_the_callers_key_is_asked_with_and_its_cost_recorded_apart(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, models=PRICED))
    answer = await gw.ask(headers={"X-Nyuro-Key-first": OWN})
    assert upstream.seen[0].headers["authorization"] == f"Bearer {OWN}"
    row = await gw.row(answer.request_id)
    assert row["byok"] is True
    assert row["cost_nanos"] > 0
    assert row["charged_nanos"] == 0  # it is on the caller's bill
    assert [attempt["byok"] for attempt in row["attempts"]] == [True]
    house = await gw.row((await gw.ask()).request_id)
    assert (house["byok"], house["charged_nanos"]) == (False, row["cost_nanos"])


FALLBACKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "never to another house key": ("", {}, 503),
    "to another key of the caller's": ("", {"X-Nyuro-Key-second": OWN}, 200),
    "to the house's where the profile allows it": ("byok_fallback = true", {}, 200),
}


@pytest.mark.parametrize(("profile", "headers", "status"), FALLBACKS.values(), ids=FALLBACKS)
async def test_what_begins_with_the_callers_key_falls_back(
    profile: str,
    headers: dict[str, Any],
    status: int,
    start: Start,
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
) -> None:
    upstream.plays(DOWN)
    second.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream) + provider("second", second) + chain("first", "second", more=profile)
    gw = await start(table)
    answer = await gw.ask(model="profile:chain", headers={"X-Nyuro-Key-first": OWN, **headers})
    assert answer.status == status
    assert len(second.seen) == (status == 200)


async def test_a_provider_that_needs_no_key_may_follow(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(DOWN)
    second.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream) + provider("second", second, keys=None) + chain("first", "second")
    gw = await start(table)
    assert (await gw.ask(model="profile:chain", headers={"X-Nyuro-Key-first": OWN})).status == 200


@pytest.mark.parametrize("lines", ["", "limits = { rpm = 1 }"], ids=["rests", "is at its limit"])
async def test_nor_does_the_houses_key_stand_in_for_a_candidate_that(
    lines: str, start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")) if lines else DOWN)
    second.plays(plain(CHAT.answer("Hello.")))
    table = provider("first", upstream, models={"first": lines}) + provider("second", second)
    gw = await start(table + chain("first", "second") + "[retry]\ntries = 1\n[health]\nfailures = 1\n")
    answers = [await gw.ask(model="profile:chain", headers={"X-Nyuro-Key-first": OWN}) for _ in range(2)]
    assert [answer.status for answer in answers] == ([200, 429] if lines else [503, 503])
    assert second.seen == []
    row = await gw.row(answers[1].request_id)
    assert [(gone["model"], gone["step"]) for gone in row["plan"]["dropped"]] == [("second", "credential")]
    house = await gw.ask(model="profile:chain")
    assert (house.status, house.headers["X-Nyuro-Model"]) == (200, "second")


async def test_what_cannot_be_meant_as_a_providers_key_is_refused_and_sent_nowhere(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    key = await make(gw)
    bearer = f"Authorization: Bearer {key.whole}"
    sent: dict[str, tuple[tuple[str, ...], int, bytes]] = {
        "the same twice": ((f"X-Nyuro-Key-first: {OWN}", f"x-nyuro-key-FIRST: {OWN}"), 200, b"Hello."),
        "two that differ": (
            (f"X-Nyuro-Key-first: {OWN}", f"X-Nyuro-Key-first: {OWN}9"), 400, b"stands twice, with different keys",
        ),
        "the gateway's own": ((f"X-Nyuro-Key-first: {key.whole}",), 400, b"holds the key of this gateway itself"),
        "for nobody": ((f"X-Nyuro-Key-fisrt: {OWN}",), 400, b"no provider is called 'fisrt'; nearest: first"),
        "the gateway's own, for nobody": ((f"X-Nyuro-Key-x: {key.whole}",), 400, b"the key of this gateway itself"),
        "for nobody, beside a good one": (
            (f"X-Nyuro-Key-first: {OWN}", f"X-Nyuro-Key-zzz: {OWN}"), 400, b"'zzz'; known are first",
        ),
        "without a name": ((f"X-Nyuro-Key-: {OWN}",), 400, b"no provider is called ''"),
        "nothing, for nobody": (("X-Nyuro-Key-zzz: ",), 200, b"Hello."),
    }  # fmt: skip
    for lines, status, said in sent.values():
        client = await gw.connect()
        await client.request(CHAT, CHAT.request(), bearer, *lines)
        got, _, body = await client.answer()
        assert (got, said in body) == (status, True)
    assert len(upstream.seen) == 2
    assert key.whole.encode() not in b"".join(seen.raw for seen in upstream.seen)


async def test_a_key_for_a_provider_that_needs_none_spares_no_budget(start: Start, upstream: ScriptedUpstream) -> None:
    """Who asks a server of the house does so at its expense, whatever key comes along."""
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, keys=None, models=PRICED))
    key = await make(gw, budget={"limit": "0.00005"})
    own = {**key.bearer, "X-Nyuro-Key-first": OWN}
    first = await gw.row((await gw.ask(headers=own)).request_id)
    assert upstream.seen[0].headers["authorization"] == f"Bearer {OWN}"
    assert (first["byok"], first["charged_nanos"]) == (False, first["cost_nanos"])
    assert first["cost_nanos"] > 0
    statuses = [(await gw.ask(headers=own)).status for _ in range(3)]
    assert statuses == [200, 402, 402]
    assert "pointsman_byok_cost_usd_total{" not in (await gw.get(f"{gw.admin}/metrics")).body.decode()
