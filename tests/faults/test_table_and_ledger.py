"""What happens to the table and to the ledger: rows G1 to G11, L1 to L14. L4 is `tests/server/test_killed.py`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from playbook import CHAT
from upstream import ScriptedUpstream, piece, plain

from faults import table
from faults.bench import Daemon, Misbehaving, block, checked, daemon, launched
from faults.responses import asking, frames
from proxy.server.ledger.schema import open_writer
from proxy.server.starting import LEDGER

HERE = "tests/faults/test_table_and_ledger.py"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        yield Path(made)


@asynccontextmanager
async def serving(place: Path, more: str = "") -> AsyncIterator[tuple[Daemon, Misbehaving]]:
    async with ScriptedUpstream() as upstream:
        provider = Misbehaving(upstream)
        provider.plays("p", plain(CHAT.answer("hello")))
        provider.plays("q", plain(CHAT.answer("other")))
        blocks = block("p", provider.root("p"), CHAT) + block("q", provider.root("q"), CHAT)
        async with daemon(blocks + '[aliases]\nnow = "p"\n' + more, place) as running:
            yield running, provider


async def says(running: Daemon, model: str = "now") -> str:
    got = await running.post(CHAT, asking(CHAT, model, stream=False))
    return CHAT.read_text(got.json) if got.status == 200 else str(got.status)


def tell(number: str, done: str, saw: str, test: str, record: str = "-") -> None:
    table.tell(number, done, saw, record, test=f"{HERE}::{test}")


def replaced(running: Daemon, text: str) -> None:
    new = running.config.with_name("new.toml")
    new.write_text(text)
    new.rename(running.config)


# -- the table ---------------------------------------------------------------------------------------------------


async def test_a_good_file_is_seen_however_it_is_written_and_a_bad_one_changes_nothing(place: Path) -> None:
    test = "test_a_good_file_is_seen_however_it_is_written_and_a_bad_one_changes_nothing"
    async with serving(place) as (running, _):
        good = running.config.read_text()
        other = good.replace('now = "p"', 'now = "q"')
        replaced(running, other)
        await running.says("table_loaded", 1)
        assert await says(running) == "other"
        tell("G1", "replaced by rename", "the next request is of the new table", test)
        half = good[: len(good) // 2] + "\n[[["
        running.config.write_text(half)
        await running.says("table_rejected", 1)
        assert await says(running) == "other"
        assert await running.metric("pointsman_config_last_reload_successful") == 0
        running.config.write_text(good)
        await running.says("table_loaded", 2)
        assert await says(running) == "hello"
        tell("G2", "half a file, then all of it", "the half is refused, in log and metrics; then the new table", test)
        for number, (bad, told) in enumerate(BAD.items(), start=2):
            replaced(running, good + "\n" + bad)
            reason = (await running.says("table_rejected", number))["reason"]
            assert told in reason
            assert await says(running) == "hello"
        assert told in await checked(running.config)
        tell(
            "G3",
            "no TOML, a name twice, unknown keys, wrong types, a bad URL, a file of a key that is not there",
            "refused whole, each with its place, by `check` with exit code 1 as well; the old table serves",
            test,
        )


OTHER = '[providers.a]\ndialect = "openai-chat"\n'
# what is written behind a good table -> where it is told to be wrong
BAD = {
    "x = \ny = 1": "line",
    "[providers.p]\nlocal = true": "line",
    "[health]\nfailure = 1": "health.failure",
    "[retry]\ntries = 'two'": "retry.tries",
    f'{OTHER}base_url = "no"': "providers.a",
    f'{OTHER}base_url = "http://a.invalid"\napi_key = "file:/no/such/file"': "providers.a",
}


@pytest.mark.slow
async def test_a_file_that_is_gone_or_is_no_file_changes_nothing(place: Path) -> None:
    async with serving(place) as (running, _):
        good = running.config.read_text()
        for number, spoil in enumerate((_gone, _directory, _fifo, _empty, _vast)):
            spoil(running.config)
            running.signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                while await running.metric("pointsman_config_last_reload_successful"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert await says(running) == "hello", spoil
            if running.config.is_dir():
                running.config.rmdir()
            replaced(running, good + f"# {number}\n")
            async with asyncio.timeout(20):
                while not await running.metric("pointsman_config_last_reload_successful"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    tell(
        "G4",
        "deleted; a directory; a FIFO; empty; 100 MB",
        "the old table serves; the loader does not hang",
        "test_a_file_that_is_gone_or_is_no_file_changes_nothing",
    )


def _gone(path: Path) -> None:
    path.unlink()


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _empty(path: Path) -> None:
    path.unlink()
    path.write_text("")


def _vast(path: Path) -> None:
    with path.open("w") as file:
        file.truncate(100 << 20)


@pytest.mark.slow
async def test_a_swap_of_symbolic_links_is_seen(place: Path) -> None:
    async with serving(place) as (running, _):
        good = running.config.read_text()
        for name, text in (("..one", good), ("..two", good.replace('now = "p"', 'now = "q"'))):
            (place / name).mkdir()
            (place / name / "routes.toml").write_text(text)
        (place / "..data").symlink_to("..one")
        (place / "link").symlink_to("..data/routes.toml")
        (place / "link").rename(running.config)
        running.signal(signal.SIGHUP)
        await asyncio.sleep(0.3)
        (place / "..next").symlink_to("..two")
        (place / "..next").rename(place / "..data")
        async with asyncio.timeout(20):
            while await says(running) != "other":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    tell(
        "G5",
        "`..data` swapped as Kubernetes does",
        "the next request is of the new table",
        "test_a_swap_of_symbolic_links_is_seen",
    )


@pytest.mark.slow
async def test_a_storm_of_reloads_leaves_the_last_content_and_nothing_behind(place: Path) -> None:
    async with serving(place) as (running, _):
        good = running.config.read_text()
        assert await says(running) == "hello"
        before = running.usage()[1]
        for number in range(1_000):
            replaced(running, good.replace('now = "p"', f'now = "{"pq"[number % 2]}"') + f"# {number}\n")
            running.signal(signal.SIGHUP)
            if number % 50 == 0:
                assert await says(running) in ("hello", "other")
        async with asyncio.timeout(20):
            while await says(running) != "other":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert running.usage()[1] <= before + 8
    tell(
        "G6",
        "1,000 replacements and as many SIGHUPs, as fast as they go",
        "no request fails; the last content serves; no descriptor is left",
        "test_a_storm_of_reloads_leaves_the_last_content_and_nothing_behind",
    )


async def test_a_stream_outlives_its_provider_in_the_table(place: Path) -> None:
    async with serving(place) as (running, provider):
        go_on, words = asyncio.Event(), frames(CHAT, "one", "two")
        begun = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"]
        provider.plays("p", [*begun, *map(piece, words[:2]), go_on, *map(piece, words[2:]), b"0\r\n\r\n"])
        stream = asyncio.ensure_future(running.post(CHAT, asking(CHAT, "p", stream=True)))
        await provider.upstream.asked()
        good = running.config.read_text()
        start = good.index("[providers.q]")
        head = good[: good.index("[providers.p]")]
        replaced(running, head + good[start:].replace('now = "p"', 'now = "q"'))
        await running.says("table_loaded")
        assert await says(running, "p") == "404"
        await asyncio.sleep(1.2)
        go_on.set()
        assert CHAT.read_stream((await stream).body) == "onetwo"
    tell(
        "G7",
        "a provider removed while its stream runs",
        "the stream ends whole; the next request gets 404",
        "test_a_stream_outlives_its_provider_in_the_table",
        "200, `ok`",
    )


@pytest.mark.slow
async def test_ten_thousand_requests_over_twenty_reloads_lose_none(place: Path) -> None:
    async with serving(place) as (running, _):
        good = running.config.read_text()
        done = asyncio.Event()

        async def reloads() -> None:
            for number in range(20):
                replaced(running, good.replace('now = "p"', f'now = "{"pq"[number % 2]}"') + f"# {number}\n")
                running.signal(signal.SIGHUP)
                await asyncio.sleep(0.5)
            done.set()

        reloading = asyncio.ensure_future(reloads())
        asked = 0
        while not done.is_set() or asked < 10_000:
            said = await asyncio.gather(*(says(running) for _ in range(50)))
            assert set(said) <= {"hello", "other"}
            asked += 50
        await reloading
    tell(
        "G9",
        "10,000 requests over 20 reloads and 20 SIGHUPs",
        "10,000 whole answers",
        "test_ten_thousand_requests_over_twenty_reloads_lose_none",
        "200, `ok`",
    )


@pytest.mark.slow
async def test_what_needs_a_restart_is_told_and_health_is_no_part_of_validity(place: Path) -> None:
    test = "test_what_needs_a_restart_is_told_and_health_is_no_part_of_validity"
    async with serving(place) as (running, _):
        good = running.config.read_text()
        replaced(running, good.replace("[server]", '[server]\nkeep_alive = "70s"'))
        assert (await running.says("restart_needed"))["key"] == "server.keep_alive"
        assert await says(running) == "hello"
        tell("G10", "`keep_alive` of the listener changed", "told to need a restart; all else is applied", test)
        replaced(running, good + block("down", "http://127.0.0.1:9", CHAT))
        await running.says("table_loaded", 2)
        assert await says(running, "down") in ("502", "503")
        assert await says(running) == "hello"
        tell("G11", "a good table whose provider is down", "accepted; that provider's model is a 502", test)


@pytest.mark.slow
async def test_what_was_learnt_outlives_a_reload(place: Path) -> None:
    async with serving(place) as (running, provider):
        provider.plays("p", plain(CHAT.error("rate_limit_error", "no"), 429, Retry_After="500"))
        assert await says(running, "p") == "429"
        replaced(running, running.config.read_text() + "# again\n")
        await running.says("table_loaded")
        provider.plays("p", plain(CHAT.answer("back")))
        metrics = (await running.get("/metrics", admin=True)).body
        assert b'pointsman_cooldown_seconds{provider="p"' in metrics
    tell(
        "G8",
        "a reload while a key rests",
        "it rests on; limits and counters are in memory, and kept",
        "test_what_was_learnt_outlives_a_reload",
    )


# -- the ledger --------------------------------------------------------------------------------------------------


LOCKED_S = 30.0


async def test_a_locked_ledger_costs_no_request_and_no_row(place: Path) -> None:
    async with serving(place) as (running, _):
        assert await says(running) == "hello"
        with closing(sqlite3.connect(running.state / LEDGER, timeout=20, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked, until = 0, asyncio.get_running_loop().time() + LOCKED_S
            while asyncio.get_running_loop().time() < until:
                assert await says(running) == "hello"
                assert (await running.get("/readyz")).status == 200
                asked += 1
                await asyncio.sleep(0.1)
            assert await running.metric("pointsman_ledger_queued") >= asked
            other.execute("ROLLBACK")
        assert len(await running.records(asked + 1)) == asked + 1
        assert await running.metric("pointsman_ledger_dropped_total") == 0
    tell(
        "L2",
        "the database locked by another process for 30 s",
        "requests go on",
        "test_a_locked_ledger_costs_no_request_and_no_row",
        "all rows, once the lock is gone",
    )


@pytest.mark.slow
async def test_a_ledger_that_cannot_be_used_is_refused_and_kept(place: Path) -> None:
    state = place / "state"
    state.mkdir()
    (place / "routes.toml").write_text('[server]\nlisten = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\n')
    with closing(open_writer(place / "newer")) as newer:
        newer.execute("PRAGMA user_version = 9999")
        newer.execute("PRAGMA journal_mode = DELETE")
    damaged = b"SQLite format 3\0" + b"\xff" * 4000
    for content in (b"this is no database at all", damaged, (place / "newer").read_bytes()):
        (state / LEDGER).write_bytes(content)
        started = await launched(place / "routes.toml", state, place / "log")
        assert await started.ends() == 3
        assert (state / LEDGER).read_bytes() == content
        assert "Traceback" not in (place / "log").read_text()
    tell(
        "L3",
        "no database; a damaged one; one of a newer schema",
        "refuses to start with a sentence, exit code 3; the file stays",
        "test_a_ledger_that_cannot_be_used_is_refused_and_kept",
    )


async def traced(running: Daemon, file: Path) -> asyncio.subprocess.Process:
    """Notes which files the process has the disk take, from here on."""
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-y", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(file), "-p", str(running.child.pid)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(20):
        while "TracerPid:\t0" in Path(f"/proc/{running.child.pid}/status").read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return tracer


async def test_committed_rows_are_synchronous(place: Path) -> None:
    """Power cannot be cut here. What can be seen: a row that is there to be read has been taken by the disk before, and
    file and journal, as they lie, hold it."""
    async with serving(place) as (running, _):
        with closing(open_writer(running.state / LEDGER)) as own:
            assert own.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
            assert own.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        tracer = await traced(running, place / "trace") if shutil.which("strace") else None
        for number in range(1, 4):
            got = await running.post(CHAT, asking(CHAT, "p", stream=False))
            row = await running.record(got.headers["x-request-id"])
            if tracer is not None:
                async with asyncio.timeout(20):
                    while (place / "trace").read_text().count(f"{LEDGER}-wal") < number:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            (place / "cut").mkdir(exist_ok=True)
            for name in (LEDGER, f"{LEDGER}-wal"):
                shutil.copy(running.state / name, place / "cut" / name)
            with closing(sqlite3.connect(place / "cut" / LEDGER)) as file:
                assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                ids = [found[0] for found in file.execute("SELECT request_id FROM decisions")]
            assert len(ids) == number
            assert row["request_id"] in ids
        if tracer is not None:
            tracer.terminate()
            await tracer.wait()
    tell(
        "L5",
        "what lies on the disk as a row becomes readable (a cut itself is SQLite's promise)",
        "-",
        "test_committed_rows_are_synchronous",
        "the row is in it, and the disk was made to take it before: `synchronous=FULL`",
    )


PRICE = "price = {{ input = {}, output = {} }}\n"


async def test_a_row_keeps_the_price_of_its_time(place: Path) -> None:
    """Seven tokens in, two out, as the provider says each time."""
    async with serving(place) as (running, provider):
        unpriced = running.config.read_text()
        zero, one, two = (block(name, provider.root("p"), CHAT) for name in ("zero", "one", "one"))
        old = unpriced + zero + PRICE.format(0, 0) + one + PRICE.format(1, 2)
        new = unpriced + zero + PRICE.format(0, 0) + two + PRICE.format(3, 4)
        rows = []
        for number, text in enumerate((old, new), start=1):
            replaced(running, text)
            await running.says("table_loaded", number)
            for model in ("p", "zero", "one"):
                got = await running.post(CHAT, asking(CHAT, model, stream=False))
                rows.append(await running.record(got.headers["x-request-id"]))
        costs = [row["cost_nanos"] for row in rows]
        assert costs == [None, 0, 11_000, None, 0, 29_000]
        assert [(await running.record(row["request_id"]))["cost_nanos"] for row in rows] == costs
    tell(
        "L12",
        "a model without a price, one that costs nothing, one whose price changes while it serves",
        "the whole answer",
        "test_a_row_keeps_the_price_of_its_time",
        "cost null: unknown, and not free; 0; the old price in the old row, the new one in the next",
    )


async def test_ids_and_sql_in_strings(place: Path) -> None:
    test = "test_ids_and_sql_in_strings"
    async with serving(place) as (running, _):
        got = await running.post(CHAT, asking(CHAT, "p", stream=False), {"X-Request-Id": "same"})
        again = await running.post(CHAT, asking(CHAT, "p", stream=False), {"X-Request-Id": "same"})
        assert got.headers["x-request-id"] != again.headers["x-request-id"]
        row = await running.record(got.headers["x-request-id"])
        assert (row["cost_nanos"], row["client_request_id"]) == (None, "same")
        tell("L13", "the same X-Request-Id twice", "two answers", test, "two rows")
        for model in ("'; DROP TABLE decisions; --", "100%", "_", '"', "a\0b"):
            got = await running.post(CHAT, asking(CHAT, model, stream=False))
            assert got.status == 404
        assert len(await running.records(7)) == 7
        tell(
            "L14",
            "quotes, %, _, NUL and SQL as a model's name",
            "404, `model_not_found`",
            test,
            "a row each, as it was written",
        )


@pytest.mark.slow
async def test_a_full_disk_costs_no_request(place: Path) -> None:
    """A limit on the size of files stands for a full disk: SQLite meets the same refusal."""
    async with serving(place) as (running, _):
        assert await says(running) == "hello"
        import resource

        size = max(path.stat().st_size for path in running.state.iterdir())
        resource.prlimit(running.child.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        asked = 1
        async with asyncio.timeout(60):
            while not await running.metric("pointsman_ledger_stalled"):
                assert await says(running) == "hello"
                asked += 1
        assert [await says(running) for _ in range(5)] == ["hello"] * 5
        resource.prlimit(running.child.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await running.until_metric("pointsman_ledger_stalled", lambda value: value == 0)
        await running.until_metric("pointsman_ledger_queued", lambda value: value == 0)
        assert await running.metric("pointsman_ledger_written_total") == asked + 5
    tell(
        "L1",
        "no room for the ledger (a limit on the size of files)",
        "requests go on",
        "test_a_full_disk_costs_no_request",
        "rows wait, and are written once there is room",
    )
