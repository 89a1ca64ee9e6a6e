"""Log lines: one event, one line, on one stream; JSON for machines, `key=value` for a person at a terminal.

Owns what may stand in a line and how it leaves the process. What is worth a line is for the callers to say:
`structlog.get_logger().info("request_done", surface="messages", status=200, duration_ms=5210)`.

A line never holds a known secret, never breaks in two, whatever a caller or a provider put into a value, and is never
waited for: a stream that blocks costs lines, which are counted, and no request.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Hashable, Iterator, Mapping
from operator import itemgetter
from types import TracebackType
from typing import Any, Protocol, TextIO

import orjson
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import EventDict, WrappedLogger

from proxy.secret import Scrubber
from proxy.server.ledger import Brief
from proxy.server.lines import Writer, stamp

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LONGEST_VALUE = 2048  # characters; a model's name of 100 KB is cut
SCRUBBED_AT_MOST = 1 << 16  # characters of one value; patterns over megabytes would hold up the loop
DEEPEST = 4  # of nested lists and mappings
WORDS = 1024  # short values whose scrubbed form is kept
ALIKE = 4096  # sets of values that are known to stand in a line as they are
FRAMES = 6  # innermost calls that are named with an exception

# journald takes the severity of a line from this prefix, which makes `journalctl -p warning` work.
PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>", "critical": b"<2>"}

# What moves a terminal's cursor, ends a line or turns its direction: C0 and C1 controls, the Unicode line ends,
# zero-width and bidirectional marks, lone surrogates. Written as escapes even inside JSON, since `jq -r` undoes JSON's.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
BARE = re.compile(r'[^\s"=\\]+')


# The texts of a request's line, but for its id, which is our own.
TEXTS = ("client", "surface", "model", "provider", "outcome", "key_id", "project")
OURS = ("time", "level", "event", "request_id")
_texts = itemgetter(*TEXTS)
# Of requests that are alike these differ, apart from time and id.
NUMBERS = ("ttfb_ms", "duration_ms", "input_tokens", "output_tokens", "cost_nanos")


class Kind(Protocol):
    """What the lines of some requests have in common."""

    def told(self, brief: Brief, read: int | None, client: str | None) -> Mapping[str, Any]:
        """As `request_done` takes it."""


class Log:
    """The log of this process, from `configure` to `close`."""

    def __init__(self, *, json: bool, level: str, scrubber: Scrubber, stream: TextIO) -> None:
        self._scrubber = scrubber
        self._level = LEVELS[level]
        self._words: dict[str, str] = {}
        self._alike: set[Hashable] = set()
        self._forms: dict[tuple[Kind, str | None], str] = {}
        self._line = _json_line if json else _text_line
        self._to_journal = _is_journal(stream)
        self._info = PRIORITIES["info"] if self._to_journal else b""
        self._writer = Writer(stream, self._dropped_line)
        self._bridge = Bridge()
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, self._render],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            logger_factory=lambda *_: self._writer,
            cache_logger_on_first_use=False,
        )
        root = logging.getLogger()
        root.addHandler(self._bridge)
        root.setLevel(max(LEVELS[level], logging.WARNING))

    @property
    def dropped(self) -> int:
        """Lines lost since the start, because the stream blocked or failed."""
        return self._writer.dropped

    def set_scrubber(self, scrubber: Scrubber) -> None:
        """From the next line on. Requests under way still use the old table's keys: give both tables' secrets."""
        self._scrubber = scrubber
        self._words.clear()
        self._alike.clear()
        self._forms.clear()

    def request_done(self, fields: Mapping[str, Any], at_ms: int | None = None) -> None:
        """The one line of each request, by constant names, without structlog's way there. `request_id` is our own;
        `at_ms` is when it ended, if that was before now."""
        if self._level > logging.INFO:
            return
        told: dict[str, Any] = {
            "time": stamp(time.time_ns() // 1_000_000 if at_ms is None else at_ms),
            "level": "info",
            "event": "request_done",
            **fields,
        }
        try:
            alike = (_texts(fields), len(fields))
            if alike not in self._alike:
                self._scrub(told, alike)
            line = self._line(told)
        except (KeyError, TypeError):  # other fields, or a count of more than 64 bits
            line = self._line({name: self._clean(value) for name, value in told.items()})
        self._writer.put(self._info + line + b"\n")

    def brief_done(self, kind: Kind, brief: Brief, read: int | None, client: str | None) -> None:
        """The line of a request of a kind that comes often. Only what is its own is put into the form that the first of
        them has left, and that by the writer's thread."""
        wrote, cost, took = brief.usage.output, brief.cost_nanos, brief.duration_ms
        ended = brief.at_ms + took
        form = self._forms.get((kind, client)) or self._learn(kind, brief, read, client)
        if not form or read is None or wrote is None or cost is None or (read | wrote | cost) >> 63:
            self.request_done(kind.told(brief, read, client), ended)
            return
        self._writer.put_form(form, ended, (brief.request_id, brief.ttfb_ms, took, read, wrote, cost))

    def _learn(self, kind: Kind, brief: Brief, read: int | None, client: str | None) -> str:
        """ "" where there is no line, or one for people."""
        if self._level > logging.INFO or self._line is not _json_line:
            return ""
        if len(self._forms) >= ALIKE:
            self._forms.clear()
        told = {"time": "", "level": "info", "event": "request_done", **kind.told(brief, read, client)}
        places = {"time": '"%s"', "request_id": '"%s"', **dict.fromkeys(NUMBERS, "%s")}
        parts = [
            f'"{name}":{places.get(name) or orjson.dumps(self._clean(value)).decode().replace("%", "%%")}'
            for name, value in told.items()
        ]
        form = self._forms[kind, client] = f"{self._info.decode()}{{{','.join(parts)}}}\n"
        return form

    def _scrub(self, told: dict[str, Any], alike: Hashable) -> None:
        """Where no text needed it, and there are no others, the next line with the same ones is not looked through."""
        clean = True
        for name, value in told.items():
            if value.__class__ is str and name not in OURS:
                told[name] = said = self._words.get(value) or self._said(value)
                clean = clean and said == value and name in TEXTS
        if clean:
            if len(self._alike) >= ALIKE:
                self._alike.clear()
            self._alike.add(alike)

    def _said(self, value: Any) -> str:
        """`_text`, kept for when the word comes again: names of models, providers and outcomes do."""
        said = self._text(value)
        if len(self._words) >= WORDS:
            self._words.clear()
        if len(value) <= 64:
            self._words[value] = said
        return said

    def close(self, timeout_s: float = 2.0) -> None:
        """The last lines leave, if the stream takes them in time; structlog and logging are as before."""
        root = logging.getLogger()
        root.removeHandler(self._bridge)
        root.setLevel(logging.WARNING)
        structlog.reset_defaults()
        self._writer.close(timeout_s)

    def _render(self, _logger: WrappedLogger, _method: str, fields: EventDict) -> bytes:
        exc = _exception(fields.pop("exc_info", None))
        level, event = fields.pop("level"), str(fields.pop("event"))
        told = {
            "time": stamp(time.time_ns() // 1_000_000),
            "level": level,
            "event": event,
            **fields,
            **(_told(exc) if exc else {}),
        }
        prefix = PRIORITIES[level] if self._to_journal else b""
        return prefix + self._line({self._text(name): self._clean(value) for name, value in told.items()}) + b"\n"

    def _dropped_line(self, count: int) -> bytes:
        return self._render(None, "warning", {"event": "log_dropped", "level": "warning", "lines": count})

    def _clean(self, value: object, depth: int = 0) -> Any:
        """The value as JSON has it, with every text in it scrubbed, escaped and cut."""
        match value:
            case str():
                return self._text(value)
            case None | bool() | float():
                return value
            case int():
                return value if -(1 << 63) <= value < 1 << 64 else str(value)  # beyond that orjson gives up
            case bytes():
                return self._text(value[:SCRUBBED_AT_MOST].decode("utf-8", "backslashreplace"))
            case Mapping() if depth < DEEPEST:
                return {self._text(str(name)): self._clean(part, depth + 1) for name, part in value.items()}
            case list() | tuple() | set() | frozenset() if depth < DEEPEST:
                return [self._clean(part, depth + 1) for part in value]
            case _:
                return self._text(str(value))

    def _text(self, text: str) -> str:
        shown = self._scrubber(text[:SCRUBBED_AT_MOST])
        if len(shown) > LONGEST_VALUE:
            shown = f"{shown[:LONGEST_VALUE]}... ({len(text)} characters)"
        return shown if shown.isprintable() else UNPRINTABLE.sub(_escape, shown)


class Bridge(logging.Handler):
    """What libraries log, as one line a fault.

    aiohttp's and asyncio's messages quote what a peer has sent, and their tracebacks repeat it: only the message's
    fixed part, the exception's class and the place in the code are kept.
    """

    FIXED = re.compile(r"[^(<%:\n]*")

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        exc = _exception(record.exc_info)
        if isinstance(exc, HttpProcessingError):  # bytes that are no HTTP: the peer's fault, and no news to anyone
            peer = str(record.args[0]) if isinstance(record.args, tuple) and record.args else None
            log.info("bad_http", peer=peer, exception=type(exc).__name__)
            return
        fixed = self.FIXED.match(str(record.msg))
        message = fixed[0].strip() if fixed else ""
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        log.log(level, "library_error", logger=record.name, message=message, exc_info=exc)


def configure(*, json: bool, level: str, scrubber: Scrubber, stream: TextIO | None = None) -> Log:
    """Send the events of structlog and of the standard library's logging to `stream`, by default stderr.

    `level` is one of LEVELS. Before this call structlog prints to stdout, readable.
    """
    return Log(json=json, level=level, scrubber=scrubber, stream=stream or sys.stderr)


def wants_json(stream: TextIO | None = None) -> bool:
    """A terminal is read by a person, a pipe, a file or the journal by a program."""
    return not (stream or sys.stderr).isatty()


def _is_journal(stream: TextIO) -> bool:
    """https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24JOURNAL_STREAM"""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _json_line(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields)


def _text_line(fields: dict[str, Any]) -> bytes:
    time, level, event, *rest = fields.items()
    pairs = (f"{name}={_shown(value)}" for name, value in rest if value is not None)
    return " ".join([time[1], f"{level[1]:<7}", event[1], *pairs]).encode()


def _shown(value: object) -> str:
    if isinstance(value, str) and BARE.fullmatch(value):
        return value
    return orjson.dumps(value).decode()


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _exception(info: object) -> BaseException | None:
    """The exception in any of the forms that `exc_info` may have."""
    match info:
        case BaseException():
            return info
        case (_, BaseException() as exc, _):
            return exc
        case None | False | (None, None, None):
            return None
        case _:
            return sys.exc_info()[1]


def _told(exc: BaseException) -> dict[str, str]:
    """Class and place of an exception. Its text stays out: it may quote a prompt, an answer or a key."""
    chain = list(_causes(exc))
    calls = [call for cause in reversed(chain) for call in _calls(cause.__traceback__)]
    return {"exception": " from ".join(map(_name, chain)), "at": " < ".join(calls[:FRAMES])}


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    for _ in range(DEEPEST):
        if exc is None:
            return
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _name(exc: BaseException) -> str:
    match exc:
        case BaseExceptionGroup():
            return f"{type(exc).__name__}({', '.join(map(_name, exc.exceptions[:DEEPEST]))})"
        case OSError(errno=int() as number) if name := os.strerror(number):
            return f"{type(exc).__name__}({name})"
        case _:
            return type(exc).__name__


def _calls(trace: TracebackType | None) -> list[str]:
    """Innermost first. Modules, not files: a path tells about the machine."""
    return [
        f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}:{line}"
        for frame, line in reversed(list(traceback.walk_tb(trace)))
    ]
