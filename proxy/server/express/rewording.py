"""Whole answers put into the client's words, most of them poured into what one before them became.

Answers of one model to one kind of request mostly are a text, and differ in it, in their id, in the tokens that they
took, and in the time. Of one that came before but for these its words are kept as a cast with a hole for each. A cast
is made by the translation itself, of the same answer with marks in the place of these, and kept if the answer at hand,
poured into it, comes out as the translation has it; and not before the second such answer, for some providers write
into each what no other has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from attrs import evolve, field

from proxy import ir
from proxy.dialects import Dialect, Upstream
from proxy.dialects.dialect import Voice
from proxy.record import define
from proxy.wire import json_text
from proxy.wire.cast import Cast, cast_of, poured

MOST = 64  # casts
LONGEST = 2048  # bytes of what an answer says beside its text
ID, TEXT, REQUEST = "\x02id\x03", " \x02text\x03\n", "\x02request\x03"
USAGE = ir.Usage(input=700_000_001, output=700_000_002)
CREATED = 4_102_444_807
_string = orjson.dumps


@define(eq=False)
class Rewording:
    spoken: Dialect  # by the client
    dialect: Upstream
    _casts: dict[bytes, Cast | None] = field(factory=dict, init=False, repr=False)

    def answered(self, parsed: Any, usage: ir.Usage, created: int, voice: Callable[[], Voice]) -> bytes:
        """The body for the client, of an answer that was found good; `created` is the voice's. Raises UpstreamBroken,
        and ValueError where it is nested past all sense."""
        parted = self.dialect.parted_answer(parsed) if self.dialect.parted_answer is not None else None
        if parted is None or self.spoken.write_usage is None:
            return self._put(self.dialect.codec().decode_answer(parsed), voice())
        rest, ident, text = parted
        try:
            key = orjson.dumps(rest)
            cast = self._casts.get(key)
            told = self.spoken.write_usage(usage)
            if cast is not None and told:
                return poured(cast, (_string(ident), _string(text), orjson.dumps(told)[:-1], b"%d" % created))
        except TypeError:  # half a pair, or more levels than it writes
            return self._put(self.dialect.codec().decode_answer(parsed), voice())
        return self._learnt(key, parsed, text, voice())

    def _put(self, answer: ir.Answer, voice: Voice) -> bytes:
        return json_text.write(self.spoken.codec().encode_answer(answer, voice))

    def _learnt(self, key: bytes, parsed: Mapping[str, Any], text: str, voice: Voice) -> bytes:
        answer = self.dialect.codec().decode_answer(parsed)
        body = self._put(answer, voice)
        if len(key) > LONGEST:
            return body
        if key not in self._casts:
            if len(self._casts) >= MOST:
                self._casts.clear()
            self._casts[key] = None
        elif told := self.spoken.write_usage and self.spoken.write_usage(answer.usage):
            cast = self._cast(answer, text, voice.model)
            with suppress(TypeError):  # half a pair
                values = _string(answer.id), _string(text), orjson.dumps(told)[:-1], b"%d" % voice.created
                if cast is not None and poured(cast, values) == body:
                    self._casts[key] = cast
        return body

    def _cast(self, answer: ir.Answer, text: str, model: str) -> Cast | None:
        (choice,) = answer.choices
        texts = [part for part in choice.parts if isinstance(part, ir.Text) and part.text == text]
        if len(texts) != 1 or self.spoken.write_usage is None:
            return None
        if any(isinstance(part, ir.ToolCall) for part in choice.parts):
            return None  # which may have an id that was made of the answer's
        parts = tuple(evolve(part, text=TEXT) if part is texts[0] else part for part in choice.parts)
        marked = evolve(answer, id=ID, usage=USAGE, choices=(evolve(choice, parts=parts),))
        voice = Voice(REQUEST, model, CREATED)
        body = self._put(marked, voice)
        if answer.created is not None and self._put(evolve(marked, created=CREATED), voice) != body:
            return None  # each tells its own time
        usage = orjson.dumps(self.spoken.write_usage(USAGE))[:-1]
        marks = [_string(ID), _string(TEXT), usage]
        if b"%d" % CREATED in body:
            marks.append(b"%d" % CREATED)
        return cast_of(body, marks) if _string(REQUEST)[1:-1] not in body else None
