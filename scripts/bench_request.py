"""Say what one request costs between the server side and the provider's connection: microseconds, and calls.

    python scripts/bench_request.py [--profile chat]

Everything is on: a key of a project with a budget and limits, an alias for a chain of three, metrics, headers, usage.
Left out are both connections, the ledger's thread and the log's: the request is there, the answer too. Times are the
quickest of many batches; the number of calls of Python functions is the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import orjson
import uvloop
from aiohttp import web
from aiohttp.http import HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.accounts.keys import ENTROPY, Key, KeyRing, digest_of, mint
from proxy.catalog import PriceBook
from proxy.metrics import Metrics
from proxy.server.endpoints import CHAT
from proxy.server.gateway import Gateway
from proxy.server.inbound import Head
from proxy.server.ledger import Decision, Lease, Ledger
from proxy.server.relay import Relay
from proxy.server.reload import Builder, load_table
from proxy.server.upstream import Outgoing

TABLE = """
[projects.bench]
budget = { limit = 1_000_000, period = "monthly", alert = 0.8 }
limits = { rpm = 100_000_000, tpm = 1_000_000_000, parallel = 10_000 }
[aliases]
gpt = ["first/gpt", "second/gpt", "third/gpt"]
claude = ["first/claude", "second/claude", "third/claude"]
"""
PROVIDER = """
[providers.{place}-{dialect}]
dialect = "{dialect}"
base_url = "http://127.0.0.1:1{path}"
api_key = "sk-upstream-0123456789"
[models."{place}/{name}"]
provider = "{place}-{dialect}"
native = "{name}-native"
context = 1_000_000
price = {{ input = 2.5, output = 10 }}
"""
WORDS = "the quick brown fox jumps over the lazy dog " * 8
BATCH = 25
END = b"0\r\n\r\n"  # of a stream


class Client(asyncio.Transport):
    """A connection that takes whatever it gets, and its protocol."""

    writing_paused = False
    peername = ("127.0.0.1", 4711)

    def __init__(self) -> None:
        super().__init__()
        self.transport = self
        self.got = b""  # last

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.got = bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing ever waits."""

    async def _drain_helper(self) -> None:
        """As above."""


class Asked:
    """A request whose body has come."""

    version = HttpVersion11
    keep_alive = True
    remote = "127.0.0.1"
    method = "POST"

    def __init__(self, head: Head, body: bytes, client: Client) -> None:
        self.head = head
        self.raw_path, self.headers = head.raw_path, head.headers
        self.protocol = self.transport = client
        self.content_length = self.total_bytes = len(body)
        self.content = self
        self._body = body

    def is_eof(self) -> bool:
        return True

    def read_nowait(self) -> bytes:
        return self._body


