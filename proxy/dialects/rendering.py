"""Parts in the forms that more than one dialect of providers wants: arguments as an object, a document as text."""

from __future__ import annotations

from typing import Any

from proxy import ir
from proxy.errors import InvalidRequest
from proxy.wire import json_text


def arguments_of(call: ir.ToolCall, path: str, api: str) -> dict[str, Any]:
    """A call's arguments as the object that `api` takes them for; none at all is an empty one."""
    if not call.arguments.strip():
        return {}
    try:
        value = json_text.read(call.arguments)
    except ValueError as exc:
        message = f"{path}: is not JSON, and {api} takes a tool's arguments as an object."
        raise InvalidRequest(message, param=path) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path}: must be a JSON object for {api}.", param=path)
    return value


def document_text(file: ir.File, text: str) -> str:
    """A document given as text, for an API that knows no documents; its title and what was said of it stand by it."""
    title = f' title="{file.name}"' if file.name else ""
    context = f"{file.context}\n" if file.context else ""
    return f"<document{title}>\n{context}{text}\n</document>"
