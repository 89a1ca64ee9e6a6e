"""A body in the form of Responses on the path of chats, as Cursor sends it: put into the words of the path, so that
everything behind sees a chat, and the answer is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import ir
from proxy.dialects import DIALECTS
from proxy.routing.facts import EXTENSIONS
from proxy.server.call import Call
from proxy.wire import json_text


def is_misplaced(call: Call) -> bool:
    surface = call.surface
    return surface.operation == "chat" and surface.dialect == "openai-chat" and _is_response(call.document)


def _is_response(body: Mapping[str, Any]) -> bool:
    return "input" in body and "messages" not in body


def restate(call: Call) -> None:
    """Raises InvalidRequest and Unsupported in the words of the body, which are the client's."""
    ours = {name: value for name, value in call.document.items() if name in EXTENSIONS}
    told = {name: value for name, value in call.document.items() if name not in EXTENSIONS}
    model = told.get("model")
    request = DIALECTS["openai-responses"].codec().decode_request(told)
    target = ir.Target(model if isinstance(model, str) else "")
    encoded = DIALECTS["openai-chat"].codec().encode_request(request, target)
    body = {name: value for name, value in encoded.body.items() if name not in ("model", "stream_options")}
    call.document = body | ours | ({} if model is None else {"model": model})
    call.body, call.members, call.once = json_text.write(call.document), None, False
    call.lost = encoded.dropped
