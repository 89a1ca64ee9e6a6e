"""The items of `input` to turns.

https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import evolve, field

from proxy import ir
from proxy.dialects.openai_chat.media import source_of
from proxy.dialects.openai_chat.members import record, records, string, text, wrong
from proxy.dialects.openai_responses.proofs import is_sealed, unseal
from proxy.dialects.openai_responses.vocabulary import NAME
from proxy.record import define
from proxy.wire import json_text

_Item = dict[str, Any]

# Of each type, the members that the IR has a field for, or that say nothing in a request: an item's status is what the
# API once said of it.
_KNOWN = {
    "message": {"type", "role", "content", "id", "status", "phase", "name"},
    "reasoning": {"type", "id", "summary", "content", "encrypted_content", "status"},
    "function_call": {"type", "id", "call_id", "name", "arguments", "status"},
    "custom_tool_call": {"type", "id", "call_id", "name", "input", "status"},
    "function_call_output": {"type", "id", "call_id", "output", "status", "name"},
    "custom_tool_call_output": {"type", "id", "call_id", "output", "status", "name"},
}
# What the client answers to calls that are neither functions nor custom tools.
_CLIENT_RESULTS = frozenset(
    {
        "local_shell_call_output", "shell_call_output", "apply_patch_call_output", "computer_call_output",
        "mcp_approval_response",
    }
)  # fmt: skip


@define
class TurnReader:
    """Reads items in order. All that the model did between two turns of others is one turn, since its calls belong with
    its words and its reasoning; two messages without a call are two.

    Members that the IR has no field for go to `extra` by their path.
    """

    extra: dict[str, Any]
    turns: list[ir.Message] = field(factory=list)
    _open: Literal["", "assistant", "tool"] = ""
    _parts: list[ir.Part] = field(factory=list)
    _places: list[str] = field(factory=list)
    _message: tuple[str | None, str | None] | None = None  # id and phase of the turn's message, once it has one
    _proof: str | None = None  # of the call that comes next

    def read(self, body: Mapping[str, Any]) -> tuple[ir.Message, ...]:
        given = body.get("input")
        if isinstance(given, str):
            return (ir.Message("user", (ir.Text(given),), places=("input",)),)
        if given is not None and not isinstance(given, list):
            raise wrong("input", "a string or an array of items")
        for item, at in records(body, "input"):
            self._item(item, at)
        self._close()
        return tuple(self.turns)

    def _item(self, item: _Item, at: str) -> None:
        kind = string(item, "type", at) or ("message" if "role" in item else "item_reference")
        if known := _KNOWN.get(kind):
            self.extra |= {f"{at}.{name}": item[name] for name in item.keys() - known if item[name] is not None}
        if reader := _ITEMS.get(kind):
            reader(self, item, at)
        elif kind in _CLIENT_RESULTS:
            self._add("tool", at, ir.ServerResult(_ident(item, "call_id"), kind, item, NAME))
        elif kind.endswith("_call"):
            self._add("assistant", at, ir.ServerCall(_ident(item, "id"), kind.removesuffix("_call"), "", item, NAME))
        else:
            self._add("assistant", at, ir.Opaque(kind, item, NAME))

    def _begin(self, role: Literal["assistant", "tool"]) -> None:
        if self._open != role:
            self._close()
            self._open = role

    def _add(self, role: Literal["assistant", "tool"], at: str, part: ir.Part) -> None:
        self._begin(role)
        self._parts.append(part)
        self._places.append(at)

    def _close(self) -> None:
        if self._open:
            ident, phase = self._message or (None, None)
            places = tuple(self._places)
            self.turns.append(ir.Message(self._open, tuple(self._parts), id=ident, phase=phase, places=places))
        self._open, self._parts, self._places, self._message = "", [], [], None

    # -- one reader per type -------------------------------------------------------------------------------------

    def message(self, item: _Item, at: str) -> None:
        parts = read_content(item, at, "content")
        name, ident, phase = string(item, "name", at), string(item, "id", at), string(item, "phase", at)
        whole = isinstance(item.get("content"), str)
        places = [f"{at}.content" if whole else f"{at}.content[{index}]" for index in range(len(parts))]
        match item.get("role"):
            case "system" | "developer" | "user" as role:
                self._close()
                self.turns.append(ir.Message(role, parts, name, ident, places=tuple(places) or (at,)))
            case "assistant":
                called = any(isinstance(part, ir.ToolCall) for part in self._parts)
                if self._open == "assistant" and self._message is not None and not called:
                    self._close()
                self._begin("assistant")
                self._parts += parts
                self._places += places
                self._message = self._message or (ident, phase)
                if phase is not None:
                    self.extra[f"{at}.phase"] = phase  # so that a target without phases names it
            case _:
                raise wrong(f"{at}.role", "one of user, assistant, system, developer")

    def reasoning(self, item: _Item, at: str) -> None:
        summary = tuple(text_of(piece, where) for piece, where in records(item, "summary", at))
        content = "".join(text_of(piece, where) for piece, where in records(item, "content", at))
        ident, proof = string(item, "id", at), string(item, "encrypted_content", at)
        if proof is None or not is_sealed(item):
            self._add("assistant", at, ir.Thinking(content, summary, encrypted=proof, id=ident, dialect=NAME))
            return
        mint, kind, data = unseal(proof)
        if kind == "call":
            self._proof = data
            return
        if kind == "text":
            if self._parts and isinstance(last := self._parts[-1], ir.Text):
                self._parts[-1] = evolve(last, signature=data)
            return
        thinking = ir.Thinking(content or "\n\n".join(summary), dialect=mint)
        match kind:
            case "signature":
                thinking = evolve(thinking, signature=data)
            case "redacted":
                thinking = evolve(thinking, redacted=data)
        self._add("assistant", at, thinking)

    def call(self, item: _Item, at: str) -> None:
        custom = item["type"] == "custom_tool_call"
        name = "input" if custom else "arguments"
        given = item.get(name)
        if isinstance(given, dict):  # not the API's form, yet its meaning is plain
            given = json_text.write(given).decode()
        elif given is not None and not isinstance(given, str):
            raise wrong(f"{at}.{name}", "a string")
        call = ir.ToolCall(
            id=text(item, "call_id", at),
            name=text(item, "name", at),
            arguments=given or "",
            custom=custom,
            item_id=string(item, "id", at),
            signature=self._proof,
        )
        self._proof = None
        self._add("assistant", f"{at}.{name}", call)

    def result(self, item: _Item, at: str) -> None:
        custom = item["type"] == "custom_tool_call_output"
        parts = read_content(item, at, "output")
        name = string(item, "name", at)
        self._add("tool", at, ir.ToolResult(text(item, "call_id", at), parts, name=name, custom=custom))


_ITEMS: dict[str, Callable[[TurnReader, _Item, str], None]] = {
    "message": TurnReader.message,
    "reasoning": TurnReader.reasoning,
    "function_call": TurnReader.call,
    "custom_tool_call": TurnReader.call,
    "function_call_output": TurnReader.result,
    "custom_tool_call_output": TurnReader.result,
}


# -- content -----------------------------------------------------------------------------------------------------


def read_content(item: Mapping[str, Any], at: str, name: str) -> tuple[ir.Part, ...]:
    """Of a message, or of what a tool gave: a string or a list of parts."""
    content = item.get(name)
    if content is None:
        return ()
    if isinstance(content, str):
        return (ir.Text(content),)
    if not isinstance(content, list):
        raise wrong(f"{at}.{name}", "a string or an array of parts")
    return tuple(_part(part, where) for part, where in records(item, name, at))


def _part(raw: _Item, at: str) -> ir.Part:
    kind = text(raw, "type", at)
    reader = _PARTS.get(kind)
    return reader(raw, at) if reader else ir.Opaque(kind, raw, NAME)


def _text(raw: _Item, at: str) -> ir.Part:
    cited = tuple(read_citation(note) for note, _ in records(raw, "annotations", at))
    return ir.Text(text_of(raw, at), cited, _cache(raw, at))


def text_of(raw: Mapping[str, Any], at: str) -> str:
    words = string(raw, "text", at)
    if words is None:
        raise wrong(f"{at}.text", "a string")
    return words


def _image(raw: _Item, at: str) -> ir.Part:
    detail, cache = string(raw, "detail", at), _cache(raw, at)
    if ident := string(raw, "file_id", at):
        return ir.Image(ir.FileId(ident), detail, cache)
    inner = raw.get("image_url")
    url = text(inner, "url", f"{at}.image_url") if isinstance(inner, dict) else text(raw, "image_url", at)
    return ir.Image(source_of(url), detail, cache)


def _file(raw: _Item, at: str) -> ir.Part:
    name, cache = string(raw, "filename", at), _cache(raw, at)
    if ident := string(raw, "file_id", at):
        return ir.File(ir.FileId(ident), name, cache=cache)
    if url := string(raw, "file_url", at):
        return ir.File(ir.Url(url), name, cache=cache)
    data = string(raw, "file_data", at)
    if not data:
        raise wrong(f"{at}.file_data", "base64 data, or `file_url` or `file_id` must name the file")
    source = source_of(data)
    return ir.File(ir.Blob(data) if isinstance(source, ir.Url) else source, name, cache=cache)


def _audio(raw: _Item, at: str) -> ir.Part:
    where = f"{at}.input_audio"
    audio = record(raw, "input_audio", at) or {}
    form = text(audio, "format", where)
    return ir.Audio(ir.Blob(text(audio, "data", where), f"audio/{form}"), form)


def _refusal(raw: _Item, at: str) -> ir.Part:
    return ir.Refusal(text(raw, "refusal", at))


def _cache(raw: _Item, at: str) -> ir.Cache | None:
    marker = record(raw, "prompt_cache_breakpoint", at)
    return None if marker is None else ir.Cache(string(marker, "ttl", f"{at}.prompt_cache_breakpoint"))


_PARTS: dict[str, Callable[[_Item, str], ir.Part]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
    "refusal": _refusal,
}


def read_citation(raw: Mapping[str, Any]) -> ir.Citation:
    """A web page by its URL and the place in the text that it backs; a file by its name and one position."""

    def words(name: str) -> str | None:
        value = raw.get(name)
        return value if isinstance(value, str) and value else None

    start, end = _index(raw, "start_index"), _index(raw, "end_index")
    known = start is not None and end is not None and end > start
    return ir.Citation(
        url=words("url"),
        title=words("title") or words("filename"),
        start=start if known else None,
        end=end if known else None,
        raw=raw,
        dialect=NAME,
    )


def _index(raw: Mapping[str, Any], name: str) -> int | None:
    value = raw.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ident(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""
