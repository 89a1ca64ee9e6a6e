"""From a request's first byte to its facts: the body within its limits and its time, parsed once, judged, described."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from proxy import errors
from proxy.accounts.admission import Caller, Gate
from proxy.accounts.keys import presented
from proxy.accounts.permit import Permit
from proxy.routing import facts as reading
from proxy.routing.affinity import conversation_key
from proxy.routing.facts import Ceiling, Facts
from proxy.routing.table import is_loopback
from proxy.secret import Secret
from proxy.server.call import Call
from proxy.server.inbound import Request
from proxy.server.ordinary import Body
from proxy.server.outgoing import HOPS
from proxy.wire import json_text, multipart, splice
from proxy.wire.splice import Member

MOST_HOPS = 5
LONGEST_ID = 128
FORM = "multipart/form-data"
TURNS = {"openai-chat": "messages", "anthropic": "messages"}  # the member that holds the conversation, by dialect
KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
KEY_HEADERS = ("authorization", "x-api-key")  # where a key of ours may stand
SESSION_HEADERS = ("x-claude-code-session-id", "session_id", "session-id", "x-session-id")


def caller_of(request: Request) -> Caller:
    """A unix socket counts as this machine: who may reach it is a matter of file permissions."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    local = not isinstance(peer, tuple) or is_loopback(str(peer[0]))
    return Caller(local, request.headers.get("Host", ""), frozenset(name.lower() for name in request.headers))


def presented_by(request: Request) -> str | None:
    """The key of ours that came along. Raises Unauthenticated where two came that differ."""
    headers = request.headers
    return presented(*(headers.getall(name, ()) for name in KEY_HEADERS))


def admit(request: Request, gate: Gate, now_ms: int, scopes: frozenset[str]) -> Permit:
    """Raises as `Gate.admit` does."""
    return gate.admit(presented_by(request), lambda: caller_of(request), now_ms, scopes)


def way_of(request: Request) -> tuple[str | None, list[str]]:
    """Who connected, None over a Unix socket, and what the proxies in between say of who asked them."""
    return request.remote or None, request.headers.getall("X-Forwarded-For", [])


# -- the body ----------------------------------------------------------------------------------------------------


def _unheld(size: int) -> None:
    """Where nobody counts."""


async def read_body(
    request: Request,
    limit: int,
    seconds: float,
    *,
    form: bool = False,
    hold: Callable[[int], None] = _unheld,
) -> bytes:
    """Raises BodyTooLarge, BodyTimeout, WrongMediaType, InvalidRequest. Never waits longer than `seconds`. `form`: one
    is taken besides JSON. `hold` is told of every piece's size, and raises where that is too much."""
    _check_head(request, limit, form=form)
    content = request.content
    if content.is_eof():
        whole = content.read_nowait() if content.total_bytes else b""
        if len(whole) > limit:
            raise _too_large(limit)
        hold(len(whole))
        return whole
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            if isinstance(content, Body):
                return await content.whole(hold)
            while data := await content.readany():
                size += len(data)
                if size > limit:
                    raise _too_large(limit)
                hold(len(data))
                parts.append(data)
    except TimeoutError as exc:
        raise errors.BodyTimeout(f"The request body did not arrive within {seconds:g} seconds.") from exc
    except (web.RequestPayloadError, HttpProcessingError) as exc:
        raise errors.InvalidRequest("The request body's framing is broken.") from exc
    return b"".join(parts)


def _check_head(request: Request, limit: int, *, form: bool) -> None:
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise errors.WrongMediaType(
            "Content-Encoding: send the body uncompressed; this gateway does not decode bodies."
        )
    kind = _media_type(request.headers)
    json = kind in ("", "application/json") or (kind.startswith("application/") and kind.endswith("+json"))
    if not json and not (form and kind == FORM):
        raise errors.WrongMediaType(f"Content-Type is {kind[:60]!r}; send {FORM if form else 'application/json'}.")
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_form(headers: Mapping[str, str]) -> bool:
    return _media_type(headers) == FORM


def _too_large(limit: int) -> errors.BodyTooLarge:
    return errors.BodyTooLarge(f"The request body has more than {limit} bytes, the most that is taken here.")


