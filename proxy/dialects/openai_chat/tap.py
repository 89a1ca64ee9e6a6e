"""Looks at a copy of the chunks of a passthrough."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from proxy import ir
from proxy.dialects.openai_chat.answer_check import broken_off, choice_failure, has_output
from proxy.dialects.openai_chat.chunks import DONE, parse
from proxy.dialects.openai_chat.failure import failure_in
from proxy.dialects.openai_chat.relatives import BROKEN_OFF, USAGE_BESIDE
from proxy.dialects.openai_chat.usage import TOLD, usage_of
from proxy.dialects.openai_chat.vocabulary import stop_reason
from proxy.errors import UpstreamBroken
from proxy.record import define
from proxy.wire.mould import PLAIN
from proxy.wire.sse import Frame

# Frames without one of these need no look once the stream has begun. None stands in an ordinary content chunk, whose
# finish reason is null. They miss no usage, error or end, however a server spaces its JSON: the members of every usage
# end in `_tokens`. A finish reason is caught as every JSON writer known to us spaces it: compact, with a blank behind
# the colon, with one before it. The price: an answer that writes about errors is parsed where it does, and so is each
# chunk of a server whose finish reason is an empty string, or that sends usage all along. Each probe costs a fifth of
# a parse, so there are few, and the longer ones are the cheaper.
PROBES = (
    b'"finish_reason":"',
    b'"finish_reason": "',
    b'"finish_reason" ',
    TOLD,
    b"error",
    b"[DONE]",
)
ZERO = 48
_SILENT = frozenset({"role", "content"})
# Not possessive: within another such repetition the first releases of Python 3.11 find no match.
_PREAMBLE = re.compile(
    rb'data: \{(?:"(?:id|(?!object": ?"error")object|created|model|system_fingerprint|service_tier|provider)": ?'
    rb'(?:"[^"\\\x00-\x1f]*"|0|[1-9][0-9]{0,17}|null), ?)*(?="choices":)'
)


_OWN = re.compile(rb'(data: \{"id": ?")([^"]+)(".*?"created": ?)([1-9][0-9]*)(,.*)')  # of one stream: its id, its time
_MOST_ALIKE = 64
_CHOICES = b'"choices":'
# Preambles that differ in no more than that, by the length of their chunk: what stands around the two, where each of
# them begins and ends, and the end of all.
_alike: dict[int, tuple[bytes, bytes, bytes, int, int, int, int, int]] = {}


def preamble(raw: bytes) -> bytes | None:
    """What stands before the choices, if it is the same in all chunks and nothing of it is read."""
    alike = _alike.get(len(raw))
    if alike is not None:
        before, between, behind, id_at, id_end, time_at, time_end, end = alike
        id, time = raw[id_at:id_end], raw[time_at:time_end]
        if (
            raw.startswith(b"".join((before, id, between, time, behind)))
            and id.translate(PLAIN) == id and time.isdigit() and time[0] != ZERO
        ):  # fmt: skip
            return raw[:end]
    found = _PREAMBLE.match(raw)
    if found is None:
        return None
    own = _OWN.fullmatch(found[0])
    if own is not None:
        if len(_alike) >= _MOST_ALIKE:
            _alike.clear()
        _alike[len(raw)] = own[1], own[3], own[5] + _CHOICES, *own.span(2), *own.span(4), own.end()
    return found[0]


def own_at(preamble: bytes) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where in one that was found its id stands, and its time."""
    own = _OWN.fullmatch(preamble)
    return (own.span(2), own.span(4)) if own is not None else None


@define
class Tap:
    usage: ir.Usage | None = None
    stop: ir.StopReason | None = None
    model: str | None = None
    error: ir.Failure | None = None
    produced: bool = False
    _failure_in: Callable[[Mapping[str, Any], bytes], ir.Failure | None] = failure_in
    _called: bool = False
    _refused: bool = False

    @property
    def plain(self) -> bool:
        return not (self._called or self._refused)

    def look(self, frame: Frame) -> ir.Sight:
        if frame.data[:1] != b"{" and frame.data.strip() == DONE:
            return ir.Sight.END
        chunk = parse(frame)
        self._facts(chunk)
        if failure := self._failure_in(chunk, frame.event):
            self.error = failure
            return ir.Sight.ERROR
        choices = chunk.get("choices")
        if choices is None:
            self.produced = True
            return ir.Sight.CONTENT  # of a type unknown to us
        if not isinstance(choices, list):
            raise UpstreamBroken("The provider sent a chunk whose choices are no array.")
        if not choices:
            return ir.Sight.USAGE if isinstance(chunk.get("usage"), dict) else ir.Sight.LIFECYCLE
        return self._choices(choices)

    def _facts(self, chunk: dict[str, Any]) -> None:
        if isinstance(model := chunk.get("model"), str) and model:
            self.model = model
        if (chunk.get("usage") is not None or USAGE_BESIDE in chunk) and (usage := usage_of(chunk)) is not None:
            self.usage = usage if self.usage is None else self.usage.merged(usage)

    def _choices(self, choices: list[Any]) -> ir.Sight:
        sight = ir.Sight.LIFECYCLE
        for choice in choices:
            if not isinstance(choice, dict):
                raise UpstreamBroken("The provider sent a choice that is not an object.")
            if "error" in choice and (failure := choice_failure(choice)):
                self.error = failure
                return ir.Sight.ERROR
            if self._says(choice):
                self.produced = True
                sight = ir.Sight.CONTENT if sight is ir.Sight.LIFECYCLE else sight
            if reason := choice.get("finish_reason"):
                if str(reason).lower() in BROKEN_OFF:
                    self.error = broken_off(str(reason))
                    return ir.Sight.ERROR
                self.stop = stop_reason(str(reason), called=self._called, refused=self._refused)
                sight = ir.Sight.FINISH
        return sight

    def _says(self, choice: dict[str, Any]) -> bool:
        """Anything but an empty delta and the role: members unknown to us are content."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice.get("message")
        if not isinstance(delta, dict):
            return bool(choice.get("text"))  # the completions endpoint
        if delta.get("content"):
            return True
        self._called = self._called or bool(delta.get("tool_calls"))
        self._refused = self._refused or bool(delta.get("refusal"))
        return not _SILENT.issuperset(delta) and any(
            has_output(value) for name, value in delta.items() if name not in _SILENT
        )
