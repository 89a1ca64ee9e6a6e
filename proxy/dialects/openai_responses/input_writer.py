"""The IR's turns to the items of `input`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.media import audio_format, url_of
from proxy.dialects.openai_responses.vocabulary import INSTRUCTIONS, NAME
from proxy.dialects.places import Places
from proxy.dialects.rendering import document_text, spoken, unknown_part
from proxy.errors import Unsupported
from proxy.record import define

_Json = dict[str, Any]
_LONGEST_ID = 64  # OpenAI refuses a longer call id
_SPOKEN = ir.Text | ir.Refusal | ir.Image | ir.File | ir.Audio | ir.Video


@define
class InputWriter:
    """Writes the turns of one request; appends to `dropped` what they cannot say."""

    request: ir.Request
    target: ir.Target
    dropped: list[str]
    places: Places

    def write(self) -> tuple[str | None, list[_Json]]:
        """`instructions` and the items. A first turn of instructions that is plain text goes into the member for it;
        later ones, which have a place among the other turns, keep it."""
        turns = list(enumerate(self.request.messages))
        instructions = None
        if turns and self._stands_apart(turns[0][1]):
            instructions = "\n\n".join(part.text for part in turns[0][1].parts if isinstance(part, ir.Text))
            for part, where in self._placed(turns[0][1], 0):
                self._note_cache(part, where)
            turns = turns[1:]
        return instructions, [item for at, message in turns for item in self._turn(message, at)]

    def _placed(self, message: ir.Message, at: int) -> Iterator[tuple[ir.Part, str]]:
        return ((part, self.places.part(at, index)) for index, part in enumerate(message.parts))

    @property
    def _own(self) -> bool:
        return self.request.dialect == NAME

    def _stands_apart(self, message: ir.Message) -> bool:
        if self._own:
            return message.id == INSTRUCTIONS
        plain = all(isinstance(part, ir.Text) for part in message.parts)
        return plain and message.role in ("system", "developer") and len(self.request.messages) > 1

    def _turn(self, message: ir.Message, at: int) -> Iterator[_Json]:
        if message.name is not None and message.role != "tool" and not self._own:
            self.dropped.append(f"{self.places.turn(at)}.name")
        match message.role:
            case "assistant":
                yield from self._assistant(message, at)
            case "tool":
                yield from self._results(message, at)
            case role:
                ident = {"type": "message", "id": message.id} if message.id and self._own else {}
                yield {**ident, "role": role, "content": _short(self._inputs(self._placed(message, at)))}

    # -- what the model did ------------------------------------------------------------------------------------------

    def _assistant(self, message: ir.Message, at: int) -> Iterator[_Json]:
        """Runs of spoken parts are a message each; reasoning and calls are items of their own."""
        said: list[_Json] = []
        head: _Json = {}
        if self._own:
            head = {"type": "message", "id": message.id} if message.id else {}
            head |= {"phase": message.phase} if message.phase else {}
        for part, where in self._placed(message, at):
            if isinstance(part, _SPOKEN) or (isinstance(part, ir.Opaque) and _is_part(part)):
                said += self._said(part, where)
                continue
            if said:
                yield {**head, "role": "assistant", "content": _short(said)}
                said, head = [], {}
            yield from self._item(part, where)
        if said or not message.parts:
            yield {**head, "role": "assistant", "content": _short(said) if said else ""}

    def _said(self, part: ir.Part, at: str) -> Iterator[_Json]:
        match part:
            case ir.Text():
                cited = [dict(note.raw) for note in part.citations if note.dialect == NAME]
                if len(cited) < len(part.citations):
                    self.dropped.append(f"{at}.{self.places.notes}")
                self._note_cache(part, at)
                yield {"type": "output_text", "text": part.text, **({"annotations": cited} if cited else {})}
            case ir.Refusal():
                yield {"type": "refusal", "refusal": part.text}
            case ir.Opaque(raw=raw, dialect=dialect) if dialect == NAME:
                yield dict(raw)
            case _:
                self.dropped.append(at)  # a model's own pictures and sounds: the API takes none of them back

    def _item(self, part: ir.Part, at: str) -> Iterator[_Json]:
        match part:
            case ir.Thinking():
                yield from self._thinking(part, at)
            case ir.ToolCall():
                yield self._call(part, at)
            case ir.ServerCall(raw=raw) | ir.ServerResult(raw=raw) | ir.Opaque(raw=raw) if part.dialect == NAME:
                yield dict(raw)
            case _:
                self.dropped.append(at)

    def _thinking(self, part: ir.Thinking, at: str) -> Iterator[_Json]:
        """Reasoning of this dialect goes back to it; from another client's hand only with its proof, since the API
        knows nothing of items that it did not store."""
        if part.dialect != NAME or not (self._own or part.encrypted):
            chat = self.request.dialect == "openai-chat"
            self.dropped.append(f"{at.partition('.')[0]}.reasoning_content" if chat else at)
            return
        item: _Json = {"type": "reasoning"}
        if part.id:
            item["id"] = part.id
        item["summary"] = [{"type": "summary_text", "text": text} for text in part.summary]
        if part.text and self._own:
            item["content"] = [{"type": "reasoning_text", "text": part.text}]
        if part.encrypted is not None:
            item["encrypted_content"] = part.encrypted
        yield item

    def _call(self, part: ir.ToolCall, at: str) -> _Json:
        if part.cache is not None:
            self.dropped.append(f"{at}.cache_control")
        kind, words = ("custom_tool_call", "input") if part.custom else ("function_call", "arguments")
        arguments = part.arguments if part.custom or part.arguments else "{}"
        ident = {"id": part.item_id} if part.item_id and self._own else {}
        return {"type": kind, **ident, "call_id": self._call_id(part.id), "name": part.name, words: arguments}

    def _call_id(self, ident: str) -> str:
        """Some providers give long ids. What is cut stays unlike others, and the same in the call and its result."""
        if self._own or len(ident) <= _LONGEST_ID:
            return ident
        return f"call_{hashlib.sha256(ident.encode()).hexdigest()[:32]}"

    # -- what others said --------------------------------------------------------------------------------------------

    def _results(self, message: ir.Message, at: int) -> Iterator[_Json]:
        """Anything else in the turn follows its results, as the user's words."""
        custom = {
            part.id
            for turn in self.request.messages
            for part in turn.parts
            if isinstance(part, ir.ToolCall) and part.custom
        }
        rest: list[_Json] = []
        for part, where in self._placed(message, at):
            match part:
                case ir.ToolResult():
                    yield self._result(part, where, custom=part.custom or part.call_id in custom)
                case ir.ServerResult(raw=raw) | ir.Opaque(raw=raw) if part.dialect == NAME:
                    yield dict(raw)
                case ir.ServerResult():
                    self.dropped.append(where)  # of a tool that only its provider has
                case _:
                    rest += self._inputs([(part, where)])
        if rest:
            yield {"role": "user", "content": _short(rest)}

    def _result(self, part: ir.ToolResult, at: str, *, custom: bool) -> _Json:
        if part.is_error:
            self.dropped.append(f"{at}.is_error")
        if part.cache is not None:
            self.dropped.append(f"{at}.cache_control")
        inner = ((item, self.places.inside(at, index)) for index, item in enumerate(part.content))
        output = _short(self._inputs(inner)) or ("Error" if part.is_error else "")
        kind = "custom_tool_call_output" if custom else "function_call_output"
        name = {"name": part.name} if part.name and self._own else {}
        return {"type": kind, "call_id": self._call_id(part.call_id), **name, "output": output}

    def _inputs(self, parts: Iterable[tuple[ir.Part, str]]) -> list[_Json]:
        written = []
        for given, where in parts:
            part = spoken(given) or given
            found = self._input(part, where)
            if found is None:
                raise unknown_part(part, where, "the Responses API")
            cache: ir.Cache | None = getattr(part, "cache", None)
            if cache is not None and self._own:
                ttl = {"ttl": cache.ttl} if cache.ttl else {}
                found["prompt_cache_breakpoint"] = {"mode": "explicit", **ttl}
            elif cache is not None:
                self.dropped.append(f"{where}.cache_control")
            written.append(found)
        return written

    def _input(self, part: ir.Part, at: str) -> _Json | None:
        match part:
            case ir.Text():
                if part.citations:
                    self.dropped.append(f"{at}.{self.places.notes}")
                return {"type": "input_text", "text": part.text}
            case ir.Image():
                return self._image(part, at)
            case ir.File():
                return self._file(part, at)
            case ir.Audio(source=ir.Blob(data=data, media_type=media_type)) if self._own:
                form = part.format or audio_format(media_type)
                return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
            case ir.Audio() | ir.Video():
                kind = "video" if isinstance(part, ir.Video) else "audio"
                raise Unsupported(f"`{at}`: the Responses API takes no {kind}.", param=at)
            case ir.Refusal():
                return {"type": "input_text", "text": part.text}
            case ir.Opaque(raw=raw, dialect=dialect) if dialect == NAME:
                return dict(raw)
            case _:
                return None

    def _image(self, part: ir.Image, at: str) -> _Json:
        detail = {"detail": part.detail} if part.detail else {}
        match part.source:
            case ir.FileId(id=ident) if self._own:
                return {"type": "input_image", "file_id": ident, **detail}
            case ir.Blob() | ir.Url() as source:
                return {"type": "input_image", "image_url": url_of(source, "image/png"), **detail}
            case _:
                raise self._not_ours(at)

    def _file(self, part: ir.File, at: str) -> _Json:
        if part.citations:
            self.dropped.append(f"{at}.citations")
        if part.context is not None and not isinstance(part.source, ir.PlainText):
            self.dropped.append(f"{at}.context")
        name = {"filename": part.name} if part.name else {}
        match part.source:
            case ir.PlainText(text=text):
                return {"type": "input_text", "text": document_text(part, text)}
            case ir.FileId(id=ident) if self._own or self.request.dialect == "openai-chat":  # the same Files API
                return {"type": "input_file", "file_id": ident}
            case ir.FileId():
                raise self._not_ours(at)
            case ir.Url(url=url):
                return {"type": "input_file", "file_url": url}
            case ir.Blob(data=data, media_type=None) if self._own:
                return {"type": "input_file", **name, "file_data": data}
            case ir.Blob() as blob:
                # OpenAI refuses data without a file name
                data = url_of(blob, "application/pdf")
                return {"type": "input_file", "filename": part.name or "document.pdf", "file_data": data}

    def _note_cache(self, part: ir.Part, at: str) -> None:
        """Names the cache marker of a text that is written without."""
        if isinstance(part, ir.Text) and part.cache is not None:
            self.dropped.append(f"{at}.cache_control")

    def _not_ours(self, at: str) -> Unsupported:
        return Unsupported(
            f"`{at}` names a file that another provider stores; send the data itself to {self.target.native}.", param=at
        )


def _is_part(part: ir.Opaque) -> bool:
    """A part of a message that is not known, rather than an item: only parts hold text."""
    return "text" in part.raw


def _short(parts: list[_Json]) -> Any:
    """One plain text is written as a string."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts
