"""A new table takes effect at once, wholly or not at all, and costs no request."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from gateway import Running, Start, process, provider, serve, settles, whole
from playbook import CHAT
from upstream import Script, ScriptedUpstream, plain, streamed

from proxy.server.clients.listener import Listener
from proxy.server.daemon import client_connections

LOOPS = ("uvloop",)


def generation(upstream: ScriptedUpstream, number: int) -> str:
    """A table whose every part says which one it is: header prefix, model's native name, key and alias."""
    model = {"m": ""}
    block = provider("first", upstream, keys=[f"canary-key-of-{number:04}"], models=model)
    return block.replace("native-of-m", f"native-{number}") + f'[aliases]\n"gen-{number}" = "m"\n'


def table(upstream: ScriptedUpstream, number: int) -> str:
    return whole(generation(upstream, number), f'header_prefix = "X-G{number}-"')


def by_rename(config: Path, text: str) -> None:
    new = config.with_suffix(".new")
    new.write_text(text)
    new.rename(config)


def by_writing(config: Path, text: str) -> None:
    config.write_text(text)


def by_deleting(config: Path, text: str) -> None:
    config.unlink()
    config.write_text(text)


def by_symlink(config: Path, text: str) -> None:
    """As Kubernetes does it: `routes.toml -> ..data/routes.toml`, and `..data` is swapped."""
    home = config.parent
    new = home / f"..{len(list(home.iterdir()))}"
    new.mkdir()
    (new / config.name).write_text(text)
    link = home / "..data.tmp"
    link.symlink_to(new.name)
    link.rename(home / "..data")
    if not config.is_symlink():
        made = home / "link.tmp"
        made.symlink_to(f"..data/{config.name}")
        made.rename(config)


WAYS: dict[str, Callable[[Path, str], None]] = {
    "a rename": by_rename,
    "truncate and write": by_writing,
    "delete and come back": by_deleting,
    "a symlink swap": by_symlink,
}


async def serves(gw: Running, revision_of: str) -> None:
    """Until the table of that text serves."""
    wanted = "sha256:" + hashlib.sha256(revision_of.encode()).hexdigest()[:16]
    await settles(lambda: gw.app is not None and gw.app.gateway.current.table.revision == wanted)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_every_way_to_replace_the_file_is_seen(
    upstream: ScriptedUpstream, start: Start, way: Callable[[Path, str], None]
) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    for number in (1, 2):
        text = table(upstream, number)
        way(gw.config, text)
        await serves(gw, text)
        answer = await gw.ask(CHAT, f"gen-{number}")
        assert answer.headers[f"X-G{number}-Model"] == "m"
        assert upstream.seen[-1].json["model"] == f"native-{number}"


