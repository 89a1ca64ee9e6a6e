"""Whole answers in this dialect.

Thinking goes into `reasoning_content`, the most widely read of the members for it, and its proof, where there is one,
into OpenRouter's `reasoning_details`: a client that sends those back keeps signed thinking across turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_chat.media import image_part
from proxy.dialects.openai_chat.message_writer import google_proof, tool_call
from proxy.dialects.openai_chat.reasoning import write_details
from proxy.dialects.openai_chat.usage import write_usage
from proxy.dialects.openai_chat.vocabulary import ANSWER_TIERS, NAME, finish_reason
from proxy.record import define


def encode_answer(answer: ir.Answer, voice: Voice) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": answer.id or voice.request_id,
        "object": "chat.completion",
        "created": voice.created if answer.created is None else answer.created,
        "model": answer.model or voice.model,
        "choices": [_choice(choice, index, voice) for index, choice in enumerate(answer.choices)],
    }
    if usage := write_usage(answer.usage):
        body["usage"] = usage
    if answer.service_tier in ANSWER_TIERS:
        body["service_tier"] = answer.service_tier
    if answer.fingerprint:
        body["system_fingerprint"] = answer.fingerprint
    return body


def annotation(citation: ir.Citation, start: int, end: int) -> dict[str, Any] | None:
    """None for what is no web page: Chat can cite nothing else. `start` and `end` stand for unknown positions."""
    if citation.dialect == NAME and citation.raw:
        return dict(citation.raw)
    if not citation.url:
        return None
    inner = {
        "url": citation.url,
        "title": citation.title or "",
        "start_index": start if citation.start is None else citation.start,
        "end_index": end if citation.end is None else citation.end,
    }
    return {"type": "url_citation", "url_citation": inner}


def made_up_id(voice: Voice, number: int) -> str:
    """For a call without one: no result could be sent for it. No two requests have the same id."""
    return f"call_{voice.request_id.removeprefix('req_')}_{number}"


def _choice(choice: ir.Choice, index: int, voice: Voice) -> dict[str, Any]:
    message = _Message(voice)
    for part in choice.parts:
        message.add(part)
    refused, called = bool(message.refusal), bool(message.calls)
    return {
        "index": index,
        "message": message.written(),
        "logprobs": choice.logprobs,
        "finish_reason": finish_reason(choice.stop, called=called, refused=refused),
    }


@define
class _Message:
    """Gathers the parts of one choice into the members of a message."""

    voice: Voice
    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[dict[str, Any]] = field(factory=list)
    details: list[dict[str, Any]] = field(factory=list)
    annotations: list[dict[str, Any]] = field(factory=list)
    images: list[dict[str, Any]] = field(factory=list)
    audio: dict[str, Any] | None = None
    proof: str | None = None  # of the text, Gemini's

    def add(self, part: ir.Part) -> None:
        match part:
            case ir.Text():
                start, self.content = len(self.content), self.content + part.text
                self.proof = part.signature or self.proof
                found = (annotation(citation, start, len(self.content)) for citation in part.citations)
                self.annotations += (raw for raw in found if raw)
            case ir.Thinking():
                self.reasoning += part.text or "\n\n".join(part.summary)
                self.details += write_details(part, len(self.details))
            case ir.ToolCall():
                ident = part.id or made_up_id(self.voice, len(self.calls))
                self.calls.append(tool_call(evolve(part, id=ident)))
            case ir.Refusal():
                self.refusal += part.text
            case ir.Audio():
                self.audio = _audio(part)
            case ir.Image() if image := image_part(part):
                self.images.append(image)
            case _:
                return  # a provider's own tool at work: the text that follows tells what came of it

    def written(self) -> Mapping[str, Any]:
        said = self.content or (None if self.calls or self.refusal or self.audio else "")
        optional = {
            "reasoning_content": self.reasoning,
            "reasoning_details": self.details,
            "annotations": self.annotations,
            "tool_calls": self.calls,
            "audio": self.audio,
            "images": self.images,
        }
        return {
            "role": "assistant",
            "content": said,
            "refusal": self.refusal or None,
            **{name: value for name, value in optional.items() if value},
            **google_proof(self.proof),
        }


def _audio(audio: ir.Audio) -> dict[str, Any]:
    return {
        "id": audio.id or "",
        "data": audio.source.data if isinstance(audio.source, ir.Blob) else "",
        "transcript": audio.transcript or "",
        "expires_at": audio.expires_at or 0,
    }
