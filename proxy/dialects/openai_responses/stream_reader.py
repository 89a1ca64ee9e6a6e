"""Events of a streamed response to IR events.

https://platform.openai.com/docs/api-reference/responses-streaming, and what compatible servers make of it: no `event:`
lines, items that overlap, arguments in one piece at their end, whole items without a delta, nothing but the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.openai_responses.answer_reader import (
    read_call,
    read_other,
    read_part,
    read_reasoning,
    read_stop,
)
from proxy.dialects.openai_responses.failure import failure_in
from proxy.dialects.openai_responses.input_reader import read_citation
from proxy.dialects.openai_responses.usage import usage_of
from proxy.dialects.openai_responses.vocabulary import NAME, PING_TYPES
from proxy.errors import UpstreamBroken
from proxy.record import define
from proxy.wire import json_text
from proxy.wire.sse import Frame

DONE = b"[DONE]"  # of servers that end every stream Chat's way
_Events = list[ir.StreamEvent]
_Event = dict[str, Any]


def parse(frame: Frame) -> tuple[_Event, str]:
    """The event and its type, which a few servers give in the event line alone. Raises UpstreamBroken on a frame that
    is not this dialect's."""
    try:
        event = json_text.read(frame.data)
    except ValueError as exc:
        raise UpstreamBroken("The provider sent an event that is not JSON.") from exc
    if not isinstance(event, dict):
        raise UpstreamBroken("The provider sent an event that is not a JSON object.")
    kind = event.get("type")
    return event, kind if isinstance(kind, str) else frame.event.decode("utf-8", "replace")


@define
class _Part:
    """A part and how much of it has gone out, in characters: what an event tells whole is only sent as far as the
    deltas before it did not."""

    number: int
    said: int = 0  # of its text or its arguments
    pieces: dict[int, int] = field(factory=dict)  # of a summary's pieces
    cited: int = 0  # annotations
    ended: bool = False

    def end(self, final: ir.Part | None = None) -> _Events:
        if self.ended:
            return []
        self.ended = True
        return [ir.PartEnd(self.number, final=final)]

    def rest(self, text: str) -> str:
        rest, self.said = text[self.said :], max(self.said, len(text))
        return rest

    def rest_of_piece(self, index: int, text: str) -> str:
        said = self.pieces.get(index, 0)
        self.pieces[index] = max(said, len(text))
        return text[said:]


@define
class _Item:
    """An output item: a message has a part for each piece of its content, any other item is one part, at 0."""

    kind: str
    parts: dict[int, _Part] = field(factory=dict)


