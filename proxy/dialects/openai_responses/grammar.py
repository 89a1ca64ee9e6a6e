"""What of a Responses request is read below its items: all else is named when the request is translated. What is read
of the items themselves stands with their readers."""

from __future__ import annotations

from proxy.dialects.unread import ELSE, Grammar, OneOf, members

_MARKER = {"prompt_cache_breakpoint": members("mode", "ttl")}
_TEXT = members("text", "annotations", "logprobs", **_MARKER)
_PARTS = OneOf(
    {
        "input_text": _TEXT,
        "output_text": _TEXT,
        "text": _TEXT,
        "input_image": members("detail", "file_id", image_url=members("url"), **_MARKER),
        "input_file": members("filename", "file_id", "file_url", "file_data", **_MARKER),
        "input_audio": members(input_audio=members("data", "format")),
        "refusal": members("refusal"),
    }
)
_NAMED = {"function": members("name"), "custom": members("name")}
_ALLOWED = members("mode", tools=OneOf(_NAMED))
REQUEST: dict[str, Grammar] = {
    "tool_choice": OneOf({**_NAMED, "allowed_tools": _ALLOWED}),
    "text": {ELSE: None, "format": members("name", "schema", "strict", "description")},
}
ITEM = OneOf(
    {
        "message": {ELSE: None, "content": _PARTS},
        "function_call_output": {ELSE: None, "output": _PARTS},
        "custom_tool_call_output": {ELSE: None, "output": _PARTS},
        "reasoning": {ELSE: None, "summary": members("text"), "content": members("text")},
    },
    untyped="message",
)
