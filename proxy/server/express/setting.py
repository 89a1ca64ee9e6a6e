"""What a request says beside its turns. Where that is, to the very bytes, what two others have said before, only the
turns are read, as long as each is a role and a text.

A setting is what stands before the turns of such a request and what stands behind them: with any array between the two
it is a document with the same members, each of which stands in it once. It is kept of a request that was looked at in
full (`outline`) and has a track, the second time that it comes: there are clients of whom no two requests say
the same.
"""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from typing import Any

import orjson
from attrs import field

from proxy import ir
from proxy.dialects import DIALECTS
from proxy.errors import GatewayError
from proxy.record import define, frozen
from proxy.server import intake
from proxy.server.call import Surface
from proxy.server.clients.ordinary import OrdinaryRequest
from proxy.server.clients.visitor import Visitor
from proxy.server.express.outline import TURNS, beside_turns, members_once, outline_of, stands_once
from proxy.server.express.track import Track, kind_of, wants_of
from proxy.server.snapshot import Snapshot
from proxy.wire import splice
from proxy.wire.parted import Parted
from proxy.wire.splice import Member
from proxy.wire.thin import Light, lightened, stretched

MOST = 512  # settings of a snapshot, and requests of which one may be kept
MOST_ENDS = 4  # that a request may have which begins like others
LARGE = 64 << 10  # bytes of a body that may be read without the data of its media
LONGEST = 2048  # bytes of what one says
NAME = b'"%b"' % TURNS.encode()
PLACE = b'["\x02turns"]'  # as no JSON is written
Key = Visitor | tuple[Visitor, bytes]
# By who says it and how it begins, up to the turns; of those that came once, by all that stands beside the turns,
# nothing; and by who says it alone, the one that came last.
Settings = MutableMapping[Key, "tuple[Setting, ...]"]


# Both are plain tuples, which are unpacked at once: a named one takes five times as long to make.

# What of a conversation has a say in where it goes and what it takes: characters, media, what the system says, the
# first of the user's turns, and how many of these there are.
Talk = tuple[int, int, str, str, int]

# What is known of a request that may be ordinary: its track, its talk, and all that it says: a document; or a setting,
# and its turns as they were read and as they are written.
Found = tuple[Track, Talk, "Document | Setting", list[Any], bytes]


@frozen
class Document:
    """What a request says whose setting is not known."""

    said: dict[str, Any]
    beside: bytes | None = None  # its turns, as we write it
    members: list[Member] | None = None  # of a long body, or of what of it was read
    light: Light | None = None  # where that is all but the data of its media: beginnings and ends of texts are said


def talk_of(shape: ir.Shape) -> Talk:
    return shape.chars, shape.media, shape.system, shape.turns[0] if shape.turns else "", len(shape.turns)


def said(found: Found) -> dict[str, Any]:
    """As a document."""
    _, _, known, turns, _ = found
    return known.said if isinstance(known, Document) else known.said | {TURNS: turns}


@define(eq=False)
class Setting:
    track: Track
    before: bytes  # the turns
    behind: bytes
    lead: tuple[bytes, bytes]  # the same for a provider that speaks the same dialect
    said: dict[str, Any]  # the document, but for its turns
    beside: bytes  # the same, as we write it
    chars: int
    system: str | None  # what that says beside the turns
    system_roles: tuple[str, ...]  # see `Dialect`
    around: int = field(init=False)  # bytes before and behind
    led: int = field(init=False)  # and of the lead

    def __attrs_post_init__(self) -> None:
        self.around = len(self.before) + len(self.behind)
        self.led = sum(map(len, self.lead))

    def found(self, body: bytes) -> Found | None:
        """Of a request that begins and ends so; None where there are no turns, or one is anything but a role and a
        text."""
        written = body.removeprefix(self.before).removesuffix(self.behind)  # Python reads what they take by no format
        if len(body) - len(written) != self.around:
            return None
        chars, system = self.chars, self.system
        count, first = 0, ""
        try:
            turns = orjson.loads(written)
            for turn in turns:
                role, text = turn["role"], turn["content"]
                if text.__class__ is not str or len(turn) != 2:
                    return None
                chars += len(text)
                if role == "user":
                    if not count:
                        first = text
                    count += 1
                elif role in self.system_roles:
                    system = text if system is None else f"{system}\n{text}"
                elif role != "assistant":
                    return None
        except (ValueError, KeyError, TypeError):
            return None
        if not turns:
            return None
        talk = chars, 0, system or "", first, count
        return self.track, talk, self, turns, written


def found_by(
    snapshot: Snapshot, visitor: Visitor, surface: Surface, request: OrdinaryRequest, body: bytes
) -> Found | None:
    """Of one that is neither light nor `recalled`; None where it is not ordinary."""
    try:
        return _read(snapshot, visitor, surface, request, body)
    except (ValueError, GatewayError):
        return None  # for the way of all to tell


def found_lightly(snapshot: Snapshot, visitor: Visitor, surface: Surface, body: bytes | Parted) -> Found | None:
    """Of one with pictures and the like, where it is ordinary: all but their data was read."""
    try:
        light = lightened(body if isinstance(body, Parted) else Parted([body]))
        return _read_lightly(snapshot, visitor, surface, light) if light is not None else None
    except (ValueError, GatewayError):
        return None  # for whoever reads all of it to tell


