"""What a request says beside its turns. Where that is, to the very values, what two others have said before, only the
turns are looked at, as long as each is a role and a text.

A setting is kept of a request that was looked at in full (`server.outline`) and has a track, the second time that it
comes: there are clients of whom no two requests say the same.
"""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from functools import partial
from typing import Any, NamedTuple

import orjson

from proxy import ir
from proxy.errors import GatewayError
from proxy.record import define
from proxy.server import intake
from proxy.server.call import Surface
from proxy.server.ordinary import OrdinaryRequest
from proxy.server.outline import TURNS, beside_turns, members_once, outline_of, stands_once
from proxy.server.snapshot import Snapshot
from proxy.server.track import Track, kind_of, wants_of
from proxy.server.visitor import Visitor
from proxy.wire import splice
from proxy.wire.splice import Member
from proxy.wire.thin import lightened, stretched

MOST = 512  # settings of a snapshot
LARGE = 64 << 10  # bytes of a body that may be read without the data of its media
LONGEST = 2048  # bytes of what one says
Key = tuple[Visitor, bytes]


class Talk(NamedTuple):
    """What of a conversation has a say in where it goes and what it takes."""

    chars: int
    media: int
    system: str
    first: str  # of the user's turns
    turns: int  # of the user

    @classmethod
    def of(cls, shape: ir.Shape) -> Talk:
        return cls(shape.chars, shape.media, shape.system, shape.turns[0] if shape.turns else "", len(shape.turns))


_talk = partial(tuple.__new__, Talk)


@define(eq=False)
class Setting:
    track: Track
    quotes: int  # that stand in what it says
    chars: int
    system: str  # that it says beside the turns
    system_roles: tuple[str, ...]  # see `Dialect`
    lead: tuple[bytes, bytes] | None  # see `splice.lead`

    def talk(self, turns: list[Any], body: bytes) -> Talk | None:
        """None where a turn is anything but a role and a text, or a member may stand in the body twice. Raises KeyError
        and TypeError for the same."""
        escapes = splice.BACKSLASH in body
        if escapes and b"\\u0022" in body:
            return None
        quotes = self.quotes + 8 * len(turns)
        chars, count, first = self.chars, 0, ""
        system = [self.system] if self.system else []
        for turn in turns:
            role, text = turn["role"], turn["content"]
            if text.__class__ is not str or len(turn) != 2:
                return None
            chars += len(text)
            if escapes:
                quotes += text.count('"')
            if role == "user":
                if not count:
                    first = text
                count += 1
            elif role in self.system_roles:
                system.append(text)
            elif role != "assistant":
                return None
        if body.count(b'"') != quotes or not turns:
            return None  # each begins or ends a string, or stands in one, and so many were read: there are no others
        return _talk((chars, 0, "\n".join(system), first, count))


# A track, and of the request that goes by it the document, what is said in it, and what beside the turns, where it was
# written. Then how the model's name is put in place, where that is known: by how its body begins (`splice.lead`), or by
# the members of a long one. Then what of the body was read, where the data of its media was not: its document has only
# the beginnings and the ends of these.
Found = tuple[
    Track, dict[str, Any], Talk, bytes | None, tuple[bytes, bytes] | None, list[Member] | None, bytes | None
]  # fmt: skip


def found_by(
    snapshot: Snapshot, visitor: Visitor, surface: Surface, request: OrdinaryRequest, body: bytes
) -> Found | None:
    """What is known of a request that may be ordinary."""
    try:
        if len(body) > LARGE and (found := _read_lightly(snapshot, visitor, surface, body)) is not None:
            return found
        document = request.document = orjson.loads(body)
        if document.__class__ is not dict:
            return None
        beside = beside_turns(document) if len(body) <= LARGE else None
        found = _recalled(snapshot, visitor, document, beside, body) if beside is not None else None
        found = found or _read(snapshot, visitor, surface, document, beside, body)
    except (ValueError, GatewayError):
        return None  # for the way of all to tell
    return None if found is None or len(body) > found[0].longest else found


