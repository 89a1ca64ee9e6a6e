"""A start in two steps: data is served while the rest is read, and nobody is told that all is up before it is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from gateway import provider, whole
from playbook import CHAT, MESSAGES
from upstream import ScriptedUpstream, plain

from proxy import app as composing
from proxy.app import App
from proxy.server.daemon import Notifier

ROOT = Path(__file__).parents[2]
MOST = 24  # modules of ours that are read in one go

LOOKING = """
import asyncio, json, sys
from pathlib import Path
from proxy.cli import _parser
_parser("serve")
from proxy import app
from proxy.server import behind

said = {}
ours = lambda: {name for name in sys.modules if name.startswith("proxy.")}

async def read_behind(busy):
    said["sooner"] = [name for name in behind.BEHIND if name in sys.modules]
    said["steps"] = []
    for name in behind.BEHIND:
        before = ours()
        __import__(name)
        said["steps"].append(len(ours() - before))
    said["all"] = sorted(ours())

async def main():
    app.read_behind = read_behind
    one = app.App(Path(sys.argv[1]))
    await one.start()
    said["later"] = sorted(ours() - set(said.pop("all")))
    await one.stop(drain=0)
    print(json.dumps(said))

asyncio.run(main())
"""


def test_what_can_wait_is_read_in_small_steps_and_neither_sooner_nor_later(tmp_path: Path) -> None:
    config = tmp_path / "routes.toml"
    config.write_text(whole(provider("first", "http://127.0.0.1:9") + provider("second", "http://p.test", MESSAGES)))
    told = subprocess.run(
        [sys.executable, "-c", LOOKING, config],
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    said = json.loads(told.stdout.splitlines()[-1])
    assert (said["sooner"], said["later"]) == ([], [])
    assert max(said["steps"]) <= MOST


async def test_data_is_served_before_the_rest_is_read_and_nobody_is_told_that_all_is_up(
    upstream: ScriptedUpstream, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, read = asyncio.Event(), asyncio.Event()

    async def reading(busy: object) -> None:
        begun.set()
        await read.wait()

    monkeypatch.setattr(composing, "read_behind", reading)
    config = home / "routes.toml"
    config.write_text(whole(provider("first", upstream)))
    with tempfile.TemporaryDirectory(prefix="pm-") as made, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{made}/notify")
        manager.setblocking(False)
        app = App(config, env={"STATE_DIRECTORY": str(home / "state")}, notifier=Notifier(f"{made}/notify"))
        starting = asyncio.ensure_future(app.start())
        async with asyncio.timeout(20):
            await begun.wait()
        upstream.plays(plain(CHAT.answer("hello")))
        admin = await asyncio.open_connection(*app._admin_sockets[0].getsockname())
        admin[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"hello" in await _asked(app)
        assert not starting.done()
        assert _heard(manager) == [b"EXTEND_TIMEOUT_USEC=30000000"]
        read.set()
        await starting
        assert (await admin[0].read()).startswith(b"HTTP/1.1 200")
        assert _heard(manager) == [b"READY=1"]
        admin[1].close()
        await app.stop(drain=0)


async def test_a_table_that_changes_while_the_rest_is_read_serves_once_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = home / "routes.toml"
    config.write_text(whole(""))
    changed = whole(provider("first", "http://127.0.0.1:9"))

    async def changing(busy: object) -> None:
        config.write_text(changed)

    monkeypatch.setattr(composing, "read_behind", changing)
    app = App(config, env={"STATE_DIRECTORY": str(home / "state")})
    await app.start()
    moved = asyncio.Event()
    app._moved = (*app._moved, moved.set)
    if "first" not in app.gateway.current.table.providers:
        async with asyncio.timeout(20):
            await moved.wait()
    assert "first" in app.gateway.current.table.providers
    await app.stop(drain=0)


async def test_where_the_rest_cannot_be_read_nothing_stays_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    async def broken(busy: object) -> None:
        opened.extend(it.getsockname() for it in (*app._sockets, *app._admin_sockets))
        raise SyntaxError("broken")

    monkeypatch.setattr(composing, "read_behind", broken)
    config = home / "routes.toml"
    config.write_text(whole(""))
    app = App(config, env={"STATE_DIRECTORY": str(home / "state")})
    with pytest.raises(SyntaxError):
        await app.start()
    assert len(opened) == 3
    for address in opened:
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
            assert client.connect_ex(address) != 0


@pytest.mark.parametrize(
    "name",
    [
        "proxy.dialects.anthropic",
        pytest.param("proxy.server.admin", marks=pytest.mark.slow),
        pytest.param("proxy.cli.serve", marks=pytest.mark.slow),
    ],
)
def test_a_broken_file_ends_the_process_whenever_it_is_read(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "proxy", tmp_path / "proxy")
    file = tmp_path / name.replace(".", "/")
    broken = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    broken.write_text("def broken(:\n")
    config = tmp_path / "routes.toml"
    config.write_text(whole(""))
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", config],
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert ended.returncode == 1
    *_, file_told, _, _, last = ended.stderr.splitlines()
    assert (str(broken) in file_told, last) == (True, "SyntaxError: invalid syntax")
    assert '"serving"' not in ended.stderr
    assert not (tmp_path / "state" / "admin.sock").exists()


async def _asked(app: App) -> bytes:
    body = json.dumps(CHAT.request("first")).encode()
    host, _, port = app.addresses[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    return answer


def _heard(manager: socket.socket) -> list[bytes]:
    """The first line of each message that has come."""
    said = []
    while True:
        try:
            said.append(manager.recv(4096).partition(b"\n")[0])
        except BlockingIOError:
            return said
