"""A translated hop of the short way: how requests are put into the provider's words, and its answers into the client's.

As `server.outgoing` and `server.attempt` do it, for conversations of which nothing gets lost on the way. Requests that
are alike but for the texts of their turns are put into words that are alike but for these texts: so what one of them
became is kept as a cast, with a hole for each text, and others are poured into it. A cast is made of a request whose
texts are marks, with blanks that nobody may trim, and kept if the request at hand, poured into it, comes out as the
translation has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from attrs import field

from proxy import ir
from proxy.dialects import Dialect, Upstream, coherence
from proxy.record import define
from proxy.server.express.outline import TURNS, beside_turns
from proxy.server.express.rewording import Rewording
from proxy.wire import json_text
from proxy.wire.cast import Cast, cast_of, poured

MOST = 64  # casts of a hop
MOST_TURNS = 32  # of what is worth one: a conversation is as long as that once
LONGEST = 2048  # bytes of what a request says beside its turns

MARK = b"\\u0002mark "  # how a mark begins, written
Key = tuple[bytes, tuple[str, ...]]  # all but the turns, and their roles
_string = orjson.dumps


@define(eq=False)
class Hop:
    spoken: Dialect  # by the client
    dialect: Upstream
    target: ir.Target
    back: Rewording = field(init=False, repr=False)  # of answers
    _casts: dict[Key, Cast | None] = field(factory=dict, init=False, repr=False)

    @back.default
    def _its_way_back(self) -> Rewording:
        return Rewording(self.spoken, self.dialect)

    def asked(self, document: dict[str, Any], beside: bytes | None = None) -> bytes | None:
        """The body for the provider; None where its dialect cannot say all of it, or says some of it in a header.
        Raises Unsupported, InvalidRequest, and ValueError where it is nested past all sense."""
        texts = _texts(document.get("messages"))
        key = _key(document, beside or beside_turns(document)) if texts is not None else None
        if texts is None or key is None:
            return self._put(document)
        if key not in self._casts:
            return self._learnt(key, document, texts)
        cast = self._casts[key]
        return self._put(document) if cast is None else _poured(cast, texts)

    def _put(self, document: Mapping[str, Any]) -> bytes | None:
        request = self.spoken.codec().decode_request(document)
        coherence.check(request)
        encoded = self.dialect.codec().encode_request(request, self.target)
        return None if encoded.dropped or encoded.headers else json_text.write(encoded.body)

    def _learnt(self, key: Key, document: Mapping[str, Any], texts: Sequence[str]) -> bytes | None:
        body = self._put(document)
        marks = [f" \x02mark {number}\x03\n" for number in range(len(texts))]
        turns = [turn | {"content": mark} for turn, mark in zip(document["messages"], marks, strict=True)]
        marked = self._put({**document, "messages": turns})
        cast = _cast(marked, marks) if marked is not None else None
        if len(self._casts) >= MOST:
            self._casts.clear()
        self._casts[key] = cast if cast is not None and _poured(cast, texts) == body else None
        return body


def _texts(turns: Any) -> list[str] | None:
    """Of a few turns that say one text each, and nothing else; None where one says more, or next to nothing."""
    if turns.__class__ is not list or len(turns) > MOST_TURNS:
        return None
    texts = []
    for turn in turns:
        text = turn.get("content")
        if len(turn) != 2 or text.__class__ is not str or not text or text.isspace():
            return None
        texts.append(text)
    return texts


def _key(document: Mapping[str, Any], beside: bytes | None) -> Key | None:
    if beside is None or len(beside) > LONGEST:
        return None
    return beside, tuple([turn["role"] for turn in document[TURNS]])


def _cast(body: bytes, marks: Sequence[str]) -> Cast | None:
    """None where a mark does not stand in it once, as a string of its own."""
    cast = cast_of(body, [_string(mark) for mark in marks])
    if cast is None or MARK in cast[0]:
        return None  # and within another one as well
    return cast


def _poured(cast: Cast, texts: Sequence[str]) -> bytes:
    return poured(cast, [_string(text) for text in texts])
