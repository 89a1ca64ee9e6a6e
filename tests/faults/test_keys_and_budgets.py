"""What happens to keys, their budgets and their limits: rows C21, C22, L8 to L11, P10, P12, S10."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import define, frozen
from ledger_sums import leases, spent
from playbook import CHAT, MESSAGES
from upstream import GUARD_S, SILENCE, STREAM_HEAD, ScriptedUpstream, piece, plain

from faults import table
from faults.bench import Daemon, Got, Misbehaving, block, daemon, parsed
from faults.responses import SURFACES, asking, frames
from proxy.server.keys.changes import Keys
from proxy.server.keys.store import KeyStore
from proxy.server.starting import LEDGER

HERE = "tests/faults/test_keys_and_budgets.py"
PRICE = "price = { input = 1, output = 100 }\n"

# The machine's clocks as the process sees them, ahead by what a file says: the one on the wall, and the one never set.
AHEAD = """
import os, time
def ahead(read, place, unit):
    def moved():
        with open(os.environ["CLOCKS"]) as file:
            return read() + type(read())(float(file.read().split()[place]) * unit)
    return moved
for name, place, unit in (("time", 0, 1), ("time_ns", 0, 10**9), ("monotonic", 1, 1), ("monotonic_ns", 1, 10**9)):
    setattr(time, name, ahead(getattr(time, name), place, unit))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        yield Path(made)


@frozen
class Made:
    id: str
    whole: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.whole}"}


@define(eq=False)
class Clocks:
    """What the daemon's clocks are ahead of this process's by, in seconds."""

    file: Path
    steady: float = 0.0

    @classmethod
    def of(cls, place: Path) -> Clocks:
        (place / "clock").mkdir()
        (place / "clock" / "sitecustomize.py").write_text(AHEAD)
        clocks = cls(place / "clocks")
        clocks.wall(0)
        return clocks

    @property
    def env(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(self.file.with_name("clock")), "CLOCKS": str(self.file)}

    def wall(self, ahead: float) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{ahead} {self.steady}")
        new.rename(self.file)

    def reads(self, moment: str) -> None:
        """Sets the clock on the wall, in UTC."""
        self.wall((datetime.fromisoformat(moment).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())


@define(eq=False)
class Bed:
    daemon: Daemon
    provider: Misbehaving

    async def admin(self, method: str, path: str, document: Any = None) -> Any:
        """Through the admin socket."""
        body = b"" if document is None else orjson.dumps(document)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        async with asyncio.timeout(GUARD_S):
            reader, writer = await asyncio.open_unix_connection(str(self.daemon.state / "admin.sock"))
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            got = parsed(await reader.read())
            writer.close()
        assert got.status in (200, 201), got
        return got.json

    async def make(self, **wanted: Any) -> Made:
        made = await self.admin("POST", "/admin/keys", {"name": "test", **wanted})
        return Made(made["id"], made["key"])

    async def ask(self, key: Made, model: str = "p", *, stream: bool = False) -> Got:
        return await self.daemon.post(CHAT, asking(CHAT, model, stream=stream, max_tokens=2), key.bearer)

    async def models(self, key: Made) -> int:
        """The status of asking for the list of models."""
        head = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key.whole}"
        return (await self.daemon.raw(f"{head}\r\n\r\n".encode())).status

    async def reserve(self, key: Made) -> int:
        """What one such request reserves, in nano-USD: from the dry run's own worst case."""
        body = orjson.dumps(asking(CHAT, "p", stream=False, max_tokens=2))
        head = (
            f"POST /v1/route HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key.whole}\r\n"
        )
        type_and_length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        plan = (await self.daemon.raw((head + type_and_length).encode() + body)).json
        return round(float(plan["candidates"][0]["cost_max_usd"]) * 1e9)


@asynccontextmanager
async def serving(place: Path, env: Mapping[str, str] | None = None, server: str = "") -> AsyncIterator[Bed]:
    async with ScriptedUpstream() as upstream:
        provider = Misbehaving(upstream)
        provider.plays("p", plain(CHAT.answer("hello")))
        async with daemon(block("p", provider.root("p"), CHAT) + PRICE, place, env=env, server=server) as running:
            yield Bed(running, provider)


def tell(number: str, done: str, saw: str, record: str, test: str) -> None:
    table.tell(number, done, saw, record, test=f"{HERE}::{test}")


def dollars(nanos: float) -> str:
    return f"{nanos / 1e9:.9f}"