@define
class StreamDecoder:
    """Frames of one answer to IR events. Lives as long as that answer; what follows its terminal event is not read."""

    _items: dict[int | str, _Item] = field(factory=dict)  # by output index, or by id where a server has none
    _ids: set[str] = field(factory=set)
    _last: int | str = 0
    _count: int = 0
    _started: bool = False
    _over: bool = False
    _called: bool = False
    _refused: bool = False

    def feed(self, frame: Frame) -> _Events:
        if self._over or not frame.data or frame.data.strip() == DONE:
            return []
        event, kind = parse(frame)
        if (read := _EVENTS.get(kind)) is not None:
            return read(self, event)
        if failure := failure_in(event, kind):
            self._over = True
            return [failure]
        return [ir.Ping()] if kind in PING_TYPES else []

    def close(self) -> _Events:
        return [event for item in self._items.values() for part in item.parts.values() for event in part.end()]

    # -- the response ------------------------------------------------------------------------------------------------

    def _start(self, event: _Event) -> _Events:
        if self._started:
            return []
        self._started = True
        response = _object(event, "response")
        created = response.get("created_at")
        return [
            ir.Start(
                _text(response, "id"),
                _text(response, "model"),
                int(created) if isinstance(created, int | float) else None,
                service_tier=_text(response, "service_tier") or None,
            )
        ]

    def _completed(self, event: _Event) -> _Events:
        return self._end(event, "completed")

    def _incomplete(self, event: _Event) -> _Events:
        return self._end(event, "incomplete")

    def _end(self, event: _Event, status: str) -> _Events:
        """Items that never came by themselves come now: some servers stream nothing but the end."""
        events, response = self._start(event), _object(event, "response")
        for place, raw in enumerate(_dicts(response, "output")):
            if place >= len(self._items) and _text(raw, "id") not in self._ids:
                events += self._item_done({"item": raw, "output_index": place})
        events += self.close()
        stop, native = read_stop({**response, "status": status}, called=self._called, refused=self._refused)
        events.append(ir.Finish(stop, native_stop=native))
        if (usage := usage_of(response)) is not None:
            events.append(ir.UsageReport(usage))
        self._over = True
        return [*events, ir.End()]

    # -- items -------------------------------------------------------------------------------------------------------

    def _item_added(self, event: _Event) -> _Events:
        key = self._key(event)
        before = (
            [ended for part in self._items[key].parts.values() for ended in part.end()] if key in self._items else []
        )
        return before + self._open(key, _object(event, "item"))

    def _item_done(self, event: _Event) -> _Events:
        key, raw = self._key(event), _object(event, "item")
        events = [] if key in self._items else self._open(key, raw)
        item = self._items[key]
        if item.kind == "message":
            for index, piece in enumerate(_dicts(raw, "content")):
                events += self._piece(item, index, piece)
        elif (part := item.parts.get(0)) is None or part.ended:
            return events
        elif item.kind == "reasoning":
            events += _reasoned(part, read_reasoning(raw))
        elif item.kind in _CALLS:
            events += _argued(part, read_call(raw).arguments)
        else:
            return events + part.end(read_other(item.kind, raw))
        return [*events, *(ended for part in item.parts.values() for ended in part.end())]

    def _open(self, key: int | str, raw: _Event) -> _Events:
        events = self._start({"response": {}})
        self._last = key
        self._ids.add(_text(raw, "id"))
        item = self._items[key] = _Item(_text(raw, "type"))
        if item.kind == "message":
            return events
        if item.kind == "reasoning":
            return events + self._begin(item, 0, ir.Thinking(id=_text(raw, "id") or None, dialect=NAME))
        if item.kind not in _CALLS:
            return events + self._begin(item, 0, read_other(item.kind, raw))
        call, self._called = read_call(raw), True
        events += self._begin(item, 0, evolve(call, arguments=""))
        return events + _argued(item.parts[0], call.arguments)

    def _begin(self, item: _Item, index: int, shell: ir.Part) -> _Events:
        self._refused = self._refused or isinstance(shell, ir.Refusal)
        part = item.parts[index] = _Part(self._count)
        self._count += 1
        return [ir.PartStart(part.number, shell)]

    # -- words -------------------------------------------------------------------------------------------------------

    def _text_delta(self, event: _Event) -> _Events:
        text = _text(event, "delta")
        if not text:
            return []
        events, part = self._speaking(event, ir.Text(""))
        part.said += len(text)
        logprobs = event.get("logprobs") or None
        events.append(ir.TextDelta(part.number, text, 0, {"content": logprobs, "refusal": None} if logprobs else None))
        return events

    def _text_done(self, event: _Event) -> _Events:
        events, part = self._speaking(event, ir.Text(""))
        rest = part.rest(_text(event, "text"))
        return [*events, ir.TextDelta(part.number, rest)] if rest else events

    def _refusal_delta(self, event: _Event) -> _Events:
        events, part = self._speaking(event, ir.Refusal(""))
        text = _text(event, "delta")
        part.said += len(text)
        return [*events, ir.RefusalDelta(part.number, text)] if text else events

    def _annotation(self, event: _Event) -> _Events:
        events, part = self._speaking(event, ir.Text(""))
        part.cited += 1
        return [*events, ir.CitationDelta(part.number, read_citation(_object(event, "annotation")))]

    def _part_added(self, event: _Event) -> _Events:
        raw = _object(event, "part")
        return [] if raw.get("type") in _THOUGHTS else self._speaking(event, _shell(raw))[0]

    def _part_done(self, event: _Event) -> _Events:
        raw = _object(event, "part")
        if raw.get("type") in _THOUGHTS:
            return []
        events, part = self._speaking(event, _shell(raw))
        events += self._piece(self._items[self._key(event)], _index(event), raw)
        return events + part.end()

    def _speaking(self, event: _Event, shell: ir.Part) -> tuple[_Events, _Part]:
        """The part of a message that an event is about; opened where no event has announced it."""
        key, index = self._key(event), _index(event)
        item = self._items.get(key)
        if item is not None and (part := item.parts.get(index)) is not None:
            return [], part
        events = self._open(key, {"type": "message"}) if item is None else []
        item = self._items[key]
        events += self._begin(item, index, shell)
        return events, item.parts[index]

    def _piece(self, item: _Item, index: int, raw: _Event) -> _Events:
        """What of a whole piece of content has not gone out yet."""
        whole, events = read_part(raw), list[ir.StreamEvent]()
        if index not in item.parts:
            events += self._begin(item, index, _shell(raw))
        part = item.parts[index]
        if part.ended:
            return events
        match whole:
            case ir.Text(text, citations):
                if rest := part.rest(text):
                    events.append(ir.TextDelta(part.number, rest))
                events += (ir.CitationDelta(part.number, citation) for citation in citations[part.cited :])
                part.cited = max(part.cited, len(citations))
            case ir.Refusal(text) if rest := part.rest(text):
                events.append(ir.RefusalDelta(part.number, rest))
        return events

    # -- reasoning and calls -----------------------------------------------------------------------------------------

    def _thought_delta(self, event: _Event) -> _Events:
        text = _text(event, "delta")
        events, part = self._of_item(event, {"type": "reasoning"})
        part.said += len(text)
        return [*events, ir.ThinkingDelta(part.number, text)] if text else events

    def _summary_delta(self, event: _Event) -> _Events:
        text, index = _text(event, "delta"), _index(event, "summary_index")
        events, part = self._of_item(event, {"type": "reasoning"})
        part.pieces[index] = part.pieces.get(index, 0) + len(text)
        return [*events, ir.ThinkingDelta(part.number, text, summary=index)] if text else events

    def _arguments_delta(self, event: _Event) -> _Events:
        events, part = self._of_item(event, None)
        text = _text(event, "delta")
        part.said += len(text)
        return [*events, ir.ArgumentsDelta(part.number, text)] if text else events

    def _arguments_done(self, event: _Event) -> _Events:
        events, part = self._of_item(event, None)
        return events + _argued(part, _text(event, "arguments") or _text(event, "input"))

    def _of_item(self, event: _Event, unannounced: _Event | None) -> tuple[_Events, _Part]:
        key = self._key(event)
        item = self._items.get(key)
        if item is not None and 0 in item.parts:
            return [], item.parts[0]
        if unannounced is None:
            raise UpstreamBroken("The provider's stream goes on with a tool call that it never began.")
        return self._open(key, unannounced), self._items[key].parts[0]

    def _key(self, event: _Event) -> int | str:
        index = event.get("output_index")
        if index.__class__ is int:
            return index
        item = event.get("item")
        ident = _text(event, "item_id") or (_text(item, "id") if isinstance(item, dict) else "")
        return ident or self._last


