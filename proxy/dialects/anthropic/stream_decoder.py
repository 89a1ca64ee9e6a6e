"""Frames of a Messages stream to IR events.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.anthropic.answers import read_tier
from proxy.dialects.anthropic.blocks import NAME, BlockReader, read_citation
from proxy.dialects.anthropic.faults import read_failure
from proxy.dialects.anthropic.stops import STOP_REASONS
from proxy.dialects.anthropic.usage import read_usage
from proxy.errors import InvalidRequest, UpstreamBroken
from proxy.record import define
from proxy.wire import json_text
from proxy.wire.mould import Mould, around
from proxy.wire.sse import Frame

Events = list[ir.StreamEvent]


def read_event(frame: Frame) -> dict[str, Any]:
    """The event's object; some compatible providers give its type in the event line alone."""
    try:
        event = json_text.read(frame.data)
    except ValueError as exc:
        raise UpstreamBroken("The provider's stream holds an event that is no JSON.") from exc
    if not isinstance(event, dict):
        raise UpstreamBroken("The provider's stream holds an event that is no object.")
    if not isinstance(event.get("type"), str):
        kind = "error" if isinstance(event.get("error"), dict) else frame.event.decode("utf-8", "replace")
        return event | {"type": kind}
    return event


def text_mould(raw: bytes) -> Mould | None:
    """Of an event that is a piece of one block's text and nothing else."""
    made = around(raw, b'"text":"') or around(raw, b'"text": "')
    if made is None or not raw.startswith((b"event: content_block_delta\n", b"data:")):
        return None
    match made[1]:
        case {
            "type": "content_block_delta",
            "index": int() as index,
            "delta": {"type": "text_delta", "text": "x", **others},
            **members,
        } if not others and not members and index.__class__ is int:
            return made[0]
    return None


@define
class _Block:
    """A content block under way. `said` tells whether its arguments came piece by piece."""

    part: int
    shell: ir.Part
    said: bool = False
    pieces: list[str] = field(factory=list)  # of a server tool's arguments, which leave whole at the end


@define
class StreamDecoder:
    """Frames of one answer to IR events. Lives as long as that answer; what follows message_stop is not read."""

    _usage: ir.Usage = field(factory=ir.Usage)
    _blocks: dict[int, _Block] = field(factory=dict)  # the open ones, by the provider's index
    _parts: int = 0
    _last: int = 0
    _started: bool = False
    _over: bool = False

    def feed(self, frame: Frame) -> Events:
        if self._over or not frame.data:
            return []
        event = read_event(frame)
        read = _EVENTS.get(event["type"])
        return read(self, event) if read else []  # the API says to ignore event types that one does not know

    def close(self) -> Events:
        """A call that was cut off before its arguments came gets none made up."""
        return [ir.PartEnd(self._blocks.pop(index).part) for index in list(self._blocks)]

    # -- one reader per event ----------------------------------------------------------------------------------------

    def _start(self, event: dict[str, Any]) -> Events:
        message = _object(event, "message")
        self._usage = self._usage.merged(read_usage(message.get("usage")))
        if self._started:
            return []
        return self._begin(message)

    def _begin(self, message: dict[str, Any]) -> Events:
        self._started = True
        tier = read_tier(_dict(message.get("usage")))
        known = self._usage if self._usage != ir.Usage() else None
        return [ir.Start(_text(message.get("id")), _text(message.get("model")), usage=known, service_tier=tier)]

    def _ping(self, event: dict[str, Any]) -> Events:
        return [ir.Ping()]

    def _block_start(self, event: dict[str, Any]) -> Events:
        raw = _object(event, "content_block")
        try:
            whole = BlockReader().block(raw, "content_block")
        except InvalidRequest as exc:
            raise UpstreamBroken(f"The provider's stream cannot be read: {exc.message}") from exc
        return self._open(self._index(event, self._parts), whole)

    def _open(self, index: int, whole: ir.Part) -> Events:
        """Starts a part with an empty shell; what the block already holds follows as deltas."""
        before = self._end(index) if index in self._blocks else []
        first = [] if self._started else self._begin({})
        part, self._parts = self._parts, self._parts + 1
        shell, deltas = _shell(whole, part)
        self._blocks[index] = _Block(part, whole)
        self._last = index
        return [*before, *first, ir.PartStart(part, shell), *deltas]

    def _block_delta(self, event: dict[str, Any]) -> Events:
        delta = _object(event, "delta")
        read = _DELTAS.get(_text(delta.get("type")))
        if read is None:
            return []
        index = self._index(event, self._last)
        opened: Events = []
        if index not in self._blocks:  # some providers leave content_block_start out
            opened = self._open(index, _unannounced(delta["type"]))
        return opened + read(self._blocks[index], delta)

    def _block_stop(self, event: dict[str, Any]) -> Events:
        index = self._index(event, self._last)
        return self._end(index) if index in self._blocks else []

    def _end(self, index: int) -> Events:
        block = self._blocks.pop(index)
        match block.shell:
            case ir.ToolCall(arguments=arguments) if not block.said:  # no pieces at all: "{}", as other dialects say it
                return [ir.ArgumentsDelta(block.part, arguments), ir.PartEnd(block.part)]
            case ir.ServerCall() as call:
                return [ir.PartEnd(block.part, final=_completed(call, "".join(block.pieces)))]
            case _:
                return [ir.PartEnd(block.part)]

    def _end_all(self) -> Events:
        return [event for index in list(self._blocks) for event in self._end(index)]

    def _message_delta(self, event: dict[str, Any]) -> Events:
        delta, events = _dict(event.get("delta")), list[ir.StreamEvent]()
        if isinstance(raw := event.get("usage"), dict):
            self._usage = self._usage.merged(read_usage(raw, self._usage))
            events.append(ir.UsageReport(self._usage))
        native = delta.get("stop_reason")
        if not isinstance(native, str):
            return events
        sequence = delta.get("stop_sequence")
        finish = ir.Finish(
            STOP_REASONS.get(native, "unknown"), sequence if isinstance(sequence, str) else None, native_stop=native
        )
        return [*self._end_all(), finish, *events]

    def _stop(self, event: dict[str, Any]) -> Events:
        self._over = True
        return [*self._end_all(), ir.End()]

    def _error(self, event: dict[str, Any]) -> Events:
        self._over = True
        return [read_failure(event)]

    def _index(self, event: dict[str, Any], otherwise: int) -> int:
        index = event.get("index")
        return index if isinstance(index, int) and not isinstance(index, bool) else otherwise