async def test_a_key_that_ends_while_its_stream_runs_ends_the_next_request(place: Path) -> None:
    go_on, words = asyncio.Event(), frames(CHAT, "one", "x" * 3000, "two")
    async with serving(place, server="reserve_output = 2\n") as bed:
        bed.provider.plays("p", [STREAM_HEAD, *map(piece, words[:-3]), go_on, *map(piece, words[-3:]), b"0\r\n\r\n"])
        revoked, removed = await bed.make(), await bed.make()
        spender = await bed.make(budget={"limit": dollars(1.5 * await bed.reserve(revoked))})
        keys = (revoked, removed, spender)
        streams = [asyncio.ensure_future(bed.ask(key, stream=True)) for key in keys]
        await bed.provider.upstream.asked(3)
        await bed.admin("POST", f"/admin/keys/{revoked.id}/revoke", {})
        assert (await bed.ask(revoked)).status == 401
        others = Keys(KeyStore(bed.daemon.state / LEDGER))  # another process's, as any worker or command has them
        await asyncio.to_thread(others.revoke, removed.id)
        async with asyncio.timeout(GUARD_S):
            while (await bed.models(removed)) != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await bed.ask(spender)).status == 402
        assert not any(stream.done() for stream in streams)
        go_on.set()
        for stream in streams:
            assert CHAT.read_stream((await stream).body) == "one" + "x" * 3000 + "two"
        assert (await bed.ask(spender)).status == 402
        outcomes = Counter(row["outcome"] for row in await bed.daemon.records(5))
        assert outcomes == {"ok": 3, "insufficient_quota": 2}
    tell(
        "C22",
        "a key revoked, here and by another process, and one over its budget, while its stream runs",
        "the stream ends whole; the next request is a 401, or a 402",
        "200, `ok`",
        "test_a_key_that_ends_while_its_stream_runs_ends_the_next_request",
    )


def wrong(keys: Mapping[str, Made]) -> dict[str, list[str]]:
    """Header lines that open nothing, by what is wrong with them."""
    good, other = keys["good"].whole, keys["other"].whole
    return {
        "missing": [],
        "foreign": ["Authorization: Bearer sk-of-somebody-else"],
        "of our form and unknown": [f"x-api-key: {good[:-43]}{'A' * 43}"],
        "its first byte another": [f"Authorization: Bearer {'x' + good[1:]}"],
        "its last byte another": [f"Authorization: Bearer {good[:-1] + ('a' if good[-1] != 'a' else 'b')}"],
        "expired": [f"Authorization: Bearer {keys['expired'].whole}"],
        "revoked": [f"Authorization: Bearer {keys['revoked'].whole}"],
        "two that differ": [f"Authorization: Bearer {good}", f"x-api-key: {other}"],
        "quotes": ["Authorization: Bearer ' OR 1=1 --"],
        "7,000 letters": [f"x-api-key: {'k' * 7000}"],
        "no scheme": ["Authorization: Bearer"],
    }


BROKEN = {"a NUL": b"Authorization: Bearer a\0b\r\n", "1 MB": b"x-api-key: " + b"k" * (1 << 20) + b"\r\n"}


async def test_a_key_that_opens_nothing_is_a_401_in_the_surfaces_shape(place: Path) -> None:
    async with serving(place) as bed:
        soon = datetime.now(UTC) + timedelta(seconds=1)
        keys = {name: await bed.make() for name in ("good", "other", "revoked")}
        keys["expired"] = await bed.make(expires_at=soon.isoformat())
        await bed.admin("POST", f"/admin/keys/{keys['revoked'].id}/revoke", {})
        async with asyncio.timeout(GUARD_S):
            while (await bed.models(keys["expired"])) != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for tongue in SURFACES:
            body = orjson.dumps(asking(tongue, "p", stream=tongue is CHAT))
            start = f"POST {tongue.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
            end = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            for what, lines in wrong(keys).items():
                got = await bed.daemon.raw(start + "".join(f"{line}\r\n" for line in lines).encode() + end)
                error = got.json["error"]
                kind = "authentication_error" if tongue is MESSAGES else "invalid_request_error"
                assert (got.status, error["type"]) == (401, kind), what
                assert error.get("code") == (None if tongue is MESSAGES else "invalid_api_key"), what
                assert got.headers[tongue.id_header]
            for what, line in BROKEN.items():
                got = await bed.daemon.raw(start + line + end)
                assert (got.status, got.json["error"]["type"]) == (400, "invalid_request_error"), what
            foreign_beside = f"Authorization: Bearer sk-foreign\r\nx-api-key: {keys['good'].whole}\r\n".encode()
            got = await bed.daemon.raw(start + foreign_beside + end)
            assert got.status != 401
        assert {row["status"] for row in await bed.daemon.records(3)} == {200}
        assert len(await bed.daemon.records(3)) == bed.provider.asked("p") == 3
        told = bed.daemon.log.read_bytes() + (await bed.daemon.get("/metrics", admin=True)).body
        told += b"".join(path.read_bytes() for path in bed.daemon.state.iterdir() if path.is_file())
        secrets = [key.whole for key in keys.values()] + ["sk-of-somebody-else", "OR 1=1", "k" * 100]
        assert not [secret for secret in secrets if secret.encode() in told]
        assert hashlib.sha256(keys["good"].whole.encode()).digest() in told
    test = "test_a_key_that_opens_nothing_is_a_401_in_the_surfaces_shape"
    tell(
        "C21",
        "missing, foreign, unknown, expired, revoked; two of ours that differ; quotes, 7,000 letters; a NUL, 1 MB",
        "401, `invalid_api_key` or `authentication_error`; 400 for the last two; ours beside a foreign one is served",
        "no row; no key in log, metrics or file",
        test,
    )
    tell(
        "S10",
        "keys that differ from a good one in their first byte, and in their last",
        "the same 401",
        "a key is kept, and looked up, as the SHA-256 of the whole",
        test,
    )


