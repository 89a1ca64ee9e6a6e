"""Where the client wrote what a request says, so that `dropped` and `param` speak of places that the client knows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import field

from proxy import ir
from proxy.dialects.words import part_path
from proxy.record import define

_ITEM = re.compile(r"input\[(\d+)\]")


@define
class Places:
    """The paths of one request's turns and parts.

    Chat has one message for each turn. Anthropic keeps the instructions apart, and results of tools in the user's
    message together with what the user says next. A turn of Responses is made of items, and tells itself where.
    """

    request: ir.Request
    _turns: list[tuple[str, int]] = field(init=False)  # path, and how many parts of the message came before

    def __attrs_post_init__(self) -> None:
        match self.request.dialect:
            case "anthropic":
                self._turns = _of_messages(self.request)
            case "openai-responses":
                self._turns = [(_item(message), 0) for message in self.request.messages]
            case _:
                self._turns = [(f"messages[{at}]", 0) for at in range(len(self.request.messages))]

    @property
    def all(self) -> str:
        """The member that holds the turns."""
        return "input" if self.request.dialect == "openai-responses" else "messages"

    @property
    def notes(self) -> str:
        """What a text's sources are called."""
        return "citations" if self.request.dialect == "anthropic" else "annotations"

    def turn(self, at: int) -> str:
        return self._turns[at][0] if at < len(self._turns) else self.all

    def part(self, at: int, index: int) -> str:
        path, before = self._turns[at]
        match self.request.dialect:
            case "anthropic":
                return f"{path}[{index}]" if path == "system" else f"{path}.content[{before + index}]"
            case "openai-responses":
                places = self.request.messages[at].places
                return places[index] if index < len(places) else path
        return part_path(self.request.dialect, at, self.request.messages[at], index)

    def proofs(self, *, calls: bool = True) -> Iterator[str]:
        """Of texts and, if so wished, of calls: they are Gemini's, and nobody else is sent them."""
        for at, message in enumerate(self.request.messages):
            for index, part in enumerate(message.parts):
                if not isinstance(part, ir.Text | ir.ToolCall) or part.signature is None:
                    continue
                if calls or isinstance(part, ir.Text):
                    yield self._proof(at, index, part)

    def _proof(self, at: int, index: int, part: ir.Part) -> str:
        """In Responses an item of its own has it, ahead of a call and behind a text."""
        path = self.part(at, index)
        if self.request.dialect == "openai-responses" and (found := _ITEM.match(path)):
            number = int(found[1]) + (-1 if isinstance(part, ir.ToolCall) else 1)
            return f"input[{number}].encrypted_content"
        owner = path.removesuffix(".function.arguments") if isinstance(part, ir.ToolCall) else self.turn(at)
        return f"{owner}.extra_content"

    def inside(self, path: str, index: int) -> str:
        """A part of a result of a tool at that path."""
        match self.request.dialect:
            case "anthropic":
                return f"{path}.content[{index}]"
            case "openai-responses":
                return f"{path}.output[{index}]"
        return f"{path}[{index}]"


def _item(message: ir.Message) -> str:
    """The item that a turn begins with."""
    return message.places[0].partition(".")[0] if message.places else "input"


def _of_messages(request: ir.Request) -> list[tuple[str, int]]:
    turns: list[tuple[str, int]] = []
    number, last = -1, ir.Message("user", ())
    for message in request.messages:
        if message.role == "system" and number < 0:
            turns.append(("system", 0))
            continue
        same = last.role == "tool" and message.role in ("tool", "user")
        number += not same
        before = turns[-1][1] + len(last.parts) if same else 0
        turns.append((f"messages[{number}]", before))
        last = message
    return turns
