"""What is read of the small objects inside a Messages request: all else in them is named when it is translated. What is
read of the request, its turns, blocks and tools stands with their readers."""

from __future__ import annotations

from proxy.dialects.unread import ELSE, Grammar, OneOf, members

_MARKED = {ELSE: None, "cache_control": members("ttl")}
_SOURCE = OneOf(
    {
        "base64": members("media_type", "data"),
        "text": members("media_type", "data"),
        "url": members("url"),
        "file": members("file_id"),
    }
)
_MEDIUM = {**_MARKED, "source": _SOURCE}
_DOCUMENT = {**_MEDIUM, "citations": members("enabled")}
_INNER = OneOf({"text": _MARKED, "image": _MEDIUM, "document": _DOCUMENT})
_BLOCK = OneOf(
    {
        **_INNER.kinds,
        "tool_use": _MARKED,
        "tool_result": {**_MARKED, "content": _INNER},
    }
)
_THINKING = members("budget_tokens", "display")
REQUEST: dict[str, Grammar | None] = {
    ELSE: None,
    "messages": {ELSE: None, "content": _BLOCK},
    "system": _MARKED,
    "tools": _MARKED,
    "tool_choice": members("name", "disable_parallel_tool_use"),
    "thinking": OneOf({"enabled": _THINKING, "adaptive": _THINKING, "disabled": _THINKING}),
    "output_config": {ELSE: None, "format": members("schema")},
    "output_format": members("schema"),
}
