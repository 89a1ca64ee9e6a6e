"""Content blocks of the Messages API to parts of the IR, for requests and answers alike.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy import ir
from proxy.dialects.anthropic.fields import Fields, wrong
from proxy.errors import InvalidRequest
from proxy.wire import json_text

NAME = "anthropic"
_WHOLE = (ir.Opaque, ir.ServerCall, ir.ServerResult)  # are kept whole, in `raw`


class BlockReader:
    """Reads blocks and gathers, in `unsaid`, the members for which the IR has no field, by their path."""

    def __init__(self) -> None:
        self.unsaid: dict[str, Any] = {}

    def content(self, value: Any, path: str, *, within: bool = False) -> tuple[ir.Part, ...]:
        """A string or a list of blocks; `within` a tool result. Empty text says nothing, and the API refuses it: it is
        left out."""
        if isinstance(value, str):
            return (ir.Text(value),) if value else ()
        if not isinstance(value, list):
            raise wrong(path, list, value)
        parts = [self.block(raw, f"{path}[{at}]", within=within) for at, raw in enumerate(value)]
        return tuple(part for part in parts if not (isinstance(part, ir.Text) and not part.text and not part.citations))

    def block(self, raw: Any, path: str, *, within: bool = False) -> ir.Part:
        match raw:
            case {"type": "text", "text": str() as text} if len(raw) == 2:  # nearly every one
                return ir.Text(text)
        fields = Fields(raw, path)
        kind = fields.need_text("type")
        if within and kind in ("tool_use", "tool_result"):
            raise InvalidRequest(f"{path}: a {kind} cannot stand in a tool result.", param=path)
        read = _READERS.get(kind)
        part = read(self, fields) if read else _other(kind, fields)
        if not isinstance(part, _WHOLE):
            self.unsaid |= fields.rest()
        return part

    def cache(self, fields: Fields) -> ir.Cache | None:
        marker = fields.object("cache_control")
        if marker is None:
            return None
        control = Fields(marker, fields.where("cache_control"))
        control.any("type")
        return ir.Cache(control.text("ttl"))

    def text(self, fields: Fields) -> ir.Part:
        raw = fields.items("citations") or []
        path = fields.where("citations")
        citations = tuple(read_citation(Fields(item, f"{path}[{at}]").value) for at, item in enumerate(raw))
        return ir.Text(fields.need_text("text"), citations, self.cache(fields))

    def image(self, fields: Fields) -> ir.Part:
        source = self._source(fields, fields.need_object("source"))
        if source is None:
            return _whole("image", fields)
        return ir.Image(source, cache=self.cache(fields))

    def document(self, fields: Fields) -> ir.Part:
        source = self._source(fields, fields.need_object("source"))
        if source is None:  # a document made of blocks, or of what is not known yet
            return _whole("document", fields)
        citations = fields.object("citations")
        return ir.File(
            source,
            name=fields.text("title"),
            context=fields.text("context"),
            citations=Fields(citations, fields.where("citations")).flag("enabled") if citations is not None else None,
            cache=self.cache(fields),
        )

    def thinking(self, fields: Fields) -> ir.Part:
        signature = fields.text("signature")
        return ir.Thinking(fields.text("thinking") or "", signature=signature or None, dialect=NAME)

    def redacted_thinking(self, fields: Fields) -> ir.Part:
        return ir.Thinking(redacted=fields.need_text("data"), dialect=NAME)

    def tool_use(self, fields: Fields) -> ir.Part:
        return ir.ToolCall(
            fields.need_text("id"), fields.need_text("name"), _arguments(fields), cache=self.cache(fields)
        )

    def tool_result(self, fields: Fields) -> ir.Part:
        content, path = fields.any("content"), fields.where("content")
        inner = self.content(content, path, within=True) if content is not None else ()
        return ir.ToolResult(
            fields.need_text("tool_use_id"),
            inner,
            is_error=fields.flag("is_error"),
            cache=self.cache(fields),
        )

    def _source(self, fields: Fields, raw: dict[str, Any]) -> ir.MediaSource | None:
        source = Fields(raw, fields.where("source"))
        match source.need_text("type"):
            case "base64":
                return ir.Blob(source.need_text("data"), source.need_text("media_type"))
            case "url":
                return ir.Url(source.need_text("url"))
            case "file":
                return ir.FileId(source.need_text("file_id"))
            case "text":
                return ir.PlainText(source.need_text("data"), source.text("media_type") or "text/plain")
            case _:
                return None


def read_citation(raw: Any) -> ir.Citation:
    """Any of the five kinds; `start` and `end` stay unknown: the API counts in the source, the IR in the answer."""

    def text(*names: str) -> str | None:
        return next((raw[name] for name in names if isinstance(raw.get(name), str)), None)

    return ir.Citation(
        url=text("url", "source"),
        title=text("title", "document_title"),
        cited_text=text("cited_text"),
        raw=raw,
        dialect=NAME,
    )


def _arguments(fields: Fields) -> str:
    try:
        return json_text.write(fields.object("input") or {}).decode()
    except ValueError as exc:
        path = fields.where("input")
        raise InvalidRequest(f"{path}: is nested too deeply.", param=path) from exc


def _other(kind: str, fields: Fields) -> ir.Part:
    """Calls that the provider made itself, their results, and whatever comes next year."""
    if kind.endswith("tool_use"):
        name = fields.text("name") or kind
        return ir.ServerCall(fields.text("id") or "", name, _arguments(fields), raw=fields.value, dialect=NAME)
    if kind.endswith("tool_result"):
        return ir.ServerResult(
            fields.text("tool_use_id") or "", kind.removesuffix("_tool_result"), raw=fields.value, dialect=NAME
        )
    return _whole(kind, fields)


def _whole(kind: str, fields: Fields) -> ir.Opaque:
    return ir.Opaque(kind, raw=fields.value, dialect=NAME)


_READERS: dict[str, Callable[[BlockReader, Fields], ir.Part]] = {
    "text": BlockReader.text,
    "image": BlockReader.image,
    "document": BlockReader.document,
    "thinking": BlockReader.thinking,
    "redacted_thinking": BlockReader.redacted_thinking,
    "tool_use": BlockReader.tool_use,
    "tool_result": BlockReader.tool_result,
}


def require_blocks_of(role: str, parts: tuple[ir.Part, ...], path: str) -> None:
    """Calls are the assistant's, results the user's: a swap is a client's mistake that no other dialect can say."""
    for at, part in enumerate(parts):
        if isinstance(part, ir.ToolCall | ir.Thinking) and role != "assistant":
            raise InvalidRequest(f"{path}[{at}]: such a block belongs to the assistant.", param=f"{path}[{at}]")
        if isinstance(part, ir.ToolResult) and role != "user":
            raise InvalidRequest(f"{path}[{at}]: a tool_result belongs to a user turn.", param=f"{path}[{at}]")
