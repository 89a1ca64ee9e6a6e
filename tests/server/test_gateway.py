"""A client that leaves, in every phase: its provider is hung up on, its record says where, nothing stays behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from backlog import full_backlog
from gateway import RawClient, Running, Start, chain, provider, settles
from playbook import CHAT, TONGUES, Tongue, chunk
from upstream import SILENCE, Script, ScriptedUpstream, head, piece, plain, streamed, within

EXCHANGES = ("lean", "plain")
LOOPS = ("uvloop",)
AT_ONCE = 50
both_surfaces = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)


def sockets() -> int:
    """Open ones of this process, which holds both ends of every connection."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(link.startswith("socket:") for link in links)


async def all_leave(gw: Running, clients: list[RawClient]) -> None:
    for client in clients:
        client.leave()
    await gw.quiet()


def connecting(port: int) -> int:
    """Connections of this machine that still wait for an answer to their SYN."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "02" for line in lines)


async def never(gw: Running, upstream: ScriptedUpstream, clients: list[RawClient]) -> None:
    """The gateway has taken all of them."""
    await settles(lambda: gw.app is not None and gw.app.gateway.running == len(clients))


async def asked(gw: Running, upstream: ScriptedUpstream, clients: list[RawClient]) -> None:
    await upstream.asked(len(clients))


async def sent(gw: Running, upstream: ScriptedUpstream, clients: list[RawClient]) -> None:
    """The provider has said all that it will. That the gateway has read it as well shows in nothing but its phase."""
    await upstream.asked(len(clients))
    first = upstream.seen[0]
    await upstream.until(lambda it: it.sent >= len(clients) * SIZES[first.path])
    for _ in range(20):
        await asyncio.sleep(0)


async def read(gw: Running, upstream: ScriptedUpstream, clients: list[RawClient]) -> None:
    await asyncio.gather(*(client.until(b"some") for client in clients))


SIZES: dict[str, int] = {}
Waits = Callable[[Running, ScriptedUpstream, list[RawClient]], Awaitable[None]]
PHASES: dict[str, tuple[str, bool, Callable[[Tongue], Script], Waits, int | None]] = {
    "while it uploads": ("body", False, lambda t: [SILENCE], never, 20),
    "before the first byte of a plain answer": ("first_byte", False, lambda t: [SILENCE], asked, None),
    "before the first byte of a stream": ("first_byte", True, lambda t: [SILENCE], asked, None),
    "before the first content": ("first_byte", True, lambda t: [*streamed([t.start], last=False), SILENCE], sent, None),
    "in the middle of a stream": (
        "stream", True, lambda t: [*streamed([*t.stream("some")[:-2]], last=False), SILENCE], read, None,
    ),
    "in the middle of a plain answer": (
        "plain", False, lambda t: [head(200, Content_Length=999) + b'{"id":', SILENCE], sent, None,
    ),
}  # fmt: skip


@both_surfaces
@pytest.mark.parametrize(("phase", "stream", "script", "waits", "cut"), PHASES.values(), ids=PHASES)
async def test_a_client_that_leaves_takes_its_provider_along(
    upstream: ScriptedUpstream,
    second: ScriptedUpstream,
    start: Start,
    tongue: Tongue,
    phase: str,
    stream: bool,
    script: Callable[[Tongue], Script],
    waits: Waits,
    cut: int | None,
) -> None:
    table = provider("first", upstream, tongue) + provider("second", second, tongue)
    gw = await start(table + chain("first", "second"))
    upstream.plays(plain(tongue.answer("first of all")))
    assert (await gw.ask(tongue)).status == 200  # whatever is opened once is open now
    await gw.row()
    upstream.seen.clear()
    upstream.sent = 0
    upstream.plays(script(tongue))
    SIZES[tongue.path] = sum(len(step) for step in script(tongue) if isinstance(step, bytes))
    before = sockets()
    clients = [await gw.connect() for _ in range(AT_ONCE)]
    for client in clients:
        await client.request(tongue, tongue.request("profile:chain", stream=stream), cut=cut)
    await waits(gw, upstream, clients)
    await all_leave(gw, clients)

    for seen in upstream.seen:
        await within(seen.gone)
    await upstream.until(lambda it: it.open == (phase == "body"))  # the one of the first request
    assert len(upstream.seen) == (0 if phase == "body" else AT_ONCE)
    assert second.seen == []  # nobody is left to fall back for
    rows = await gw.rows(AT_ONCE)
    assert {(row["status"], row["outcome"], row["gone_phase"]) for row in rows} == {(499, "client_closed", phase)}
    attempts = [attempt["outcome"] for row in rows for attempt in row["attempts"]]
    assert attempts == ([] if phase == "body" else ["client_closed"] * AT_ONCE)
    await settles(lambda: sockets() <= before)
    assert gw.app is not None
    assert (
        gw.app.gateway.current.world.health.cooldowns(gw.app.gateway.clock()) == {}
    )  # it was not the provider's fault

    upstream.plays(plain(tongue.answer("still here")))
    assert tongue.read_text((await gw.ask(tongue)).json) == "still here"


async def test_a_client_that_leaves_ends_the_wait_for_a_connection(start: Start) -> None:
    with full_backlog() as port:
        gw = await start(provider("first", f"http://127.0.0.1:{port}"))
        fillers = connecting(port)
        client = await gw.connect()
        await client.request(CHAT, CHAT.request())
        await settles(lambda: connecting(port) == fillers + 1)
        await all_leave(gw, [client])
        await settles(lambda: connecting(port) == fillers)
        row = await gw.row()
    assert (row["status"], row["outcome"]) == (499, "client_closed")
    assert row["gone_phase"] in ("connect", "first_byte")


async def test_a_client_that_leaves_stops_the_chain(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start
) -> None:
    models = {"second": "", "third": ""}
    table = provider("first", upstream) + provider("others", second, models=models)
    gw = await start(table + chain("first", "second", "third"))
    upstream.plays(plain(b"", 500))
    second.plays([SILENCE])
    client = await gw.connect()
    await client.request(CHAT, CHAT.request("profile:chain"))
    seen = await second.asked()
    await all_leave(gw, [client])
    await within(seen.gone)
    assert len(second.seen) == 1
    outcomes = [attempt["outcome"] for attempt in (await gw.row())["attempts"]]
    assert outcomes == ["upstream_failed", "upstream_failed", "client_closed"]


async def test_a_client_that_leaves_gives_its_place_and_its_probe_back(
    upstream: ScriptedUpstream, start: Start
) -> None:
    gw = await start(provider("first", upstream, more="connections = 1"))
    upstream.plays(plain(b"{", 200))
    for _ in range(3):
        await gw.ask(CHAT)
    upstream.plays([SILENCE])
    for times in range(5):  # everything cools, and three probes may run at a time
        client = await gw.connect()
        await client.request(CHAT, CHAT.request())
        await upstream.asked(4 + times)
        await all_leave(gw, [client])
    upstream.plays(plain(CHAT.answer("ok")))
    assert (await gw.ask(CHAT)).status == 200


async def test_tokens_up_to_the_leaving_are_in_the_record(upstream: ScriptedUpstream, start: Start) -> None:
    tongue = TONGUES["messages"]
    models = {"first": "price = { input = 1, output = 1 }"}
    gw = await start(provider("first", upstream, tongue, models=models))
    upstream.plays([*streamed(tongue.stream("some")[:3], last=False), SILENCE])
    client = await gw.connect()
    await client.request(tongue, tongue.request(stream=True))
    await client.until(b"some")
    await all_leave(gw, [client])
    row = await gw.row()
    assert row["usage"]["input"] == 7
    assert row["bytes_committed"] > 0


async def test_a_fault_of_ours_in_mid_stream_cuts_the_connection_and_answers_no_second_time(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client must not take an error page for the rest of its stream."""
    gw = await start(provider("first", upstream))
    go_on = asyncio.Event()
    unheard = chunk({}, "stop", unheard_of=True)  # or it would be known, and nobody would look
    upstream.plays([*streamed(CHAT.stream("some")[:2], last=False), go_on, piece(unheard), SILENCE])
    client = await gw.connect()
    await client.request(CHAT, CHAT.request(stream=True))
    begun = await client.until(b"some")

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.dialects.openai_chat.tap.Tap.look", broken)
    go_on.set()
    try:
        rest = await client.rest()
    except ConnectionError:
        rest = b""
    assert (begun + rest).count(b"HTTP/1.1 ") == 1
    assert not rest.endswith(b"0\r\n\r\n")
    await within(upstream.seen[0].gone)
    row = await gw.row()
    assert row["outcome"] == "internal_error"


