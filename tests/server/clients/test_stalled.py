"""Clients that ask and take nothing: what they cost is bounded, and ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from aiohttp.web_protocol import RequestHandler
from attrs import define
from each import each
from gateway import Running, Start, provider, settles
from playbook import TONGUES, Tongue
from upstream import ScriptedUpstream, plain

from proxy.server.clients.stalled import Stalled
from proxy.server.watchdog import STUCK_WRITE

LOOPS = ("uvloop",)
LARGE = "x" * (4 << 20)
each_surface = pytest.mark.parametrize("tongue", TONGUES.values(), ids=TONGUES)


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield opened


def asks(deaf: socket.socket, gw: Running, tongue: Tongue, times: int) -> None:
    body = b'{"model":"first","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}'
    head = f"POST {tongue.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    deaf.connect(("127.0.0.1", gw.port))
    deaf.sendall((head.encode() + body) * times)


@each_surface
async def test_who_reads_no_answer_gets_no_further_one(
    upstream: ScriptedUpstream, start: Start, deaf: socket.socket, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    upstream.plays(plain(tongue.answer(LARGE)))
    asks(deaf, gw, tongue, 20)
    await upstream.asked()
    for _ in range(50):
        assert (await gw.get(gw.base + "/healthz")).status == 200
    assert len(upstream.seen) == 1
    deaf.close()
    await gw.quiet()
    row = await gw.row()
    assert (row["status"], row["outcome"]) == (499, "client_closed")


@each_surface
async def test_who_takes_nothing_of_a_whole_answer_for_a_minute_is_hung_up_on(
    upstream: ScriptedUpstream, start: Start, deaf: socket.socket, tongue: Tongue
) -> None:
    gw = await start(provider("first", upstream, tongue))
    assert gw.app is not None
    listener = cast(Any, gw.app._listeners[0])
    upstream.plays(plain(tongue.answer(LARGE)))
    asks(deaf, gw, tongue, 1)
    await settles(lambda: any(one.transport and one.transport.get_write_buffer_size() for one in listener.connections))
    stalled = Stalled(lambda: listener.connections)
    stalled.look(0.0)
    stalled.look(STUCK_WRITE - 1)
    assert gw.app.gateway.running
    stalled.look(STUCK_WRITE)
    await gw.quiet()
    await settles(lambda: not listener.connections)
    row = await gw.row()
    assert (row["status"], row["outcome"]) == (499, "client_closed")


# -- the clock ---------------------------------------------------------------------------------------------------


@define(eq=False)
class Wire:
    """A connection whose kernel has not taken so many bytes."""

    unsent: int
    aborted: bool = False

    @property
    def transport(self) -> Wire:
        return self

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


def looked(*unsent: int) -> Wire:
    """At it every 20 seconds."""
    wire = Wire(0)
    stalled = Stalled(lambda: [cast(RequestHandler, wire)], patience=60.0)
    for number, size in enumerate(unsent):
        wire.unsent = size
        stalled.look(20.0 * number)
    return wire


@each(
    ("unsent", "aborted"),
    [
        ((9, 9, 9), False),
        ((9, 9, 9, 9), True),
        ((9, 8, 7, 6, 5, 4), False),
        ((9, 9, 9, 8, 8, 8), False),
        ((0, 0, 0, 0, 0), False),
        ((9, 9, 0, 9, 9, 9), False),
    ],
)
def test_who_takes_something_is_waited_for(unsent: tuple[int, ...], aborted: bool) -> None:
    assert looked(*unsent).aborted is aborted
