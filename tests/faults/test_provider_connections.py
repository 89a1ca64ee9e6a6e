"""Rows about a provider's connections, and about many requests at once: U1 to U10, U22, U30, U58 to U63, U70 to U72."""

from __future__ import annotations

import asyncio
import signal
import ssl
import tempfile
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
from attrs import define
from backlog import full_backlog
from gateway import refused_port
from playbook import CHAT
from upstream import CUT, RESET, SILENCE, STREAM_HEAD, Script, ScriptedUpstream, Seen, piece, plain, streamed

from faults import table
from faults.bench import CALLER_KEY, HOUSE_KEY, Daemon, Got, Misbehaving, block, daemon, holds_canary
from faults.responses import SURFACES, asking, frames, terminator
from faults.upstream_faults import BOMB, QUICK

HERE = "tests/faults/test_provider_connections.py"
pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOTS = {  # name: more keys of the provider
    "healthy": "",
    "stale": "",
    "narrow": 'connections = 1\nqueue = 1\ntimeouts = { queue = "300ms" }',
    "cookies": "",
    "surplus": "",
    "comments": 'timeouts = { idle = "2s", first_content = "4s", total = "8s" }',
    "flood": "",
    "bomb": "",
    "long": 'timeouts = { idle = "3s" }',
    "half": "",
    "slow": "connections = 4\nqueue = 4\n" + 'timeouts = { queue = "500ms" }',
}
HEALTH = '[health]\nfailures = 3\nrest = "300ms"\nlongest = "300ms"\n'


