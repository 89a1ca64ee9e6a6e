"""What the tests talk to: recordings served by a child process, the gateway in front of them in a thread of its own, so
that blocking clients can call it, and a client that sees bytes."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
import uvloop
from attrs import define, field, frozen
from gateway import new_state, newest

from proxy.app import App
from proxy.server.starting import LEDGER

from .recordings import ABSENT, REPLAY, WIRE

SSE, JSON = "text/event-stream", "application/json"
T = TypeVar("T")
PATIENCE = 60.0  # seconds until a test that hangs is told so


# -- the recordings ----------------------------------------------------------------------------------------------


@frozen
class Seen:
    """One request as it arrived behind the gateway."""

    case: str
    path: str
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: bytes = field(repr=False)

    def json(self) -> Any:
        return json.loads(self.body)


@define
class Replay:
    """`url` is its root; behind `/case/NAME` a recording answers whatever model is asked for."""

    url: str
    log: Path

    def case(self, text: str) -> str:
        return f"{self.url}/case/{text}"

    def mark(self) -> int:
        """A place in the log, for `since`."""
        return self.log.stat().st_size

    def since(self, mark: int) -> list[Seen]:
        """Requests that came behind the mark. A request is logged before it is answered."""
        with self.log.open("rb") as file:
            file.seek(mark)
            return [_seen(json.loads(line)) for line in file]


def _seen(line: Mapping[str, Any]) -> Seen:
    headers = {name.lower(): value for name, value in line["headers"]}
    return Seen(line["case"] or "", line["path"], headers, line["body"].encode())


@contextmanager
def replaying(directory: Path, split: int = 0, *, made: bytes | None = None) -> Iterator[Replay]:
    """All recordings, sent `split` bytes at a time; 0: events one by one, plain answers whole. `made` stands in their
    place as the one stream named "made"."""
    if not REPLAY.exists():
        pytest.skip(ABSENT)
    log, cases = directory / f"requests-{split}.jsonl", WIRE
    log.touch()
    if made is not None:
        cases = directory / "cases"
        cases.mkdir()
        response = {"status": 200, "headers": {"content-type": SSE}, "stream": True, "body_text": made.decode()}
        (cases / "made.json").write_text(json.dumps({"name": "made", "response": response}))
    command = [sys.executable, str(REPLAY), str(cases), "--split", str(split), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            started = process.stdout.readline().split()
            yield Replay(started[1], log)
        finally:
            process.terminate()


# -- the gateway -------------------------------------------------------------------------------------------------


class Running:
    """An `App` from its start to its stop. `url` has no `/v1`; `rows` are what the ledger holds once it has stopped."""

    def __init__(self, directory: Path, table: str) -> None:
        self._config = directory / "routes.toml"
        self._config.write_text(table)
        self._state = directory / "state"
        new_state(self._state)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway")
        self.app: App
        self.url = ""

    def start(self) -> Running:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def edits(self) -> dict[str, int]:
        """How often a passing stream was edited, by the metric's word for it."""
        self._settle()
        counted = re.findall(
            r'^pointsman_stream_edits_total\{kind="(\w+)"\} (\d+)', self.app.metrics.render().decode(), re.M
        )
        return {kind: int(count) for kind, count in counted if int(count)}

    def rows(self) -> list[dict[str, Any]]:
        """What the ledger holds, oldest first, with the attempts."""
        self._settle()
        assert self.app.ledger.flush(PATIENCE)
        return newest(self._state / LEDGER, 1000)

    def _settle(self) -> None:
        """Until every request has ended, its record included; a client has its answer a little earlier."""
        while self.app.gateway.running:
            self._call(asyncio.sleep(0))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.app = App(self._config, env={"STATE_DIRECTORY": str(self._state)})
        try:
            await self.app.start()
            self.url = f"http://{self.app.addresses[0]}"
        except BaseException as exc:
            self._failure = exc
            return
        finally:
            self._ready.set()
        await self._stop.wait()
        await self.app.stop(drain=1.0)


@contextmanager
def running(table: str) -> Iterator[Running]:
    """In a directory with a short path: that of its admin socket has 107 bytes at most."""
    with TemporaryDirectory(prefix="pm-") as home:
        gateway = Running(Path(home), table).start()
        try:
            yield gateway
        finally:
            gateway.stop()


HEAD = """
[server]
listen = ["127.0.0.1:0"]
admin = "127.0.0.1:0"
"""


def provider(name: str, dialect: str, base_url: str, *, key: str = "none") -> str:
    return f'[providers.{name}]\ndialects = ["{dialect}"]\nbase_url = "{base_url}"\napi_key = "{key}"\n'


def whole_table(replays: Mapping[int, Replay]) -> str:
    """One provider per dialect and way of cutting: `chat`, `chat-1`, `messages-7`, … Each has one try, so that an error
    comes back as it was recorded."""
    blocks = [HEAD, "[retry]\ntries = 1\n"]
    for split, replay in replays.items():
        tail = f"-{split}" if split else ""
        blocks += [
            provider(f"chat{tail}", "openai-chat", f"{replay.url}/v1"),
            provider(f"mistral{tail}", "openai-chat", f"{replay.url}/v1"),
            provider(f"messages{tail}", "anthropic", replay.url),
            provider(f"workers-ai{tail}", "workers-ai", f"{replay.url}/v1"),
            provider(f"responses{tail}", "openai-responses", f"{replay.url}/v1"),
            provider(f"gemini{tail}", "gemini", replay.url),
            provider(f"ollama{tail}", "ollama", replay.url),
        ]
    return "\n".join(blocks)


# -- a client that sees bytes ------------------------------------------------------------------------------------

PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}


@frozen
class Answer:
    status: int
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: bytes
    cut: bool = False  # the connection ended before the body did

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def posted(url: str, surface: str, body: bytes, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
    """One request on a connection of its own, which stays open for as long as its answer is looked at."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
    try:
        connection.request("POST", PATHS[surface], body=body, headers={"Content-Type": JSON, **(headers or {})})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        try:
            yield Answer(response.status, names, response.read())
        except http.client.IncompleteRead as exc:
            yield Answer(response.status, names, exc.partial, cut=True)
    finally:
        connection.close()


def post(url: str, surface: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    with posted(url, surface, body, headers) as answer:
        return answer
