"""From a request's first byte to its facts: the body within its limits and its time, parsed once, judged, described."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict, CIMultiDictProxy

from proxy import errors
from proxy.accounts.admission import Caller, Gate
from proxy.accounts.books import ANYBODY
from proxy.accounts.permit import Permit
from proxy.accounts.vault import NOBODY
from proxy.routing import directive
from proxy.routing import facts as reading
from proxy.routing.affinity import Conversations
from proxy.routing.facts import Ceiling, Facts, Wishes
from proxy.routing.names import is_known
from proxy.routing.table import OFF, is_loopback
from proxy.server.call import Call
from proxy.server.clients.inbound import Request
from proxy.server.clients.ordinary import Body, OrdinaryRequest
from proxy.server.clients.visitor import FORM, Visitor, is_encoded, is_json, media_type, presented_by
from proxy.server.watchdog import Agenda
from proxy.wire import json_text, multipart, splice
from proxy.wire.parted import Parted
from proxy.wire.splice import Member

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


def caller_of(request: Request) -> Caller:
    """A unix socket counts as this machine: who may reach it is a matter of file permissions."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    local = not isinstance(peer, tuple) or is_loopback(str(peer[0]))
    return Caller(local, request.headers.get("Host", ""), frozenset(name.lower() for name in request.headers))


def admit(request: Request, visitor: Visitor, gate: Gate, now_ms: int, scopes: frozenset[str]) -> Permit:
    """Raises as `Gate.admit` does."""
    presented = presented_by(visitor.sent) if visitor.torn else visitor.key
    return gate.admit(presented, lambda: caller_of(request), now_ms, scopes, visitor.digest)


# -- the body ----------------------------------------------------------------------------------------------------


def ready_body(request: Request, visitor: Visitor, limit: int) -> bytes | None:
    """A body that is here already, and ordinary; None leaves it to `read_body`. Raises BodyTooLarge."""
    content = request.content
    if not visitor.ordinary or not content.is_eof() or not content.total_bytes:
        return None
    whole = content.read_nowait()
    if len(whole) > limit:
        raise _too_large(limit)
    return whole


def _unheld(size: int) -> None:
    """Where nobody counts."""


class Patience:
    """With a body: it is due within so many seconds."""

    __slots__ = ("_body", "_seconds")

    def __init__(self, body: Body, seconds: float) -> None:
        self._body = body
        self._seconds = seconds

    def look(self, now: float) -> None:
        if self._body.needs:  # else it has just come
            self._body.fail(_too_late(self._seconds))


async def await_body(
    request: OrdinaryRequest, limit: int, seconds: float, hold: Callable[[int], None], agenda: Agenda
) -> bytes | Parted:
    """As `read_body`, of a body on its way that is JSON as it is, by its head."""
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    if seconds == OFF:
        await request.arrives(hold)
        return request.taken()
    patience = Patience(request, seconds)
    agenda.put(patience, agenda.now() + seconds)
    try:
        await request.arrives(hold)
    finally:
        agenda.strike(patience)
    return request.taken()


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
            if isinstance(content, Body):  # whose head takes a closer look
                await content.arrives(hold)
                return content.read_nowait()
            while data := await content.readany():
                size += len(data)
                if size > limit:
                    raise _too_large(limit)
                hold(len(data))
                parts.append(data)
    except TimeoutError as exc:
        raise _too_late(seconds) from exc
    except (RequestPayloadError, HttpProcessingError) as exc:
        raise errors.InvalidRequest("The request body's framing is broken.") from exc
    return b"".join(parts)


def _check_head(request: Request, limit: int, *, form: bool) -> None:
    if is_encoded(request.headers):
        raise errors.WrongMediaType(
            "Content-Encoding: send the body uncompressed; this gateway does not decode bodies."
        )
    kind = media_type(request.headers)
    if not is_json(kind) and not (form and kind == FORM):
        raise errors.WrongMediaType(f"Content-Type is {kind[:60]!r}; send {FORM if form else 'application/json'}.")
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)


def _too_late(seconds: float) -> errors.BodyTimeout:
    return errors.BodyTimeout(f"The request body did not arrive within {seconds:g} seconds.")


def _too_large(limit: int) -> errors.BodyTooLarge:
    return errors.BodyTooLarge(f"The request body has more than {limit} bytes, the most that is taken here.")