@define(eq=False)
class Bed:
    daemon: Daemon
    provider: Misbehaving
    torn: ScriptedUpstream

    async def ask(self, model: str, *, stream: bool = False) -> Got:
        return await self.daemon.post(CHAT, asking(CHAT, model, stream=stream))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[Bed]:
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-")))
        upstream = await stack.enter_async_context(ScriptedUpstream())
        torn = await stack.enter_async_context(ScriptedUpstream())
        torn.greeting = RESET
        silent = await stack.enter_async_context(ScriptedUpstream())
        silent.greeting = SILENCE
        provider = Misbehaving(upstream)
        roots = {
            "refused": f"http://127.0.0.1:{refused_port()}",
            "dropped": f"http://127.0.0.1:{stack.enter_context(full_backlog())}",
            "torn": torn.root,
            "half-dead": upstream.root.replace("127.0.0.1", "localhost") + "/healthy",
            "clear-text": await stack.enter_async_context(_Banner(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
            "banner": await stack.enter_async_context(_Banner(b"SSH-2.0-OpenSSH_9.2\r\n")),
            "stalled": silent.root.replace("http:", "https:"),
            "garbage": await stack.enter_async_context(_Banner(bytes(range(256)) * 8)),
        }
        liars = await stack.enter_async_context(_Liars(home))
        blocks = [block(name, provider.root(name), CHAT, more) for name, more in SLOTS.items()]
        blocks += [block(name, root, CHAT, QUICK) for name, root in roots.items()]
        ca = f'ca_file = "{home / "ca.pem"}"\n'
        blocks += [block(name, root, CHAT, ca + QUICK) for name, root in liars.items()]
        blocks += [block(f"giant-{it.surface}", provider.root(f"giant-{it.surface}"), it) for it in SURFACES]
        for tongue in SURFACES:
            pair = [f"failing-{tongue.surface}", f"ailing-{tongue.surface}"]
            blocks += [block(name, provider.root(name), tongue, "connections = 1000") for name in pair]
            blocks.append(f'[profiles.failing-{tongue.surface}]\ncandidates = ["{pair[0]}", "{pair[1]}"]\n')
        names = [*SLOTS, *roots, *liars]
        blocks += [f'[profiles.{name}]\ncandidates = ["{name}", "healthy"]\n' for name in names if name != "healthy"]
        provider.plays("healthy", plain(CHAT.answer("healthy")))
        running = await stack.enter_async_context(daemon("\n".join(blocks) + HEALTH, home))
        yield Bed(running, provider, torn)


class _Banner:
    """A port that should speak TLS, and says this at once; its root."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    async def __aenter__(self) -> str:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(self._said)
            with suppress(ConnectionError):
                await reader.read()
            writer.transport.abort()

        self._server = await asyncio.start_server(speak, "127.0.0.1", 0)
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


class _Liars:
    """TLS servers that cannot prove who they are, by what is wrong with them; their roots."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> dict[str, str]:
        mine, other = trustme.CA(), trustme.CA()
        mine.cert_pem.write_to_path(self._home / "ca.pem")
        yesterday = datetime.now(UTC) - timedelta(days=1)
        issued = {
            "unknown-authority": other.issue_cert("127.0.0.1"),
            "expired": mine.issue_cert("127.0.0.1", not_after=yesterday),
            "other-name": mine.issue_cert("elsewhere.example"),
            "old-protocol": mine.issue_cert("127.0.0.1"),
        }
        return {name: await self._serve(name, certificate) for name, certificate in issued.items()}

    async def _serve(self, name: str, certificate: trustme.LeafCert) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        if name == "old-protocol":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.set_ciphers("ALL:@SECLEVEL=0")
                context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()


async def unreachable(bed: Bed, name: str, status: int, code: str) -> None:
    for surface in SURFACES:
        for stream in (False, True):
            alone = await bed.daemon.post(surface, asking(surface, name, stream=stream))
            if alone.status == 503:  # it rests by now
                assert b"all_candidates_cooling" in alone.body
                continue
            assert (alone.status, code.encode() in alone.body) == (status, True), alone
            row = await bed.daemon.record(alone.headers["x-request-id"])
            assert (row["status"], row["outcome"]) == (status, code or row["outcome"])
            assert not holds_canary(alone.body)
            assert b"127.0.0.1" not in alone.body
    chained = await bed.ask(f"profile:{name}")
    assert CHAT.read_text(chained.json) == "healthy"
    assert name in await resting(bed)


async def resting(bed: Bed) -> str:
    return (await bed.daemon.get("/metrics", admin=True)).body.decode()


CONNECTING = {
    "U1": ("refused", 502, "upstream_unreachable", "nobody listens"),
    "U2": ("dropped", 504, "upstream_timeout", "the SYN is dropped"),
    "U3": ("torn", 502, "", "RST right after accept"),  # the code depends on when the kernel tells
    "U8": ("clear-text", 502, "upstream_unreachable", "clear HTTP, or an SSH banner, on the TLS port"),
}


@pytest.mark.parametrize("number", CONNECTING)
async def test_no_connection_comes_about(bed: Bed, number: str) -> None:
    name, status, code, done = CONNECTING[number]
    await unreachable(bed, name, status, code)
    if number == "U8":
        await unreachable(bed, "banner", status, code)
    said = f"{status}, `{code}`" if code else str(status)
    saw = f"{said}; with another candidate: next; then it rests"
    table.tell(number, done, saw, said, test=f"{HERE}::test_no_connection_comes_about")


NAMES = """
import socket, time
asked = socket.getaddrinfo
def getaddrinfo(host, *more, **options):
    if str(host).startswith("slow"):
        time.sleep(60)
    if str(host).startswith("empty"):
        return []
    return asked(host, *more, **options)
socket.getaddrinfo = getaddrinfo
"""


async def test_a_name_that_leads_nowhere_holds_up_nobody_else() -> None:
    """A module that Python loads at its start stands for the machine's resolver."""
    slow, names = [f"slow-{number}" for number in range(12)], ["nowhere", "empty"]
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        (Path(made) / "sitecustomize.py").write_text(NAMES)
        async with ScriptedUpstream() as upstream:
            upstream.plays(plain(CHAT.answer("healthy")))
            root = upstream.root.replace("127.0.0.1", "localhost")
            blocks = [block(name, f"http://{name}.invalid", CHAT, QUICK) for name in (*slow, *names)]
            blocks += [block(f"named-{number}", root, CHAT) for number in range(4)]
            async with daemon("".join(blocks), Path(made), env={"PYTHONPATH": made}) as running:
                hanging = [
                    asyncio.ensure_future(running.post(CHAT, asking(CHAT, name, stream=stream)))
                    for name in slow
                    for stream in (False, True)
                ]
                await running.until_metric("pointsman_in_flight", lambda value: value >= len(hanging) / 2)
                for number in range(4):
                    got = await running.post(CHAT, asking(CHAT, f"named-{number}", stream=False))
                    assert CHAT.read_text(got.json) == "healthy"
                late = await asyncio.gather(*hanging)
                assert {(got.status, got.json["error"]["code"]) for got in late} == {(504, "upstream_timeout")}
                for name in names:
                    for surface in SURFACES:
                        got = await running.post(surface, asking(surface, name, stream=surface is CHAT))
                        assert got.status in (502, 503)
                        assert b"invalid" not in got.body
                    row = (await running.records(1))[0]
                    assert row["outcome"] in ("upstream_unreachable", "all_candidates_cooling")
                running.signal(signal.SIGTERM)
                assert await running.ends() == 0
    done = "the name does not resolve, or has no address; 12 names whose look-up takes a minute"
    saw = (
        "502, `upstream_unreachable`; 504, `upstream_timeout` after `connect`; names of others are looked up meanwhile"
    )
    record = "502, `upstream_unreachable`; 504, `upstream_timeout`"
    table.tell("U4", done, saw, record, test=f"{HERE}::test_a_name_that_leads_nowhere_holds_up_nobody_else")


LIARS = ("unknown-authority", "expired", "other-name", "old-protocol", "garbage")


@pytest.mark.slow
async def test_tls_that_nobody_vouches_for_is_not_spoken(bed: Bed) -> None:
    await unreachable(bed, "stalled", 504, "upstream_timeout")
    for name in LIARS:
        await unreachable(bed, name, 502, "upstream_unreachable")
    saw = "502, `upstream_unreachable`; a stall: 504, `upstream_timeout`; with another candidate: next"
    done = "a certificate of nobody's, of the past, of another name; TLS 1.1; garbage; a handshake that stalls"
    table.tell("U7", done, saw, "as the client saw it", test=f"{HERE}::test_tls_that_nobody_vouches_for_is_not_spoken")


async def test_of_two_addresses_the_live_one_is_used(bed: Bed) -> None:
    got = await bed.ask("half-dead")
    assert CHAT.read_text(got.json) == "healthy"
    done = "`localhost`, where only one address of two is listened on"
    table.tell("U5", done, "the whole answer", "200, `ok`", test=f"{HERE}::test_of_two_addresses_the_live_one_is_used")


async def test_a_pooled_connection_found_closed_costs_nothing(bed: Bed) -> None:
    bed.provider.plays("stale", [*plain(CHAT.answer("one")), CUT], plain(CHAT.answer("two")))
    assert CHAT.read_text((await bed.ask("stale")).json) == "one"
    got = await bed.ask("stale")
    assert CHAT.read_text(got.json) == "two"
    assert got.headers["x-nyuro-attempts"] == "1"
    done = "the pooled connection is closed as it is used again"
    where = f"{HERE}::test_a_pooled_connection_found_closed_costs_nothing"
    table.tell("U9", done, "the whole answer", "200, `ok`, one attempt", test=where)


async def test_a_full_pool_refuses_within_its_time_and_others_do_not_notice(bed: Bed) -> None:
    go_on = asyncio.Event()
    bed.provider.plays("narrow", [go_on, *plain(CHAT.answer("at last"))])
    holding = asyncio.ensure_future(bed.ask("narrow"))
    while not bed.provider.asked("narrow"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    waiting = asyncio.ensure_future(bed.ask("narrow"))
    await asyncio.sleep(0.05)
    refused = await bed.ask("narrow")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert CHAT.read_text((await bed.ask("healthy")).json) == "healthy"
    assert CHAT.read_text((await bed.ask("profile:narrow")).json) == "healthy"
    late = await waiting
    assert (late.status, late.headers["retry-after"]) == (503, "1")
    go_on.set()
    assert CHAT.read_text((await holding).json) == "at last"
    done = "all connections in use; the queue full, and not full"
    saw = "503, `gateway_overloaded` and Retry-After, at once or after `timeouts.queue`; with another candidate: next"
    where = f"{HERE}::test_a_full_pool_refuses_within_its_time_and_others_do_not_notice"
    table.tell("U10", done, saw, "503, `gateway_overloaded`", test=where)


async def test_a_cookie_goes_nowhere(bed: Bed) -> None:
    answer = CHAT.answer("one")
    bed.provider.plays("cookies", plain(answer, Set_Cookie="sid=canary-cookie; Path=/"), plain(answer))
    first = await bed.ask("cookies")
    assert "set-cookie" not in first.headers
    await bed.ask("cookies")
    assert all("cookie" not in seen.headers for seen in bed.provider.seen["cookies"])
    table.tell(
        "U22",
        "Set-Cookie",
        "no cookie; the next request brings none",
        "200, `ok`",
        test=f"{HERE}::test_a_cookie_goes_nowhere",
    )


async def test_a_redirect_is_followed_nowhere(bed: Bed) -> None:
    """Row U23 of `test_upstream_faults.py`, with somebody who listens where it leads."""
    async with ScriptedUpstream() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            for path in ("/v1/chat/completions", "/"):
                there = plain(b"", status, "text/plain", Location=f"{elsewhere.root}{path}")
                bed.provider.plays("cookies", there)
                asked = bed.provider.asked("cookies")
                got = await bed.ask("profile:cookies", stream=status == 302)
                assert (got.status, b"healthy" in got.body) == (200, True)
                assert bed.provider.asked("cookies") - asked <= 2
                assert "location" not in got.headers
        assert elsewhere.opened == 0


@pytest.mark.slow
async def test_an_answer_that_nobody_asked_for_is_nobodys(bed: Bed) -> None:
    def script(seen: Seen) -> Script:
        wanted = seen.json["messages"][0]["content"]
        return [b"".join(map(bytes, (*plain(CHAT.answer(wanted)), *plain(CHAT.answer("of another")))))]  # type: ignore[arg-type]

    bed.provider.upstream.answers(lambda seen: script(seen) if "surplus" in seen.path else bed.provider._chosen(seen))

    async def one(number: int) -> None:
        got = await bed.daemon.post(CHAT, {"model": "surplus", "messages": [{"role": "user", "content": f"n{number}"}]})
        assert CHAT.read_text(got.json) == f"n{number}"

    for batch in range(20):
        await asyncio.gather(*(one(batch * 50 + number) for number in range(50)))
    done = "a second answer behind the first, to 1,000 requests"
    table.tell(
        "U30", done, "each its own answer", "200, `ok`", test=f"{HERE}::test_an_answer_that_nobody_asked_for_is_nobodys"
    )
    bed.provider.upstream.answers(bed.provider._chosen)


@pytest.mark.slow
async def test_comments_alone_are_life_and_no_content(bed: Bed) -> None:
    pulse = [step for _ in range(100) for step in (piece(CHAT.keep_alive), asyncio.Event())]

    async def beat() -> None:
        for step in pulse:
            if isinstance(step, asyncio.Event):
                await asyncio.sleep(0.2)
                step.set()

    beating = asyncio.ensure_future(beat())
    bed.provider.plays("comments", [STREAM_HEAD, *pulse])
    got = await bed.ask("comments", stream=True)
    assert (got.status, got.json["error"]["code"]) == (504, "upstream_timeout")
    assert "no content" in got.json["error"]["message"]
    beating.cancel()
    done = "a stream of comments only"
    saw = "504, `upstream_timeout` after `first_content`: comments keep `idle` off, and are no content"
    table.tell("U58", done, saw, "504, `upstream_timeout`", test=f"{HERE}::test_comments_alone_are_life_and_no_content")


async def test_a_line_of_ten_mebibytes_passes_whole(bed: Bed) -> None:
    text = "x" * (10 << 20)
    for tongue in SURFACES:
        slot = f"giant-{tongue.surface}"
        bed.provider.plays(slot, streamed(frames(tongue, text)))
        got = await bed.daemon.post(tongue, asking(tongue, slot, stream=True))
        assert got.whole
        assert tongue.read_stream(got.body) == text
        assert terminator(tongue) in got.body
    done = "one event of 10 MiB"
    table.tell("U59", done, "the whole answer", "200, `ok`", test=f"{HERE}::test_a_line_of_ten_mebibytes_passes_whole")


async def test_a_bomb_is_never_opened(bed: Bed) -> None:
    """Row U40: what would open to a gibibyte takes next to nothing."""
    bed.provider.plays("bomb", plain(BOMB, Content_Encoding="gzip"))
    with bed.daemon.peaking() as grown:
        for stream in (False, True):
            assert (await bed.ask("bomb", stream=stream)).status == 502
        assert grown() < 100 << 20


READERS = 20


async def unread(bed: Bed, readers: int) -> tuple[float, list[asyncio.StreamWriter]]:
    """Bytes of memory by which the daemon grew for each client that reads nothing of an endless stream."""
    flood = piece(CHAT.text("x" * 16_000) * 4)
    bed.provider.plays("flood", [STREAM_HEAD, piece(CHAT.start), *[flood] * 20_000])
    body = b'{"model":"flood","stream":true,"messages":[{"role":"user","content":"go"}]}'
    sent = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    before = bed.daemon.usage()[0]
    writers = []
    for _ in range(readers):
        reader, writer = await asyncio.open_connection("127.0.0.1", bed.daemon.port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(sent + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        writers.append(writer)
        del reader
    upstream = bed.provider.upstream
    await upstream.until(lambda it: it.blocked >= readers)
    sent_then = -1
    while sent_then != upstream.sent:
        sent_then = upstream.sent
        await asyncio.sleep(0.3)
    return (bed.daemon.usage()[0] - before) / readers, writers


async def test_clients_that_read_nothing_cost_little(bed: Bed) -> None:
    grown, writers = await unread(bed, READERS)
    assert grown < 2 << 20
    for writer in writers:
        writer.transport.abort()
    await bed.daemon.until_metric("pointsman_in_flight", lambda value: value == 0)
    done = f"{READERS} clients that read nothing of an endless stream"
    saw = "under 2 MiB each; the provider is held back; freed as they leave"
    where = f"{HERE}::test_clients_that_read_nothing_cost_little"
    table.tell("U62", done, saw, "499, `client_closed`", test=where)


@pytest.mark.slow
async def test_two_hundred_clients_that_read_nothing_cost_little(bed: Bed) -> None:
    """The kernel holds most of it back, since there are many; the figure of docs/operations.md."""
    grown, writers = await unread(bed, 200)
    assert grown < 256 << 10
    for writer in writers:
        writer.transport.abort()
    await bed.daemon.until_metric("pointsman_in_flight", lambda value: value == 0)


@pytest.mark.slow
async def test_a_stream_is_not_cut_for_its_length(bed: Bed) -> None:
    """aiohttp's own limit of 300 s is switched off; here the stream outlives every limit of a quiet one."""
    gates = [asyncio.Event() for _ in range(8)]
    words = frames(CHAT, *["word"] * 8)
    script: list[object] = [STREAM_HEAD, piece(words[0])]
    for gate, word in zip(gates, words[1:9], strict=True):
        script += [gate, piece(word)]
    bed.provider.plays("long", [*script, *map(piece, words[9:]), b"0\r\n\r\n"])  # type: ignore[list-item]

    async def beat() -> None:
        for gate in gates:
            await asyncio.sleep(0.75)
            gate.set()

    beating = asyncio.ensure_future(beat())
    got = await bed.ask("long", stream=True)
    await beating
    assert CHAT.read_stream(got.body) == "word" * 8
    done = "a stream of twice `idle`, a word every quarter of it"
    table.tell("U63", done, "the whole answer", "200, `ok`", test=f"{HERE}::test_a_stream_is_not_cut_for_its_length")


@pytest.mark.parametrize("requests", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_who_fails_half_of_the_time_loses_no_request(bed: Bed, requests: int) -> None:
    answered = [0]

    def script(seen: Seen) -> Script:
        if "half" not in seen.path or "half-dead" in seen.path:
            return bed.provider._chosen(seen)
        answered[0] += 1
        return [CUT] if answered[0] % 2 else plain(CHAT.answer("healthy"))

    bed.provider.upstream.answers(script)
    for _ in range(requests // 50):
        got = await asyncio.gather(*(bed.ask("profile:half") for _ in range(50)))
        assert {CHAT.read_text(one.json) for one in got} == {"healthy"}
        bed.provider.upstream.seen.clear()
    assert 10 < answered[0] < 2 * requests
    bed.provider.upstream.answers(bed.provider._chosen)
    done = "10,000 requests, 50 at a time, to a provider that fails every other one, with a healthy one behind"
    saw = "10,000 whole answers; the failing one rests, and comes back by one request at a time"
    table.tell("U70", done, saw, "200, `ok`", test=f"{HERE}::test_who_fails_half_of_the_time_loses_no_request")


AMPLIFIED = 1.1  # calls of a provider for each first attempt, at most


@pytest.mark.parametrize("at_once", [150, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_who_fails_always_is_not_asked_more_than_there_are_requests(bed: Bed, at_once: int) -> None:
    """By the provider's own count: alone, and in a chain of two that both fail."""
    for tongue in SURFACES:
        for slot in (f"failing-{tongue.surface}", f"ailing-{tongue.surface}"):
            bed.provider.plays(slot, plain(tongue.error("api_error", "no"), 500))
        slots, asked = [f"failing-{tongue.surface}"], f"failing-{tongue.surface}"
        if tongue is not CHAT:
            slots, asked = [*slots, f"ailing-{tongue.surface}"], f"profile:failing-{tongue.surface}"
        before = bed.provider.upstream.heads
        got = await asyncio.gather(
            *(bed.daemon.post(tongue, asking(tongue, asked, stream=n % 2 == 0)) for n in range(at_once))
        )
        assert {one.status for one in got} <= {500, 503}
        assert bed.provider.upstream.heads - before <= AMPLIFIED * len(got) * len(slots)
        gate = asyncio.Event()
        for slot in (f"failing-{tongue.surface}", f"ailing-{tongue.surface}"):
            bed.provider.plays(slot, [gate, *plain(tongue.error("api_error", "no"), 500)])
        before = bed.provider.upstream.heads
        asks = [asyncio.ensure_future(bed.daemon.post(tongue, asking(tongue, asked, stream=False))) for _ in range(100)]
        first, _ = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
        gate.set()  # until now no provider has answered
        got = await asyncio.gather(*asks)
        assert {one.status for one in got} <= {500, 503}
        refused = [one for one in got if one.status == 503]
        assert all(one.result().status == 503 for one in first)  # at once, while all of them rest
        assert bed.provider.upstream.heads - before <= AMPLIFIED * (len(got) - len(refused)) * len(slots)
        assert all(b"all_candidates_cooling" in one.body and one.headers["retry-after"] for one in refused)
    done = "1,000 clients at once to a provider that fails all, nobody behind, or somebody who fails as well"
    saw = (
        "500 at first, then 503, `all_candidates_cooling` at once; at most 1.1 calls of each provider for each request"
    )
    where = f"{HERE}::test_who_fails_always_is_not_asked_more_than_there_are_requests"
    table.tell("U71", done, saw, "as the client saw it", test=where)


async def test_a_slow_provider_holds_up_nobody_else(bed: Bed) -> None:
    go_on = asyncio.Event()
    bed.provider.plays("slow", [go_on, *plain(CHAT.answer("slow"))])
    slow = [asyncio.ensure_future(bed.ask("slow")) for _ in range(20)]
    while bed.provider.asked("slow") < 4:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for _ in range(20):
        assert CHAT.read_text((await bed.ask("healthy")).json) == "healthy"
    while sum(one.done() for one in slow) < 16:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    go_on.set()
    statuses = sorted(got.status for got in await asyncio.gather(*slow))
    assert statuses == [200] * 4 + [503] * 16
    done = "20 requests to a provider with 4 connections that hangs"
    saw = "4 whole answers in the end, 16 times 503 with Retry-After; another provider answers meanwhile"
    table.tell("U72", done, saw, "as the client saw it", test=f"{HERE}::test_a_slow_provider_holds_up_nobody_else")


async def test_nothing_is_left_and_no_key_is_anywhere(bed: Bed) -> None:
    """Last: every connection that was given up is closed, and the canaries are in no file."""
    await bed.daemon.until_metric("pointsman_in_flight", lambda value: value == 0)
    await bed.daemon.until_metric("pointsman_requests_under_way", lambda value: value == 0)
    files = b"".join(path.read_bytes() for path in bed.daemon.state.iterdir() if path.is_file())
    assert holds_canary(files + bed.daemon.log.read_bytes(), (HOUSE_KEY, CALLER_KEY)) == []
