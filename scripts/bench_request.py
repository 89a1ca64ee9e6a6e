"""Say what one request costs between the two sockets: microseconds, and calls.

    python scripts/bench_request.py [--profile chat | --instructions chat]

Everything is on: a key of a project with a budget and limits, an alias for a chain of three, metrics, headers, usage.
Left out are the sockets, the ledger's thread and the log's: the request comes to the client's connection, the answer
in the loop's next turn. Times are the quickest of many batches; the number of calls of Python functions is the
same on every machine. So are, within a third of a percent, its instructions and its misses of small caches: 32 KB each
for code and data and 256 KB for both, as valgrind counts them where that is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import orjson
import uvloop

from proxy.accounts.keys import ENTROPY, Key, KeyRing, digest_of, mint
from proxy.catalog import PriceBook
from proxy.metrics import Metrics
from proxy.routing.table import Provider
from proxy.server.clients.listener import Listener
from proxy.server.endpoints import ordinary_paths
from proxy.server.gateway import Gateway
from proxy.server.ledger import Brief, Decision, Ledger
from proxy.server.ledger.records import Leased
from proxy.server.relay import Relay
from proxy.server.reload import Builder, load_table
from proxy.server.upstream import LeanUpstream
from proxy.server.upstream.handler import Handler

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
FEW_AND_MANY = 150, 450  # requests
COUNTED = {
    "instructions": "I\\s+refs", "misses for code": "I1\\s+misses", "for data": "D1\\s+misses",
    "of the larger cache": "LL\\s+misses",
}  # fmt: skip
END, LENGTH = b"0\r\n\r\n", b"Content-Length"  # what shows that a write is the last of an answer


class Client(asyncio.Transport):
    """A client's transport that takes whatever it gets."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 4711)})
        self._loop = asyncio.get_running_loop()
        self.waiter: asyncio.Future[None] | None = None  # for an answer's end
        self.got = b""  # last

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.got = got = bytes(data)
        if self.waiter is not None and (got.endswith(END) or LENGTH in got[: got.find(b"\r\n\r\n")]):
            self.waiter.set_result(None)
            self.waiter = None

    def answered(self) -> asyncio.Future[None]:
        """In one write, or one that ends so."""
        self.waiter = waiter = self._loop.create_future()
        return waiter

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """There is no socket."""


class Wire(asyncio.Transport):
    """A provider's connection, the provider behind it: whatever is asked, the answer comes in the loop's next turn."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._answer, self._soon = answer, loop.call_soon
        self.protocol = Handler(loop)
        self.protocol.transport = self  # without a socket nobody connects it

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._soon(self.protocol.data_received, self._answer)

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """As uvloop's, whose parts leave without being put together."""
        self.write(b"")

    def release(self) -> None:
        """The pool does not get it."""

    close = abort = pause_reading = resume_reading = release

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """It is the same one, whose methods are looked up each time."""


def wired(answer: bytes) -> LeanUpstream:
    """A provider with one connection, which is at hand."""
    upstream = LeanUpstream(Provider("wired", ("openai-chat",), base_url="http://127.0.0.1:1"))
    wire = Wire(answer)
    upstream._at_hand.put(cast(Any, wire), wire.protocol)
    return upstream


class Unwritten(Ledger):
    """Takes what it is given, and drops it."""

    def __init__(self) -> None:
        self.rows = 0

    def lease(self, lease: Leased) -> None:
        """Nothing outlives this process."""

    def record(self, decision: Decision | Brief) -> None:
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


CHAT_STREAM = (
    _chunk({"role": "assistant", "content": ""}), _chunk({"content": "Hello"}), _chunk({}, "stop"),
    _chunk({}, usage=USAGE), b"data: [DONE]\n\n",
)  # fmt: skip
PLAIN, EVENTS = "application/json", "text/event-stream"