BAD = {
    "not TOML": "[server\n",
    "an unknown key": whole("[retry]\ntires = 2\n"),
    "a wrong type": whole("[retry]\ntries = 'two'\n"),
    "a dangling reference": whole('[aliases]\na = "no-such-model"\n'),
    "a project of nobody's": whole('[projects.a]\nparent = "b"\n'),
    "nothing": "",
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
async def test_a_bad_file_changes_nothing_and_says_why(upstream: ScriptedUpstream, start: Start, text: str) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    before = (await gw.ask(CHAT)).headers["X-Nyuro-Config"]
    gw.config.write_bytes(text.encode("utf-8", "surrogateescape"))
    with structlog.testing.capture_logs() as lines:
        answer = await gw.over_socket("POST", "/admin/reload", {})
    assert answer.status == 422
    assert answer.json["reloaded"] is False
    assert answer.json["config"] == before
    assert answer.json["message"]
    rejected = [line for line in lines if line["event"] == "table_rejected"]
    assert all(line["reason"] == answer.json["message"] for line in rejected)
    assert (await gw.ask(CHAT)).headers["X-Nyuro-Config"] == before


async def test_a_deleted_file_leaves_the_table(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    gw.config.unlink()
    assert (await gw.over_socket("POST", "/admin/reload", {})).status == 422
    assert (await gw.ask(CHAT)).status == 200


async def test_a_reload_says_what_only_a_restart_changes(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    with structlog.testing.capture_logs() as lines:
        gw.config.write_text(whole(provider("first", upstream), "ledger_days = 7"))
        await gw.over_socket("POST", "/admin/reload", {})
    assert "server.ledger_days" in [line.get("key") for line in lines if line["event"] == "restart_needed"]


async def test_a_reload_shares_the_descriptors_anew(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    assert gw.app is not None
    listener = gw.app._listeners[0]
    assert isinstance(listener, Listener)
    before, gw.app._open_files = listener.most, 3_000
    with structlog.testing.capture_logs() as lines:
        for connections, concurrency in ((500, 2_300), (2_500, 1_400), (2_500, 1_500), (2_500, 1_500), (500, 1_500)):
            block = provider("first", upstream, more=f"connections = {connections}")
            gw.config.write_text(whole(block, f"concurrency = {concurrency}"))
            await gw.over_socket("POST", "/admin/reload", {})
            assert listener.most == client_connections(3_000, connections) != before
    assert len([line for line in lines if line["event"] == "open_files_low"]) == 1


async def test_a_removed_providers_streams_finish_however_many_reloads_come(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    go_on = asyncio.Event()
    upstream.plays(streamed([*CHAT.stream("one ")[:2], go_on, CHAT.text("two"), CHAT.finish, CHAT.end]))
    client = await gw.connect()
    await client.request(CHAT, CHAT.request(stream=True), "Connection: close")
    await client.until(b"one ")
    assert gw.app is not None
    tables = [provider("first", upstream) + "# a comment\n", provider("other", second), provider("third", second)]
    for text in tables:
        gw.config.write_text(whole(text))
        assert (await gw.over_socket("POST", "/admin/reload", {})).json["reloaded"] is True
        await gw.app.reloader.builder.pool.sweep()
    assert upstream.open == 1
    go_on.set()
    assert (await client.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    await gw.quiet()
    await gw.app.reloader.builder.pool.sweep()
    await upstream.until(lambda it: it.open == 0)
    assert (await gw.ask(CHAT)).status == 404


async def test_a_reload_keeps_the_connections_of_what_it_leaves_alone(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(provider("first", upstream))
    upstream.plays(plain(CHAT.answer("ok")))
    await gw.ask(CHAT)
    gw.config.write_text(whole(provider("first", upstream, keys=["canary-another-key"])))
    await gw.over_socket("POST", "/admin/reload", {})
    await gw.ask(CHAT)
    assert [seen.connection for seen in upstream.seen] == [1, 1]
    assert upstream.seen[1].headers["authorization"] == "Bearer canary-another-key"


async def test_health_outlives_a_reload(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    blocks = (
        provider("first", upstream) + provider("second", second) + '[profiles.p]\ncandidates = ["first", "second"]\n'
    )
    gw = await start(blocks)
    upstream.plays(plain(b"{}"))
    second.plays(plain(CHAT.answer("ok")))
    for _ in range(3):
        await gw.ask(CHAT, "profile:p")
    gw.config.write_text(whole(blocks + "# again\n"))
    await gw.over_socket("POST", "/admin/reload", {})
    assert (await gw.ask(CHAT, "profile:p")).headers["X-Nyuro-Candidates"] == "second,first"


async def storm(upstream: ScriptedUpstream, gw: Running, requests: int, reloads: int) -> None:
    """Requests in flight while the file is replaced; every fifth file is broken."""
    gate, waiting = asyncio.Event(), asyncio.Event()

    def echo(seen: Any) -> Script:
        if len(upstream.seen) >= requests // 2:
            waiting.set()
        key, native = seen.headers["authorization"].rpartition("-")[2], seen.json["model"]
        text = f"{int(key)}/{native.rpartition('-')[2]}"
        if seen.json.get("stream"):
            return streamed([*CHAT.stream(text)[:2], gate, CHAT.text("."), CHAT.finish, CHAT.end])
        return [gate, *plain(CHAT.answer(text))]

    upstream.answers(echo)

    async def one(number: int) -> None:
        stream = bool(number % 2)
        answer = await gw.ask(CHAT, "m", stream=stream)
        assert answer.status == 200
        said = CHAT.read_stream(answer.body).rstrip(".") if stream else CHAT.read_text(answer.json)
        key, _, native = said.partition("/")
        prefixes = {name.split("-")[1] for name in answer.headers if name.startswith("X-G")}
        assert {key, native} == {key}
        assert prefixes == {f"G{key}"}

    asking = [asyncio.ensure_future(one(number)) for number in range(requests)]
    for number in range(1, reloads + 1):
        if number % 5 == 0:
            gw.config.write_text("[broken")
        else:
            by_rename(gw.config, table(upstream, number))
        taken = (await gw.over_socket("POST", "/admin/reload", {})).json["reloaded"]
        assert taken is (number % 5 != 0)
        asking += [asyncio.ensure_future(one(number * requests + extra)) for extra in range(2)]
    gate.set()
    await asyncio.gather(*asking)
    assert len(upstream.seen) == len(asking)


async def test_requests_in_flight_notice_no_reload(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(generation(upstream, 0), 'header_prefix = "X-G0-"')
    await storm(upstream, gw, requests=50, reloads=10)


@pytest.mark.slow
async def test_500_requests_in_flight_notice_none_of_50_reloads(upstream: ScriptedUpstream, start: Start) -> None:
    gw = await start(
        generation(upstream, 0).replace("[models", "connections = 2000\n[models", 1), 'header_prefix = "X-G0-"'
    )
    await storm(upstream, gw, requests=500, reloads=50)


async def test_however_many_hang_ups_come_during_a_reload_it_takes_one_more(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream))
    app = gw.app
    assert app is not None
    with structlog.testing.capture_logs() as lines:
        async with app.reloader._busy:  # one is under way
            for _ in range(50):
                app.hung_up.set()
                await asyncio.sleep(0)
        await settles(lambda: not app.hung_up.is_set() and not app.reloader._busy.locked())
    assert [line["event"] for line in lines].count("table_loaded") in (1, 2)


async def test_reloads_that_are_asked_for_during_one_are_one_more(upstream: ScriptedUpstream, start: Start) -> None:
    """Whoever leaves meanwhile takes nobody along."""
    gw = await start(provider("first", upstream))
    assert gw.app is not None
    reloader = gw.app.reloader
    with structlog.testing.capture_logs() as lines:
        async with reloader._busy:  # one is under way
            asked = [asyncio.ensure_future(reloader.reload(force=number % 2 == 1)) for number in range(50)]
            for number in (0, 1, 25, 49):
                await asyncio.sleep(0)
                asked[number].cancel()
                await asyncio.sleep(0)
            by_rename(gw.config, table(upstream, 3))
        told = await asyncio.gather(*asked, return_exceptions=True)
    left = [one for one in told if isinstance(one, asyncio.CancelledError)]
    revision = gw.app.gateway.current.table.revision
    assert (len(left), [one for one in told if one not in left]) == (4, [(True, f"{revision} serves")] * 46)
    assert [line["event"] for line in lines].count("table_loaded") == 1
    await serves(gw, table(upstream, 3))


# -- the real process --------------------------------------------------------------------------------------------


async def test_the_process_reloads_on_sighup_and_ends_on_sigterm(upstream: ScriptedUpstream, home: Path) -> None:
    async with process(generation(upstream, 0), home, server='header_prefix = "X-G0-"') as (gw, child):
        upstream.plays(plain(CHAT.answer("ok")))
        assert "X-G0-Model" in (await gw.ask(CHAT, "gen-0")).headers
        by_rename(gw.config, table(upstream, 1))
        child.signal(signal.SIGHUP)
        await child.says("table_loaded")
        assert "X-G1-Model" in (await gw.ask(CHAT, "gen-1")).headers
        gw.config.write_text("[broken")
        child.signal(signal.SIGHUP)
        rejected = await child.says("table_rejected")
        assert "not TOML" in rejected["reason"]
        assert "X-G1-Model" in (await gw.ask(CHAT, "gen-1")).headers
        child.signal(signal.SIGTERM)
        assert await child.ends() == 0
        assert child.lines[-1]["event"] == "stopped"
        assert "canary" not in str(child.lines)


async def refused(gw: Running) -> None:
    """Connects until nobody accepts any more."""
    while True:
        (await gw.connect()).leave()


@pytest.mark.slow
async def test_a_stream_outlives_sigterm(upstream: ScriptedUpstream, home: Path) -> None:
    async with process(provider("first", upstream), home) as (gw, child):
        go_on = asyncio.Event()
        upstream.plays(streamed([*CHAT.stream("one")[:2], go_on, CHAT.finish, CHAT.end]))
        client = await gw.connect()
        await client.request(CHAT, CHAT.request(stream=True))
        await client.until(b"one")
        child.signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            await refused(gw)
        go_on.set()
        assert b"data: [DONE]" in await client.rest()
        assert await child.ends() == 0
        row = await gw.row()
        assert (row["status"], row["outcome"]) == (200, "ok")


@pytest.mark.slow
async def test_a_process_with_a_bad_table_says_so_and_exits_with_1(home: Path) -> None:
    (home / "routes.toml").write_text("[server]\nlisten = ['0.0.0.0:0']\nnonsense = 1\n")
    child = await serve(home / "routes.toml", home / "state")
    assert child.child.stderr is not None
    told = await child.child.stderr.read()
    assert await child.child.wait() == 1
    assert b"nonsense" in told
    assert b"Traceback" not in told


@pytest.mark.slow
async def test_sigkill_loses_no_row_that_was_written(upstream: ScriptedUpstream, home: Path) -> None:
    async with process(provider("first", upstream), home) as (gw, child):
        upstream.plays(plain(CHAT.answer("ok")))
        answer = await gw.ask(CHAT)
        row = await gw.row(answer.request_id)
        child.child.kill()
        await child.child.wait()
        assert await gw.row(answer.request_id) == row


@pytest.mark.slow
async def test_the_watch_alone_reloads_the_process(upstream: ScriptedUpstream, home: Path) -> None:
    async with process(generation(upstream, 0), home, server='header_prefix = "X-G0-"') as (gw, child):
        by_rename(gw.config, table(upstream, 7))
        await child.says("table_loaded")
        upstream.plays(plain(CHAT.answer("ok")))
        assert "X-G7-Model" in (await gw.ask(CHAT, "gen-7")).headers
        assert (await upstream.asked()).json["model"] == "native-7"