async def test_of_1000_at_once_those_pass_that_the_budget_holds(place: Path) -> None:
    release = asyncio.Event()
    async with serving(place) as bed:
        bed.provider.plays("p", [release, *plain(CHAT.answer("hello"))])
        probe = await bed.make()
        key = await bed.make(budget={"limit": dollars(10.5 * await bed.reserve(probe))})
        asked = [asyncio.ensure_future(bed.ask(key)) for _ in range(1000)]
        async with asyncio.timeout(GUARD_S):
            while sum(task.done() for task in asked) < 990:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        release.set()
        assert Counter([(await task).status for task in asked]) == {200: 10, 402: 990}
        assert bed.provider.asked("p") == 10
        rows = await bed.daemon.records(1000)
        charged = sum(row["charged_nanos"] for row in rows)
        assert spent(bed.daemon.state) == {f"key:{key.id}": charged}
        assert leases(bed.daemon.state) == {}
    tell(
        "L8",
        "1,000 requests at once on a key whose budget holds 10",
        "10 whole answers, 990 times 402; no slack for answers within `reserve_output`",
        "1,000 rows; what they are charged is the key's spend, and nothing stays reserved",
        "test_of_1000_at_once_those_pass_that_the_budget_holds",
    )


async def test_a_keys_first_use_by_100_at_once_is_one_key_with_one_budget(place: Path) -> None:
    async with serving(place) as bed:
        key = await bed.make(budget={"limit": 1, "period": "daily"})
        answers = await asyncio.gather(*(bed.ask(key) for _ in range(100)))
        assert Counter(got.status for got in answers) == {200: 100}
        charged = sum(row["charged_nanos"] for row in await bed.daemon.records(100))
        with closing(sqlite3.connect(bed.daemon.state / LEDGER)) as file:
            assert file.execute("SELECT count(*) FROM keys").fetchone() == (1,)
            days = file.execute("SELECT account, nanos FROM spend").fetchall()
        assert {account for account, _ in days} == {f"key:{key.id}"}
        shown = await bed.admin("GET", f"/admin/keys/{key.id}")
        assert round(float(shown["budget"]["spent_usd"]) * 1e9) == sum(nanos for _, nanos in days) == charged
    tell(
        "L9",
        "the first use of a key by 100 requests at once",
        "100 whole answers",
        "one key, one account; its spend is the sum of 100 rows",
        "test_a_keys_first_use_by_100_at_once_is_one_key_with_one_budget",
    )


@pytest.mark.slow
async def test_what_a_killed_process_had_reserved_comes_back_by_itself(place: Path) -> None:
    clocks = Clocks.of(place)
    async with serving(place, clocks.env) as bed:
        probe = await bed.make()
        key = await bed.make(budget={"limit": dollars(1.5 * await bed.reserve(probe))})
        bed.provider.plays("p", [SILENCE])
        lost = asyncio.ensure_future(bed.ask(key))
        await bed.provider.upstream.asked()
        async with asyncio.timeout(GUARD_S):
            while not leases(bed.daemon.state):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        bed.daemon.child.kill()
        await bed.daemon.child.wait()
        assert (await lost).status == 0
    async with serving(place, clocks.env) as bed:
        assert (await bed.ask(key)).status == 402
        clocks.wall(601)
        assert (await bed.ask(key)).status == 200
        assert Counter(row["outcome"] for row in await bed.daemon.records(2)) == {"ok": 1, "insufficient_quota": 1}
    tell(
        "L10",
        "kill -9 with a request under way on a key whose budget holds one; started again; ten minutes go by",
        "402 at first; then 200",
        "200, `ok`; 402, `insufficient_quota`",
        "test_what_a_killed_process_had_reserved_comes_back_by_itself",
    )


