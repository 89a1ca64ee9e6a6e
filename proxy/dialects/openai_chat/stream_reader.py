"""Chunks of a streamed answer to IR events.

https://platform.openai.com/docs/api-reference/chat/streaming, and what compatible servers make of it: chunks without
`index` or `role`, whole tool calls in one chunk, usage on every chunk or twice, no `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.openai_chat.answer_check import broken_off, choice_failure, has_output
from proxy.dialects.openai_chat.answer_reader import (
    call_id,
    citation,
    is_providers_own,
    sources_of,
    thinking_text,
    words_of,
)
from proxy.dialects.openai_chat.chunks import DONE, parse
from proxy.dialects.openai_chat.failure import failure_in
from proxy.dialects.openai_chat.media import image_of
from proxy.dialects.openai_chat.message_reader import read_signature
from proxy.dialects.openai_chat.relatives import BROKEN_OFF, CITES_LATE, MINTED_BY, SOURCES, USAGE_BESIDE
from proxy.dialects.openai_chat.usage import usage_of
from proxy.dialects.openai_chat.vocabulary import NAME, stop_reason
from proxy.errors import UpstreamBroken
from proxy.record import define
from proxy.wire.sse import Frame

_CITING = frozenset(SOURCES)
_Events = list[ir.StreamEvent]


@define
class StreamDecoder:
    """Frames of one answer to IR events.

    A part ends when another begins. Deltas that come late for a tool call which another has followed still go out under
    its number. The finish of a text waits for one more frame where its model may tell its sources there.
    """

    _failure_in: Callable[[Mapping[str, Any], bytes], ir.Failure | None] = failure_in
    _id: str = ""
    _started: bool = False
    _usage: ir.Usage = field(factory=ir.Usage)
    _choices: dict[int, _Choice] = field(factory=dict)
    _sources: int = 0  # of Perplexity's list, how many have gone out
    _finished: bool = False  # some choice

    def feed(self, frame: Frame) -> _Events:
        if frame.data[:1] != b"{" and frame.data.strip() == DONE:
            return self._done()
        chunk = parse(frame)
        choices = chunk.get("choices")
        events: _Events = []
        failure = None
        if choices is None or "error" in chunk or frame.event:
            failure = self._failure_in(chunk, frame.event)
            choices = [] if failure else _native_choices(chunk) if choices is None else choices
        if choices.__class__ is not list:
            raise UpstreamBroken("The provider sent a chunk whose choices are no array.")
        if not self._started and (choices or chunk.get("id")):
            events.append(self._start(chunk))
        waiting = [choice for choice in self._choices.values() if choice.finish_held] if self._finished else ()
        for choice in choices:
            self._read_choice(choice, chunk, events)
        if waiting or not choices:
            self._cite(chunk, events)
            for choice in waiting:
                choice.release(events)
        if chunk.get("usage") or USAGE_BESIDE in chunk:
            self._read_usage(chunk, events)
        if failure:
            events.append(failure)
        return events

    def close(self) -> _Events:
        events: _Events = []
        for choice in self._choices.values():
            choice.end_part(events)
            choice.release(events)
        return events

    def _start(self, chunk: Mapping[str, Any]) -> ir.Start:
        self._started = True
        created = chunk.get("created")
        self._id = _text(chunk, "id")
        return ir.Start(
            self._id,
            _text(chunk, "model"),
            int(created) if isinstance(created, int | float) else None,
            service_tier=_text(chunk, "service_tier") or None,
            fingerprint=_text(chunk, "system_fingerprint") or None,
        )

    def _read_choice(self, raw: Any, chunk: Mapping[str, Any], events: _Events) -> None:
        """The sources come last but for the finish reason: Perplexity tells them in the chunk that ends the text."""
        if not isinstance(raw, dict):
            raise UpstreamBroken("The provider sent a choice that is not an object.")
        if failure := choice_failure(raw):
            events.append(failure)
            return
        index = raw.get("index")
        state = self._choices.get(index) if index.__class__ is int else None
        if state is None:
            state = self._choice(index)
        delta = raw.get("delta")
        if not isinstance(delta, dict):
            delta = raw.get("message")  # a whole answer in a stream
        if isinstance(delta, dict):
            state.read(delta, raw.get("logprobs"), events)
        if not state.index:
            self._cite(chunk, events)
        if reason := raw.get("finish_reason"):
            self._finished = True
            state.finish(raw, str(reason), events)
            if state.kind != "text" or not CITES_LATE.match(_text(chunk, "model")):
                state.release(events)

    def _choice(self, index: Any) -> _Choice:
        number = index if isinstance(index, int) and not isinstance(index, bool) else 0
        return self._choices.setdefault(number, _Choice(number, self._id))

    def _cite(self, chunk: Mapping[str, Any], events: _Events) -> None:
        """Perplexity repeats the whole list in every chunk."""
        if _CITING.isdisjoint(chunk):
            return
        state = self._choices.get(0)
        if state is None or state.kind != "text":
            return
        sources = sources_of(chunk)
        events += (ir.CitationDelta(state.part, source) for source in sources[self._sources :])
        self._sources = max(self._sources, len(sources))

    def _read_usage(self, chunk: dict[str, Any], events: _Events) -> None:
        usage = usage_of(chunk)
        if usage is not None and (merged := self._usage.merged(usage)) != self._usage:
            self._usage = merged
            events.append(ir.UsageReport(merged))

    def _done(self) -> _Events:
        """A choice that said something without a finish reason gets one, so that other dialects can end rightly."""
        events: _Events = []
        for choice in self._choices.values():
            choice.finish_unsaid(events)
        return [*events, ir.End()]


@define
class _Call:
    part: int  # -1 until its name is known
    id: str
    name: str = ""
    held: str = ""  # arguments that came before the name
    whole: bool = False  # began and ended in one delta, so that another of its number is another call
    signature: str | None = None


@define
class _Choice:
    index: int
    answer_id: str
    kind: str = ""  # of the part that is open: text, thinking, refusal, audio, call; "" when none is
    part: int = -1  # its number
    finished: bool = False
    finish_held: ir.Finish | None = None
    called: bool = False
    refused: bool = False
    _count: int = 0
    _mint: str = ""  # who proved the open thinking
    _calls: dict[int | str, _Call] = field(factory=dict)
    _last: _Call | None = None

    def read(self, delta: dict[str, Any], logprobs: Any, events: _Events) -> None:
        content = delta.get("content")
        more = len(delta) > 1 or content.__class__ is not str
        if more:
            self._read_before(delta, content, events)
        if content and content.__class__ is str:
            if self.kind != "text":
                self._open("text", ir.Text(""), events)
            events.append(ir.TextDelta(self.part, content, self.index, logprobs))
        if more:
            self._read_behind(delta, events)

    def finish(self, raw: Mapping[str, Any], reason: str, events: _Events) -> None:
        """Some providers repeat the reason with the usage. It is said by `release`."""
        if self.finished:
            return
        self.finished = True
        if reason.lower() in BROKEN_OFF:
            self.end_part(events)
            events.append(broken_off(reason))
            return
        stop = stop_reason(reason, called=self.called, refused=self.refused)
        matched = raw.get("stop_reason")  # vLLM: the stop sequence that it met, or a token's number
        if stop == "end" and isinstance(matched, str) and matched:
            self.finish_held = ir.Finish("stop_sequence", matched, self.index, reason)
        else:
            self.finish_held = ir.Finish(stop, None, self.index, reason)

    def release(self, events: _Events) -> None:
        """Says that it has finished, if that is still to be said."""
        if self.finish_held is not None:
            self.end_part(events)
            events.append(self.finish_held)
            self.finish_held = None

    def finish_unsaid(self, events: _Events) -> None:
        said = self._count > 0
        self.release(events)
        self.end_part(events)
        if said and not self.finished:
            self.finished = True
            events.append(ir.Finish("tool_call" if self.called else "unknown", choice=self.index))

    def end_part(self, events: _Events) -> None:
        if self.kind:
            events.append(ir.PartEnd(self.part, self.index))
            self.kind = ""

    # -- what a delta may hold -----------------------------------------------------------------------------------

    def _read_before(self, delta: Mapping[str, Any], content: Any, events: _Events) -> None:
        """What stands before the text where one delta has both."""
        details = delta.get("reasoning_details")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if details and isinstance(details, list):
            self._details(details, thought, events)
        elif thought and isinstance(thought, str):
            self._think(thought, "", events)
        if isinstance(content, list):
            self._mistral(content, events)

    def _read_behind(self, delta: Mapping[str, Any], events: _Events) -> None:
        if (refusal := delta.get("refusal")) and isinstance(refusal, str):
            if self.kind != "refusal":
                self._open("refusal", ir.Refusal(""), events)
                self.refused = True
            events.append(ir.RefusalDelta(self.part, refusal, self.index))
        if has_output(audio := delta.get("audio")) and isinstance(audio, dict):
            self._audio(audio, events)
        if (annotations := delta.get("annotations")) and isinstance(annotations, list):
            self._annotate(annotations, events)
        if (images := delta.get("images")) and isinstance(images, list):
            for image in filter(None, map(image_of, images)):
                self._open("image", image, events)
                self.end_part(events)
        if (calls := delta.get("tool_calls")) and isinstance(calls, list):
            for place, call in enumerate(calls):
                self._call(call, place, events)
        if has_output(legacy := delta.get("function_call")):
            self._call({"index": 0, "function": legacy}, 0, events)

    def _open(self, kind: str, shell: ir.Part, events: _Events) -> None:
        self.end_part(events)
        self.kind, self.part = kind, self._count
        self._count += 1
        events.append(ir.PartStart(self.part, shell, self.index))

    def _think(self, text: str, mint: str, events: _Events) -> None:
        if self.kind != "thinking" or (mint and mint != self._mint):
            self._mint = mint
            self._open("thinking", ir.Thinking(dialect=mint or NAME), events)
        if text:
            events.append(ir.ThinkingDelta(self.part, text, self.index))

    def _details(self, details: list[Any], thought: Any, events: _Events) -> None:
        """OpenRouter's details repeat the plain member and add the proof, with who minted it."""
        text = thought if isinstance(thought, str) else ""
        for detail in details:
            if not isinstance(detail, dict):
                continue
            mint = MINTED_BY.get(_text(detail, "format"), "")
            data, signature = _text(detail, "data"), _text(detail, "signature")
            said = text or _text(detail, "text") or _text(detail, "summary")
            text = ""
            if data and mint == "anthropic":
                self._open("redacted", ir.Thinking(redacted=data, dialect=mint), events)
                self.end_part(events)
                continue
            if said or data or signature:
                self._think(said, mint, events)
            if data or signature:
                proof = ir.SignatureDelta(self.part, signature or None, self.index, data or None)
                events.append(proof)

    def _mistral(self, content: list[Any], events: _Events) -> None:
        for item in content:
            if not isinstance(item, dict):
                continue
            if item.get("type") == "thinking":
                self._think(thinking_text(item), "", events)
            elif text := _text(item, "text"):
                if self.kind != "text":
                    self._open("text", ir.Text(""), events)
                events.append(ir.TextDelta(self.part, text, self.index))

    def _audio(self, audio: Mapping[str, Any], events: _Events) -> None:
        if self.kind != "audio":
            self._open("audio", ir.Audio(id=_text(audio, "id") or None), events)
        data, transcript = _text(audio, "data"), _text(audio, "transcript")
        if data or transcript:
            events.append(ir.AudioDelta(self.part, data, transcript, self.index))

    def _annotate(self, annotations: list[Any], events: _Events) -> None:
        """OpenRouter sends them ahead of the text."""
        for found in filter(None, map(citation, annotations)):
            if self.kind != "text":
                self._open("text", ir.Text(""), events)
            events.append(ir.CitationDelta(self.part, found, self.index))

    # -- tool calls ----------------------------------------------------------------------------------------------

    def _call(self, raw: Any, place: int, events: _Events) -> None:
        if is_providers_own(raw):
            return
        custom = isinstance(raw, dict) and isinstance(raw.get("custom"), dict)
        called = raw.get("custom" if custom else "function") if isinstance(raw, dict) else None
        if not isinstance(called, dict):
            raise UpstreamBroken("The provider sent a tool call that is not an object with a function.")
        call = self._find(raw, _text(called, "name"), place)
        words = words_of(called)
        call.held += words
        call.whole = bool(call.part < 0 and words[:1] == "{" and words[-1:] == "}")
        if call.part < 0 and call.name:
            self.called = True
            call.id = call.id or call_id(self.answer_id, self._count)
            shell = ir.ToolCall(call.id, call.name, custom=custom, signature=read_signature(raw))
            self._open("call", shell, events)
            call.part = self.part
        if call.part >= 0 and call.held:
            events.append(ir.ArgumentsDelta(call.part, call.held, self.index))
            call.held = ""

    def _find(self, raw: Mapping[str, Any], name: str, place: int) -> _Call:
        """The call that a delta continues, or a new one.

        By index; under one index another id with a name is another call, and so is another name, or any behind a call
        that came whole. Without an index by id, and without either a
        name begins a call, since a server that streams arguments piece by piece numbers them.
        """
        index, ident = raw.get("index"), _text(raw, "id")
        numbered = isinstance(index, int) and not isinstance(index, bool)
        key: int | str = index if numbered and isinstance(index, int) else ident
        call = self._calls.get(key) if numbered or ident else self._last if not name else None
        if call is not None and name and call.name:
            another = ident != call.id if ident and call.id else name != call.name or (call.whole and not ident)
            call = None if another else call
        if call is None:
            call = _Call(-1, ident)
            self._calls[key if numbered or ident else f"#{self._count}.{place}"] = call
        call.name = call.name or name
        if call.part < 0:
            call.id = call.id or ident
        self._last = call
        return call


def _native_choices(chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Workers AI's own stream: the text alone, under `response`, and calls beside it."""
    delta = {"content": chunk.get("response"), "tool_calls": chunk.get("tool_calls")}
    said = {name: value for name, value in delta.items() if value is not None}
    return [{"delta": said}] if said else []


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
