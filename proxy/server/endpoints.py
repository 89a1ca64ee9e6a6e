"""The data listener's paths: every surface by name, the catalog, the dry run, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp.web_response import Response, StreamResponse

from proxy.accounts.keys import ALL_SURFACES, CHAT_SURFACES
from proxy.accounts.permit import Permit
from proxy.errors import GatewayError, InvalidRequest
from proxy.record import frozen
from proxy.routing.facts import MOST_ENTRIES
from proxy.server import intake
from proxy.server.call import Call, Surface
from proxy.server.clients.inbound import PlainRequest, Request
from proxy.server.clients.listener import Handler, Paths, dialect_of, json_response, refusal
from proxy.server.clients.ordinary import Ways
from proxy.server.clients.visitor import FORM, media_type, visitor_of
from proxy.server.express.ride import Ride
from proxy.server.gateway import Gateway
from proxy.server.identity import request_id
from proxy.server.ledger import Decision
from proxy.server.listing import Viewer, list_models, show_model
from proxy.server.ratelimits import headers_of
from proxy.server.recognition import path_of
from proxy.server.respond import SERVER, plan_headers

CHAT = Surface("chat", "openai-chat")
AI_CHAT = Surface("chat", "openai-chat", default_model="meta-llm")
MESSAGES = Surface("messages", "anthropic")
RESPONSES = Surface("responses", "openai-responses")
COUNT_TOKENS = Surface("count_tokens", "anthropic", operation="count_tokens")


def _passing(name: str, operation: str = "", *, form: bool = False, default_model: str | None = None) -> Surface:
    """Of OpenAI's words, and served by nobody else: its bytes pass."""
    return Surface(name, "openai-chat", name, operation or name, form, default_model)


Permitted = Callable[[PlainRequest, Permit], Awaitable[StreamResponse]]
EMBEDDINGS = _passing("embeddings")
SURFACES = {
    "/v1/chat/completions": CHAT,
    "/ai/chat": AI_CHAT,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/responses": RESPONSES,
    "/v1/completions": _passing("completions"),
    "/v1/embeddings": EMBEDDINGS,
    "/ai/embeddings": EMBEDDINGS,
    "/v1/images/generations": _passing("images", "images/generations"),
    "/v1/images/edits": _passing("images", "images/edits", form=True),
    "/v1/images/variations": _passing("images", "images/variations", form=True),
    "/v1/audio/transcriptions": _passing("audio", "audio/transcriptions", form=True),
    "/v1/audio/translations": _passing("audio", "audio/translations", form=True),
    "/v1/audio/speech": _passing("audio", "audio/speech"),
    "/v1/moderations": _passing("moderations", default_model="omni-moderation-latest"),  # OpenAI's own default
    "/v1/rerank": _passing("rerank"),
}
BY_NAME = {surface.name: surface for surface in reversed(SURFACES.values())}  # of several paths the first


def data_paths(gateway: Gateway) -> Paths:
    return {
        **{path: {"POST": _serve(gateway, surface)} for path, surface in SURFACES.items()},
        "/v1/models": {"GET": _admitted(gateway, _list(gateway))},
        "/ai/models": {"GET": _admitted(gateway, _list(gateway))},
        "/v1/models/*": {"GET": _admitted(gateway, _show(gateway))},
        "/v1/route": {"POST": _admitted(gateway, _route(gateway), ALL_SURFACES)},
        "/": {"HEAD": _here},
        "/api/hello": {"HEAD": _here},
        **health_paths(gateway),
    }


def health_paths(gateway: Gateway) -> Paths:
    """Of both listeners. Ready while a table serves; that the ledger takes no rows is told, and a provider that is down
    is no reason to be taken out."""

    async def alive(request: PlainRequest) -> StreamResponse:
        return json_response({"status": "ok"})

    async def ready(request: PlainRequest) -> StreamResponse:
        ledger = "stalled" if gateway.ledger.stalled else "ok"
        return json_response({"status": "ok", "config": gateway.current.table.revision, "ledger": ledger})

    return {"/healthz": {"GET": alive}, "/health": {"GET": alive}, "/readyz": {"GET": ready}}


def ordinary_paths(gateway: Gateway) -> Ways:
    """Of `data_paths` those where ordinary requests are served lean."""
    return {path: _Lean(gateway, surface) for path, surface in SURFACES.items()}


async def _here(_: PlainRequest) -> StreamResponse:
    """What Claude Code asks to warm its connection up. Tells nothing, and so wants no key."""
    return Response(headers={"Server": SERVER})


