"""The IR's messages to `system` and `messages` of a Messages request.

The API wants user and assistant turns in alternation, tool results first in their turn, no empty text, and instructions
in `system`. Turns of one role are merged. Instructions at the head go to `system`. Later ones stay where they are if
the model takes that and the place is legal (behind a user turn, with an assistant turn or nothing behind it); else they
become user text in `<system>` tags, and `dropped` names their role.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

from proxy import ir
from proxy.dialects.anthropic.blocks import NAME
from proxy.dialects.places import Places
from proxy.dialects.rendering import arguments_of, unknown_part
from proxy.errors import InvalidRequest, Unsupported

Block = dict[str, Any]
_INSTRUCTIONS = ("system", "developer")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")


class TurnWriter:
    """Writes one request's messages; gathers in `dropped` what the API cannot say."""

    def __init__(self, request: ir.Request, *, system_turns: bool) -> None:
        self.request = request
        self.dropped: list[str] = []
        self._places = Places(request)
        self._given = False  # whether others than the model said what is being written
        self._native = request.dialect == NAME
        self._system_turns = system_turns or self._native

    def write(self) -> tuple[list[Block], list[Block]]:
        """The blocks of `system`, and the messages."""
        messages = self.request.messages
        head = sum(1 for _ in takewhile(lambda message: message.role in _INSTRUCTIONS, messages))
        system = [block for at in range(head) for block in self._blocks(at)]
        turns: list[Block] = []
        for at in range(head, len(messages)):
            self._add(turns, at)
        if not turns and system:  # the API answers users only: what stands alone is what was asked
            self.dropped.append(f"{self._places.turn(0)}.role")
            return [], [{"role": "user", "content": _short(system)}]
        if not turns:
            message = f"{self._places.all}: nothing is said there; at least one message with content is required."
            raise InvalidRequest(message, param=self._places.all)
        for turn in turns:
            turn["content"] = _short(_results_first(turn["content"]))
        return system, turns

    def _add(self, turns: list[Block], at: int) -> None:
        message, blocks = self.request.messages[at], self._blocks(at)
        role = "assistant" if message.role == "assistant" else "user"
        if message.role in _INSTRUCTIONS and blocks:
            if self._system_turns and self._placed(turns, at):
                role = "system"
            else:
                self.dropped.append(f"{self._places.turn(at)}.role")
                blocks = [_tagged(block) for block in blocks]
        if not blocks:
            return
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})

    def _placed(self, turns: list[Block], at: int) -> bool:
        if self._native:
            return True
        behind = (message.role for message in self.request.messages[at + 1 :] if message.role not in _INSTRUCTIONS)
        return bool(turns) and turns[-1]["role"] in ("user", "system") and next(behind, "assistant") == "assistant"

    def _blocks(self, at: int) -> list[Block]:
        message = self.request.messages[at]
        self._given = message.role != "assistant"
        if message.name is not None and message.role != "tool":
            self.dropped.append(f"{self._places.turn(at)}.name")
        blocks = []
        for index, part in enumerate(message.parts):
            plain = part.__class__ is ir.Text and not part.citations  # nothing of it can need its place
            block = self.block(part, "" if plain else self._places.part(at, index))
            if block is not None:
                blocks.append(block)
        return blocks

    def block(self, part: ir.Part, path: str) -> Block | None:
        """None where nothing is left of the part; `dropped` then names it, unless it said nothing."""
        block = _WRITERS[type(part)](self, part, path)
        cache = getattr(part, "cache", None)
        if block is not None and cache is not None and isinstance(cache, ir.Cache):
            block["cache_control"] = cache_control(cache)
        return block

    # -- one writer per kind of part ---------------------------------------------------------------------------------

    def _text(self, part: ir.Text, path: str) -> Block | None:
        if not part.text:
            return None
        own = [dict(citation.raw) for citation in part.citations if citation.dialect == NAME]
        if len(own) < len(part.citations):
            self.dropped.append(f"{path}.annotations")
        return {"type": "text", "text": part.text} | ({"citations": own} if own else {})

    def _refusal(self, part: ir.Refusal, path: str) -> Block | None:
        return {"type": "text", "text": part.text} if part.text else None

    def _image(self, part: ir.Image, path: str) -> Block | None:
        if part.detail not in (None, "auto"):
            self.dropped.append(f"{path}.detail")
        match part.source:
            case ir.Blob(data, kind):
                kind = "image/jpeg" if kind == "image/jpg" else kind
                if kind not in _IMAGES and not self._native:
                    message = f"{path}: the Messages API takes {', '.join(_IMAGES)}, not {kind or 'untyped ones'}."
                    raise Unsupported(message, param=path)
                return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
            case source:
                return {"type": "image", "source": self._elsewhere(source, path)}

    def _file(self, part: ir.File, path: str) -> Block | None:
        match part.source:
            case ir.Blob(data, kind) if self._native or kind in (None, "application/pdf"):
                source: Block = {"type": "base64", "media_type": kind or "application/pdf", "data": data}
            case ir.Blob(data, kind) if kind is not None and kind.startswith("text/"):
                source = {"type": "text", "media_type": "text/plain", "data": _decoded(data, path)}
            case ir.Blob(_, kind):
                message = f"{path}: the Messages API takes PDF and text documents; this one is {kind}."
                raise Unsupported(message, param=path)
            case ir.PlainText(text, kind):
                source = {"type": "text", "media_type": kind if self._native else "text/plain", "data": text}
            case other:
                source = self._elsewhere(other, path)
        block: Block = {"type": "document", "source": source, "title": part.name, "context": part.context}
        if part.citations is not None:
            block["citations"] = {"enabled": part.citations}
        return {name: value for name, value in block.items() if value is not None}

    def _elsewhere(self, source: ir.MediaSource, path: str) -> Block:
        match source:
            case ir.Url(url):
                return {"type": "url", "url": url}
            case ir.FileId(file_id) if self._native:
                return {"type": "file", "file_id": file_id}
            case ir.FileId():
                message = f"{path}: a file stored with another provider cannot be read; send its content or a URL."
                raise Unsupported(message, param=path)
            case _:
                raise Unsupported(f"{path}: an image cannot be given as text.", param=path)

    def _audio(self, part: ir.Audio | ir.Video, path: str) -> Block | None:
        kind = "video" if isinstance(part, ir.Video) else "audio"
        raise Unsupported(f"{path}: the Messages API takes no {kind}.", param=path)

    def _thinking(self, part: ir.Thinking, path: str) -> Block | None:
        """Thinking goes back only with the proof that this API gave for it."""
        if part.dialect == NAME and part.redacted:
            return {"type": "redacted_thinking", "data": part.redacted}
        if part.dialect == NAME and part.signature:
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        self.dropped.append(path)
        return None

    def _tool_call(self, part: ir.ToolCall, path: str) -> Block | None:
        if part.custom:
            raise Unsupported(f"{path}: the Messages API has no tools with free text as input.", param=path)
        arguments = arguments_of(part, path, "the Messages API")
        return {"type": "tool_use", "id": call_id(part.id), "name": part.name, "input": arguments}

    def _tool_result(self, part: ir.ToolResult, path: str) -> Block | None:
        inner = (self.block(item, self._places.inside(path, at)) for at, item in enumerate(part.content))
        block: Block = {"type": "tool_result", "tool_use_id": call_id(part.call_id)}
        if content := [item for item in inner if item is not None]:
            block["content"] = _short(content)
        if part.is_error is not None:
            block["is_error"] = part.is_error
        return block

    def _own(self, part: ir.ServerCall | ir.ServerResult | ir.Opaque, path: str) -> Block | None:
        if part.dialect == NAME:
            return dict(part.raw)
        if self._given and isinstance(part, ir.Opaque):
            raise unknown_part(part, path, "the Messages API")
        self.dropped.append(path)
        return None