def _answer(kind: str, body: bytes | tuple[bytes, ...]) -> bytes:
    """On the wire; of a stream each frame in a chunk of its own, as nearly every provider sends them."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nx-request-id: req_0123456789abcdef\r\n".encode()
    if isinstance(body, tuple):
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in body)
        return b"%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (head, chunks)
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def _asked(model: str, text: str = WORDS, **more: Any) -> bytes:
    turns = [{"role": "system", "content": WORDS}, {"role": "user", "content": text}]
    return orjson.dumps({"model": model, "messages": turns, "max_tokens": 512, **more})


BEHIND = " behind"  # of a kind whose body comes in a packet behind its head, as most clients send it
# name -> the request's body; what each dialect's providers answer
KINDS: dict[str, tuple[bytes, str, bytes | tuple[bytes, ...], bytes]] = {
    "chat": (_asked("gpt"), PLAIN, CHAT_ANSWER, b""),
    "chat behind": (_asked("gpt"), PLAIN, CHAT_ANSWER, b""),
    "long": (_asked("gpt", text=WORDS * 32), PLAIN, CHAT_ANSWER, b""),
    "long behind": (_asked("gpt", text=WORDS * 32), PLAIN, CHAT_ANSWER, b""),
    "stream": (_asked("gpt", stream=True, stream_options={"include_usage": True}), EVENTS, CHAT_STREAM, b""),
    "translated": (_asked("claude"), PLAIN, b"", MESSAGE_ANSWER),
}


def gateway(answers: Mapping[str, bytes]) -> tuple[Gateway, str]:
    """With one key; and what providers answer, by their dialect."""
    id, whole = mint("neu", os.urandom(ENTROPY))
    key = Key(id, "bench", "neu", digest_of(whole), whole[-4:], 0, project="bench")
    text = TABLE
    for dialect, name, path in (("openai-chat", "gpt", "/v1"), ("anthropic", "claude", "")):
        for place in ("first", "second", "third"):
            text += PROVIDER.format(place=place, dialect=dialect, name=name, path=path)
    builder = Builder(PriceBook(), KeyRing([key]))
    builder.pool.opener = lambda provider, exchange: wired(answers[provider.dialects[0]])
    snapshot = builder.build(load_table(text.encode()))
    metrics = Metrics()
    metrics.known(models=snapshot.world.models.listed, providers=snapshot.table.providers)
    relay = Relay(random.random, time.monotonic, "0123abcd", metrics)
    made = Gateway(
        snapshot, relay, Unwritten(), metrics, dice=random.random,
        tell=lambda fields: None, tell_brief=lambda track, brief, read, client: None,
    )  # fmt: skip
    return made, whole


class Asking:
    """One request of a kind, again and again."""

    def __init__(self, kind: str) -> None:
        self._body, kind_of_answer, chat, message = KINDS[kind]
        answers = {"openai-chat": _answer(kind_of_answer, chat), "anthropic": _answer(kind_of_answer, message)}
        self._gateway, key = gateway(answers)
        lines = (
            "POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1:9240", "Content-Type: application/json",
            f"Authorization: Bearer {key}", f"Content-Length: {len(self._body)}",
        )  # fmt: skip
        head = "".join(f"{line}\r\n" for line in (*lines, "")).encode()
        self._pieces = (head, self._body) if kind.endswith(BEHIND) else (head + self._body,)
        listener = Listener({}, keep_alive=75, ordinary=ordinary_paths(self._gateway))
        self.client, self.turn = Client(), listener.turn
        self._connection = listener()
        self._connection.connection_made(self.client)

    async def end(self) -> None:
        self._connection.connection_lost(None)
        for upstream in self._gateway.current.upstreams.values():
            await upstream.close()

    def __call__(self) -> Awaitable[None]:
        first, *more = self._pieces
        answered = self.client.answered()
        self._connection.data_received(first)
        for piece in more:
            asyncio.get_running_loop().call_soon(self._connection.data_received, piece)
        return answered


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
    """Of Python functions and of built-in ones, for one request behind others of its kind: the least of a few, for what
    happens each so many requests, or each so many milliseconds, falls upon one of them."""
    ask = Asking(kind)
    for _ in range(20):
        await ask()
        ask.turn.flush()
        assert b"prompt_tokens" in ask.client.got or ask.client.got.endswith(END), ask.client.got
    counted = []
    for _ in range(3):
        with counting() as counts:
            await ask()
        counted.append((counts["call"], counts["c_call"]))
    await ask.end()
    return min(counted)


async def microseconds(kind: str, batches: int) -> float:
    ask = Asking(kind)
    best = float("inf")
    for _ in range(batches):
        began = time.thread_time_ns()
        for _ in range(BATCH):
            await ask()
        best = min(best, (time.thread_time_ns() - began) / BATCH / 1000)
    await ask.end()
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
    await ask.end()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(70)


async def only(kind: str, requests: int) -> None:
    """So many of a kind, and no collector that comes when it likes."""
    gc.disable()
    ask = Asking(kind)
    for _ in range(requests):
        await ask()
        ask.turn.flush()
    await ask.end()


def instructions(kind: str) -> None:
    """What many requests take beyond what few do, start included."""
    few, many = (_counted(kind, requests) for requests in FEW_AND_MANY)
    apart = FEW_AND_MANY[1] - FEW_AND_MANY[0]
    print(f"{kind}: " + ", ".join(f"{(many[what] - few[what]) / apart:,.0f} {what}" for what in COUNTED))


def _counted(kind: str, requests: int) -> dict[str, int]:
    caches = ("--I1=32768,8,64", "--D1=32768,8,64", "--LL=262144,8,64")
    ran = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=yes", *caches, "--cachegrind-out-file=/dev/null",
         sys.executable, __file__, "--only", kind, str(requests)],
        env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {what: re.search(rf"{pattern}:\s+([\d,]+)", ran.stderr) for what, pattern in COUNTED.items()}
    return {what: int(match[1].replace(",", "")) for what, match in found.items() if match is not None}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1000, help=f"of {BATCH} requests (default 1000)")
    parser.add_argument("--profile", choices=KINDS, help="where the time goes, by function")
    parser.add_argument("--instructions", choices=KINDS, help="by valgrind, a minute")
    parser.add_argument("--only", nargs=2, metavar=("KIND", "REQUESTS"), help="and nothing said of them")
    options = parser.parse_args()
    if options.only:
        await only(options.only[0], int(options.only[1]))
        return
    if options.instructions:
        instructions(options.instructions)
        return
    if options.profile:
        await profile(options.profile)
        return
    print(f"{'':12}{'us':>8}{'calls':>8}{'built-in':>10}")
    for kind in KINDS:
        own, builtin = await calls(kind)
        print(f"{kind:12}{await microseconds(kind, options.batches):>8.1f}{own:>8}{builtin:>10}")


if __name__ == "__main__":
    uvloop.run(main())
