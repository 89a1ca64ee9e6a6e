"""What goes to a provider: the client's bytes with the model's name spliced in, or the request in another dialect's
words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from proxy import ir
from proxy.dialects import UPSTREAMS, Dialect, Upstream, coherence
from proxy.dialects.dialect import Mend, Operation
from proxy.errors import Unsupported
from proxy.routing.facts import EXTENSIONS, extensions
from proxy.routing.table import Provider
from proxy.routing.world import Pick
from proxy.secret import Secret
from proxy.server import pictures
from proxy.server.call import Call
from proxy.server.upstream import Outgoing
from proxy.wire import json_text, multipart, splice
from proxy.wire.headers import left_behind, request_headers

AGENT = "pointsman"
MOST_HEADS = 256  # different ones that a snapshot keeps
JSON = "application/json"
_VERSION = re.compile(r"/v\d\w*(?:/|$)")
RUN_BY_PATH = frozenset({"model", "stream_options"})  # what has no place in a body whose model stands in the path
HOPS = "x-pointsman-hops"  # ids of the gateways that a request has passed; see LoopDetected


@frozen
class Prepared:
    """`native`: the client speaks the dialect, so bytes pass; else the answer is translated back."""

    outgoing: Outgoing
    dialect: Upstream
    native: bool
    asked_usage: bool = False  # we asked for the usage chunk, the client did not
    dropped: tuple[str, ...] = ()
    byok: bool = False
    operation: Operation | None = None  # None is a conversation
    mend: Mend | None = None  # what this request needs done to a good answer


def choose_dialect(provider: Provider, surface: Dialect) -> Upstream:
    """The surface's own where the provider speaks it, else the provider's first."""
    spoken = [UPSTREAMS[name] for name in provider.dialects]
    return next((dialect for dialect in spoken if dialect.speaks == surface.speaks), spoken[0])


def prepare(call: Call, pick: Pick, key: Secret | None, *, byok: bool, hops: str) -> Prepared:
    """Raises Unsupported where the provider's dialect cannot say what the client asks, InvalidRequest where the request
    cannot be read for translation."""
    snapshot = call.snapshot
    provider = snapshot.table.providers[pick.candidate.provider]
    dialect = choose_dialect(provider, call.dialect)
    native = dialect.speaks == call.dialect.speaks
    runs = dialect.runs_at is not None and dialect.runs_at(provider.base_url)
    if runs and call.surface.operation != "chat":
        raise Unsupported(f"{provider.name} is asked by its own API, which is spoken here for conversations alone.")
    profile = call.plan.profile if call.plan else None
    extra: tuple[tuple[str, str], ...] = ()
    dropped = call.lost
    asked_usage = False
    if native and isinstance(dialect, Dialect):
        asks = dialect.asks_usage is not None and dialect.asks_usage(provider.name)
        asked_usage = asks and call.framed and not call.wants_usage and not runs
        body = _spliced(call, dialect, None if runs else pick.candidate.native, include_usage=asked_usage)
    else:
        encoded = _encoded(call, dialect, pick)
        said = {name: value for name, value in encoded.body.items() if not (runs and name in RUN_BY_PATH)}
        body, extra = json_text.write(said), encoded.headers
        dropped += encoded.dropped + left_behind(call.request.headers.items(), call.dialect.speaks)
    path = dialect.path(call.surface.operation, pick.candidate.native, call.stream)
    outgoing = Outgoing(
        path=f"/{pick.candidate.native}" if runs else behind_base(provider, path),
        headers=_headers(call, provider, dialect, key, native=native, byok=byok, hops=hops, extra=extra),
        body=body,
        timeouts=snapshot.table.timeouts_for(
            provider.name, pick.candidate.model, profile, call.permit.project if call.permit else None
        ),
    )
    return Prepared(outgoing, dialect, native, asked_usage, dropped, byok, *_operation(call, dialect))


async def prepare_fetching(call: Call, pick: Pick, key: Secret | None, *, byok: bool, hops: str) -> Prepared:
    """The same; where the dialect takes a picture's bytes alone and `[fetch]` allows it, they are fetched first. Once
    for a request, whoever of its candidates needs them."""
    settings = call.snapshot.table.fetch
    try:
        return prepare(call, pick, key, byok=byok, hops=hops)
    except Unsupported:
        urls = pictures.urls_in(call.dialect.decode_request(_asked(call, pick))) if settings.pictures else ()
        if not urls or call.pictures is not None:
            raise
        call.pictures = {}
        call.pictures = await pictures.fetched(urls, settings)
    return prepare(call, pick, key, byok=byok, hops=hops)


def _asked(call: Call, pick: Pick) -> Mapping[str, Any]:
    """Less the members that are ours."""
    own = extensions(call.document, call.request.headers)
    document = {name: value for name, value in call.document.items() if name not in own}
    return {"model": pick.candidate.native, **document}


def _operation(call: Call, dialect: Upstream) -> tuple[Operation | None, Mend | None]:
    operation = dialect.operations.get(call.surface.operation) if isinstance(dialect, Dialect) else None
    if operation is None or operation.mend_answer is None:
        return operation, None
    return operation, operation.mend_answer(call.document)


def _spliced(call: Call, dialect: Dialect, native: str | None, *, include_usage: bool) -> bytes:
    """`native` None: the model stands in the path alone."""
    if native is not None and call.form is not None:
        return multipart.replace(call.body, call.form, "model", native)
    key = (native, dialect.mend_request is not None)
    found = call.bodies.get(key)
    if found is None and native is not None and _is_renamed_only(call, dialect, include_usage=include_usage):
        found = splice.renamed(call.body, native)
    if found is None:
        found = _rewritten(call, dialect, native, include_usage=include_usage)
    call.bodies[key] = found
    return found


def _rewritten(call: Call, dialect: Dialect, native: str | None, *, include_usage: bool) -> bytes:
    body, members = call.body, call.members
    if dialect.mend_request is not None and (mended := dialect.mend_request(call.document)) is not None:
        body, members = json_text.write(mended), None
    own = extensions(call.document, call.request.headers)
    drop = (own if native is not None else own | RUN_BY_PATH).intersection(call.document)
    return splice.rewrite(body, members, model=native, drop=drop, include_usage=include_usage)


def _is_renamed_only(call: Call, dialect: Dialect, *, include_usage: bool) -> bool:
    """Whether the model's name is all that differs, and its member known to stand once: nearly every request."""
    return (
        call.once
        and not include_usage
        and dialect.mend_request is None
        and "model" in call.document
        and EXTENSIONS.isdisjoint(call.document)
    )