def parse(body: bytes, reads: frozenset[str]) -> tuple[Mapping[str, Any], list[Member] | None]:
    """The one parse of a request, and where its members stand; None where it was enough to see that each that we read
    stands once. Raises InvalidJson, and InvalidRequest where one stands twice."""
    try:
        document = json_text.read(body)
    except ValueError as exc:
        raise errors.InvalidJson(f"The body is not valid JSON: {_where(exc, body)}.") from exc
    if not isinstance(document, dict):
        raise errors.InvalidJson(f"The body is an object with a model and what to answer, not {_kind(document)}.")
    if splice.each_once(body, document, _read_here(reads)):
        return document, None
    found = splice.members(body)
    if len(found) != len(document):
        twice = sorted(splice.duplicates(found) & _read_here(reads))
        if twice:
            raise errors.InvalidRequest(f"{twice[0]} stands twice in the body; send it once.", param=twice[0])
    return document, found


@cache
def _read_here(reads: frozenset[str]) -> frozenset[str]:
    """A dialect's members that we read, and our own."""
    return reads | reading.EXTENSIONS


def parse_form(body: bytes, headers: Mapping[str, str]) -> tuple[list[multipart.Field], Mapping[str, Any]] | None:
    """The parts of a form, and what routing reads of them; None where the body is none. Raises InvalidRequest.

    Members of our own have no place in it: they come as headers.
    """
    if not is_form(headers):
        return None
    boundary = multipart.boundary_of(headers["Content-Type"])
    if boundary is None:
        raise errors.InvalidRequest("Content-Type names no boundary between the parts of the form.")
    try:
        found = multipart.fields(body, boundary)
    except ValueError as exc:
        raise errors.InvalidRequest(f"The form cannot be read: {exc}.") from exc
    names = [field.name for field in found]
    if "" in names:
        raise errors.InvalidRequest("A part of the form has no name.")
    if names.count("model") > 1:
        raise errors.InvalidRequest("model stands twice in the form; send it once.", param="model")
    document: dict[str, Any] = {name: multipart.value_of(body, found, name) for name in ("model", "prompt")}
    document["stream"] = multipart.value_of(body, found, "stream") in ("true", "True", "1")
    return found, document