def recalled(known: Settings, visitor: Visitor, body: bytes) -> Found | None:
    """Of a request whose setting is known."""
    for setting in known.get(visitor, ()):  # most come again
        found = setting.found(body)
        if found is not None:
            return found
    at = body.find(b"[", body.find(NAME))
    for setting in known.get((visitor, body[:at]), ()):
        found = setting.found(body)
        if found is not None:
            if visitor in known or len(known) < MOST:
                known[visitor] = (setting,)
            return found
    return None


def _read(
    snapshot: Snapshot, visitor: Visitor, surface: Surface, request: OrdinaryRequest, body: bytes
) -> Found | None:
    """Raises what is wrong with its turns, and ValueError for what is no JSON."""
    document = request.document = orjson.loads(body)
    looked = _looked(visitor, surface, document)
    track: Track | None = snapshot.tracks.get(looked[0]) if looked is not None else None
    if looked is None or track is None:
        return None
    _, shape, outline = looked
    members = members_once(body, document) if len(body) > splice.SHORT else None
    if members is None and not stands_once(body, outline):
        return None
    beside = beside_turns(document) if len(body) <= LARGE else None
    if beside is not None:
        keep(snapshot.settings, (visitor, beside), track, document, body, shape)
    return track, talk_of(shape), Document(document, beside, members), [], b""


def _looked(visitor: Visitor, surface: Surface, document: Any) -> tuple[Hashable, ir.Shape, tuple[bytes, ...]] | None:
    """The kind of a request, its shape and its outline. Raises as above."""
    spoken = DIALECTS[surface.dialect]
    outline = outline_of(document, spoken) if document.__class__ is dict else None
    if outline is None or (wants := wants_of(document)) is None:
        return None
    intake.check_turns(document, surface.dialect)
    shape = spoken.read_shape(document)
    return kind_of(visitor, surface, document["model"], shape, wants), shape, outline


def _read_lightly(snapshot: Snapshot, visitor: Visitor, surface: Surface, light: Light) -> Found | None:
    """What is left out has no say in anything where the body passes as it is. Raises as above."""
    body, text, cuts = light
    document = orjson.loads(text)
    looked = _looked(visitor, surface, document)
    track: Track | None = snapshot.tracks.get(looked[0]) if looked is not None else None
    if looked is None or track is None or track.hop is not None or len(body) > track.longest:
        return None
    _, shape, outline = looked
    # What is left of a string is longer than any word that we know: it has a say as a text, or as the model's name.
    longer = orjson.loads(stretched(text, cuts))
    if longer["model"] != document["model"] or DIALECTS[surface.dialect].read_shape(longer) != shape:
        return None
    members = None
    if not stands_once(text, outline) and (members := members_once(text, document)) is None:
        return None
    return track, talk_of(shape), Document(document, members=members, light=light), [], b""


def keep(
    known: Settings, key: tuple[Visitor, bytes], track: Track, document: dict[str, Any], body: bytes, shape: ir.Shape
) -> None:
    """`key` is whose setting it is, whose path tells the surface; and what is said beside the turns."""
    visitor, beside = key
    if len(beside) > LONGEST:
        return
    if key not in known:
        if len(known) >= MOST:
            known.clear()
        known[key] = ()
        return
    made = _setting_of(track, document, beside, body, shape)
    if made is not None:
        before, setting = made
        others = [it for it in known.get((visitor, before), ()) if it.behind != setting.behind]
        if len(known) >= MOST:
            known.clear()
        known.pop(visitor, None)  # it may be the one in whose place this comes
        known[visitor, before] = (setting, *others[: MOST_ENDS - 1])


def _setting_of(
    track: Track, document: dict[str, Any], beside: bytes, body: bytes, shape: ir.Shape
) -> tuple[bytes, Setting] | None:
    """What stands before its turns, and the setting."""
    dialect = track.spoken
    roles = dialect.system_roles
    rest = dialect.read_shape({**document, TURNS: []})
    if roles is None or outline_of(document, dialect) is None:
        return None
    if (rest.needs, rest.cache_write) != (shape.needs, shape.cache_write):
        return None
    members = splice.members(body)
    start, end = next((it.value_start, it.value_end) for it in members if it.key == TURNS)
    if len(members) != len(document) or body.find(b"[", body.find(NAME)) != start:
        return None
    if len(body) - (end - start) > 2 * LONGEST:
        return None  # blanks, or escapes
    before, behind = body[:start], body[end:]
    if (lead := _lead(track, before, behind)) is None:
        return None
    others = {**document, TURNS: None}
    setting = Setting(track, before, behind, lead, others, beside, rest.chars, rest.system or None, roles)
    found = setting.found(body)
    return (before, setting) if found is not None and found[1] == talk_of(shape) else None


def _lead(track: Track, before: bytes, behind: bytes) -> tuple[bytes, bytes] | None:
    """None where the place of the turns could be taken for another one."""
    asks = track.streamed is not None and track.streamed.asked_usage
    around = splice.rewrite(before + PLACE + behind, model=track.native, include_usage=asks)
    if around.count(PLACE) != 1:
        return None
    start, _, end = around.partition(PLACE)
    return start, end
