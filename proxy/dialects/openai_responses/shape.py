"""What routing may know of a Responses request without building the IR. Never raises: what is not of the right type is
passed over, `decode_request` complains about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects.measure import dicts, size, whole

_MEDIA = {"input_image": "vision", "input_file": "files", "input_audio": "audio", "computer_screenshot": "vision"}
_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_OTHER_TEXTS = ("name", "arguments", "input")  # of items that are no messages


def read_shape(body: Mapping[str, Any]) -> ir.Shape:
    needs: set[str] = set()
    instructions = body.get("instructions")
    system = [instructions] if isinstance(instructions, str) else []
    turns: list[str] = []
    chars, media = sum(map(len, system)), 0
    given = body.get("input")
    if isinstance(given, str):
        turns.append(given)
        chars += len(given)
    before = ""  # the type of the call before, if none of its results has come
    for item in dicts(given):
        kind = item.get("type")
        texts, kinds = _content(item.get("output") if "output" in item else item.get("content"))
        chars += sum(map(len, texts)) + _chars(item)
        media += len(kinds)
        needs.update(_MEDIA[found] for found in kinds)
        if kind in _CALLS or kind in _RESULTS:
            needs.add("tools")
        if kind in _CALLS:
            needs.update({"parallel_tools"} if before else ())
            before = "call"
        elif kind != "reasoning" and item.get("role") != "assistant":
            before = ""
        match item.get("role"):
            case "user":
                turns.append("\n".join(texts))
            case "system" | "developer":
                system += texts
    return ir.Shape(
        needs=frozenset(needs | _asked_for(body)),
        chars=chars + size(body.get("tools")) + size(body.get("text")),
        media=media,
        max_tokens=whole(body.get("max_output_tokens")),
        turns=tuple(turns),
        system="\n".join(system),
    )


def _asked_for(body: Mapping[str, Any]) -> set[str]:
    needs: set[str] = set()
    if body.get("tools"):
        needs.add("tools")
    if body.get("parallel_tool_calls") is True:
        needs.add("parallel_tools")
    words, reasoning = body.get("text"), body.get("reasoning")
    form = words.get("format") if isinstance(words, dict) else None
    if isinstance(form, dict) and form.get("type") in ("json_schema", "json_object"):
        needs.add("json")
    if isinstance(reasoning, dict) and reasoning.get("effort", "none") not in (None, "none"):
        needs.add("thinking")
    return needs


def _content(content: Any) -> tuple[list[str], list[str]]:
    """The texts of a message's content or a tool's output, and the kinds of its media."""
    if isinstance(content, str):
        return [content], []
    if isinstance(content, dict):
        content = [content]
    texts, kinds = [], []
    for part in dicts(content):
        if isinstance(text := part.get("text"), str):
            texts.append(text)
        elif isinstance(kind := part.get("type"), str) and kind in _MEDIA:
            kinds.append(kind)
    return texts, kinds


def _chars(item: Mapping[str, Any]) -> int:
    if "role" in item:
        return 0
    said = sum(len(value) for name in _OTHER_TEXTS if isinstance(value := item.get(name), str))
    return said + sum(len(text) for piece in dicts(item.get("summary")) if isinstance(text := piece.get("text"), str))
