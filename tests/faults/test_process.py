"""Process, machine, security: rows P1 to P13, S1 to S12."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import test_supply
from gateway import whole
from playbook import CHAT
from upstream import GUARD_S, SILENCE, STREAM_HEAD, ScriptedUpstream, Step, piece, plain

from faults import table
from faults.bench import CALLER_KEY, HOUSE_KEY, ROOT, Daemon, Misbehaving, block, daemon, holds_canary, launched
from faults.responses import SURFACES, asking, frames, terminator
from faults.sockets import activated, held_socket
from proxy.server.admin import Admin
from proxy.server.byok.admin import VaultAdmin
from proxy.server.keys.admin import KeyAdmin
from proxy.server.ledger.query import Decisions, Filter
from proxy.server.starting import LEDGER

HERE = "tests/faults/test_process.py"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        yield Path(made)


@asynccontextmanager
async def serving(place: Path, server: str = "") -> AsyncIterator[tuple[Daemon, Misbehaving]]:
    async with ScriptedUpstream() as upstream:
        provider = Misbehaving(upstream)
        blocks = []
        for tongue in SURFACES:
            slot = f"p-{tongue.surface}"
            provider.plays(slot, plain(tongue.answer("hello")))
            blocks.append(block(slot, provider.root(slot), tongue, "connections = 1000"))
        async with daemon("".join(blocks), place, server=server) as running:
            yield running, provider


def tell(number: str, done: str, saw: str, test: str, record: str = "-") -> None:
    table.tell(number, done, saw, record, test=f"{HERE}::{test}")


# -- the process -------------------------------------------------------------------------------------------------


async def refuses(port: int) -> None:
    async with asyncio.timeout(GUARD_S):
        while True:
            with socket.socket() as opened:
                try:
                    opened.connect(("127.0.0.1", port))
                except ConnectionRefusedError:
                    return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("streams", [30, pytest.param(500, marks=pytest.mark.slow)])
async def test_what_runs_finishes_within_the_drain_and_the_rest_is_told(place: Path, streams: int) -> None:
    async with serving(place, 'drain = "6s"\n') as (running, provider):
        go_on = asyncio.Event()
        for tongue in SURFACES:
            words = frames(tongue, "one", "two")
            cut = words.index(tongue.text("one")) + 1
            start: list[Step] = [STREAM_HEAD, *map(piece, words[:cut])]
            ending: list[Step] = [*start, go_on, *map(piece, words[cut:]), b"0\r\n\r\n"]
            provider.plays(f"p-{tongue.surface}", *[ending] * (streams // 6), [*start, SILENCE])
        asked = [SURFACES[number % 3] for number in range(streams)]
        under_way = [
            asyncio.ensure_future(running.post(tongue, asking(tongue, f"p-{tongue.surface}", stream=True)))
            for tongue in asked
        ]
        await provider.upstream.until(lambda it: len(it.seen) >= len(asked))
        running.signal(signal.SIGHUP)
        await running.says("table_loaded")
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGTERM)
        await refuses(running.port)
        go_on.set()
        finished = told = 0
        for tongue, one in zip(asked, under_way, strict=True):
            got = await one
            assert got.status == 200
            assert got.whole
            if terminator(tongue) in got.body:
                finished += 1
            else:
                assert b"shutting down" in got.body
                told += 1
        assert finished == streams // 6 * 3
        assert finished + told == len(asked)
        assert await running.ends() == 0
        rows = Decisions(running.state / LEDGER).page(Filter(), 1000).rows
        assert len(rows) == len(asked)
        assert {row["outcome"] for row in rows} == {"ok", "gateway_overloaded"}
    test = "test_what_runs_finishes_within_the_drain_and_the_rest_is_told"
    tell(
        "P1",
        "SIGTERM with 500 streams; half of them end within the drain",
        "no new connection; those end whole, the others in an error event; exit 0",
        test,
        "200, `ok`; 200, `gateway_overloaded`",
    )
    tell("P2", "SIGTERM twice; SIGHUP with streams open", "no crash, no stream disturbed; exit 0", test)


@pytest.mark.slow
async def test_interrupts_and_closed_pipes_end_nothing_badly(place: Path) -> None:
    async with serving(place) as (running, _):
        running.signal(signal.SIGPIPE)
        assert (await running.get("/healthz")).status == 200
        running.signal(signal.SIGINT)
        assert await running.ends() == 0


@pytest.mark.slow
async def test_restarts_through_the_socket_refuse_nobody(place: Path) -> None:
    async with ScriptedUpstream() as upstream, held_socket() as listener:
        provider = Misbehaving(upstream)
        provider.plays("p", plain(CHAT.answer("hello")))
        config = place / "routes.toml"
        text = whole(block("p", provider.root("p"), CHAT), 'drain = "5s"\n')
        config.write_text(text.replace('listen = ["127.0.0.1:0"]', 'listen = ["systemd"]'))
        running = await activated(listener, place, 0)
        stop = asyncio.Event()
        answered = []

        async def ask() -> None:
            while not stop.is_set():
                got = await running.post(CHAT, asking(CHAT, "p", stream=False))
                answered.append(got.status)

        asking_on = [asyncio.ensure_future(ask()) for _ in range(8)]
        for number in range(1, 6):
            await asyncio.sleep(0.2)
            running.signal(signal.SIGTERM)
            assert await running.ends() == 0
            running = await activated(listener, place, number)
        await asyncio.sleep(0.2)
        stop.set()
        await asyncio.gather(*asking_on)
        assert set(answered) == {200}
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0
    test = "test_restarts_through_the_socket_refuse_nobody"
    tell("P3", "5 restarts through a passed socket, under load", "no request refused, none reset", test, "200, `ok`")


@pytest.mark.slow
async def test_what_was_killed_comes_back_on_its_socket(place: Path) -> None:
    async with held_socket() as listener:
        config = place / "routes.toml"
        config.write_text(whole("").replace('listen = ["127.0.0.1:0"]', 'listen = ["systemd"]'))
        running = await activated(listener, place, 0)
        running.child.kill()
        await running.child.wait()
        waiting = asyncio.ensure_future(running.get("/healthz"))
        running = await activated(listener, place, 1)
        assert (await waiting).status == 200
        running.signal(signal.SIGTERM)
        assert await running.ends() == 0
    tell(
        "P4",
        "kill -9; started again by systemd's rule",
        "a connection made meanwhile waits, and is served",
        "test_what_was_killed_comes_back_on_its_socket",
    )


async def test_a_blocked_loop_gives_no_sign_of_life(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        env = {"NOTIFY_SOCKET": str(place / "notify"), "WATCHDOG_USEC": "200000"}
        async with daemon("", place, env=env) as running:
            while b"WATCHDOG=1" not in await loop.sock_recv(manager, 4096):
                continue
            running.signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            while True:
                try:
                    manager.recv(4096)
                except BlockingIOError:
                    break
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.6):
                    await loop.sock_recv(manager, 4096)
            running.signal(signal.SIGCONT)
            while b"WATCHDOG=1" not in await loop.sock_recv(manager, 4096):
                continue
    tell(
        "P5",
        "the loop stands still",
        "no sign of life reaches systemd, which restarts it after WatchdogSec",
        "test_a_blocked_loop_gives_no_sign_of_life",
    )


def unit_setting(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(\S+)$", (ROOT / "systemd/pointsman.service").read_text(), re.MULTILINE)
    return str(value)


def spent_by_children() -> float:
    """Seconds of processor: as long as a start takes where nobody else wants it."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


