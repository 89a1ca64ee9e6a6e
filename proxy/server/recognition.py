"""Whose body a dry run was given: the path that it is for, by the members that no other surface has.

Where the members are the same, `input` alone or `prompt` alone, the models that it names tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.routing.world import SERVING

OPENAI_PARTS = frozenset({"image_url", "input_audio", "file", "refusal"})  # of a turn; no Messages request has them
EMBEDDING = ("encoding_format", "dimensions")
PICTURE = ("size", "quality", "style", "background", "output_format")
MODERATION = re.compile(r"moderation|guard", re.IGNORECASE)
CHAT = "/v1/chat/completions"


def path_of(body: Mapping[str, Any], headers: Mapping[str, str], names: Iterable[str]) -> str:
    """`names` are those of the models that it asks for. Chat Completions where nothing tells."""
    about = " ".join(names)
    if "messages" in body:
        return _conversation(body, headers)
    if "documents" in body and "query" in body:
        return "/v1/rerank"
    if "input" in body:
        return _of_input(body, about)
    if "prompt" in body:
        pictures = any(name in body for name in PICTURE) or re.search(SERVING["images"], about)
        return "/v1/images/generations" if pictures else "/v1/completions"
    return _conversation(body, headers)


def _conversation(body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    turns = body.get("messages")
    blocks = "max_tokens" in body and isinstance(turns, list) and _in_blocks(turns)
    return "/v1/messages" if "anthropic-version" in headers or "system" in body or blocks else CHAT


def _of_input(body: Mapping[str, Any], about: str) -> str:
    if "voice" in body:
        return "/v1/audio/speech"
    given = body["input"]
    texts = isinstance(given, list) and bool(given) and not any(isinstance(item, dict) for item in given)
    if any(name in body for name in EMBEDDING) or re.search(SERVING["embeddings"], about):
        return "/v1/embeddings"
    if MODERATION.search(about):
        return "/v1/moderations"
    return "/v1/embeddings" if texts else "/v1/responses"  # a Responses request has items, or one text


def _in_blocks(turns: Sequence[Any]) -> bool:
    """Whether a turn's content is a list, and no turn has what is OpenAI's alone."""
    known = [turn for turn in turns if isinstance(turn, dict)]
    lists = [turn["content"] for turn in known if isinstance(turn.get("content"), list)]
    kinds = {str(part.get("type")) for content in lists for part in content if isinstance(part, dict)}
    roles = {str(turn.get("role")) for turn in known}
    return bool(kinds) and OPENAI_PARTS.isdisjoint(kinds) and roles <= {"user", "assistant"}
