"""IR events to the events of a streamed response.

response.created and response.in_progress, then for each output item `output_item.added`, its deltas and
`output_item.done`, at last one of response.completed, .incomplete, .failed. Every event has a `sequence_number`. Items
may overlap, so each event leaves as it comes. Two things wait, as the format forces them to:

- Whatever was said is repeated whole, in the item's end and in the terminal event. So the answer is kept until then.
- An item that has ended takes nothing more, and clients run a call as soon as it has. Some servers go on with a call
  after another has begun: one whose arguments are not whole yet ends with the answer.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_responses import response as written
from proxy.dialects.openai_responses.answer_writer import BROKEN_OFF
from proxy.dialects.openai_responses.failure import response_error, write_event
from proxy.dialects.openai_responses.freeform import Input, names_in
from proxy.dialects.openai_responses.proofs import seal_proof
from proxy.dialects.openai_responses.stream_parts import Gathered, Item, Part, delta_head
from proxy.dialects.openai_responses.usage import write_usage
from proxy.dialects.openai_responses.vocabulary import NAME, status_of
from proxy.errors import GatewayError
from proxy.record import define
from proxy.wire import json_text, sse

_PING = b": ping\n\n"
_WORDS = {True: "custom_tool_call_input", False: "function_call_arguments"}  # by whether the call is a custom tool's
_Json = dict[str, Any]


@define
class StreamEncoder:
    """IR events of one answer to bytes."""

    voice: Voice
    _body: _Json = field(factory=dict)  # the response as it was created
    _number: int = 0  # the next event's
    _items: int = 0
    _output: dict[int, _Json] = field(factory=dict)  # items that have ended, by their index
    _parts: dict[int, Part] = field(factory=dict)  # those under way
    _pictures: set[int] = field(factory=set)  # parts that have been told as pictures
    _message: Item | None = None  # the last one, while more may be said in it
    _finish: ir.Finish | None = None
    _usage: ir.Usage = field(factory=ir.Usage)
    _freeform: frozenset[str] = field(init=False)
    _refused: bool = False
    _over: bool = False

    def __attrs_post_init__(self) -> None:
        self._freeform = names_in(self.voice.asked)

    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out = []
        for event in events:
            if self._over:
                break
            if getattr(event, "choice", 0):
                continue  # nobody asks for a second answer here
            if event.__class__ is ir.TextDelta and (part := self._parts.get(event.part)) is not None and part.head:
                out.append(self._plain_text(part, event))
            elif writer := _WRITERS.get(event.__class__):
                out.append(writer(self, event))
        return b"".join(out)

    def fail(self, error: GatewayError) -> bytes:
        """The SDKs raise on the `error` event; other clients wait for a terminal event, which is `response.failed`."""
        if self._over:
            return b""
        out = self._start(ir.Start("", ""))
        self._over = True
        out += self._event("error", write_event(error, self._number))
        return out + self._ended("failed", {"error": response_error(error)})

    def cast(self, event: ir.TextDelta) -> tuple[bytes, bytes] | None:
        return None  # every event has a number of its own

    def said(self, chars: int) -> None:
        """Nothing is cast."""

    # -- the response ------------------------------------------------------------------------------------------------

    def _event(self, kind: str, members: _Json) -> bytes:
        event = {"type": kind, **members, "sequence_number": self._number}
        self._number += 1
        return sse.encode(json_text.write(event), kind.encode())

    def _start(self, event: ir.Start) -> bytes:
        if self._body:
            return b""
        created = self.voice.created if event.created is None else event.created
        ident = written.response_id(event.id, self.voice)
        model = event.model or self.voice.model
        self._body = written.response_of(ident, model, created, event.service_tier, self.voice)
        if event.usage is not None:
            self._usage = self._usage.merged(event.usage)
        lifecycle = ("response.created", "response.in_progress")
        return b"".join([self._event(kind, {"response": self._body}) for kind in lifecycle])

    def _report(self, event: ir.UsageReport) -> bytes:
        self._usage = self._usage.merged(event.usage)
        return b""

    def _finished(self, event: ir.Finish) -> bytes:
        """Nothing more will be said, whatever usage is still to come: a cut answer's last item is not whole."""
        self._finish = self._finish or event
        return self._start(ir.Start("", "")) + self._end_items()

    def _end(self, event: ir.End) -> bytes:
        finish = self._finish or ir.Finish("unknown")
        out = self._start(ir.Start("", "")) + self._end_items()
        status, reason = status_of(finish.stop, refused=self._refused)
        details = {"incomplete_details": {"reason": reason}} if reason else {}
        self._over = True
        return out + self._ended(status, details | ({"error": BROKEN_OFF} if status == "failed" else {}))

    def _ended(self, status: str, members: _Json) -> bytes:
        output = [item for _, item in sorted(self._output.items())]
        body = {**self._body, "status": status, **members, "output": output, "usage": write_usage(self._usage)}
        return self._event(f"response.{status}", {"response": body})

    def _end_items(self) -> bytes:
        whole = status_of(self._finish.stop, refused=self._refused)[0] == "completed" if self._finish else True
        status = "completed" if whole else "incomplete"
        out = [self._end_part(number, status) for number in [*self._parts]]
        return b"".join([*out, self._end_message(status)])

    def _ping(self, event: ir.Ping) -> bytes:
        return _PING

    # -- items -------------------------------------------------------------------------------------------------------

    def _begin(self, prefix: str, ident: str | None = None) -> Item:
        item = Item(self._items, ident or written.item_id(prefix, self._body["id"], self._items))
        self._items += 1
        return item

    def _added(self, item: Item, raw: _Json) -> bytes:
        return self._event("response.output_item.added", {"output_index": item.index, "item": raw})

    def _done(self, item: Item, raw: _Json) -> bytes:
        self._output[item.index] = raw
        return self._event("response.output_item.done", {"output_index": item.index, "item": raw})

    def _whole(self, item: Item, raw: _Json) -> bytes:
        """An item that has no deltas."""
        return self._added(item, raw) + self._done(item, raw)

    def _part_start(self, event: ir.PartStart) -> bytes:
        out, shell = self._start(ir.Start("", "")), event.shell
        if isinstance(shell, ir.Text | ir.Refusal):
            return out + self._begin_words(event.part, shell)
        begin = _SHELLS.get(shell.__class__)
        if begin is None:
            return out
        if self._message is not None and not self._message.open:
            out += self._end_message("completed")
        return out + begin(self, event.part, shell)

    def _part_end(self, event: ir.PartEnd) -> bytes:
        part = self._parts.get(event.part)
        if part is None:
            told = event.part in self._pictures
            return self._picture(event.part, event.final) if isinstance(event.final, ir.Image) and not told else b""
        if isinstance(part.shell, ir.ToolCall):
            if not part.is_whole:
                return b""
        elif isinstance(part.shell, ir.ServerCall | ir.ServerResult | ir.Opaque) and event.final is not None:
            part.shell = event.final
        return self._end_part(event.part, "completed")

    def _end_part(self, number: int, status: str) -> bytes:
        part = self._parts.pop(number)
        return _ENDS[part.shell.__class__](self, part, status)

    # -- words -------------------------------------------------------------------------------------------------------

    def _begin_words(self, number: int, shell: ir.Text | ir.Refusal) -> bytes:
        out, item = b"", self._message
        if item is None:
            item = self._message = self._begin("msg")
            out = self._added(item, written.message_item(item.ident, [], "in_progress"))
        part = self._parts[number] = Part(shell, item, len(item.content))
        item.open += 1
        if isinstance(shell, ir.Refusal):
            empty, self._refused = written.refusal_part(""), True
        else:
            empty = written.text_part("", [], [])
            part.head = delta_head("response.output_text.delta", part.at)
        item.content.append(empty)
        out += self._event("response.content_part.added", {**part.at, "part": empty})
        if isinstance(shell, ir.Refusal):
            return out + self._refusal(ir.RefusalDelta(number, shell.text))
        out += self._plain_text(part, ir.TextDelta(number, shell.text)) if shell.text else b""
        return out + b"".join([self._cited(part, citation) for citation in shell.citations])

    def _plain_text(self, part: Part, event: ir.TextDelta) -> bytes:
        if not event.text:
            return b""
        part.said.append(event.text)
        part.length += len(event.text)
        number, logprobs = self._number, b"[]"
        self._number += 1
        if event.logprobs is not None:
            found = written.logprobs_of(event.logprobs)
            part.logprobs += found
            logprobs = json_text.write(found)
        return b'%b%b,"logprobs":%b,"sequence_number":%d}\n\n' % (
            part.head, json_text.write(event.text), logprobs, number
        )  # fmt: skip

    def _refusal(self, event: ir.RefusalDelta) -> bytes:
        part = self._parts.get(event.part)
        if part is None or not event.text:
            return b""
        part.said.append(event.text)
        return self._event("response.refusal.delta", {**part.at, "delta": event.text})

    def _citation(self, event: ir.CitationDelta) -> bytes:
        part = self._parts.get(event.part)
        return b"" if part is None else self._cited(part, event.citation)

    def _cited(self, part: Part, citation: ir.Citation) -> bytes:
        note = written.annotation(citation, 0, part.length)
        if note is None:
            return b""
        place = {**part.at, "annotation_index": len(part.notes)}
        part.notes.append(note)
        return self._event("response.output_text.annotation.added", {**place, "annotation": note})

    def _end_words(self, part: Part, status: str) -> bytes:
        text, item = part.text, part.item
        if isinstance(part.shell, ir.Refusal):
            whole = written.refusal_part(text)
            out = self._event("response.refusal.done", {**part.at, "refusal": text})
        else:
            whole = written.text_part(text, part.notes, part.logprobs)
            out = self._event("response.output_text.done", {**part.at, "text": text, "logprobs": part.logprobs})
        item.content[part.place] = whole
        item.open -= 1
        signature = part.proof.signature if part.proof is not None else getattr(part.shell, "signature", None)
        item.proof = signature or item.proof
        out += self._event("response.content_part.done", {**part.at, "part": whole})
        # Words that follow are said in the same message, unless something else has begun in between.
        return out if item is self._message and item.index == self._items - 1 else out + self._close(item, status)

    def _end_message(self, status: str) -> bytes:
        return b"" if self._message is None else self._close(self._message, status)

    def _close(self, item: Item, status: str) -> bytes:
        if item.open:
            return b""
        if item is self._message:
            self._message = None
        out = self._done(item, written.message_item(item.ident, item.content, status))
        return out if item.proof is None else out + self._prove("text", item.proof)

    def _prove(self, of: str, signature: str) -> bytes:
        item = self._begin("rs")
        return self._whole(item, written.proof_item(item.ident, seal_proof(of, signature)))

    # -- reasoning ---------------------------------------------------------------------------------------------------

    def _begin_thinking(self, number: int, shell: ir.Thinking) -> bytes:
        item = self._begin("rs", shell.id)
        empty = ir.Thinking(dialect=shell.dialect)
        self._parts[number] = Part(evolve(shell, text="", summary=()), item)
        out = self._added(item, written.reasoning_item(item.ident, empty, "in_progress"))
        pieces = [ir.ThinkingDelta(number, piece, 0, index) for index, piece in enumerate(shell.summary)]
        if shell.text:
            pieces.append(ir.ThinkingDelta(number, shell.text))
        return out + b"".join(map(self._thought, pieces))

    def _thought(self, event: ir.ThinkingDelta) -> bytes:
        """Another provider's thinking is shown as the first piece of a summary."""
        part = self._parts.get(event.part)
        if part is None or not event.text or not isinstance(part.shell, ir.Thinking):
            return b""
        own = part.shell.dialect == NAME
        if own and event.summary is None:
            out = b""
            if not part.said:
                empty = {"type": "reasoning_text", "text": ""}
                out = self._event("response.content_part.added", {**part.at, "part": empty})
            part.said.append(event.text)
            return out + self._event("response.reasoning_text.delta", {**part.at, "delta": event.text})
        index, text = event.summary or 0, event.text
        out = self._begin_piece(part, index)
        part.summary[index].append(text)
        where = {**part.ids, "summary_index": index}
        return out + self._event("response.reasoning_summary_text.delta", {**where, "delta": text})

    def _begin_piece(self, part: Part, index: int) -> bytes:
        if index in part.summary:
            return b""
        part.summary[index] = Gathered()
        empty = {"type": "summary_text", "text": ""}
        where = {**part.ids, "summary_index": index}
        return self._event("response.reasoning_summary_part.added", {**where, "part": empty})

    def _signature(self, event: ir.SignatureDelta) -> bytes:
        if (part := self._parts.get(event.part)) is not None:
            part.proof = event
        return b""

    def _end_thinking(self, part: Part, status: str) -> bytes:
        out, summary = [], []
        for index, words in sorted(part.summary.items()):
            text = str(words)
            summary.append(text)
            where, whole = {**part.ids, "summary_index": index}, {"type": "summary_text", "text": text}
            out.append(self._event("response.reasoning_summary_text.done", {**where, "text": text}))
            out.append(self._event("response.reasoning_summary_part.done", {**where, "part": whole}))
        if text := part.text:
            whole = {"type": "reasoning_text", "text": text}
            out.append(self._event("response.reasoning_text.done", {**part.at, "text": text}))
            out.append(self._event("response.content_part.done", {**part.at, "part": whole}))
        assert isinstance(part.shell, ir.Thinking)
        thinking = evolve(part.shell, text=text, summary=tuple(summary))
        if part.proof is not None:
            thinking = evolve(thinking, signature=part.proof.signature, encrypted=part.proof.encrypted)
        return b"".join([*out, self._done(part.item, written.reasoning_item(part.item.ident, thinking, status))])

    # -- calls -------------------------------------------------------------------------------------------------------

    def _begin_call(self, number: int, shell: ir.ToolCall) -> bytes:
        out = b""
        if shell.signature is not None:
            out = self._prove("call", shell.signature)
        freeform = None
        if shell.name in self._freeform and not shell.custom:
            shell, freeform = evolve(shell, custom=True), Input()
        item = self._begin("ctc" if shell.custom else "fc", shell.item_id)
        call = evolve(shell, id=shell.id or f"call_{item.ident}", arguments="")
        part = self._parts[number] = Part(call, item, freeform=freeform)
        part.head = delta_head(f"response.{_WORDS[shell.custom]}.delta", part.ids)
        out += self._added(item, written.call_item(item.ident, call, "in_progress"))
        return out + self._arguments(ir.ArgumentsDelta(number, shell.arguments))

    def _arguments(self, event: ir.ArgumentsDelta) -> bytes:
        part = self._parts.get(event.part)
        if part is None:
            return b""
        return self._argued(part, event.text if part.freeform is None else part.freeform.feed(event.text))

    def _argued(self, part: Part, text: str) -> bytes:
        if not text:
            return b""
        part.said.append(text)
        if not part.head:
            return b""  # of a tool that its provider runs: told whole, when it has ended
        number = self._number
        self._number += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (part.head, json_text.write(text), number)

    def _end_call(self, part: Part, status: str) -> bytes:
        assert isinstance(part.shell, ir.ToolCall)
        out = b"" if part.freeform is None else self._argued(part, part.freeform.close())
        custom = part.shell.custom
        words = part.text or ("" if custom else "{}")
        done = {**part.ids, ("input" if custom else "arguments"): words}
        item = written.call_item(part.item.ident, evolve(part.shell, arguments=words), status)
        return out + self._event(f"response.{_WORDS[custom]}.done", done) + self._done(part.item, item)

    # -- tools of providers ------------------------------------------------------------------------------------------

    def _begin_other(self, number: int, shell: ir.ServerCall | ir.ServerResult | ir.Opaque) -> bytes:
        """This dialect's own items as they are; another's web search in its words; else nothing, since the text that
        follows tells what came of it."""
        if shell.dialect == NAME:
            ident = shell.raw.get("id")
            part = self._parts[number] = Part(shell, self._begin("item", ident if isinstance(ident, str) else None))
            return self._added(part.item, dict(shell.raw))
        if not isinstance(shell, ir.ServerCall) or shell.name != "web_search":
            return b""
        part = self._parts[number] = Part(shell, self._begin("ws"))
        out = self._added(part.item, written.search_item(part.item.ident, "", "in_progress"))
        steps = ("in_progress", "searching")
        return out + b"".join([self._event(f"response.web_search_call.{step}", part.ids) for step in steps])

    def _end_other(self, part: Part, status: str) -> bytes:
        shell = part.shell
        if isinstance(shell, ir.ServerCall) and shell.dialect != NAME:
            item = written.search_item(part.item.ident, part.text or shell.arguments, status)
            return self._event("response.web_search_call.completed", part.ids) + self._done(part.item, item)
        if isinstance(shell, ir.Image):
            return self._done(part.item, written.image_item(part.item.ident, shell) or {})
        assert isinstance(shell, ir.ServerCall | ir.ServerResult | ir.Opaque)
        return self._done(part.item, dict(shell.raw))

    def _picture(self, number: int, image: ir.Image) -> bytes:
        """A picture is told once, at its part's start or, where it was not whole there, at its end."""
        item = self._begin("ig")
        raw = written.image_item(item.ident, image)
        if raw is None:
            self._items -= 1
            return b""
        self._pictures.add(number)
        return self._whole(item, raw)