_WRITERS: dict[type, Callable[[TurnWriter, Any, str], Block | None]] = {
    ir.Text: TurnWriter._text,
    ir.Refusal: TurnWriter._refusal,
    ir.Image: TurnWriter._image,
    ir.File: TurnWriter._file,
    ir.Audio: TurnWriter._audio,
    ir.Video: TurnWriter._audio,
    ir.Thinking: TurnWriter._thinking,
    ir.ToolCall: TurnWriter._tool_call,
    ir.ToolResult: TurnWriter._tool_result,
    ir.ServerCall: TurnWriter._own,
    ir.ServerResult: TurnWriter._own,
    ir.Opaque: TurnWriter._own,
}


def cache_control(cache: ir.Cache) -> Block:
    return {"type": "ephemeral"} | ({"ttl": cache.ttl} if cache.ttl in ("5m", "1h") else {})


def call_id(ident: str) -> str:
    """The API takes letters, digits, _ and - in an id; other providers' ids hold more. Unlike ids stay unlike."""
    return _NO_ID.sub(lambda match: f"_{ord(match[0]):x}", ident)


def _decoded(data: str, path: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError as exc:
        raise InvalidRequest(f"{path}: is not base64 of UTF-8 text.", param=path) from exc


def _tagged(block: Block) -> Block:
    return block | {"text": f"<system>\n{block['text']}\n</system>"} if "text" in block else block


def _results_first(blocks: list[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: block["type"] != "tool_result")


def _short(blocks: list[Block]) -> str | list[Block]:
    """One plain text is written as a string."""
    return blocks[0]["text"] if len(blocks) == 1 and _is_plain(blocks[0]) else blocks


def _is_plain(block: Block) -> bool:
    return block.keys() == {"type", "text"}


def short_system(blocks: Iterable[Block]) -> str | list[Block]:
    return _short(list(blocks))