_CALLS = ("function_call", "custom_tool_call")
_THOUGHTS = ("reasoning_text", "summary_text")
_EVENTS: dict[str, Callable[[StreamDecoder, _Event], _Events]] = {
    "response.created": StreamDecoder._start,
    "response.queued": StreamDecoder._start,
    "response.in_progress": StreamDecoder._start,
    "response.completed": StreamDecoder._completed,
    "response.incomplete": StreamDecoder._incomplete,
    "response.output_item.added": StreamDecoder._item_added,
    "response.output_item.done": StreamDecoder._item_done,
    "response.content_part.added": StreamDecoder._part_added,
    "response.content_part.done": StreamDecoder._part_done,
    "response.output_text.delta": StreamDecoder._text_delta,
    "response.output_text.done": StreamDecoder._text_done,
    "response.output_text.annotation.added": StreamDecoder._annotation,
    "response.refusal.delta": StreamDecoder._refusal_delta,
    "response.reasoning_text.delta": StreamDecoder._thought_delta,
    "response.reasoning_summary_text.delta": StreamDecoder._summary_delta,
    "response.function_call_arguments.delta": StreamDecoder._arguments_delta,
    "response.function_call_arguments.done": StreamDecoder._arguments_done,
    "response.custom_tool_call_input.delta": StreamDecoder._arguments_delta,
    "response.custom_tool_call_input.done": StreamDecoder._arguments_done,
}


def _argued(part: _Part, arguments: str) -> _Events:
    rest = part.rest(arguments)
    return [ir.ArgumentsDelta(part.number, rest)] if rest else []


def _reasoned(part: _Part, whole: ir.Thinking) -> _Events:
    events: _Events = []
    for index, piece in enumerate(whole.summary):
        if rest := part.rest_of_piece(index, piece):
            events.append(ir.ThinkingDelta(part.number, rest, summary=index))
    if rest := part.rest(whole.text):
        events.append(ir.ThinkingDelta(part.number, rest))
    if whole.encrypted is not None:
        events.append(ir.SignatureDelta(part.number, encrypted=whole.encrypted))
    return events


def _shell(raw: _Event) -> ir.Part:
    match read_part(raw):
        case ir.Text():
            return ir.Text("")
        case ir.Refusal():
            return ir.Refusal("")
        case part:
            return part


def _object(event: _Event, name: str) -> _Event:
    value = event.get(name)
    if not isinstance(value, dict):
        raise UpstreamBroken(f"The provider sent an event without its {name}.")
    return value


def _index(event: _Event, name: str = "content_index") -> int:
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _dicts(source: _Event, name: str) -> list[_Event]:
    value = source.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(source: _Event, name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
