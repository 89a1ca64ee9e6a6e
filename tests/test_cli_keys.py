"""`pointsman keys`, with the gateway running and without."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from gateway import Start, provider
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from proxy import cli
from proxy.server.keys.store import KeyStore
from proxy.server.starting import LEDGER

WHOLE = re.compile(r"neu_live_[A-Za-z0-9]{12}_[A-Za-z0-9]{43}")
Told = tuple[int, str, str]
Command = Callable[..., Told]


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """`pointsman keys …` on this state; exit code, stdout, stderr."""

    def run(*words: str) -> Told:
        capsys.readouterr()  # what the gateway's own log has said so far
        code = cli.main(["keys", *words, "--state", str(home / "state"), "--config", str(home / "routes.toml")])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def listed(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(command("list", "--json")[1])
    return found


@pytest.mark.parametrize("span", ["99999999d", "9" * 400 + "s", "1", "-1d", "soon"])
def test_a_span_past_all_sense_is_refused_in_a_sentence(span: str, command: Command) -> None:
    for words in (("create", "--name", "ci", f"--expires={span}"), ("rotate", "x" * 12, f"--grace={span}")):
        with pytest.raises(SystemExit) as ended:
            command(*words)
        assert ended.value.code == 2


def test_a_key_is_made_listed_rotated_and_revoked_while_nothing_runs(command: Command, home: Path) -> None:
    code, whole, note = command("create", "--name", "ci", "--expires", "90d", "--budget", "0.5", "--rpm", "3")
    assert code == 0
    assert WHOLE.fullmatch(whole.strip())
    id = whole.split("_")[2]
    assert note == f"Key {id} (ci). This is the only time that it is shown.\n"
    (shown,) = listed(command)
    assert shown["id"] == id
    assert shown["budget"]["limit_usd"] == "0.5"
    assert shown["limits"] == {"rpm": 3}

    code, again, _ = command("rotate", id, "--grace", "0s")
    assert (code, again.split("_")[2], again == whole) == (0, id, False)
    assert command("revoke", id) == (0, "", f"Key {id} (ci) is revoked.\n")
    assert orjson.loads(command("show", id)[1])["revoked"] is True
    code, out, err = command("rotate", id)
    assert (code, out) == (1, "")
    assert err == f"pointsman: The key neu_live_{id} has been revoked, and stays so: make another one.\n"
    everything = "".join(command(*words)[1] for words in (["list"], ["list", "--json"], ["show", id]))
    assert "revoked" in everything
    for secret in (whole, again):
        assert secret.strip().rpartition("_")[2] not in everything
        for file in (home / "state").iterdir():
            assert secret.strip().rpartition("_")[2].encode() not in file.read_bytes()


@pytest.mark.parametrize("form", ["{id}", "neu_live_{id}", "{whole}"])
def test_a_key_is_found_by_its_id_by_what_is_shown_of_it_and_by_the_whole(command: Command, form: str) -> None:
    _, whole, _ = command("create", "--name", "found in a log")
    id = whole.split("_")[2]
    assert command("revoke", form.format(id=id, whole=whole.strip()))[0] == 0
    assert [(key["id"], key["revoked"]) for key in listed(command)] == [(id, True)]


REFUSED: dict[str, tuple[list[str], str]] = {
    "a name of nothing": (["create", "--name", ""], "name: "),
    "an unknown project": (["create", "--name", "x", "--project", "p"], "project: no project has that name"),
    "a budget that is no number": (["create", "--name", "x", "--budget", "lots"], "budget.limit: "),
    "an id that nobody has": (["revoke", "0" * 12], "No key has this id"),
    "a rotation of nobody's": (["rotate", "0" * 12], "No key has this id"),
    "a look at nobody's": (["show", "../config"], "No key has this id"),
}


@pytest.mark.parametrize(("words", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_told_in_a_sentence(command: Command, words: list[str], why: str) -> None:
    assert command("create", "--name", "first")[0] == 0
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert err.startswith("pointsman: ")
    assert why in err
    assert err.count("\n") == 1


WRONG = [
    ["create"],
    ["create", "--name", "x", "--scope", "root"],
    ["create", "--name", "x", "--alert", "0.5"],
    ["rotate"],
]


@pytest.mark.parametrize("words", [*WRONG, []])
def test_words_that_are_wrong_are_told(words: list[str], command: Command) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(*words)


async def test_while_the_gateway_runs_the_command_goes_through_it(
    start: Start, upstream: ScriptedUpstream, command: Command
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    code, whole, _ = await asyncio.to_thread(command, "create", "--name", "ci")
    bearer = {"Authorization": f"Bearer {whole.strip()}"}
    assert code == 0
    assert (await gw.ask(headers=bearer)).status == 200  # at once, in memory
    await gw.rows()
    (shown,) = await asyncio.to_thread(listed, command)
    assert shown["last_used_at"] is not None
    id = shown["id"]
    code, fresh, _ = await asyncio.to_thread(command, "rotate", id, "--grace", "1h")
    assert (await gw.ask(headers=bearer)).status == 200
    assert (await gw.ask(headers={"x-api-key": fresh.strip()})).status == 200
    assert (await asyncio.to_thread(command, "revoke", id))[0] == 0
    for key in (whole, fresh):
        assert (await gw.ask(headers={"x-api-key": key.strip()})).status == 401
    code, _, err = await asyncio.to_thread(command, "show", "../../config")
    assert (code, err) == (
        1,
        "pointsman: No key has this id; GET /admin/keys and `pointsman keys list` show them all.\n",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as it does to be a danger")
def test_what_root_makes_belongs_to_the_owner_of_where_it_lies(command: Command, home: Path) -> None:
    os.chown(home, 65534, 65534)
    assert command("create", "--name", "ci")[0] == 0
    state = home / "state"
    assert {it.stat().st_uid for it in (state, *state.iterdir())} == {65534}
    assert command("create", "--name", "again")[0] == 0


def test_a_key_may_be_made_before_there_is_any_state(command: Command, home: Path) -> None:
    code, _, err = command("list")
    assert (code, "there is no such file" in err, (home / "state").exists()) == (3, True, False)
    assert command("create", "--name", "", "--rpm", "1")[0] == 1
    assert not (home / "state").exists()
    assert command("create", "--name", "ci")[0] == 0
    assert stat.S_IMODE((home / "state").stat().st_mode) == 0o700


def test_a_state_directory_that_cannot_be_made_is_told(command: Command, home: Path) -> None:
    (home / "state").symlink_to(home / "nowhere" / "at" / "all")
    code, out, err = command("create", "--name", "ci")
    assert (code, out) == (1, "")
    assert err.startswith(f"pointsman: The state directory {home / 'state'} cannot be made")


def test_keys_that_other_tables_made_stay_good(home: Path, command: Command) -> None:
    (home / "routes.toml").write_text('[server]\nkey_prefix = "acme"\n')
    assert command("create", "--name", "a")[1].startswith("acme_live_")
    assert [key.prefix for key in KeyStore(home / "state" / LEDGER).load()[1]] == ["acme"]
