"""The IR's turns to chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import evolve, field

from proxy import ir
from proxy.dialects.openai_chat.media import audio_format, url_of
from proxy.dialects.openai_chat.relatives import OPENAI, REASONING_MEMBER
from proxy.dialects.openai_chat.vocabulary import NAME
from proxy.dialects.places import Places
from proxy.dialects.rendering import document_text, spoken, unknown_part
from proxy.errors import Unsupported
from proxy.record import define

_Json = dict[str, Any]


@define
class MessageWriter:
    """Writes the messages of one request; appends to `dropped` what they cannot say.

    Results of tools may be text alone here: their images and files follow in a user message behind the last result of
    the turn, since nothing may stand between a call and its results.
    """

    request: ir.Request
    target: ir.Target
    dropped: list[str]
    places: Places
    _attached: list[_Json] = field(factory=list)

    def write(self) -> list[_Json]:
        out: list[_Json] = []
        for at, message in enumerate(self.request.messages):
            if message.role not in ("tool", "user"):
                out += self._flush()
            match message.role:
                case "tool":
                    out += self._tool_turn(message, at)
                case "assistant":
                    out += self._assistant(message, at)
                case role:
                    out.append(self._plain(message, role, at))
        return out + self._flush()

    # -- turns ---------------------------------------------------------------------------------------------------

    def _plain(self, message: ir.Message, role: str, at: int) -> _Json:
        parts = self._parts(self._placed(message, at))
        if role == "user":
            parts, self._attached = [*self._attached, *parts], []
        elif role == "developer" and not self._knows_developer:
            role = "system"
        return {"role": role, "content": _content(parts, "\n\n"), **_named(message)}

    @property
    def _knows_developer(self) -> bool:
        return self.request.dialect == NAME or OPENAI.match(self.target.native) is not None

    def _placed(self, message: ir.Message, at: int) -> Iterator[tuple[ir.Part, str]]:
        return ((part, self.places.part(at, index)) for index, part in enumerate(message.parts))

    def _tool_turn(self, message: ir.Message, at: int) -> Iterator[_Json]:
        for part, where in self._placed(message, at):
            match part:
                case ir.ToolResult():
                    yield self._result(part, where)
                case ir.ServerResult():
                    self.dropped.append(where)  # of a tool that only its provider has
                case _:
                    self._attached += self._parts([(part, where)])

    def _result(self, result: ir.ToolResult, at: str) -> _Json:
        inner = ((part, self.places.inside(at, index)) for index, part in enumerate(result.content))
        written = self._parts(inner)
        texts = [part for part in written if part["type"] == "text"]
        rest = [part for part in written if part["type"] != "text"]
        if result.is_error:
            self.dropped.append(f"{at}.is_error")
        if result.cache is not None and not keeps_cache(self.request, self.target):
            self.dropped.append(f"{at}.cache_control")
        if rest:
            self._attached += [{"type": "text", "text": f"Attachments of tool call {result.call_id}:"}, *rest]
        silent = "Attached below." if rest else "Error" if result.is_error else ""
        name = {"name": result.name} if result.name and self.request.dialect == NAME else {}
        content = _content(texts, "\n\n") or silent
        return {"role": "tool", "tool_call_id": result.call_id, "content": content, **name}

    def _flush(self) -> list[_Json]:
        attached, self._attached = self._attached, []
        return [{"role": "user", "content": _content(attached, "\n\n")}] if attached else []

    def _assistant(self, message: ir.Message, at: int) -> Iterator[_Json]:
        """Nothing where nothing is left of the turn: some servers refuse an empty one."""
        content: list[_Json] = []
        calls: list[_Json] = []
        members: _Json = {}
        for part, where in self._placed(message, at):
            match part:
                case ir.Thinking():
                    content += self._thinking(part, members, where)
                case ir.ToolCall():
                    if part.cache is not None:
                        self.dropped.append(f"{where}.cache_control")
                    kept = self.request.dialect == NAME or takes_proofs(self.target)
                    calls.append(tool_call(part if kept else evolve(part, signature=None)))
                case ir.Refusal():
                    members["refusal"] = members.get("refusal", "") + part.text
                case ir.Audio(id=str() as ident):
                    members["audio"] = {"id": ident}
                case ir.Image() if self.request.dialect == NAME:
                    members.setdefault("images", []).append(self._image(part, where))
                case ir.Image() | ir.File() | ir.Audio() | ir.Video():
                    self.dropped.append(where)  # a model's own output; only OpenRouter takes it back
                case _ if self._part(part, where) is None and spoken(part) is None:
                    self.dropped.append(where)
                case _:
                    content += self._parts([(part, where)])
        if calls:
            members["tool_calls"] = calls
        if content or members or not message.parts:
            said = _content(content, "")
            yield {"role": "assistant", "content": said or (None if calls or "refusal" in members else ""), **members}

    def _thinking(self, part: ir.Thinking, members: _Json, at: str) -> list[_Json]:
        """Adds to `members`; returns Mistral's form, which stands in the content."""
        if self.request.dialect == NAME and part.dialect == NAME and part.raw and part.raw.get("type") == "thinking":
            return [dict(part.raw)]
        if self.request.dialect == NAME and part.raw:
            members.update(part.raw)
            return []
        proved = part.signature or part.encrypted or part.redacted
        name = next((name for family, name in REASONING_MEMBER if family.match(self.target.native)), None)
        text = part.text or "\n\n".join(part.summary)
        if self.request.dialect == NAME and proved:
            return []  # the part before it carried the details of all
        if name and text and not proved:
            members[name] = members.get(name, "") + text
        else:
            self.dropped.append(at)
        return []

    # -- parts ---------------------------------------------------------------------------------------------------

    def _parts(self, parts: Iterable[tuple[ir.Part, str]]) -> list[_Json]:
        written = []
        for given, where in parts:
            part = spoken(given) or given
            found = self._part(part, where)
            if found is None:
                raise unknown_part(part, where, self.target.native)
            cache: ir.Cache | None = getattr(part, "cache", None)
            if cache is not None and keeps_cache(self.request, self.target):
                found = {**found, **cache_marker(cache, self.target)}
            elif cache is not None:
                self.dropped.append(f"{where}.cache_control")
            written.append(found)
        return written

    def _part(self, part: ir.Part, at: str) -> _Json | None:
        match part:
            case ir.Text():
                if part.citations:
                    self.dropped.append(f"{at}.{self.places.notes}")
                return {"type": "text", "text": part.text}
            case ir.Image():
                return self._image(part, at)
            case ir.File():
                return self._file(part, at)
            case ir.Audio(source=ir.Blob(data=data, media_type=media_type)):
                form = part.format or audio_format(media_type)
                return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
            case ir.Audio():
                raise Unsupported(f"`{at}`: audio has to be given as base64 data to {self.target.native}.", param=at)
            case ir.Video(source=(ir.Blob() | ir.Url()) as source):
                return {"type": "video_url", "video_url": {"url": url_of(source, "video/mp4")}}
            case ir.Video():
                raise self._not_ours(at)
            case ir.Refusal():
                return {"type": "refusal", "refusal": part.text}
            case ir.Opaque(raw=raw, dialect=dialect) if dialect == NAME:
                return dict(raw)
            case _:
                return None

    def _image(self, part: ir.Image, at: str) -> _Json:
        if not isinstance(part.source, ir.Blob | ir.Url):
            raise self._not_ours(at)
        detail = {"detail": part.detail} if part.detail else {}
        return {"type": "image_url", "image_url": {"url": url_of(part.source, "image/png"), **detail}}

    def _file(self, part: ir.File, at: str) -> _Json:
        if part.citations:
            self.dropped.append(f"{at}.citations")
        if part.context is not None and not isinstance(part.source, ir.PlainText):
            self.dropped.append(f"{at}.context")
        own = self.request.dialect == NAME
        name = {"filename": part.name} if part.name else {}
        match part.source:
            case ir.PlainText(text=text):
                return {"type": "text", "text": document_text(part, text)}
            case ir.FileId(id=ident) if own:
                return {"type": "file", "file": {"file_id": ident, **name}}
            case ir.FileId():
                raise self._not_ours(at)
            case ir.Url(url=url):
                if not own:
                    raise Unsupported(
                        f"`{at}`: {self.target.native} takes documents as base64 data, not by URL.", param=at
                    )
                return {"type": "file", "file": {"file_data": url, **name}}
            case ir.Blob(data=data, media_type=None):
                return {"type": "file", "file": {"file_data": data, **name}}
            case ir.Blob() as blob:
                # OpenAI refuses data without a file name
                file = {"file_data": url_of(blob, "application/pdf"), "filename": part.name or "document.pdf"}
                return {"type": "file", "file": file}

    def _not_ours(self, at: str) -> Unsupported:
        return Unsupported(
            f"`{at}` names a file that another provider stores; send the data itself to {self.target.native}.", param=at
        )