def check_types(body: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    """Raises InvalidRequest for the first member of a wrong type; null is as good as absent."""
    for name, value in body.items():
        kinds = types.get(name)
        if kinds is not None and value is not None and type(value) not in kinds:
            wanted = " or ".join(dict.fromkeys(KINDS[kind] for kind in kinds))
            raise errors.InvalidRequest(f"{name} is {wanted}, not {_kind(value)}.", param=name)


def check_turns(body: Mapping[str, Any], dialect: str) -> None:
    """Raises InvalidRequest where there is nothing to answer, or what stands in a turn has a type that no provider
    takes. What it says is the provider's to judge."""
    _check_objects(body.get("tools"), "tools")
    member = TURNS.get(dialect)
    if member is None:
        _check_objects(body.get("input"), "input")
        return
    turns = body.get(member)
    if not isinstance(turns, list) or not turns:
        what = "is missing" if turns is None else "is empty" if turns == [] else f"is a list, not {_kind(turns)}"
        raise errors.InvalidRequest(
            f'{member} {what}: send it such as [{{"role": "user", "content": "Hello"}}].', param=member
        )
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            param = f"{member}[{number}]"
            raise errors.InvalidRequest(f"{param} is an object with role and content, not {_kind(turn)}.", param=param)
        if not isinstance(turn.get("role"), str):
            param = f"{member}[{number}].role"
            raise errors.InvalidRequest(
                f'{param} is a string such as "user", not {_kind(turn.get("role"))}.', param=param
            )
        content = turn.get("content")
        if content is None or isinstance(content, str):
            continue
        param = f"{member}[{number}].content"
        if not isinstance(content, list):
            raise errors.InvalidRequest(f"{param} is a string or a list, not {_kind(content)}.", param=param)
        _check_objects(content, param)


def _check_objects(items: Any, param: str) -> None:
    """Raises InvalidRequest for what is no object in a list of them."""
    if isinstance(items, list):
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise errors.InvalidRequest(
                    f"{param}[{number}] is an object, not {_kind(item)}.", param=f"{param}[{number}]"
                )


def _kind(value: Any) -> str:
    """In JSON's words; never the value itself, which may be a prompt."""
    return KINDS[type(value)]


def _where(exc: ValueError, body: bytes) -> str:
    if not body.strip():
        return "it is empty"
    line, column = getattr(exc, "lineno", None), getattr(exc, "colno", None)
    return f"see line {line}, column {column}" if line and column else "it cannot be read"


# -- the facts ---------------------------------------------------------------------------------------------------


def check_hops(headers: CIMultiDictProxy[str], instance: str) -> None:
    passed = headers.get(HOPS, "")
    if passed and (instance in passed.split(",") or passed.count(",") >= MOST_HOPS):
        raise errors.LoopDetected("The request came back to this gateway: a provider's base_url points at the gateway.")


def byok_of(headers: CIMultiDictProxy[str], prefix: str, providers: Iterable[str]) -> dict[str, Secret]:
    """Keys that the caller brings, by provider: `<prefix>Key-<provider>`, in any case."""
    start = f"{prefix}key-".lower()
    brought = {
        lower.removeprefix(start): Secret(value.strip())
        for name, value in headers.items()
        if (lower := name.lower()).startswith(start) and value.strip()
    }
    return {name: brought[name.lower()] for name in providers if name.lower() in brought} if brought else {}


def read_facts(call: Call) -> Facts:
    """Raises InvalidRequest or MissingModel; looks at members of our own and at the request's shape."""
    body, prefix, project = call.document, call.prefix.lower(), call.project
    headers = _outranked(call, prefix)
    shape = (call.operation or call.dialect).read_shape(body)
    converses = call.surface.endpoint == "chat"
    default = f"profile:{project.profile}" if project is not None and project.profile else call.surface.default_model
    wanted = reading.read_wanted(body, headers, prefix, default)
    ceiling = reading.read_ceiling(body, headers, prefix)
    if ceiling is None and project is not None and project.max_price is not None:
        ceiling = Ceiling(project.max_price)
    scope = "\0".join(
        (call.permit.standing.scope if call.permit else "", *wanted)
    )  # another choice has no claim on the pin
    session = next((headers[name] for name in SESSION_HEADERS if name in headers), None)
    if session is None and isinstance(body.get("prompt_cache_key"), str):
        session = body["prompt_cache_key"]
    first_turn = shape.turns[0][:2000] if shape.turns else ""
    return Facts(
        surface=call.surface.name,
        dialect=call.dialect.name,
        endpoint=call.surface.endpoint,
        wanted=wanted,
        shape=shape,
        tokens=reading.estimate_tokens(shape, _wide(call.body) if call.form is None else 0),
        stream=call.stream,
        sort=reading.read_sort(body, headers, prefix),
        partitioned=reading.read_partition(body, headers, prefix),
        ceiling=ceiling,
        preferences=reading.read_preferences(body),
        industry=reading.read_industry(body),
        headers=headers,
        project=call.permit.project if call.permit else None,
        conversation=conversation_key(scope, session, shape.system[:2000], first_turn) if converses else None,
        continues=session is not None or len(shape.turns) > 1,
        priced_only=call.permit is not None and call.permit.standing.priced_only,
        byok=frozenset(call.byok),
        locked=call.locked,
    )


def _outranked(call: Call, prefix: str) -> CIMultiDictProxy[str]:
    """The headers, less those that the caller's project adds where the body has its own word: a client's header wins
    over the body, a default does not."""
    headers, sent, body = call.headers, call.request.headers, call.document
    if headers is sent:
        return sent
    said = {
        "sort": reading.read_sort(body, {}, prefix) is not None,
        "max-price": reading.read_ceiling(body, {}, prefix) is not None,
        "models": body.get("models") is not None,
        "profile": body.get("model") is not None or body.get("models") is not None,
    }
    out = {prefix + name for name, is_said in said.items() if is_said and prefix + name not in sent}
    return CIMultiDictProxy(CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in out))


def _wide(body: bytes) -> int:
    """Bytes beyond one per character."""
    return 0 if body.isascii() else len(body) - len(body.decode("utf-8", "replace"))


def client_id(headers: CIMultiDictProxy[str]) -> str | None:
    given = headers.get("X-Request-Id", "")[:LONGEST_ID]
    return given if given and given.isascii() and given.isprintable() else None
