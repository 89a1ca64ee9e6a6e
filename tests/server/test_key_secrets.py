"""No secret of anybody's in what the gateway writes or says, whatever goes wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Start, gateway, provider
from keyed import make
from playbook import CHAT, MESSAGES
from upstream import CUT, Script, ScriptedUpstream, head, plain, streamed

from proxy.secret import Scrubber
from proxy.server import log as logging

HOUSE, OWN, HOOK = "canary-house-key-0001", "canary-own-key-0001", "canary-hook-token-0001"


async def test_no_secret_is_in_any_file_log_metric_record_or_error(home: Path, upstream: ScriptedUpstream) -> None:
    text = io.StringIO()
    log = logging.configure(json=True, level="debug", scrubber=Scrubber(), stream=text)
    table = provider("first", upstream, keys=[HOUSE], models={"first": "price = { input = 1, output = 100 }"})
    quoting = {"error": {"message": f"Incorrect key {OWN} {HOUSE}", "type": "invalid_request_error"}}
    server = f'budget_webhook = "{upstream.root}/hook?token={HOOK}"'
    cut: Script = [head(200, Content_Length=99) + b"{", CUT]
    said: list[Answer] = []
    try:
        async with gateway(table + "[projects.x]\nlimits = { rpm = 30 }\n", home, log=log, server=server) as gw:
            key = await make(gw, project="x", budget={"limit": "0.1", "alert": 0.001})
            small = await make(gw, "small", budget={"limit": "0.000001"}, limits={"rpm": 2})
            secrets = [HOUSE, OWN, HOOK, key.whole.rpartition("_")[2], small.whole.rpartition("_")[2]]
            wrong = key.whole[:-1] + ("a" if key.whole[-1] != "a" else "b")
            secrets.append(wrong.rpartition("_")[2])
            own = {**key.bearer, "X-Nyuro-Key-first": OWN}
            for script, stream, headers in (
                (plain(CHAT.answer("Hello.")), False, key.bearer),
                (streamed(CHAT.stream("Hello.")), True, key.bearer),
                (plain(quoting, 401), False, own),
                (plain(quoting, 401), False, key.bearer),
                (plain(quoting, 400), False, key.bearer),
                (cut, False, own),
                (plain({}), False, {"Authorization": f"Bearer {wrong}"}),
                (plain({}), False, {"x-api-key": small.whole, "Authorization": f"Bearer {key.whole}"}),
                (plain({}), False, small.bearer),
                (plain({}), False, small.bearer),
                (plain({}), False, small.bearer),
            ):
                upstream.plays(script)
                said.append(await gw.ask(stream=stream, headers=headers))
            said.append(await gw.ask(MESSAGES, headers={"x-api-key": f"{key.whole}\t"}))
            made = await gw.over_socket("POST", f"/admin/keys/{key.id}/rotate", {})
            secrets.append(made.json["key"].rpartition("_")[2])
            await gw.over_socket("POST", f"/admin/keys/{key.id}/revoke", {})
            for path in (
                "/admin/keys",
                f"/admin/keys/{key.id}",
                "/admin/config",
                "/admin/decisions",
                "/admin/providers",
            ):
                said.append(await gw.over_socket("GET", path))
            said.append(await gw.get(f"{gw.admin}/metrics"))
            said.append(await gw.get(f"{gw.base}/v1/models", key.bearer))
            await gw.rows(5)
            state = gw.state
    finally:
        log.close()
    assert {answer.status for answer in said} >= {200, 401, 402, 429, 502}
    everything = [text.getvalue().encode(), *(file.read_bytes() for file in state.iterdir() if file.is_file())]
    everything += [str(answer.headers).encode() + answer.body for answer in said]
    assert len(text.getvalue()) > 1000
    for secret in secrets:
        assert not [place for place in everything if secret.encode() in place], secret


MISPLACED = "sk-proj-canary-misplaced-0001"
PLACES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "the name": ({"model": MISPLACED}, {}),
    "a provider's own name": ({"model": f"first/{MISPLACED}"}, {}),
    "another name": ({"models": ["first/x", MISPLACED]}, {}),
    "a name that is refused for its suffix": ({"model": f"{MISPLACED};sort:nothing"}, {}),
    "the wish for a provider": ({"provider": {"only": [MISPLACED]}}, {}),
    "a name, where another member is wrong": ({"model": MISPLACED, "sort": "nothing"}, {}),
    "the profile's header": ({}, {"X-Nyuro-Profile": MISPLACED}),
    "the header of names": ({}, {"X-Nyuro-Models": MISPLACED}),
    "the header of the sort": ({}, {"X-Nyuro-Sort": MISPLACED}),
}


@pytest.mark.parametrize(("members", "headers"), PLACES.values(), ids=PLACES)
async def test_a_providers_key_in_a_wrong_place_is_recorded_logged_and_repeated_nowhere(
    members: dict[str, Any], headers: dict[str, str], start: Start, upstream: ScriptedUpstream
) -> None:
    """All that a gateway says and keeps is looked into: `canaries`."""
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream, more='models = ["*"]'))
    body = CHAT.request("first") | members
    answer = await gw.post(CHAT.path, body, headers)
    await gw.post("/v1/route", body, headers)
    await gw.get(f"{gw.base}/v1/models/{MISPLACED}")
    assert answer.status in (200, 400, 404)
    row = await gw.row(answer.request_id)
    assert MISPLACED not in str(row)
    assert MISPLACED.encode() not in b"".join(seen.raw for seen in upstream.seen)
    await gw.over_socket("GET", f"/admin/decisions/{answer.request_id}")
