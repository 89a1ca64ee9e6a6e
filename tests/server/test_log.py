"""What leaves the process as a log line: always one line, never a secret, never waited for."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.ir import Usage
from proxy.secret import Scrubber, Secret
from proxy.server.ledger import Brief
from proxy.server.lines import QUEUE_BYTES, Writer
from proxy.server.log import TEXTS, Log, configure, wants_json

KEY = "canary-5f1c0d9e77aa"
log = structlog.get_logger()


class Pipe:
    """A stream as a daemon has it, and the other end of it."""

    def __init__(self, stack: ExitStack, *, json: bool, level: str = "debug") -> None:
        reader, writer = os.pipe()
        self.reader = stack.enter_context(os.fdopen(reader, "rb"))
        self.stream = stack.enter_context(os.fdopen(writer, "w"))
        self.log: Log = configure(json=json, level=level, scrubber=Scrubber([Secret(KEY)]), stream=self.stream)
        stack.callback(self.log.close, 0)

    def text(self) -> str:
        """Everything that was logged. Ends the log."""
        self.log.close()
        self.stream.close()
        return self.reader.read().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.text().splitlines()]


Opened = Callable[..., Pipe]


@pytest.fixture
def opened() -> Iterator[Opened]:
    with ExitStack() as stack:
        yield lambda **settings: Pipe(stack, **settings)


WORDS: dict[str, object] = {
    "model": "a/b", "provider": None, "status": 200, "cost_nanos": 1 << 70, "outcome": "ok\n", "ttfb_ms": 1.5,
    "client": "sk-0123456789abcdef",
}  # fmt: skip


@pytest.mark.parametrize("json", [True, False])
def test_the_line_of_a_request_is_as_any_other(opened: Opened, json: bool) -> None:
    pipe = opened(json=json)
    for _ in range(2):
        pipe.log.request_done({"request_id": "req_1", **WORDS})
    log.info("request_done", request_id="req_1", **WORDS)
    said = [re.sub(r"[\d-]+T[\d:.]+Z", "", line) for line in pipe.text().splitlines()]
    assert said == said[:1] * 3
    assert "0123456789abcdef" not in said[0]


def test_a_secret_is_found_in_a_line_whose_like_held_none(opened: Opened) -> None:
    pipe = opened(json=True)
    plain = {"request_id": "req_1", **dict.fromkeys(TEXTS, "word")}
    for _ in range(2):
        pipe.log.request_done(plain)
    pipe.log.request_done(plain | {"model": KEY})
    for _ in range(2):
        pipe.log.request_done(plain | {"another": KEY})
    pipe.log.request_done({"another" if name == "model" else name: value for name, value in plain.items()})
    pipe.log.set_scrubber(Scrubber([Secret(KEY), Secret("word-of-a-new-table")]))
    pipe.log.request_done(plain | {"model": "word-of-a-new-table"})
    lines = pipe.lines()
    assert [line.get("model") for line in lines] == ["word", "word", "***", "word", "word", None, "***"]
    assert [line.get("another") for line in lines] == [None] * 3 + ["***"] * 2 + ["word", None]


class Kind:
    """Requests whose lines are alike but for their numbers."""

    def __init__(self, model: str = "100%s of a/b") -> None:
        self.model = model
        self.asked = 0  # times that all fields were wanted

    def told(self, brief: Brief, read: int | None, client: str | None) -> dict[str, Any]:
        self.asked += 1
        return {
            "client": client, "request_id": brief.request_id, "model": self.model, "provider": "größe\n", "status": 200,
            "ttfb_ms": brief.ttfb_ms, "duration_ms": brief.duration_ms, "input_tokens": read,
            "output_tokens": brief.usage.output, "cost_nanos": brief.cost_nanos, "key_id": None,
        }  # fmt: skip


def brief(i: int, **changes: Any) -> Brief:
    usage = Usage(input=i, output=changes.pop("output", i))
    made = Brief(None, f"req_{i}", 1_700_000_000_000 + i, 5, None, False, usage, 7, 7, 3, 4, 100, None)  # type: ignore[arg-type]
    return made._replace(**changes)


NUMBERED: dict[str, tuple[dict[str, Any], int | None]] = {
    "as the others": ({}, 12),
    "nothing known of what it read": ({}, None),
    "nothing known of what it wrote": ({"output": None}, 12),
    "no cost": ({"cost_nanos": None}, 12),
    "a cost past 64 bits": ({"cost_nanos": 1 << 80}, 12),
    "more tokens than 64 bits": ({}, 1 << 64),
    "fewer tokens than none": ({"output": -1}, 12),
}


@pytest.mark.parametrize("json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize(("changes", "read"), NUMBERED.values(), ids=NUMBERED)
def test_the_line_of_a_kind_is_as_any_other(
    opened: Opened, changes: dict[str, Any], read: int | None, json: bool
) -> None:
    pipe, kind = opened(json=json), Kind()
    for i in range(3):
        pipe.log.brief_done(kind, brief(i), i, "127.0.0.1")
    one = brief(9, **changes)
    pipe.log.brief_done(kind, one, read, "127.0.0.1")
    pipe.log.request_done(Kind().told(one, read, "127.0.0.1"))
    *_, by_kind, by_itself = [re.sub(r"[\d-]+T[\d:.]+Z", "", line) for line in pipe.text().splitlines()]
    assert by_kind == by_itself
    assert "100%s of a/b" in by_kind
    assert not json or kind.asked == 1 + (changes != {} or read != 12)


@pytest.mark.parametrize("changes", [{}, {"cost_nanos": None}], ids=["by its form", "as any other"])
def test_the_line_of_a_kind_tells_when_its_request_ended(opened: Opened, changes: dict[str, Any]) -> None:
    pipe = opened(json=True)
    pipe.log.brief_done(Kind(), brief(5, **changes), 1, None)
    (line,) = pipe.lines()
    assert line["time"] == "2023-11-14T22:13:20.009Z"
    assert line["client"] is None


def test_each_client_of_a_kind_has_lines_of_its_own_and_a_new_scrubber_looks_again(opened: Opened) -> None:
    pipe, kind = opened(json=True), Kind("a-word-of-yesterday")
    for client in ("::1", "::2", "::1"):
        pipe.log.brief_done(kind, brief(1), 1, client)
    pipe.log.set_scrubber(Scrubber([Secret("a-word-of-yesterday")]))
    pipe.log.brief_done(kind, brief(1), 1, "::1")
    lines = pipe.lines()
    assert [line["client"] for line in lines] == ["::1", "::2", "::1", "::1"]
    assert [line["model"] for line in lines] == ["a-word-of-yesterday"] * 3 + ["***"]
    assert kind.asked == 3


def test_lines_of_kinds_keep_to_the_level_and_to_the_queue(opened: Opened) -> None:
    pipe = opened(json=True, level="warning")
    pipe.log.brief_done(Kind(), brief(1), 1, None)
    assert pipe.text() == ""
    wrote: list[bytes] = []
    queue = Writer(io.TextIOWrapper(io.BytesIO()), lambda count: b"%d dropped\n" % count, cap=500)
    queue._write = wrote.append
    for i in range(10):
        queue.put_form('{"time":"%s","n":%s}\n', i, (i,))
    queue.close(5)
    written = b"".join(wrote).splitlines()
    assert written[0] == b'{"time":"1970-01-01T00:00:00.000Z","n":0}'
    assert written[-1] == b"%d dropped" % (10 - len(written) + 1)
    assert queue.dropped == 10 - len(written) + 1 > 0


def test_a_new_scrubber_looks_at_every_line_again(opened: Opened) -> None:
    pipe = opened(json=True)
    fields = dict.fromkeys(TEXTS, "a-word-of-yesterday")
    pipe.log.request_done(fields)
    pipe.log.set_scrubber(Scrubber([Secret("a-word-of-yesterday")]))
    pipe.log.request_done(fields)
    assert [line["model"] for line in pipe.lines()] == ["a-word-of-yesterday", "***"]


def test_the_lines_of_requests_have_a_level_too(opened: Opened) -> None:
    pipe = opened(json=True, level="warning")
    pipe.log.request_done({"request_id": "req_1"})
    assert pipe.text() == ""


def test_a_line_begins_with_time_level_and_event(opened: Opened) -> None:
    pipe = opened(json=True)
    log.info("request_done", surface="messages", attempts=2, ttfb_ms=310.5, model=None)
    (line,) = pipe.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert list(line.items()) == [
        ("level", "info"),
        ("event", "request_done"),
        ("surface", "messages"),
        ("attempts", 2),
        ("ttfb_ms", 310.5),
        ("model", None),
    ]


def test_a_person_reads_names_and_values(opened: Opened) -> None:
    pipe = opened(json=False)
    log.warning("attempt_failed", provider="p1", reason="no route to host", status=None, ms=12)
    stamp, line = pipe.text().split(" ", 1)
    assert stamp.endswith("Z")
    assert line == 'warning attempt_failed provider=p1 reason="no route to host" ms=12\n'


def test_fields_bound_to_the_request_stand_in_its_lines(opened: Opened) -> None:
    pipe = opened(json=True)
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        log.info("request_done")
    log.info("ready")
    assert [line.get("request_id") for line in pipe.lines()] == ["req_1", None]


HOSTILE = {
    "line ends": "a\r\nb\nc\u0085d\u2028e\u2029f\x0bg\x0ch",
    "terminal sequences": "\x1b[2J\x1b]0;title\x07\x9b31m",
    "other controls": "a\x00b\x08c\x7fd",
    "a turned direction": "user\u202etxt.exe\u2066\u200f",
    "lone surrogate": "a\ud800b",
    "bytes that are no text": b"\xff\x1b[31m\r\n",
    "in a list": ["a\nb", ("c\nd", {"e\nf": "g\nh"})],
    "a number past 64 bits": 1 << 80,
    "an object": object,
    "deeply nested": [[[[[["a\nb"]]]]]],
}


@pytest.mark.parametrize("json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_one_line_stays_one_line(opened: Opened, value: object, json: bool) -> None:
    pipe = opened(json=json)
    log.info("request_done", model=value, **{"na\nme": 1})
    log.info(str(value))
    text = pipe.text()
    assert text.count("\n") == 2
    assert all(char.isprintable() for line in text.split("\n") for char in line)


def test_a_long_value_is_cut(opened: Opened) -> None:
    pipe = opened(json=True)
    log.info("request_done", model="m" * 100_000)
    (line,) = pipe.lines()
    assert len(line["model"]) < 3_000
    assert line["model"].endswith("(100000 characters)")


SECRETS: dict[str, object] = {
    "a text": f"key {KEY} refused",
    "a nested text": {"headers": [f"x-api-key: {KEY}"]},
    "a name": {KEY: 1},
    "bytes": f"={KEY}".encode(),
    "a secret": Secret(KEY),
    "an exception": ValueError(f"bad key {KEY}"),
}


@pytest.mark.parametrize("json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize("value", SECRETS.values(), ids=SECRETS)
def test_a_known_secret_is_nowhere_in_a_line(opened: Opened, value: object, json: bool) -> None:
    pipe = opened(json=json)
    log.error("attempt_failed", detail=value)
    assert KEY not in pipe.text()


def test_a_new_table_brings_new_secrets(opened: Opened) -> None:
    pipe = opened(json=True)
    pipe.log.set_scrubber(Scrubber([Secret("another-canary-1")]))
    log.info("reloaded", detail="another-canary-1")
    assert [line["detail"] for line in pipe.lines()] == ["***"]


def break_down() -> None:
    raise KeyError("the answer\n") from OSError(111, "the prompt")


def test_an_exception_is_told_by_its_class_and_place_and_not_by_its_text(opened: Opened) -> None:
    pipe = opened(json=True)
    try:
        break_down()
    except KeyError:
        log.exception("internal_error")
    (line,) = pipe.lines()
    assert line["exception"] == "KeyError from ConnectionRefusedError(Connection refused)"
    assert [call.rpartition(":")[0] for call in line["at"].split(" < ")] == [
        f"{__name__}.break_down",
        f"{__name__}.test_an_exception_is_told_by_its_class_and_place_and_not_by_its_text",
    ]
    assert not {"the prompt", "the answer"} & {str(value) for value in line.values()}


def test_lines_below_the_level_are_not_written(opened: Opened) -> None:
    pipe = opened(json=True, level="warning")
    log.info("request_done")
    log.warning("table_rejected")
    assert [line["event"] for line in pipe.lines()] == ["table_rejected"]


def test_a_blocked_reader_costs_lines_and_they_are_counted(opened: Opened) -> None:
    pipe = opened(json=True)
    count = 4_000
    for number in range(count):  # four times what the queue holds, and nobody reads
        log.info("request_done", number=number, filler="x" * (QUEUE_BYTES // 1_000))
    assert 0 < pipe.log.dropped < count

    written: list[int] = []
    reported = 0
    while len(written) + reported < count:  # the reader is back
        match orjson.loads(pipe.reader.readline()):
            case {"event": "log_dropped", "lines": lines}:
                reported += lines
            case {"number": number}:
                written.append(number)
    assert written == sorted(set(written))
    assert reported == pipe.log.dropped


def test_what_did_not_fit_is_told_though_no_line_follows() -> None:
    """All that the queue holds was taken and blocks, and what came behind it was dropped to the last line."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read, os.fdopen(writer, "w") as stream:
        queue = Writer(stream, lambda count: b"%d dropped\n" % count, cap=1 << 20)
        queue.put(b"x" * ((1 << 20) - 1) + b"\n")
        assert read.read(1) == b"x"  # the thread has it
        for _ in range(3):
            queue.put(b"more\n")
        assert read.readline().endswith(b"x\n")
        assert read.readline() == b"3 dropped\n"
        queue.close(5.0)


def test_a_reader_that_went_away_does_not_hurt(opened: Opened) -> None:
    pipe = opened(json=True)
    pipe.reader.close()
    log.info("request_done")
    pipe.log.close()
    assert pipe.log.dropped == 1


def test_closing_does_not_wait_for_a_blocked_reader(opened: Opened) -> None:
    pipe = opened(json=True)
    for _ in range(200):
        log.info("request_done", filler="x" * 1_000)
    pipe.log.close(timeout_s=0)
    assert not pipe.stream.closed


def test_a_stream_without_a_descriptor_is_written_too() -> None:
    stream = io.StringIO()
    opened = configure(json=True, level="info", scrubber=Scrubber(), stream=stream)
    log.info("ready")
    opened.close()
    assert orjson.loads(stream.getvalue())["event"] == "ready"
    assert wants_json(stream)


def test_the_journal_gets_the_severity_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        journal = configure(json=True, level="info", scrubber=Scrubber(), stream=stream)
        log.info("ready")
        log.error("internal_error")
        journal.close()
        stream.seek(0)
        assert [line[:4] for line in stream] == ["<6>{", "<3>{"]


RAW: dict[str, tuple[bytes, list[str]]] = {
    "no HTTP at all, as port scanners send it": (b"\x16\x03\x01\x02\x00 canary-bytes\r\n\r\n", []),
    "a bad header": (b"GET / HTTP/1.1\r\nHost: x\r\nbad\x00header: canary-bytes\r\n\r\n", ["bad_http"]),
    "a bad chunk": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ncanary-bytes\r\n\r\n",
        ["bad_http"],
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: canary-bytes\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        ["bad_http"],
    ),
}