async def test_a_clock_that_jumps_opens_no_window_and_closes_none(place: Path) -> None:
    clocks = Clocks.of(place)
    async with serving(place, clocks.env) as bed:
        key = await bed.make(limits={"rpm": 3})
        assert [(await bed.ask(key)).status for _ in range(4)] == [200, 200, 200, 429]
        for ahead in (-3600, 86_400):
            clocks.wall(ahead)
            refused = await bed.ask(key)
            assert refused.status == 429
            assert 0 < int(refused.headers["retry-after"]) <= 60
        clocks.steady = 60.0  # a minute goes by
        clocks.wall(-3600)
        assert [(await bed.ask(key)).status for _ in range(4)] == [200, 200, 200, 429]
    tell(
        "L11",
        "the clock set back by an hour, and ahead by a day, with a limit reached; then its minute goes by",
        "429 with Retry-After of at most 60 s throughout; then exactly the limit again",
        "200, `ok`; 429, `rate_limit_exceeded`",
        "test_a_clock_that_jumps_opens_no_window_and_closes_none",
    )


async def test_a_clock_that_is_wrong_at_the_start_harms_nothing(place: Path) -> None:
    for number, moment in enumerate(("1970-01-01T00:00:10", "2100-01-01T00:00:00")):
        home = place / str(number)
        home.mkdir()
        clocks = Clocks.of(home)
        clocks.reads(moment)
        async with serving(home, clocks.env) as bed:
            key = await bed.make(budget={"limit": 1, "period": "daily"}, limits={"rpm": 3})
            assert [(await bed.ask(key)).status for _ in range(2)] == [200, 200]
            clocks.wall(0)  # the time comes from the network by and by
            assert (await bed.ask(key)).status == 200
            assert (await bed.ask(key)).status == 429
            rows = await bed.daemon.records(3)
            assert all(0 <= row["duration_ms"] < 60_000 for row in rows)
            for row in rows:
                attempts = (await bed.daemon.record(row["request_id"]))["attempts"]
                assert all(0 <= attempt["duration_ms"] < 60_000 and attempt["started_ms"] >= 0 for attempt in attempts)
            bed.daemon.signal(signal.SIGTERM)
            assert await bed.daemon.ends() == 0
    tell(
        "P10",
        "a start in 1970, and in 2100, and the right time later (a certificate of another time is U7)",
        "the whole answer; limits hold",
        "durations are those of the monotonic clock: none is negative",
        "test_a_clock_that_is_wrong_at_the_start_harms_nothing",
    )


# A budget that one request spends, in New York on the day of its DST; each moment in UTC and what a request gets then.
A_DAY = (
    ("2026-03-08T00:00:10", 200),  # 19:00 on the 7th there
    ("2026-03-08T04:59:59", 402),
    ("2026-03-08T05:00:01", 402),  # midnight there
    ("2026-03-08T07:00:01", 402),  # 02:00 there becomes 03:00
    ("2026-03-08T23:59:00", 402),
    ("2026-03-09T00:00:00.5", 200),  # the next day
    ("2026-03-08T23:59:59.5", 402),  # a leap second: the last one again
    ("2026-03-09T00:00:00.5", 402),
    ("2026-03-08T20:00:00", 402),  # set back by hand
    ("2026-03-09T00:00:01", 402),
    ("2026-03-10T00:00:01", 200),
    ("2026-03-10T00:00:02", 402),
    ("2100-01-01T00:00:00", 200),  # far ahead
    ("2026-03-10T00:00:03", 402),  # and right again
    ("2026-03-11T00:00:01", 200),
    ("2026-03-11T00:00:02", 402),
)


async def test_a_days_budget_begins_anew_once_whatever_the_clock_and_its_zone_do(place: Path) -> None:
    clocks = Clocks.of(place)
    clocks.reads(A_DAY[0][0])
    async with serving(place, {**clocks.env, "TZ": "America/New_York"}) as bed:
        probe = await bed.make()
        key = await bed.make(budget={"limit": dollars(1.2 * await bed.reserve(probe)), "period": "daily"})
        for moment, status in A_DAY:
            clocks.reads(moment)
            assert (await bed.ask(key)).status == status, moment
        rows = await bed.daemon.records(len(A_DAY))
        assert Counter(row["status"] for row in rows) == Counter(status for _, status in A_DAY)
        assert spent(bed.daemon.state) == {f"key:{key.id}": sum(row["charged_nanos"] for row in rows)}
    tell(
        "P12",
        "a daily budget over local midnight, a change to DST, a leap second, a clock set back and one that was ahead",
        "it begins anew at 00:00 UTC, once a day; else 402",
        "200, `ok`, or 402, `insufficient_quota`; charged to the day in UTC",
        "test_a_days_budget_begins_anew_once_whatever_the_clock_and_its_zone_do",
    )