@both_surfaces
async def test_a_fault_of_ours_before_the_answer_is_a_500_without_a_detail(
    upstream: ScriptedUpstream, start: Start, tongue: Tongue, monkeypatch: pytest.MonkeyPatch
) -> None:
    gw = await start(provider("first", upstream, tongue))

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("canary-detail")

    monkeypatch.setattr("proxy.server.relay.prepare", broken)
    answer = await gw.ask(tongue)
    assert answer.status == 500
    assert b"canary-detail" not in answer.body
    assert b"ZeroDivision" not in answer.body
    assert answer.json["error"]["message"]
    assert (await gw.row(answer.request_id))["outcome"] == "internal_error"


# whose word counts -> who asked, for the log
TRUSTED = {"nobody": ("[]", "127.0.0.1"), "the peer": ('["127.0.0.0/8"]', "203.0.113.9")}


@pytest.mark.parametrize(("trusted", "asked"), TRUSTED.values(), ids=TRUSTED)
async def test_the_log_says_who_asked(upstream: ScriptedUpstream, start: Start, trusted: str, asked: str) -> None:
    gw = await start(provider("first", upstream), f'auth = "none"\ntrusted_proxies = {trusted}')
    upstream.plays(plain(CHAT.answer("ok")))
    with structlog.testing.capture_logs() as lines:
        assert (await gw.ask(CHAT, headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9"})).status == 200
        await gw.quiet()
    assert [line["client"] for line in lines if line["event"] == "request_done"] == [asked]
    assert "x-forwarded-for" not in upstream.seen[0].headers


@pytest.mark.parametrize("more", [{"max_price": "cheap"}, {"models": [None]}, {"provider": {"foo": 1}}])
async def test_a_request_that_cannot_be_planned_is_recorded_with_what_it_asked_for(
    upstream: ScriptedUpstream, start: Start, more: dict[str, Any]
) -> None:
    gw = await start(provider("first", upstream))
    answer = await gw.ask(CHAT, "first", **more)
    assert answer.status == 400
    row = await gw.row(answer.request_id)
    assert (row["requested"], row["outcome"], row["plan"]) == ("first", "invalid_request", None)
