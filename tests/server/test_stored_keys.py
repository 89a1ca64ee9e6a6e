"""Keys that projects store for providers: over the admin API, and in requests."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from gateway import Answer, Running, Start, chain, provider, settles
from keyed import Made, make
from playbook import CHAT
from structlog.testing import capture_logs
from upstream import ScriptedUpstream, plain

from proxy.accounts.vault import fingerprint
from proxy.secret import key_bytes
from proxy.server.byok.store import VaultStore
from proxy.server.byok.vault import Masters, Vault
from proxy.server.ledger import LedgerRefused

MASTER = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
SECOND = "02" * 32
ON = f'master_key = "{MASTER}"'
OWN, NEXT = "canary-stored-key-0001", "canary-stored-key-0002"
HOUSE, BROUGHT = "canary-house-key-0001", "canary-brought-0001"
HELLO = plain(CHAT.answer("Hello."))
REFUSED = plain({"error": {"message": "bad key", "type": "invalid_request_error", "code": "invalid_api_key"}}, 401)
DOWN = plain({"error": {"message": "down", "type": "server_error"}}, 503)
TEAM = "[projects.team]\n"
KEY = "/admin/projects/team/providers/first/key"


async def put(gw: Running, key: str = OWN, path: str = KEY) -> Answer:
    return await gw.over_socket("PUT", path, {"key": key})


def vault_of(gw: Running) -> Vault:
    assert gw.app is not None
    return gw.app.vault


def asked_with(upstream: ScriptedUpstream) -> list[str]:
    return [seen.headers["authorization"].removeprefix("Bearer ") for seen in upstream.seen]


async def test_a_project_asks_with_its_own_key_and_others_with_the_houses(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(HELLO)
    table = (
        provider("first", upstream, models={"first": "price = { input = 1, output = 2 }"}) + TEAM + "[projects.other]\n"
    )
    gw = await start(table, ON)
    team, other = await make(gw, project="team"), await make(gw, project="other")
    assert (await put(gw)).status == 201
    own = await gw.row((await gw.ask(headers=team.bearer)).request_id)
    house = await gw.row((await gw.ask(headers=other.bearer)).request_id)
    brought = await gw.row((await gw.ask(headers={**team.bearer, "X-Nyuro-Key-first": BROUGHT})).request_id)
    assert asked_with(upstream) == [OWN, HOUSE, "canary-brought-0001"]
    assert [row["byok"] for row in (own, house, brought)] == [True, False, True]
    assert [attempt["byok"] for attempt in own["attempts"]] == [True]
    assert own["cost_nanos"] == house["cost_nanos"] > 0
    assert (own["charged_nanos"], house["charged_nanos"]) == (0, house["cost_nanos"])
    spent = (await gw.over_socket("GET", f"/admin/keys/{team.id}")).json["spent_usd"]
    assert spent == "0"
    told = (await gw.get(gw.admin + "/metrics")).body.decode()
    assert 'pointsman_byok_cost_usd_total{model="first",provider="first"}' in told


async def test_it_is_listed_masked_changed_and_deleted(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(HELLO)
    gw = await start(provider("first", upstream) + TEAM, ON)
    team = await make(gw, project="team")
    assert (await put(gw)).json["masked"] == "…0001"
    rotated = await gw.over_socket("POST", "/admin/projects/team/providers/first/rotate", {"key": NEXT})
    assert (rotated.status, rotated.json["masked"]) == (200, "…0002")
    assert rotated.headers["Cache-Control"] == "no-store"
    await gw.ask(headers=team.bearer)
    listed = (await gw.over_socket("GET", "/admin/projects/team/providers")).json
    assert [(it["provider"], it["masked"], it["state"]) for it in listed["data"]] == [("first", "…0002", "good")]
    assert (listed["storing"], listed["reason"]) == ("on", None)
    every = (await gw.over_socket("GET", "/admin/projects")).json
    assert [(it["name"], len(it["providers"])) for it in every["data"]] == [("team", 1)]
    assert (await gw.over_socket("DELETE", KEY)).json["state"] == "deleted"
    await gw.ask(headers=team.bearer)
    assert asked_with(upstream) == [NEXT, HOUSE]
    assert (await gw.over_socket("DELETE", KEY)).status == 404
    told = f"{rotated.body!r}{listed}{every}"
    assert OWN not in told
    assert NEXT not in told


async def test_a_request_under_way_ends_with_the_key_that_it_took(start: Start, upstream: ScriptedUpstream) -> None:
    """A rotation while the first try is being answered: the second try still asks with the old key."""
    gw = await start(provider("first", upstream) + TEAM, ON)
    team = await make(gw, project="team")
    await put(gw)
    upstream.plays(DOWN, HELLO, HELLO)
    answered = asyncio.ensure_future(gw.ask(headers=team.bearer))
    await settles(lambda: bool(upstream.seen))
    await put(gw, NEXT)
    assert (await answered).status == 200
    assert (await gw.ask(headers=team.bearer)).status == 200
    assert asked_with(upstream)[-1] == NEXT
    assert set(asked_with(upstream)[:-1]) == {OWN}


async def test_under_load_every_request_asks_with_a_key_that_was_in_force(
    start: Start, upstream: ScriptedUpstream
) -> None:
    """Twelve rotations while requests come without a pause: none is refused, none asks with the house's key, none with
    one older than what was in force when it began, and none with one newer than what was in force when it ended."""
    keys = [f"canary-stored-key-{number:04}" for number in range(13)]
    gw = await start(provider("first", upstream) + TEAM, ON)
    team = await make(gw, project="team")
    upstream.answers(lambda seen: plain({**CHAT.answer("Hello."), "asked_with": seen.headers["authorization"][-4:]}))
    began = ended = 0  # the number of the newest key that is being stored, and of the newest that is
    await put(gw, keys[0])
    done = asyncio.Event()
    seen: set[int] = set()

    async def ask_on() -> None:
        while not done.is_set():
            oldest = ended
            answer = await gw.ask(headers=team.bearer)
            assert answer.status == 200
            asked_with = int(answer.json["asked_with"])
            assert oldest <= asked_with <= began
            seen.add(asked_with)

    asking = [asyncio.ensure_future(ask_on()) for _ in range(8)]
    for number, key in enumerate(keys[1:], 1):
        await upstream.asked(len(upstream.seen) + 9)
        began = number
        rotated = await gw.over_socket("POST", "/admin/projects/team/providers/first/rotate", {"key": key})
        assert rotated.status == 200
        ended = number
    await settles(lambda: 12 in seen)
    done.set()
    await asyncio.gather(*asking)
    assert len(seen) == 13


async def beside_the_house(
    start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream, profile: str
) -> tuple[Running, Made]:
    """A team with a key of its own for the first of two providers of a chain."""
    table = provider("first", upstream) + provider("second", second) + chain("first", "second", more=profile) + TEAM
    gw = await start(table, ON)
    team = await make(gw, project="team")
    await put(gw)
    return gw, team


@pytest.mark.parametrize("profile", ["", "byok_fallback = true"])
async def test_a_refused_key_ends_the_request_and_is_an_alarm(
    profile: str, start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(REFUSED)
    second.plays(HELLO)
    gw, team = await beside_the_house(start, upstream, second, profile)
    with capture_logs() as told:
        answer = await gw.ask(model="profile:chain", headers=team.bearer)
    assert (answer.status, len(second.seen)) == (401, 0)
    alarms = [line for line in told if line["event"] == "stored_key_refused"]
    assert [(line["provider"], line["project"]) for line in alarms] == [("first", "team")]
    assert OWN not in str(told)


@pytest.mark.parametrize(("profile", "status"), [("", 503), ("byok_fallback = true", 200)])
async def test_another_failure_goes_on_with_the_houses_key_where_the_profile_says_so(
    profile: str, status: int, start: Start, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    upstream.plays(DOWN)
    second.plays(HELLO)
    gw, team = await beside_the_house(start, upstream, second, profile)
    assert (await gw.ask(model="profile:chain", headers=team.bearer)).status == status
    assert HOUSE not in asked_with(upstream)


async def test_a_provider_without_a_key_of_the_house_serves_who_has_one(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(HELLO)
    gw = await start(provider("first", upstream, keys=["${NOBODY_SETS_THIS}"]) + TEAM, ON)
    team = await make(gw, project="team")
    assert (await gw.ask(headers=team.bearer)).status == 503
    await put(gw)
    assert (await gw.ask(headers=team.bearer)).status == 200


# -- what is refused ---------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, str, Any, int]] = {
    "no such project": ("PUT", "/admin/projects/none/providers/first/key", {"key": OWN}, 404),
    "no such provider": ("PUT", "/admin/projects/team/providers/none/key", {"key": OWN}, 404),
    "the echo": ("PUT", "/admin/projects/team/providers/embedded/key", {"key": OWN}, 400),
    "no key": ("PUT", KEY, {}, 400),
    "a key in the wrong place": ("PUT", "/admin/projects/team/providers/first", {"key": OWN}, 404),
    "a rotation of nothing": ("POST", "/admin/projects/team/providers/first/key/rotate", {"key": OWN}, 404),
    "a verb that is none": ("POST", "/admin/projects/team/providers/first/burn", {"key": OWN}, 404),
    "a look at the key": ("GET", KEY, None, 404),
    "a list of nobody's": ("GET", "/admin/projects/none/providers", None, 404),
}


@pytest.mark.parametrize(("method", "path", "document", "status"), WRONG.values(), ids=WRONG)
async def test_what_cannot_be_done_is_told(
    method: str, path: str, document: Any, status: int, start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream) + TEAM + '[providers.embedded]\ndialects = ["openai-chat"]\n', ON)
    answer = await gw.over_socket(method, path, document)
    assert answer.status == status
    assert OWN not in answer.body.decode()


async def test_over_tcp_an_admin_key_is_needed_and_a_writing_one_to_store(
    start: Start, upstream: ScriptedUpstream
) -> None:
    gw = await start(provider("first", upstream) + TEAM, ON)
    user, reader, writer = await make(gw), await make(gw, scopes=["admin:read"]), await make(gw, scopes=["admin:write"])
    document = {"key": OWN}
    for headers, status in (({}, 401), (user.bearer, 403), (reader.bearer, 403), (writer.bearer, 201)):
        body = {"Content-Type": "application/json", **headers}
        async with gw.client.put(gw.admin + KEY, json=document, headers=body) as response:
            assert response.status == status
    assert (await gw.get(gw.admin + "/admin/projects", reader.bearer)).status == 200
    assert (await gw.get(gw.admin + "/admin/projects")).status == 401


# -- the master key ----------------------------------------------------------------------------------------------


async def test_without_a_master_key_nothing_is_stored_and_it_says_so(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(HELLO)
    gw = await start(provider("first", upstream) + TEAM)
    answer = await put(gw)
    assert answer.status == 503
    assert "POINTSMAN_MASTER_KEY is not set" in answer.json["error"]["message"]
    assert (await gw.over_socket("GET", "/admin/projects")).json["storing"] == "off"
    team = await make(gw, project="team")
    assert (await gw.ask(headers=team.bearer)).status == 200


async def test_keys_that_do_not_open_are_nobodys_to_stand_in_for(
    start: Start, upstream: ScriptedUpstream, home: Path
) -> None:
    """The master key is gone after a restart: the project is not served with the house's key in silence."""
    (home / "state").mkdir()
    opened(home, MASTER).put("team", "first", OWN)
    upstream.plays(HELLO)
    with capture_logs() as told:
        gw = await start(provider("first", upstream) + TEAM)
    assert [line["event"] for line in told if line["log_level"] == "error"] == ["stored_keys_locked"]
    team = await make(gw, project="team")
    answer = await gw.ask(headers=team.bearer)
    assert answer.status == 503
    assert "cannot be read" in answer.json["error"]["message"]
    assert (await gw.ask(headers={**team.bearer, "X-Nyuro-Key-first": BROUGHT})).status == 200
    (listed,) = (await gw.over_socket("GET", "/admin/projects/team/providers")).json["data"]
    assert listed["state"] == "locked"
    assert (await gw.over_socket("DELETE", KEY)).status == 200
    assert (await gw.ask(headers=team.bearer)).status == 200
    assert HOUSE in asked_with(upstream)


