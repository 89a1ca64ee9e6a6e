"""The response object and its output items, as this gateway writes them.

What the client asked for is repeated in it, as the API does: SDKs want some of those members, programs read others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.dialect import Voice
from proxy.dialects.openai_chat.vocabulary import ANSWER_TIERS
from proxy.dialects.openai_responses.proofs import seal
from proxy.dialects.openai_responses.vocabulary import NAME
from proxy.wire import json_text

_NO_ID = re.compile(r"[^A-Za-z0-9_-]")
# Members of the request that stand in the response, with what the API says where the client said nothing.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
_Json = dict[str, Any]


def response_of(ident: str, model: str, created: int, service_tier: str | None, voice: Voice) -> _Json:
    """A response under way: no output, no usage. Nothing is stored here, whatever the API does without being told."""
    asked = voice.asked
    said = {name: default if asked.get(name) is None else asked[name] for name, default in _REPEATED.items()}
    reasoning, words = asked.get("reasoning"), asked.get("text")
    return {
        "id": ident,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None} | (reasoning if isinstance(reasoning, dict) else {}),
        "service_tier": service_tier if service_tier in ANSWER_TIERS else "default",
        "store": False,
        "text": {"format": {"type": "text"}} | (words if isinstance(words, dict) else {}),
        "usage": None,
        **said,
    }


def response_id(native: str, voice: Voice) -> str:
    return native or f"resp_{voice.request_id}"


def item_id(prefix: str, response: str, number: int) -> str:
    """Begins as the API wants it to, and is no longer than it takes: clients send items back."""
    return f"{prefix}_{_NO_ID.sub('_', response)[:48]}_{number}"


# -- output items ------------------------------------------------------------------------------------------------


def message_item(ident: str, content: list[_Json], status: str) -> _Json:
    return {"id": ident, "type": "message", "status": status, "content": content, "role": "assistant"}


def text_part(text: str, annotations: list[_Json], logprobs: list[Any]) -> _Json:
    return {"type": "output_text", "annotations": annotations, "logprobs": logprobs, "text": text}


def refusal_part(text: str) -> _Json:
    return {"type": "refusal", "refusal": text}


def reasoning_item(ident: str, thinking: ir.Thinking, status: str) -> _Json:
    """Another provider's thinking is shown as a summary, the form that every client shows and hands back."""
    summary, text = thinking.summary, thinking.text
    if thinking.dialect != NAME:
        summary, text = (text,) if text else summary, ""
    item: _Json = {"id": ident, "type": "reasoning", "status": status}
    item["summary"] = [{"type": "summary_text", "text": piece} for piece in summary]
    if text:
        item["content"] = [{"type": "reasoning_text", "text": text}]
    if (proof := seal(thinking)) is not None and status != "in_progress":
        item["encrypted_content"] = proof
    return item


def proof_item(ident: str, proof: str) -> _Json:
    """Carries the proof of the call behind it, or of the words before it, which have no place for one."""
    return {"id": ident, "type": "reasoning", "status": "completed", "summary": [], "encrypted_content": proof}


def call_item(ident: str, call: ir.ToolCall, status: str) -> _Json:
    kind, words = ("custom_tool_call", "input") if call.custom else ("function_call", "arguments")
    head = {"id": ident, "type": kind, "status": status}
    return {**head, words: call.arguments, "call_id": call.id, "name": call.name}


def search_item(ident: str, arguments: str, status: str) -> _Json:
    """Another provider's web search, in the API's words."""
    try:
        given = json_text.read(arguments) if arguments else None
    except ValueError:  # cut off in its middle
        given = None
    query = given.get("query") if isinstance(given, dict) else None
    action = {"type": "search", "query": query if isinstance(query, str) else ""}
    return {"id": ident, "type": "web_search_call", "status": status, "action": action}


def image_item(ident: str, image: ir.Image) -> _Json | None:
    """None for one that only a URL or a file id names: the API has the bytes themselves."""
    if not isinstance(image.source, ir.Blob):
        return None
    form = (image.source.media_type or "image/png").removeprefix("image/")
    head = {"id": ident, "type": "image_generation_call", "status": "completed"}
    return {**head, "output_format": form, "result": image.source.data}


def annotation(citation: ir.Citation, start: int, end: int) -> _Json | None:
    """None for what is no web page: other providers' documents have no id here. `start` and `end` stand for unknown
    positions."""
    if citation.dialect == NAME and citation.raw:
        return dict(citation.raw)
    if not citation.url:
        return None
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title or "",
        "start_index": start if citation.start is None else citation.start,
        "end_index": end if citation.end is None else citation.end,
    }


def logprobs_of(logprobs: Any) -> list[Mapping[str, Any]]:
    """The IR has them in Chat's form."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def is_whole(arguments: str) -> bool:
    """Whether nothing can follow: a complete JSON object."""
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        return isinstance(json_text.read(arguments), dict)
    except ValueError:
        return False
