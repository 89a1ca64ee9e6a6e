"""The IR's messages to `systemInstruction` and `contents`.

Roles are user and model; they need not take turns. The results of one step stand together in one content right behind
its calls, in their order, each under the id and the name of its call. Instructions at the head go to
`systemInstruction`; later ones become user text in `<system>` tags, and `dropped` names their role.

https://ai.google.dev/gemini-api/docs/function-calling · https://ai.google.dev/gemini-api/docs/file-input-methods
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.gemini.vocabulary import NAME, UNSIGNED, Accepts
from proxy.dialects.places import Places
from proxy.dialects.rendering import arguments_of, document_text, spoken, unknown_part
from proxy.errors import InvalidRequest, Unsupported
from proxy.record import define

Part = dict[str, Any]
_INSTRUCTIONS = ("system", "developer")
# What the API reads by itself: Google's own storage, the Files API, YouTube. Other pages depend on the model.
_ITS_OWN = re.compile(
    r"gs://|https://generativelanguage\.googleapis\.com/|https?://(?:(?:www|m)\.)?youtube\.com/|https?://youtu\.be/"
)


@define
class TurnWriter:
    """Writes the messages of one request; gathers in `dropped` what the API cannot say."""

    request: ir.Request
    accepts: Accepts
    dropped: list[str]
    places: Places
    _names: dict[str, str] = field(factory=dict)  # of the tools called so far, by the call's id
    _order: dict[str, int] = field(factory=dict)  # of the calls of the last step
    _given: bool = False  # whether others than the model said what is being written
    _attached: list[Part] = field(factory=list)  # media of results, which follow them

    def write(self) -> tuple[list[Part], list[dict[str, Any]]]:
        """The parts of `systemInstruction`, and the contents."""
        messages = self.request.messages
        head = sum(1 for _ in takewhile(lambda message: message.role in _INSTRUCTIONS, messages))
        system = [part for at in range(head) for part in self._parts(at)]
        contents: list[dict[str, Any]] = []
        for at in range(head, len(messages)):
            self._add(contents, at)
        self._flush(contents)
        if not contents and system:  # the API answers users only: what stands alone is what was asked
            self.dropped.append(f"{self.places.turn(0)}.role")
            return [], [{"role": "user", "parts": system}]
        if not contents:
            message = f"{self.places.all}: nothing is said there; at least one message with content is required."
            raise InvalidRequest(message, param=self.places.all)
        return system, contents

    def _add(self, contents: list[dict[str, Any]], at: int) -> None:
        message = self.request.messages[at]
        if message.role != "tool":
            self._flush(contents)
        parts = self._parts(at)
        if not parts:
            return
        match message.role:
            case "tool":
                self._add_results(contents, parts)
            case "assistant":
                contents.append({"role": "model", "parts": self._signed(parts)})
            case role:
                if role in _INSTRUCTIONS:
                    self.dropped.append(f"{self.places.turn(at)}.role")
                    parts = [_tagged(part) for part in parts]
                contents.append({"role": "user", "parts": parts})

    def _add_results(self, contents: list[dict[str, Any]], parts: list[Part]) -> None:
        if not contents or "functionResponse" not in contents[-1]["parts"][0]:
            contents.append({"role": "user", "parts": []})
        results = contents[-1]["parts"]
        results += parts
        results.sort(key=lambda part: self._order.get(part["functionResponse"]["id"], len(self._order)))

    def _flush(self, contents: list[dict[str, Any]]) -> None:
        attached, self._attached = self._attached, []
        if attached:
            contents.append({"role": "user", "parts": attached})

    def _signed(self, parts: list[Part]) -> list[Part]:
        """Only the first call of a step bears a signature."""
        calls = [part for part in parts if "functionCall" in part]
        if calls:
            self._order = {call["functionCall"]["id"]: place for place, call in enumerate(calls)}
            if self.accepts.signed_calls:
                calls[0].setdefault("thoughtSignature", UNSIGNED)
        return parts

    # -- parts -------------------------------------------------------------------------------------------------------

    def _parts(self, at: int) -> list[Part]:
        message = self.request.messages[at]
        self._given = message.role != "assistant"
        if message.name is not None and message.role != "tool":
            self.dropped.append(f"{self.places.turn(at)}.name")
        written = (self.part(part, self.places.part(at, index)) for index, part in enumerate(message.parts))
        return [part for part in written if part is not None]

    def part(self, part: ir.Part, path: str) -> Part | None:
        """None where nothing is left of the part; `dropped` then names it, unless it said nothing."""
        if getattr(part, "cache", None) is not None:
            self.dropped.append(f"{path}.cache_control")
        return _WRITERS[type(part)](self, part, path)

    def _text(self, part: ir.Text, path: str) -> Part | None:
        if part.citations:
            self.dropped.append(f"{path}.{self.places.notes}")
        if not part.text and part.signature is None:
            return None
        return {"text": part.text} | _signature(part.signature)

    def _refusal(self, part: ir.Refusal, path: str) -> Part | None:
        return {"text": part.text} if part.text else None

    def _thinking(self, part: ir.Thinking, path: str) -> Part | None:
        """Thinking goes back only where this API made it."""
        if part.dialect == NAME and (part.text or part.signature):
            return {"text": part.text, "thought": True} | _signature(part.signature)
        self.dropped.append(path)
        return None

    def _tool_call(self, part: ir.ToolCall, path: str) -> Part | None:
        if part.custom:
            raise Unsupported(f"{path}: Gemini has no tools with free text as input.", param=path)
        self._names[part.id] = part.name
        call = {"id": part.id, "name": part.name, "args": arguments_of(part, path, "Gemini")}
        return {"functionCall": call} | _signature(part.signature)

    def _tool_result(self, part: ir.ToolResult, path: str) -> Part | None:
        name = self._names.get(part.call_id) or part.name
        if name is None:
            message = f"{path}: no call with the id {part.call_id!r} stands before this result of one."
            raise InvalidRequest(message, param=path)
        written = (self.part(item, self.places.inside(path, at)) for at, item in enumerate(part.content))
        parts = [item for item in written if item is not None]
        texts = [item["text"] for item in parts if "text" in item]
        media = [item for item in parts if "text" not in item]
        response: Part = {"id": part.call_id, "name": name}
        inline = [item for item in media if "inlineData" in item] if self.accepts.media_results else []
        if rest := [item for item in media if item not in inline]:
            self._attached += [{"text": f"Attachments of tool call {part.call_id}:"}, *rest]
        said = "\n\n".join(texts) or ("Attached below." if rest and not inline else "")
        response["response"] = {"error" if part.is_error else "output": said}
        if inline:
            response["parts"] = inline
        return {"functionResponse": response}

    def _own(self, part: ir.ServerCall | ir.ServerResult | ir.Opaque, path: str) -> Part | None:
        if part.dialect == NAME:
            return dict(part.raw)
        if (said := spoken(part)) is not None:
            return self._text(said, path)
        if self._given and isinstance(part, ir.Opaque):
            raise unknown_part(part, path, "Gemini")
        self.dropped.append(path)
        return None

    # -- media -------------------------------------------------------------------------------------------------------

    def _image(self, part: ir.Image, path: str) -> Part:
        if part.detail not in (None, "auto"):
            self.dropped.append(f"{path}.detail")
        return self._media(part.source, path, "image", "image/png")

    def _audio(self, part: ir.Audio, path: str) -> Part | None:
        if part.source is None:  # an answer of earlier, which only its own provider stores
            self.dropped.append(path)
            return None
        return self._media(part.source, path, "audio", f"audio/{part.format or 'wav'}")

    def _video(self, part: ir.Video, path: str) -> Part:
        return self._media(part.source, path, "video", "video/mp4")

    def _file(self, part: ir.File, path: str) -> Part:
        if part.citations:
            self.dropped.append(f"{path}.citations")
        if isinstance(part.source, ir.PlainText):
            return {"text": document_text(part, part.source.text)}
        if part.context is not None:
            self.dropped.append(f"{path}.context")
        return self._media(part.source, path, "document", "application/pdf")

    def _media(self, source: ir.MediaSource, path: str, kind: str, default: str) -> Part:
        match source:
            case ir.Blob(data, media_type):
                return {"inlineData": {"mimeType": media_type or default, "data": data}}
            case ir.Url(url, media_type):
                media_type = media_type or mimetypes.guess_type(url.partition("?")[0])[0]
                if _ITS_OWN.match(url):
                    return {"fileData": {"fileUri": url} | ({"mimeType": media_type} if media_type else {})}
                if media_type and self.accepts.fetches and url.startswith("https://"):
                    return {"fileData": {"fileUri": url, "mimeType": media_type}}
                message = f"{path}: Gemini cannot read this {kind} from its URL; send its content as a data: URL."
                raise Unsupported(message, param=path)
            case _:
                message = f"{path}: a file stored with another provider cannot be read; send its content."
                raise Unsupported(message, param=path)


_WRITERS: dict[type, Callable[[TurnWriter, Any, str], Part | None]] = {
    ir.Text: TurnWriter._text,
    ir.Refusal: TurnWriter._refusal,
    ir.Image: TurnWriter._image,
    ir.File: TurnWriter._file,
    ir.Audio: TurnWriter._audio,
    ir.Video: TurnWriter._video,
    ir.Thinking: TurnWriter._thinking,
    ir.ToolCall: TurnWriter._tool_call,
    ir.ToolResult: TurnWriter._tool_result,
    ir.ServerCall: TurnWriter._own,
    ir.ServerResult: TurnWriter._own,
    ir.Opaque: TurnWriter._own,
}


def _signature(signature: str | None) -> Part:
    return {"thoughtSignature": signature} if signature else {}


def _tagged(part: Part) -> Part:
    return part | {"text": f"<system>\n{part['text']}\n</system>"} if "text" in part else part