def _encoded(call: Call, dialect: Upstream, pick: Pick) -> ir.Encoded:
    request = call.dialect.decode_request(_asked(call, pick))
    coherence.check(request)
    if call.pictures:
        request = pictures.with_pictures(request, call.pictures)
    encoded = dialect.encode_request(
        request, ir.Target(pick.candidate.native, pick.candidate.provider, pick.info.max_output)
    )
    if encoded.dropped and call.facts is not None and call.facts.preferences.require_parameters:
        raise Unsupported(
            f"provider.require_parameters is set, and {pick.candidate.provider} has no word for "
            f"{', '.join(encoded.dropped)}.",
            param="provider.require_parameters",
        )
    return encoded


def _headers(
    call: Call,
    provider: Provider,
    dialect: Upstream,
    key: Secret | None,
    *,
    native: bool,
    byok: bool,
    hops: str,
    extra: tuple[tuple[str, str], ...],
) -> tuple[tuple[str, str], ...]:
    """Later ones replace earlier ones: the dialect's defaults, the client's that may pass, the table's, the
    credential."""
    passed = tuple(request_headers(call.headers.items(), dialect.name, native, byok))
    kind = JSON if call.form is None else call.request.headers["Content-Type"]
    accepted, known = _accepted(call), call.snapshot.heads
    same = provider.name, dialect.name, id(key), hops, kind, accepted, passed, extra
    found = None if byok else known.get(same)
    if found is None:
        found = _merged(provider, dialect, key, (*passed, *extra, ("Content-Type", kind), ("Accept", accepted)), hops)
        if not byok:
            if len(known) >= MOST_HEADS:
                known.clear()
            known[same] = found
    return found


def _merged(
    provider: Provider, dialect: Upstream, key: Secret | None, own: tuple[tuple[str, str], ...], hops: str
) -> tuple[tuple[str, str], ...]:
    merged: dict[str, tuple[str, str]] = {}
    for name, value in (
        *dialect.fixed_headers,
        *own,
        ("Accept-Encoding", "identity"),
        ("User-Agent", AGENT),
        (HOPS, hops),
        *((name, secret.reveal()) for name, secret in provider.headers.items()),
        *(dialect.credential(key.reveal()) if key is not None else ()),
    ):
        merged[name.lower()] = (name, value)
    return tuple(merged.values())


def _accepted(call: Call) -> str:
    if call.stream:
        return "text/event-stream"
    return "*/*" if call.operation is not None and call.operation.opaque else JSON


def behind_base(provider: Provider, path: str) -> str:
    """Vendors' SDKs differ in whether the base URL ends in /v1; local servers are named either way. One /v1, not
    two. The same for Ollama's /api and for Gemini's /v1beta, which Vertex AI has in the middle, and by another name."""
    base = provider.base_url
    ends = base.endswith("/v1")
    if path.startswith("/v1/") and ends:
        return path.removeprefix("/v1")
    if path.startswith("/v1beta/") and _VERSION.search(base):
        return path.removeprefix("/v1beta")
    if path.startswith("/api/") and base.endswith("/api"):
        return path.removeprefix("/api")
    if provider.local and not ends and not path.startswith(("/v1/", "/v1beta/", "/api/")):
        return f"/v1{path}"
    return path
