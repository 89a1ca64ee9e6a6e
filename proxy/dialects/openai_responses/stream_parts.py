"""What is under way in a stream that we write: output items, and the parts of the answer in them."""

from __future__ import annotations

from typing import Any

from attrs import field

from proxy import ir
from proxy.dialects.openai_responses.freeform import Input
from proxy.dialects.openai_responses.response import is_whole
from proxy.record import define
from proxy.wire import json_text

FEW = 256  # words until they become one string


@define
class Item:
    """An output item under way. `content` is a message's."""

    index: int
    ident: str
    content: list[dict[str, Any]] = field(factory=list)
    open: int = 0  # pieces of its content that have not ended
    proof: str | None = None  # of its words, for whoever proves them


class Gathered:
    """Words as they come, in few strings: each string costs fifty bytes, and a word of an answer has five."""

    __slots__ = ("_few", "_many")

    def __init__(self) -> None:
        self._few: list[str] = []
        self._many: list[str] = []

    def append(self, words: str) -> None:
        self._few.append(words)
        if len(self._few) >= FEW:
            self._many.append("".join(self._few))
            self._few.clear()

    def __bool__(self) -> bool:
        return bool(self._few or self._many)

    def __str__(self) -> str:
        return "".join(self._many) + "".join(self._few)


@define
class Part:
    """A part under way, with what has been said of it. `head` is all of a delta of its text or arguments up to them."""

    shell: ir.Part
    item: Item
    place: int = 0  # among the pieces of its item's content
    said: Gathered = field(factory=Gathered)
    length: int = 0
    head: bytes = b""
    notes: list[dict[str, Any]] = field(factory=list)
    logprobs: list[Any] = field(factory=list)
    summary: dict[int, Gathered] = field(factory=dict)
    proof: ir.SignatureDelta | None = None
    freeform: Input | None = None  # of a function that the client knows as a custom tool

    @property
    def text(self) -> str:
        return str(self.said)

    @property
    def is_whole(self) -> bool:
        """Of a call, whether nothing can follow. One without arguments may be given them yet."""
        if self.freeform is not None:
            return is_whole(self.freeform.arguments)
        return is_whole(self.text) or getattr(self.shell, "custom", False)

    @property
    def ids(self) -> dict[str, Any]:
        return {"item_id": self.item.ident, "output_index": self.item.index}

    @property
    def at(self) -> dict[str, Any]:
        return {**self.ids, "content_index": self.place}


def delta_head(kind: str, members: dict[str, Any]) -> bytes:
    """A delta event up to its text. Only the text and the number change from one to the next, so the rest is written
    once."""
    return b'event: %b\ndata: %b,"delta":' % (kind.encode(), json_text.write({"type": kind, **members})[:-1])
