"""Whole answers and the lines of streams to the IR, and errors.

A stream's lines are answers of their own with a piece of the message in each; the one that is `done` has the counts.
A call comes whole in one line. Answers have no id, and calls had none for long: those made up here come from the moment
of the answer, which is told to the nanosecond, so that no two of a conversation are alike.

https://docs.ollama.com/api/chat · https://docs.ollama.com/api/errors
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from proxy import ir
from proxy.dialects import failures
from proxy.dialects.dialect import Reading
from proxy.dialects.measure import counted
from proxy.errors import UpstreamBroken
from proxy.record import define
from proxy.wire import json_text
from proxy.wire.sse import Frame

NAME = "ollama"
_NO_DIGIT = re.compile(r"\D")
_SUBSECOND = re.compile(r"(\.\d{6})\d+")  # Go tells nanoseconds, which Python does not read
_STOPS: dict[str, ir.StopReason] = {"stop": "end", "length": "length"}


# -- errors ------------------------------------------------------------------------------------------------------


def read_error(parsed: Any) -> Reading:
    """`{"error": "what was wrong"}`"""
    failure = failure_of(parsed)
    return Reading(True, failure.message) if failure else Reading(False)


def failure_of(parsed: Any) -> ir.Failure | None:
    """A line of a stream may tell the status that can be sent no more."""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if not isinstance(error, str) or not error:
        return None
    status = parsed.get("status")
    return ir.Failure("api_error", error, status if isinstance(status, int) and not isinstance(status, bool) else None)


# -- whole answers -----------------------------------------------------------------------------------------------


def check_answer(parsed: Any) -> ir.Usage | None:
    if failure := failure_of(parsed):
        raise failures.of_stream(failure)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("message"), dict):
        raise UpstreamBroken("The provider's answer holds no message.")
    if parsed.get("done") is not True:
        raise UpstreamBroken("The provider's answer is not done.")
    return _usage(parsed)


def decode_answer(parsed: Mapping[str, Any]) -> ir.Answer:
    usage = check_answer(parsed)
    message = parsed["message"]
    parts: list[ir.Part] = []
    if thinking := _text(message, "thinking"):
        parts.append(ir.Thinking(thinking, dialect=NAME))
    if content := _text(message, "content"):
        parts.append(ir.Text(content))
    calls = list(_calls(message, _moment(parsed), 0))
    native = _text(parsed, "done_reason")
    choice = ir.Choice(
        (*parts, *calls), _stop(native, called=bool(calls)), logprobs=_logprobs(parsed), native_stop=native or None
    )
    start = _start(parsed)
    return ir.Answer(start.id, start.model, (choice,), usage or ir.Usage(), start.created)


# -- streams -----------------------------------------------------------------------------------------------------


@define
class StreamDecoder:
    """Lines of one answer to IR events. Lives as long as that answer."""

    _moment: str = ""  # of the first line
    _started: bool = False
    _kind: type[ir.Part] | None = None  # of the part that is open
    _count: int = 0  # parts so far
    _calls: int = 0

    def feed(self, frame: Frame) -> list[ir.StreamEvent]:
        line = _parse(frame)
        if failure := failure_of(line):
            return [failure]
        message = line.get("message")
        if not isinstance(message, dict):
            raise UpstreamBroken("The provider sent a line that holds no message.")
        events: list[ir.StreamEvent] = []
        if not self._started:
            self._started, self._moment = True, _moment(line)
            events.append(_start(line))
        if thinking := _text(message, "thinking"):
            self._open(ir.Thinking(dialect=NAME), events)
            events.append(ir.ThinkingDelta(self._count - 1, thinking))
        if content := _text(message, "content"):
            self._open(ir.Text(""), events)
            events.append(ir.TextDelta(self._count - 1, content, logprobs=_logprobs(line)))
        for call in _calls(message, self._moment, self._calls):
            self._call(call, events)
        if line.get("done") is True:
            self._finish(line, events)
        return events

    def close(self) -> list[ir.StreamEvent]:
        events: list[ir.StreamEvent] = []
        self._end(events)
        return events

    def _open(self, shell: ir.Part, events: list[ir.StreamEvent]) -> None:
        if self._kind is type(shell):
            return
        self._end(events)
        events.append(ir.PartStart(self._count, shell))
        self._kind, self._count = type(shell), self._count + 1

    def _end(self, events: list[ir.StreamEvent]) -> None:
        if self._kind is not None:
            events.append(ir.PartEnd(self._count - 1))
            self._kind = None

    def _call(self, call: ir.ToolCall, events: list[ir.StreamEvent]) -> None:
        self._end(events)
        events += (
            ir.PartStart(self._count, ir.ToolCall(call.id, call.name)),
            ir.ArgumentsDelta(self._count, call.arguments),
            ir.PartEnd(self._count),
        )
        self._calls += 1
        self._count += 1

    def _finish(self, line: Mapping[str, Any], events: list[ir.StreamEvent]) -> None:
        self._end(events)
        native = _text(line, "done_reason")
        events.append(ir.Finish(_stop(native, called=self._calls > 0), native_stop=native or None))
        if (usage := _usage(line)) is not None:
            events.append(ir.UsageReport(usage))
        events.append(ir.End())


# -- what both have ----------------------------------------------------------------------------------------------


def _parse(frame: Frame) -> Mapping[str, Any]:
    try:
        line = json_text.read(frame.data)
    except ValueError as exc:
        raise UpstreamBroken("The provider sent a line that is not JSON.") from exc
    if not isinstance(line, dict):
        raise UpstreamBroken("The provider sent a line that is not a JSON object.")
    return line


def _start(line: Mapping[str, Any]) -> ir.Start:
    return ir.Start("", _text(line, "model"), _seconds(_text(line, "created_at")))


def _calls(message: Mapping[str, Any], moment: str, number: int) -> Iterator[ir.ToolCall]:
    """`number`: how many the answer has had before."""
    listed = message.get("tool_calls")
    for at, call in enumerate(listed if isinstance(listed, list) else (), number):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _text(function, "name"):
            raise UpstreamBroken("The provider sent a tool call without a name.")
        given = function.get("arguments")
        arguments = given if isinstance(given, str) else json_text.write({} if given is None else given).decode()
        yield ir.ToolCall(_text(call, "id") or f"call_{moment}_{at}", function["name"], arguments)


def _stop(native: str, *, called: bool) -> ir.StopReason:
    """Early servers give no reason; all say "stop" behind calls."""
    stop: ir.StopReason = _STOPS.get(native, "unknown") if native else "end"
    return "tool_call" if called and stop in ("end", "unknown") else stop


def _usage(line: Mapping[str, Any]) -> ir.Usage | None:
    """Absurd numbers are unknown. Older servers leave the prompt's count out where all of it was cached."""
    usage = ir.Usage(input=counted(line.get("prompt_eval_count")), output=counted(line.get("eval_count")))
    return None if usage.input is None and usage.output is None else usage


def _logprobs(line: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entries are those of OpenAI; their place is not."""
    entries = line.get("logprobs")
    return {"content": entries, "refusal": None} if isinstance(entries, list) and entries else None


def _moment(line: Mapping[str, Any]) -> str:
    return _NO_DIGIT.sub("", _text(line, "created_at"))[:24]


def _seconds(moment: str) -> int | None:
    try:
        return int(datetime.fromisoformat(_SUBSECOND.sub(r"\1", moment)).timestamp())
    except (ValueError, OverflowError):
        return None


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
