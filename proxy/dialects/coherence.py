"""What has to hold in a request whichever dialect it is put to, and which no provider would take otherwise.

Asked of translated requests alone: one that passes in its own dialect is its provider's to judge.
"""

from __future__ import annotations

import re

from proxy import ir
from proxy.dialects.places import Places
from proxy.errors import InvalidRequest

# In either alphabet, with line breaks, as MIME has them, and with or without its padding.
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]*={0,2}\s*")


def check(request: ir.Request) -> None:
    """Raises InvalidRequest with the place of what is wrong: a result of a call that nobody made, data that are no
    base64."""
    places, called = Places(request), set[str]()
    for at, message in enumerate(request.messages):
        for index, part in enumerate(message.parts):
            if isinstance(part, ir.ToolCall):
                called.add(part.id)
            elif isinstance(part, ir.ToolResult):
                path = places.part(at, index)
                if part.call_id not in called:
                    said = f"{path}: no call with the id {part.call_id!r} stands before this result of one."
                    raise InvalidRequest(said, param=path)
                for place, inner in enumerate(part.content):
                    if not _is_sound(inner):
                        raise _no_base64(places.inside(path, place))
            elif not _is_sound(part):
                raise _no_base64(places.part(at, index))


def _is_sound(part: ir.Part) -> bool:
    match part:
        case ir.Image(source=source) | ir.File(source=source) | ir.Audio(source=source) | ir.Video(source=source):
            return not isinstance(source, ir.Blob) or bool(source.data and _BASE64.fullmatch(source.data))
    return True


def _no_base64(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: its data are no base64.", param=path)
