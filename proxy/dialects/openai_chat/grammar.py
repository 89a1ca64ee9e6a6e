"""What of a chat request is read, below its top: all else is named when the request is translated."""

from __future__ import annotations

from proxy.dialects.unread import Grammar, OneOf, members

_MARKER = members("ttl", "mode")
_MARKERS = {"cache_control": _MARKER, "prompt_cache_breakpoint": _MARKER}
_PART = OneOf(
    {
        "text": members("text", **_MARKERS),
        "image_url": members(image_url=members("url", "detail"), **_MARKERS),
        "input_audio": members(input_audio=members("data", "format"), **_MARKERS),
        "file": members(file=members("file_id", "filename", "file_data"), **_MARKERS),
        "video_url": members(video_url=members("url"), **_MARKERS),
        "document_url": members("document_url", "document_name", **_MARKERS),
        "refusal": members("refusal", **_MARKERS),
    }
)
_CALLED = members("name", "arguments")
_CALL = OneOf(
    {
        "function": members("id", "index", "extra_content", function=_CALLED),
        "custom": members("id", "index", "extra_content", custom=members("name", "input")),
    },
    untyped="function",
)
_MESSAGE = members(
    "role", "name", "refusal", "tool_call_id", "reasoning", "reasoning_content", "reasoning_details", "extra_content",
    content=_PART, audio=members("id"), images=_PART, tool_calls=_CALL, function_call=_CALLED,
)  # fmt: skip
_FUNCTION = members("name", "description", "parameters", "strict")
_CUSTOM = members("name", "description", "format")
_NAMED = OneOf({"function": members(function=members("name")), "custom": members(custom=members("name"))})
REQUEST: dict[str, Grammar] = {
    "messages": _MESSAGE,
    "functions": _FUNCTION,
    "tools": OneOf({"function": members(function=_FUNCTION, **_MARKERS), "custom": members(custom=_CUSTOM)}),
    "tool_choice": OneOf(
        {**_NAMED.kinds, "allowed_tools": members(allowed_tools={"mode": None, "tools": _NAMED})}
    ),
    "function_call": members("name"),
    "response_format": members(json_schema=members("name", "schema", "strict", "description")),
}  # fmt: skip
