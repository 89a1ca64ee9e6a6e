"""Custom tools, which take plain text, for providers that know functions alone: coding agents edit files with one.

Such a tool goes out as a function with one string, `input`; its calls come back as calls of the custom tool, and text
leaves as it comes. Only a provider of this dialect can hold the model to a tool's grammar: for the others it stands in
the description, and `tools[0].format` is named among what was dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from proxy import ir
from proxy.record import define
from proxy.wire import json_text

_SCHEMA = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's whole input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
# What of a JSON string can be read without what follows: no half escape, no half of a surrogate pair.
_READABLE = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?!d[89ab])[0-9a-f]{4}|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})*', re.IGNORECASE
)


def as_functions(request: ir.Request) -> ir.Request:
    """The request with functions in place of custom tools, in its history too."""
    formats = {
        f"tools[{at}].format": tool.format
        for at, tool in enumerate(request.tools)
        if isinstance(tool, ir.Tool) and tool.format is not None and tool.format.get("type") != "text"
    }
    return evolve(
        request,
        tools=tuple(_function(tool) if isinstance(tool, ir.Tool) and tool.custom else tool for tool in request.tools),
        messages=tuple(evolve(turn, parts=tuple(map(_part, turn.parts))) for turn in request.messages),
        extra={**request.extra, **formats},
    )


def names_in(asked: Mapping[str, Any]) -> frozenset[str]:
    """Of the custom tools in a request, as its client wrote it."""
    tools = asked.get("tools")
    return frozenset(
        str(tool.get("name"))
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and tool.get("type") == "custom"
    )


def input_of(arguments: str) -> str:
    """The text in a function's arguments. A model that did not keep to the schema is taken at its word."""
    try:
        given = json_text.read(arguments)
    except ValueError:
        return arguments
    text = given.get("input") if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments


@define
class Input:
    """The text in a function's arguments, as they come."""

    arguments: str = ""
    said: str = ""
    _read: int = 0  # up to where

    def feed(self, arguments: str) -> str:
        self.arguments += arguments
        if not self._read:
            head = _HEAD.match(self.arguments)
            if head is None:
                return ""
            self._read = head.end()
        found = _READABLE.match(self.arguments, self._read)
        assert found is not None, "it matches nothing at all, too"
        self._read = found.end()
        # Not strict: models write line ends into their strings that should be escapes.
        return self._say(json.loads(f'"{found[0]}"', strict=False) if "\\" in found[0] else found[0])

    def close(self) -> str:
        """What has not been said yet."""
        whole = input_of(self.arguments)
        return self._say(whole[len(self.said) :]) if whole.startswith(self.said) else ""

    def _say(self, text: str) -> str:
        self.said += text
        return text


def _function(tool: ir.Tool) -> ir.Tool:
    form = tool.format or {}
    grammar = form.get("definition")
    told = [tool.description] if tool.description else []
    if isinstance(grammar, str):
        told.append(f"The input keeps to this {form.get('syntax', '')} grammar:\n{grammar}")
    return ir.Tool(tool.name, "\n\n".join(told) or None, _SCHEMA, cache=tool.cache)


def _part(part: ir.Part) -> ir.Part:
    match part:
        case ir.ToolCall(custom=True, arguments=text):
            return evolve(part, custom=False, arguments=json_text.write({"input": text}).decode())
        case ir.ToolResult(custom=True):
            return evolve(part, custom=False)
        case _:
            return part
