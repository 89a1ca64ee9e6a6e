"""`pointsman db`, with the gateway running and without."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from gateway import Start, provider
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from proxy import cli
from proxy.server.ledger.schema import open_writer
from proxy.server.starting import LEDGER

Told = tuple[int, str, str]
Command = Callable[..., Told]


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """`pointsman db …` on this state; exit code, stdout, stderr."""

    def run(*words: str) -> Told:
        capsys.readouterr()
        code = cli.main(["db", *words, "--state", str(home / "state"), "--config", str(home / "routes.toml")])
        told = capsys.readouterr()
        return code, told.out, told.err

    (home / "state").mkdir(exist_ok=True)
    return run


async def test_all_three_work_while_the_gateway_serves(
    start: Start, upstream: ScriptedUpstream, command: Command, home: Path
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")), plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream))
    assert (await gw.ask()).status == 200
    await gw.rows()
    code, out, err = await asyncio.to_thread(command, "check")
    assert (code, err) == (0, "")
    assert "decisions    1\n" in out
    assert out.endswith(": good\n")
    assert (await asyncio.to_thread(command, "vacuum"))[0] == 0
    code, out, _ = await asyncio.to_thread(command, "export")
    (line,) = out.splitlines()
    assert code == 0
    assert orjson.loads(line)["attempts"][0]["provider"] == "first"
    assert (await gw.ask()).status == 200
    assert len(await gw.rows(2)) == 2


def test_what_is_wrong_ends_with_one(command: Command, home: Path) -> None:
    path = home / "state" / LEDGER
    with closing(open_writer(path)) as connection:
        connection.execute("INSERT INTO spend VALUES ('key:k', 1, 5)")
        connection.execute(
            "INSERT INTO decisions (request_id, at_ms, surface, requested, stream, config, status, outcome,"
            " fallback_used, attempt_count, charged_nanos, estimated, duration_ms, bytes_committed, dropped)"
            " VALUES ('r', 5, 'chat', '', 0, '', 200, 'ok', 0, 0, 0, 0, 0, 0, '[]')"
        )
    code, out, err = command("check")
    assert code == 1
    assert "key:k, 1970-01-02: the rows sum to 0 nano-USD, and 5 are counted as spent" in err
    assert out.endswith(": 1 problems\n")
    found = orjson.loads(command("check", "--json", "--quick")[1])
    assert (found["good"], len(found["problems"])) == (False, 1)


def test_a_file_of_an_export_is_private_and_not_written_over(command: Command, home: Path, tmp_path: Path) -> None:
    open_writer(home / "state" / LEDGER).close()
    target = tmp_path / "decisions.csv"
    assert command("export", "decisions", "--format", "csv", "-o", str(target)) == (0, "", "")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_text().startswith("request_id,")
    code, _, err = command("export", "-o", str(target))
    assert (code, "--force" in err) == (1, True)
    assert command("export", "-o", str(target), "--force")[0] == 0
    assert target.read_text() == ""


def test_without_a_ledger_there_is_a_sentence(command: Command, home: Path) -> None:
    for words in (["check"], ["vacuum"], ["export"]):
        code, out, err = command(*words)
        assert (code, out) == (3, "")
        assert "there is no such file" in err
    assert not (home / "state" / LEDGER).exists()


def test_plans_do_not_go_into_csv(command: Command) -> None:
    assert command("export", "--plans", "--format", "csv")[0] == 2
