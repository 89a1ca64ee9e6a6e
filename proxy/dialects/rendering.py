"""Parts in the forms that more than one dialect of providers wants: arguments as an object, a document as text."""

from __future__ import annotations

from typing import Any

from proxy import ir
from proxy.errors import InvalidRequest, Unsupported
from proxy.wire import json_text


def arguments_of(call: ir.ToolCall, path: str, api: str) -> dict[str, Any]:
    """A call's arguments as the object that `api` takes them for; none at all is an empty one."""
    if not call.arguments.strip():
        return {}
    try:
        value = json_text.read(call.arguments)
    except ValueError as exc:
        message = f"{path}: is not JSON, and {api} takes the arguments of a call as an object."
        raise InvalidRequest(message, param=path) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path}: must be a JSON object for {api}.", param=path)
    return value


def document_text(file: ir.File, text: str) -> str:
    """A document given as text, for an API that knows no documents; its title and what was said of it stand by it."""
    title = f' title="{file.name}"' if file.name else ""
    context = f"{file.context}\n" if file.context else ""
    return f"<document{title}>\n{context}{text}\n</document>"


def runs_anywhere(tool: ir.ServerTool) -> bool:
    """Whether a tool that runs code asks for nothing but that: a container of its own with files in it stands with one
    provider alone."""
    container = tool.raw.get("container")
    return container is None or (isinstance(container, dict) and container.keys() <= {"type"})


def strict_of(dialect: str) -> str:
    """Where a tool says that its schema is to be kept."""
    return "function.strict" if dialect == "openai-chat" else "strict"


def spoken(part: ir.Part) -> ir.Text | None:
    """The words of a block that only Anthropic knows but anybody can read: a document made of texts, a search result of
    the client's own, the name of a tool that was found. None for anything else."""
    if not isinstance(part, ir.Opaque) or part.dialect != "anthropic":
        return None
    raw = part.raw
    match part.kind:
        case "tool_reference" if isinstance(name := raw.get("tool_name"), str):
            return ir.Text(f"Found tool: {name}")
        case "search_result" if (said := _texts(raw.get("content"))) is not None:
            source, title = raw.get("source"), raw.get("title")
            name = " ".join(word for word in (title, source) if isinstance(word, str))
            return ir.Text(document_text(ir.File(ir.PlainText(said), name), said))
        case "document" if isinstance(source := raw.get("source"), dict):
            said = _texts(source.get("content"))
            title, context = raw.get("title"), raw.get("context")
            file = ir.File(
                ir.PlainText(said or ""),
                title if isinstance(title, str) else None,
                context if isinstance(context, str) else None,
            )
            return None if said is None else ir.Text(document_text(file, said))
    return None


def unknown_part(part: ir.Part, path: str, api: str) -> Unsupported:
    """For a part of what the user says, or a tool gave: an answer without it would be one to another question."""
    kind = part.kind if isinstance(part, ir.Opaque) else type(part).__name__.lower()
    return Unsupported(f"{path}: {api} has no content of the type {kind!r}.", param=path)


def _texts(content: Any) -> str | None:
    """None where it holds anything but text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    found = [item.get("text") if isinstance(item, dict) else None for item in content]
    return "\n\n".join(map(str, found)) if all(isinstance(text, str) for text in found) else None
