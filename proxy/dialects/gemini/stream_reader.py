"""Frames of a stream to IR events. Each chunk is an answer of its own shape; together they are one.

There is no terminal event: the stream is over when its body is, and whole if every candidate has a finish reason. Calls
come at once or, at Vertex AI, with their arguments value by value; several may stand in one chunk or follow in others.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.gemini.answer_reader import (
    blocked,
    candidates_of,
    logprobs_of,
    made_up_id,
    parts_of,
    read_part,
    read_start,
    signature_of,
)
from proxy.dialects.gemini.arguments import Arguments
from proxy.dialects.gemini.failure import broken_off, failure_of
from proxy.dialects.gemini.grounding import Grounding
from proxy.dialects.gemini.usage import usage_of
from proxy.dialects.gemini.vocabulary import BROKEN_OFF, NAME, native_stop, stop_reason
from proxy.errors import UpstreamBroken
from proxy.record import define
from proxy.wire import json_text
from proxy.wire.sse import Frame

_Events = list[ir.StreamEvent]


@define
class StreamDecoder:
    """Frames of one answer to IR events. Lives as long as that answer."""

    _id: str = ""
    _started: bool = False
    _usage: ir.Usage = field(factory=ir.Usage)
    _candidates: dict[int, _Candidate] = field(factory=dict)
    _blocked: bool = False

    def feed(self, frame: Frame) -> _Events:
        chunk = _parse(frame)
        if failure := failure_of(chunk):
            return [failure]
        if not isinstance(chunk, dict):
            raise UpstreamBroken("The provider sent an event that is not a JSON object.")
        events: _Events = []
        candidates = candidates_of(chunk)
        if not self._started:
            self._started = True
            start = read_start(chunk)
            self._id = start.id
            events.append(start)
        for raw in candidates:
            self._candidate(raw).read(raw, events)
        if not candidates and (reason := blocked(chunk)):
            self._blocked = True
            events.append(ir.Finish("filter", native_stop=reason))
        if (usage := usage_of(chunk)) is not None and (merged := self._usage.merged(usage)) != self._usage:
            self._usage = merged
            events.append(ir.UsageReport(merged))
        return events

    def close(self) -> _Events:
        """The end of the body is the dialect's own end where all has been said."""
        events: _Events = []
        for candidate in self._candidates.values():
            candidate.end_part(events)
        finished = [candidate.finished for candidate in self._candidates.values()]
        return [*events, ir.End()] if self._blocked or (finished and all(finished)) else events

    def _candidate(self, raw: Mapping[str, Any]) -> _Candidate:
        index = raw.get("index", 0)
        number = index if isinstance(index, int) and not isinstance(index, bool) else 0
        return self._candidates.setdefault(number, _Candidate(number, self._id))


@define
class _Candidate:
    number: int
    answer_id: str
    finished: bool = False
    _kind: type[ir.Part] | None = None  # of the part that is open
    _part: int = -1  # its number
    _count: int = 0
    _called: bool = False
    _arguments: Arguments | None = None  # of a call that goes on
    _text_part: int = -1  # the last text's number, open or not
    _grounding: Grounding = field(factory=Grounding)

    def read(self, raw: Mapping[str, Any], events: _Events) -> None:
        logprobs = logprobs_of(raw) if "logprobsResult" in raw else None
        for part in parts_of(raw):
            text = part.get("text")
            if isinstance(text, str):
                self._say(text, part, logprobs, events)
                logprobs = None
            elif isinstance(call := part.get("functionCall"), dict):
                self._call(call, part, events)
            elif part:
                self._whole(read_part(part, ""), events)
        if raw.get("groundingMetadata") or raw.get("citationMetadata"):
            self._cite(raw, events)
        if reason := native_stop(raw.get("finishReason")):
            self._finish(reason, events)

    def end_part(self, events: _Events, *, cut: bool = False) -> None:
        """`cut`: the answer breaks off here, and a call that was under way must not look whole."""
        if self._arguments is not None:
            if not cut:
                self._argue(self._arguments.end(), events)
            self._arguments = None
        if self._kind is not None:
            events.append(ir.PartEnd(self._part, self.number))
            self._kind = None

    def _finish(self, reason: str, events: _Events) -> None:
        self.end_part(events, cut=reason == "MAX_TOKENS")
        if self.finished:
            return
        self.finished = True
        if reason in BROKEN_OFF:
            events.append(broken_off(reason))
        else:
            events.append(ir.Finish(stop_reason(reason, called=self._called), choice=self.number, native_stop=reason))

    def _open(self, shell: ir.Part, events: _Events) -> None:
        self.end_part(events)
        self._kind, self._part = type(shell), self._count
        self._count += 1
        events.append(ir.PartStart(self._part, shell, self.number))

    # -- text and thoughts ---------------------------------------------------------------------------------------

    def _say(self, text: str, part: Mapping[str, Any], logprobs: Any, events: _Events) -> None:
        """The proof of a text may come behind it, on an empty one."""
        shell: ir.Part = ir.Thinking(dialect=NAME) if part.get("thought") is True else ir.Text("")
        if self._kind is not type(shell):
            if not text:
                return
            self._open(shell, events)
        if isinstance(shell, ir.Thinking):
            if text:
                events.append(ir.ThinkingDelta(self._part, text, self.number))
        elif text:
            self._text_part = self._part
            self._grounding.add(text)
            events.append(ir.TextDelta(self._part, text, self.number, logprobs))
        if signature := signature_of(part):
            events.append(ir.SignatureDelta(self._part, signature, self.number))

    def _cite(self, raw: Mapping[str, Any], events: _Events) -> None:
        if self._text_part >= 0:
            found = self._grounding.citations(raw)
            events += (ir.CitationDelta(self._text_part, citation, self.number) for citation in found)

    def _whole(self, part: ir.Part, events: _Events) -> None:
        """Pictures, and the provider's own tools at work."""
        self._open(part, events)
        events.append(ir.PartEnd(self._part, self.number, part))
        self._kind = None

    # -- calls ---------------------------------------------------------------------------------------------------

    def _call(self, call: Mapping[str, Any], part: Mapping[str, Any], events: _Events) -> None:
        """A part without a name continues the call before it, or ends it."""
        if call.get("name"):
            shell = read_part(part, made_up_id(self.answer_id, self._count))
            assert isinstance(shell, ir.ToolCall)
            self._open(evolve(shell, arguments=""), events)
            self._called, self._arguments = True, Arguments()
        if self._arguments is None:
            if call.get("args") or call.get("partialArgs"):
                raise UpstreamBroken("The provider sent a tool call without a name.")
            return
        args, pieces = call.get("args"), call.get("partialArgs")
        if isinstance(args, dict) and not call.get("willContinue") and not self._arguments.begun:
            self._argue(json_text.write(args).decode(), events)
            self._arguments = None
        else:
            if isinstance(args, dict):
                self._argue(self._arguments.add_whole(args), events)
            for piece in pieces if isinstance(pieces, list) else ():
                if isinstance(piece, dict):
                    self._argue(self._arguments.add(piece), events)
        if not call.get("willContinue"):
            self.end_part(events)

    def _argue(self, text: str, events: _Events) -> None:
        if text:
            events.append(ir.ArgumentsDelta(self._part, text, self.number))


def _parse(frame: Frame) -> Any:
    try:
        return json_text.read(frame.data)
    except ValueError as exc:
        raise UpstreamBroken("The provider sent an event that is not JSON.") from exc
