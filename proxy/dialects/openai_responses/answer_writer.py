"""Whole answers in this dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_responses import response
from proxy.dialects.openai_responses.freeform import input_of, names_in
from proxy.dialects.openai_responses.proofs import seal_proof
from proxy.dialects.openai_responses.usage import write_usage
from proxy.dialects.openai_responses.vocabulary import NAME, status_of
from proxy.record import define

BROKEN_OFF = {"code": "server_error", "message": "The provider broke off its answer."}


def encode_answer(answer: ir.Answer, voice: Voice) -> Mapping[str, Any]:
    """A response; of several choices the first, since no client of this API can ask for more."""
    choice = answer.choices[0] if answer.choices else ir.Choice((), "unknown")
    ident = response.response_id(answer.id, voice)
    created = voice.created if answer.created is None else answer.created
    body = response.response_of(ident, answer.model or voice.model, created, answer.service_tier, voice)
    refused = any(isinstance(part, ir.Refusal) for part in choice.parts)
    status, reason = status_of(choice.stop, refused=refused)
    output = _Output(ident, response.logprobs_of(choice.logprobs), names_in(voice.asked))
    for part in choice.parts:
        output.add(part)
    if output.items and status != "completed" and "status" in output.items[-1]:
        output.items[-1]["status"] = "incomplete"  # it was cut in the last one
    return {
        **body,
        "status": status,
        "error": BROKEN_OFF if status == "failed" else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output.items,
        "usage": write_usage(answer.usage),
    }


@define
class _Output:
    """Gathers parts into items: words that follow each other are one message."""

    ident: str
    logprobs: list[Mapping[str, Any]]  # of the first text
    freeform: frozenset[str]  # names of the tools that the client knows as custom ones
    items: list[dict[str, Any]] = field(factory=list)
    _content: list[dict[str, Any]] | None = None  # of the message being written

    def add(self, part: ir.Part) -> None:
        match part:
            case ir.Text():
                self._say(self._text(part))
                if part.signature is not None:
                    self._prove("text", part.signature)
            case ir.Refusal():
                self._say(response.refusal_part(part.text))
            case _:
                found = self._item(part)
                if found is not None:
                    self._content = None
                    self.items.append(found)

    def _say(self, part: dict[str, Any]) -> None:
        if self._content is None:
            self._content = []
            self.items.append(response.message_item(self._id("msg"), self._content, "completed"))
        self._content.append(part)

    def _text(self, part: ir.Text) -> dict[str, Any]:
        notes = (response.annotation(citation, 0, len(part.text)) for citation in part.citations)
        logprobs, self.logprobs = self.logprobs, []
        return response.text_part(part.text, [note for note in notes if note], list(logprobs))

    def _item(self, part: ir.Part) -> dict[str, Any] | None:
        match part:
            case ir.Thinking():
                return response.reasoning_item(part.id or self._id("rs"), part, "completed")
            case ir.ToolCall():
                return self._call(part)
            case ir.Image():
                return response.image_item(self._id("ig"), part)
            case ir.ServerCall(raw=raw) | ir.ServerResult(raw=raw) | ir.Opaque(raw=raw) if part.dialect == NAME:
                return dict(raw)
            case ir.ServerCall(name="web_search", arguments=arguments):
                return response.search_item(self._id("ws"), arguments, "completed")
            case _:
                return None  # another provider's own tool at work: the text that follows tells what came of it

    def _call(self, call: ir.ToolCall) -> dict[str, Any]:
        if call.signature is not None:
            self._prove("call", call.signature)
        if call.name in self.freeform and not call.custom:
            call = evolve(call, custom=True, arguments=input_of(call.arguments))
        ident = call.item_id or self._id("ctc" if call.custom else "fc")
        whole = call if call.custom or call.arguments else evolve(call, arguments="{}")
        return response.call_item(ident, evolve(whole, id=call.id or f"call_{ident}"), "completed")

    def _prove(self, of: str, signature: str) -> None:
        self._content = None
        self.items.append(response.proof_item(self._id("rs"), seal_proof(of, signature)))

    def _id(self, prefix: str) -> str:
        return response.item_id(prefix, self.ident, len(self.items))