async def test_the_unit_ends_a_crash_loop(place: Path) -> None:
    """systemd's part is played by its rules, taken from the unit: so many starts at that pause fit into the interval,
    and none of them says that it is ready."""
    burst, interval = int(unit_setting("StartLimitBurst")), float(unit_setting("StartLimitIntervalSec"))
    pause = float(unit_setting("RestartSec").removesuffix("ms")) / 1000
    assert unit_setting("Restart") == "always"
    (place / "routes.toml").write_text('[server]\nlisten = ["127.0.0.1:0"]\nlistn = 1\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.setblocking(False)
        before, said = spent_by_children(), set()
        for _ in range(burst):
            env = {"NOTIFY_SOCKET": str(place / "notify")}
            started = await launched(place / "routes.toml", place / "state", place / "log", env)
            assert await started.ends() == 1
            said.add((place / "log").read_text())
            await asyncio.sleep(pause)
        assert spent_by_children() - before + burst * pause < interval
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
    (log,) = said
    assert "server.listn: unknown key; did you mean 'listen'?" in log
    assert "Traceback" not in log
    tell(
        "P6",
        "a table that never loads, started at the unit's own pace",
        "the same sentence and exit code 1 each time; the unit stops after 10 starts in a minute",
        "test_the_unit_ends_a_crash_loop",
    )


async def test_short_of_memory_new_work_is_refused(place: Path) -> None:
    async with serving(place, 'memory = "1MiB"\n') as (running, provider):
        await running.says("memory_high")
        go_on = asyncio.Event()
        provider.plays("p-chat", [go_on, *plain(CHAT.answer("hello"))])
        alone = asyncio.ensure_future(running.post(CHAT, asking(CHAT, "p-chat", stream=False)))
        await provider.upstream.asked()
        for tongue in SURFACES:
            got = await running.post(tongue, asking(tongue, f"p-{tongue.surface}", stream=False))
            assert (got.status, got.headers["retry-after"]) == (503, "1")
        assert (await running.get("/healthz")).status == 200
        go_on.set()
        assert (await alone).status == 200
    tell(
        "P7",
        "above the mark of `memory`",
        "503, `gateway_overloaded`, with Retry-After; health answers; what runs goes on",
        "test_short_of_memory_new_work_is_refused",
        "503, `gateway_overloaded`",
    )


@pytest.mark.slow
async def test_an_address_that_cannot_be_had_is_told(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (place / "routes.toml").write_text(
            f'[server]\nlisten = ["127.0.0.1:{taken.getsockname()[1]}"]\nadmin = "127.0.0.1:0"\n'
        )
        started = await launched(place / "routes.toml", place / "state", place / "log")
        assert await started.ends() == 3
    log = (place / "log").read_text()
    assert "another process listens there" in log
    assert "Traceback" not in log
    tell("P8", "the port in use", "a sentence, exit code 3, no traceback", "test_an_address_that_cannot_be_had_is_told")


@pytest.mark.slow
async def test_a_log_that_nobody_reads_holds_up_nobody(place: Path) -> None:
    async with ScriptedUpstream() as upstream:
        provider = Misbehaving(upstream)
        provider.plays("p", plain(CHAT.answer("hello")))
        config = place / "routes.toml"
        config.write_text(whole(block("p", provider.root("p"), CHAT)))
        read, write = os.pipe()
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy",
            "serve",
            "--config",
            str(config),
            env={**os.environ, "STATE_DIRECTORY": str(place / "state")},
            cwd=Path(__file__).parents[2],
            stderr=write,
        )
        os.close(write)
        text = b""
        while b'"event":"serving"' not in text and b'"serving"' not in text:
            text += await asyncio.to_thread(os.read, read, 65536)
        line = next(orjson.loads(raw) for raw in text.splitlines() if b'"serving"' in raw)
        running = Daemon(
            child, place / "log", place / "state", config, f"http://{line['listen'][0]}", f"http://{line['admin'][0]}"
        )
        for _ in range(200):
            got = await asyncio.gather(*(running.post(CHAT, asking(CHAT, "p", stream=False)) for _ in range(20)))
            assert {one.status for one in got} == {200}
        assert await running.metric("pointsman_log_dropped_total") > 0
        child.kill()
        await child.wait()
        os.close(read)
    tell(
        "P9",
        "a log pipe that nobody reads",
        "requests go on; lines are dropped and counted",
        "test_a_log_that_nobody_reads_holds_up_nobody",
        "200, `ok`",
    )


async def test_names_are_looked_up_late(place: Path) -> None:
    test = "test_names_are_looked_up_late"
    async with daemon(block("nowhere", "http://no-such-host.invalid", CHAT), place) as running:
        got = await running.post(CHAT, asking(CHAT, "nowhere", stream=False))
        assert got.status == 502
        row = await running.record(got.headers["x-request-id"])
        assert row["duration_ms"] >= 0
    tell(
        "P11",
        "no name resolves at start",
        "it starts; that provider's model is a 502",
        test,
        "502, `upstream_unreachable`",
    )


# -- security ----------------------------------------------------------------------------------------------------

nobody = cast(Any, None)
ROUTER = Admin(nobody, nobody, nobody, nobody, KeyAdmin(nobody, nobody), VaultAdmin(nobody, nobody), nobody).paths()
ADMIN = (*(path.replace("*", "x") for path in ROUTER if path.startswith("/admin")), "/ui")
TWISTED = ("/{0}", "//{0}", "/./{0}", "/%61dmin{1}", "/ADMIN{1}", "/x/../{0}", "/{0}?key=x", "/{0}%00")


@pytest.mark.slow
async def test_nothing_of_the_admin_is_served_to_whoever_has_no_right(place: Path) -> None:
    async with serving(place) as (running, _):
        for path in ADMIN:  # one after the other: the admin listener takes 64 connections
            paths = [twist.format(path[1:], path.removeprefix("/admin")) for twist in TWISTED]
            asked = [running.get(twisted, admin=admin) for twisted in paths for admin in (False, True)]
            for got in await asyncio.gather(*asked):
                assert got.status in (400, 401, 403, 404, 405)
                assert HOUSE_KEY.encode() not in got.body
        for host in ("evil.example", "localhost/admin/config", "127.0.0.1@evil.example"):
            port = int(running.admin.rpartition(":")[2])
            sent = f"GET /admin/config HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            assert (await running.raw(sent, port)).status in (400, 401, 403)
    test = "test_nothing_of_the_admin_is_served_to_whoever_has_no_right"
    tell(
        "S1",
        "all admin paths of the router over TCP, with `//`, `/./`, `%61`, other case, odd Hosts",
        "400, 401, 403 or 404",
        test,
        "no row",
    )
    tell("S2", "no admin key is made", "401: off, never open", test, "no row")


async def test_markup_templates_and_line_ends_stay_what_they_are(place: Path) -> None:
    test = "test_markup_templates_and_line_ends_stay_what_they_are"
    async with serving(place) as (running, provider):
        for model in ("<script>alert(1)</script>", "{{7*7}}", "a\r\nb\x1b[31mc"):
            got = await running.post(CHAT, asking(CHAT, model, stream=False), {"User-Agent": "<b>"})
            assert got.status == 404
            assert got.headers["content-type"] == "application/json"
        turn = [{"role": "user", "content": "{{7*7}}"}]
        await running.post(CHAT, {"model": "p-chat", "messages": turn})
        assert provider.seen["p-chat"][-1].json["messages"] == turn
        log = running.log.read_bytes()
        assert b"\x1b" not in log
        assert all(line.startswith(b"{") for line in log.splitlines())
    tell("S4", "markup as a model's name and user agent", "404 as JSON, never HTML", test, "404, `model_not_found`")
    tell("S6", "{{7*7}} as a model's name and a prompt", "not evaluated", test, "200, `ok`")
    tell(
        "S7",
        "CRLF and ANSI in a model's name",
        "404; one line of the log stays one line",
        test,
        "404, `model_not_found`",
    )


BRINGING = {
    "brings a provider's key": {"X-Nyuro-Key-p-chat": CALLER_KEY},
    "brings a key of its own": {"Authorization": f"Bearer {CALLER_KEY}", "Cookie": "sid=1", "OpenAI-Project": "evil"},
}


async def test_keys_are_nowhere_whoever_brings_them_and_whatever_fails(place: Path) -> None:
    test = "test_keys_are_nowhere_whoever_brings_them_and_whatever_fails"
    async with serving(place) as (running, provider):
        repeated = f"bad key {HOUSE_KEY} {CALLER_KEY}"
        told = b""
        refused = plain(CHAT.error("authentication_error", repeated), 401, X_Request_Id=HOUSE_KEY)
        failed = plain(CHAT.error("server_error", repeated), 500)
        for script in (plain(CHAT.answer("hello")), refused, failed, plain(repeated.encode(), 500, "text/html")):
            provider.plays("p-chat", script)
            for who, headers in BRINGING.items():
                got = await running.post(CHAT, asking(CHAT, "p-chat", stream=False, user=who), headers)
                told += got.body + str(got.headers).encode()
        await running.get(f"/v1/models?key={CALLER_KEY}")
        await running.get(f"/{CALLER_KEY}")
        await running.records(8)
        told += running.log.read_bytes() + (await running.get("/metrics", admin=True)).body
        told += b"".join(path.read_bytes() for path in running.state.iterdir() if path.is_file())
        assert holds_canary(told) == []
        assert all("cookie" not in seen.headers for seen in provider.seen["p-chat"])
        for seen in provider.seen["p-chat"]:
            assert (CALLER_KEY in str(seen.headers)) is (seen.json["user"] == "brings a provider's key")
            assert "evil" not in str(seen.headers)
    tell("S8", "a key in a query and in a path", "404 or 401", test, "in no log, record or metric")
    tell(
        "S9",
        "marked keys of ours and of callers through every fault",
        "in no answer",
        test,
        "in no log, record, metric or file",
    )
    tell("S11", "Cookie, X-Forwarded-*, Authorization of the client", "-", test, "the provider gets none of them")


async def built(place: Path) -> dict[str, bytes]:
    """The files of the package, as it is built of what is committed."""
    tree, out = place / "tree", place / "out"
    tree.mkdir()
    archive = await run("git", "archive", "--format=tar", "HEAD", cwd=ROOT)
    (place / "tree.tar").write_bytes(archive)
    await run("tar", "-xf", str(place / "tree.tar"), "-C", str(tree), cwd=place)
    alone = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    await run(sys.executable, "-m", "pip", "wheel", "-q", *alone, "-w", str(out), str(tree), cwd=place)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def run(*command: str, cwd: Path) -> bytes:
    child = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, told = await child.communicate()
    assert child.returncode == 0, told.decode()
    return out


async def test_what_is_installed_is_pinned_by_its_hash_and_built_of_what_is_committed(place: Path) -> None:
    """And `tests/test_supply.py` at length."""
    for lock in test_supply.LOCKS.values():
        test_supply.test_every_line_is_a_version_with_its_hashes(lock)
    test_supply.test_make_installs_nothing_else()
    test_supply.test_no_package_starts_with_python()
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout")
    (place / "again").mkdir()
    first, second = await built(place), await built(place / "again")
    assert first == second
    code = {name: content for name, content in first.items() if name.startswith("proxy/")}
    committed = {f"proxy/{path.relative_to(place / 'tree' / 'proxy')}": path for path in _files(place / "tree/proxy")}
    assert code == {name: path.read_bytes() for name, path in committed.items()}
    others = {name.partition("/")[2] for name in first.keys() - code.keys()}
    assert others == {"METADATA", "WHEEL", "entry_points.txt", "top_level.txt", "RECORD"}  # no .pth, and no script
    tell(
        "S12",
        "the lock files; the package, built twice of what is committed",
        "each file pinned by its hash, no install hook, no program that starts with Python; the same bytes each time",
        "test_what_is_installed_is_pinned_by_its_hash_and_built_of_what_is_committed",
    )