class Reply:
    """An answer that is there."""

    status = 200
    queued_s = 0.0

    def __init__(self, headers: Mapping[str, str], chunks: list[bytes]) -> None:
        self.headers = headers
        self._chunks = chunks

    async def chunk(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def read(self, limit: int) -> tuple[bytes, bool]:
        return self._chunks.pop(), True

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        while data := await self.chunk():
            if not take(data):
                return False
        return True

    async def finish(self) -> bool:
        return False

    def close(self) -> None:
        self._chunks.clear()

    def expire(self, message: str) -> None:
        raise AssertionError(message)


class Upstream:
    def __init__(self, headers: Mapping[str, str], chunks: list[bytes]) -> None:
        self._headers, self._chunks = headers, chunks

    async def send(self, outgoing: Outgoing) -> Reply:
        return Reply(dict(self._headers), list(self._chunks))

    async def close(self) -> None:
        """Holds nothing."""


class Unwritten(Ledger):
    """Takes what it is given, and drops it."""

    def __init__(self) -> None:
        self.rows = 0

    def lease(self, lease: Lease) -> None:
        """Nothing outlives this process."""

    def record(self, decision: Decision) -> None:
        self.rows += 1


def _said(**more: Any) -> dict[str, Any]:
    return {"id": "x-1", "object": "chat.completion", "created": 1, "model": "native"} | more


USAGE = {"prompt_tokens": 128, "completion_tokens": 40, "total_tokens": 168}
CHAT_ANSWER = orjson.dumps(
    _said(
        choices=[{"index": 0, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}], usage=USAGE
    )
)
MESSAGE_ANSWER = orjson.dumps(
    {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "native", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": WORDS}], "usage": {"input_tokens": 128, "output_tokens": 40},
    }
)  # fmt: skip


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    said = _said(object="chat.completion.chunk", choices=[] if more else [choice], **more)
    return b"data: %b\n\n" % orjson.dumps(said)


CHAT_STREAM = b"".join(
    (_chunk({"role": "assistant", "content": ""}), _chunk({"content": "Hello"}), _chunk({}, "stop"),
     _chunk({}, usage=USAGE), b"data: [DONE]\n\n")
)  # fmt: skip
PLAIN, EVENTS = {"content-type": "application/json"}, {"content-type": "text/event-stream"}


def _asked(model: str, **more: Any) -> bytes:
    turns = [{"role": "system", "content": WORDS}, {"role": "user", "content": WORDS}]
    return orjson.dumps({"model": model, "messages": turns, "max_tokens": 512, **more})


# name -> the request's body; what each dialect's providers answer
KINDS: dict[str, tuple[bytes, dict[str, str], bytes, bytes]] = {
    "chat": (_asked("gpt"), PLAIN, CHAT_ANSWER, b""),
    "stream": (_asked("gpt", stream=True, stream_options={"include_usage": True}), EVENTS, CHAT_STREAM, b""),
    "translated": (_asked("claude"), PLAIN, b"", MESSAGE_ANSWER),
}


def gateway() -> tuple[Gateway, str]:
    """With one key; its upstreams are for the caller to set."""
    id, whole = mint("neu", os.urandom(ENTROPY))
    key = Key(id, "bench", "neu", digest_of(whole), whole[-4:], 0, project="bench")
    text = TABLE
    for dialect, name, path in (("openai-chat", "gpt", "/v1"), ("anthropic", "claude", "")):
        for place in ("first", "second", "third"):
            text += PROVIDER.format(place=place, dialect=dialect, name=name, path=path)
    builder = Builder(PriceBook(), KeyRing([key]))
    builder.pool.opener = lambda provider, exchange: cast(Any, Upstream({}, []))
    snapshot = builder.build(load_table(text.encode()))
    metrics = Metrics()
    metrics.known(models=snapshot.world.models.listed, providers=snapshot.table.providers)
    relay = Relay(random.random, time.monotonic, "0123abcd", metrics)
    made = Gateway(snapshot, relay, Unwritten(), metrics, dice=random.random, tell=lambda fields: None)
    return made, whole


class Asking:
    """One request of a kind, again and again."""

    def __init__(self, kind: str) -> None:
        self._body, headers, chat, message = KINDS[kind]
        self._gateway, key = gateway()
        upstreams = cast(dict[str, Any], self._gateway.current.upstreams)
        for name in upstreams:
            upstreams[name] = Upstream(headers, [message if name.endswith("anthropic") else chat])
        sent = {"Host": "127.0.0.1:9240", "Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._head = Head("/v1/chat/completions", CIMultiDictProxy(CIMultiDict(sent)))
        self.client = Client()

    def __call__(self) -> Awaitable[web.StreamResponse]:
        return self._gateway.serve(cast(Any, Asked(self._head, self._body, self.client)), CHAT)


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Calls of Python functions, generators that go on included, and of built-in ones, while it lasts."""
    counts = {"call": 0, "c_call": 0}

    def note(frame: Any, event: str, arg: Any) -> None:
        if event in counts:
            counts[event] += 1

    sys.setprofile(note)
    try:
        yield counts
    finally:
        sys.setprofile(None)


async def calls(kind: str) -> tuple[int, int]:
    """Of Python functions and of built-in ones, for one request behind others of its kind."""
    ask = Asking(kind)
    for _ in range(20):
        await ask()
        assert b"prompt_tokens" in ask.client.got or ask.client.got == END, ask.client.got
    with counting() as counts:
        await ask()
    return counts["call"], counts["c_call"]


async def microseconds(kind: str, batches: int) -> float:
    ask = Asking(kind)
    best = float("inf")
    for _ in range(batches):
        began = time.thread_time_ns()
        for _ in range(BATCH):
            await ask()
        best = min(best, (time.thread_time_ns() - began) / BATCH / 1000)
    return best


async def profile(kind: str) -> None:
    ask = Asking(kind)
    for _ in range(100):
        await ask()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(2000):
        await ask()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(70)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1000, help=f"of {BATCH} requests (default 1000)")
    parser.add_argument("--profile", choices=KINDS, help="where the time goes, by function")
    options = parser.parse_args()
    if options.profile:
        await profile(options.profile)
        return
    print(f"{'':12}{'us':>8}{'calls':>8}{'built-in':>10}")
    for kind in KINDS:
        own, builtin = await calls(kind)
        print(f"{kind:12}{await microseconds(kind, options.batches):>8.1f}{own:>8}{builtin:>10}")


if __name__ == "__main__":
    uvloop.run(main())
