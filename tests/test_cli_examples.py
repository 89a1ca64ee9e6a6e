"""Every example that `pointsman keys`, `byok`, `db` and `import litellm` print under --help, typed into a shell as it
stands: with the gateway running, and without."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from gateway import process, whole

from proxy.accounts.keys import Key
from proxy.cli import _parser
from proxy.server.keys.store import KeyStore
from proxy.server.ledger.schema import open_writer
from proxy.server.starting import LEDGER

ROOT = Path(__file__).parents[1]
GROUPS = ("keys", "byok", "db", "import")
TABLE = """
[providers.openai]
dialects = ["openai-chat"]
base_url = "http://127.0.0.1:9/v1"
api_key = "${NOBODY_SETS_THIS}"
[projects.team-a]
"""
LITELLM = "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, api_key: os.environ/KEY}}]\n"
MASTER = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


def examples(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Of a command, and of the commands below it."""
    lines = (parser.epilog or "").splitlines()
    yield from (line.strip() for line in lines if line.strip().startswith("pointsman "))
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from examples(below)


def of_group(name: str) -> list[str]:
    """In the order in which they are printed, the group's own first."""
    (commands,) = [it for it in _parser()._actions if isinstance(it, argparse._SubParsersAction)]
    return list(dict.fromkeys(examples(commands.choices[name])))


def test_there_are_examples_of_every_verb() -> None:
    told = {name: of_group(name) for name in GROUPS}
    verbs = {name: {line.split()[2] for line in lines} for name, lines in told.items()}
    assert verbs == {
        "keys": {"create", "list", "show", "rotate", "revoke"},
        "byok": {"set", "rotate", "list", "delete", "master-key"},
        "db": {"check", "vacuum", "export"},
        "import": {"litellm"},
    }


async def typed(line: str, home: Path) -> tuple[int, str]:
    """Exit code, and what was printed."""
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    env = {
        **os.environ,
        "PATH": path,
        "STATE_DIRECTORY": str(home / "state"),
        "POINTSMAN_CONFIG": str(home / "routes.toml"),
    }
    shell = await asyncio.create_subprocess_shell(
        line, cwd=home / "desk", env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await shell.communicate()
    assert shell.returncode is not None
    return shell.returncode, told.decode()


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it does not"])
async def test_every_example_works_as_it_is_printed(running: bool, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_MASTER_KEY", MASTER)
    for name in ("bin", "state", "desk"):
        (home / name).mkdir()
    shim = home / "bin" / "pointsman"
    shim.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m proxy "$@"\n')
    shim.chmod(0o755)
    (home / "desk" / "key.txt").write_text("sk-0123456789abcdef\n")
    (home / "desk" / "config.yaml").write_text(LITELLM)
    (home / "routes.toml").write_text(whole(TABLE))
    open_writer(home / "state" / LEDGER).close()
    KeyStore(home / "state" / LEDGER).add(Key("8kTq0ZbX41pd", "docs", "neu", b"0" * 32, "", 0))
    async with AsyncExitStack() as stack:
        if running:
            await stack.enter_async_context(process(TABLE, home))
        for group in GROUPS:
            for line in of_group(group):
                (home / "desk" / "routes.toml").unlink(missing_ok=True)  # no example writes over another's file
                code, told = await typed(line.replace("/var/lib/pointsman", str(home / "state")), home)
                assert code == 0, (line, told)
    written = {path.name for path in (home / "desk").iterdir()}
    assert written >= {"master-key", "decisions.jsonl", "attempts.csv"}