@frozen
class _Lean:
    """See `clients.ordinary.Way`."""

    gateway: Gateway
    surface: Surface

    def board(self, request: Request) -> Ride | None:
        return self.gateway.express.board(request, self.surface)

    def serve(self, request: Request) -> Awaitable[StreamResponse]:
        return self.gateway.serve(request, self.surface)


def _serve(gateway: Gateway, surface: Surface) -> Callable[[Request], Awaitable[StreamResponse]]:
    return lambda request: gateway.serve(request, surface)


def _admitted(gateway: Gateway, handler: Permitted, scopes: frozenset[str] = CHAT_SURFACES) -> Handler:
    """Behind the same gate as inference; errors in the words of whoever asks."""

    async def admitted(request: PlainRequest) -> StreamResponse:
        permit = None
        try:
            visitor = visitor_of(request, gateway.current)
            permit = intake.admit(request, visitor, gateway.current.gate, int(gateway.now() * 1000), scopes)
            visitor.check_hops(gateway.relay.instance)  # one that discovers its own models never ends
            response = await handler(request, permit)
        except GatewayError as error:
            response = refusal(request, error)
        if permit is not None and permit.standing.meters:
            limits = headers_of(permit.standing.meters, dialect_of(request), gateway.clock(), gateway.now())
            response.headers.extend(limits)
        return response

    return admitted


def _list(gateway: Gateway) -> Permitted:
    async def listed(request: PlainRequest, permit: Permit) -> StreamResponse:
        return list_models(gateway.current, request, gateway.clock(), _viewer(gateway, request, permit))

    return listed


def _show(gateway: Gateway) -> Permitted:
    async def shown(request: PlainRequest, permit: Permit) -> StreamResponse:
        return show_model(gateway.current, request, gateway.clock(), _viewer(gateway, request, permit))

    return shown


def _viewer(gateway: Gateway, request: PlainRequest, permit: Permit) -> Viewer:
    project = permit.project
    brought = visitor_of(request, gateway.current).byok.keys()
    locked = gateway.own.locked(project)
    return Viewer(project, brought | gateway.own.of(project).keys(), locked - brought if brought else locked)


def _route(gateway: Gateway) -> Permitted:
    """Dry run: the plan that this body would get, and nobody is called. `?surface=` names whose body it is; without it
    the body's own members tell."""

    async def route(request: PlainRequest, permit: Permit) -> StreamResponse:
        snapshot = gateway.current
        named, server = _named(request), snapshot.table.server
        form = named is not None and named.form
        body = await intake.read_body(request, server.max_body, server.body_timeout, form=form)
        surface = named or _recognised(intake.parse(body, frozenset())[0], request.headers, snapshot.table.aliases)
        identity = request_id()
        decision = Decision(request_id=identity, at_ms=int(gateway.now() * 1000), surface=surface.name)
        visitor = visitor_of(request, snapshot)
        visitor.belongs_to(permit.standing, snapshot.table)
        call = Call(surface, request, visitor, identity, snapshot, decision)
        call.permit, call.body = permit, body
        plan = gateway.plan(call)
        document = {"surface": surface.name, **plan.as_json()}
        if plan.refusal is not None:
            document["error"] = {"code": plan.refusal.code, "message": plan.refusal.message}
        response = json_response(document)
        response.headers.extend(
            plan_headers(call.prefix, plan, answered="none", provider="none", attempts=0, fallback=False)
        )
        return response

    return route


def _named(request: PlainRequest) -> Surface | None:
    """The surface of `?surface=`; of several paths one that takes the body's form. Raises InvalidRequest."""
    name = request.query.get("surface")
    if name is None:
        return None
    if name not in BY_NAME:
        raise InvalidRequest(f"No surface has the name {name[:40]!r}; known are {', '.join(BY_NAME)}.", param="surface")
    form = media_type(request.headers) == FORM
    return next((it for it in SURFACES.values() if it.name == name and it.form == form), BY_NAME[name])


def _recognised(
    document: Mapping[str, Any], headers: Mapping[str, str], aliases: Mapping[str, Sequence[str]]
) -> Surface:
    more = document.get("models")
    asked = [document.get("model"), *(more[:MOST_ENTRIES] if isinstance(more, list) else ())]
    names = [name for name in asked if isinstance(name, str)]
    return SURFACES[
        path_of(document, headers, [*names, *(target for name in names for target in aliases.get(name, ()))])
    ]
