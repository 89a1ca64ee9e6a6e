"""IR events to the chunks of this dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_chat.answer_writer import annotation, made_up_id
from proxy.dialects.openai_chat.failure import write_in_band
from proxy.dialects.openai_chat.media import image_part
from proxy.dialects.openai_chat.message_writer import google_proof
from proxy.dialects.openai_chat.reasoning import write_delta, write_details
from proxy.dialects.openai_chat.usage import write_usage
from proxy.dialects.openai_chat.vocabulary import ANSWER_TIERS, finish_reason
from proxy.errors import GatewayError
from proxy.record import define
from proxy.wire import json_text

_DONE = b"data: [DONE]\n\n"
_PING = b": ping\n\n"
_ROLE = {"role": "assistant", "content": ""}
_UNPROVED = (ir.Thinking(), 0)


@define
class _Choice:
    index: int
    calls: dict[int, int] = field(factory=dict)  # part -> place among the tool calls
    custom: set[int] = field(factory=set)
    images: set[int] = field(factory=set)  # those that left whole at their start
    thinking: dict[int, tuple[ir.Thinking, int]] = field(factory=dict)  # part -> shell and index among the details
    summary: int | None = None  # the piece of a summary that is being written
    citations: int = 0  # so far: the SDK puts a list of a stream together by its entries' `index`
    pictures: int = 0
    length: int = 0  # of the text so far: where a citation without a position points to
    refused: bool = False
    finished: bool = False


@define
class StreamEncoder:
    """Every event leaves as it comes; only usage waits for the end, where this dialect has it."""

    voice: Voice
    _head: bytes = b""
    _text_head: bytes = b""  # up to the text of choice 0, the one delta that is frequent
    _text_tail: bytes = b""
    _tail: bytes = b""
    _usage: ir.Usage = field(factory=ir.Usage)
    _choices: dict[int, _Choice] = field(factory=dict)
    _ended: bool = False

    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out = []
        for event in events:
            if self._ended:
                break
            if event.__class__ is ir.TextDelta and self._text_head and not (event.choice or event.logprobs):
                out.append(self._plain_text(event.text))
            elif writer := _WRITERS.get(event.__class__):
                out.append(writer(self, event))
        return b"".join(out)

    def fail(self, error: GatewayError) -> bytes:
        """No `[DONE]` behind it: that would call the answer whole."""
        if self._ended:
            return b""
        self._ended = True
        return b"data: %b\n\n" % json_text.write(write_in_band(error))

    def cast(self, event: ir.TextDelta) -> tuple[bytes, bytes] | None:
        if self._ended or not self._text_head or event.choice or event.logprobs:
            return None
        return self._text_head + b'"', b'"' + self._text_tail

    def said(self, chars: int) -> None:
        self._choices[0].length += chars

    # -- the stream ----------------------------------------------------------------------------------------------

    def _start(self, event: ir.Start) -> bytes:
        head: dict[str, Any] = {
            "id": event.id or self.voice.request_id,
            "object": "chat.completion.chunk",
            "created": self.voice.created if event.created is None else event.created,
            "model": event.model or self.voice.model,
        }
        if event.service_tier in ANSWER_TIERS:
            head["service_tier"] = event.service_tier
        if event.fingerprint:
            head["system_fingerprint"] = event.fingerprint
        self._head = b"data: %b," % json_text.write(head)[:-1]
        self._tail = b',"usage":null}\n\n' if self.voice.include_usage else b"}\n\n"
        self._text_head = self._head + b'"choices":[{"index":0,"delta":{"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]' + self._tail
        if event.usage is not None:
            self._usage = self._usage.merged(event.usage)
        first, _ = self._choice(0)
        return first

    def _choice(self, index: int) -> tuple[bytes, _Choice]:
        """The choice, and the chunk that opens it where it is new."""
        if not self._head:  # an answer without a start
            return self._start(ir.Start("", "")) + self._choice(index)[0], self._choices[index]
        if (state := self._choices.get(index)) is not None:
            return b"", state
        state = self._choices[index] = _Choice(index)
        return self._chunk(state, _ROLE), state

    def _chunk(self, state: _Choice, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": state.index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return b'%b"choices":[%b]%b' % (self._head, json_text.write(choice), self._tail)

    def _plain_text(self, text: str) -> bytes:
        self._choices[0].length += len(text)
        return self._text_head + json_text.write(text) + self._text_tail

    def _part_start(self, event: ir.PartStart) -> bytes:
        opening, state = self._choice(event.choice)
        return opening + self._shell(state, event.part, event.shell)

    def _shell(self, state: _Choice, number: int, part: ir.Part) -> bytes:
        match part:
            case ir.Text():
                text = self._chunk(state, {"content": part.text}) if part.text else b""
                text += self._chunk(state, google_proof(part.signature)) if part.signature else b""
                state.length += len(part.text)
                return text + b"".join(self._cited(state, cited) for cited in part.citations)
            case ir.Thinking():
                return self._thinking(state, number, part)
            case ir.ToolCall():
                return self._call(state, number, part)
            case ir.Refusal() if part.text:
                state.refused = True
                return self._chunk(state, {"refusal": part.text})
            case ir.Audio():
                data = part.source.data if isinstance(part.source, ir.Blob) else None
                known = {"id": part.id, "expires_at": part.expires_at, "data": data, "transcript": part.transcript}
                audio = {name: value for name, value in known.items() if value}
                return self._chunk(state, {"audio": audio}) if audio else b""
            case ir.Image():
                state.images.add(number)
                return self._image(state, part)
            case _:
                return b""  # a provider's own tool at work: the text that follows tells what came of it

    def _thinking(self, state: _Choice, number: int, part: ir.Thinking) -> bytes:
        index = len(state.thinking)
        state.thinking[number] = part, index
        state.summary = None
        text = part.text or "\n\n".join(part.summary)
        out = self._thought_chunk(state, text, write_delta(part.dialect, text, index, summary=False)) if text else b""
        if proof := write_details(evolve(part, text=""), index):
            out += self._chunk(state, {"reasoning_details": proof})
        return out

    def _thought_chunk(self, state: _Choice, text: str, details: list[dict[str, Any]]) -> bytes:
        delta: dict[str, Any] = {"reasoning_content": text}
        return self._chunk(state, {**delta, "reasoning_details": details} if details else delta)

    def _call(self, state: _Choice, number: int, call: ir.ToolCall) -> bytes:
        state.calls[number] = place = len(state.calls)
        kind, words = ("custom", "input") if call.custom else ("function", "arguments")
        if call.custom:
            state.custom.add(number)
        ident = call.id or made_up_id(self.voice, number)
        said: dict[str, Any] = {"index": place, "id": ident, "type": kind}
        said[kind] = {"name": call.name, words: call.arguments}
        if call.signature:
            said |= google_proof(call.signature)
        return self._chunk(state, {"tool_calls": [said]})

    def _image(self, state: _Choice, image: ir.Image) -> bytes:
        part = image_part(image)
        if part is None:
            return b""
        place, state.pictures = state.pictures, state.pictures + 1
        return self._chunk(state, {"images": [{"index": place, **part}]})

    def _text(self, event: ir.TextDelta) -> bytes:
        opening, state = self._choice(event.choice)
        state.length += len(event.text)
        return opening + self._chunk(state, {"content": event.text}, logprobs=event.logprobs)

    def _thought(self, event: ir.ThinkingDelta) -> bytes:
        opening, state = self._choice(event.choice)
        text = event.text
        if event.summary is not None:
            if state.summary is not None and event.summary != state.summary:
                text = f"\n\n{text}"
            state.summary = event.summary
        shell, index = state.thinking.get(event.part, _UNPROVED)
        details = write_delta(shell.dialect, text, index, summary=event.summary is not None)
        return opening + self._thought_chunk(state, text, details)

    def _signature(self, event: ir.SignatureDelta) -> bytes:
        """As OpenRouter has it: the proof alone, under the index of its thinking. As Google has it where it proves a
        text."""
        opening, state = self._choice(event.choice)
        if event.part not in state.thinking:
            return opening + (self._chunk(state, google_proof(event.signature)) if event.signature else b"")
        shell, index = state.thinking[event.part]
        proved = ir.Thinking(signature=event.signature, encrypted=event.encrypted, id=shell.id, dialect=shell.dialect)
        details = write_details(proved, index)
        return opening + (self._chunk(state, {"reasoning_details": details}) if details else b"")

    def _arguments(self, event: ir.ArgumentsDelta) -> bytes:
        opening, state = self._choice(event.choice)
        place = state.calls.get(event.part)
        if place is None:
            return opening  # the input of a tool that the provider runs itself
        kind, words = ("custom", "input") if event.part in state.custom else ("function", "arguments")
        return opening + self._chunk(state, {"tool_calls": [{"index": place, kind: {words: event.text}}]})

    def _citation(self, event: ir.CitationDelta) -> bytes:
        opening, state = self._choice(event.choice)
        return opening + self._cited(state, event.citation)

    def _cited(self, state: _Choice, citation: ir.Citation) -> bytes:
        raw = annotation(citation, state.length, state.length)
        if raw is None:
            return b""
        place, state.citations = state.citations, state.citations + 1
        return self._chunk(state, {"annotations": [{"index": place, **raw}]})

    def _refusal(self, event: ir.RefusalDelta) -> bytes:
        opening, state = self._choice(event.choice)
        state.refused = True
        return opening + self._chunk(state, {"refusal": event.text})

    def _audio(self, event: ir.AudioDelta) -> bytes:
        opening, state = self._choice(event.choice)
        audio = {name: value for name, value in (("data", event.data), ("transcript", event.transcript)) if value}
        return opening + self._chunk(state, {"audio": audio}) if audio else opening

    def _part_end(self, event: ir.PartEnd) -> bytes:
        """A picture may be whole at its end only."""
        if not isinstance(event.final, ir.Image):
            return b""
        opening, state = self._choice(event.choice)
        if event.part in state.images:
            return opening
        return opening + self._image(state, event.final)

    def _finish(self, event: ir.Finish) -> bytes:
        opening, state = self._choice(event.choice)
        if state.finished:
            return opening
        return opening + self._finished(state, event.stop)

    def _finished(self, state: _Choice, stop: ir.StopReason) -> bytes:
        state.finished = True
        reason = finish_reason(stop, called=bool(state.calls), refused=state.refused)
        return self._chunk(state, {}, reason)

    def _report(self, event: ir.UsageReport) -> bytes:
        self._usage = self._usage.merged(event.usage)
        return b""

    def _ping(self, event: ir.Ping) -> bytes:
        return _PING

    def _end(self, event: ir.End) -> bytes:
        out, _ = self._choice(0)
        out += b"".join(self._finished(state, "unknown") for state in self._choices.values() if not state.finished)
        if self.voice.include_usage and (usage := write_usage(self._usage)):
            out += b'%b"choices":[],"usage":%b}\n\n' % (self._head, json_text.write(usage))
        self._ended = True
        return out + _DONE


# A Failure is none of these: the relay makes an error of it, which `fail` writes.
_WRITERS: dict[type, Callable[[StreamEncoder, Any], bytes]] = {
    ir.Start: StreamEncoder._start,
    ir.PartStart: StreamEncoder._part_start,
    ir.TextDelta: StreamEncoder._text,
    ir.ThinkingDelta: StreamEncoder._thought,
    ir.SignatureDelta: StreamEncoder._signature,
    ir.ArgumentsDelta: StreamEncoder._arguments,
    ir.CitationDelta: StreamEncoder._citation,
    ir.RefusalDelta: StreamEncoder._refusal,
    ir.AudioDelta: StreamEncoder._audio,
    ir.PartEnd: StreamEncoder._part_end,
    ir.Finish: StreamEncoder._finish,
    ir.UsageReport: StreamEncoder._report,
    ir.Ping: StreamEncoder._ping,
    ir.End: StreamEncoder._end,
}