def keeps_cache(request: ir.Request, target: ir.Target) -> bool:
    """Cache markers go to whom the client wrote them for, and to Claude behind a compatible endpoint."""
    return request.dialect == NAME or "claude" in target.native.lower()


def cache_marker(cache: ir.Cache, target: ir.Target) -> _Json:
    ttl = {"ttl": cache.ttl} if cache.ttl else {}
    if OPENAI.match(target.native):
        return {"prompt_cache_breakpoint": {"mode": "explicit", **ttl}}
    return {"cache_control": {"type": "ephemeral", **ttl}}


def tool_call(call: ir.ToolCall) -> _Json:
    proof = google_proof(call.signature)
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}, **proof}
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function, **proof}


def takes_proofs(target: ir.Target) -> bool:
    """Whether it is Gemini, behind a compatible endpoint: it made them, and from 3 on wants them back."""
    return "gemini" in target.native.lower()


def google_proof(signature: str | None) -> _Json:
    """Gemini's proof of a call or a text goes where its own compatible endpoint has it."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _content(parts: list[_Json], between: str) -> Any:
    """A string where text is all there is: DeepSeek, Workers AI and many local servers take no arrays."""
    if all(part.keys() == {"type", "text"} for part in parts):
        return between.join(part["text"] for part in parts)
    return parts


def _named(message: ir.Message) -> Mapping[str, Any]:
    return {"name": message.name} if message.name else {}