async def test_a_reload_brings_a_master_key_and_another_one(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.plays(HELLO)
    gw = await start(provider("first", upstream) + TEAM, ON)
    team = await make(gw, project="team")
    await put(gw)
    text = gw.config.read_text()
    gw.config.write_text(text.replace(ON, f'master_key = "{SECOND}"\nformer_master_key = "{MASTER}"'))
    assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
    await settles(lambda: vault_of(gw)._taken == vault_of(gw).masters)
    assert vault_of(gw).store.load().data_keys[0].master == print_of(SECOND)
    gw.config.write_text(text.replace(ON, f'master_key = "{SECOND}"'))
    assert (await gw.over_socket("POST", "/admin/reload", {})).status == 200
    assert (await put(gw, NEXT)).status == 200
    await gw.ask(headers=team.bearer)
    assert asked_with(upstream) == [NEXT]


# -- the file ----------------------------------------------------------------------------------------------------


def print_of(text: str) -> str:
    return fingerprint(key_bytes(text) or b"")


def opened(home: Path, now: str | None = None, former: str | None = None) -> Vault:
    path = home / "state/ledger.sqlite3"
    masters = Masters(key_bytes(now) if now else None, key_bytes(former) if former else None)
    vault = Vault(VaultStore(path), masters)
    if not path.exists():
        vault.store.forget_unused()  # makes the file
    vault.load()
    return vault


@pytest.fixture
def file(home: Path) -> Path:
    (home / "state").mkdir()
    return home


def test_the_file_holds_no_key_and_no_data_key(file: Path) -> None:
    fixed = opened(file, MASTER)
    fixed.entropy = lambda count: b"\x77" * count
    fixed.put("team", "first", OWN)
    raw = b"".join(path.read_bytes() for path in (file / "state").iterdir())
    assert OWN.encode() not in raw
    assert b"\x77" * 32 not in raw
    assert (key_bytes(MASTER) or b"?") not in raw
    assert opened(file, MASTER).own.of("team")["first"].reveal() == OWN


def test_the_former_master_key_opens_once_more_and_the_data_key_is_wrapped_anew(file: Path) -> None:
    opened(file, MASTER).put("team", "first", OWN)
    sealed = VaultStore(file / "state/ledger.sqlite3").load().stored
    turned = opened(file, SECOND, MASTER)
    assert turned.own.of("team")["first"].reveal() == OWN
    assert turned.off == ""
    after = turned.store.load()
    assert after.stored == sealed  # not one key was sealed anew
    assert after.data_keys[0].master == print_of(SECOND)
    assert opened(file, MASTER).own.locked("team") == {"first"}
    assert opened(file, SECOND).own.of("team")["first"].reveal() == OWN


def test_under_another_master_key_nothing_is_stored_until_the_old_ones_are_gone(file: Path) -> None:
    opened(file, MASTER).put("team", "first", OWN)
    other = opened(file, SECOND)
    assert "another master key" in other.off
    with pytest.raises(Exception, match="former_master_key"):
        other.put("team", "second", NEXT)
    other.delete("team", "first")
    assert other.off == ""
    other.put("team", "second", NEXT)
    assert opened(file, SECOND).own.of("team")["second"].reveal() == NEXT


def test_two_processes_find_the_same_data_key(file: Path) -> None:
    one, two = opened(file, MASTER), opened(file, MASTER)
    one.put("team", "first", OWN)
    two.put("team", "second", NEXT)
    assert len(one.store.load().data_keys) == 1
    one.load()
    assert {name: key.reveal() for name, key in one.own.of("team").items()} == {"first": OWN, "second": NEXT}


async def test_what_another_process_stores_is_taken_over(start: Start, upstream: ScriptedUpstream, home: Path) -> None:
    gw = await start(provider("first", upstream) + TEAM, ON)
    await asyncio.to_thread(opened(home, MASTER).put, "team", "first", OWN)
    own = vault_of(gw).own
    await settles(lambda: bool(own.of("team")))
    assert own.of("team")["first"].reveal() == OWN


def test_a_damaged_row_locks_its_provider_alone(file: Path) -> None:
    vault = opened(file, MASTER)
    vault.put("team", "first", OWN)
    vault.put("team", "second", NEXT)
    with sqlite3.connect(file / "state/ledger.sqlite3") as connection:
        connection.execute("UPDATE provider_keys SET provider = 'third' WHERE provider = 'first'")
    connection.close()
    vault.load()
    assert vault.own.locked("team") == {"third"}
    assert vault.own.of("team").keys() == {"second"}


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LedgerRefused):
        Vault(VaultStore(tmp_path / "none.sqlite3"), Masters()).load()
    assert os.listdir(tmp_path) == []
