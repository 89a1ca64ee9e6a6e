"""Chat messages to the IR's turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.openai_chat.media import source_of
from proxy.dialects.openai_chat.members import path, record, records, string, text, wrong
from proxy.dialects.openai_chat.reasoning import read_reasoning
from proxy.dialects.openai_chat.vocabulary import NAME
from proxy.record import define
from proxy.wire import json_text


def read_messages(body: Mapping[str, Any]) -> tuple[ir.Message, ...]:
    """Raises InvalidRequest with the path of what is wrong."""
    found = records(body, "messages")
    if not found:
        raise wrong("messages", "an array with at least one message")
    history = _History()
    return tuple(history.read(raw, at) for raw, at in found)


@define
class _History:
    """Reads messages in order; remembers the ids given to calls of the legacy `function_call`, which has none."""

    _legacy: dict[str, str] = field(factory=dict)

    def read(self, raw: dict[str, Any], at: str) -> ir.Message:
        name = string(raw, "name", at)
        match raw.get("role"):
            case "system" | "developer" | "user" as role:
                return ir.Message(role, _content(raw, at), name=name)
            case "assistant":
                return ir.Message("assistant", self._assistant(raw, at), name=name)
            case "tool":
                call_id = text(raw, "tool_call_id", at)
                return ir.Message("tool", (ir.ToolResult(call_id, _content(raw, at), name=name),))
            case "function":
                tool = text(raw, "name", at)
                call_id = self._legacy.get(tool, f"call_{tool}")
                return ir.Message("tool", (ir.ToolResult(call_id, _content(raw, at), name=tool),))
        raise wrong(f"{at}.role", "one of system, developer, user, assistant, tool")

    def _assistant(self, raw: dict[str, Any], at: str) -> tuple[ir.Part, ...]:
        parts: list[ir.Part] = [*read_reasoning(raw), *_content(raw, at)]
        if parts and isinstance(last := parts[-1], ir.Text):
            parts[-1] = evolve(last, signature=read_signature(raw))
        if refusal := string(raw, "refusal", at):
            parts.append(ir.Refusal(refusal))
        if audio := record(raw, "audio", at):
            parts.append(ir.Audio(id=text(audio, "id", f"{at}.audio")))
        parts += (_part(image, where) for image, where in records(raw, "images", at))
        parts += (_tool_call(call, where) for call, where in records(raw, "tool_calls", at))
        if call := record(raw, "function_call", at):
            name = text(call, "name", f"{at}.function_call")
            self._legacy[name] = f"call_{name}_{len(self._legacy)}"
            parts.append(ir.ToolCall(self._legacy[name], name, string(call, "arguments", f"{at}.function_call") or ""))
        return tuple(parts)


def _tool_call(raw: dict[str, Any], at: str) -> ir.ToolCall:
    custom = raw.get("type") == "custom"
    kind, words = ("custom", "input") if custom else ("function", "arguments")
    called = record(raw, kind, at)
    if called is None:
        raise wrong(f"{at}.{kind}", "an object with the name of the tool and what it was called with")
    arguments = called.get(words)
    if isinstance(arguments, dict):  # not the API's form, yet clients send it and its meaning is plain
        arguments = json_text.write(arguments).decode()
    elif arguments is not None and not isinstance(arguments, str):
        raise wrong(f"{at}.{kind}.{words}", "a string")
    return ir.ToolCall(
        id=text(raw, "id", at),
        name=text(called, "name", f"{at}.{kind}"),
        arguments=arguments or "",
        custom=custom,
        signature=read_signature(raw),
    )


def read_signature(signed: Mapping[str, Any]) -> str | None:
    """Gemini's proof of a tool call, or of a message's text, where its own compatible endpoint puts it:
    `extra_content.google`."""
    extra = signed.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else None


# -- parts -------------------------------------------------------------------------------------------------------


def _content(message: Mapping[str, Any], at: str) -> tuple[ir.Part, ...]:
    content = message.get("content")
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (ir.Text(content),)
    if not isinstance(content, list):
        raise wrong(f"{at}.content", "a string or an array of parts")
    return tuple(_part(part, where) for part, where in records(message, "content", at))


def _part(raw: dict[str, Any], at: str) -> ir.Part:
    kind = text(raw, "type", at)
    reader = _PARTS.get(kind)
    return reader(raw, at) if reader else ir.Opaque(kind, raw, NAME)


def _text_part(raw: dict[str, Any], at: str) -> ir.Part:
    words = string(raw, "text", at)
    if words is None:
        raise wrong(f"{at}.text", "a string")
    return ir.Text(words, cache=read_cache(raw, at))


def _image(raw: dict[str, Any], at: str) -> ir.Part:
    if isinstance(raw.get("image_url"), str):  # Mistral's form
        return ir.Image(source_of(raw["image_url"]), cache=read_cache(raw, at))
    image = record(raw, "image_url", at) or {}
    where = f"{at}.image_url"
    return ir.Image(source_of(text(image, "url", where)), string(image, "detail", where), read_cache(raw, at))


def _audio(raw: dict[str, Any], at: str) -> ir.Part:
    where = f"{at}.input_audio"
    audio = record(raw, "input_audio", at) or {}
    form = text(audio, "format", where)
    return ir.Audio(ir.Blob(text(audio, "data", where), f"audio/{form}"), form, cache=read_cache(raw, at))


def _file(raw: dict[str, Any], at: str) -> ir.Part:
    where = f"{at}.file"
    file = record(raw, "file", at) or {}
    name, cache = string(file, "filename", where), read_cache(raw, at)
    if file_id := string(file, "file_id", where):
        return ir.File(ir.FileId(file_id), name, cache=cache)
    data = string(file, "file_data", where)
    if not data:
        raise wrong(f"{where}.file_data", "base64 data, or `file_id` must name a stored file")
    source = source_of(data)
    if isinstance(source, ir.Url) and "://" not in data[:16]:
        return ir.File(ir.Blob(data), name, cache=cache)  # base64 without a data: head
    return ir.File(source, name, cache=cache)


def _video(raw: dict[str, Any], at: str) -> ir.Part:
    video = record(raw, "video_url", at) or {}
    return ir.Video(source_of(text(video, "url", f"{at}.video_url")), read_cache(raw, at))


def _document(raw: dict[str, Any], at: str) -> ir.Part:
    return ir.File(
        source_of(text(raw, "document_url", at)), string(raw, "document_name", at), cache=read_cache(raw, at)
    )


def _refusal(raw: dict[str, Any], at: str) -> ir.Part:
    return ir.Refusal(text(raw, "refusal", at))


def _thinking(raw: dict[str, Any], at: str) -> ir.Part:
    """Mistral's: a list of text parts, or a string."""
    if isinstance(raw.get("thinking"), str):
        return ir.Thinking(raw["thinking"], dialect=NAME, raw=raw)
    words = (string(item, "text", where) or "" for item, where in records(raw, "thinking", at))
    return ir.Thinking("".join(words), dialect=NAME, raw=raw)


def read_cache(raw: dict[str, Any], at: str) -> ir.Cache | None:
    """OpenRouter's and Alibaba's `cache_control`, OpenAI's `prompt_cache_breakpoint`."""
    for name in ("cache_control", "prompt_cache_breakpoint"):
        if marker := record(raw, name, at):
            return ir.Cache(string(marker, "ttl", path(at, name)))
    return None


_PARTS: dict[str, Callable[[dict[str, Any], str], ir.Part]] = {
    "text": _text_part,
    "image_url": _image,
    "input_audio": _audio,
    "file": _file,
    "video_url": _video,
    "document_url": _document,
    "refusal": _refusal,
    "thinking": _thinking,
}
