"""What routing may know of a chat request without building the IR. Never raises: what is not of the right type is
passed over, `decode_request` complains about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxy import ir
from proxy.dialects.measure import dicts, size, whole

_MEDIA = {
    "image_url": "vision",
    "input_audio": "audio",
    "file": "files",
    "document_url": "files",
    "video_url": "vision",
}
NO_NEEDS: frozenset[str] = frozenset()
SYSTEM_ROLES = ("system", "developer")
_MARKERS = frozenset({"cache_control", "prompt_cache_breakpoint"})
_REASONING = ("reasoning_effort", "reasoning", "thinking", "enable_thinking")
_ASKING = frozenset(
    {"tools", "functions", "parallel_tool_calls", "response_format", "modalities", *_REASONING}
)  # members that `_asked_for` looks at


def read_shape(body: Mapping[str, Any]) -> ir.Shape:
    needs: set[str] = set()
    chars, media = 0, 0
    turns: list[str] = []
    system: list[str] = []
    marked: list[Mapping[str, Any]] = []  # what has a marker of a cache
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        if len(message) == 2 and "role" in message and (text := message.get("content")).__class__ is str:
            chars += len(text)  # nearly every turn: a role, a text, and nothing else
            if message["role"] == "user":
                turns.append(text)
            elif message["role"] in SYSTEM_ROLES:
                system.append(text)
            elif message["role"] == "tool":
                needs.add("tools")
            continue
        if not _MARKERS.isdisjoint(message):
            marked.append(message)
        content, role = message.get("content"), message.get("role")
        if content.__class__ is str and "tool_calls" not in message:
            texts, chars = [content], chars + len(content)
        else:
            texts, kinds = _content(content, marked)
            needs.update(map(_MEDIA.__getitem__, kinds))
            media += len(kinds)
            chars += sum(map(len, texts))
            if "tool_calls" in message and (calls := list(dicts(message["tool_calls"]))):
                needs.update(("tools", "parallel_tools") if len(calls) > 1 else ("tools",))
                chars += sum(map(_call_chars, calls))
        if role == "user":
            turns.append("\n".join(texts))
        elif role in SYSTEM_ROLES:
            system += texts
        elif role == "tool":
            needs.add("tools")
    if not _ASKING.isdisjoint(body):
        needs |= _asked_for(body)
        chars += _tool_chars(body)
        marked += [tool for tool in dicts(body.get("tools")) if not _MARKERS.isdisjoint(tool)]
    if not _MARKERS.isdisjoint(body):
        marked.append(body)
    max_tokens = whole(body["max_completion_tokens"]) if "max_completion_tokens" in body else None
    if max_tokens is None and "max_tokens" in body:
        max_tokens = whole(body["max_tokens"])
    return ir.Shape(
        frozenset(needs) if needs else NO_NEEDS,
        chars,
        media,
        max_tokens,
        whole(body["n"]) or 1 if "n" in body else 1,
        tuple(turns),
        "\n".join(system),
        _cache_write(marked) if marked else None,
    )


def _cache_write(marked: Iterable[Mapping[str, Any]]) -> ir.CacheLife | None:
    """Of the markers that OpenRouter, Alibaba and OpenAI take: on parts, turns, tools and the request itself."""
    found = [marker for place in marked for name in _MARKERS if isinstance(marker := place.get(name), dict)]
    if not found:
        return None
    return "1h" if any(marker.get("ttl") == "1h" for marker in found) else "5m"


def _asked_for(body: Mapping[str, Any]) -> set[str]:
    needs: set[str] = set()
    if body.get("tools") or body.get("functions"):
        needs.add("tools")
    if body.get("parallel_tool_calls") is True:
        needs.add("parallel_tools")
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") in ("json_schema", "json_object"):
        needs.add("json")
    modalities = body.get("modalities")
    if isinstance(modalities, list):
        needs.update(need for word, need in (("audio", "audio"), ("image", "images")) if word in modalities)
    if any(_wants(body.get(name)) for name in _REASONING):
        needs.add("thinking")
    return needs


def _wants(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("enabled") is not False and value.get("type") != "disabled" and value.get("effort") != "none"
    return value is True or (isinstance(value, str) and value != "none")


def _content(content: Any, marked: list[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The texts of a message's content, and the kinds of its media; notes parts that are marked."""
    if isinstance(content, str):
        return [content], []
    texts, kinds = [], []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if not _MARKERS.isdisjoint(part):
            marked.append(part)
        if isinstance(text := part.get("text"), str):
            texts.append(text)
        elif isinstance(kind := part.get("type"), str) and kind in _MEDIA:
            kinds.append(kind)
    return texts, kinds


def _call_chars(call: Mapping[str, Any]) -> int:
    called = call.get("function") or call.get("custom")
    if not isinstance(called, dict):
        return 0
    return sum(len(value) for value in called.values() if isinstance(value, str))


def _tool_chars(body: Mapping[str, Any]) -> int:
    """A schema's size is that of its keys and strings: close enough for an estimate, and no dump is made."""
    return size(body.get("tools")) + size(body.get("functions")) + size(body.get("response_format"))