_SHELLS: dict[type, Callable[[StreamEncoder, int, Any], bytes]] = {
    ir.Thinking: StreamEncoder._begin_thinking,
    ir.ToolCall: StreamEncoder._begin_call,
    ir.ServerCall: StreamEncoder._begin_other,
    ir.ServerResult: StreamEncoder._begin_other,
    ir.Opaque: StreamEncoder._begin_other,
    ir.Image: StreamEncoder._picture,
}
_ENDS: dict[type, Callable[[StreamEncoder, Part, str], bytes]] = {
    ir.Text: StreamEncoder._end_words,
    ir.Refusal: StreamEncoder._end_words,
    ir.Thinking: StreamEncoder._end_thinking,
    ir.ToolCall: StreamEncoder._end_call,
    ir.ServerCall: StreamEncoder._end_other,
    ir.ServerResult: StreamEncoder._end_other,
    ir.Opaque: StreamEncoder._end_other,
    ir.Image: StreamEncoder._end_other,
}
# A Failure is none of these: the relay makes an error of it, which `fail` writes.
_WRITERS: dict[type, Callable[[StreamEncoder, Any], bytes]] = {
    ir.Start: StreamEncoder._start,
    ir.PartStart: StreamEncoder._part_start,
    ir.TextDelta: lambda encoder, event: b"",  # of a part that has ended
    ir.ThinkingDelta: StreamEncoder._thought,
    ir.SignatureDelta: StreamEncoder._signature,
    ir.ArgumentsDelta: StreamEncoder._arguments,
    ir.CitationDelta: StreamEncoder._citation,
    ir.RefusalDelta: StreamEncoder._refusal,
    ir.PartEnd: StreamEncoder._part_end,
    ir.Finish: StreamEncoder._finished,
    ir.UsageReport: StreamEncoder._report,
    ir.Ping: StreamEncoder._ping,
    ir.End: StreamEncoder._end,
}
