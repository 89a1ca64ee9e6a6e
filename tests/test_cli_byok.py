"""`pointsman byok`, with the gateway running and without. The key comes by stdin."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from gateway import Start, provider
from keyed import make
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from proxy import cli
from proxy.secret import key_bytes
from proxy.server.ledger.schema import open_writer
from proxy.server.starting import LEDGER

MASTER = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
OWN, NEXT = "canary-stored-key-0001", "canary-stored-key-0002"
TABLE = provider("first", "http://127.0.0.1:9", keys=None) + "[projects.team]\n"
Told = tuple[int, str, str]
Command = Callable[..., Told]
PLACE = ("--project", "team", "--provider", "first")


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`pointsman byok …` on this state; exit code, stdout, stderr."""

    def run(*words: str, key: str = "") -> Told:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(key))
        code = cli.main(["byok", *words, "--state", str(home / "state"), "--config", str(home / "routes.toml")])
        told = capsys.readouterr()
        return code, told.out, told.err

    (home / "state").mkdir(exist_ok=True)
    return run


def test_all_of_it_works_while_nothing_runs(command: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "routes.toml").write_text(TABLE)
    open_writer(home / "state" / LEDGER).close()
    monkeypatch.setenv("POINTSMAN_MASTER_KEY", MASTER)
    assert command("set", *PLACE, key=f"{OWN}\n") == (0, "", "team asks first with …0001 now.\n")
    code, _, err = command("rotate", *PLACE, key=NEXT)
    assert (code, err) == (0, "team asks first with …0002 now.\n")
    (listed,) = orjson.loads(command("list", "--json")[1])
    assert (listed["project"], listed["masked"], listed["state"]) == ("team", "…0002", "good")
    assert "…0002" in command("list", "--project", "team")[1]
    for file in (home / "state").iterdir():
        assert OWN.encode() not in file.read_bytes()
    monkeypatch.delenv("POINTSMAN_MASTER_KEY")
    code, out, err = command("list")
    assert (code, "locked" in out, "POINTSMAN_MASTER_KEY is not set" in err) == (0, True, True)
    assert command("delete", *PLACE)[0] == 0
    assert command("delete", *PLACE)[0] == 1
    assert orjson.loads(command("list", "--json")[1]) == []


def test_a_key_may_be_stored_before_the_first_start(
    command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "routes.toml").write_text(TABLE)
    monkeypatch.setenv("POINTSMAN_MASTER_KEY", MASTER)
    (home / "state").rmdir()
    assert command("set", *PLACE, key=OWN)[0] == 0
    assert [it["state"] for it in orjson.loads(command("list", "--json")[1])] == ["good"]
    monkeypatch.delenv("POINTSMAN_MASTER_KEY")
    (home / "state" / LEDGER).unlink()
    assert command("set", *PLACE, key=OWN)[0] != 0
    assert not (home / "state" / LEDGER).exists()


@pytest.mark.parametrize(
    ("words", "key", "why"),
    [
        (("set", *PLACE), OWN, "POINTSMAN_MASTER_KEY is not set"),
        (("set", *PLACE), "short", "a text of 8 to 4096 characters"),
        (("set", "--project", "none", "--provider", "first"), OWN, "no project 'none'"),
        (("rotate", "--project", "team", "--provider", "none"), OWN, "no provider 'none'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    words: tuple[str, ...], key: str, why: str, command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POINTSMAN_MASTER_KEY", raising=False)
    (home / "routes.toml").write_text(TABLE)
    open_writer(home / "state" / LEDGER).close()
    code, out, err = command(*words, key=key)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert why in err
    assert OWN not in err


async def test_while_the_gateway_runs_the_command_goes_through_it(
    start: Start, upstream: ScriptedUpstream, command: Command
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream) + "[projects.team]\n", f'master_key = "{MASTER}"')
    team = await make(gw, project="team")

    def run(*words: str, key: str = "") -> Told:
        return command(*words, key=key)

    assert (await asyncio.to_thread(lambda: run("set", *PLACE, key=OWN)))[0] == 0
    await gw.ask(headers=team.bearer)
    assert upstream.seen[0].headers["authorization"] == f"Bearer {OWN}"
    assert (await asyncio.to_thread(lambda: run("rotate", *PLACE, key=NEXT)))[0] == 0
    await gw.ask(headers=team.bearer)
    assert upstream.seen[1].headers["authorization"] == f"Bearer {NEXT}"
    assert "…0002" in (await asyncio.to_thread(run, "list"))[1]
    assert "…0002" in (await asyncio.to_thread(run, "list", "--project", "team"))[1]
    assert (await asyncio.to_thread(run, "delete", *PLACE))[0] == 0
    code, _, err = await asyncio.to_thread(run, "delete", *PLACE)
    assert (code, "no key of its own" in err) == (1, True)


def test_a_master_key_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["byok", "master-key"]) == 0
    first = capsys.readouterr().out.strip()
    assert key_bytes(first) is not None
    cli.main(["byok", "master-key"])
    assert capsys.readouterr().out.strip() != first