def _recalled(
    snapshot: Snapshot, visitor: Visitor, document: dict[str, Any], beside: bytes, body: bytes
) -> Found | None:
    """Of a request whose setting is known."""
    setting: Setting | None = snapshot.settings.get((visitor, beside))
    if setting is None:
        return None
    try:
        talk = setting.talk(document[TURNS], body)
    except (KeyError, TypeError):
        return None
    return None if talk is None else (setting.track, document, talk, beside, setting.lead, None, None)


def _read(
    snapshot: Snapshot, visitor: Visitor, surface: Surface, document: dict[str, Any], beside: bytes | None, body: bytes
) -> Found | None:
    """Raises what is wrong with its turns."""
    looked = _looked(visitor, surface, document)
    track: Track | None = snapshot.tracks.get(looked[0]) if looked is not None else None
    if looked is None or track is None:
        return None
    _, shape, outline = looked
    members = members_once(body, document) if len(body) > splice.SHORT else None
    if members is None and not stands_once(body, outline):
        return None
    if beside is not None:
        keep(snapshot.settings, (visitor, beside), track, document, body, shape)
    return track, document, Talk.of(shape), beside, None, members, None


def _looked(
    visitor: Visitor, surface: Surface, document: dict[str, Any]
) -> tuple[Hashable, ir.Shape, tuple[bytes, ...]] | None:
    """The kind of a request, its shape and its outline. Raises as above."""
    outline = outline_of(document, surface.spoken)
    if outline is None or (wants := wants_of(document)) is None:
        return None
    intake.check_turns(document, surface.dialect)
    shape = surface.spoken.read_shape(document)
    return kind_of(visitor, surface, document["model"], shape, wants), shape, outline


def _read_lightly(snapshot: Snapshot, visitor: Visitor, surface: Surface, body: bytes) -> Found | None:
    """Of a request with pictures and the like all but their data, which has no say in anything where the body passes
    as it is. Raises as above."""
    thin = lightened(body)
    if thin is None:
        return None
    text, cuts = thin
    document = orjson.loads(text)
    looked = _looked(visitor, surface, document)
    track: Track | None = snapshot.tracks.get(looked[0]) if looked is not None else None
    if looked is None or track is None or track.hop is not None or len(body) > track.longest:
        return None
    if looked != _looked(visitor, surface, orjson.loads(stretched(text, cuts))):
        return None  # some of it is a text
    members = members_once(body, document, thin)
    return (track, document, Talk.of(looked[1]), None, None, members, text) if members is not None else None


def keep(
    known: MutableMapping[Key, Setting | None], key: Key, track: Track, document: dict[str, Any], body: bytes,
    shape: ir.Shape,
) -> None:  # fmt: skip
    """`key` is whose setting it is, whose path tells the surface; and what is said beside the turns."""
    if len(key[1]) > LONGEST:
        return
    if key not in known:
        if len(known) >= MOST:
            known.clear()
        known[key] = None
    elif known[key] is None:
        known[key] = _setting_of(track, document, key[1], body, shape)


def _setting_of(track: Track, document: dict[str, Any], beside: bytes, body: bytes, shape: ir.Shape) -> Setting | None:
    dialect = track.surface.spoken
    outline, roles = outline_of(document, dialect), dialect.system_roles
    rest = dialect.read_shape({**document, TURNS: []})
    if outline is None or roles is None or (rest.needs, rest.cache_write) != (shape.needs, shape.cache_write):
        return None
    if beside.count(b'"model"') != 1:
        return None  # as `stands_once` has it of a short body: there is but one place for the model's name
    setting = Setting(track, beside.count(b'"'), rest.chars, rest.system, roles, splice.lead(body, track.native))
    try:
        return setting if setting.talk(document[TURNS], body) == Talk.of(shape) else None
    except (KeyError, TypeError):
        return None