@pytest.mark.parametrize(("raw", "events"), RAW.values(), ids=RAW)
async def test_a_malformed_request_is_one_line_without_its_bytes(opened: Opened, raw: bytes, events: list[str]) -> None:
    async def read(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", read)
    pipe = opened(json=True, level="info")
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(raw)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    text = pipe.text()
    assert "canary" not in text
    assert [orjson.loads(line)["event"] for line in text.splitlines()] == events


async def test_a_fault_in_a_task_is_one_line(opened: Opened) -> None:
    pipe = opened(json=True)
    loop = asyncio.get_running_loop()
    error = ValueError("the\nprompt")
    loop.call_exception_handler({"message": "Task exception was never retrieved", "exception": error, "task": loop})
    (line,) = pipe.lines()
    del line["time"]
    assert line == {
        "level": "error",
        "event": "library_error",
        "logger": "asyncio",
        "message": "Task exception was never retrieved",
        "exception": "ValueError",
        "at": "",
    }


def test_what_a_library_quotes_of_a_peer_stays_out(opened: Opened) -> None:
    pipe = opened(json=True)
    logging.getLogger("aiohttp.client").warning("Can not load response cookies: %s", "canary=1")
    logging.getLogger("asyncio").error("Exception in callback Protocol.data_received(b'canary')")
    logging.getLogger("aiohttp.access").info("not wanted")
    text = pipe.text()
    assert "canary" not in text
    assert text.count("\n") == 2


def test_after_the_end_logging_is_as_before(opened: Opened) -> None:
    before = list(logging.getLogger().handlers)
    pipe = opened(json=True)
    assert logging.getLogger().handlers != before
    pipe.log.close()
    assert logging.getLogger().handlers == before
    assert not structlog.is_configured()


def test_a_file_gets_json(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert wants_json(stream)
