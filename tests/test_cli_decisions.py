"""`pointsman decisions`: whose requests, and how they went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from gateway import Start, provider
from keyed import make
from playbook import CHAT
from upstream import ScriptedUpstream, plain

from proxy import cli


@pytest.fixture
def found(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The ids of the requests that these words choose."""

    def run(*words: str) -> list[str]:
        capsys.readouterr()
        assert cli.main(["decisions", "--json", *words, "--state", str(home / "state")]) == 0
        return [row["request_id"] for row in orjson.loads(capsys.readouterr().out)]

    return run


async def test_decisions_are_found_by_who_asked_and_how_it_went(
    start: Start, upstream: ScriptedUpstream, found: Callable[..., list[str]]
) -> None:
    upstream.plays(plain(CHAT.answer("Hello.")))
    gw = await start(provider("first", upstream) + "[projects.x]\n[projects.y]\n")
    keys = [await make(gw, "a", project="x"), await make(gw, "b", project="y"), await make(gw, "c", project="y")]
    asked = [(await gw.ask(headers=key.bearer)).request_id for key in keys]
    asked.append((await gw.ask(model="nobody", headers=keys[0].bearer)).request_id)
    await gw.rows(4)
    words: dict[tuple[str, ...], list[int]] = {
        ("--project", "x"): [3, 0],
        ("--project", "y"): [2, 1],
        ("--key", keys[2].id): [2],
        ("--project", "x", "--failed"): [3],
        ("--project", "nobody"): [],
    }
    for chosen, numbers in words.items():
        assert await asyncio.to_thread(found, *chosen) == [asked[number] for number in numbers]
