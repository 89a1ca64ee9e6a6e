"""IR events to a Messages stream: message_start, content blocks one behind the other, message_delta, message_stop.

Blocks never overlap in this API. Text that goes on behind a tool call becomes a further text block. A part that begins
while a call is still open waits until that call has ended: this is the one thing held back, besides message_delta,
which wants the stop reason and the final usage in one event. Arguments for a call that has already ended (some servers
interleave parallel calls) go out under the index of its block: the SDKs put deltas together by index.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.anthropic.answers import message_id, tool_id, write_citation
from proxy.dialects.anthropic.blocks import NAME
from proxy.dialects.anthropic.faults import write_failure
from proxy.dialects.anthropic.stops import write_stop
from proxy.dialects.anthropic.usage import write_usage
from proxy.dialects.dialect import Voice
from proxy.errors import GatewayError, UpstreamBroken
from proxy.record import define, frozen
from proxy.wire import json_text, sse

MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_HELD_MAX = 1 << 20  # characters that may wait for an open call

# The member that a delta's text stands in, by the delta's type.
_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
_Calls = ir.ToolCall | ir.ServerCall
_PartEvent = (
    ir.PartStart | ir.TextDelta | ir.ThinkingDelta | ir.SignatureDelta | ir.ArgumentsDelta | ir.CitationDelta
    | ir.RefusalDelta | ir.AudioDelta | ir.PartEnd
)  # fmt: skip


@frozen
class _Open:
    """The block being written. `head` is all of a text-like delta event but its text."""

    part: int
    shell: ir.Part
    index: int
    head: bytes = b""


@define
class StreamEncoder:
    """IR events of one answer to bytes. Every event is named by an `event:` line, or its clients skip it."""

    voice: Voice
    _usage: ir.Usage = field(factory=ir.Usage)
    _finish: ir.Finish | None = None
    _open: _Open | None = None
    _blocks: int = 0
    _shells: dict[int, ir.Part] = field(factory=dict)  # parts begun and not ended, whether or not they have a block
    _calls: dict[int, int] = field(factory=dict)  # by part, the index of a call's block
    _summaries: dict[int, int] = field(factory=dict)  # by part, the summary piece last written
    _held: list[_PartEvent] = field(factory=list)
    _held_size: int = 0
    _started: bool = False
    _over: bool = False
    _refused: bool = False

    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        if len(events) == 1 and type(event := events[0]) is ir.TextDelta:  # nearly every event is one
            block = self._open
            if block is not None and event.part == block.part and block.head and not event.choice and event.text:
                return b"%b%b}}\n\n" % (block.head, json_text.write(event.text))
        return b"".join([self._event(event) for event in events])

    def fail(self, error: GatewayError) -> bytes:
        if self._over:
            return b""
        self._over = True
        return _frame("error", write_failure(error, self.voice.request_id))

    def cast(self, event: ir.TextDelta) -> tuple[bytes, bytes] | None:
        block = self._open
        if self._over or block is None or event.part != block.part or not block.head or event.choice:
            return None
        return block.head + b'"', b'"}}\n\n'

    def said(self, chars: int) -> None:
        """This dialect counts nothing."""

    def _event(self, event: ir.StreamEvent) -> bytes:
        if self._over:
            return b""
        match event:
            case ir.Start():
                return self._start(event)
            case ir.Ping():
                return _PING
            case ir.UsageReport(usage):
                self._usage = self._usage.merged(usage)
                return b""
            case ir.Finish():
                if event.choice == 0:
                    self._finish = event
                return b""
            case ir.End():
                return self._end()
            case ir.Failure():
                return b""  # the relay tells it, by `fail`
            case _:
                return self._start(ir.Start("", "")) + self._of_part(event) if event.choice == 0 else b""

    def _start(self, start: ir.Start) -> bytes:
        if self._started:
            return b""
        self._started = True
        if start.usage:
            self._usage = self._usage.merged(start.usage)
        message: dict[str, Any] = {
            "id": message_id(start.id, self.voice),
            "type": "message",
            "role": "assistant",
            "model": start.model or self.voice.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(self._usage),
        }
        return _frame("message_start", {"type": "message_start", "message": message})

    def _end(self) -> bytes:
        """message_delta repeats no split of what was written to the cache; message_start has it."""
        out = [self._start(ir.Start("", "")), self._close()]
        while self._held:
            out += [self._release(), self._close()]
        self._over = True
        finish = self._finish or ir.Finish("unknown")
        stop = write_stop(finish.stop, finish.native_stop, calls=bool(self._calls), refused=self._refused)
        usage = write_usage(self._usage)
        usage.pop("cache_creation", None)
        delta = {"stop_reason": stop, "stop_sequence": finish.stop_sequence}
        out.append(_frame("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        return b"".join([*out, MESSAGE_STOP])

    # -- parts -------------------------------------------------------------------------------------------------------

    def _of_part(self, event: _PartEvent) -> bytes:
        block = self._open
        if block is not None and block.part != event.part and isinstance(block.shell, _Calls):
            return self._hold(event)
        return _PARTS[type(event)](self, event)

    def _hold(self, event: _PartEvent) -> bytes:
        self._held.append(event)
        self._held_size += len(getattr(event, "text", "")) + 64  # an event without text takes room as well
        if self._held_size > _HELD_MAX:
            raise UpstreamBroken("The provider goes on with other content while a tool call stays open.")
        return b""

    def _release(self) -> bytes:
        held, self._held, self._held_size = self._held, [], 0
        return b"".join([self._of_part(event) for event in held])

    def _part_start(self, event: ir.PartStart) -> bytes:
        """A call and a whole block begin at once; text and thinking with their first word: empty blocks do harm, as
        the API refuses empty text when the client sends the answer back."""
        shell = event.shell
        self._shells[event.part] = shell
        match shell:
            case ir.Text(text) | ir.Refusal(text):
                return self._write(event.part, shell, "text_delta", text) if text else b""
            case ir.Thinking(redacted=str(data)) if shell.dialect == NAME:
                return self._begin(event.part, shell, {"type": "redacted_thinking", "data": data})
            case ir.Thinking(text=text):
                return self._write(event.part, shell, "thinking_delta", text) if text else b""
            case ir.ToolCall():
                self._calls[event.part] = self._blocks
                ident = tool_id(shell.id, self.voice, self._blocks)
                begun = self._begin(
                    event.part, shell, {"type": "tool_use", "id": ident, "name": shell.name, "input": {}}
                )
                return begun + (self._delta("input_json_delta", shell.arguments) if shell.arguments else b"")
            case ir.ServerCall(dialect="anthropic"):
                return self._begin(event.part, shell, {**shell.raw, "input": {}})
            case ir.ServerResult(dialect="anthropic") | ir.Opaque(dialect="anthropic"):
                return self._begin(event.part, shell, dict(shell.raw))
            case _:
                return b""

    def _text(self, event: ir.TextDelta | ir.RefusalDelta) -> bytes:
        if isinstance(event, ir.RefusalDelta):
            self._refused = True
        return self._write(event.part, ir.Text(""), "text_delta", event.text) if event.text else b""

    def _thinking(self, event: ir.ThinkingDelta) -> bytes:
        if not event.text:
            return b""
        text = event.text
        if event.summary is not None:
            if self._summaries.get(event.part, event.summary) != event.summary:
                text = f"\n\n{text}"
            self._summaries[event.part] = event.summary
        return self._write(event.part, ir.Thinking(), "thinking_delta", text)

    def _signature(self, event: ir.SignatureDelta) -> bytes:
        """Another provider's proof proves nothing here: the API would refuse it when it comes back."""
        shell = self._shells.get(event.part)
        if not event.signature or not isinstance(shell, ir.Thinking) or shell.dialect != NAME:
            return b""
        begun = self._write(event.part, shell, "thinking_delta", "")
        assert self._open is not None
        delta = {"type": "signature_delta", "signature": event.signature}
        return begun + self._delta_of(self._open.index, delta)

    def _arguments(self, event: ir.ArgumentsDelta) -> bytes:
        block = self._open
        index = block.index if block is not None and block.part == event.part else self._calls.get(event.part)
        if index is None or not event.text:  # a tool that another provider runs has no block
            return b""
        return b"%b%b}}\n\n" % (_head(index, "input_json_delta"), json_text.write(event.text))

    def _citation(self, event: ir.CitationDelta) -> bytes:
        """Only to the text that it stands in: a part that has ended takes none. It may come ahead of its text."""
        if not isinstance(shell := self._shells.get(event.part), ir.Text):
            return b""
        begun = self._write(event.part, shell, "text_delta", "")
        assert self._open is not None
        delta = {"type": "citations_delta", "citation": write_citation(event.citation)}
        return begun + self._delta_of(self._open.index, delta)

    def _part_end(self, event: ir.PartEnd) -> bytes:
        self._shells.pop(event.part, None)
        if self._open is None or self._open.part != event.part:
            return b""
        return self._close() + self._release()

    def _silent(self, event: ir.AudioDelta) -> bytes:
        return b""

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _begin(self, part: int, shell: ir.Part, block: dict[str, Any], delta: str = "") -> bytes:
        closed = self._close()
        index, self._blocks = self._blocks, self._blocks + 1
        self._open = _Open(part, shell, index, _head(index, delta) if delta else b"")
        start = {"type": "content_block_start", "index": index, "content_block": block}
        return closed + _frame("content_block_start", start)

    def _write(self, part: int, shell: ir.Part, delta: str, text: str) -> bytes:
        """A piece of text or thinking; opens its block where it has none."""
        begun = b""
        if self._open is None or self._open.part != part:
            empty = {"type": "text", "text": ""}
            if delta == "thinking_delta":
                empty = {"type": "thinking", "thinking": "", "signature": ""}
            begun = self._begin(part, shell, empty, delta)
        return begun + (self._delta(delta, text) if text else b"")

    def _delta(self, kind: str, text: str) -> bytes:
        assert self._open is not None
        head = self._open.head or _head(self._open.index, kind)
        return b"%b%b}}\n\n" % (head, json_text.write(text))

    def _delta_of(self, index: int, delta: dict[str, Any]) -> bytes:
        return _frame("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        index, self._open = self._open.index, None
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index


_PARTS: dict[type, Callable[[StreamEncoder, Any], bytes]] = {
    ir.PartStart: StreamEncoder._part_start,
    ir.TextDelta: StreamEncoder._text,
    ir.RefusalDelta: StreamEncoder._text,
    ir.ThinkingDelta: StreamEncoder._thinking,
    ir.SignatureDelta: StreamEncoder._signature,
    ir.ArgumentsDelta: StreamEncoder._arguments,
    ir.CitationDelta: StreamEncoder._citation,
    ir.AudioDelta: StreamEncoder._silent,
    ir.PartEnd: StreamEncoder._part_end,
}


def _head(index: int, delta: str) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":' % (
        index,
        delta.encode(),
        _DELTAS[delta].encode(),
    )


def _frame(name: str, event: dict[str, Any]) -> bytes:
    return sse.encode(json_text.write(event), name.encode())