# -- deltas ------------------------------------------------------------------------------------------------------


def _text_delta(block: _Block, delta: dict[str, Any]) -> Events:
    text = _text(delta.get("text"))
    return [ir.TextDelta(block.part, text)] if text else []


def _json_delta(block: _Block, delta: dict[str, Any]) -> Events:
    text = _text(delta.get("partial_json"))
    if not text:
        return []
    block.said = True
    if isinstance(block.shell, ir.ServerCall):
        block.pieces.append(text)
    return [ir.ArgumentsDelta(block.part, text)]


def _thinking_delta(block: _Block, delta: dict[str, Any]) -> Events:
    text = _text(delta.get("thinking"))
    return [ir.ThinkingDelta(block.part, text)] if text else []


def _signature_delta(block: _Block, delta: dict[str, Any]) -> Events:
    signature = _text(delta.get("signature"))
    return [ir.SignatureDelta(block.part, signature)] if signature else []


def _citations_delta(block: _Block, delta: dict[str, Any]) -> Events:
    citation = delta.get("citation")
    return [ir.CitationDelta(block.part, read_citation(citation))] if isinstance(citation, dict) else []


_DELTAS: dict[str, Callable[[_Block, dict[str, Any]], Events]] = {
    "text_delta": _text_delta,
    "input_json_delta": _json_delta,
    "thinking_delta": _thinking_delta,
    "signature_delta": _signature_delta,
    "citations_delta": _citations_delta,
}
_EVENTS: dict[str, Callable[[StreamDecoder, dict[str, Any]], Events]] = {
    "message_start": StreamDecoder._start,
    "content_block_start": StreamDecoder._block_start,
    "content_block_delta": StreamDecoder._block_delta,
    "content_block_stop": StreamDecoder._block_stop,
    "message_delta": StreamDecoder._message_delta,
    "message_stop": StreamDecoder._stop,
    "ping": StreamDecoder._ping,
    "error": StreamDecoder._error,
}


def _shell(whole: ir.Part, part: int) -> tuple[ir.Part, Iterable[ir.StreamEvent]]:
    """The empty part, and what it held at its start as deltas. A call's input may be repeated in deltas: it waits."""
    match whole:
        case ir.Text(text, citations):
            cited = [ir.CitationDelta(part, citation) for citation in citations]
            return ir.Text(""), [*([ir.TextDelta(part, text)] if text else []), *cited]
        case ir.Thinking(redacted=None, text=text, signature=signature):
            signed = [ir.SignatureDelta(part, signature)] if signature else []
            return ir.Thinking(dialect=NAME), [*([ir.ThinkingDelta(part, text)] if text else []), *signed]
        case ir.ToolCall():
            return evolve(whole, arguments=""), []
        case _:
            return whole, []


def _unannounced(kind: str) -> ir.Part:
    match kind:
        case "text_delta":
            return ir.Text("")
        case "thinking_delta":
            return ir.Thinking(dialect=NAME)
        case _:
            raise UpstreamBroken("The provider's stream goes on with a content block that it never began.")


def _completed(call: ir.ServerCall, arguments: str) -> ir.ServerCall:
    if not arguments:
        return call
    try:
        given = json_text.read(arguments)
    except ValueError:  # cut off: the pieces that came are all there is
        return evolve(call, arguments=arguments)
    return evolve(call, arguments=arguments, raw={**call.raw, "input": given})


def _object(event: dict[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise UpstreamBroken(f"The provider's {event['type']} event has no {name}.")
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