def parse(body: bytes, reads: frozenset[str], document: object = None) -> tuple[Mapping[str, Any], list[Member] | None]:
    """The one parse of a request, unless `document` is what somebody has read of it already; and where its members
    stand, None where it was enough to see that each that we read stands once. Raises InvalidJson, and InvalidRequest
    where one stands twice."""
    try:
        document = json_text.read(body) if document is None else document
    except ValueError as exc:
        raise errors.InvalidJson(f"The body is not valid JSON: {_where(exc, body)}.") from exc
    if not isinstance(document, dict):
        raise errors.InvalidJson(f"The body is an object with a model and what to answer, not {_kind(document)}.")
    if splice.each_once(body, document, read_here(reads)):
        return document, None
    found = splice.members(body)
    if len(found) != len(document):
        twice = sorted(splice.duplicates(found) & read_here(reads))
        if twice:
            raise errors.InvalidRequest(f"{twice[0]} stands twice in the body; send it once.", param=twice[0])
    return document, found


@cache
def read_here(reads: frozenset[str]) -> frozenset[str]:
    """A dialect's members that we read, and our own."""
    return reads | reading.EXTENSIONS


def parse_form(body: bytes, headers: Mapping[str, str]) -> tuple[list[multipart.Field], Mapping[str, Any]] | None:
    """The parts of a form, and what routing reads of them; None where the body is none. Raises InvalidRequest.

    Members of our own have no place in it: they come as headers.
    """
    if media_type(headers) != FORM:
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
    if "tools" in body:
        _check_objects(body["tools"], "tools")
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
        if turn.__class__ is dict and turn.get("role").__class__ is str and turn.get("content").__class__ is str:
            continue  # as nearly all are
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


def read_facts(call: Call) -> Facts:
    """Raises InvalidRequest or MissingModel; looks at members of our own and at the request's shape."""
    body, surface, visitor = call.document, call.surface, call.visitor
    standing = call.permit.standing if call.permit is not None else ANYBODY
    shape = (call.operation or call.dialect).read_shape(body)
    wishes = reading.of_name(body) if not visitor.steers else None
    if wishes is None:
        wishes = _read_wishes(call)
    session = visitor.session
    if session is None and isinstance(body.get("prompt_cache_key"), str):
        session = body["prompt_cache_key"]
    conversation = None
    if surface.endpoint == "chat":
        scope = "\0".join((standing.scope, *wishes.wanted))  # another choice has no claim on the pin
        first_turn = shape.turns[0][:2000] if shape.turns else ""
        conversation = Conversations(scope).key(session, shape.system[:2000], first_turn)
    return Facts(
        surface.name,
        surface.dialect,
        surface.endpoint,
        wishes.wanted,
        shape,
        reading.estimate_tokens(shape, 0 if call.form is not None or call.body.isascii() else wide(call.body)),
        call.stream,
        wishes.sort,
        wishes.partitioned,
        wishes.ceiling,
        wishes.preferences,
        reading.read_industry(body) if "metadata" in body else None,
        wishes.headers if wishes.headers is not None else visitor.headers,
        standing.project,
        conversation,
        session is not None or len(shape.turns) > 1,
        standing.priced_only,
        _asked_apart(call) if call.byok else NOBODY,
        call.locked,
        wishes.default_ceiling,
    )


def _asked_apart(call: Call) -> frozenset[str]:
    """Providers that are asked at another's expense: not those that need no key, whatever key comes for them."""
    providers = call.snapshot.table.providers
    return frozenset(name for name in call.byok if not providers[name].keyless)


def _read_wishes(call: Call) -> Wishes:
    body, prefix, project = call.document, call.prefix.lower(), call.visitor.project
    headers = _outranked(call, prefix)
    default = f"profile:{project.profile}" if project is not None and project.profile else call.surface.default_model
    wanted = reading.read_wanted(body, headers, prefix, default)
    ceiling = reading.read_ceiling(body, headers, prefix)
    sort, sent = reading.read_sort(body, headers, prefix), call.visitor.sent
    default_ceiling = f"{prefix}max-price" in headers and f"{prefix}max-price" not in sent
    if sort is not None and f"{prefix}sort" in headers and f"{prefix}sort" not in sent and _sorts(call, wanted):
        sort = None  # a default, and the request has its own word
    if ceiling is None and project is not None and project.max_price is not None:
        ceiling, default_ceiling = Ceiling(project.max_price), True
    return Wishes(
        wanted,
        sort,
        reading.read_partition(body, headers, prefix),
        ceiling,
        reading.read_preferences(body),
        headers,
        default_ceiling,
    )


def _sorts(call: Call, wanted: tuple[str, ...]) -> bool:
    """Whether one of the entries says by what it is sorted."""
    world = call.snapshot.world
    known = is_known(world.table, world.models.listed)
    return any(directive.parse(entry, known).sort is not None for entry in wanted)


def _outranked(call: Call, prefix: str) -> CIMultiDictProxy[str]:
    """The headers, less those that the caller's project adds where the body has its own word: a client's header wins
    over the body, a default does not."""
    headers, sent, body = call.visitor.headers, call.visitor.sent, call.document
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


def wide(body: bytes) -> int:
    """Bytes beyond one per character."""
    return len(body) - len(body.decode("utf-8", "replace"))
