"""Starts that are refused leave what runs alone."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from pathlib import Path

import pytest
from gateway import Start, provider, whole
from upstream import ScriptedUpstream

from proxy import app as composing
from proxy.app import App
from proxy.errors import UpstreamRefusedKey
from proxy.routing.names import Candidate
from proxy.routing.problems import TableRejected
from proxy.server.daemon import Notifier
from proxy.wire.splice import member_pattern


async def test_a_second_gateway_on_the_same_state_leaves_the_firsts_admin_socket(
    upstream: ScriptedUpstream, start: Start, home: Path
) -> None:
    first = await start(provider("first", upstream))
    other = home / "other.toml"
    other.write_text(whole(provider("first", upstream), f'state = "{home}"').replace(":0", f":{first.port}", 1))
    with pytest.raises(Exception, match=r"port|address|in use|ledger"):
        await App(other, env={**os.environ, "STATE_DIRECTORY": str(first.state)}).start()
    assert (await first.over_socket("GET", "/admin/providers")).status == 200


async def test_a_socket_that_systemd_passes_is_no_admin_listener(home: Path) -> None:
    config = home / "routes.toml"
    config.write_text('[server]\nlisten = ["127.0.0.1:0"]\nadmin = "systemd"\n')
    with pytest.raises(TableRejected, match=r"server\.admin"):
        await App(config, env={"STATE_DIRECTORY": str(home / "state")}).start()


async def test_a_replaced_credential_starts_with_a_clean_name(upstream: ScriptedUpstream, start: Start) -> None:
    running = await start(provider("first", upstream, keys=["canary-house-key-0001"]))
    assert running.app is not None
    gateway = running.app.gateway
    refused = UpstreamRefusedKey("no")
    gateway.current.world.health.failed(Candidate("first", "first", "native"), 0, refused, gateway.clock())
    assert gateway.current.world.health.key_cooling("first", 0, gateway.clock()) > 0
    running.config.write_text(running.config.read_text().replace("canary-house-key-0001", "canary-house-key-0002"))
    assert (await running.app.reloader.reload())[0]
    assert gateway.current.world.health.key_cooling("first", 0, gateway.clock()) == 0


async def test_whoever_waits_for_a_start_is_asked_for_patience_before_the_ledger_is_opened(home: Path) -> None:
    """A large one of an older version takes its time to be brought forward."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{made}/notify")
        manager.setblocking(False)
        config = home / "routes.toml"
        config.write_text(whole(""))
        app = App(config, env={"STATE_DIRECTORY": str(home / "state")}, notifier=Notifier(f"{made}/notify"))
        await app.start()
        await app.stop(drain=0)
        said = [manager.recv(4096).partition(b"\n")[0] for _ in range(3)]
    assert said == [b"EXTEND_TIMEOUT_USEC=30000000", b"READY=1", b"STOPPING=1"]


async def test_what_the_first_answers_need_not_wait_for_is_made_soon_afterwards(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composing, "SETTLED", 0)
    config = home / "routes.toml"
    config.write_text(whole(""))
    member_pattern.cache_clear()
    app = App(config, env={"STATE_DIRECTORY": str(home / "state")})
    await app.start()
    async with asyncio.timeout(20):
        while not member_pattern.cache_info().currsize:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await app.stop(drain=0)
