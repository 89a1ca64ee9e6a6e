"""What a request's document looks like at a glance: which members it has, of which types, and that each that we read
stands in it once. Documents that look alike are judged alike, so most are judged by those before them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import orjson

from proxy.dialects.dialect import Dialect
from proxy.errors import GatewayError
from proxy.routing.facts import EXTENSIONS
from proxy.server import intake
from proxy.wire import splice
from proxy.wire.splice import Member

MOST = 1024  # outlines that are kept
MOST_MEMBERS = 64  # of one: names are the sender's, who is not known yet
LONGEST = 2048  # characters of their names
ONCE = {1}
TURNS = "messages"  # the member that holds them, where any does
TELLING = EXTENSIONS | {"metadata", "prompt_cache_key", "input"}  # members that have a say in who answers, or how

Outline = tuple[bytes, ...] | None
_known: dict[Hashable, Outline] = {}


def outline_of(document: Mapping[str, Any], dialect: Dialect) -> Outline:
    """How the members that we read are written, where all are of the right types, and none but the model's has a say in
    who answers; None for any other document."""
    if len(document) > MOST_MEMBERS:
        return None
    seen = dialect.name, *document, *map(type, document.values())
    if seen not in _known:
        if sum(map(len, document)) > LONGEST:
            return None
        if len(_known) >= MOST:
            _known.clear()
        _known[seen] = _written(document, dialect)
    return _known[seen]


def _written(document: Mapping[str, Any], dialect: Dialect) -> Outline:
    streams = document.get("stream")
    if not TELLING.isdisjoint(document) or document.get("model").__class__ is not str:
        return None
    if streams.__class__ not in (bool, type(None)):
        return None
    try:
        intake.check_types(document, dialect.types)
    except GatewayError:
        return None
    return tuple(b'"%b"' % name.encode() for name in document if name in intake.read_here(dialect.reads))


def beside_turns(document: dict[str, Any]) -> bytes | None:
    """What it says beside them, written; None where there are none, or more levels than are written."""
    turns = document.get(TURNS)
    if turns is None:
        return None
    document[TURNS] = None
    try:
        return orjson.dumps(document)
    except TypeError:
        return None
    finally:
        document[TURNS] = turns


def stands_once(body: bytes, outline: tuple[bytes, ...]) -> bool:
    """See `splice.each_once`."""
    if len(body) > splice.SHORT or (splice.BACKSLASH in body and b"\\u00" in body):
        return False  # a name may be written in escapes
    return ONCE.issuperset(map(body.count, outline))


def members_once(body: bytes, document: Mapping[str, Any]) -> list[Member] | None:
    """The members of a long body; None where one of them stands twice. Raises as `splice.members` does."""
    members = splice.members(body)
    return members if len(members) == len(document) else None
